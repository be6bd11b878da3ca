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

from icr_platform.artifacts import MANIFEST, read_json
from icr_platform.config import Config, leaves, role, setting
from icr_platform.errors import IcrError, InputError
from icr_platform.inputs import Resolver, fingerprint, input_digests
from icr_platform.models import require_weights
from icr_platform.stages import StageContext, StageResult, ignore_metrics

if TYPE_CHECKING:
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
    digests = input_digests(resolved)
    key = fingerprint(stage, resolved, digests)
    folder = Path(resolved.output) if resolved.output else session.work / f"{stage}-{key[:16]}"
    with _locked(folder):
        reused = _find(session, stage, key, folder, bool(resolved.output))
        if reused is not None:
            print(
                f"{stage}: found finished (run {reused.run.run_id if reused.run else '-'}), not run again",
                file=sys.stderr,
            )
            return _link(session, stage, reused, parent, tags or {})
        if located(folder, key, ARTIFACTS[stage]) is None:  # there is work to do
            for name, info in leaves(type(resolved)):
                if role(info) == "model":
                    require_weights(getattr(resolved, name))
        run = _start(session, stage, config, digests, key, parent, tags or {})
        with track_status(run):
            context = StageContext(folder, key, run.log_live if run else ignore_metrics)
            work = _in_own_process if own_process else _here
            with run.system_metrics() if run else _nothing():
                result: StageResult = work(module.run, resolved, context)
            for note in result.notes:
                print(f"{stage}: {note}", file=sys.stderr, flush=True)
            if run is not None:
                _log(session, run, result)
    temporary = folder if run and not resolved.output and session.options.artifacts == "copy" else None
    return StageRun(result, key, run, reused=False, temporary=temporary)


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
    """The artifacts in `folder` if all of them are finished and carry the fingerprint `key`."""
    paths = {name: folder / name for name in names}
    for path in paths.values():
        manifest = path / MANIFEST
        if not manifest.exists() or read_json(manifest).get("fingerprint") != key:
            return None
    return paths


def _find(session: Session, stage: str, key: str, folder: Path, explicit: bool) -> StageRun | None:
    from icr_platform.tracking import RunHandle

    tracker = session.tracker
    if tracker is None or not session.options.reuse:
        return None
    found = tracker.find_finished(key)
    if found is None:
        return None
    paths = located(folder, key, ARTIFACTS[stage])
    if paths is None and not explicit:
        paths = _from_store(tracker, found, key, ARTIFACTS[stage])
    if paths is None:
        return None
    result = StageResult(artifacts=paths, metrics=_final_metrics(tracker, found))
    return StageRun(result, key, RunHandle(tracker.uri, found.info.run_id, tracker.experiment_id), reused=True)


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
    digests: Mapping[str, str],
    key: str,
    parent: RunHandle | None,
    tags: Mapping[str, object],
) -> RunHandle | None:
    if session.tracker is None:
        return None
    own = {"icr.kind": "stage", "icr.stage": stage, "icr.cache_key": key, **code_tags(), **tags}
    run = session.tracker.start(stage, own, parent)
    run.log_params({f"{stage}.{name}": value for name, value in logged_params(config).items()})
    for name, digest in digests.items():
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
