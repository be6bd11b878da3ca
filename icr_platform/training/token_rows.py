"""Rows of token ids on disk, four bytes an id: those of ten million responses take more memory than the model that they train."""

from __future__ import annotations

import os
import tempfile
from array import array
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import overload


class TokenRows(Sequence[list[int]]):
    """Lists of token ids, read when they are asked for; memory keeps only where each of them ends.

    The file has no name: it is gone with the rows, or with the process, whatever kills that.

    >>> rows = TokenRows([[5, 6, 7], [], [8]])
    >>> rows.append([9, 10])
    >>> len(rows), rows[0], rows[-1], rows[1:3], rows == [[5, 6, 7], [], [8], [9, 10]]
    (4, [5, 6, 7], [9, 10], [[], [8]], True)
    """

    def __init__(self, rows: Iterable[Sequence[int]] = (), folder: Path | None = None) -> None:
        """folder: on whose disk the ids lie; None: where temporary files do."""
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - closed with the rows
        self._ends = array("q", [0])
        for row in rows:
            self.append(row)

    def append(self, row: Sequence[int]) -> None:
        self._file.write(array("i", row))
        self._ends.append(self._ends[-1] + len(row))

    def __len__(self) -> int:
        return len(self._ends) - 1

    @overload
    def __getitem__(self, place: int) -> list[int]: ...

    @overload
    def __getitem__(self, place: slice) -> list[list[int]]: ...

    def __getitem__(self, place: int | slice) -> list[int] | list[list[int]]:
        if isinstance(place, slice):
            return [self[row] for row in range(*place.indices(len(self)))]
        row = range(len(self))[place]  # which counts negative places from the end, and raises beyond it
        first, end = self._ends[row], self._ends[row + 1]
        self._file.flush()
        ids = array("i")
        # By position, not by mapping the file: pages that are mapped count as the process's memory.
        ids.frombytes(os.pread(self._file.fileno(), ids.itemsize * (end - first), ids.itemsize * first))
        return ids.tolist()

    def __iter__(self) -> Iterator[list[int]]:
        return (self[row] for row in range(len(self)))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence) or len(self) != len(other):
            return False
        return all(own == list(theirs) for own, theirs in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]  # it grows
