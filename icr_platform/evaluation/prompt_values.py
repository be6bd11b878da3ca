"""The values by prompt of everything that is measured of a policy, from the tables that its stages left. Pure but for reading them.

A metric's values are a Series with the index `arm_comparison.KEYS`. Samples of a prompt are averaged; turns, instructions, labelled pairs
and documents are items of their own.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from icr_platform.core.artifacts import Artifact
from icr_platform.core.languages import counts_as
from icr_platform.core.schemas import CONFUSION
from icr_platform.evaluation.arm_comparison import KEYS, PERCENT, Compared, Runs, Test, difference, pair_items
from icr_platform.evaluation.comparison import holm
from icr_platform.evaluation.confusion import english_words
from icr_platform.evaluation.confusion_table import (  # renamed, it would be other code of eval
    LINES,
    WORDS,
    _by_prompt,
    confusion_parts,
)
from icr_platform.evaluation.instruction_scores import (
    LEVELS,
    OUTPUT,
    READINGS,
    outputs_followed,
    read_checks,
    shared_checks,
)
from icr_platform.evaluation.prompt_preferences import PROMPT_KEY, preferences_by_prompt

Opener = Callable[[str], Artifact | None]
"""An artifact of one run by name; None where the run has none."""
_FAR_APART = 1_000_000  # more samples than a prompt has


class Metric(NamedTuple):
    """What is compared: its name in MLflow, the table that it comes from, how it is tested, and between what its values lie."""

    name: str
    test: Test = "bootstrap"
    limits: tuple[float, float] | None = PERCENT


Sides = tuple[Runs, Runs]
Values = dict[Metric, pd.Series]


def paired_values(
    first: Sequence[Opener], second: Sequence[Opener], seeds: tuple[Sequence[int | None], Sequence[int | None]]
) -> dict[Metric, Sides]:
    """Values of every metric that all runs of both sides have, in the order in which they are shown."""
    read = [[_of_run(opener) for opener in side] for side in (first, second)]
    every = [run for side in read for run in side]
    found: dict[Metric, Sides] = {}
    for metric in every[0]:
        if all(metric in run for run in every):
            runs = [Runs([run[metric] for run in side], own) for side, own in zip(read, seeds, strict=True)]
            found[metric] = (runs[0], runs[1])
    checks = [[opener("instruction_checks") for opener in side] for side in (first, second)]
    if all(artifact is not None for side in checks for artifact in side):
        found |= _instructions([[read_checks(one) for one in side if one is not None] for side in checks], seeds)
    return found


def _of_run(opener: Opener) -> Values:
    found: Values = {}
    for table, read in _READERS.items():
        artifact = opener(table)
        if artifact is not None and artifact.rows:
            found |= read(artifact)
    outputs, confusion = opener("outputs"), opener("confusion")
    if outputs is not None and outputs.rows:
        # Outputs that an earlier version finished have no table of their lines.
        parts = (
            confusion_parts(outputs, english_words(""))
            if confusion is None
            else map(confusion.read_part, range(len(confusion.parts)))
        )
        rates = pd.concat([_by_prompt(CONFUSION.schema.empty_table()), *map(_by_prompt, parts)]).reset_index()
        found |= {Metric(name): _series(rates, name) for name in (LINES, WORDS) if rates[name].notna().any()}
    return found


def win_rates(judgments: Artifact) -> Values:
    """Preference of each prompt, in percent."""
    rows = judgments.read([*PROMPT_KEY, "sample_index", "preference"]).to_pandas()
    return {Metric("win_rate"): _series(preferences_by_prompt(rows), "preference", 100.0)}


def output_values(outputs: Artifact) -> Values:
    """In the language of the prompt, truncated, and characters."""
    rows = outputs.read([*PROMPT_KEY, "detected_language", "finish_reason", "character_count"]).to_pandas()
    in_language = [counts_as(*pair) for pair in zip(rows["language"], rows["detected_language"], strict=True)]
    truncated = (rows["finish_reason"] == "length").astype(float).where(rows["finish_reason"].notna())
    facts = rows.assign(fidelity=np.array(in_language, float), truncated=truncated)
    found = {
        Metric("fidelity"): _series(facts, "fidelity", 100.0),
        Metric("truncated"): _series(facts, "truncated", 100.0),
        Metric("length/characters", limits=None): _series(facts, "character_count"),
    }
    return {metric: values for metric, values in found.items() if values.notna().any()}


def reward_values(pairs: Artifact) -> Values:
    """Whether each kind of reward ranks a labelled pair right: 100, 50 or 0."""
    rows = pairs.read([*PROMPT_KEY, "pair_id", "source", "kind", "is_right"]).to_pandas()
    found = {}
    for (source, kind), of in rows.groupby(["source", "kind"], sort=False):
        name = "reward_accuracy" if source == "pairs" else "corruption_accuracy"
        found[Metric(f"{name}/{kind}", "sign-flip")] = _series(of, "is_right", 100.0, item=of["pair_id"])
    return found


def benchmark_values(benchmarks: Artifact) -> Values:
    """The results of lm-eval by document: in percent where they lie in [0, 1], as accuracies do, and else as they are."""
    rows = benchmarks.read(["language", "family", "task", "metric", "documents"]).to_pylist()
    by_metric: dict[str, list[dict[str, object]]] = {}
    for row in rows:
        for document in row["documents"] or ():
            by_metric.setdefault(f"benchmark/{row['family']}", []).append(
                {
                    "language": row["language"], "prompt_id": f"{document['task']}#{document['document']}",
                    "item": f"{row['metric']} {document['digest']}", "value": document["value"],
                }
            )  # fmt: skip
    found = {}
    for name, documents in by_metric.items():
        frame = pd.DataFrame(documents)
        values = frame["value"].astype(float)
        is_share = bool(((values.dropna() >= 0) & (values.dropna() <= 1)).all())
        metric = Metric(name) if is_share else Metric(name, limits=None)
        found[metric] = _series(frame, "value", 100.0 if is_share else 1.0, item=frame["item"])
    return found


def ratings(table: Artifact) -> Values:
    """MT-Bench's ratings from 1 to 10, of each turn."""
    rows = table.read(["language", "question_id", "turn", "rating"]).to_pandas()
    rows = rows.rename(columns={"question_id": "prompt_id"})
    return {Metric("mt_bench", limits=(1.0, 10.0)): _series(rows, "rating", item=rows["turn"].astype(str))}


_READERS: Mapping[str, Callable[[Artifact], Values]] = {
    "judgments": win_rates,
    "outputs": output_values,
    "reward_bench": reward_values,
    "benchmarks": benchmark_values,
    "ratings": ratings,
}


def _series(rows: pd.DataFrame, column: str, scale: float = 1.0, item: pd.Series | None = None) -> pd.Series:
    """By KEYS; items that come more than once, such as samples, are averaged."""
    keyed = rows[PROMPT_KEY].assign(item="" if item is None else item, value=scale * rows[column].astype(float))
    return keyed.groupby(KEYS, sort=False)["value"].mean()


def _instructions(
    checks: Sequence[Sequence[pd.DataFrame]], seeds: tuple[Sequence[int | None], Sequence[int | None]]
) -> dict[Metric, Sides]:
    """Of the instructions that all runs of both sides could verify in all outputs: one that some could not compares nothing."""
    # Each run has sample numbers of its own, so that instructions that come twice in an output keep their numbers.
    sides = []
    for runs in checks:
        numbered = [run.assign(sample_index=run["sample_index"] + _FAR_APART * index) for index, run in enumerate(runs)]
        sides.append(pd.concat(numbered, ignore_index=True))
    shared = shared_checks(*sides)
    values = []
    for table, runs in zip(shared, checks, strict=True):
        of_run = table["sample_index"] // _FAR_APART
        values.append([_followed(table[of_run == index]) for index in range(len(runs))])
    metrics = values[0][0]
    return {
        metric: (Runs([run[metric] for run in values[0]], seeds[0]), Runs([run[metric] for run in values[1]], seeds[1]))
        for metric in metrics
    }


def _followed(checks: pd.DataFrame) -> Values:
    """Prompts and instructions that are followed, in percent. Sources that share prompts have the same prompt key."""
    outputs = outputs_followed(checks)
    found = {}
    for level, rows, test in ((LEVELS[1], outputs, "mcnemar"), (LEVELS[0], checks, "bootstrap")):
        key = [
            str(one).removesuffix(f"@{source}") for one, source in zip(rows["prompt_id"], rows["source"], strict=True)
        ]
        parts = [
            name
            for name in (*OUTPUT, "instruction_id", "kwargs")
            if name in rows and name not in (*PROMPT_KEY, "sample_index")
        ]
        # All of a prompt's turns are one item at the level of prompts, as in `instruction_scores.change_table`.
        items = rows["source"] if level == LEVELS[1] else rows[parts].astype(str).agg(" ".join, axis=1)
        for reading in READINGS:
            metric = Metric(f"{level}/{reading}", test)  # type: ignore[arg-type]
            found[metric] = _series(rows.assign(prompt_id=key), reading, 100.0, item=items)
    return found


def example_rows(first: Opener, second: Opener, sources: Mapping[tuple[str, str], str] | None = None) -> pd.DataFrame:
    """What both sides answered to every prompt that both answered: a row per language and prompt, of the first sample of each.

    Columns: language, prompt_id, source (data set of the prompt, '' where none is known), instruction, messages (JSON or None),
    first_output, second_output, first_thought, second_thought, first_value and second_value (preference in percent over all samples; of
    instructions the percent of outputs that follow all those that both could verify; NaN without either), difference, flip ('regression',
    'improvement' or '': whether the verdict changed, seen from the second), first_characters, second_characters, instruction_kinds
    (comma-separated, '' where there are none). Regressions come first, the greatest losses before others, then improvements.

    first, second: one run of each side. sources: data set by language and prompt id.
    """
    tables = []
    for opener in (first, second):
        outputs = opener("outputs") or opener("instruction_outputs")
        tables.append(_first_samples(outputs) if outputs is not None else None)
    if tables[0] is None or tables[1] is None:
        return pd.DataFrame(columns=EXAMPLES)
    rows = tables[0].merge(
        tables[1].drop(columns=["instruction", "messages"]), on=PROMPT_KEY, suffixes=("_of_first", "_of_second")
    )
    for side in ("first", "second"):
        rows = rows.rename(
            columns={f"{name}_of_{side}": f"{side}_{name}" for name in ("output", "thought", "characters")}
        )
    values, kinds = _verdicts(first, second)
    rows = rows.merge(values, on=PROMPT_KEY, how="left").merge(kinds, on=PROMPT_KEY, how="left")
    own = zip(rows["language"], rows["prompt_id"], strict=True)
    rows["source"] = [(sources or {}).get(key, "") for key in own]
    rows["source"] = rows["source"].where(rows["source"] != "", rows["checked_source"].fillna(""))
    rows["instruction_kinds"] = rows["instruction_kinds"].fillna("")
    rows = rows.astype({"first_value": float, "second_value": float})
    rows["difference"] = rows["second_value"] - rows["first_value"]
    is_flip = np.sign(rows["first_value"] - 50) != np.sign(rows["second_value"] - 50)
    flip = np.where(rows["difference"] < 0, "regression", np.where(rows["difference"] > 0, "improvement", ""))
    rows["flip"] = np.where(is_flip & rows["difference"].notna(), flip, "")
    rank = rows["flip"].map({"regression": 0, "improvement": 1, "": 2})
    size = np.where(rank == 0, rows["difference"], -rows["difference"].abs().fillna(0))
    ordered = rows.assign(rank=rank, size=size).sort_values(["rank", "size"], kind="stable", ignore_index=True)
    return ordered[EXAMPLES]


EXAMPLES = [
    "language", "prompt_id", "source", "instruction", "messages", "first_output", "second_output", "first_thought", "second_thought",
    "first_value", "second_value", "difference", "flip", "first_characters", "second_characters", "instruction_kinds",
]  # fmt: skip


def _first_samples(outputs: Artifact) -> pd.DataFrame:
    names = [*PROMPT_KEY, "sample_index", "instruction", "messages", "output", "thought", "character_count"]
    rows = outputs.read(names).to_pandas().sort_values("sample_index", kind="stable")
    first: pd.DataFrame = rows.drop_duplicates(PROMPT_KEY).sort_index().drop(columns="sample_index")
    return first.rename(columns={"character_count": "characters"})


def _verdicts(first: Opener, second: Opener) -> tuple[pd.DataFrame, pd.DataFrame]:
    """first_value and second_value by prompt; checked_source and instruction_kinds by prompt."""
    no_kinds = pd.DataFrame(columns=[*PROMPT_KEY, "checked_source", "instruction_kinds"])
    judged = [opener("judgments") for opener in (first, second)]
    if all(artifact is not None and artifact.rows for artifact in judged):
        sides = [win_rates(artifact)[Metric("win_rate")] for artifact in judged if artifact is not None]
        return _side_by_side(sides), no_kinds
    checks = [opener("instruction_checks") for opener in (first, second)]
    if any(artifact is None for artifact in checks):
        return pd.DataFrame(columns=[*PROMPT_KEY, "first_value", "second_value"]), no_kinds
    tables = [read_checks(artifact) for artifact in checks if artifact is not None]
    shared = shared_checks(*tables)
    # By the ids of the outputs, which have the variant at their end: here rows are joined to outputs, not over languages.
    sides = [_series(outputs_followed(table), "strict", 100.0) for table in shared]
    of_prompts = tables[0].groupby(PROMPT_KEY, sort=False)
    kinds = of_prompts["instruction_id"].agg(lambda ids: ", ".join(dict.fromkeys(ids))).rename("instruction_kinds")
    sources = of_prompts["source"].first().rename("checked_source")
    return _side_by_side(sides), pd.concat([sources, kinds], axis=1).reset_index()


def _side_by_side(values: Sequence[pd.Series]) -> pd.DataFrame:
    both = pd.concat([one.droplevel("item") for one in values], axis=1, keys=["first_value", "second_value"])
    return both.reset_index()


SLICES = ("language", "source", "length", "instruction_kind")
"""By what `slice_table` cuts examples. length: of the first side's output, in quarters."""


def slice_table(examples: pd.DataFrame, by: str, margin: float | None = None) -> pd.DataFrame:
    """A row per slice of `example_rows` with the columns of `arm_comparison.Compared`; prompts without both values are left out.

    Columns before: slice (a language, data set, range of characters such as '0-500', or kind of instruction) and adjusted_p_value (Holm's,
    over the slices). A prompt with several kinds of instructions is in several slices.
    """
    known = examples[examples["difference"].notna()].assign(item="")
    if known.empty:
        known = known.assign(slice="")
    elif by == "length":
        cuts = np.unique(np.quantile(known["first_characters"].to_numpy(dtype=float), [0, 0.25, 0.5, 0.75, 1])).astype(
            int
        )
        place = np.clip(np.searchsorted(cuts, known["first_characters"], side="right") - 1, 0, max(len(cuts) - 2, 0))
        names = [f"{low}-{high}" for low, high in itertools.pairwise(cuts)] or [str(cuts[0])]
        known = known.assign(slice=[names[index] for index in place]).iloc[np.argsort(place, kind="stable")]
    elif by == "instruction_kind":
        known = known.assign(slice=known["instruction_kinds"].str.split(", ")).explode("slice")
        known = known[known["slice"] != ""].sort_values("slice", kind="stable")
    else:
        known = known.assign(slice=known[by]).sort_values("slice", kind="stable")
    rows = []
    for name, of in known.groupby("slice", sort=False):
        keyed = of.set_index(KEYS)
        runs = [Runs([keyed[column]], (None,)) for column in ("first_value", "second_value")]
        pairs = pair_items(runs[0], runs[1])
        rows.append({"slice": str(name), **difference(pairs, pairs.languages, margin=margin)._asdict()})
    table = pd.DataFrame(rows, columns=["slice", *Compared._fields])
    table.insert(1, "adjusted_p_value", holm(table["p_value"].to_numpy(dtype=float)))
    return table
