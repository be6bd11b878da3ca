"""A folder that is gone when its block ends, whatever ends it."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# Reads until the process that started it is gone: its end of the pipe closes whatever killed it. Processes that worked for it may
# write a moment longer.
_SWEEP = """
import os, shutil, sys, time
while os.read(0, 1):
    pass
for _ in range(100):
    shutil.rmtree(sys.argv[1], ignore_errors=True)
    if not os.path.exists(sys.argv[1]):
        break
    time.sleep(0.1)
"""


@contextmanager
def scratch_folder(beside: Path, name: str) -> Iterator[Path]:
    """A new folder on the disk of `beside`, in it or in the nearest folder above it that exists.

    It is removed at the end of the block, after errors and interrupts too; and by a process of its own where this one is killed.
    """
    while not beside.is_dir():
        beside = beside.parent
    folder = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=beside))
    # -I and -S: it needs nothing but the standard library, and starts at once. A session of its own: Ctrl-C does not reach it.
    sweep = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", _SWEEP, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        assert sweep.stdin is not None
        sweep.stdin.close()
        sweep.wait()
