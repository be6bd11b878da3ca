"""The folder that a stage works in: chosen, locked, and cleared of everything that the stage does not continue."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from icr_platform.core.errors import InputError
from icr_platform.pipeline.identity import Identity
from icr_platform.pipeline.session import Session
from icr_platform.pipeline.work import (
    cut_anew,
    known_works,
    read_work,
    remember_output,
    repair,
    set_aside,
    work_file,
    write_work,
)


@dataclass(frozen=True)
class WorkPlace:
    """Where a stage works, under which fingerprint, and whether a person chose the folder."""

    folder: Path
    fingerprint: str
    chosen: bool


def choose_place(session: Session, stage: str, identity: Identity, output: Path | None) -> WorkPlace:
    """The stage's own folder, or the one in which other code began the same work, if `other_code` says to use it.

    Raises:
        InputError: other code began it, and `other_code` does not say what to do; or `--no-reuse` meets finished work.
    """
    options, chosen = session.options, output is not None
    folder = output or session.work / f"{stage}-{identity.fingerprint[:16]}"
    works = [work for work in known_works(session.work, folder, stage) if not chosen or work.folder == folder]
    begun = [work for work in works if work.work == identity.work and work.begun and not work.finished]
    own = any(work.fingerprint == identity.fingerprint for work in begun)
    other = next((work for work in begun if work.code != identity.code.digest), None)
    if other is not None and not own:
        said = f"{other.folder}: other code began {stage} here (commit {other.commit}; this is {identity.code.commit})"
        if options.other_code == "use":
            print(f"{said}; continuing it", file=sys.stderr, flush=True)
            return WorkPlace(other.folder, other.fingerprint, chosen)
        if options.other_code == "ask":
            raise InputError(f"{said}; give --other-code use to continue it, or --other-code redo to start again")
        print(f"{said}; starting again", file=sys.stderr, flush=True)
    if options.reuse:
        return WorkPlace(folder, identity.fingerprint, chosen)
    # --no-reuse needs a folder without finished work; what an earlier --no-reuse began but did not finish is continued.
    number, free = 1, folder
    while (work := read_work(free, stage)) is not None and work.finished:
        if chosen:
            raise InputError(
                f"{folder}: contains finished {stage} work, and --no-reuse makes it again; choose another --output or delete the folder"
            )
        number += 1
        free = folder.with_name(f"{folder.name}-{number}")
    return WorkPlace(free, identity.fingerprint, chosen)


def make_room(session: Session, stage: str, identity: Identity, place: WorkPlace) -> None:
    """Leave in the folder only what the stage continues, and write down whose work it will contain.

    Damaged files are removed. Unfinished work on other rows, by the same settings and models, is set aside and becomes a source
    of rows; so is work that other code began and that is to be done again.
    """
    work = read_work(place.folder, stage)
    if work is not None and work.fingerprint != place.fingerprint and not work.finished:
        shared = set(work.rows.values()) & set(identity.rows.values())
        if shared or work.work == identity.work:
            set_aside(work)
        elif not work.begun:
            work_file(place.folder, stage).unlink()
    else:
        own = work is not None and work.fingerprint == place.fingerprint
        repair(place.folder, stage, place.fingerprint, own)
        if work is not None and own and work.cut != identity.cut:
            cut_anew(work, identity.cut)
    if read_work(place.folder, stage) is None:
        write_work(place.folder, stage, identity, place.fingerprint)
    if place.chosen:
        remember_output(session.work, place.folder)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the folder for this process; a second process waits."""
    from filelock import FileLock, Timeout

    folder.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder.with_name(f".{folder.name}.lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        print(f"{folder}: another process works here; waiting for it", file=sys.stderr, flush=True)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()
