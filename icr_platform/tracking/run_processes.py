"""Which process a run belongs to, so that runs of processes that were killed do not stay RUNNING for ever."""

from __future__ import annotations

import os


def mark_of_this_process() -> str:
    """Process id and start time; an id alone is given to another process later."""
    import psutil

    return f"{os.getpid()}:{psutil.Process().create_time():.2f}"


def is_alive(mark: str) -> bool:
    """Whether the process with this mark still runs on this host.

    >>> is_alive(mark_of_this_process()), is_alive("1:0.00"), is_alive("")
    (True, False, False)
    """
    import psutil

    pid, _, started = mark.partition(":")
    try:
        return f"{psutil.Process(int(pid)).create_time():.2f}" == started
    except (psutil.Error, ValueError):
        return False
