"""Published X-AlpacaEval win rates, and a run's own above them. The published ones were never measured by this platform."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import NamedTuple

import pandas as pd

from icr_platform.report.iteration_metrics import MEANS, IterationMetrics, languages_of

COST_COLUMN = "cost"
OWN = "this run"
"""What the column `source` says of a run's own policies."""
MEAN_LANGUAGES = ("en", "es", "ru", "de", "fr")
"""Languages that the published mean is over."""


class Published(NamedTuple):
    """One published cell. Win rates are in percent; lc_win_rate is None where the paper gives none.

    series: 'reference', 'dpo-start', 'kto-start', 'low-resource' or 'other'.
    iteration: of the series, None for models outside one.
    language: a code, or 'mean' over MEAN_LANGUAGES.
    """

    model: str
    series: str
    iteration: int | None
    language: str
    win_rate: float
    lc_win_rate: float | None
    source: str


@cache
def published() -> tuple[Published, ...]:
    """Every published cell, in the paper's order (arXiv 2503.04647, tables 2 and 5)."""
    with (files("icr_platform.report") / "published.csv").open(encoding="utf-8") as file:
        return tuple(
            Published(
                row["model"],
                row["series"],
                int(row["iteration"]) if row["iteration"] else None,
                row["language"],
                float(row["win_rate"]),
                float(row["lc_win_rate"]) if row["lc_win_rate"] else None,
                row["source"],
            )
            for row in csv.DictReader(file)
        )


def published_table(column: str = "win_rate") -> pd.DataFrame:
    """Models x languages of one column (`win_rate` or `lc_win_rate`), in percent; NaN where the paper gives none."""
    cells = pd.DataFrame(published())
    wide = cells.pivot_table(index=["model", "source"], columns="language", values=column, sort=False, dropna=False)
    return wide.dropna(how="all").reset_index().rename_axis(columns=None)


def published_curve(column: str) -> dict[tuple[int, str], float]:
    """Published values by iteration and language: Table 2 (from DPO), and Table 5 for the languages that only it has."""
    values: dict[tuple[int, str], float] = {}
    for series in ("low-resource", "dpo-start"):  # the later one wins where both have a language
        for cell in published():
            value = {"win_rate": cell.win_rate, "lc_win_rate": cell.lc_win_rate}.get(column)
            if cell.series == series and cell.iteration is not None and value is not None:
                values[cell.iteration, cell.language] = value
    return values


def leaderboard(
    policies: Mapping[str, Mapping[str, float]], column: str = "win_rate", costs: Mapping[str, str] | None = None
) -> pd.DataFrame:
    """Policies (name -> metrics) above the published models: model, source and a column per language, in percent; what policies cost
    last, where that is known.

    The mean is left out unless it is over the languages of the published mean.

    Args:
        costs: of policies by name, in words.
        column: `win_rate` or `lc_win_rate`; the table is empty when no policy has such a metric.
    """
    # A mean over other languages than the paper's would compare nothing.
    measured = languages_of([IterationMetrics(0, metrics) for metrics in policies.values()], column)
    languages = [code for code in measured if code not in MEANS]
    codes = [*languages, "mean"] if set(languages) == set(MEAN_LANGUAGES) else languages
    rows = [
        {"model": name, "source": OWN}
        | {code: round(metrics[f"{column}/{code}"], 2) for code in codes if f"{column}/{code}" in metrics}
        for name, metrics in policies.items()
    ]
    own = pd.DataFrame(rows, columns=["model", "source", *codes]).dropna(how="all", subset=codes)
    if not codes:
        return own.head(0)
    theirs = published_table(column)
    if shared := [name for name in codes if name in theirs.columns]:
        published = theirs[["model", "source", *shared]].dropna(how="all", subset=shared)
        own = pd.concat([own, published], ignore_index=True)
    return own.assign(**{COST_COLUMN: [costs.get(name, "") for name in own["model"]]}) if costs else own
