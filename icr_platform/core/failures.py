"""What a person reads of an exception, whatever library raised it: one line, which says what to do where that is known."""

from __future__ import annotations

import errno
import os
import re

from icr_platform.core.errors import IcrError
from icr_platform.core.secrets import redact

_LONGEST = 400  # characters of a library's own words
_OF_THE_MACHINE: dict[int, tuple[str, str]] = {
    errno.ENOSPC: ("no space is left on the disk", "free some and run the same command again"),
    errno.EDQUOT: ("the disk quota is used up", "free some space and run the same command again"),
    errno.EROFS: ("the file system is read-only", "choose another folder, or mount it for writing"),
    errno.EACCES: ("permission denied", "choose another place, or change its owner or mode"),
    errno.EPERM: ("the operation is not permitted", "choose another place, or change its owner or mode"),
    errno.ENOTDIR: ("a file stands where a folder is needed", "choose another path, or move the file away"),
    errno.EEXIST: ("a file stands where a folder is needed", "choose another path, or move the file away"),
    errno.EISDIR: ("a folder stands where a file is needed", "choose another path, or move the folder away"),
    errno.ENOENT: ("no such file or folder", "check the path"),
    errno.ENAMETOOLONG: ("the name is too long for the file system", "choose a shorter one"),
    errno.ELOOP: ("symbolic links lead in a circle", "correct the links"),
    errno.EMFILE: ("too many files are open", "raise the limit (`ulimit -n 8192`) and run the same command again"),
    errno.ENFILE: ("the machine has too many open files", "end other programs and run the same command again"),
    errno.EAGAIN: (
        "no more processes or threads can be started",
        "raise the limit (`ulimit -u`) or end other programs",
    ),
    errno.ENOMEM: ("memory is full", "end other programs, or lower --batch-size, and run the same command again"),
    errno.EIO: ("the disk fails to read or write", "check it (`dmesg` says more) and run the same command again"),
    errno.ESTALE: ("the network file system was mounted anew", "run the same command again"),
    errno.EFBIG: ("the file is too large for the file system or `ulimit -f`", "choose another folder"),
}
# Native libraries keep the reason in the text alone.
_SIGNS = (
    (re.compile(r"no space left on device|disk is full|os error 28\b", re.IGNORECASE), errno.ENOSPC),
    (re.compile(r"disk quota exceeded|os error 122\b", re.IGNORECASE), errno.EDQUOT),
    (re.compile(r"read-only file system|os error 30\b", re.IGNORECASE), errno.EROFS),
    (re.compile(r"too many open files|os error 24\b", re.IGNORECASE), errno.EMFILE),
    (re.compile(r"can't start new thread", re.IGNORECASE), errno.EAGAIN),
    (re.compile(r"cannot allocate memory|can't allocate memory|malloc of size|bad_alloc", re.IGNORECASE), errno.ENOMEM),
)  # fmt: skip


def failure(error: BaseException) -> IcrError:
    """What ended a command, as an error of ours, whose text is one line.

    >>> str(failure(OSError(errno.EMFILE, "Too many open files")))
    'too many files are open; raise the limit (`ulimit -n 8192`) and run the same command again'
    >>> str(failure(ValueError("first\\nsecond")))
    'ValueError: first second; ICR_DEBUG=1 shows where'
    """
    if isinstance(error, IcrError):
        return error
    text = telling_line(str(error))
    number = errno.ENOMEM if isinstance(error, MemoryError) else getattr(error, "errno", None)
    if number not in _OF_THE_MACHINE:
        number = next((number for sign, number in _SIGNS if sign.search(str(error))), None)
    if number in _OF_THE_MACHINE and isinstance(number, int):
        what, fix = _OF_THE_MACHINE[number]
        place = getattr(error, "filename", None)
        shown = f"{os.fsdecode(place)}: " if isinstance(place, (str, bytes)) else ""
        # An error without a number of its own, or without a file, says more than the number does.
        seen = (
            f" ({text})"
            if not isinstance(error, (OSError, MemoryError)) or (number == errno.ENOENT and not shown)
            else ""
        )
        return IcrError(f"{shown}{what}{seen}; {fix}")
    return IcrError(f"{type(error).__name__}{': ' if text else ''}{text}; ICR_DEBUG=1 shows where")


def telling_line(text: str) -> str:
    """A library's message on one line; of a printed traceback, its last line.

    >>> telling_line('ray::work()\\n  File "a.py", line 3, in work\\nValueError: too long\\n')
    'ValueError: too long'
    """
    lines = [line for line in text.splitlines() if line.strip()]
    if any(line.lstrip().startswith('File "') for line in lines):
        lines = [line for line in lines if not line.startswith((" ", "\t"))][-1:] or lines[-1:]
    one = redact(" ".join(" ".join(lines).split()))  # before it is cut: half a secret would not be known for one
    return one if len(one) <= _LONGEST else f"{one[:_LONGEST].rstrip()}..."
