"""Runs one stage: inputs resolved and validated, finished work found again, the result tracked."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from icr_platform import __version__
from icr_platform.core.artifacts import MANIFEST, damaged_files, own_manifest, read_json
from icr_platform.core.config import Config, leaves, role, setting
from icr_platform.core.earlier import PLACES, SAME_COMPUTATION, Earlier, Source
from icr_platform.core.errors import IcrError, InputError
from icr_platform.core.parts import Worlds, make_importable
from icr_platform.core.stage_protocol import StageContext, StageResult, ignore_metrics
from icr_platform.models.removed_weights import require_weights
from icr_platform.pipeline.code_digest import commit
from icr_platform.pipeline.identity import Identity, artifact_identity, identify, strict_digest
from icr_platform.pipeline.inputs import Resolver
from icr_platform.pipeline.stage_process import stage_process
from icr_platform.pipeline.stages import STAGES
from icr_platform.pipeline.work import (
    clear_aside,
    cut_anew,
    known_works,
    read_work,
    remember_output,
    repair,
    set_aside,
    sources_in,
    work_file,
    write_work,
)
from icr_platform.tracking.final_metrics import final_metrics

if TYPE_CHECKING:
    from icr_platform.tracking.run_handle import RunHandle
    from icr_platform.tracking.stored_artifacts import StoredArtifacts
    from icr_platform.tracking.tracker import Run, Tracker

METRICS, NOTES = "metrics.json", "notes.txt"
_RUNS_OF_ROWS = 20  # the newest ones that single rows are taken from
_FETCHED_FOR_ROWS = 3  # of these, where they lie in a remote store


class RunOptions(Config):
    """How runs are tracked; the same for every stage."""

    heading = "tracking and reuse"

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
    worlds: Worlds = field(default_factory=dict)

    def close(self) -> None:
        """Remove what was fetched for the command."""
        if self.tracker is not None:
            self.tracker.close()

    @property
    def resolver(self) -> Resolver:
        return Resolver(self.base, self.work, self.tracker, self.worlds)


@dataclass(frozen=True)
class StageRun:
    """A finished stage: its result, its fingerprint, its MLflow run (None untracked), and whether it was found, not run."""

    result: StageResult
    fingerprint: str
    run: RunHandle | None
    reused: bool
    temporary: Path | None = field(default=None)

    def artifact(self, name: str) -> Path:
        """Folder of an artifact, fetched now where it lies in a remote store."""
        return self.result.artifacts[name]

    def reference(self, name: str) -> str:
        """What another stage takes as its input: a folder, or the URI of an artifact that lies in a remote store."""
        from icr_platform.tracking.stored_artifacts import StoredArtifacts

        artifacts = self.result.artifacts
        return artifacts.reference(name) if isinstance(artifacts, StoredArtifacts) else str(artifacts[name])

    def clean_up(self) -> None:
        """Remove the work folder once MLflow holds the artifacts."""
        if self.temporary is not None:
            shutil.rmtree(self.temporary, ignore_errors=True)
            self.temporary.with_name(f".{self.temporary.name}.lock").unlink(missing_ok=True)


def open_session(options: RunOptions, worlds: Worlds | None = None) -> Session:
    """Check the tracking server before anything else, and find the caller's folder, whose modules settings may name.

    worlds: whose inputs the configurations may name.
    """
    from icr_platform.tracking.project_runs import caller_folder
    from icr_platform.tracking.tracker import Tracker

    base = caller_folder()
    work = base / ".icr"
    tracker = Tracker(options.experiment, work) if options.tracking else None
    make_importable(base)
    return Session(options=options, base=base, work=work, tracker=tracker, worlds=worlds or {})


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
    resolved = session.resolver.resolve(config, config.seed, fetch=False)
    known = session.resolver.known(resolved)
    if known and (found := _find_unread(session, stage, resolved, known)) is not None:
        return _link(session, stage, found, parent, tags or {})
    if any(value in known for value in _row_inputs(resolved)):  # of these, rows must be read to know what the work is
        resolved, known = session.resolver.resolve(config, config.seed), {}
    identity = identify(stage, resolved, known)
    place = _place(session, stage, identity, Path(resolved.output) if resolved.output else None)
    newest = _newest(session, place.fingerprint)
    if (found := _find(session, stage, identity, place)) is not None:
        return _link(session, stage, found, parent, tags or {})
    if known:
        resolved = session.resolver.resolve(config, config.seed)
    with stage_process(STAGES[stage], own_process) as process:
        process.read(resolved)
        with _locked(place.folder):
            # Another process may have done this very work in the meantime, while this one read or waited for it.
            is_news = _newest(session, place.fingerprint) != newest
            if is_news and (found := _find(session, stage, identity, place)) is not None:
                return _link(session, stage, found, parent, tags or {})
            if located(place.folder, place.fingerprint, STAGES[stage].artifacts) is None:  # there is work to do
                for name, info in leaves(type(resolved)):
                    if role(info) == "model":
                        require_weights(getattr(resolved, name))
            _make_room(session, stage, identity, place)
            earlier = _earlier(session, stage, identity, place.folder)
            unread = strict_digest(stage, resolved, known)
            own_tags = {"icr.unread": unread, **(tags or {})}
            run = _start(session, stage, config, identity, place.fingerprint, parent, own_tags)
            with track_status(run):
                log = run.log_live if run else ignore_metrics
                with run.system_metrics() if run else _nothing():
                    result = process.run(StageContext(place.folder, place.fingerprint, log, earlier))
                for note in result.notes:
                    print(f"{stage}: {note}", file=sys.stderr, flush=True)
                clear_aside(place.folder, stage)
                if run is not None:
                    _log(session, run, result)
    temporary = place.folder if run and not resolved.output and session.options.artifacts == "copy" else None
    return StageRun(result, place.fingerprint, run, reused=False, temporary=temporary)


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
    works = [work for work in known_works(session.work, folder, stage) if not chosen or work.folder == folder]
    begun = [work for work in works if work.work == identity.work and work.begun and not work.finished]
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
    while (work := read_work(place, stage)) is not None and work.finished:
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


def _earlier(session: Session, stage: str, identity: Identity, folder: Path) -> Earlier:
    """Everything that has rows of this stage's computations: folders that are there, and finished runs."""
    if not session.options.reuse or not identity.rows:
        return Earlier()
    code = {} if session.options.other_code == "use" else identity.row_code
    works = list(known_works(session.work, folder, stage))
    sources = sources_in(works, identity.rows, code)
    if session.tracker is not None:
        for name, found in stored_sources(session.tracker, identity.rows, code).items():
            sources[name] = tuple(dict.fromkeys((*sources[name], *found)))
    return Earlier(sources)


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
    from icr_platform.core.errors import TrackingError

    try:
        run.finish(status)
    except TrackingError as error:  # the first error matters more; the next start marks the run
        print(error, file=sys.stderr, flush=True)


def located(folder: Path, key: str, names: tuple[str, ...]) -> dict[str, Path] | None:
    """The artifacts in `folder` if all of them are finished, whole, and carry the fingerprint `key`."""
    paths = {name: folder / name for name in names}
    for path in paths.values():
        try:
            manifest = own_manifest(path)
        except InputError as error:
            print(str(error).rpartition(";")[0], file=sys.stderr, flush=True)
            return None
        if manifest is None or manifest.get("fingerprint") != key:
            return None
        for file, reason in damaged_files(path):
            print(f"{file}: {reason}", file=sys.stderr, flush=True)
            return None
    return paths


def _newest(session: Session, fingerprint: str) -> str:
    """Id of the newest finished run with this fingerprint, whole or not; '' without one."""
    found = session.tracker.find_finished(fingerprint) if session.tracker is not None else None
    return str(found.info.run_id) if found is not None else ""


def _find(session: Session, stage: str, identity: Identity, place: _Place) -> StageRun | None:
    """The finished, undamaged stage run of this work, if there is one."""
    tracker, key = session.tracker, place.fingerprint
    if tracker is None or not session.options.reuse:
        return None
    found = tracker.find_finished(key) or _finished_by_other_code(session, tracker, stage, identity)
    if found is None:
        return None
    key = found.data.tags["icr.cache_key"]
    # What lies in the stage's own folder may be an earlier run's of the same work, which --no-reuse did once more.
    paths: Mapping[str, Path] | None = None if place.chosen else _from_store(tracker, found, STAGES[stage].artifacts)
    if paths is None:
        paths = located(place.folder, key, STAGES[stage].artifacts)
    if paths is None:
        return None
    print(f"{stage}: found finished (run {found.info.run_id}), not run again", file=sys.stderr)
    return _found(tracker, found, paths)


def _found(tracker: Tracker, found: Run, artifacts: Mapping[str, Path]) -> StageRun:
    from icr_platform.tracking.run_handle import RunHandle

    run = RunHandle(tracker.uri, found.info.run_id, tracker.experiment_id)
    result = StageResult(artifacts=artifacts, metrics=_final_metrics(tracker, found))
    return StageRun(result, found.data.tags["icr.cache_key"], run, reused=True)


_ROW_INPUTS = ("prompts", "responses", "outputs", "reference_outputs", "questions", "answers")


def _row_inputs(config: Config) -> list[str]:
    """Inputs whose rows must be read to say what the work is."""
    return [str(getattr(config, name)) for name in _ROW_INPUTS if getattr(config, name, "")]


def _find_unread(session: Session, stage: str, config: Any, known: Mapping[str, str]) -> StageRun | None:
    """A finished run of the same inputs as they are, without fetching those that lie in a remote store.

    What differs from it only in rows that the stage does not read is found later, by what was read.
    """
    tracker = session.tracker
    digest = strict_digest(stage, config, known)
    if tracker is None or not session.options.reuse or config.output or not digest:
        return None
    for found in tracker.find_tagged({"icr.unread": digest, "icr.stage": stage}, limit=1):
        artifacts = _from_store(tracker, found, STAGES[stage].artifacts)
        if artifacts is not None:
            print(f"{stage}: found finished (run {found.info.run_id}), not run again", file=sys.stderr)
            return _found(tracker, found, artifacts)
    return None


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
        sources, fetched = [], 0
        for same in (name, *SAME_COMPUTATION.get(name, ())):
            place, column = PLACES[same][0]
            tags = {f"icr.rows.{same}": key} | ({f"icr.row_code.{same}": code[name]} if name in code else {})
            for run in tracker.find_tagged(tags, limit=_RUNS_OF_ROWS):
                stored = tracker.stored(run, place)
                if stored is None or (stored.local is None and fetched == _FETCHED_FOR_ROWS):
                    continue
                fetched += stored.local is None
                try:
                    sources.append(Source(stored.folder(), column))
                except IcrError as error:  # to take rows saves time; without them they are made
                    print(f"{error}; its rows are not taken", file=sys.stderr, flush=True)
        found[name] = tuple(sources)
    return found


def stage_from_store(tracker: Tracker, found: Any) -> StageRun:
    """A FINISHED stage run, or the one that a reused run points to, from what MLflow holds of it.

    Raises:
        InputError: its artifacts are gone or damaged.
    """
    original = found.data.tags.get("icr.reused_run")
    found = tracker.client.get_run(original) if original else found
    stage = found.data.tags["icr.stage"]
    paths = _from_store(tracker, found, STAGES[stage].artifacts)
    if paths is None:
        raise InputError(f"runs:/{found.info.run_id}: its {stage} artifacts are gone or damaged; run the command again")
    return _found(tracker, found, paths)


def _final_metrics(tracker: Tracker, found: Any) -> dict[str, float]:
    """What the stage returned; the run's own metrics hold its loss curves too."""
    final = final_metrics(found)
    if final is not None:
        return final
    path = tracker.small_file(found, METRICS)
    return dict(read_json(path)) if path is not None else dict(found.data.metrics)


def notes_of(tracker: Tracker, done: StageRun) -> tuple[str, ...]:
    """The notes of a stage, which for one that was found lie in MLflow's store."""
    if not done.reused or done.run is None:
        return done.result.notes
    path = tracker.small_file(tracker.client.get_run(done.run.run_id), NOTES)
    return tuple(path.read_text(encoding="utf-8").splitlines()) if path is not None else ()


def _from_store(tracker: Tracker, found: Any, names: tuple[str, ...]) -> StoredArtifacts | None:
    from icr_platform.tracking.stored_artifacts import StoredArtifacts

    stored = {name: tracker.stored(found, name) for name in names}
    whole = {name: artifact for name, artifact in stored.items() if artifact is not None and artifact.is_whole()}
    for artifact in whole.values():  # in a remote store sizes are compared, and bytes when a stage opens them
        try:
            damaged = damaged_files(artifact.local) if artifact.local is not None else []
        except InputError as error:
            print(str(error).rpartition(";")[0], file=sys.stderr, flush=True)
            return None
        for file, reason in damaged:
            print(f"{file}: {reason}", file=sys.stderr, flush=True)
            return None
    return StoredArtifacts(whole) if len(whole) == len(names) else None


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
    """The package's version and, in a checkout, its commit, with a mark when files differ from it."""
    return {"icr.version": __version__, "icr.commit": commit()}


def _log(session: Session, run: RunHandle, result: StageResult) -> None:
    run.log_metrics(result.metrics)
    run.tag_final_metrics(result.metrics)
    run.log_text(json.dumps(dict(result.metrics), indent=1), METRICS)
    for name, table in result.tables.items():
        run.log_table(table, name)
    for name, path in result.artifacts.items():
        if session.options.artifacts == "copy":
            run.log_artifacts(path, name)
        else:
            run.set_tags({f"icr.artifact.{name}": path, f"icr.digest.{name}": read_json(path / MANIFEST)["digest"]})
        run.tag_content(path, name, artifact_identity(path, name))
    if result.notes:
        run.log_text("\n".join(result.notes) + "\n", NOTES)
