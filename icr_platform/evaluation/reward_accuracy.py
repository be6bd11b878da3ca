"""How often a reward ranks the better response higher: accuracy, paired tests, calibration, AUC within a prompt. Pure.

An observation is a labelled pair: 1 where the better response has the higher reward, 0 where the lower, 0.5 where both have the same. Pairs
of one prompt are not independent of each other: everything here takes the prompt of each, and counts prompts where a prompt has several.

Two prompts, the second with three pairs, of which a reward has one wrong:

>>> found = accuracy([1.0, 1.0, 0.0, 1.0], ["a", "b", "b", "b"])
>>> found.accuracy, found.n, found.ties, found.prompts
(75.0, 4, 0, 2)
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from icr_platform.core.arrays import Floats, Ints
from icr_platform.core.intervals import Z95, wilson_bounds

BINS = 10
"""Bins of the calibration curve, at most."""
_FEWEST_IN_A_BIN = 10
_NEGLIGIBLE = 1e-40


class Accuracy(NamedTuple):
    """Accuracy with its 95% interval, in percent.

    n: pairs. ties: those that count half. prompts: over which the interval counts.
    """

    accuracy: float
    low: float
    high: float
    n: int
    ties: int
    prompts: int


class PairedTest(NamedTuple):
    """Two rewards on the same pairs.

    difference: accuracy of the first minus the second, in points, with its 95% interval; NaN bounds under two prompts.
    first_only, second_only: pairs on which the first, or the second, does better.
    p_value: two-sided, exact, of no difference.
    n: pairs.
    """

    difference: float
    low: float
    high: float
    first_only: int
    second_only: int
    p_value: float
    n: int


class CalibrationBin(NamedTuple):
    """Pairs whose absolute margins lie in [least, most].

    margin: their mean. predicted: accuracy that the margins claim, in percent, see `calibration`.
    """

    least: float
    most: float
    margin: float
    predicted: float
    observed: Accuracy


class PromptAuc(NamedTuple):
    """Area under the curve within a prompt, averaged over prompts, in percent with its 95% interval.

    prompts: that have samples of different labels. pairs: of such samples.
    """

    auc: float
    low: float
    high: float
    prompts: int
    pairs: int


def is_right(better: ArrayLike, worse: ArrayLike) -> Floats:
    """[n] 1 where the better response's reward is higher, 0 where lower, 0.5 where equal; NaN where either is missing.

    >>> is_right([2.0, 1.0, 0.0, float("nan")], [1.0, 1.0, 1.0, 1.0]).tolist()
    [1.0, 0.5, 0.0, nan]
    """
    first, second = np.asarray(better, np.float64), np.asarray(worse, np.float64)
    right = np.where(first > second, 1.0, np.where(first < second, 0.0, 0.5))
    return np.where(np.isnan(first) | np.isnan(second), np.nan, right)


def accuracy(right: ArrayLike, prompts: Sequence[Hashable] | None = None) -> Accuracy:
    """Mean of [n] observations, none of them NaN, with the Wilson interval.

    Where prompts have several pairs, the interval is that of as many independent pairs as have the variance that was seen between prompts
    (Rao and Scott 1992), and never of more than there are. NaN with the interval [0, 100] for no observation.

    Args:
        prompts: [n] of each pair; without it every pair has a prompt of its own.
    """
    values = np.asarray(right, np.float64)
    cluster = _numbers(prompts, len(values))
    return _with_interval(float(values.mean()) if len(values) else math.nan, values, cluster, np.ones(len(values)))


def mean_accuracy(right: ArrayLike, languages: Sequence[str], prompts: Sequence[Hashable] | None = None) -> Accuracy:
    """Unweighted mean over languages of their accuracies; translations of a prompt are one prompt.

    Args:
        languages: [n] of each pair. prompts: [n], the same in every language; without it every pair has a prompt of its own.
    """
    values = np.asarray(right, np.float64)
    if not len(values):
        return accuracy(values)
    names, language = np.unique(np.asarray(languages, dtype=object).astype(str), return_inverse=True)
    sizes = np.bincount(language)
    means = np.bincount(language, weights=values) / sizes
    weight = len(values) / (len(names) * sizes[language])
    return _with_interval(float(means.mean()), values, _numbers(prompts, len(values)), weight, means[language])


def _with_interval(
    mean: float, values: Floats, cluster: Ints, weight: Floats, centre: Floats | float | None = None
) -> Accuracy:
    """Weights average 1; centre: what each observation deviates from, the mean where it is None."""
    n, ties = len(values), int(np.count_nonzero((values > 0) & (values < 1)))
    prompts = int(cluster.max()) + 1 if n else 0
    effective = float(n)
    if n and (prompts < n or np.ptp(weight) > 0):
        # Each prompt's share in the deviation of the mean, and the variance that they say it has.
        deviation = np.bincount(cluster, weights=weight * (values - (mean if centre is None else centre))) / n
        variance = prompts / (prompts - 1) * float((deviation**2).sum()) if prompts > 1 else 0.0
        effective = min(float(n), mean * (1 - mean) / variance) if variance > 0 else float(prompts)
        # A mean at the bound leaves nothing to see of a variance: what is left to count is prompts.
        effective = effective if 0 < mean < 1 else float(prompts)
    low, high = wilson_bounds(mean, effective)
    return Accuracy(100.0 * mean, 100.0 * low, 100.0 * high, n, ties, prompts)


def best_of_all(right: ArrayLike, prompts: Sequence[Hashable]) -> Floats:
    """[prompts] of several pairs each, 1 where every better response is above every worse one, as RewardBench 2 counts (arXiv 2506.01937).

    Where k worse responses share the first place with the best, 1 / (k + 1). Prompts are in the order of their first pairs.

    >>> best_of_all([1.0, 1.0, 1.0, 0.5, 1.0, 0.0], ["a", "a", "b", "b", "c", "c"]).tolist()
    [1.0, 0.5, 0.0]
    """
    values, cluster = np.asarray(right, np.float64), _numbers(prompts, len(prompts))
    count = int(cluster.max()) + 1 if len(cluster) else 0
    ties = np.bincount(cluster, weights=values == 0.5, minlength=count)
    lost = np.bincount(cluster, weights=values == 0.0, minlength=count)
    return np.where(lost > 0, 0.0, 1.0 / (1.0 + ties))


def paired_test(first: ArrayLike, second: ArrayLike, prompts: Sequence[Hashable] | None = None) -> PairedTest:
    """Compare two rewards on the same [n] pairs: McNemar's exact test, by prompt where a prompt has several pairs.

    Under no difference, which of the two does better on a prompt is a coin's toss: the p-value is the share of all assignments of signs
    to the prompts' differences whose sum is at least as far from 0. With one pair a prompt, that is McNemar's exact test.

    >>> found = paired_test([1, 1, 1, 0, 1], [0, 0, 0, 1, 1])
    >>> found.first_only, found.second_only, round(found.p_value, 9)
    (3, 1, 0.625)
    """
    difference = np.asarray(first, np.float64) - np.asarray(second, np.float64)
    n = len(difference)
    cluster = _numbers(prompts, n)
    count = int(cluster.max()) + 1 if n else 0
    by_prompt = np.bincount(cluster, weights=difference, minlength=count)
    mean = float(difference.mean()) if n else math.nan
    reach = math.nan
    if count > 1:
        size = np.bincount(cluster, minlength=count)
        residual = (by_prompt - mean * size) / n
        reach = Z95 * math.sqrt(count / (count - 1) * float((residual**2).sum()))
    halves = np.rint(2 * by_prompt).astype(np.int64)
    return PairedTest(
        100.0 * mean,
        100.0 * (mean - reach),
        100.0 * (mean + reach),
        int((difference > 0).sum()),
        int((difference < 0).sum()),
        sign_flip_p_value(halves),
        n,
    )


def sign_flip_p_value(differences: Sequence[int] | Ints) -> float:
    """Share of the assignments of signs to [m] whole numbers whose sum is at least as far from 0 as the one that was seen; exact.

    The sum's distribution is built by convolution of one binomial for each distinct size, never by drawing.

    >>> [round(sign_flip_p_value(sizes), 9) for sizes in ([1, 1, 1, 1], [2, 1, 1], [])]
    [0.125, 0.25, 1.0]
    """
    values = np.asarray(differences, np.int64)
    sizes, counts = np.unique(np.abs(values[values != 0]), return_counts=True)
    seen = abs(int(values.sum()))
    lowest, chances = 0, np.ones(1)
    for size, count in zip(sizes.tolist(), counts.tolist(), strict=True):
        # Of `count` signs, k are plus: the sum is size * (2k - count).
        logs = [math.lgamma(count + 1) - math.lgamma(k + 1) - math.lgamma(count - k + 1) for k in range(count + 1)]
        binomial = np.exp(np.array(logs) - count * math.log(2))
        kept = np.flatnonzero(binomial > _NEGLIGIBLE)
        spread = np.zeros(2 * size * (len(kept) - 1) + 1)
        spread[:: 2 * size] = binomial[kept]
        chances = np.convolve(chances, spread)
        lowest += size * (2 * int(kept[0]) - count)
    sums = lowest + np.arange(len(chances))
    return min(1.0, float(chances[np.abs(sums) >= seen].sum()))


def calibration(
    margin: ArrayLike, right: ArrayLike, prompts: Sequence[Hashable] | None = None, bins: int = BINS
) -> list[CalibrationBin]:
    """Accuracy by absolute margin, in bins of equal numbers of pairs, the smallest margins first; equal margins share a bin.

    A DPO policy's implicit reward claims that the response above is better with probability sigmoid(margin) (Rafailov et al. 2023,
    equation 6): `predicted` is the mean of that.

    Args:
        margin: [n] reward of the better response minus that of the worse. right: [n] observations.
        bins: at most; fewer where they would have under ten pairs.
    """
    size, values = np.abs(np.asarray(margin, np.float64)), np.asarray(right, np.float64)
    cluster = _numbers(prompts, len(size))
    order = np.argsort(size, kind="stable")
    count = max(1, min(bins, len(size) // _FEWEST_IN_A_BIN))
    cuts = [0]
    for index in range(1, count):
        cut = int(np.searchsorted(size[order], size[order][round(index * len(size) / count) - 1], side="right"))
        if cuts[-1] < cut < len(size):
            cuts.append(cut)
    found = []
    for start, stop in itertools.pairwise([*cuts, len(size)]):
        rows = order[start:stop]
        if len(rows):
            inside = size[rows]
            predicted = float((100.0 / (1.0 + np.exp(-inside))).mean())
            seen = accuracy(values[rows], cluster[rows].tolist())
            found.append(
                CalibrationBin(float(inside.min()), float(inside.max()), float(inside.mean()), predicted, seen)
            )
    return found


def auc_within_prompts(scores: ArrayLike, labels: ArrayLike, prompts: Sequence[Hashable]) -> PromptAuc:
    """How often the sample with the higher label has the higher score, among pairs of one prompt's samples whose labels differ.

    Each prompt with such a pair counts once, whatever its number of pairs; equal scores count half. NaN without such a prompt.

    Args:
        scores: [n] rewards; samples without one (NaN) take no part. labels: [n] in [0, 1], higher is better; NaN where nothing is known.
    """
    score, label = np.asarray(scores, np.float64), np.asarray(labels, np.float64)
    known = ~(np.isnan(score) | np.isnan(label))
    cluster = _numbers(prompts, len(score))
    order = np.flatnonzero(known)[np.argsort(cluster[known], kind="stable")]
    starts = np.flatnonzero(np.diff(cluster[order], prepend=-1))
    areas, pairs = [], 0
    for rows in np.split(order, starts[1:]) if len(order) else []:
        is_better = label[rows][:, None] > label[rows][None, :]
        if is_better.any():
            areas.append(
                float(is_right(*np.broadcast_arrays(score[rows][:, None], score[rows][None, :]))[is_better].mean())
            )
            pairs += int(is_better.sum())
    if not areas:
        return PromptAuc(math.nan, 0.0, 100.0, 0, 0)
    mean = float(np.mean(areas))
    reach = Z95 * float(np.std(areas, ddof=1)) / math.sqrt(len(areas)) if len(areas) > 1 else 1.0
    return PromptAuc(100.0 * mean, 100.0 * max(0.0, mean - reach), 100.0 * min(1.0, mean + reach), len(areas), pairs)


def _numbers(prompts: Sequence[Hashable] | None, n: int) -> Ints:
    """[n] each prompt as a number, in the order in which they are first met."""
    if prompts is None:
        return np.arange(n)
    known: dict[Hashable, int] = {}
    return np.array([known.setdefault(prompt, len(known)) for prompt in prompts], dtype=np.int64)
