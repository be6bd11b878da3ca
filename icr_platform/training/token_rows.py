"""Rows of token ids in four bytes an id, where Python's numbers in lists take nine times as much."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import overload

import pyarrow as pa


class TokenRows(Sequence[list[int]]):
    """Lists of token ids, made when they are asked for.

    >>> rows = TokenRows([[5, 6, 7], [], [8]])
    >>> rows.append([9, 10])
    >>> len(rows), rows[0], rows[-1], list(rows[1:3]), rows == [[5, 6, 7], [], [8], [9, 10]]
    (4, [5, 6, 7], [9, 10], [[], [8]], True)
    >>> rows.arrow.to_pylist()
    [[5, 6, 7], [], [8], [9, 10]]
    """

    def __init__(self, rows: Iterable[Sequence[int]] = ()) -> None:
        self._ids, self._ends = array("i"), array("q", [0])
        for row in rows:
            self.append(row)

    def append(self, row: Sequence[int]) -> None:
        self._ids.extend(row)
        self._ends.append(len(self._ids))

    @property
    def arrow(self) -> pa.Array:
        """The rows as an array of Arrow, which shares their memory."""
        ends, ids = (pa.py_buffer(memoryview(numbers)) for numbers in (self._ends, self._ids))
        return pa.LargeListArray.from_arrays(
            pa.Array.from_buffers(pa.int64(), len(self._ends), [None, ends]),
            pa.Array.from_buffers(pa.int32(), len(self._ids), [None, ids]),
        )

    def __len__(self) -> int:
        return len(self._ends) - 1

    @overload
    def __getitem__(self, place: int) -> list[int]: ...

    @overload
    def __getitem__(self, place: slice) -> TokenRows: ...

    def __getitem__(self, place: int | slice) -> list[int] | TokenRows:
        if isinstance(place, slice):
            return TokenRows(self[row] for row in range(*place.indices(len(self))))
        row = range(len(self))[place]  # which counts negative places from the end, and raises beyond it
        return self._ids[self._ends[row] : self._ends[row + 1]].tolist()

    def __iter__(self) -> Iterator[list[int]]:
        return (self[row] for row in range(len(self)))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence) or len(self) != len(other):
            return False
        return all(own == list(theirs) for own, theirs in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]  # it grows
