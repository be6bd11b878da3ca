"""Copies of remote artifacts in the work folder: made once, when they are first opened, and removed at the end.

Processes of one folder share the copies. Each holds a shared lock on the folder while it may read there, and the last one
empties it. A killed process loses its lock, so that the next one to start finds itself alone and empties the folder first. A
copy gets its final name only when it is whole.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

_LOCK = ".lock"


class FetchedCopies:
    """The copies in `folder`; the folder is made with the first of them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._held: int | None = None
        self._guard = threading.Lock()
        self._empty_if_alone()

    def get(self, key: str, fetch: Callable[[Path], object]) -> Path:
        """The copy with this key, a relative path; `fetch(path)` makes it, a file or a folder, where there is none.

        A second process, or thread, that asks for the same key waits for the first.
        """
        from filelock import FileLock

        with self._guard:
            if self._held is None:
                self._folder.mkdir(parents=True, exist_ok=True)
                self._held = os.open(self._folder / _LOCK, os.O_RDWR | os.O_CREAT, 0o600)
                fcntl.flock(self._held, fcntl.LOCK_SH)
        target = self._folder / key
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(target.with_name(f".{target.name}.lock")):
                if not target.exists():
                    partial = target.with_name(f".{target.name}.partial")
                    _remove(partial)  # of a process that was killed
                    try:
                        fetch(partial)
                        partial.replace(target)
                    finally:
                        _remove(partial)
        return target

    def close(self) -> None:
        """Remove the copies, unless another process of this folder still reads there."""
        with self._guard:
            if self._held is not None:
                os.close(self._held)  # which unlocks
                self._held = None
        self._empty_if_alone()

    def _empty_if_alone(self) -> None:
        """Empty the folder if no process holds its lock."""
        if not (self._folder / _LOCK).exists():
            return
        handle = os.open(self._folder / _LOCK, os.O_RDWR)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            for path in self._folder.iterdir():
                if path.name != _LOCK:
                    _remove(path)
        except BlockingIOError:
            pass  # another process reads there, and empties it later
        finally:
            os.close(handle)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
