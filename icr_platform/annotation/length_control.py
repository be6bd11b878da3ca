"""Length control: the penalty per character that makes chosen and rejected responses equally long on average.

`r_LC(y) = r(y) - alpha * |y|` (ICR, arXiv 2503.04647, section 3; introduced by DICE, arXiv 2406.09760). As functions
of alpha the samples of a prompt are lines: the chosen one follows their upper envelope and gets shorter as alpha grows,
the rejected one follows the lower envelope and gets longer. The summed length difference is therefore a non-increasing
step function of alpha that changes only at the envelopes' breakpoints; its smallest magnitude lies where it crosses 0.

At a breakpoint at which all samples of a prompt tie, its best and its worst are one sample and it gives no pair. With two
samples a prompt every breakpoint is of that kind, and the value there, between those on either side, would look the best:
such an alpha is not a candidate.

Two prompts with two samples each, written as lines in alpha, and alpha from 0 to 0.9:

    prompt 1   3 - 10 alpha   and   0 - 4 alpha    meet at 0.5
    prompt 2   2 - 5 alpha    and   0 - 3 alpha    meet at 1, outside the bounds

    alpha                  |chosen| - |rejected|       prompts lost   sum
                           prompt 1     prompt 2
    0 <= alpha < 0.5       10 - 4       5 - 3          0               8
    alpha = 0.5            4 or 10: a tie, no pair     1               2
    0.5 < alpha <= 0.9     4 - 10       5 - 3          0              -4

The sum that is closest to 0 is the one at the tie, and it is not allowed, for it costs the first prompt its pair. The best of the
others is -4, on an interval that is open at its end nearest 0; so alpha is the float64 that follows 0.5. `fit_alpha` finds the
breakpoints by walking the envelopes, evaluates the few points around the crossing of 0 just as pairs are selected, and steps
over the tie.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from icr_platform.core.arrays import Bools, Floats, Ints
from icr_platform.core.errors import InputError

_MOST_TIES_TRIED = 64  # those nearest the crossing; whole rewards can tie in thousands of points


@dataclass(frozen=True)
class AlphaFit:
    """The length penalty of one language."""

    alpha: float
    """Reward per character; negative where rewards prefer short responses."""
    mean_length_difference: float
    """Mean of |chosen| - |rejected| over prompts at alpha, in characters; NaN without prompts."""
    mean_length_difference_before: float
    """The same at alpha = 0."""
    breakpoints: int
    """Distinct values of alpha within the bounds at which some prompt's pair changes."""
    prompts: int
    """Prompts with at least two finite rewards: those the means are over."""


class Extremes(NamedTuple):
    """Columns of the highest and the lowest value of each row, each [P]; among equals the first column."""

    highest: Ints
    lowest: Ints


class _Envelope(NamedTuple):
    """Walk along the upper envelope of many prompts' lines; lengths are signed as the caller gave them."""

    start_length: int
    """Summed length of the topmost lines at the lower bound."""
    alpha: Floats
    """[M] where some prompt's topmost line changes."""
    jump: Floats
    """[M] what the change adds to the summed length, negative."""


def length_controlled(rewards: Floats, lengths: ArrayLike, alpha: float) -> Floats:
    """`rewards - alpha * lengths`, both [P, N] (lengths in characters); NaN stays NaN."""
    return rewards - alpha * np.asarray(lengths, dtype=np.float64)


def extremes(values: Floats, candidates: Bools) -> Extremes:
    """Highest and lowest candidate of each row of values [P, N]; rows without a candidate give column 0."""
    highest = np.where(candidates, values, -np.inf).argmax(axis=1)
    lowest = np.where(candidates, values, np.inf).argmin(axis=1)
    return Extremes(highest, lowest)


def fit_alpha(rewards: ArrayLike, lengths: ArrayLike, bounds: tuple[float, float] = (-1.0, 1.0)) -> AlphaFit:
    """The alpha within bounds that brings the mean of |chosen| - |rejected| closest to 0, the nearest 0 among equals.

    Exact: the smallest magnitude is searched among all values the mean takes within bounds where no prompt's best and
    worst are the same sample (where bounds leave such values only, among those that lose the fewest prompts). Other ties
    follow `extremes` (the first sample wins), as they do in `select_pairs`. Where the nearest minimiser is the open end
    of an interval, at which a tie falls the other way or loses a prompt, the returned alpha is the next float64 inside
    it at which rounding of `rewards - alpha * lengths` tells the samples apart: the returned mean was evaluated at the
    returned alpha itself.

    Pairs that `select_pairs` drops for their margin, or chooses otherwise for its upper bound, are in the mean like any
    other: both depend on alpha, and the method fits it first (METHOD, steps 3 and 4).

    The example at the top of the module:

    >>> fit = fit_alpha([[3.0, 0.0], [2.0, 0.0]], [[10, 4], [5, 3]], bounds=(0.0, 0.9))
    >>> fit.alpha == math.nextafter(0.5, 1.0), fit.mean_length_difference, fit.mean_length_difference_before
    (True, -2.0, 4.0)

    Args:
        rewards: [P, N], one row per prompt; a sample that is NaN or infinite does not take part: pass NaN for those
            that `select_pairs` is to leave aside.
        lengths: [P, N] characters.
        bounds: lowest and highest alpha, both included; either may be infinite.

    Raises:
        InputError: bounds are reversed or NaN.
        ValueError: rewards and lengths differ in shape.
    """
    reward, length = np.asarray(rewards, dtype=np.float64), np.asarray(lengths, dtype=np.float64)
    if reward.ndim != 2 or reward.shape != length.shape:
        raise ValueError(f"rewards {reward.shape} and lengths {length.shape} must have one shape [prompts, samples]")
    finite = np.isfinite(reward)
    counted = finite.sum(axis=1) >= 2
    reward = np.where(finite, reward, np.nan)[counted]
    length, finite = np.where(finite, length, 0.0)[counted], finite[counted]

    low, high = _finite_bounds(reward, bounds)
    if not len(reward):
        return AlphaFit(min(max(0.0, low), high), math.nan, math.nan, 0, 0)
    breakpoints, before = _steps(reward, length, finite, low, high)
    gap = _Gap(reward, length, finite)
    alpha = _nearest_minimiser(gap, breakpoints, before, low, high)
    prompts = len(reward)
    return AlphaFit(alpha, gap(alpha).length / prompts, gap(0.0).length / prompts, len(breakpoints), prompts)


def changes_within(rewards: Floats, lengths: Floats, bounds: tuple[float, float]) -> tuple[float, float, Floats]:
    """Bounds that are finite, and the distinct alphas [K] between them, ascending, at which some prompt's best or worst sample changes.

    Arguments and errors as of `fit_alpha`.
    """
    finite = np.isfinite(rewards)
    counted = finite.sum(axis=1) >= 2
    reward = np.where(finite, rewards, np.nan)[counted]
    low, high = _finite_bounds(reward, bounds)
    if not len(reward):
        return low, high, np.empty(0)
    return low, high, _steps(reward, np.where(finite, lengths, 0.0)[counted], finite[counted], low, high)[0]


class _Value(NamedTuple):
    """What pairs selected at some alpha come to."""

    lost: int
    """Prompts whose best and worst are the same sample."""
    length: int
    """Summed |chosen| - |rejected| in characters."""

    @property
    def cost(self) -> tuple[int, int]:
        """What is minimised: first the prompts lost, then the magnitude of the length difference."""
        return self.lost, abs(self.length)


class _Gap:
    """The `_Value` at an alpha, computed in float64 just as pairs are selected."""

    def __init__(self, reward: Floats, length: Floats, finite: Bools) -> None:
        self.reward, self.length, self.finite = reward, length, finite
        self._seen: dict[float, _Value] = {}

    def by_prompt(self, alpha: float) -> tuple[Floats, Bools]:
        """|chosen| - |rejected| of each prompt [P], and whether its best and worst are the same sample [P]."""
        ends = extremes(length_controlled(self.reward, self.length, alpha), self.finite)
        rows = np.arange(len(self.length))
        return self.length[rows, ends.highest] - self.length[rows, ends.lowest], ends.highest == ends.lowest

    def __call__(self, alpha: float) -> _Value:
        if alpha not in self._seen:
            lengths, lost = self.by_prompt(alpha)
            self._seen[alpha] = _Value(int(lost.sum()), int(lengths.sum()))
        return self._seen[alpha]

    def between(self, one: float, other: float) -> "_Gap":
        """Of the prompts alone whose pairs differ between two alphas."""
        (lengths, lost), (other_lengths, other_lost) = self.by_prompt(one), self.by_prompt(other)
        rows = (lengths != other_lengths) | (lost != other_lost)
        return _Gap(self.reward[rows], self.length[rows], self.finite[rows])


def _finite_bounds(reward: Floats, bounds: tuple[float, float]) -> tuple[float, float]:
    low, high = map(float, bounds)
    if not low <= high or low == math.inf or high == -math.inf:
        raise InputError(f"bounds of alpha are ({low}, {high}): give the lower one first, e.g. (-1, 1)")
    spread = np.nanmax(reward, axis=1) - np.nanmin(reward, axis=1) if len(reward) else np.zeros(1)
    # Lengths are whole numbers, so two lines cross no farther from 0 than their rewards differ: beyond it nothing changes.
    farthest = 2 * float(spread.max()) + 1.0
    return max(low, min(-farthest, high)), min(high, max(farthest, low))


def _steps(reward: Floats, length: Floats, finite: Bools, low: float, high: float) -> tuple[Floats, Floats]:
    """Distinct breakpoints [K], ascending, and the gap on the interval before each [K + 1, the last is after all]."""
    chosen = _walk_upper_envelope(reward, length, finite, low, high)
    # Mirrored at 0 the lower envelope is an upper one, and the gap is the sum of both signed lengths.
    rejected = _walk_upper_envelope(-reward, -length, finite, low, high)
    alpha = np.concatenate([chosen.alpha, rejected.alpha])
    breakpoints, position = np.unique(alpha, return_inverse=True)
    jumps = np.bincount(position, np.concatenate([chosen.jump, rejected.jump]), minlength=len(breakpoints))
    return breakpoints, chosen.start_length + rejected.start_length + np.concatenate([[0.0], np.cumsum(jumps)])


def _walk_upper_envelope(reward: Floats, length: Floats, finite: Bools, low: float, high: float) -> _Envelope:
    """Follow each prompt's topmost line from low to high, all prompts a step at a time (gift wrapping)."""
    top = extremes(length_controlled(reward, length, low), finite).highest
    rows = np.arange(len(reward))
    # Rewards are rounded away next to a large product of bound and length; lines of one length keep their order all the same.
    top = extremes(reward, finite & (length == length[rows, top][:, None])).highest
    start_length = int(length[rows, top].sum())
    here = np.full(len(reward), low)
    alphas, jumps = [np.empty(0)], [np.empty(0)]
    while len(rows):
        shorter = length[rows, top][:, None] - length
        crossing = np.full(length.shape, np.inf)
        np.divide(reward[rows, top][:, None] - reward, shorter, out=crossing, where=(shorter > 0) & finite)
        nearest = crossing.min(axis=1)
        # Among lines that meet in one point the shortest is on top beyond it.
        following = np.where(crossing == nearest[:, None], length, np.inf).argmin(axis=1)
        going = nearest <= high
        rows = np.arange(int(going.sum()))
        reward, length, finite = reward[going], length[going], finite[going]
        here = np.maximum(nearest, here)[going]
        alphas.append(here)
        jumps.append(length[rows, following[going]] - length[rows, top[going]])
        top = following[going]
    return _Envelope(start_length, np.concatenate(alphas), np.concatenate(jumps))


def _nearest_minimiser(gap: _Gap, breakpoints: Floats, before: Floats, low: float, high: float) -> float:
    """Evaluate the gap around its crossing of 0 and return the attaining alpha that is nearest 0."""
    zero = min(max(0.0, low), high)
    first = last = 0  # the slice of breakpoints around the crossing that float64 cannot tell apart
    if len(breakpoints):
        # The first breakpoint after which the gap is not positive, or the last one.
        first = last = min(int(np.searchsorted(-before[1:], 0.0)), len(breakpoints) - 1)
        width = _rounding(gap, float(breakpoints[first]))
        while first and breakpoints[first] - breakpoints[first - 1] <= width:
            first -= 1
        while last + 1 < len(breakpoints) and breakpoints[last + 1] - breakpoints[last] <= width:
            last += 1
        last += 1
    # Ties matter at the crossing, and at the bounds, where an interval may end in a tie that is not in `breakpoints`.
    zones = (breakpoints[first:last], np.array([low]), np.array([high]))
    ties = _tie_points(gap, [zone for zone in zones if len(zone)], low, high)
    left = (breakpoints[first - 1] if first else low, breakpoints[first] if first < len(breakpoints) else high)
    right = (breakpoints[last - 1] if last else low, breakpoints[last] if last < len(breakpoints) else high)
    middles = [
        (start + end) / 2 for start, end in (left, right)
    ]  # the gap is constant between neighbouring breakpoints
    target = min(gap(alpha).cost for alpha in (zero, low, high, *ties, *middles))
    if gap(zero).cost == target:
        return zero
    attaining = [alpha for alpha in (low, high, *ties) if gap(alpha).cost == target]
    for middle, interval in zip(middles, (left, right), strict=True):
        if gap(middle).cost == target:
            attaining.append(_toward_zero(gap, interval, middle))
    return min(attaining, key=lambda alpha: (abs(alpha), alpha))


def _rounding(gap: _Gap, alpha: float) -> float:
    """Width around a breakpoint within which rounding of the controlled rewards decides which sample wins."""
    largest = float(np.nanmax(np.abs(gap.reward))) + abs(alpha) * float(gap.length.max())
    return 16 * float(np.finfo(np.float64).eps) * largest


def _tie_points(gap: _Gap, zones: list[Floats], low: float, high: float) -> list[float]:
    """Values of alpha at which samples tie within rounding of each zone (breakpoints), and the points between them.

    At a tie the first sample wins, so the gap there can lie between its values on either side; several lines through
    one point cross at values that differ by rounding only, all of which are tried.
    """
    widths = [_rounding(gap, float(np.abs(zone).max())) for zone in zones]
    spans = [
        (max(float(zone[0]) - width, low), min(float(zone[-1]) + width, high))
        for zone, width in zip(zones, widths, strict=True)
    ]
    found = list(zones)
    for sample in range(gap.length.shape[1]):
        reward = gap.reward[:, sample, None] - gap.reward
        length = gap.length[:, sample, None] - gap.length
        crossing = np.divide(reward, length, out=np.full(reward.shape, np.nan), where=length > 0)
        found = [
            np.concatenate([points, crossing[(crossing >= start) & (crossing <= end)]])
            for points, (start, end) in zip(found, spans, strict=True)
        ]
    tried: list[float] = []
    for points in map(np.unique, found):
        nearest = np.argsort(np.abs(points - points.mean()), kind="stable")[:_MOST_TIES_TRIED]
        points = np.sort(points[nearest])
        tried += [float(point) for point in np.concatenate([points, (points[1:] + points[:-1]) / 2])]
    return tried


def _toward_zero(gap: _Gap, interval: tuple[float, float], inside: float) -> float:
    """The alpha nearest 0 in an interval on which the gap is constant; its end only if the tie there falls as inside.

    Only prompts that tie at the end can differ from those inside, so that the steps from the end look at these alone.
    """
    end = interval[0] if inside > 0 else interval[1]
    if gap(end) == gap(inside):
        return float(end)
    tied = gap.between(end, inside)
    first, last = _ordinal(end), _ordinal(inside)
    toward, steps = (1 if last > first else -1), abs(last - first)

    def at(step: int) -> float:
        """The float64 so many steps from the end toward the inside: `_ordinal` turned round."""
        ordinal = first + toward * min(step, steps)
        magnitude = float(np.int64(abs(ordinal)).view(np.float64))
        return magnitude if ordinal >= 0 else -magnitude

    # Doubling the steps, then halving the interval, finds the first float64 at which the tied prompts fall as inside.
    near, far = 0, 1  # float64 steps from the end: too few, and enough
    while far < steps and tied(at(far)) != tied(inside):
        near, far = far, far * 2
    while far - near > 1:
        middle = (near + far) // 2
        near, far = (near, middle) if tied(at(middle)) == tied(inside) else (middle, far)
    # Rounding may decide about prompts that tie a few steps from the end: step over those too, and halve again.
    near, beyond = far, 1
    while gap(at(far)) != gap(inside):
        near, far, beyond = far, far + beyond, beyond * 2
    while far - near > 1:
        middle = (near + far) // 2
        near, far = (near, middle) if gap(at(middle)) == gap(inside) else (middle, far)
    return at(far)


def _ordinal(number: float) -> int:
    """Place of a float64 among all of them in order; 0 is that of 0, and neighbours differ by 1."""
    bits = int(np.float64(number).view(np.int64))
    return bits if bits >= 0 else -(bits & (2**63 - 1))
