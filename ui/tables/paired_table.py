"""The paired table of Compare: what `icr compare` says of one metric, by its functions, over what the engine has of each run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import NamedTuple

import pandas as pd

from icr_platform.core.language_tags import english_first, is_english
from icr_platform.evaluation.arm_comparison import (
    KEYS,
    PERCENT,
    Compared,
    Pairs,
    Runs,
    Test,
    adjusted,
    difference,
    pair_items,
    verdict,
)
from ui.tables.prompt_changes import IN_OWN_UNIT, Comparison, Filter, joined
from ui.tables.queries import QueryEngine

_TESTS: dict[str, Test] = {"instructions": "mcnemar"}
_THREADS = 2  # a bootstrap is numpy's work, which lets threads run; one after the other thirteen languages take seconds
_KEPT = 64


class RunValues(NamedTuple):
    """Tables of the engine with the values of each run of a side (language, prompt_id, value), and the runs' seeds.

    order: `value_tables.order_of` the first run.
    """

    tables: tuple[str, ...]
    seeds: tuple[int | None, ...]
    order: str


class PairedRow(NamedTuple):
    """One language, or `mean` or `mean_non_english`: what `arm_comparison` found, Holm's p-value, and what that shows at 5%."""

    language: str
    found: Compared
    adjusted_p_value: float
    conclusion: str

    @property
    def interval(self) -> tuple[float, float] | None:
        """95% interval of the difference; None where so few prompts, or so even ones, give none."""
        ends = self.found.low, self.found.high
        return ends if all(map(math.isfinite, ends)) else None

    @property
    def ends(self) -> tuple[float, float]:
        """The interval, or the difference twice where there is none."""
        return self.interval or (self.found.difference, self.found.difference)


class PairedTables:
    """Paired tables, remembered: their bootstraps take longer than all the rest of a page."""

    def __init__(self, engine: QueryEngine) -> None:
        self._engine = engine
        self._known: dict[tuple[object, ...], list[PairedRow]] = {}

    def of(self, comparison: Comparison, first: RunValues, second: RunValues, wanted: Filter) -> list[PairedRow]:
        """A row per language, English first, and the means over languages where there are several."""
        # Names of the engine's tables are never used twice, so that they say what is in them.
        key = (comparison, first, second, wanted)
        if key not in self._known:
            if len(self._known) >= _KEPT:
                self._known.clear()
            self._known[key] = self._compared(comparison, first, second, wanted)
        return self._known[key]

    def _compared(self, comparison: Comparison, first: RunValues, second: RunValues, wanted: Filter) -> list[PairedRow]:
        scale = 1.0 if comparison.measure in IN_OWN_UNIT else 100.0
        sides = [
            Runs([scale * self._values(comparison, table, first.order, wanted) for table in side.tables], side.seeds)
            for side in (first, second)
        ]
        if any(values.empty for side in sides for values in side.values):
            return []
        pairs = pair_items(*sides)
        codes = english_first(pairs.languages)
        rows = {code: [code] for code in codes}
        if len(codes) > 1:
            rows["mean"] = codes
            others = [code for code in codes if not is_english(code)]
            if 0 < len(others) < len(codes):
                rows["mean_non_english"] = others
        compare = partial(_difference, pairs, comparison.measure)
        with ThreadPoolExecutor(_THREADS) as threads:
            found = dict(zip(rows, threads.map(compare, rows.values()), strict=True))
        table = pd.DataFrame(
            [{"metric": comparison.measure, "language": code, **one._asdict()} for code, one in found.items()]
        )
        return [
            PairedRow(row["language"], found[row["language"]], row["adjusted_p_value"], verdict(row))
            for row in adjusted(table).to_dict("records")
        ]

    def _values(self, comparison: Comparison, table: str, order: str, wanted: Filter) -> pd.Series:
        """Values of a run's prompts, of those that the page pairs."""
        sql = f"""WITH {joined(comparison)} SELECT language, prompt_id, '' AS item, value
                  FROM {table} SEMI JOIN (SELECT language, prompt_id FROM joined WHERE {wanted.sql}) USING (language, prompt_id)
                  LEFT JOIN {order} USING (language, prompt_id) ORDER BY place"""
        rows = self._engine.select(sql, wanted.parameters)
        keys = pd.MultiIndex.from_arrays([[row[name] for row in rows] for name in KEYS], names=KEYS)
        return pd.Series([row["value"] for row in rows], keys, dtype=float)


def _difference(pairs: Pairs, measure: str, languages: Sequence[str]) -> Compared:
    limits = None if measure in IN_OWN_UNIT else PERCENT
    return difference(pairs, languages, test=_TESTS.get(measure, "bootstrap"), limits=limits)
