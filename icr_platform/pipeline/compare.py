"""compare: two or more sides, each against the first, by everything that both have measured."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import pandas as pd

from icr_platform.core.errors import IcrError, InputError
from icr_platform.core.language_tags import english_first, is_english
from icr_platform.data.reference_outputs import ReferenceOutputs, load_reference_outputs
from icr_platform.evaluation.arm_comparison import (
    Judged,
    adjusted,
    difference,
    length_controlled,
    pair_items,
    verdict,
)
from icr_platform.evaluation.difficulty import read_difficulty
from icr_platform.evaluation.inputs import read_anchors
from icr_platform.evaluation.prompt_preferences import PROMPT_KEY, SAMPLE_KEY, preferences_by_prompt
from icr_platform.evaluation.prompt_values import Metric, Sides, paired_values
from icr_platform.evaluation.scores import MEAN, MEAN_NON_ENGLISH
from icr_platform.pipeline.sides import Side, SideRun

ORDER = (
    "head_to_head", "win_rate", "lc_win_rate", "instruction_accuracy", "prompt_accuracy", "reward_accuracy", "corruption_accuracy", "mt_bench",
    "benchmark", "fidelity", "line_pass_rate", "word_pass_rate", "truncated", "length/characters",
)  # fmt: skip
"""Metrics in the order in which they are shown; others come last."""
HEAD_TO_HEAD = "head_to_head"
Locate = Callable[[str, int], str]
"""Local path of what a run's parameter names, as `Resolver.local`."""
_JUDGED = ("win_rate", "lc_win_rate", "mt_bench")


@dataclass(frozen=True)
class Comparison:
    """What two or more sides differ in.

    sides: the first is what the others are compared with. table: a row for each metric, language (or kind of mean) and other side: columns
    metric, language, first_side, second_side, those of `arm_comparison.Compared`, adjusted_p_value, adjusted_equivalence and verdict.
    margin: of equivalence, in points; None where it was not tested. costs: a row for each side with the means over its runs of what was
    measured; empty where nothing was. notes: for a person.
    """

    sides: tuple[Side, ...]
    table: pd.DataFrame
    margin: float | None = None
    costs: pd.DataFrame = field(default_factory=pd.DataFrame)
    notes: tuple[str, ...] = ()


def compare_sides(
    sides: Sequence[Side],
    locate: Locate,
    *,
    margin: float | None = None,
    metrics: Sequence[str] = (),
    languages: Sequence[str] = (),
    head_to_head: Mapping[str, pd.Series] | None = None,
) -> Comparison:
    """Compare each side with the first.

    Args:
        locate: finds the reference outputs and difficulties that an evaluation named, for length control.
        metrics: beginnings of the names of those to compare; empty for all.
        head_to_head: by the name of each other side, its preference over the first by KEYS, in percent, where they were judged against each other.

    Raises:
        InputError: the sides were judged by other judges or against other reference outputs, have nothing in common, or no language.
    """
    wanted = tuple(metrics) or ("",)
    notes = [note for side in sides for note in side.notes]
    if any(name.startswith(wanted) for name in _JUDGED):
        notes += check_judges(sides, locate)
    first, rows = sides[0], []
    for second in sides[1:]:
        openers = [run.open for run in first.runs], [run.open for run in second.runs]
        values = paired_values(*openers, (first.seeds, second.seeds))
        values = {metric: pair for metric, pair in values.items() if metric.name.startswith(wanted)}
        found = [
            {"metric": metric.name, **row}
            for metric, pair in values.items()
            for row in _rows_of(metric, pair, languages, margin)
        ]
        if Metric("win_rate") in values and "lc_win_rate".startswith(wanted):
            controlled, why = _controlled_rows(first, second, locate, languages, margin)
            found += controlled
            notes += why
        if head_to_head and second.name in head_to_head:
            found += _head_to_head_rows(head_to_head[second.name], languages, margin)
        if not found:
            raise InputError(_nothing_in_common(first, second, values, languages))
        notes += _unpaired(first, second, found)
        rows += [{"first_side": first.name, "second_side": second.name, **row} for row in found]
    table = adjusted(pd.DataFrame(rows))
    table["verdict"] = [verdict(row) for row in table.to_dict("records")]
    return Comparison(tuple(sides), _in_order(table, sides), margin, _costs(sides), tuple(dict.fromkeys(notes)))


def _rows_of(metric: Metric, sides: Sides, languages: Sequence[str], margin: float | None) -> list[dict[str, Any]]:
    """A row for each language that both have, and for the means over several."""
    pairs = pair_items(*sides)
    margin = margin if metric.limits == (0.0, 100.0) else None  # points of a rate say nothing of characters or ratings
    codes = english_first(code for code in pairs.languages if not languages or code in languages)
    return [
        {
            "language": name,
            **difference(pairs, members, margin=margin, test=metric.test, limits=metric.limits)._asdict(),
        }
        for name, members in groups_of(codes).items()
    ]


def groups_of(codes: Sequence[str]) -> dict[str, list[str]]:
    """Rows of a table by name: each language, the mean over several, and over those beside English where English is one of them.

    >>> groups_of(["en", "es", "fr"])["mean_non_english"], list(groups_of(["es"]))
    (['es', 'fr'], ['es'])
    """
    groups = {code: [code] for code in codes}
    others = [code for code in codes if not is_english(code)]
    if len(codes) > 1:
        groups[MEAN] = list(codes)
    if 0 < len(others) < len(codes):
        groups[MEAN_NON_ENGLISH] = others
    return groups


def _head_to_head_rows(preference: pd.Series, languages: Sequence[str], margin: float | None) -> list[dict[str, Any]]:
    """The share of comparisons that each side wins against the other: together 100, and 50 is even."""
    from icr_platform.evaluation.arm_comparison import Runs

    sides = Runs([100.0 - preference], (None,)), Runs([preference], (None,))
    return [{"metric": HEAD_TO_HEAD, **row} for row in _rows_of(Metric(HEAD_TO_HEAD), sides, languages, margin)]


def _in_order(table: pd.DataFrame, sides: Sequence[Side]) -> pd.DataFrame:
    place = {name: index for index, name in enumerate(ORDER)}
    rank = [place.get(name, place.get(name.partition("/")[0], len(ORDER))) for name in table["metric"]]
    side = {one.name: index for index, one in enumerate(sides)}
    ordered = table.assign(_rank=rank, _side=table["second_side"].map(side), _at=range(len(table)))
    ordered = ordered.sort_values(["_rank", "metric", "_side", "_at"], kind="stable", ignore_index=True)
    return ordered.drop(columns=["_rank", "_side", "_at"])


def _nothing_in_common(first: Side, second: Side, values: Mapping[Metric, Sides], languages: Sequence[str]) -> str:
    """Why no row came of two sides."""
    if values:
        own = []
        for index, side in enumerate((first, second)):
            codes = {
                str(code)
                for pair in values.values()
                for run in pair[index].values
                for code in run.index.get_level_values(0)
            }
            own.append(f"{side.name} has {', '.join(english_first(codes)) or 'none'}")
        asked = f" among --languages {','.join(languages)}" if languages else ""
        return f"icr compare: {' and '.join(own)}: no prompt of a common language{asked}; compare sides that were evaluated on the same prompts"
    has = []
    for side in (first, second):
        names = sorted(set.intersection(*(set(run.places) for run in side.runs))) if side.runs else []
        has.append(f"{side.name} has {', '.join(names) or 'nothing'}")
    return f"icr compare: {' and '.join(has)}: nothing was measured of both; evaluate both on the same prompts, or give --judge for outputs"


def _unpaired(first: Side, second: Side, rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """How many prompts of each side were left out, once for metrics of which it is the same."""
    said: dict[str, list[str]] = {}
    for name in dict.fromkeys(row["metric"] for row in rows):
        parts = [
            f"{row['language']} {row['first_only']} of {first.name}, {row['second_only']} of {second.name} (compared: {row['n']})"
            for row in rows
            if row["metric"] == name
            and not row["language"].startswith(MEAN)
            and (row["first_only"] or row["second_only"])
        ]
        if parts:
            said.setdefault("; ".join(parts), []).append(name)
    return [f"{', '.join(names)}: prompts without a counterpart are left out: {text}" for text, names in said.items()]


def _costs(sides: Sequence[Side]) -> pd.DataFrame:
    """A row for each side with what its runs cost, on average; empty where none was measured."""
    rows = []
    for side in sides:
        names = dict.fromkeys(name for run in side.runs for name in run.costs)
        means = {
            name: sum(values) / len(values)
            for name in names
            if (values := [run.costs[name] for run in side.runs if name in run.costs])
        }
        rows.append({"side": side.name, **means})
    table = pd.DataFrame(rows)
    return table if len(table.columns) > 1 else pd.DataFrame()


# Judges and reference outputs ---------------------------------------------------------------------------------------------------------


def check_judges(sides: Sequence[Side], locate: Locate) -> list[str]:
    """Raise InputError where runs were judged by other judges, or against other reference outputs; give notes on what is not known."""
    notes = []
    judged = [(side, run) for side in sides for run in side.runs if run.judged is not None]
    if not judged:
        return []
    without = [side.name for side in sides if all(run.judged is None for run in side.runs)]
    if without:
        notes.append(
            f"win rates are left out where a side was not judged: {', '.join(without)}; --judge judges the outputs of all sides"
        )
    for (before, known), (side, run) in pairwise(judged):
        notes += _check_settings(before, known, side, run)
    # Judgments of one seed are compared with each other alone where all sides have the same seeds, each maybe with references of its own.
    seeds = sides[0].seeds if len({frozenset(side.seeds) for side in sides}) == 1 and None not in sides[0].seeds else ()
    for group in [[one for one in judged if one[1].seed == seed] for seed in seeds] or [judged]:
        for (before, known), (side, run) in pairwise(group):
            notes += _check_references(before, known, side, run, locate)
    return notes


_ALIKE = "evaluate both alike, or give --judge to judge the outputs of both now"


def _check_settings(before: Side, known: SideRun, side: Side, run: SideRun) -> list[str]:
    """Raise InputError where two runs were not judged by the same judge; a note where that cannot be known."""
    ours, theirs = known.judged, run.judged
    assert ours is not None and theirs is not None  # noqa: PT018 - of those that were judged
    if ours.settings is None or theirs.settings is None:
        if ours.judge.split()[-1] not in theirs.judge and theirs.judge.split()[-1] not in ours.judge:
            raise InputError(
                f"icr compare: {before.name} was judged by {ours.judge}, {side.name} by {theirs.judge}; {_ALIKE}"
            )
        return [
            f"{before.name} and {side.name}: a folder does not say what its judgments were made against; see that it is the same"
        ]
    if apart := [name for name, value in ours.settings.items() if theirs.settings.get(name) != value]:
        what = ", ".join(f"{name} {ours.settings[name]} and {theirs.settings.get(name)}" for name in apart)
        raise InputError(
            f"icr compare: {before.name} was judged by {ours.judge}, {side.name} by {theirs.judge}, with another {what}; {_ALIKE}"
        )
    return []


def _check_references(before: Side, known: SideRun, side: Side, run: SideRun, locate: Locate) -> list[str]:
    """Raise InputError where two runs were judged against other reference outputs.

    Other prompts make another digest of the same reference outputs: those of the prompts in common are compared.
    """
    assert known.judged is not None and run.judged is not None  # noqa: PT018 - of those that were judged
    if known.judged.settings is None or run.judged.settings is None:
        return []
    if known.judged.digest and known.judged.digest == run.judged.digest:
        return []
    names = known.judged.references, run.judged.references
    first, second = (
        (before.name, side.name) if before is not side else (f"{side.name}, seed {one.seed}," for one in (known, run))
    )
    refused = InputError(
        f"icr compare: {first} was judged against {names[0]}, {second} against {names[1]}, which differ; {_ALIKE}"
    )
    try:
        texts = [references_of(one, locate) for one in (known, run)]
    except (IcrError, OSError) as error:
        if names[0] != names[1]:
            raise refused from error
        return [
            f"{names[0]}: cannot be read any more ({error}); it is taken to be the same for {before.name} and {side.name}"
        ]
    common = texts[0].outputs.keys() & texts[1].outputs.keys()
    if any(texts[0].outputs[key] != texts[1].outputs[key] for key in common):
        raise refused
    return []


def references_of(run: SideRun, locate: Locate) -> ReferenceOutputs:
    """The reference outputs that a run was judged against.

    Raises:
        IcrError, OSError: they cannot be read any more.
    """
    outputs = run.open("outputs")
    if outputs is None:
        raise InputError(f"{run.label}: has no outputs")
    asked: dict[str, dict[str, str]] = {}
    for row in outputs.read([*PROMPT_KEY, "instruction"]).to_pylist():
        asked.setdefault(row["language"], {})[row["prompt_id"]] = row["instruction"]
    place = locate(run.params.get("reference_outputs", ""), _seed(run))
    return load_reference_outputs(place, asked, columns=json.loads(run.params.get("reference_columns") or "{}"))


def _seed(run: SideRun) -> int:
    text = run.params.get("seed", "")
    return int(text) if text.isdigit() else 42


def _controlled_rows(
    first: Side, second: Side, locate: Locate, languages: Sequence[str], margin: float | None
) -> tuple[list[dict[str, Any]], list[str]]:
    """Rows of the length-controlled win rate, or why there are none."""
    try:
        own, other = ([_judged_prompts(run, locate) for run in side.runs] for side in (first, second))
    except (IcrError, OSError) as error:
        return [], [
            f"lc_win_rate is left out, for what {first.name} or {second.name} was judged against cannot be read: {error}"
        ]
    runs = [*own, *other]
    shared = set.intersection(*(set(run) for run in runs))
    codes = english_first(code for code in shared if not languages or code in languages)
    by_seed = len(first.runs) > 1 and None not in first.seeds and set(first.seeds) == set(second.seeds)
    if by_seed:
        other = [other[second.seeds.index(seed)] for seed in first.seeds]
    rows = []
    for name, members in groups_of(codes).items():
        found = length_controlled(own, other, members, by_seed=by_seed, margin=margin)
        rows.append({"metric": "lc_win_rate", "language": name, **found._asdict()})
    return [row for row in rows if row["n"]], []


def _judged_prompts(run: SideRun, locate: Locate) -> dict[str, Judged]:
    """Preferences and lengths by language, of the prompts that have a preference."""
    outputs, judgments = run.open("outputs"), run.open("judgments")
    if outputs is None or judgments is None:
        raise InputError(f"{run.label}: has no outputs beside its judgments")
    references = references_of(run, locate)
    lengths = outputs.read([*SAMPLE_KEY, "character_count"]).to_pandas()
    texts = [references.get(*key) or "" for key in lengths[SAMPLE_KEY].itertuples(index=False)]
    lengths = lengths.assign(reference_length=list(map(len, texts))).rename(
        columns={"character_count": "candidate_length"}
    )
    judged = judgments.read([*SAMPLE_KEY, "preference"]).to_pandas().merge(lengths, on=SAMPLE_KEY, how="left")
    prompts = preferences_by_prompt(judged, Judged.LENGTHS).dropna()
    known, anchors = _difficulties(run, outputs.read([*PROMPT_KEY, "instruction"]).to_pylist(), locate)
    keys = zip(prompts["language"], prompts["prompt_id"], strict=True)
    prompts = prompts.assign(difficulty=[known.get(key, float("nan")) for key in keys])
    return {str(code): Judged(of, anchors) for code, of in prompts.groupby("language", sort=False)}


def _difficulties(
    run: SideRun, asked: Sequence[Mapping[str, str]], locate: Locate
) -> tuple[Mapping[tuple[str, str], float], pd.DataFrame | None]:
    """What the run's own length control took beside lengths."""
    if not run.params.get("difficulty"):
        return {}, None
    instructions: dict[str, dict[str, str]] = {}
    for row in asked:
        instructions.setdefault(row["language"], {})[row["prompt_id"]] = row["instruction"]
    known = read_difficulty(Path(locate(run.params["difficulty"], _seed(run))), instructions).by_prompt
    anchors = run.params.get("anchors", "")
    return known, read_anchors(Path(locate(anchors, _seed(run)))) if anchors else None
