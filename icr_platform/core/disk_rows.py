"""Data that takes more memory than there is: rows of bytes on disk, and what is known of prompts."""

from __future__ import annotations

import os
import pickle
import sys
import tempfile
from array import array
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, TypeVar

V = TypeVar("V")


class DiskRows:
    """Rows of bytes, read when they are asked for; memory keeps only where each of them ends.

    The file has no name: it is gone with the rows, or with the process, whatever kills that.

    >>> rows = DiskRows()
    >>> rows.append(b"one"); rows.append(b""); rows.append(b"three")
    >>> len(rows), rows[0], rows[1], rows[2]
    (3, b'one', b'', b'three')
    """

    def __init__(self, folder: Path | None = None) -> None:
        """folder: on whose disk the rows lie; None: where temporary files do."""
        self._folder = folder
        self._file: IO[bytes] | None = None
        self._ends = array("q", [0])

    def append(self, row: bytes) -> None:
        if self._file is None:
            self._file = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115 - closed with the rows
        self._file.write(row)
        self._ends.append(self._ends[-1] + len(row))

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, row: int) -> bytes:
        """row: counted from the first, 0."""
        first, end = self._ends[row], self._ends[row + 1]
        assert self._file is not None  # there is a row
        self._file.flush()
        # By position, not by mapping the file: pages that are mapped count as the process's memory.
        return os.pread(self._file.fileno(), end - first, first)


class OfPrompts(Mapping[tuple[str, str], V]):
    """Values by language and prompt id, on disk, each of them read when it is asked for.

    >>> texts = OfPrompts()
    >>> texts["es", "p0"] = ("Hola.", "Buenas.")
    >>> texts["es", "p0"], texts.get(("es", "p1")), list(texts)
    (('Hola.', 'Buenas.'), None, [('es', 'p0')])
    """

    def __init__(self) -> None:
        self._rows = DiskRows()
        self._places: dict[str, dict[str, int]] = {}

    def __setitem__(self, key: tuple[str, str], value: V) -> None:
        language, prompt_id = key
        # Languages share their prompts' ids.
        self._places.setdefault(language, {})[sys.intern(prompt_id)] = len(self._rows)
        self._rows.append(pickle.dumps(value))

    def __getitem__(self, key: tuple[str, str]) -> V:
        language, prompt_id = key
        value: V = pickle.loads(self._rows[self._places[language][prompt_id]])
        return value

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return ((language, prompt_id) for language, places in self._places.items() for prompt_id in places)

    def __len__(self) -> int:
        return sum(map(len, self._places.values()))
