"""Published X-AlpacaEval figures, shown beside a user's own; facts, never results of this platform."""

from __future__ import annotations

import csv
from functools import cache
from importlib.resources import files
from typing import NamedTuple

import pandas as pd

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


def beside_published(own: pd.DataFrame, column: str = "win_rate") -> pd.DataFrame:
    """Own rows (columns model, source and languages) above the published ones that have a figure in those languages."""
    languages = [name for name in own.columns if name not in ("model", "source")]
    theirs = published_table(column)
    shared = [name for name in languages if name in theirs.columns]
    if not shared:
        return own
    return pd.concat([own, theirs[["model", "source", *shared]].dropna(how="all", subset=shared)], ignore_index=True)
