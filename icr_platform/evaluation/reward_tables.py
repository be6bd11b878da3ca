"""The tables and metrics that are made of rows of `reward_bench`: accuracy, paired tests between kinds, calibration. Pure."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pandas as pd

from icr_platform.core.language_tags import is_english
from icr_platform.evaluation.comparison import holm
from icr_platform.evaluation.reward_accuracy import (
    Accuracy,
    accuracy,
    best_of_all,
    calibration,
    mean_accuracy,
    paired_test,
)
from icr_platform.evaluation.reward_bench_config import LENGTH

MEAN, MEAN_NON_ENGLISH, ALL = "mean", "mean_non_english", "all"
BEST_OF = "best-of-n"
"""The source of accuracies over rows that compare several responses: every better one is above every worse one."""
ACCURACY_COLUMNS = (
    "language", "category", "kind", "accuracy", "low", "high", "n", "ties", "source", "prompts", "label_ties", "decided_accuracy",
)  # fmt: skip
_OF_A_LIST = r"^(.*)/\d+-\d+$"


def accuracy_table(rows: pd.DataFrame) -> pd.DataFrame:
    """ACCURACY_COLUMNS, in percent: per source, kind and language, over all its categories ('') and, where there are several, in each.

    The rows 'mean' and 'mean_non_english' are unweighted over languages. `ties` count half; of them `label_ties` are pairs whose label is a
    tie, without which accuracy is `decided_accuracy`.

    Args:
        rows: columns of schemas.REWARD_BENCH; those without is_right are left out.
    """
    scored = rows[rows["is_right"].notna()]
    found: list[dict[str, Any]] = []
    for (source, kind), group in scored.groupby(["source", "kind"], sort=False):
        for table, name in ((group, source), (_best_of_rows(group), BEST_OF)):
            for category, members in _by_category(table):
                found += [
                    {"language": language, "category": category, "kind": kind, "source": name, **values}
                    for language, values in _accuracies(members)
                ]
    return pd.DataFrame(found, columns=list(ACCURACY_COLUMNS))


def _by_category(rows: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """All rows under '', and those of each category where not all have the same; rows that name none are in the first only."""
    if len(rows):
        yield "", rows
    names = sorted(rows["category"].unique())
    if len(names) > 1:
        yield from ((name, rows[rows["category"] == name]) for name in names if name)


def _in_order(languages: pd.Series) -> list[str]:
    """English first; what names no known language stands among the others."""
    return sorted(languages.unique(), key=lambda name: (not is_english(name), name))


def _accuracies(rows: pd.DataFrame) -> Iterator[tuple[str, dict[str, Any]]]:
    languages = _in_order(rows["language"])
    for language in languages:
        yield language, _values(rows[rows["language"] == language], mean=False)
    if len(languages) > 1:
        yield MEAN, _values(rows, mean=True)
    others = rows[~rows["language"].map(is_english)]
    if len(languages) > others["language"].nunique() > 0:
        yield MEAN_NON_ENGLISH, _values(others, mean=True)


def _values(rows: pd.DataFrame, mean: bool) -> dict[str, Any]:
    decided = rows[~rows["is_tie"].astype(bool)]
    seen, without = _accuracy(rows, mean), _accuracy(decided, mean)
    return {
        **seen._asdict(),
        "label_ties": len(rows) - len(decided),
        "decided_accuracy": without.accuracy,
    }


def _accuracy(rows: pd.DataFrame, mean: bool) -> Accuracy:
    right, prompts = rows["is_right"].to_numpy(np.float64), rows["prompt_id"].tolist()
    return mean_accuracy(right, rows["language"].tolist(), prompts) if mean else accuracy(right, prompts)


def _best_of_rows(rows: pd.DataFrame) -> pd.DataFrame:
    """One row for each that compared several responses on a side, in place of its pairs; empty where none did."""
    listed = rows[rows["pair_id"].str.fullmatch(_OF_A_LIST)]
    listed = listed.assign(pair_id=listed["pair_id"].str.replace(_OF_A_LIST, r"\1", regex=True))
    keys = ["language", "pair_id"]
    listed = listed[listed.groupby(keys, sort=False)["pair_id"].transform("size") > 1]
    if not len(listed):
        return listed
    once = listed.drop_duplicates(keys).copy()
    once["is_right"] = best_of_all(
        listed["is_right"].to_numpy(), list(zip(*(listed[key] for key in keys), strict=True))
    )
    return once


def comparison_table(rows: pd.DataFrame) -> pd.DataFrame:
    """Every two kinds on the pairs that both scored, in each language and over all ('all'): exact paired tests, differences in points.

    p_holm: adjusted for the languages' comparisons, or for those over all languages.
    """
    given = rows[rows["is_right"].notna()]
    found: list[dict[str, Any]] = []
    for source, group in given.groupby("source", sort=False):
        wide = group.pivot(index=["language", "prompt_id", "pair_id"], columns="kind", values="is_right").reset_index()
        kinds = list(dict.fromkeys(group["kind"]))
        languages = _in_order(wide["language"])
        for first, second in itertools.combinations(kinds, 2):
            both = wide[wide[first].notna() & wide[second].notna()]
            for language in [*languages, *([ALL] if len(languages) > 1 else [])]:
                members = both if language == ALL else both[both["language"] == language]
                if len(members):
                    test = paired_test(
                        members[first].to_numpy(np.float64),
                        members[second].to_numpy(np.float64),
                        members["prompt_id"].tolist(),
                    )
                    found.append(
                        {"language": language, "first": first, "second": second, "source": source, **test._asdict()}
                    )
    table = pd.DataFrame(
        found,
        columns=[
            "language", "first", "second", "source", "difference", "low", "high", "first_only", "second_only", "p_value", "n",
        ],
    )  # fmt: skip
    table["p_holm"] = np.nan
    for is_all in (True, False):
        chosen = (table["language"] == ALL) == is_all
        table.loc[chosen, "p_holm"] = holm(table.loc[chosen, "p_value"].to_numpy(np.float64))
    return table


def calibration_table(rows: pd.DataFrame) -> pd.DataFrame:
    """Accuracy by absolute margin, of each kind but length, in each language and over all ('all'); pairs whose label is a tie are left out.

    Columns: language, kind, source, least, most, margin (the bin's mean), predicted, accuracy, low, high, n.
    """
    given = rows[rows["is_right"].notna() & ~rows["is_tie"].astype(bool) & (rows["kind"] != LENGTH)]
    found: list[dict[str, Any]] = []
    for (source, kind), group in given.groupby(["source", "kind"], sort=False):
        languages = _in_order(group["language"])
        for language in [*languages, *([ALL] if len(languages) > 1 else [])]:
            members = group if language == ALL else group[group["language"] == language]
            bins = calibration(members["margin"], members["is_right"], members["prompt_id"].tolist())
            found += [
                {
                    "language": language, "kind": kind, "source": source, "least": each.least, "most": each.most,
                    "margin": each.margin, "predicted": each.predicted, "accuracy": each.observed.accuracy,
                    "low": each.observed.low, "high": each.observed.high, "n": each.observed.n,
                }
                for each in bins
            ]  # fmt: skip
    columns = ["language", "kind", "source", "least", "most", "margin", "predicted", "accuracy", "low", "high", "n"]
    return pd.DataFrame(found, columns=columns)


def accuracy_metrics(table: pd.DataFrame) -> dict[str, float]:
    """`reward_accuracy/KIND/LANG`, `/mean`, `/mean_non_english` of given pairs, and `reward_best_of_n/KIND/LANG`, in percent, with the
    bounds of their intervals (`reward_accuracy_low/KIND/LANG`, `_high`); of corruptions `corruption_accuracy/CORRUPTION/KIND/LANG`."""
    metrics: dict[str, float] = {}
    for row in table.to_dict("records"):
        if row["source"] == "corruptions":
            if row["category"]:
                metrics[f"corruption_accuracy/{row['category']}/{row['kind']}/{row['language']}"] = row["accuracy"]
        elif not row["category"]:
            prefix = "reward_best_of_n" if row["source"] == BEST_OF else "reward_accuracy"
            for name, value in (("", "accuracy"), ("_low", "low"), ("_high", "high")):
                metrics[f"{prefix}{name}/{row['kind']}/{row['language']}"] = row[value]
    return metrics


def first_rows(table: pd.DataFrame, most: int = 1000, keys: Iterable[str] = ("category",)) -> pd.DataFrame:
    """A table for people: at most so many rows, those over all categories and languages first to stay."""
    if len(table) <= most:
        return table
    over_all = table["language"].isin([MEAN, MEAN_NON_ENGLISH, ALL])
    for key in keys:
        over_all |= table[key] == "" if key in table else False
    return pd.concat([table[over_all], table[~over_all]]).head(most).sort_index()
