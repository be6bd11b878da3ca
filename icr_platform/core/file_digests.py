"""Digests of files, each computed once: remembered on disk by path, size, times and inode, for all processes of a user.

A file that changed in any way a file system notices is read again. What cannot be remembered (no such folder, a full disk, a
damaged file) costs time and changes nothing.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import sqlite3
import tempfile
import time
from collections.abc import Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import NamedTuple

from icr_platform.core.errors import InputError

_RECENT = 2.0  # seconds: within the resolution of a file system's clock, a second edit leaves the same times
_KEPT = 200_000  # files
_WAIT = 10.0  # seconds, for another process that writes
_TROUBLE = (sqlite3.Error, OSError, UnicodeError)  # of remembering; a file's name need not be text


class _Stamp(NamedTuple):
    """What a file system says of a file. The change time also moves where the modification time was set back."""

    size: int
    modified_ns: int
    changed_ns: int
    inode: int


class _Folder(NamedTuple):
    """A folder whose files are looked at together. fresh: what is to be remembered of them."""

    root: str
    fresh: dict[str, tuple[_Stamp, str]]


_in_process: dict[str, tuple[_Stamp, str]] = {}
_together: ContextVar[_Folder | None] = ContextVar("_together", default=None)


def user_cache() -> Path:
    """Folder of what may be computed again: ICR_CACHE, or `icr` below XDG_CACHE_HOME or ~/.cache."""
    named = os.environ.get("ICR_CACHE")
    if named:
        return Path(named)
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "icr"
    except RuntimeError:  # a container whose user has neither HOME nor an entry in /etc/passwd
        return Path(tempfile.gettempdir()) / f"icr-{os.getuid()}"


def remembered_digest(path: Path) -> str:
    """Hex sha256 of a file's bytes, read only when the file is new or has changed since.

    Raises:
        InputError: the file cannot be read.
    """
    try:
        key, stamp = os.path.realpath(path), _stamp(path)
        known = _in_process.get(key) or _recall(key)
        if known is None or known[0] != stamp:
            with path.open("rb") as file:
                known = stamp, hashlib.file_digest(file, "sha256").hexdigest()
            # A file that is still being written must not be remembered by a digest of half of it.
            if _stamp(path) == stamp and not _is_recent(stamp):
                _remember({key: known})
    except OSError as error:
        raise InputError(f"{path}: not readable ({error.strerror or error}); copy or write the file again") from error
    if not _is_recent(known[0]):
        _in_process[key] = known
    return known[1]


@contextlib.contextmanager
def digests_together(folder: Path) -> Iterator[None]:
    """Within, recall at once what is remembered of a folder's files, and remember what is new at the end.

    To open the table for each file takes longer than to look at the file.
    """
    root = os.path.join(os.path.realpath(folder), "")
    with contextlib.suppress(*_TROUBLE), _database() as database:
        behind = root[:-1] + chr(ord(os.sep) + 1)
        query = "SELECT path, size, modified, changed, inode, digest FROM files WHERE path > ? AND path < ?"
        for key, *stamp, digest in database.execute(query, (root, behind)):
            _in_process.setdefault(key, (_Stamp(*stamp), digest))
    seen = _Folder(root, {})
    token = _together.set(seen)
    try:
        yield
    finally:
        _together.reset(token)
        if seen.fresh:
            _remember(seen.fresh)


def _stamp(path: Path) -> _Stamp:
    seen = path.stat()
    return _Stamp(seen.st_size, seen.st_mtime_ns, seen.st_ctime_ns, seen.st_ino)


def _is_recent(stamp: _Stamp) -> bool:
    return abs(time.time() - max(stamp.modified_ns, stamp.changed_ns) / 1e9) < _RECENT


def _recall(key: str) -> tuple[_Stamp, str] | None:
    if (together := _together.get()) is not None and key.startswith(together.root):
        return None  # what is known of its files was recalled
    with contextlib.suppress(*_TROUBLE), _database() as database:
        row = database.execute("SELECT size, modified, changed, inode, digest FROM files WHERE path = ?", (key,))
        for *stamp, digest in row:
            return _Stamp(*stamp), digest
    return None


def _remember(found: dict[str, tuple[_Stamp, str]]) -> None:
    if (together := _together.get()) is not None:
        together.fresh.update(found)
        return
    rows = [(key, *stamp, digest) for key, (stamp, digest) in found.items()]
    with contextlib.suppress(*_TROUBLE), _database() as database:
        database.execute("BEGIN IMMEDIATE")
        database.executemany("INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?, ?, ?)", rows)
        # Most runs write new paths; those seen longest ago go.
        database.execute("DELETE FROM files WHERE rowid <= (SELECT MAX(rowid) FROM files) - ?", (_KEPT,))
        database.execute("COMMIT")


@contextlib.contextmanager
def _database() -> Iterator[sqlite3.Connection]:
    """The table of digests. A connection a use: forked and spawned processes share the file, never a connection."""
    folder = user_cache()
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.closing(
        sqlite3.connect(folder / "digests.sqlite", timeout=_WAIT, isolation_level=None)
    ) as database:
        database.execute("PRAGMA synchronous=OFF")  # a lost entry is computed again
        database.execute(
            "CREATE TABLE IF NOT EXISTS files "
            "(path TEXT PRIMARY KEY, size INTEGER, modified INTEGER, changed INTEGER, inode INTEGER, digest TEXT)"
        )
        yield database
