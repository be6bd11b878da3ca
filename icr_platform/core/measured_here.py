"""What was measured of this machine, kept in the user's cache: the same work gives the same bytes on it, and measures once."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TypeVar

from icr_platform.core.artifacts import text_digest, write_json
from icr_platform.core.errors import InputError
from icr_platform.core.file_digests import user_cache

V = TypeVar("V")


@cache
def cpu_name() -> str:
    """What Linux calls the CPU; its architecture elsewhere."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return (named or [platform.processor() or platform.machine() or "CPU"])[0]


def measured_here(
    room: str,
    depends_on: tuple[str, ...],
    read: Callable[[Path], V],
    measure: Callable[[], V],
    values: Callable[[V], dict[str, object]],
) -> V:
    """What was measured before on this CPU, or what `measure` finds now. A cache that cannot be read or written costs that each time.

    Args:
        room: folder in the cache. depends_on: what a measurement depends on beside the CPU.
        read: what a JSON file says, or raises InputError. values: what is written into it.
    """
    path = user_cache() / room / f"{text_digest(cpu_name(), *depends_on)[:32]}.json"
    try:
        return read(path)
    except (InputError, OSError):
        found = measure()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, values(found))
    except OSError:  # a read-only home
        return found
    return found


def best_of(run: Callable[[], object], tries: int) -> float:
    """CPU seconds of the fastest of some runs, after one that plans kernels; other work on the machine shows little in them."""
    times = []
    for _ in range(tries + 1):
        start = time.process_time()
        run()
        times.append(time.process_time() - start)
    return min(times[1:])
