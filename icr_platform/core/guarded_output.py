"""Standard output and error, in which no secret is printed, whoever prints: this package, a library's warning or log, a traceback."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO

from icr_platform.core.secrets import redact


class _Guarded:
    """A text stream that redacts what is written to it, and otherwise is the stream it wraps."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        self._stream.write(redact(text))
        return len(text)  # of what was asked to be written, as callers count

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        """It passes for what it wraps: a library may look for a `TextIOWrapper` before it sets its encoding."""
        return type(self._stream)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def guarded_output() -> Iterator[None]:
    """Guard both streams while the block runs.

    >>> with guarded_output():
    ...     print("https://ann:pa55@host/en.jsonl: HTTP 403")
    https://***@host/en.jsonl: HTTP 403
    """
    before = sys.stdout, sys.stderr
    guard_this_process()
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


def guard_this_process() -> None:
    """Guard both streams until this process ends; for the entry points of processes."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is not None and type(stream) is not _Guarded:
            setattr(sys, name, _Guarded(stream))
