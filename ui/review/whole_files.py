"""Several files that appear together and whole: a writer that is killed leaves nothing under their names."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from icr_platform.core.errors import IcrError, InputError

_HIDDEN = ".icr-unfinished-"
_LEFT_SECONDS = 24 * 3600.0


@contextmanager
def written_whole(folder: Path, written: list[Path]) -> Iterator[Path]:
    """A hidden folder to write in. When the block ends, what lies in it moves into `folder`, in the place of what was there under the
    same names; when it raises, nothing does.

    written: receives the paths.

    Raises:
        InputError: the folder cannot be made or written.
        IcrError: the disk is full.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _remove_left(folder)
        hidden = Path(tempfile.mkdtemp(prefix=_HIDDEN, dir=folder))
        try:
            yield hidden
            written += [_placed(path, folder, hidden) for path in sorted(hidden.iterdir())]
            _sync(folder)
        finally:
            shutil.rmtree(hidden, ignore_errors=True)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise IcrError(f"{folder}: no space left on the disk; free some and run the same command again") from error
        raise InputError(f"{folder}: cannot be written ({error.strerror or error}); give another folder") from error


def _placed(path: Path, folder: Path, hidden: Path) -> Path:
    for file in [path, *path.rglob("*")] if path.is_dir() else [path]:
        _sync(file)
    target = folder / path.name
    if target.is_dir():
        target.replace(hidden / f"before-{path.name}")  # a folder with something in it is not replaced in one step
    path.replace(target)
    return target


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _remove_left(folder: Path) -> None:
    """Remove what writers that were killed have left a day ago or earlier."""
    for path in folder.glob(f"{_HIDDEN}*"):
        with suppress(OSError):  # somebody else removes it too
            if time.time() - path.stat().st_mtime > _LEFT_SECONDS:
                shutil.rmtree(path)
