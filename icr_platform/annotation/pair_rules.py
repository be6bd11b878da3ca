"""Which samples of a prompt make its pairs: the best ones are chosen, and a rule takes the rejected ones from those below them.

A rule gives every sample a rank value; of the samples that may be rejected the one with the lowest is rejected first. `mean-2sd`,
`lower-quartile` and `lowest` are CroCo's (arXiv 2605.26293): the sample whose score is nearest to the mean less two standard
deviations, to the 25th percentile or to the minimum, and strictly below the chosen one's.

One prompt, rewards 9, 7, 6, 2 (mean 6, standard deviation 2.55, 25th percentile 5), under each rule:

    lowest                      9 over 2
    mean-2sd        target 0.9  9 over 2
    lower-quartile  target 5    9 over 6
    nearest-mean    target 6    9 over 6
    lowest, two pairs           9 over 2, 7 over 6

To add a rule, add its function to `RULES` and its name to `config.RejectedRule`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from icr_platform.core.arrays import AnyArray, Bools, Floats, Ints

Rank = Callable[[Floats, Bools, Floats], Floats]
"""(values [P, N], candidates [P, N], draws [P, N]) -> [P, N], where the lowest is rejected first; read at candidates only."""


def _lowest(values: Floats, candidates: Bools, draws: Floats) -> Floats:
    return values


def _nearest_to_mean_less_two_deviations(values: Floats, candidates: Bools, draws: Floats) -> Floats:
    mean = _mean(values, candidates)
    deviation = np.sqrt(_mean((values - mean) ** 2, candidates))  # of the population: the samples are all there are
    distance: Floats = np.abs(values - (mean - 2 * deviation))
    return distance


def _nearest_to_mean(values: Floats, candidates: Bools, draws: Floats) -> Floats:
    return np.abs(values - _mean(values, candidates))


def _nearest_to_lower_quartile(values: Floats, candidates: Bools, draws: Floats) -> Floats:
    """The 25th percentile lies (n - 1) / 4 places above the lowest of n values, linear between neighbours (numpy's `linear`)."""
    ordered = np.sort(np.where(candidates, values, np.inf), axis=1)
    place = np.maximum(candidates.sum(axis=1) - 1, 0) / 4
    below = np.floor(place).astype(np.int64)
    rows, above = np.arange(len(values)), np.ceil(place).astype(np.int64)
    low, high = ordered[rows, below][:, None], ordered[rows, above][:, None]
    low, high = np.where(np.isfinite(low), low, 0.0), np.where(np.isfinite(high), high, 0.0)  # a row without candidates
    share = (place - below)[:, None]
    # Measured from its two neighbours, so that where it is half-way between them both are equally near, whatever rounding does.
    from_low, from_high = (low - values) + share * (high - low), (values - high) + (1 - share) * (high - low)
    distance: Floats = np.where(values <= low, from_low, from_high)
    return distance


def _random(values: Floats, candidates: Bools, draws: Floats) -> Floats:
    return draws


RULES: dict[str, Rank] = {
    "lowest": _lowest,
    "mean-2sd": _nearest_to_mean_less_two_deviations,
    "lower-quartile": _nearest_to_lower_quartile,
    "nearest-mean": _nearest_to_mean,
    "random": _random,
}


@dataclass(frozen=True)
class PairRule:
    """rejected: one of RULES. pairs: of a prompt at most, K. draws: [P, N] any numbers, for the random rule only."""

    rejected: str = "lowest"
    pairs: int = 1
    draws: Floats | None = None

    @property
    def is_extremes(self) -> bool:
        """Whether a prompt's pair is its highest and its lowest sample."""
        return self.rejected == "lowest" and self.pairs == 1

    def of_rows(self, rows: AnyArray) -> PairRule:
        """The rule of some prompts."""
        return self if self.draws is None else replace(self, draws=self.draws[rows])


class PairEnds(NamedTuple):
    """Columns of the samples of each pair, each [P, K]; -1 where there is none."""

    chosen: Ints
    rejected: Ints


def pair_ends(values: Floats, candidates: Bools, rule: PairRule, upper_bound: float = math.inf) -> PairEnds:
    """Take up to K pairs of every prompt: the i-th best sample over the sample that the rule takes i-th of those below all chosen ones.

    No sample is in two pairs: of n samples that may be chosen, the best `min(K, n // 2)` are (one, if there is any). Rejected ones are
    strictly below the lowest of them. Among equal values the first column is taken; of two samples that are equally near to a target
    the lower one is.

    Args:
        values: [P, N] length-controlled rewards. candidates: [P, N] which of them take part; their values are finite.
        upper_bound: what is chosen is below it; targets are those of all candidates.

    >>> ends = pair_ends(np.array([[6.0, 2.0, 9.0, 7.0]]), np.ones((1, 4), bool), PairRule("lowest", pairs=3))
    >>> ends.chosen.tolist(), ends.rejected.tolist()
    ([[2, 3, -1]], [[1, 0, -1]])
    """
    rows = np.arange(len(values))
    chosen, rejected = np.full((2, len(values), rule.pairs), -1)
    left = candidates & (values < upper_bound)
    allowed = np.maximum(left.sum(axis=1) // 2, 1)
    lowest_chosen = np.full(len(values), -np.inf)
    for pair in range(rule.pairs):
        column = np.where(left, values, -np.inf).argmax(axis=1)
        found = left[rows, column] & (pair < allowed)
        if not found.any():
            break
        chosen[found, pair] = column[found]
        lowest_chosen[found] = values[rows, column][found]
        left[rows[found], column[found]] = False

    draws = np.zeros(values.shape) if rule.draws is None else rule.draws
    left = candidates & (values < lowest_chosen[:, None])
    rank = np.where(left, RULES[rule.rejected](np.where(candidates, values, 0.0), candidates, draws), np.inf)
    for pair in range(rule.pairs):
        first = left & (rank == rank.min(axis=1, keepdims=True))
        column = np.where(first, values, np.inf).argmin(axis=1)
        found = first[rows, column] & (chosen[:, pair] >= 0)
        if not found.any():
            break
        rejected[found, pair] = column[found]
        left[rows[found], column[found]] = False
        rank[rows[found], column[found]] = np.inf
    return PairEnds(chosen, rejected)


def at_columns(values: AnyArray, columns: Ints, fill: float = math.nan) -> Floats:
    """[P, K] what `values` [P, N] has in `columns` [P, K], `fill` for -1."""
    taken = np.take_along_axis(values, np.maximum(columns, 0), axis=1)
    return np.where(columns >= 0, taken, fill)


def _mean(values: Floats, candidates: Bools) -> Floats:
    """[P, 1]; 0 for a row without candidates."""
    count = np.maximum(candidates.sum(axis=1, keepdims=True), 1)
    mean: Floats = np.where(candidates, values, 0.0).sum(axis=1, keepdims=True) / count
    return mean
