"""Rows of a source that cannot be used: left out and counted while they are few, and an error where they are many."""

from __future__ import annotations

from collections import Counter

from icr_platform.core.errors import InputError

MOST_LEFT_OUT = 0.1
"""Share of rows that may be unusable; a file with more is refused, since it is probably not what it is taken for."""
_NAMED_IN_A_NOTE = 3


class BadRows:
    """Counts what is wrong with the rows of `source`, and where it was seen first."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._faults: Counter[str] = Counter()
        self._first: dict[str, str] = {}

    def add(self, fault: str, where: str) -> None:
        """Count a row. where: its file and number."""
        self._faults[fault] += 1
        self._first.setdefault(fault, where)

    @property
    def count(self) -> int:
        """How many rows there are."""
        return self._faults.total()

    def require_few(self, rows: int) -> None:
        """Raise InputError, naming the first one, where they are more than MOST_LEFT_OUT of `rows`."""
        if self.count > MOST_LEFT_OUT * rows:
            first = next(iter(self._first))
            count = f"; {self.count:,} of {rows:,} rows cannot be used" if self.count > 1 else ""
            raise InputError(f"{self._first[first]}: {first}{count}")

    def notes(self, rows: int) -> list[str]:
        """A line on those that were left out of `rows`, if there are any."""
        if not self.count:
            return []
        faults = [
            f"{count:,} because {fault} (first: {self._first[fault]})"
            for fault, count in self._faults.most_common(_NAMED_IN_A_NOTE)
        ]
        return [f"{self._source}: {self.count:,} of {rows:,} rows were left out: {'; '.join(faults)}"]
