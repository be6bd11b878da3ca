"""Runs one stage: finds its finished work, or reads its inputs once, lets it work, and tracks the result."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from icr_platform import __version__
from icr_platform.core.artifacts import MANIFEST, read_json
from icr_platform.core.config import Config, leaves, role
from icr_platform.core.earlier import Earlier
from icr_platform.core.errors import InputError, TrackingError
from icr_platform.core.secrets import redact
from icr_platform.core.stage_protocol import StageContext, StageResult, ignore_metrics
from icr_platform.core.writable import check_writable_folder
from icr_platform.models.removed_weights import require_weights
from icr_platform.pipeline.attempts import attempts_in
from icr_platform.pipeline.code_digest import commit
from icr_platform.pipeline.cost import COST, DEVICES, REUSED, cost_of
from icr_platform.pipeline.finished_work import (
    METRICS,
    NOTES,
    find_finished,
    find_unread,
    finished_artifacts,
    newest_finished,
    stored_sources,
)
from icr_platform.pipeline.identity import ROW_INPUTS, Identity, artifact_identity, identify, strict_digest
from icr_platform.pipeline.session import Session, StageRun
from icr_platform.pipeline.stage_process import StageProcess, stage_process
from icr_platform.pipeline.stages import STAGES
from icr_platform.pipeline.work import clear_aside, known_works, sources_in
from icr_platform.pipeline.work_place import WorkPlace, choose_place, locked, make_room

if TYPE_CHECKING:
    from icr_platform.tracking.run_handle import RunHandle


_COMMIT = re.compile(r"@([0-9a-f]{40})(?=:|$)")  # behind a name on the hub


def run_stage(
    session: Session,
    stage: str,
    config: Any,
    *,
    parent: RunHandle | None = None,
    tags: Mapping[str, object] | None = None,
    own_process: bool = False,
) -> StageRun:
    """Reuse, resume or run one stage, and track it.

    Raises:
        InputError: bad input, found before anything is written.
        IcrError: the stage failed; its finished parts stay for the next run of the same command.
    """
    # An input that lies in a remote store is known by its digest, and fetched only if there is work to do.
    resolved = session.resolver.resolve(config, config.seed, fetch=False)
    known = session.resolver.known(resolved)
    if known and (found := find_unread(session, stage, resolved, known)) is not None:
        return _link(session, stage, found, parent, tags or {})
    if any(getattr(resolved, name, "") in known for name in ROW_INPUTS):
        resolved, known = session.resolver.resolve(config, config.seed), {}
    try:
        identity = identify(stage, resolved, known)
    except InputError:
        if not known:
            STAGES[stage].load().read(resolved)  # which says what is missing by its field
        raise
    place = choose_place(session, stage, identity, Path(resolved.output) if resolved.output else None)
    newest = newest_finished(session, place.fingerprint)
    if (found := find_finished(session, stage, identity, place)) is not None:
        return _link(session, stage, found, parent, tags or {})
    check_writable_folder(place.folder, f"{place.folder}: the folder of {stage}")
    if known:
        resolved = session.resolver.resolve(config, config.seed)
    with stage_process(STAGES[stage], own_process) as process:
        process.read(resolved)
        with locked(place.folder):
            # Another process may have done this very work while this one read its inputs or waited for the folder.
            is_news = newest_finished(session, place.fingerprint) != newest
            if is_news and (found := find_finished(session, stage, identity, place)) is not None:
                return _link(session, stage, found, parent, tags or {})
            if finished_artifacts(place.folder, place.fingerprint, STAGES[stage].artifacts) is None:
                _require_models(resolved)
            make_room(session, stage, identity, place)
            earlier = _earlier_rows(session, stage, identity, place.folder)
            unread = strict_digest(stage, resolved, known)
            commits = commits_of(resolved)
            told = {
                "icr.unread": unread,
                **{f"icr.commit.{name}": sha for name, sha in commits.items()},
                **(tags or {}),
            }
            run = _start(session, stage, config, identity, place, parent, told)
            with track_status(run):
                result, cost, devices = _worked(session, stage, resolved, place, process, earlier, run)
    temporary = place.folder if run and not resolved.output and session.options.artifacts == "copy" else None
    return StageRun(result, place.fingerprint, run, reused=False, temporary=temporary, cost=cost, devices=devices)


def _require_models(resolved: Config) -> None:
    """Refuse models whose weights an earlier iteration removed to save disk."""
    for name, info in leaves(type(resolved)):
        if role(info) == "model":
            require_weights(getattr(resolved, name))


def _worked(
    session: Session,
    stage: str,
    resolved: Config,
    place: WorkPlace,
    process: StageProcess,
    earlier: Earlier,
    run: RunHandle | None,
) -> tuple[StageResult, dict[str, float], str]:
    """Let a stage that was read do its work, and log it: its result, what it cost, and the devices it ran on."""
    log = run.log_live if run else ignore_metrics
    with run.system_metrics() if run else nullcontext():
        result = process.run(StageContext(place.folder, place.fingerprint, log, earlier))
    result = replace(result, notes=tuple(map(redact, result.notes)))  # they are stored, too
    for note in result.notes:
        print(f"{stage}: {note}", file=sys.stderr, flush=True)
    clear_aside(place.folder, stage)
    attempts = attempts_in(place.folder, stage, place.fingerprint)
    cost = cost_of(attempts, resolved)
    devices = ", ".join(dict.fromkeys(str(one.devices) for one in attempts))
    if run is not None:
        _log(session, run, result)
        run.log_metrics(cost)
        run.set_tags({DEVICES: devices})
    return result, cost, devices


def _earlier_rows(session: Session, stage: str, identity: Identity, folder: Path) -> Earlier:
    """Everything that has rows of this stage's computations: work folders on this machine, and finished runs."""
    if not session.options.reuse or not identity.rows:
        return Earlier()
    code = {} if session.options.other_code == "use" else identity.row_code
    sources = sources_in(list(known_works(session.work, folder, stage)), identity.rows, code)
    if session.tracker is not None:
        for name, found in stored_sources(session.tracker, identity.rows, code).items():
            sources[name] = tuple(dict.fromkeys((*sources[name], *found)))
    return Earlier(sources)


@contextmanager
def track_status(run: RunHandle | None) -> Iterator[None]:
    """Give the run its final status, whatever ends the block."""
    try:
        yield
    except BaseException as error:
        if run is not None:
            try:
                run.finish("FAILED" if isinstance(error, Exception) else "KILLED")
            except TrackingError as lost:  # the first error matters more; the next start marks the run
                print(lost, file=sys.stderr, flush=True)
        raise
    if run is not None:
        run.finish()


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
    link.log_metrics({f"{REUSED}{name.removeprefix(COST)}": value for name, value in found.cost.items()})
    link.finish()
    return found


def _start(
    session: Session,
    stage: str,
    config: Config,
    identity: Identity,
    place: WorkPlace,
    parent: RunHandle | None,
    tags: Mapping[str, object],
) -> RunHandle | None:
    """Start the stage's run, tagged with everything that it is found by later."""
    if session.tracker is None:
        return None
    rows = {f"icr.rows.{name}": value for name, value in identity.rows.items()}
    rows |= {f"icr.row_code.{name}": value for name, value in identity.row_code.items()}
    own = {"icr.kind": "stage", "icr.stage": stage, "icr.cache_key": place.fingerprint, "icr.work": identity.work}
    run = session.tracker.start(stage, {**own, **rows, **code_tags(), **tags}, parent)
    run.log_params({f"{stage}.{name}": value for name, value in logged_params(config).items()})
    for name, digest in identity.inputs.items():
        given, commit_sha = str(getattr(config, name)), tags.get(f"icr.commit.{name}")
        is_said = commit_sha is None or str(commit_sha) in given
        run.log_dataset(name, digest, given if is_said else f"{given} (commit {commit_sha})", stage)
    return run


def commits_of(resolved: Config) -> dict[str, str]:
    """The commits of the models and data sets on the hub that a resolved configuration names, by field."""
    found = {}
    for name, info in leaves(type(resolved)):
        if role(info) in ("input", "model"):
            value = str(getattr(resolved, name, ""))
            commit_sha = _COMMIT.search(value)
            if commit_sha and not Path(value).is_absolute():
                found[name] = commit_sha[1]
    return found


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
    """Log what a stage made, in the form in which `finished_work` finds it again."""
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
