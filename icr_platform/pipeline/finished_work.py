"""Finished work is found again: whole stage runs with the same identity, and single rows of runs that share a computation."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from icr_platform.core.artifacts import damaged_files, own_manifest, read_json
from icr_platform.core.earlier import PLACES, SAME_COMPUTATION, Source
from icr_platform.core.errors import IcrError, InputError
from icr_platform.core.stage_protocol import StageResult
from icr_platform.pipeline.cost import COST, DEVICES
from icr_platform.pipeline.identity import Identity, strict_digest
from icr_platform.pipeline.session import Session, StageRun
from icr_platform.pipeline.stages import STAGES
from icr_platform.pipeline.work_place import WorkPlace
from icr_platform.tracking.final_metrics import final_metrics

if TYPE_CHECKING:
    from icr_platform.tracking.stored_artifacts import StoredArtifacts
    from icr_platform.tracking.tracker import Run, Tracker

METRICS, NOTES = "metrics.json", "notes.txt"
_RUNS_OF_ROWS = 20  # the newest ones that single rows are taken from
_FETCHED_FOR_ROWS = 3  # of these, where they lie in a remote store


def find_finished(session: Session, stage: str, identity: Identity, place: WorkPlace) -> StageRun | None:
    """The finished, undamaged stage run of this work, if there is one."""
    tracker = session.tracker
    if tracker is None or not session.options.reuse:
        return None
    found = tracker.find_finished(place.fingerprint) or _finished_by_other_code(session, tracker, stage, identity)
    if found is None:
        return None
    # A folder that was not chosen may contain the same work of an earlier run, which --no-reuse has done once more since.
    artifacts: Mapping[str, Path] | None = None
    if not place.chosen:
        artifacts = _from_store(tracker, found, STAGES[stage].artifacts)
    if artifacts is None:
        artifacts = finished_artifacts(place.folder, found.data.tags["icr.cache_key"], STAGES[stage].artifacts)
    return _reused(tracker, stage, found, artifacts) if artifacts is not None else None


def newest_finished(session: Session, fingerprint: str) -> str:
    """Id of the newest finished run with this fingerprint, damaged or not; '' if there is none."""
    found = session.tracker.find_finished(fingerprint) if session.tracker is not None else None
    return str(found.info.run_id) if found is not None else ""


def find_unread(session: Session, stage: str, config: Any, known: Mapping[str, str]) -> StageRun | None:
    """A finished run of the same inputs as they are, found without fetching those that lie in a remote store.

    What differs only in rows that the stage does not read is found later, by what was read.
    """
    tracker = session.tracker
    digest = strict_digest(stage, config, known)
    if tracker is None or not session.options.reuse or config.output or not digest:
        return None
    for found in tracker.find_tagged({"icr.unread": digest, "icr.stage": stage}, limit=1):
        artifacts = _from_store(tracker, found, STAGES[stage].artifacts)
        if artifacts is not None:
            return _reused(tracker, stage, found, artifacts)
    return None


def finished_artifacts(folder: Path, fingerprint: str, names: Iterable[str]) -> dict[str, Path] | None:
    """The artifacts in a folder if all of them are finished, undamaged, and carry the fingerprint."""
    artifacts = {name: folder / name for name in names}
    for path in artifacts.values():
        try:
            manifest = own_manifest(path)
        except InputError as error:
            print(str(error).rpartition(";")[0], file=sys.stderr, flush=True)
            return None
        if manifest is None or manifest.get("fingerprint") != fingerprint or _is_damaged(path):
            return None
    return artifacts


def stage_from_store(tracker: Tracker, found: Any) -> StageRun:
    """A FINISHED stage run, or the one that a reused run points to, from what MLflow has of it.

    Raises:
        InputError: its artifacts are gone or damaged.
    """
    original = found.data.tags.get("icr.reused_run")
    found = tracker.client.get_run(original) if original else found
    stage = found.data.tags["icr.stage"]
    artifacts = _from_store(tracker, found, STAGES[stage].artifacts)
    if artifacts is None:
        raise InputError(f"runs:/{found.info.run_id}: its {stage} artifacts are gone or damaged; run the command again")
    return _stage_run(tracker, found, artifacts)


def notes_of(tracker: Tracker, done: StageRun) -> tuple[str, ...]:
    """The notes of a stage; those of one that was found lie in MLflow's store."""
    if not done.reused or done.run is None:
        return done.result.notes
    path = tracker.small_file(tracker.client.get_run(done.run.run_id), NOTES)
    return tuple(path.read_text(encoding="utf-8").splitlines()) if path is not None else ()


def stored_sources(tracker: Tracker, rows: Mapping[str, str], code: Mapping[str, str]) -> dict[str, tuple[Source, ...]]:
    """Where finished runs have rows of each computation; see `work.sources_in`."""
    found: dict[str, tuple[Source, ...]] = {}
    for name, key in rows.items():
        # Newest first: a store of many runs must not cost more than the rows are worth.
        sources, fetched = [], 0
        for same in (name, *SAME_COMPUTATION.get(name, ())):
            # What a finished stage leaves comes first; the others are folders that it worked in.
            places = [place for place in PLACES[same] if place.name == PLACES[same][0].name]
            tags = {f"icr.rows.{same}": key} | ({f"icr.row_code.{same}": code[name]} if name in code else {})
            for run in tracker.find_tagged(tags, limit=_RUNS_OF_ROWS):
                stored = tracker.stored(run, places[0].name)
                if stored is None or (stored.local is None and fetched == _FETCHED_FOR_ROWS):
                    continue
                fetched += stored.local is None
                try:
                    folder = stored.folder()
                    sources += [Source(folder, place.column, place.digest) for place in places]
                except IcrError as error:  # reusing rows only saves time: those that cannot be fetched are made again
                    print(f"{error}; its rows are not reused", file=sys.stderr, flush=True)
        found[name] = tuple(sources)
    return found


def _finished_by_other_code(session: Session, tracker: Tracker, stage: str, identity: Identity) -> Run | None:
    """A finished run of the same work by other code, which is always named, but taken only if `other_code` says so."""
    found = next(iter(tracker.find_tagged({"icr.work": identity.work, "icr.stage": stage}, limit=1)), None)
    if found is None:
        return None
    commit, is_taken = found.data.tags.get("icr.commit", "?"), session.options.other_code == "use"
    outcome = "taken" if is_taken else "made again, --other-code use takes it"
    print(
        f"{stage}: other code (commit {commit}) finished this work in run {found.info.run_id}; {outcome}",
        file=sys.stderr,
        flush=True,
    )
    return found if is_taken else None


def _reused(tracker: Tracker, stage: str, found: Run, artifacts: Mapping[str, Path]) -> StageRun:
    print(f"{stage}: found finished (run {found.info.run_id}), not run again", file=sys.stderr)
    return _stage_run(tracker, found, artifacts)


def _stage_run(tracker: Tracker, found: Any, artifacts: Mapping[str, Path]) -> StageRun:
    from icr_platform.tracking.run_handle import RunHandle

    # A run's own metrics include its loss curves: a tag, or else a file, says what the stage returned.
    metrics = final_metrics(found)
    if metrics is None:
        path = tracker.small_file(found, METRICS)
        metrics = dict(read_json(path)) if path is not None else dict(found.data.metrics)
    run = RunHandle(tracker.uri, found.info.run_id, tracker.experiment_id)
    cost = {name: value for name, value in found.data.metrics.items() if name.startswith(COST)}
    return StageRun(
        StageResult(artifacts, metrics),
        found.data.tags["icr.cache_key"],
        run,
        reused=True,
        cost=cost,
        devices=found.data.tags.get(DEVICES, ""),
    )


def _from_store(tracker: Tracker, found: Any, names: Iterable[str]) -> StoredArtifacts | None:
    """The artifacts of a run if all of them are in the store, undamaged."""
    from icr_platform.tracking.stored_artifacts import StoredArtifacts

    whole = {}
    for name in names:
        stored = tracker.stored(found, name)
        # Of what lies in a remote store only sizes are compared here; a stage that fetches it compares the bytes.
        if stored is None or not stored.is_whole() or (stored.local is not None and _is_damaged(stored.local)):
            return None
        whole[name] = stored
    return StoredArtifacts(whole)


def _is_damaged(path: Path) -> bool:
    """Whether an artifact is not what its manifest says; names the first file that is not."""
    try:
        damaged = damaged_files(path)
    except InputError as error:
        print(str(error).rpartition(";")[0], file=sys.stderr, flush=True)
        return True
    for file, reason in damaged[:1]:
        print(f"{file}: {reason}", file=sys.stderr, flush=True)
    return bool(damaged)
