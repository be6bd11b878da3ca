"""Resume points: the trainer's `checkpoint-N` folders, told apart into whole ones and ones a kill left half-written.

The trainer writes `checkpoint-N` in place. A marker with the size of every file, written after all of them are on the disk,
makes a folder one to resume from; a folder without it is never read.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from icr_platform.core.artifacts import read_json, write_json
from icr_platform.core.errors import InputError

_MARKER = "whole.json"


def mark_whole(folder: Path, processes: int) -> None:
    """Declare `folder` finished and delete the resume points before it.

    processes: how many processes wrote it; a different number could not go on from it.
    """
    sizes: dict[str, int] = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
            sizes[str(path.relative_to(folder))] = path.stat().st_size
    write_json(folder / _MARKER, {"files": sizes, "processes": processes})
    for other in _resume_points(folder.parent):
        if other != folder:
            shutil.rmtree(other)


def last_whole(work: Path, processes: int) -> Path | None:
    """The resume point with the most steps that is whole; half-written ones are deleted.

    Raises:
        InputError: it was written by another number of processes.
    """
    whole = None
    for folder in _resume_points(work):
        if not _is_whole(folder):
            shutil.rmtree(folder)
            continue
        whole = folder
    if whole is None:
        return None
    before = read_json(whole / _MARKER)["processes"]
    if before != processes:
        raise InputError(
            f"{whole}: written by {before} training processes, now there are {processes}; "
            "use the same --accelerate-config or delete the folder"
        )
    return whole


def _is_whole(folder: Path) -> bool:
    marker = folder / _MARKER
    if not marker.exists():
        return False
    sizes: dict[str, int] = read_json(marker)["files"]
    return all((folder / name).is_file() and (folder / name).stat().st_size == size for name, size in sizes.items())


def _resume_points(work: Path) -> list[Path]:
    return sorted(work.glob("checkpoint-*"), key=lambda folder: int(folder.name.rpartition("-")[2]))
