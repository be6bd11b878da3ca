"""Folders that are one user's alone, below her cache: what an inspector copies, spills and exports is nobody else's to read."""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from icr_platform.core.file_digests import user_cache

_made: dict[str, Path] = {}


def own_folder(name: str) -> Path:
    """The folder `inspector/NAME` of the user's cache, which nobody else may enter; a fresh one where that cannot be written.

    ICR_CACHE moves the cache. On a machine with several users none meets another's folder, not even where all share one cache.
    """
    wanted = user_cache() / "inspector" / name
    with suppress(OSError):
        wanted.mkdir(mode=0o700, parents=True, exist_ok=True)
        if _is_own(wanted):
            wanted.chmod(0o700)  # an earlier version may have made it for all to read
            return wanted
    # Somebody else has it, the disk is read-only, or there is no home: the same fresh folder for the whole process.
    key = f"{wanted}"
    if key not in _made or not _made[key].is_dir():
        _made[key] = Path(tempfile.mkdtemp(prefix=f"icr-{name}-"))
    return _made[key]


def _is_own(folder: Path) -> bool:
    seen = folder.lstat()  # not what a link of somebody else leads to
    return stat.S_ISDIR(seen.st_mode) and seen.st_uid == os.geteuid() and os.access(folder, os.W_OK | os.X_OK)


def remove_old(folder: Path, seconds: float) -> None:
    """Remove what lies in a folder for longer than `seconds`, which a process that was killed has left."""
    for path in folder.iterdir():
        with suppress(OSError):  # another process removes it too
            if time.time() - path.lstat().st_mtime > seconds:
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
