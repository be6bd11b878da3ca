"""How many verifiable instructions are followed: per instruction and per prompt, strict and loose, and against an earlier policy.

An instruction that cannot be verified is in no accuracy: it is counted as unverified. A prompt is judged on those of its instructions
that can be verified, and is in no accuracy where none can. An example, one output a prompt:

    prompt   instructions              instruction level   prompt level
    a        followed, followed        2 of 2              followed
    b        followed, not, unverified 1 of 2              not followed, judged on two of three
    c        unverified                none                none

The accuracy is 3 of 4 instructions and 1 of 2 prompts, and 2 of 6 instructions are unverified.

Intervals are Wilson's, of as many items as would be as certain if they were independent: instructions, turns and samples of one
prompt are not. Differences are paired by prompt: McNemar's exact test, and a bootstrap over prompts for the interval.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from icr_platform.core.arrays import Floats
from icr_platform.core.artifacts import Artifact
from icr_platform.core.intervals import wilson_bounds
from icr_platform.core.language_tags import is_english
from icr_platform.core.schemas import INSTRUCTION_CHECKS
from icr_platform.evaluation.comparison import bootstrap_mean, holm

READINGS = ("strict", "loose")
LEVELS = ("instruction_accuracy", "prompt_accuracy")
MEAN, MEAN_NON_ENGLISH = "mean", "mean_non_english"
OUTPUT = ["language", "source", "prompt_id", "turn", "sample_index"]
"""Columns that name an output."""
_PROMPT = ["language", "source", "prompt_id"]


class Accuracy(NamedTuple):
    """A share in percent with its 95% interval, of n items; all NaN without one."""

    value: float
    low: float
    high: float
    n: int


def read_checks(checks: Artifact) -> pd.DataFrame:
    """The rows of an instruction_checks artifact, without the digests."""
    rows = checks.read([name for name in INSTRUCTION_CHECKS.schema.names if name != "input_digest"])
    frame: pd.DataFrame = rows.to_pandas()
    return frame


def accuracy(
    followed: Sequence[float] | Floats, cluster: Sequence[Any], group: Sequence[Any] | None = None
) -> Accuracy:
    """Share of what is followed, in percent; of several groups, the mean of their shares.

    Args:
        followed: [n] 1 or 0. cluster: [n] the prompt of each: items of one prompt are not independent, in whichever groups they are.
        group: [n] such as the language; as a tuple, groups within groups: a language's sources weigh together what one source does.

    Items are as certain as `n / deff` independent ones, where `deff` is the variance of the share between prompts over that of
    independent items (Kish, 1965); never more than n.

    >>> [round(x, 1) for x in accuracy([1, 1, 0, 0], "aabb")], [round(x, 1) for x in accuracy([1, 1, 0, 0], "abcd")]
    ([50.0, 5.5, 94.5, 4], [50.0, 15.0, 85.0, 4])
    >>> accuracy([1, 0, 0, 0], "abcd", ["en", "es", "es", "es"]).value
    50.0
    """
    values = np.asarray(followed, dtype=np.float64)
    n = len(values)
    if not n:
        return Accuracy(math.nan, math.nan, math.nan, 0)
    groups = pd.Series([0] * n if group is None else list(group))
    weights = _weights(groups)
    of_groups = pd.Series(values).groupby(groups, sort=False)
    means = of_groups.transform("mean").to_numpy()
    by_group = of_groups.mean()
    share = float(by_group.groupby([_first(name) for name in by_group.index]).mean().mean())
    influence = pd.Series(weights * (values - means)).groupby(list(cluster)).sum().to_numpy()
    prompts, effective = len(influence), float(n)
    if prompts < n or groups.nunique() > 1:
        variance = float(np.square(influence).sum()) * prompts / max(prompts - 1, 1)
        # Where nothing varies between prompts, nothing does within one either: each counts once.
        effective = min(n, share * (1 - share) / variance) if variance > 0 else float(prompts)
    low, high = wilson_bounds(share, effective)
    return Accuracy(100 * share, 100 * low, 100 * high, n)


def _first(group: Any) -> Any:
    return group[0] if isinstance(group, tuple) else group


def _weights(groups: pd.Series[Any]) -> Floats:
    """[n] weight of each item: groups weigh the same, and within a tuple's first element those of the second do."""
    first = groups.map(_first)
    within = groups.groupby(first, sort=False).transform("nunique").to_numpy()
    sizes = groups.groupby(groups, sort=False).transform("size").to_numpy()
    weights: Floats = 1.0 / (first.nunique() * within * sizes)
    return weights


def outputs_followed(checks: pd.DataFrame) -> pd.DataFrame:
    """One row per output: OUTPUT, `instructions`, `verified` (counts), and `strict` and `loose`: 1 where all verified ones are
    followed, 0 where not, NaN where none is verified.

    checks: columns of schemas.INSTRUCTION_CHECKS.
    """
    known = checks[OUTPUT].assign(
        instructions=1,
        verified=checks["strict"].notna(),
        **{name: checks[name].astype("float64") for name in READINGS},
    )
    kinds = {"instructions": "sum", "verified": "sum", "strict": "min", "loose": "min"}
    return known.groupby(OUTPUT, sort=False, as_index=False).agg(kinds)


def score_table(checks: pd.DataFrame) -> pd.DataFrame:
    """A row per language and source: accuracies in percent with the ends of their intervals, unverified in percent, counts.

    Columns: language, source, LEVEL/READING, LEVEL_low/READING, LEVEL_high/READING, instructions, prompts, unverified,
    partly_unverified (outputs of which some instructions are), not_judged (outputs of which all are).
    """
    outputs = outputs_followed(checks)
    by_output = dict(iter(outputs.groupby(["language", "source"], sort=False)))
    rows = []
    for (language, source), of in checks.groupby(["language", "source"], sort=False):
        own = by_output[language, source]
        row: dict[str, Any] = {"language": language, "source": source}
        for level, table in zip(LEVELS, (of, own), strict=True):
            for reading in READINGS:
                row |= _columns(level, reading, table)
        judged = own["verified"] > 0
        row["instructions"], row["prompts"] = int(of["strict"].notna().sum()), int(judged.sum())
        row["unverified"] = 100.0 * float(of["strict"].isna().mean())
        row["partly_unverified"] = int((judged & (own["verified"] < own["instructions"])).sum())
        row["not_judged"] = int((~judged).sum())
        rows.append(row)
    return pd.DataFrame(rows)


def _columns(level: str, reading: str, rows: pd.DataFrame) -> dict[str, float]:
    found = _accuracy_of(rows, reading)
    return {
        f"{level}/{reading}": found.value,
        f"{level}_low/{reading}": found.low,
        f"{level}_high/{reading}": found.high,
    }


def kind_table(checks: pd.DataFrame) -> pd.DataFrame:
    """A row per language, source and kind of instruction: strict with its interval, loose, n that were verified, unverified, why."""
    rows = []
    for (language, source, kind), of in checks.groupby(["language", "source", "instruction_id"], sort=False):
        known = of[of["strict"].notna()]
        strict, loose = (accuracy(known[name].to_numpy(dtype=float), known["prompt_id"].tolist()) for name in READINGS)
        reasons = of.loc[of["strict"].isna(), "reason"].value_counts()
        rows.append(
            {
                "language": language,
                "source": source,
                "instruction_id": kind,
                "strict": strict.value,
                "low": strict.low,
                "high": strict.high,
                "loose": loose.value,
                "n": strict.n,
                "unverified": len(of) - strict.n,
                "reason": str(reasons.index[0]) if len(reasons) else "",
            }
        )
    table = pd.DataFrame(rows)
    return table.sort_values(["language", "source", "instruction_id"], kind="stable", ignore_index=True)


def turn_table(checks: pd.DataFrame) -> pd.DataFrame:
    """A row per language and turn, of prompts of several turns; empty where there are none."""
    if checks.empty or checks["turn"].max() < 2:
        return pd.DataFrame()
    outputs = outputs_followed(checks)
    rows = [
        {
            "language": language,
            "turn": int(str(turn)),
            **_columns(LEVELS[1], "strict", of),
            **_columns(LEVELS[1], "loose", of),
        }
        for (language, turn), of in outputs.groupby(["language", "turn"], sort=False)
    ]
    return pd.DataFrame(rows)


def metrics_of(checks: pd.DataFrame, turns: pd.DataFrame) -> dict[str, float]:
    """MLflow metrics: `instruction_accuracy/strict/es` with `instruction_accuracy_low/...` and `_high/...`, the same of
    `prompt_accuracy` and of `loose`, `prompt_accuracy/strict-turn-2/es`, and `unverified/es`; `mean` and `mean_non_english` over languages.

    A language of several sources has the mean over them; a mean over languages has each language once.
    """
    codes = list(dict.fromkeys(checks["language"]))
    groups = {code: [code] for code in codes} | {MEAN: codes}
    if others := [code for code in codes if not is_english(code)]:
        groups[MEAN_NON_ENGLISH] = others
    metrics: dict[str, float] = {}
    for level, table in zip(LEVELS, (checks, outputs_followed(checks)), strict=True):
        for reading in READINGS:
            for name, members in groups.items():
                found = _accuracy_of(table[table["language"].isin(members)], reading)
                metrics[f"{level}/{reading}/{name}"] = found.value
                metrics[f"{level}_low/{reading}/{name}"] = found.low
                metrics[f"{level}_high/{reading}/{name}"] = found.high
    share = checks["strict"].isna().groupby(checks["language"], sort=False).mean().to_dict()
    for name, members in groups.items():
        metrics[f"unverified/{name}"] = 100.0 * sum(share[code] for code in members) / len(members)
    for row in turns.to_dict("records"):
        for reading in READINGS:
            place = f"{reading}-turn-{row['turn']}/{row['language']}"
            metrics[f"prompt_accuracy/{place}"] = row[f"prompt_accuracy/{reading}"]
    return {name: value for name, value in metrics.items() if value == value}  # MLflow's charts cannot show NaN


def _accuracy_of(rows: pd.DataFrame, reading: str) -> Accuracy:
    """Of one or several languages and sources. Prompts that languages and sources share have the same key but for the source's ending."""
    known = rows[rows[reading].notna()]
    keys = [
        prompt_id.removesuffix(f"@{source}")
        for prompt_id, source in zip(known["prompt_id"], known["source"], strict=True)
    ]
    groups = list(zip(known["language"], known["source"], strict=True))
    return accuracy(known[reading].to_numpy(dtype=float), keys, groups)


# Against an earlier policy --------------------------------------------------------------------------------------------------------


class Change(NamedTuple):
    """After minus before of the accuracy per prompt, over the prompts that both have; rates in percent, difference in points.

    low, high: 95%; NaN where nothing can be said. gained, lost: prompts that more, or fewer, outputs follow. p_value: McNemar's exact test
    of these two; adjusted: Holm's, over the languages.
    """

    language: str
    reading: str
    before: float
    after: float
    difference: float
    low: float
    high: float
    gained: int
    lost: int
    p_value: float
    n: int
    n_unpaired: int


def mcnemar(gained: int, lost: int) -> float:
    """Two-sided exact p-value of gains and losses that are equally likely (McNemar, 1947); 1 without any.

    >>> mcnemar(0, 0), mcnemar(5, 0), mcnemar(3, 3), round(mcnemar(2, 9), 6)
    (1.0, 0.0625, 1.0, 0.06543)
    """
    n, fewer = gained + lost, min(gained, lost)
    tail = sum(math.comb(n, count) for count in range(fewer + 1))
    p_value: float = 2 * tail / 2**n
    return min(1.0, p_value)


def shared_checks(before: pd.DataFrame, after: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The checks of both of the instructions that both verified in all outputs: one that only one of them could verify compares nothing."""
    keyed = [_numbered(table) for table in (before, after)]
    names = ["language", "prompt_id", "turn", "instruction_id", "kwargs", "number"]
    verified = [
        set(known[known].index)
        for table in keyed
        for known in [table.groupby(names)["strict"].apply(lambda of: of.notna().all())]
    ]
    both = verified[0] & verified[1]
    kept = [[key in both for key in table[names].itertuples(index=False, name=None)] for table in keyed]
    first, second = (table[keep] for table, keep in zip(keyed, kept, strict=True))
    return first, second


def _numbered(checks: pd.DataFrame) -> pd.DataFrame:
    """A prompt may have the same instruction twice: each has a number."""
    same = [*OUTPUT, "instruction_id", "kwargs"]
    return checks.assign(number=checks.groupby(same, sort=False).cumcount())


def change_table(before: pd.DataFrame, after: pd.DataFrame) -> pd.DataFrame:
    """A row per language and reading, with the columns of `Change` and `adjusted_p_value`.

    before, after: columns of schemas.INSTRUCTION_CHECKS.
    """
    asked = [_asked(table) for table in (before, after)]
    first, second = (_by_prompt(table) for table in shared_checks(before, after))
    rows = []
    for reading in READINGS:
        pairs = first[[*_KEY, reading]].merge(second[[*_KEY, reading]], on=_KEY, suffixes=("_before", "_after"))
        for language, of in pairs.groupby("language", sort=False):
            old, new = (of[f"{reading}_{side}"].to_numpy(dtype=float) for side in ("before", "after"))
            every = asked[0].get(str(language), set()) | asked[1].get(str(language), set())
            rows.append(_change(str(language), reading, old, new, len(every) - len(of)))
    table = pd.DataFrame(rows, columns=list(Change._fields))
    adjusted = [holm(table.loc[table["reading"] == reading, "p_value"]) for reading in READINGS]
    return table.assign(adjusted_p_value=np.concatenate(adjusted) if len(table) else [])


_KEY = ["language", "prompt_id"]


def _asked(checks: pd.DataFrame) -> dict[str, set[str]]:
    return {str(language): set(of["prompt_id"]) for language, of in checks.groupby("language", sort=False)}


def _by_prompt(checks: pd.DataFrame) -> pd.DataFrame:
    """Share of each prompt's outputs, over turns and samples, that follow all its instructions."""
    outputs = outputs_followed(checks)
    return outputs.groupby(_KEY, sort=False, as_index=False)[list(READINGS)].mean()


def _change(language: str, reading: str, old: Floats, new: Floats, unpaired: int) -> Change:
    gained, lost = int((new > old).sum()), int((new < old).sum())
    interval = bootstrap_mean(100 * (new - old), limits=(-100.0, 100.0))
    return Change(
        language=language,
        reading=reading,
        before=100 * float(old.mean()),
        after=100 * float(new.mean()),
        difference=interval.mean,
        low=interval.low,
        high=interval.high,
        gained=gained,
        lost=lost,
        p_value=mcnemar(gained, lost),
        n=len(old),
        n_unpaired=unpaired,
    )


def flip_table(before: pd.DataFrame, after: pd.DataFrame) -> pd.DataFrame:
    """A row per prompt that more or fewer outputs follow to the letter, losses first: language, prompt_id, kind (`regression` or
    `improvement`), before and after (share of its outputs), and the kinds of instructions that changed."""
    first, second = shared_checks(before, after)
    pairs = _by_prompt(first)[[*_KEY, "strict"]].merge(
        _by_prompt(second)[[*_KEY, "strict"]], on=_KEY, suffixes=("_before", "_after")
    )
    flipped = pairs[pairs["strict_before"] != pairs["strict_after"]]
    by_kind = [
        table.astype({"strict": float}).groupby([*_KEY, "instruction_id"], sort=False)["strict"].mean()
        for table in (first, second)
    ]
    apart = (by_kind[1] - by_kind[0]).loc[lambda change: change != 0]
    changed: dict[tuple[str, str], list[str]] = {}
    for language, prompt_id, kind in sorted(apart.index.to_list()):
        changed.setdefault((language, prompt_id), []).append(kind)
    rows = list(_flips(flipped, changed))
    columns = ["language", "prompt_id", "kind", "before", "after", "instructions"]
    return pd.DataFrame(rows, columns=columns).sort_values("kind", ascending=False, kind="stable", ignore_index=True)


def _flips(flipped: pd.DataFrame, changed: Mapping[tuple[str, str], list[str]]) -> Iterator[dict[str, Any]]:
    for row in flipped.to_dict("records"):
        kind = "regression" if row["strict_after"] < row["strict_before"] else "improvement"
        yield {
            "language": row["language"], "prompt_id": row["prompt_id"], "kind": kind, "before": row["strict_before"],
            "after": row["strict_after"], "instructions": ", ".join(changed.get((row["language"], row["prompt_id"]), [])),
        }  # fmt: skip


def change_metrics(changes: pd.DataFrame) -> dict[str, float]:
    """`prompt_accuracy_change/strict/es` in points with `prompt_accuracy_change_low/...` and `_high/...`, and
    `prompt_accuracy_change_p/strict/es` (Holm)."""
    metrics: dict[str, float] = {}
    for row in changes.to_dict("records"):
        place = f"{row['reading']}/{row['language']}"
        named = {"": "difference", "_low": "low", "_high": "high", "_p": "adjusted_p_value"}
        metrics |= {f"prompt_accuracy_change{ending}/{place}": float(row[column]) for ending, column in named.items()}
    return {name: value for name, value in metrics.items() if value == value}
