"""Resume points: the trainer's `checkpoint-N` folders, and which of them are whole.

The trainer writes `checkpoint-N` in place, so that a kill leaves it half-written. A marker with the size of every file, written
once all of them are on the disk, makes a folder one to resume from; a folder without it is never read.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from icr_platform.core.artifacts import read_json, write_json
from icr_platform.core.errors import InputError

_MARKER = "whole.json"


def mark_whole(folder: Path, processes: int) -> None:
    """Mark `folder` as whole and delete the resume points before it.

    processes: how many processes wrote it; a different number of them cannot go on from it.
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
    """Find the whole resume point with the most steps, and delete half-written ones.

    Raises:
        InputError: it was written by another number of processes.
    """
    whole = None
    for folder in _resume_points(work):
        marker = folder / _MARKER
        sizes: dict[str, int] = read_json(marker)["files"] if marker.exists() else {}
        files = {name: folder / name for name in sizes}
        if sizes and all(path.is_file() and path.stat().st_size == sizes[name] for name, path in files.items()):
            whole = folder
        else:
            shutil.rmtree(folder)
    if whole is None:
        return None
    before = read_json(whole / _MARKER)["processes"]
    if before != processes:
        raise InputError(
            f"{whole}: written by {before} training processes, now there are {processes}; "
            "use the same --accelerate-config or delete the folder"
        )
    return whole


def _resume_points(work: Path) -> list[Path]:
    """The folders by their steps, which their names do not sort by: checkpoint-100 comes before checkpoint-20."""
    return sorted(work.glob("checkpoint-*"), key=lambda folder: int(folder.name.rpartition("-")[2]))
