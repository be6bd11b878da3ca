"""Judging the outputs of sides as `icr eval` does, so that judgments are kept by row, and continued after an interruption."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from icr_platform.core.artifacts import atomic_path, open_artifact, own_manifest, text_digest
from icr_platform.core.errors import InputError
from icr_platform.core.language_tags import find_name, names_language
from icr_platform.core.schemas import JUDGMENTS
from icr_platform.data.prompts import load_prompts
from icr_platform.data.reference_outputs import WANTED, output_languages
from icr_platform.data.sources import open_source
from icr_platform.engines.judging.settings import NO_JUDGE, PairwiseJudging
from icr_platform.evaluation.config import EvalConfig
from icr_platform.evaluation.prompt_values import Metric, win_rates
from icr_platform.pipeline.compare_settings import CompareSettings
from icr_platform.pipeline.runner import run_stage
from icr_platform.pipeline.session import Session, StageRun
from icr_platform.pipeline.sides import ARTIFACTS, Side, SideRun


@dataclass(frozen=True)
class JudgedSides:
    """Sides whose outputs were judged now. head_to_head: preference over the first side by the name of each other, in percent by KEYS."""

    sides: tuple[Side, ...]
    head_to_head: Mapping[str, pd.Series]
    notes: tuple[str, ...]
    stages: tuple[StageRun, ...]


def judge_sides(session: Session, settings: CompareSettings, sides: Sequence[Side]) -> JudgedSides:
    """Judge the outputs of all sides, where a judge is asked for; files of outputs are read in any case.

    Raises:
        InputError: a side has no outputs, the prompts are not known, or no language is common to all.
        IcrError: too many judgments failed; those that are made are kept.
    """
    is_judged = settings.judge != NO_JUDGE
    if settings.reference_outputs and not is_judged:
        raise InputError("icr compare: --reference-outputs is given without a judge; give --judge, or leave it out")
    to_read = [side for side in sides if is_judged or side.kind == "file" or _is_outputs_alone(side)]
    if not to_read:
        return JudgedSides(tuple(sides), {}, (), ())
    for side in to_read:
        if not all(_source(side, run) for run in side.runs):
            raise InputError(
                f"{side.given}: has no outputs to judge; give a side that was evaluated, or leave --judge out"
            )
    is_against_first = is_judged and not settings.reference_outputs
    if is_against_first and len(sides[0].runs) > 1:
        raise InputError(
            f"{sides[0].given}: {len(sides[0].runs)} runs, and the other sides are judged against the outputs of the first one; give the id "
            "of one run there, or --reference-outputs"
        )
    asking = _asking(session, settings, to_read)
    found: list[Side] = []
    stages: list[StageRun] = []
    against: dict[str, pd.Series] = {}
    for side in sides:
        if side not in to_read:
            found.append(side)
            continue
        reference = _reference(session, settings, sides, side) if is_judged else _Reference("", {})
        done = [_evaluate(session, settings, asking, run, _source(side, run), reference) for run in side.runs]
        stages += done
        is_head_to_head = is_against_first and side is not sides[0]
        if is_head_to_head:
            wins = [win_rates(open_artifact(one.artifact("judgments"), JUDGMENTS))[Metric("win_rate")] for one in done]
            against[side.name] = pd.concat(wins, axis=1).dropna().mean(axis=1)
        runs = [
            _as_side_run(run, one, {} if is_against_first or not reference.place else reference.params(settings.seed))
            for run, one in zip(side.runs, done, strict=True)
        ]
        found.append(replace(side, runs=tuple(runs)))
    return JudgedSides(tuple(found), against, asking.notes, tuple(stages))


class _Reference(NamedTuple):
    """What outputs are judged against; '' for nothing. columns: of its files."""

    place: str
    columns: Mapping[str, str | None]

    def params(self, seed: int) -> dict[str, str]:
        """As an evaluation records them, from which length control finds the reference outputs again."""
        return {"reference_outputs": self.place, "reference_columns": json.dumps(dict(self.columns)), "seed": str(seed)}


class _Asking(NamedTuple):
    """The prompts of the outputs that are read, and the languages that all sides have."""

    prompts: str
    columns: Mapping[str, str | None]
    languages: tuple[str, ...]
    notes: tuple[str, ...]


def _reference(session: Session, settings: CompareSettings, sides: Sequence[Side], side: Side) -> _Reference:
    """What a side is judged against: the given reference outputs, or those of the first side, which itself is not judged then."""
    if settings.reference_outputs:
        return _Reference(settings.reference_outputs, settings.reference_columns)
    if side is sides[0]:
        return _Reference("", {})
    source = _source(sides[0], sides[0].runs[0])
    return _Reference(source, {} if _is_artifact(session, source, settings.seed) else settings.output_columns)


def _is_artifact(session: Session, source: str, seed: int) -> bool:
    return own_manifest(Path(session.resolver.local(source, seed))) is not None


def _is_outputs_alone(side: Side) -> bool:
    """Whether an artifact of outputs is all that there is: it is read again, for its lines and, with a judge, its preferences."""
    return side.kind == "artifact" and all(set(run.places) <= {"outputs"} for run in side.runs)


def _source(side: Side, run: SideRun) -> str:
    """The outputs of one run, as `icr eval --outputs` takes them; '' where it has none."""
    if side.kind == "file":
        return side.source
    outputs = run.open("outputs")
    return "" if outputs is None else str(outputs.folder)


def _asking(session: Session, settings: CompareSettings, sides: Sequence[Side]) -> _Asking:
    """The prompts, and the languages that all have. Without prompts, the instructions in the first side's files are the prompts.

    Raises:
        InputError: the files have no instructions, or there is no common language.
    """
    columns = settings.prompt_columns
    prompts, source = settings.prompts, _source(sides[0], sides[0].runs[0])
    if not prompts:
        prompts, columns = (
            source,
            columns or {name: column for name, column in settings.output_columns.items() if name != "output"},
        )
        if _is_artifact(session, source, settings.seed):
            prompts, columns = str(_instructions_of(session, sides[0])), {}
    try:
        place = session.resolver.local(prompts, settings.seed)
        asked = load_prompts(place, settings.languages, settings.limit, columns).languages
    except InputError as error:
        if settings.prompts:
            raise
        raise InputError(
            f"{error}; the instructions of {source} serve as prompts, unless --prompts gives others"
        ) from error
    own = {side.name: _languages(session, settings, side) for side in sides}
    common = [code for code in asked if all(not names or find_name(code, names) is not None for names in own.values())]
    if not common:
        said = "; ".join(f"{name} has {', '.join(names)}" for name, names in own.items() if names)
        raise InputError(
            f"icr compare: no common language: the prompts have {', '.join(asked)}; {said}; give outputs in the same languages"
        )
    left = [code for code in asked if code not in common]
    notes = (f"languages that not every side has are left out: {', '.join(left)}",) if left else ()
    return _Asking(prompts, columns, tuple(common), notes)


def _languages(session: Session, settings: CompareSettings, side: Side) -> list[str]:
    """Languages of a side's outputs; none where a file does not say."""
    source = session.resolver.local(_source(side, side.runs[0]), settings.seed)
    columns = settings.output_columns if side.kind == "file" else {}
    if "{language}" in source:
        return [name for name in open_source(source, WANTED, (), columns=columns).names if names_language(name)]
    return output_languages(source, columns)


def _instructions_of(session: Session, side: Side) -> Path:
    """The instructions of an artifact of outputs as a file of prompts, one file for the same instructions."""
    outputs = side.runs[0].open("outputs")
    assert outputs is not None  # it was asked for its folder
    rows = outputs.read(["language", "prompt_id", "instruction", "messages"]).to_pandas()
    rows = rows.drop_duplicates(["language", "prompt_id"])
    given = rows.drop(columns="messages") if rows["messages"].isna().all() else rows
    folder = session.work / "compare" / text_digest(outputs.digest)[:16]
    folder.mkdir(parents=True, exist_ok=True)
    for code, of in given.groupby("language", sort=False):
        with atomic_path(folder / f"{code}.jsonl") as temporary:
            of.drop(columns="language").to_json(temporary, orient="records", lines=True, force_ascii=False)
    return folder


def _evaluate(
    session: Session, settings: CompareSettings, asking: _Asking, run: SideRun, outputs: str, reference: _Reference
) -> StageRun:
    """`icr eval` of given outputs, which are judged where there is something to judge them against."""
    judging = {name: getattr(settings, name) for name in PairwiseJudging.model_fields}
    if not reference.place:
        judging["judge"] = NO_JUDGE
    config = EvalConfig(
        **judging,
        outputs=outputs,
        output_columns={} if _is_artifact(session, outputs, settings.seed) else settings.output_columns,
        prompts=asking.prompts,
        prompt_columns=dict(asking.columns),
        reference_outputs=reference.place,
        reference_columns=dict(reference.columns),
        languages=asking.languages,
        limit=settings.limit,
        language_identifier=settings.language_identifier,
        seed=settings.seed,
    )
    return run_stage(session, "eval", config, tags={"icr.compared": run.label[:200]})


def _as_side_run(run: SideRun, done: StageRun, params: Mapping[str, str]) -> SideRun:
    """The run with what was found now in place of what it had of its own outputs. params: what it was judged against, if it is compared by that."""
    names = {name for name, (stage, _) in ARTIFACTS.items() if stage == "eval"} & set(done.result.artifacts)
    kept = {name: place for name, place in run.places.items() if ARTIFACTS[name][0] != "eval"}
    found = {name: partial(done.artifact, name) for name in names if params or name != "judgments"}
    return replace(run, places={**kept, **found}, judged=None, params=params, _opened={})
