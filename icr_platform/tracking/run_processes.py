"""Which process a run belongs to, so that runs of processes that were killed do not stay RUNNING for ever.

A process id alone says little: it is given again to others, after a reboot as well, and in each container the first process is
number 1, on every host whose name is the same. A mark therefore names machine, boot, and namespace of process ids as well, and a
process counts as dead only where this one can see that it is.
"""

from __future__ import annotations

import contextlib
import os
from functools import cache
from pathlib import Path
from typing import NamedTuple

_INITIAL_NAMESPACE = "4026531836"  # Linux's number for that of the machine itself, outside all containers


class _Mark(NamedTuple):
    machine: str
    boot: str
    namespace: str
    pid: str
    started: str


def mark_of_this_process() -> str:
    """Machine, boot, namespace of process ids, process id and start time."""
    own = os.getpid()
    return "/".join((*_here(), str(own), _start_of(own)))


def is_dead(mark: str) -> bool:
    """Whether the process with this mark is surely gone; False where nothing can be said from here, such as of another container.

    >>> is_dead(mark_of_this_process()), is_dead("1:0.00"), is_dead("")
    (False, False, False)
    >>> is_dead(mark_of_this_process() + "0")  # the same id, started at another time
    True
    """
    parts = mark.split("/")
    if len(parts) != len(_Mark._fields):  # an earlier version's, or none
        return False
    found, (machine, boot, namespace) = _Mark(*parts), _here()
    if not found.boot or not found.namespace:
        return False
    if (found.boot, found.namespace) == (boot, namespace):
        return _start_of(int(found.pid)) != found.started if found.pid.isdigit() else False
    # The machine was started again. Containers are left alone: their image may name a machine that is not the one they run on.
    is_machine = found.namespace == namespace == _INITIAL_NAMESPACE and found.machine == machine != ""
    return is_machine and found.boot != boot


@cache
def _here() -> tuple[str, str, str]:
    """Machine, boot, and namespace of process ids; '' for what this system does not say."""
    import psutil

    boot = _text("/proc/sys/kernel/random/boot_id") or f"{psutil.boot_time():.0f}"
    namespace = "-"  # systems without such namespaces have one
    with contextlib.suppress(OSError):
        namespace = str(os.stat("/proc/self/ns/pid").st_ino)
    return _text("/etc/machine-id"), boot, namespace


def _start_of(pid: int) -> str:
    """When a process started, by a clock that nobody sets: clock ticks since the boot; '' if there is none with this id."""
    import psutil

    if Path("/proc/self/stat").exists():
        fields = _text(f"/proc/{pid}/stat").rpartition(")")[2].split()  # its name, in parentheses, may contain anything
        return fields[19] if len(fields) > 19 and fields[0] not in "ZX" else ""
    try:
        return f"{psutil.Process(pid).create_time():.2f}"
    except psutil.Error:
        return ""


def _text(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
