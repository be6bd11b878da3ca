"""One arm of a sweep at one seed, in a process of its own: found finished, or run."""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from icr_platform.core.config import leaves, role
from icr_platform.core.errors import InputError
from icr_platform.core.parts import Worlds, is_place, make_importable, split_world
from icr_platform.pipeline.arm import ARM_KEY, SweepPlace
from icr_platform.pipeline.config import IterateConfig
from icr_platform.pipeline.identity import arm_key
from icr_platform.pipeline.iterate import iterate
from icr_platform.pipeline.session import RunOptions, Session
from icr_platform.pipeline.sweep_config import SweptArm
from icr_platform.tracking.run_handle import RunHandle
from icr_platform.tracking.run_tree import parent_of
from icr_platform.tracking.tracker import Tracker

if TYPE_CHECKING:
    from icr_platform.tracking.tracker import Run


@dataclass(frozen=True)
class ArmJob:
    """What a process must know to run an arm. sweep: the sweep's run. is_alone: no other arm prints at the same time."""

    arm: SweptArm
    sweep: RunHandle
    options: RunOptions
    worlds: Worlds
    base: Path
    is_alone: bool


def run_arm(job: ArmJob) -> str:
    """Run an arm, or move the finished run of it here that an interrupted sweep left; returns the id of its run.

    Raises:
        IcrError: what ended it; its finished stages stay.
    """
    with _printed_as(job.arm.label, job.is_alone):
        make_importable(job.base)
        work = job.base / ".icr"
        session = Session(job.options, job.base, work, Tracker(job.options.experiment, work), job.worlds)
        with closing(session):
            key = _key(session, job.arm)
            if (found := _left_finished(session, job, key)) is not None:
                RunHandle(job.sweep.uri, found.info.run_id, job.sweep.experiment_id).set_tags(
                    {"mlflow.parentRunId": job.sweep.run_id}
                )
                print(f"found finished (run {found.info.run_id}), not run again", file=sys.stderr, flush=True)
                return str(found.info.run_id)
            arm = iterate(session, job.arm.config, SweepPlace(job.sweep, job.arm.label, key))
            assert arm.run is not None
            return arm.run.run_id


def _key(session: Session, arm: SweptArm) -> str:
    """`arm_key` of the arm's configuration; '' where the content of an input cannot be told, and its stages say why if they must."""
    config = arm.config
    with contextlib.suppress(InputError):
        resolved = session.resolver.resolve(config, config.seed, fetch=False)
        places = {}
        for name, info in leaves(IterateConfig):
            given = str(attrgetter(name)(config) or "")
            is_code = is_place(given) and split_world(given, session.worlds) is None  # known by its module
            if given and role(info) in ("input", "model") and not is_code:
                local = str(getattr(resolved, name)) if "." not in name else session.resolver.local(given, config.seed)
                places[name] = local
        return arm_key(config, places, session.resolver.known(resolved), arm.label)
    return ""


def _left_finished(session: Session, job: ArmJob, key: str) -> Run | None:
    """The arm's finished run below a sweep that did not finish."""
    tracker = session.tracker
    if tracker is None or not key:
        return None
    for found in tracker.find_tagged({ARM_KEY: key, "icr.kind": "arm"}, limit=5):
        above = parent_of(found)
        if above and tracker.client.get_run(above).info.status in ("KILLED", "FAILED"):
            return found
    return None


@contextmanager
def _printed_as(label: str, is_alone: bool) -> Iterator[None]:
    """Say before each line whose it is, where several arms print at once."""
    if is_alone:
        yield
        return
    with redirect_stdout(_Labelled(sys.stdout, label)), redirect_stderr(_Labelled(sys.stderr, label)):
        yield


class _Labelled(io.TextIOBase):
    """Writes whole lines, each behind a label, to a stream that other processes write to as well."""

    def __init__(self, stream: TextIO, label: str) -> None:
        self._stream, self._label, self._begun = stream, label, ""

    def write(self, text: str) -> int:
        *lines, self._begun = (self._begun + text).split("\n")
        if lines:
            self._stream.write("".join(f"{self._label} | {line}\n" for line in lines))
            self._stream.flush()
        return len(text)

    def flush(self) -> None:
        self._stream.flush()
