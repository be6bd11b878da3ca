"""Progress of a long stage: a bar on a terminal that stays when it is full, a line every ten seconds elsewhere (logs, clusters)."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from icr_platform.core.spending import Use, spend

_LINE_EVERY = 10.0


class Measured(NamedTuple):
    """What a meter counted: rows and tokens that were made, not found finished, and the seconds that they took."""

    label: str
    rows: int
    tokens: int
    seconds: float


_records: list[list[Measured]] = []


class Meter:
    """Counts rows and tokens done. `advance` is cheap enough to call per batch."""

    def __init__(
        self, label: str, total: int, done: int, bar: Progress | None, task: TaskID | None, use: Use | None = None
    ) -> None:
        self.label, self.total, self.done, self.tokens, self._use = label, total, done, 0, use
        self._resumed = done
        self._bar, self._task = bar, task
        self._start = self._printed = time.monotonic()

    def advance(self, rows: int, tokens: int = 0) -> None:
        """Count `rows` more rows and `tokens` more tokens as done."""
        self.done += rows
        self.tokens += tokens
        if self._use is not None:
            spend(self._use, tokens)
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=self.done, rate=self._rate())
        elif time.monotonic() - self._printed >= _LINE_EVERY:
            self._print()

    def finish(self) -> None:
        """Count everything as done, and show it, unless it went too fast for anything to be shown before."""
        self.done = self.total
        tell([Measured(self.label, self.total - self._resumed, self.tokens, time.monotonic() - self._start)])
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=self.done, rate=self._rate())
        elif self._printed > self._start:
            self._print()

    def _print(self) -> None:
        self._printed = time.monotonic()
        print(self.line(), file=sys.stderr, flush=True)

    def _rate(self) -> str:
        seconds = max(time.monotonic() - self._start, 1e-9)
        return f"{self.tokens / seconds:,.0f} tokens/s" if self.tokens else ""

    def line(self) -> str:
        """One line for logs: label, rows, tokens/s, and the time left, or taken once all is done."""
        seconds = time.monotonic() - self._start
        fresh = self.done - self._resumed
        left = seconds / fresh * (self.total - self.done) if fresh else 0.0
        end = f"{left:.0f} s left" if self.done < self.total else f"done in {seconds:.0f} s"
        return ", ".join(part for part in (f"{self.label}: {self.done}/{self.total}", self._rate(), end) if part)


@contextlib.contextmanager
def recorded() -> Iterator[list[Measured]]:
    """Collect what the meters that finish within the block have counted, in their order.

    >>> with recorded() as measured, meter("score", 2) as m:
    ...     m.advance(2, tokens=10)
    >>> measured[0][:3]
    ('score', 2, 10)
    """
    measured: list[Measured] = []
    _records.append(measured)
    try:
        yield measured
    finally:
        _records[:] = [record for record in _records if record is not measured]


def tell(measured: Iterable[Measured]) -> None:
    """Hand over what meters have counted, in this process or in one that works for it."""
    found = list(measured)
    for record in _records:
        record.extend(found)


@contextlib.contextmanager
def meter(label: str, total: int, done: int = 0, use: Use | None = None) -> Iterator[Meter]:
    """Show progress of `total` rows, `done` of which were finished by an earlier run; full once the block ends without an error.

    use: what its tokens are spent on; None where they cost nothing of their own.

    >>> with meter("score", 2) as m:
    ...     m.advance(2, tokens=10)
    """
    console = Console(stderr=True)
    if not console.is_terminal:
        lines = Meter(label, total, done, None, None, use)
        yield lines
        lines.finish()
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:.0f}/{task.total:.0f}"),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as bar:
        task = bar.add_task(label, total=total, completed=done, rate="")
        shown = Meter(label, total, done, bar, task, use)
        yield shown
        shown.finish()
