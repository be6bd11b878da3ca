"""Rows of token ids on disk, four bytes an id: those of ten million responses take more memory than the model that they train."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import overload

from icr_platform.core.disk_rows import DiskRows


class TokenRows(Sequence[list[int]]):
    """Lists of token ids, read when they are asked for; see `DiskRows`.

    >>> rows = TokenRows([[5, 6, 7], [], [8]])
    >>> rows.append([9, 10])
    >>> len(rows), rows[0], rows[-1], rows[1:3], rows == [[5, 6, 7], [], [8], [9, 10]]
    (4, [5, 6, 7], [9, 10], [[], [8]], True)
    """

    def __init__(self, rows: Iterable[Sequence[int]] = (), folder: Path | None = None) -> None:
        self._rows = DiskRows(folder)
        for row in rows:
            self.append(row)

    def append(self, row: Sequence[int]) -> None:
        self._rows.append(array("i", row).tobytes())

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, place: int) -> list[int]: ...

    @overload
    def __getitem__(self, place: slice) -> list[list[int]]: ...

    def __getitem__(self, place: int | slice) -> list[int] | list[list[int]]:
        if isinstance(place, slice):
            return [self[row] for row in range(*place.indices(len(self)))]
        row = range(len(self))[place]  # which counts negative places from the end, and raises beyond it
        return array("i", self._rows[row]).tolist()

    def __iter__(self) -> Iterator[list[int]]:
        return (self[row] for row in range(len(self)))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence) or len(self) != len(other):
            return False
        return all(own == list(theirs) for own, theirs in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]  # it grows
