"""Runs one stage: inputs resolved and validated, finished work found again, the result tracked."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from icr_platform.artifacts import MANIFEST, damaged_files, read_json
from icr_platform.config import Config, leaves, setting
from icr_platform.earlier import PLACES, SAME_COMPUTATION, Earlier, Source
from icr_platform.errors import IcrError, InputError
from icr_platform.identity import Identity, identify
from icr_platform.inputs import Resolver
from icr_platform.stages import StageContext, StageResult, ignore_metrics
from icr_platform.work import (
    WORK,
    clear_aside,
    known_works,
    read_work,
    remember_output,
    repair,
    set_aside,
    sources_in,
    write_work,
)

if TYPE_CHECKING:
    from mlflow.entities import Run

    from icr_platform.tracking import RunHandle, Tracker

ARTIFACTS: dict[str, tuple[str, ...]] = {
    "generate": ("prompts", "responses", "generation_drops"),
    "annotate": ("rewards", "preferences", "drops"),
    "train": ("checkpoint",),
    "eval": ("outputs", "judgments", "scores"),
    "mt_bench": ("ratings",),
    "benchmarks": ("benchmarks",),
}
METRICS, NOTES = "metrics.json", "notes.txt"
_RUNS_OF_ROWS = 20  # the newest ones that single rows are taken from
_MODULES = {
    "generate": "icr_platform.generation.stage",
    "annotate": "icr_platform.annotation.stage",
    "train": "icr_platform.training.stage",
    "eval": "icr_platform.evaluation.stage",
    "mt_bench": "icr_platform.evaluation.mt_bench_stage",
    "benchmarks": "icr_platform.evaluation.benchmarks",
}


class RunOptions(Config):
    """How runs are tracked; the same for every stage."""

    experiment: str = setting("", "MLflow experiment; empty: MLFLOW_EXPERIMENT_NAME, or 'icr'", "place")
    tracking: bool = setting(True, "log to MLflow", "place")
    reuse: bool = setting(
        True, "take a FINISHED stage run with the same inputs and settings instead of running again", "place"
    )
    other_code: Literal["ask", "use", "redo"] = setting(
        "ask",
        "work that another version of the code began: use: go on with it; redo: start again; ask: stop and say so. Work that "
        "it finished is taken by `use` and made again otherwise",
        "place",
    )
    artifacts: Literal["copy", "reference"] = setting(
        "copy", "copy artifacts to MLflow's store, or log their path and digest only (large runs)", "place"
    )


@dataclass(frozen=True)
class Session:
    """What stages of one command share. tracker is None without tracking."""

    options: RunOptions
    base: Path
    work: Path
    tracker: Tracker | None

    @property
    def resolver(self) -> Resolver:
        return Resolver(self.base, self.work, self.tracker)


@dataclass(frozen=True)
class StageRun:
    """A finished stage: its result, its fingerprint, its MLflow run (None untracked), and whether it was found, not run."""

    result: StageResult
    fingerprint: str
    run: RunHandle | None
    reused: bool
    temporary: Path | None = field(default=None)

    def artifact(self, name: str) -> Path:
        return self.result.artifacts[name]

    def clean_up(self) -> None:
        """Remove the work folder once MLflow holds the artifacts."""
        if self.temporary is not None:
            shutil.rmtree(self.temporary, ignore_errors=True)
            self.temporary.with_name(f".{self.temporary.name}.lock").unlink(missing_ok=True)


def open_session(options: RunOptions) -> Session:
    """Check the tracking server before anything else, and find the caller's folder."""
    from icr_platform.tracking import Tracker, caller_folder

    base = caller_folder()
    tracker = Tracker(options.experiment) if options.tracking else None
    return Session(options=options, base=base, work=base / ".icr", tracker=tracker)


def run_stage(
    session: Session,
    stage: str,
    config: Any,
    *,
    parent: RunHandle | None = None,
    tags: Mapping[str, object] | None = None,
    own_process: bool = False,
) -> StageRun:
    """Run, resume or reuse one stage, and track it.

    Raises:
        InputError: bad input, found before anything is written.
        IcrError: the stage failed; its finished parts stay for the next run of the same command.
    """
    resolved = session.resolver.resolve(config, config.seed)
    module = import_module(_MODULES[stage])
    module.validate(resolved)
    identity = identify(stage, resolved)
    place = _place(session, stage, identity, Path(resolved.output) if resolved.output else None)
    folder, key = place.folder, place.fingerprint
    with _locked(folder):
        reused = _find(session, stage, identity, place)
        if reused is not None:
            print(
                f"{stage}: found finished (run {reused.run.run_id if reused.run else '-'}), not run again",
                file=sys.stderr,
            )
            return _link(session, stage, reused, parent, tags or {})
        _make_room(session, stage, identity, place)
        earlier = _earlier(session, stage, identity, folder)
        run = _start(session, stage, config, identity, key, parent, tags or {})
        with track_status(run):
            context = StageContext(folder, key, run.log_live if run else ignore_metrics, earlier)
            work = _in_own_process if own_process else _here
            with run.system_metrics() if run else _nothing():
                result: StageResult = work(module.run, resolved, context)
            for note in result.notes:
                print(f"{stage}: {note}", file=sys.stderr, flush=True)
            clear_aside(folder)
            if run is not None:
                _log(session, run, result)
    temporary = folder if run and not resolved.output and session.options.artifacts == "copy" else None
    return StageRun(result, key, run, reused=False, temporary=temporary)


@dataclass(frozen=True)
class _Place:
    """Where a stage works, under which fingerprint, and whether a person chose the folder."""

    folder: Path
    fingerprint: str
    chosen: bool


def _place(session: Session, stage: str, identity: Identity, output: Path | None) -> _Place:
    """The stage's own folder, or the one in which other code began the same work, if `other_code` says to use it.

    Raises:
        InputError: other code began it, and nobody said what to do about that; or `--no-reuse` meets finished work.
    """
    options, chosen = session.options, output is not None
    folder = output or session.work / f"{stage}-{identity.fingerprint[:16]}"
    works = [work for work in known_works(session.work, folder) if not chosen or work.folder == folder]
    begun = [
        work
        for work in works
        if (work.stage, work.work) == (stage, identity.work) and work.begun and not work.finished(ARTIFACTS[stage])
    ]
    own = any(work.fingerprint == identity.fingerprint for work in begun)
    other = next((work for work in begun if work.code != identity.code.digest), None)
    if other is not None and not own:
        said = f"{other.folder}: {stage} was begun here by other code (commit {other.commit}; this is {identity.code.commit})"
        if options.other_code == "use":
            print(f"{said}; going on with it", file=sys.stderr, flush=True)
            return _Place(other.folder, other.fingerprint, chosen)
        if options.other_code == "ask":
            raise InputError(f"{said}; give --other-code use to go on with it, or --other-code redo to start again")
        print(f"{said}; starting again", file=sys.stderr, flush=True)
    if not options.reuse:
        folder = _afresh(folder, stage, chosen)
    return _Place(folder, identity.fingerprint, chosen)


def _afresh(folder: Path, stage: str, chosen: bool) -> Path:
    """A folder without finished work, for `--no-reuse`; what an earlier `--no-reuse` began there goes on."""
    number, place = 1, folder
    while (work := read_work(place)) is not None and work.finished(ARTIFACTS[stage]):
        if chosen:
            raise InputError(
                f"{folder}: contains finished {stage} work, and --no-reuse makes it afresh; choose another --output or delete the folder"
            )
        number += 1
        place = folder.with_name(f"{folder.name}-{number}")
    return place


def _make_room(session: Session, stage: str, identity: Identity, place: _Place) -> None:
    """Leave in the folder only what the stage goes on from, and say whose work it will hold.

    What is damaged goes. Unfinished work on other rows, by the same settings and models, is set aside and becomes a source
    of rows; so is what other code began and is to be made again.
    """
    work = read_work(place.folder)
    if work is not None and work.fingerprint != place.fingerprint and not work.finished(ARTIFACTS[stage]):
        shared = set(work.rows.values()) & set(identity.rows.values())
        if work.stage == stage and (shared or work.work == identity.work):
            set_aside(work)
        elif work.stage == stage and not work.begun:
            (place.folder / WORK).unlink()
    elif work is not None and work.fingerprint == place.fingerprint:
        repair(place.folder)
    if read_work(place.folder) is None:
        write_work(place.folder, stage, identity, place.fingerprint)
    if place.chosen:
        remember_output(session.work, place.folder)


def _earlier(session: Session, stage: str, identity: Identity, folder: Path) -> Earlier:
    """Everything that has rows of this stage's computations: folders that are there, and finished runs."""
    if not session.options.reuse or not identity.rows:
        return Earlier()
    code = {} if session.options.other_code == "use" else identity.row_code
    works = list(known_works(session.work, folder))
    sources = sources_in(works, identity.rows, code)
    if session.tracker is not None:
        for name, found in stored_sources(session.tracker, identity.rows, code).items():
            sources[name] = tuple(dict.fromkeys((*sources[name], *found)))
    return Earlier(sources)


def _here(function: Callable[..., StageResult], config: Config, context: StageContext) -> StageResult:
    return function(config, context)


def _in_own_process(function: Callable[..., StageResult], config: Config, context: StageContext) -> StageResult:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn"), initializer=die_with_parent) as pool:
        try:
            return pool.submit(function, config, context).result()
        except BrokenProcessPool as error:
            raise IcrError(
                "the stage's process died (out of memory?); finished parts are kept, run the same command again"
            ) from error


def die_with_parent() -> None:
    """Ask Linux for SIGTERM when the parent process dies, so that a killed `mlflow run` leaves no orphan at work."""
    if sys.platform != "linux":
        return
    import ctypes
    import signal

    pr_set_pdeathsig = 1
    ctypes.CDLL("libc.so.6", use_errno=True).prctl(pr_set_pdeathsig, signal.SIGTERM)


@contextmanager
def _nothing() -> Iterator[None]:
    yield


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the folder for this process; a second one waits, and then finds the work done."""
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


@contextmanager
def track_status(run: RunHandle | None) -> Iterator[None]:
    """Give the run its final status, whatever ends the block."""
    try:
        yield
    except BaseException as error:
        if run is not None:
            _finish_quietly(run, "FAILED" if isinstance(error, Exception) else "KILLED")
        raise
    if run is not None:
        run.finish()


def _finish_quietly(run: RunHandle, status: str) -> None:
    from icr_platform.errors import TrackingError

    try:
        run.finish(status)
    except TrackingError as error:  # the first error matters more; the next start marks the run
        print(error, file=sys.stderr, flush=True)


def located(folder: Path, key: str, names: tuple[str, ...]) -> dict[str, Path] | None:
    """The artifacts in `folder` if all of them are finished, whole, and carry the fingerprint `key`."""
    paths = {name: folder / name for name in names}
    for path in paths.values():
        manifest = path / MANIFEST
        if not manifest.exists() or read_json(manifest).get("fingerprint") != key:
            return None
        for file, reason in damaged_files(path):
            print(f"{file}: {reason}", file=sys.stderr, flush=True)
            return None
    return paths


def _find(session: Session, stage: str, identity: Identity, place: _Place) -> StageRun | None:
    """The finished, undamaged stage run of this work, if there is one."""
    from icr_platform.tracking import RunHandle

    tracker, key = session.tracker, place.fingerprint
    if tracker is None or not session.options.reuse:
        return None
    found = tracker.find_finished(key) or _finished_by_other_code(session, tracker, stage, identity)
    if found is None:
        return None
    key = found.data.tags["icr.cache_key"]
    paths = located(place.folder, key, ARTIFACTS[stage])
    if paths is None and not place.chosen:
        paths = _from_store(tracker, found, key, ARTIFACTS[stage])
    if paths is None:
        return None
    result = StageResult(artifacts=paths, metrics=_final_metrics(tracker, found))
    return StageRun(result, key, RunHandle(tracker.uri, found.info.run_id, tracker.experiment_id), reused=True)


def _finished_by_other_code(session: Session, tracker: Tracker, stage: str, identity: Identity) -> Run | None:
    """A finished run of the same work by other code: named, and taken only where `other_code` says so."""
    found = tracker.find_tagged({"icr.work": identity.work, "icr.stage": stage}, limit=1)
    if not found:
        return None
    said = f"{stage}: other code (commit {found[0].data.tags.get('icr.commit', '?')}) finished this work in run {found[0].info.run_id}"
    if session.options.other_code == "use":
        print(f"{said}; taken", file=sys.stderr, flush=True)
        return found[0]
    print(f"{said}; made again, --other-code use takes it", file=sys.stderr, flush=True)
    return None


def stored_sources(tracker: Tracker, rows: Mapping[str, str], code: Mapping[str, str]) -> dict[str, tuple[Source, ...]]:
    """Where finished runs have rows of each computation; see `work.sources_in`."""
    found: dict[str, tuple[Source, ...]] = {}
    for name, key in rows.items():
        sources = []
        for same in (name, *SAME_COMPUTATION.get(name, ())):
            place, column = PLACES[same][0]
            tags = {f"icr.rows.{same}": key} | ({f"icr.row_code.{same}": code[name]} if name in code else {})
            for run in tracker.find_tagged(tags, limit=_RUNS_OF_ROWS):
                reference = run.data.tags.get(f"icr.artifact.{place}")
                folder = Path(reference) if reference else tracker.local_artifact(run.info.run_id, place)
                if folder is not None and folder.is_dir():
                    sources.append(Source(folder, column))
        found[name] = tuple(sources)
    return found


def stage_from_store(tracker: Tracker, found: Any) -> StageRun:
    """A FINISHED stage run, or the one that a reused run points to, from what MLflow holds of it.

    Raises:
        InputError: its artifacts are gone or damaged.
    """
    from icr_platform.tracking import RunHandle

    original = found.data.tags.get("icr.reused_run")
    found = tracker.client.get_run(original) if original else found
    key, stage = found.data.tags["icr.cache_key"], found.data.tags["icr.stage"]
    paths = _from_store(tracker, found, key, ARTIFACTS[stage])
    if paths is None:
        raise InputError(f"runs:/{found.info.run_id}: its {stage} artifacts are gone or damaged; run the command again")
    notes = tracker.local_artifact(found.info.run_id, NOTES)
    lines = tuple(notes.read_text(encoding="utf-8").splitlines()) if notes else ()
    result = StageResult(artifacts=paths, metrics=_final_metrics(tracker, found), notes=lines)
    return StageRun(result, key, RunHandle(tracker.uri, found.info.run_id, tracker.experiment_id), reused=True)


def _final_metrics(tracker: Tracker, found: Any) -> dict[str, float]:
    """What the stage returned; the run's own metrics hold its loss curves too."""
    path = tracker.local_artifact(found.info.run_id, METRICS)
    return dict(read_json(path)) if path is not None else dict(found.data.metrics)


def _from_store(tracker: Tracker, found: Any, key: str, names: tuple[str, ...]) -> dict[str, Path] | None:
    paths = {}
    for name in names:
        reference = found.data.tags.get(f"icr.artifact.{name}")
        path = Path(reference) if reference else tracker.local_artifact(found.info.run_id, name)
        if path is None or located(path.parent, key, (name,)) is None:
            return None
        paths[name] = path
    return paths


def _link(
    session: Session, stage: str, found: StageRun, parent: RunHandle | None, tags: Mapping[str, object]
) -> StageRun:
    """Show a reused stage in this command's run tree too, with the figures and a link to the run that did the work."""
    if session.tracker is None or found.run is None:
        return found
    link = session.tracker.start(
        f"{stage} (reused)",
        {"icr.kind": "stage", "icr.stage": stage, "icr.reused_run": found.run.run_id, **tags},
        parent,
    )
    link.log_metrics(found.result.metrics)
    link.finish()
    return found


def _start(
    session: Session,
    stage: str,
    config: Config,
    identity: Identity,
    key: str,
    parent: RunHandle | None,
    tags: Mapping[str, object],
) -> RunHandle | None:
    if session.tracker is None:
        return None
    rows = {f"icr.rows.{name}": value for name, value in identity.rows.items()}
    rows |= {f"icr.row_code.{name}": value for name, value in identity.row_code.items()}
    own = {"icr.kind": "stage", "icr.stage": stage, "icr.cache_key": key, "icr.work": identity.work, **rows, **code_tags(),
           **tags}  # fmt: skip
    run = session.tracker.start(stage, own, parent)
    run.log_params({f"{stage}.{name}": value for name, value in logged_params(config).items()})
    for name, digest in identity.inputs.items():
        run.log_dataset(name, digest, str(getattr(config, name)), stage)
    return run


def logged_params(config: Config) -> dict[str, object]:
    """Every field by dotted name, as a person wrote it (URIs, not the local paths behind them)."""
    flat: dict[str, object] = {}
    for name, _ in leaves(type(config)):
        value: Any = config
        for part in name.split("."):
            value = getattr(value, part)
        flat[name] = value
    return flat


def code_tags() -> dict[str, str]:
    """Package version and, in a checkout, the commit with a mark when files differ from it."""
    import subprocess

    from icr_platform import __version__

    tags = {"icr.version": __version__}
    root = Path(__file__).parent
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12"]
    done = subprocess.run(command, capture_output=True, text=True, check=False) if shutil.which("git") else None
    if done is not None and done.returncode == 0:
        tags["icr.commit"] = done.stdout.strip()
    return tags


def _log(session: Session, run: RunHandle, result: StageResult) -> None:
    run.log_metrics(result.metrics)
    run.log_text(json.dumps(dict(result.metrics), indent=1), METRICS)
    for name, table in result.tables.items():
        run.log_table(table, name)
    for name, path in result.artifacts.items():
        if session.options.artifacts == "copy":
            run.log_artifacts(path, name)
        else:
            run.set_tags({f"icr.artifact.{name}": path, f"icr.digest.{name}": read_json(path / MANIFEST)["digest"]})
    if result.notes:
        run.log_text("\n".join(result.notes) + "\n", NOTES)
