"""Length control of pair rules other than the two extremes: the alpha at which the pairs that a rule makes are equally long on average.

For the highest and the lowest sample the summed length difference falls as alpha grows, and `length_control.fit_alpha` finds its
crossing of 0 exactly. With a rule it is a step function all the same, since pairs change only where samples change places, but it need not
fall everywhere: a sample that comes nearest to the mean less two deviations may be a long or a short one. So it is looked at in many
points, which lie where the envelopes change, and every change of its sign between two of them is bisected down to what float64 can tell
apart. What is found there is at most half as far from 0 as the pairs that change at this one point move the sum: for P prompts the mean is
within max | |chosen| - |rejected| | / P of 0 (unless several prompts change at the same alpha). The sum is evaluated just as pairs are selected.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from icr_platform.annotation.length_control import AlphaFit, changes_within, fit_alpha, length_controlled
from icr_platform.annotation.pair_rules import PairRule, at_columns, pair_ends
from icr_platform.core.arrays import Bools, Floats

_CELLS = 10_000_000  # of rewards that are looked at in all points together: about a second
_FEWEST, _MOST = 48, 512  # points
_CHANGES_BISECTED = 8  # of sign, those nearest to 0


class _Value(NamedTuple):
    """What the pairs made at some alpha come to. missing: pairs of the most that samples allow that ties leave out."""

    missing: int
    length: int
    alpha: float
    pairs: int

    @property
    def cost(self) -> tuple[int, int, float]:
        """What is minimised: first the pairs lost, then the magnitude of the length difference, then that of alpha."""
        return self.missing, abs(self.length), abs(self.alpha)


def fit_rule_alpha(
    rewards: ArrayLike, lengths: ArrayLike, rule: PairRule, bounds: tuple[float, float] = (-1.0, 1.0)
) -> AlphaFit:
    """The alpha within bounds that brings the mean of |chosen| - |rejected| over the pairs of a rule close to 0; see the module.

    Means are over pairs. Where the sum has no change of sign within bounds, the alpha with the smallest magnitude among the points looked
    at is returned. Pairs that `select_pairs` drops for their margin, or chooses otherwise for its upper bound, count like any other.

    Args:
        rewards, lengths, bounds: as of `fit_alpha`, whose exact result the two extremes get.
        rule: its draws, if it has any, are [P, N] as the rewards.

    Raises:
        InputError: bounds are reversed or NaN.
    """
    if rule.is_extremes:
        return fit_alpha(rewards, lengths, bounds)
    reward, length = np.asarray(rewards, dtype=np.float64), np.asarray(lengths, dtype=np.float64)
    low, high, changes = changes_within(reward, length, bounds)
    finite = np.isfinite(reward)
    counted = finite.sum(axis=1) >= 2
    if not counted.any():
        return AlphaFit(min(max(0.0, low), high), math.nan, math.nan, 0, 0)
    reward, length, finite = reward[counted], np.where(finite, length, 0.0)[counted], finite[counted]
    summed = _Sum(np.where(finite, reward, np.nan), length, finite, rule.of_rows(counted))

    count = int(np.clip(_CELLS / (reward.size * rule.pairs), _FEWEST, _MOST))
    seen = sorted((summed(alpha) for alpha in _points(changes, low, high, count)), key=lambda value: value.alpha)
    crossings = [(a, b) for a, b in pairwise(seen) if a.length * b.length < 0]
    crossings.sort(key=lambda ends: min(abs(ends[0].alpha), abs(ends[1].alpha)))
    for before, after in crossings[:_CHANGES_BISECTED]:
        seen += _bisected(summed, before, after)
    if not crossings:
        seen += _around_the_best(summed, seen)
    best, start = min(seen, key=lambda value: value.cost), summed(0.0)
    controlled, uncontrolled = (value.length / value.pairs if value.pairs else math.nan for value in (best, start))
    return AlphaFit(best.alpha, controlled, uncontrolled, len(changes), len(reward))


class _Sum:
    """The `_Value` at an alpha, computed in float64 just as pairs are selected."""

    def __init__(self, reward: Floats, length: Floats, finite: Bools, rule: PairRule) -> None:
        self.reward, self.length, self.finite, self.rule = reward, length, finite, rule
        self._allowed = int(np.maximum(np.minimum(finite.sum(axis=1) // 2, rule.pairs), 1).sum())

    def __call__(self, alpha: float) -> _Value:
        ends = pair_ends(length_controlled(self.reward, self.length, alpha), self.finite, self.rule)
        made = ends.rejected >= 0
        difference = at_columns(self.length, ends.chosen, 0.0) - at_columns(self.length, ends.rejected, 0.0)
        pairs = int(made.sum())
        return _Value(self._allowed - pairs, int(difference[made].sum()), float(alpha), pairs)

    def rounding(self, alpha: float) -> float:
        """Values of alpha that are nearer to each other than this may rank samples alike by rounding alone."""
        longest = max(float(self.length.max()), 1.0)
        largest = float(np.nanmax(np.abs(self.reward))) + abs(alpha) * longest
        return float(np.finfo(np.float64).eps) * largest / longest


def _points(changes: Floats, low: float, high: float, count: int) -> list[float]:
    """At most `count` values of alpha between changes of the envelopes, spread evenly over these, with the bounds and 0."""
    between = (changes[1:] + changes[:-1]) / 2
    if len(between) > count:
        between = between[np.linspace(0, len(between) - 1, count).astype(np.int64)]
    else:  # few prompts: the points in between are as cheap
        between = np.concatenate([between, np.linspace(low, high, count - len(between) + 1)])
    return sorted({low, high, min(max(0.0, low), high), *between.tolist()})


def _bisected(summed: _Sum, before: _Value, after: _Value) -> list[_Value]:
    """What is seen on the way to a change of sign."""
    seen = []
    while after.alpha - before.alpha > summed.rounding(before.alpha):
        middle = summed((before.alpha + after.alpha) / 2)
        seen.append(middle)
        if middle.length == 0 or middle.alpha in (before.alpha, after.alpha):
            break
        if (middle.length > 0) == (before.length > 0):
            before = middle
        else:
            after = middle
    return seen


def _around_the_best(summed: _Sum, seen: list[_Value]) -> list[_Value]:
    """Look three times more closely between the neighbours of the best point."""
    added: list[_Value] = []
    for _ in range(3):
        every = sorted([*seen, *added], key=lambda value: value.alpha)
        place = every.index(min(every, key=lambda value: value.cost))
        low, high = every[max(place - 1, 0)].alpha, every[min(place + 1, len(every) - 1)].alpha
        added += [summed(alpha) for alpha in np.linspace(low, high, 34)[1:-1].tolist()]
    return added
