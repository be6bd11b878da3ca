"""`icr runs`: what an arm consists of, what nobody needs any more, and its removal: nested runs, artifacts, checkpoints, work folders."""

from __future__ import annotations

import difflib
import re
import shutil
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from icr_platform.core.errors import InputError
from icr_platform.pipeline.session import Session
from icr_platform.pipeline.stages import STAGES
from icr_platform.pipeline.work import work_file
from icr_platform.tracking.run_removal import (
    StoredBytes,
    aliases_of,
    detach,
    remove_run,
    remove_version,
    stored_bytes,
    versions_of,
)
from icr_platform.tracking.run_tree import RunTree, is_deleted, parent_of, read_runs

if TYPE_CHECKING:
    from icr_platform.tracking.run_removal import ModelVersion
    from icr_platform.tracking.tracker import Run, Tracker

_LEAST_OF_AN_ID = 6  # characters that stand for a run's id
_OVER = ("FINISHED", "FAILED", "KILLED")


@dataclass
class Removal:
    """What goes, and what stays although it was asked for.

    runs: leaves first, each with the bytes of its artifacts. versions: of registered models, with their aliases.
    folders: work folders and their bytes. stays: runs that others need; they move to the top. notes: what else stays, and why.
    """

    title: str
    runs: list[tuple[Run, StoredBytes]] = field(default_factory=list)
    versions: list[tuple[ModelVersion, list[str]]] = field(default_factory=list)
    folders: list[tuple[Path, int]] = field(default_factory=list)
    stays: list[Run] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def is_empty(self) -> bool:
        return not (self.runs or self.versions or self.folders)

    def lines(self) -> list[str]:
        """For a person, before it is done."""
        kinds = Counter(str(run.data.tags.get("icr.kind", "run")) for run, _ in self.runs)
        found = [self.title]
        if self.runs:
            counts = ", ".join(f"{count} {kind}{'s' * (count > 1)}" for kind, count in sorted(kinds.items()))
            found.append(f"  runs          {len(self.runs)} ({counts})")
            found.append(f"  artifacts     {shown_bytes(sum(size.all for _, size in self.runs))}")
            checkpoints = [size.checkpoint for _, size in self.runs if size.checkpoint]
            if checkpoints:
                found.append(f"  checkpoints   {shown_bytes(sum(checkpoints))} of them, in {len(checkpoints)} runs")
        for version, aliases in self.versions:
            named = f" (alias {', '.join(aliases)})" if aliases else ""
            found.append(f"  model         {version.name} version {version.version}{named}")
        found += [f"  work folder   {path} ({shown_bytes(size)})" for path, size in self.folders]
        return found + [f"  stays         {note}" for note in self.notes]


def shown_bytes(size: float) -> str:
    """A size for a person.

    >>> shown_bytes(999), shown_bytes(1_234_567)
    ('999 bytes', '1.2 MB')
    """
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def list_arms(session: Session) -> list[str]:
    """A line for each arm run of the experiment, the newest first; those of a sweep stand under its line."""
    tracker = _tracker(session)
    tree = read_runs(tracker, tracker.experiment_id)

    def line(run: Run, shift: str = "") -> str:
        own = [each for each in tree.below([run.info.run_id]) if not is_deleted(each)]
        size = sum(stored_bytes(tracker, each).all for each in own)
        started = datetime.fromtimestamp((run.info.start_time or 0) / 1000).strftime("%Y-%m-%d %H:%M")
        name = shift + str(run.data.tags.get("mlflow.runName", "") if shift else _name_of(run))
        return (
            f"{name:<20} {run.info.run_id}  {run.info.status:<9} {started}  {len(own):>4} runs  {shown_bytes(size):>9}"
        )

    arms, sweeps = tree.arms(), tree.sweeps()
    below = {sweep.info.run_id: [arm for arm in arms if parent_of(arm) == sweep.info.run_id] for sweep in sweeps}
    tops = [*sweeps, *(arm for arm in arms if parent_of(arm) not in below)]
    lines = []
    for top in sorted(tops, key=lambda run: -(run.info.start_time or 0)):
        lines.append(line(top))
        lines += [line(arm, "  ") for arm in reversed(below.get(top.info.run_id, []))]
    return lines


def _name_of(run: Run) -> str:
    """What a person calls an arm's run, or that of a sweep."""
    return str(run.data.tags.get("icr.arm") or run.data.tags.get("icr.sweep", ""))


def plan_arm(session: Session, given: str) -> Removal:
    """What goes with an arm, or a sweep: all runs of this name in the experiment, or the one with this id.

    Raises:
        InputError: no such arm or sweep, several that may be meant, or one of its runs is still going on.
    """
    tracker = _tracker(session)
    tree = read_runs(tracker, tracker.experiment_id)
    arms = _named(tracker, tree, given)
    runs = tree.below(run.info.run_id for run in arms)
    for run in runs:
        if run.info.status not in _OVER and not is_deleted(run):
            host = run.data.tags.get("icr.host", "an unknown host")
            raise InputError(
                f"{given}: run {run.info.run_id} is {run.info.status} on {host}; end it first, or, if its process died there, "
                f"`icr runs end {run.info.run_id}`"
            )
    names = f"run {arms[0].info.run_id}, {arms[0].info.status}"
    if len(arms) > 1:
        states = Counter(run.info.status for run in arms)
        names = f"{len(arms)} runs: {', '.join(f'{count} {status}' for status, count in states.items())}"
    removal = Removal(f"{arms[0].data.tags['icr.kind']} {_name_of(arms[0])} ({names})")
    _take(session, tracker, tree, removal, runs)
    return removal


def plan_clean(session: Session) -> Removal:
    """What nobody needs: orphans, killed runs without finished work, files of deleted runs, work folders without a run."""
    tracker = _tracker(session)
    tree = read_runs(tracker, tracker.experiment_id)
    removal = Removal("what nobody needs")
    ours = {run_id: run for run_id, run in tree.runs.items() if "icr.kind" in run.data.tags}
    going: dict[str, Run] = {}
    for run_id, run in ours.items():
        above = parent_of(run)
        parent_is_gone = above and (above not in tree.runs or is_deleted(tree.runs[above]))
        everything = tree.below([run_id])
        if is_deleted(run):
            if stored_bytes(tracker, run).all:
                going[run_id] = run
        elif (parent_is_gone and all(each.info.status in _OVER for each in everything)) or (
            run.info.status == "KILLED" and not any(_has_work(session, each) for each in everything)
        ):
            going |= {each.info.run_id: each for each in everything}
    ordered = [run for run in tree.below(going) if run.info.run_id in going]
    _take(session, tracker, tree, removal, ordered)
    kept = {_folder_name(run) for run_id, run in ours.items() if run_id not in going and not is_deleted(run)}
    known = {path for path, _ in removal.folders}
    for path in sorted(session.work.glob("*-*")):
        name = re.sub(r"-\d+$", "", path.name) if path.name.count("-") > 1 else path.name
        if path not in known and name not in kept and any(work_file(path, stage).exists() for stage in STAGES):
            _take_folder(removal, path)
    return removal


def end_run(session: Session, run_id: str) -> list[str]:
    """Mark a run and all under it KILLED, whose process died where nobody could see it; returns their ids.

    Raises:
        InputError: there is no such run in the experiment, or nothing of it is RUNNING.
    """
    tracker = _tracker(session)
    tree = read_runs(tracker, tracker.experiment_id)
    if run_id not in tree.runs:
        raise InputError(f"{run_id}: no run of this id in the experiment; `icr runs list` lists the arms")
    running = [run.info.run_id for run in tree.below([run_id]) if run.info.status not in _OVER and not is_deleted(run)]
    if not running:
        raise InputError(f"{run_id}: it is {tree.runs[run_id].info.status}, and nothing under it is running")
    for each in running:
        tracker.client.set_terminated(each, "KILLED")
    return running


def carry_out(session: Session, removal: Removal) -> None:
    """Remove what the plan lists. Killed in between, what is left is found by `icr runs clean`.

    Raises:
        TrackingError: a store refuses or does not answer.
    """
    tracker = _tracker(session)
    for version, _ in removal.versions:
        remove_version(tracker, version)
    for run in removal.stays:
        detach(tracker, run)
    for run, _ in removal.runs:
        remove_run(tracker, run)
    for path, _ in removal.folders:
        shutil.rmtree(path, ignore_errors=True)
        path.with_name(f".{path.name}.lock").unlink(missing_ok=True)


def _tracker(session: Session) -> Tracker:
    if session.tracker is None:
        raise InputError("icr runs: needs MLflow; leave --no-tracking out")
    return session.tracker


def _named(tracker: Tracker, tree: RunTree, given: str) -> list[Run]:
    """The runs of arms, or of sweeps, that a person means by a name, an id, or the beginning of an id."""
    arms = [*tree.arms(), *tree.sweeps()]
    named = [arm for arm in arms if _name_of(arm) == given]
    if len(kinds := {str(arm.data.tags["icr.kind"]) for arm in named}) > 1:
        raise InputError(
            f"{given}: is the name of an {' and of a '.join(sorted(kinds))}; give the id of a run, or its beginning"
        )
    if named:
        return named
    begun = [arm for arm in arms if len(given) >= _LEAST_OF_AN_ID and arm.info.run_id.startswith(given)]
    if len(begun) == 1:
        return begun
    if begun:
        listed = ", ".join(f"{arm.info.run_id} ({_name_of(arm)})" for arm in begun)
        raise InputError(f"{given}: several arms' ids begin so: {listed}; give more of it")
    elsewhere = tracker.client.search_runs(
        [each.experiment_id for each in tracker.client.search_experiments()],
        f"tags.\"icr.kind\" = 'arm' and tags.\"icr.arm\" = '{given}'"
        if "'" not in given
        else "tags.\"icr.kind\" = 'arm'",
    )
    places = sorted({run.info.experiment_id for run in elsewhere if run.data.tags["icr.arm"] == given})
    if places:
        names = ", ".join(repr(tracker.client.get_experiment(place).name) for place in places)
        raise InputError(f"{given}: this arm is in experiment {names}; give --experiment")
    known = sorted({_name_of(arm) for arm in arms})
    near = difflib.get_close_matches(given, known, n=3, cutoff=0.4) or known[:10]
    fix = f"there are {', '.join(near)}" if near else "the experiment has no arm; give --experiment"
    raise InputError(f"{given}: no arm of this name or id; {fix}")


def _take(session: Session, tracker: Tracker, tree: RunTree, removal: Removal, runs: Sequence[Run]) -> None:
    """Plan the removal of these runs, but for those that others use."""
    stay = _needed(tracker, tree, runs)
    removal.stays = [run for run in runs if run.info.run_id in stay]
    for run in removal.stays:
        stage = run.data.tags.get("icr.stage", "run")
        removal.notes.append(f"run {run.info.run_id} ({stage}): used by {', '.join(stay[run.info.run_id])}")
    going = [run for run in runs if run.info.run_id not in stay]
    removal.runs = [(run, stored_bytes(tracker, run)) for run in going]
    removal.versions = [(version, aliases_of(tracker, version)) for version in versions_of(tracker, going)]
    leaving = {run.info.run_id for run in going}
    others = {_folder_name(run) for run_id, run in tree.runs.items() if run_id not in leaving and not is_deleted(run)}
    names = {_folder_name(run) for run in going} - others - {""}
    for name in sorted(names):
        for path in (session.work / name, *sorted(session.work.glob(f"{name}-[0-9]*"))):
            if path.is_dir():
                _take_folder(removal, path)
    outputs = {value for run in going for name, value in run.data.params.items() if name.endswith(".output") and value}
    removal.notes += [
        f"{place}: the output folder that was chosen"
        for place in sorted(outputs)
        if Path(place).exists()
        and outputs.isdisjoint(map(str, Path(place).parents))  # iterate's has those of its stages in it
    ]


def _needed(tracker: Tracker, tree: RunTree, runs: Iterable[Run]) -> dict[str, list[str]]:
    """Who needs which of these runs: other runs, and aliases that a person gave."""
    runs = list(runs)
    needed = tree.users(run.info.run_id for run in runs)
    for version in versions_of(tracker, runs):
        arms = {str(run.data.tags.get("icr.arm")) for run in runs}
        own = any(re.fullmatch(rf"{re.escape(arm)}(-seed-\d+)?-policy", version.name) for arm in arms)
        given = [
            alias for alias in aliases_of(tracker, version) if not own or not re.fullmatch(r"iteration-\d+", alias)
        ]
        if given:
            needed.setdefault(str(version.run_id), []).extend(f"models:/{version.name}@{alias}" for alias in given)
    return needed


def _folder_name(run: Run) -> str:
    """Name of the work folder that a stage has without --output."""
    tags = run.data.tags
    return f"{tags['icr.stage']}-{tags['icr.cache_key'][:16]}" if {"icr.stage", "icr.cache_key"} <= tags.keys() else ""


def _has_work(session: Session, run: Run) -> bool:
    """Whether a run finished a stage, still works, or began something that the same command continues."""
    if run.info.status not in ("KILLED", "FAILED"):
        return run.data.tags.get("icr.kind") == "stage" or run.info.status not in _OVER
    name = _folder_name(run)
    signs = STAGES[run.data.tags["icr.stage"]].signs_of_work if name else ()
    return any(True for sign in signs for _ in (session.work / name).glob(sign))


def _take_folder(removal: Removal, path: Path) -> None:
    """Plan the removal of a work folder, unless a process works in it."""
    from filelock import FileLock, Timeout

    lock = FileLock(path.with_name(f".{path.name}.lock"))
    try:
        with lock.acquire(timeout=0):
            removal.folders.append((path, sum(file.stat().st_size for file in path.rglob("*") if file.is_file())))
    except Timeout:
        removal.notes.append(f"{path}: a process works there")
