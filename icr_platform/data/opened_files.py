"""Files that people bring, opened as text: any compression, any Unicode encoding that says what it is, and never more than fits in memory.

What a file is called says little: a `.gz` may have been unpacked by a browser and a `.jsonl` may be gzip. Its first bytes decide.
"""

from __future__ import annotations

import bz2
import codecs
import contextlib
import errno
import gzip
import io
import lzma
import os
import stat
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TextIO

import pyarrow as pa

from icr_platform.core.errors import InputError

LONGEST_LINE = 2**24
"""Characters of a line, a value or a field: four million tokens of text."""
_MOST_EMPTY_LINES = 1_000_000  # in a row
_HEAD = 4096
EXPANDS = 300
"""Times its size that a packed file may have: text shrinks to a third or a tenth, and what is made to fill a disk to a thousandth."""
SURELY_FINE = 2**26
"""Bytes that any packed file may have."""
_CHUNK = 2**16
_PACKED: dict[bytes, Callable[[Path], Any]] = {
    b"\x1f\x8b": gzip.GzipFile,
    b"BZh": bz2.BZ2File,
    b"\xfd7zXZ\x00": lzma.LZMAFile,
    b"\x28\xb5\x2f\xfd": lambda path: pa.CompressedInputStream(pa.OSFile(str(path)), "zstd"),
    b"\x04\x22\x4d\x18": lambda path: pa.CompressedInputStream(pa.OSFile(str(path)), "lz4"),
}
_NO_ROWS = {
    b"PK\x03\x04": "is a zip archive or an Excel file; unpack it, or save it as CSV",
    b"version https://git-lfs": "is a git-lfs pointer, not the file itself; run `git lfs pull` where it comes from",
    b"%PDF": "is a PDF; give the data as JSON, CSV or Parquet",
    b"SQLite format 3": "is a database; export its rows as JSON, CSV or Parquet",
    b"ARROW1": "is an Arrow file; give the folder that `save_to_disk` wrote, or save it as Parquet",
}  # fmt: skip
# UTF-32 first: its mark begins with that of UTF-16.
_MARKS = ((codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))  # fmt: skip
_DAMAGED = (EOFError, gzip.BadGzipFile, zlib.error, lzma.LZMAError, pa.ArrowException)


def check_is_file(path: Path) -> int:
    """Size of a regular file in bytes; a pipe or a device would be waited for without end.

    Raises:
        InputError: it is not there, cannot be looked at, or is not a regular file.
    """
    try:
        found = path.stat()
    except OSError as error:
        if path.is_symlink() and error.errno == errno.ENOENT:
            raise InputError(f"{path}: links to {os.readlink(path)}, which does not exist; copy the file") from error
        reason = "a link in a circle" if error.errno == errno.ELOOP else error.strerror
        raise InputError(f"{path}: not readable ({reason}); check the path") from error
    if stat.S_ISDIR(found.st_mode):
        raise InputError(f"{path}: is a folder, not a file; give a file in it")
    if not stat.S_ISREG(found.st_mode):
        raise InputError(f"{path}: is a pipe or a device; save what it gives to a file first")
    return found.st_size


def first_bytes(path: Path) -> bytes:
    """The beginning of a regular file; raises InputError where it is empty, cannot be read, or cannot contain rows."""
    size = check_is_file(path)
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD)
    except OSError as error:
        raise InputError(f"{path}: not readable ({error.strerror}); check the path and its permissions") from error
    if not size or not head:
        raise InputError(f"{path}: is empty (0 bytes); write or copy the file again")
    for mark, what in _NO_ROWS.items():
        if head.startswith(mark):
            raise InputError(f"{path}: {what}")
    return head


@contextlib.contextmanager
def open_text(path: Path, newline: str | None = None) -> Iterator[TextIO]:
    """The text of a file, unpacked and decoded: UTF-8, or UTF-16 and UTF-32 with their mark.

    Args:
        newline: as in `open`: None makes every line end one `\\n`, and "" leaves them.

    Raises:
        InputError: also while it is read: damaged, cut off, not Unicode, a web page, or a packed file that expands without end.
    """
    head = first_bytes(path)
    try:
        stream = _unpacked(path, head)
        opened = io.BufferedReader(stream, _CHUNK)
        beginning = opened.peek(_HEAD)[:_HEAD]
        encoding = _encoding(path, beginning)
        text = io.TextIOWrapper(opened, encoding, errors="strict", newline=newline)
        with text:
            yield text
    except UnicodeDecodeError as error:
        raise not_unicode(path, 0, error) from error
    except _DAMAGED as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{path}: is damaged or cut off ({reason}); copy or download it again") from error
    except OSError as error:
        reason = error.strerror or " ".join(str(error).split())
        raise InputError(f"{path}: not readable ({reason}); copy or download it again") from error


def lines(path: Path, newline: str | None = None) -> Iterator[tuple[int, str]]:
    """The lines of a file with their numbers from 1, none of them longer than LONGEST_LINE; raises InputError like `open_text`.

    A mark of the byte order may begin any line: files that have one are joined by `cat`.
    """
    number = empty = 0
    with open_text(path, newline) as text:
        try:
            while line := text.readline(LONGEST_LINE + 1):
                number += 1
                empty = empty + 1 if line.isspace() else 0
                if len(line) > LONGEST_LINE:
                    raise too_long(path, f"line {number}")
                if empty > _MOST_EMPTY_LINES:
                    raise InputError(
                        f"{path}: line {number} is the millionth empty one in a row; look at the file, and remove them"
                    )
                yield number, line.removeprefix("\ufeff")
        except UnicodeDecodeError as error:
            raise not_unicode(path, number, error) from error


def too_long(path: Path, where: str) -> InputError:
    return InputError(
        f"{path}: {where} is longer than {LONGEST_LINE / 2**20:.0f} million characters, which no row has; give one object a line in JSON Lines"
    )


def not_unicode(path: Path, lines_before: int, error: UnicodeDecodeError) -> InputError:
    """What to say about bytes that are not text in the file's encoding, after so many whole lines."""
    line = lines_before + 1 + bytes(error.object)[: error.start].count(b"\n")
    if error.encoding != "utf-8":
        return InputError(
            f"{path}: line {line} is not {error.encoding.upper()} ({error.reason}); save the file as UTF-8"
        )
    return InputError(
        f"{path}: line {line} is not UTF-8 ({error.reason}); save the file as UTF-8, for instance with "
        f"`iconv -f WINDOWS-1252 -t UTF-8` if Windows wrote it"
    )


def _encoding(path: Path, beginning: bytes) -> str:
    for mark, encoding in _MARKS:
        if beginning.startswith(mark):
            return encoding
    start = beginning.removeprefix(codecs.BOM_UTF8).lstrip()
    if start[:1] == b"<":
        raise InputError(
            f"{path}: is a web page or XML, such as that of a login or an error, not data; download the file itself again"
        )
    if b"\0" in start:
        raise InputError(
            f"{path}: contains bytes of value 0: it is binary, or UTF-16 without a byte order mark; give JSON, CSV or Parquet in UTF-8"
        )
    return "utf-8-sig" if beginning.startswith(codecs.BOM_UTF8) else "utf-8"


def _unpacked(path: Path, head: bytes) -> io.RawIOBase:
    unpack = next((unpack for mark, unpack in _PACKED.items() if head.startswith(mark)), None)
    return io.FileIO(path) if unpack is None else _Expanding(path, unpack(path))


class _Expanding(io.RawIOBase):
    """Bytes of an unpacked file, as many as a file of rows may have for its size."""

    def __init__(self, path: Path, stream: Any) -> None:
        self._path, self._stream = path, stream
        self._most = max(SURELY_FINE, EXPANDS * path.stat().st_size)
        self._given = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._stream.read(len(buffer))
        self._given += len(data)
        if self._given > self._most:
            raise InputError(
                f"{self._path}: unpacks to more than {EXPANDS} times its size, as no text does; unpack it and look at it"
            )
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        self._stream.close()
        super().close()
