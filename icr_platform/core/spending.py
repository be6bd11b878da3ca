"""Tokens that this process has spent, by what was done with them: what work costs is counted where it is done.

Meters count what is sampled, scored and trained on, the cache of replies what a judge's endpoint was asked and answered. What earlier
work or the cache already had is spent by nobody.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from icr_platform.core.kept_written import kept_written

Use = Literal["sampled", "scored", "trained", "judge_input", "judge_output"]

_EVERY = 2.0  # seconds
_spent: Counter[str] = Counter()
_lock = threading.Lock()


def spend(use: Use, tokens: int) -> None:
    """Count tokens; negative ones take back what was counted for work that was lost.

    >>> before = spent()
    >>> spend("scored", 7)
    >>> (spent() - before)["scored"]
    7
    """
    with _lock:
        _spent[use] += tokens


def spent() -> Counter[str]:
    """What has been counted since the process began."""
    with _lock:
        return Counter(_spent)


@contextlib.contextmanager
def told_to_parent(path: Path) -> Iterator[None]:
    """Write what this process spends to a file, every few seconds while the block runs and when it ends; nothing spent, no file."""

    def write() -> None:
        counts = spent()
        if counts:
            partial = path.with_suffix(f".{os.getpid()}")
            partial.write_text(json.dumps(counts), encoding="utf-8")
            partial.replace(path)

    with kept_written(write, _EVERY):
        yield


class ChildsSpending:
    """Spends in this process what another one says that it has spent, in the file of `told_to_parent`."""

    def __init__(self, path: Path) -> None:
        self._path, self._known = path, Counter[str]()
        path.unlink(missing_ok=True)  # an earlier child's

    def follow(self) -> None:
        """Take in what is new."""
        try:
            told = Counter[str](json.loads(self._path.read_text(encoding="utf-8")))
        except (OSError, ValueError):  # not there yet
            return
        with _lock:
            for use, count in told.items():
                _spent[use] += count - self._known[use]
        self._known = told
