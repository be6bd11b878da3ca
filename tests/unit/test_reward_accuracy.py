"""Accuracy, paired tests, calibration and AUC of rewards, against the formulas by hand and naive loops."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from icr_platform.evaluation.reward_accuracy import (
    accuracy,
    auc_within_prompts,
    best_of_all,
    calibration,
    is_right,
    mean_accuracy,
    paired_test,
    sign_flip_p_value,
)

observations = st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=1, max_size=40)


def wilson_by_hand(successes: float, n: float) -> tuple[float, float]:
    """The two roots of (p - s/n)^2 = z^2 p (1 - p) / n."""
    z2, share = 1.959963984540054**2, successes / n
    a, b, c = 1 + z2 / n, -(2 * share + z2 / n), share * share
    root = math.sqrt(max(0.0, b * b - 4 * a * c))
    return (-b - root) / (2 * a), (-b + root) / (2 * a)


@given(observations)
def test_independent_pairs_have_wilsons_interval(right: list[float]) -> None:
    found = accuracy(right)
    low, high = wilson_by_hand(sum(right), len(right))
    assert found.accuracy == pytest.approx(100 * sum(right) / len(right))
    assert [found.low, found.high] == pytest.approx([100 * max(low, 0), 100 * min(high, 1)], abs=1e-7)
    assert (found.n, found.ties, found.prompts) == (len(right), right.count(0.5), len(right))


@given(observations, st.integers(1, 5))
def test_an_interval_does_not_shrink_when_every_pair_is_repeated(right: list[float], times: int) -> None:
    """Copies of a pair say nothing new: the interval is that of the prompts, whatever a prompt is repeated."""
    once, repeated = accuracy(right), accuracy(right * times, list(range(len(right))) * times)
    assert repeated.accuracy == pytest.approx(once.accuracy)
    assert repeated.prompts == len(right)
    if 0 < once.accuracy < 100 and 0.5 not in right and times > 1:
        # The variance between prompts has C - 1 in its denominator, the binomial's has C.
        effective = len(right) - 1
        low, high = wilson_by_hand(effective * once.accuracy / 100, effective) if effective else (0.0, 1.0)
        assert [repeated.low, repeated.high] == pytest.approx([100 * max(low, 0), 100 * min(high, 1)], abs=1e-6)
    assert repeated.high - repeated.low >= (once.high - once.low) - 1e-9 or 0.5 in right


def test_the_interval_of_clustered_pairs_covers() -> None:
    """200 prompts of 5 pairs that are right or wrong together: 95% of intervals contain the truth, of naive ones 60%."""
    rng = np.random.default_rng(0)
    covered = naive = 0
    for _ in range(400):
        chance = rng.beta(0.7 * 0.5, 0.3 * 0.5, 60)  # correlation 1 / 1.5 within a prompt
        right = (rng.random((60, 5)) < chance[:, None]).astype(float).ravel()
        found, independent = accuracy(right, np.repeat(np.arange(60), 5).tolist()), accuracy(right)
        covered += found.low <= 70 <= found.high
        naive += independent.low <= 70 <= independent.high
    assert covered >= 0.92 * 400
    assert naive < 0.85 * 400


@pytest.mark.parametrize(
    ("right", "prompts", "n", "bounds"),
    [
        ([1.0] * 6, None, 6, (60.97, 100.0)),  # Wilson of 6 of 6
        ([1.0] * 6, ["a", "a", "b", "b", "c", "c"], 6, (43.85, 100.0)),  # of 3 of 3: prompts are what is left to count
        ([0.0] * 4, None, 4, (0.0, 48.99)),
        ([1.0], None, 1, (20.65, 100.0)),
        ([1.0, 0.0], ["a", "a"], 2, (5.46, 94.54)),  # one prompt: of one pair
    ],
)
def test_bounds_at_the_edges(
    right: list[float], prompts: list[str] | None, n: int, bounds: tuple[float, float]
) -> None:
    found = accuracy(right, prompts)
    assert found.n == n
    assert [found.low, found.high] == pytest.approx(list(bounds), abs=0.01)


def test_nothing_has_no_accuracy() -> None:
    found = accuracy([])
    assert math.isnan(found.accuracy)
    assert (found.low, found.high, found.n, found.prompts) == (0.0, 100.0, 0, 0)
    assert math.isnan(mean_accuracy([], []).accuracy)
    assert calibration([], []) == []
    assert paired_test([], []).p_value == 1.0


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from([0.0, 0.5, 1.0])), min_size=1, max_size=60))
def test_the_mean_over_languages_is_unweighted(rows: list[tuple[str, float]]) -> None:
    languages, right = zip(*rows, strict=True)
    by_hand = [np.mean([r for code, r in rows if code == language]) for language in set(languages)]
    found = mean_accuracy(right, languages)
    assert found.accuracy == pytest.approx(100 * float(np.mean(by_hand)))
    assert found.low - 1e-9 <= found.accuracy <= found.high + 1e-9


def test_a_small_language_makes_the_mean_uncertain() -> None:
    """1,000 pairs at 80% and 10 at 60%: the standard error is half of the small language's, not that of 1,010 pairs."""
    right, languages = [1.0] * 800 + [0.0] * 200 + [1.0] * 6 + [0.0] * 4, ["es"] * 1000 + ["sw"] * 10
    found = mean_accuracy(right, languages)
    by_hand = math.sqrt(0.8 * 0.2 / 1000 + 0.6 * 0.4 / 10) / 2
    assert found.accuracy == pytest.approx(70)
    assert (found.high - found.low) / 200 == pytest.approx(1.96 * by_hand, rel=0.05)
    assert accuracy(right).high - accuracy(right).low < 6 < found.high - found.low


@given(st.lists(st.tuples(st.booleans(), st.booleans()), max_size=60))
def test_one_pair_a_prompt_is_mcnemars_exact_test(pairs: list[tuple[bool, bool]]) -> None:
    first, second = [float(a) for a, _ in pairs], [float(b) for _, b in pairs]
    found = paired_test(first, second)
    b = sum(x > y for x, y in zip(first, second, strict=True))
    c = sum(x < y for x, y in zip(first, second, strict=True))
    expected = binomtest(b, b + c, 0.5).pvalue if b + c else 1.0
    assert (found.first_only, found.second_only) == (b, c)
    assert found.p_value == pytest.approx(expected, rel=1e-9)


@settings(max_examples=50)
@given(st.lists(st.integers(-6, 6), max_size=9))
def test_the_sign_flip_test_counts_all_assignments(differences: list[int]) -> None:
    seen = abs(sum(differences))
    every = list(itertools.product((1, -1), repeat=len(differences)))
    as_far = sum(abs(sum(s * d for s, d in zip(signs, differences, strict=True))) >= seen for signs in every)
    assert sign_flip_p_value(differences) == pytest.approx(as_far / len(every), rel=1e-9)


def test_pairs_of_one_prompt_are_one_toss() -> None:
    """Ten pairs of one prompt on which the first is better are no evidence; of ten prompts they are."""
    first, second = [1.0] * 10, [0.0] * 10
    assert paired_test(first, second, ["p"] * 10).p_value == 1.0
    assert paired_test(first, second, list("abcdefghij")).p_value == pytest.approx(2 / 2**10)


def test_many_pairs_are_tested_exactly() -> None:
    """50,100 against 49,900 of 100,000: the binomial's own p-value, without its normal approximation."""
    found = sign_flip_p_value([1] * 50_100 + [-1] * 49_900)
    assert found == pytest.approx(binomtest(50_100, 100_000).pvalue, rel=1e-6)
    assert sign_flip_p_value([3] * 2_000) < 1e-38


@given(st.lists(st.tuples(st.floats(-3, 3), st.sampled_from([0.0, 0.5, 1.0])), min_size=1, max_size=120))
def test_bins_are_a_partition_by_absolute_margin(rows: list[tuple[float, float]]) -> None:
    margins, right = zip(*rows, strict=True)
    bins = calibration(margins, right)
    assert sum(each.observed.n for each in bins) == len(rows)
    assert sum(each.observed.n * each.observed.accuracy for each in bins) == pytest.approx(100 * sum(right), abs=1e-6)
    for before, after in itertools.pairwise(bins):
        assert before.most < after.least  # equal margins share a bin
    for each in bins:
        inside = [(m, r) for m, r in rows if each.least <= abs(m) <= each.most]
        assert each.observed.accuracy == pytest.approx(100 * np.mean([r for _, r in inside]))
        assert each.predicted == pytest.approx(100 * np.mean([1 / (1 + math.exp(-abs(m))) for m, _ in inside]))
    assert len(bins) <= max(1, len(rows) // 10)


def test_margins_that_claim_what_they_keep_are_calibrated() -> None:
    rng = np.random.default_rng(1)
    margin = rng.normal(0, 2, 20_000)
    right = (rng.random(20_000) < 1 / (1 + np.exp(-np.abs(margin)))).astype(float)
    bins = calibration(margin, right)
    assert len(bins) == 10
    assert sum(each.observed.low <= each.predicted <= each.observed.high for each in bins) >= 8


scored = st.lists(
    st.tuples(st.sampled_from("pqr"), st.sampled_from([0.0, 0.5, 1.0, math.nan]), st.sampled_from([-1.0, 0.0, 2.0, math.nan])),
    max_size=30,
)  # fmt: skip


@given(scored)
def test_auc_counts_pairs_of_one_prompt(rows: list[tuple[str, float, float]]) -> None:
    areas, pairs = [], 0
    for prompt in "pqr":
        own = [(label, score) for name, label, score in rows if name == prompt and label == label and score == score]
        wins = [
            1.0 if better > worse else 0.5 if better == worse else 0.0
            for high, better in own
            for low, worse in own
            if high > low
        ]
        pairs += len(wins)
        areas += [float(np.mean(wins))] if wins else []
    found = auc_within_prompts([row[2] for row in rows], [row[1] for row in rows], [row[0] for row in rows])
    assert (found.prompts, found.pairs) == (len(areas), pairs)
    if areas:
        assert found.auc == pytest.approx(100 * np.mean(areas))
        assert 0 <= found.low <= found.auc + 1e-9
        assert found.auc - 1e-9 <= found.high <= 100
    else:
        assert math.isnan(found.auc)


@pytest.mark.parametrize(
    ("right", "best"),
    [([1, 1, 1], 1.0), ([1, 0, 1], 0.0), ([0.5, 1, 1], 0.5), ([0.5, 0.5, 0.5], 0.25), ([0.5, 0, 1], 0.0), ([1], 1.0)],
)
def test_best_of_several_is_counted_as_reward_bench_2_does(right: list[float], best: float) -> None:
    """A first place that k share is worth 1 / k; any better wrong response makes it 0."""
    assert best_of_all(right, ["p"] * len(right)).tolist() == [best]


def test_rewards_that_are_missing_are_neither_right_nor_wrong() -> None:
    seen = is_right([1.0, math.nan, 0.0, -math.inf, 2.0], [0.0, 1.0, math.nan, 0.0, 2.0])
    assert seen.tolist()[0] == 1.0
    assert np.isnan(seen).tolist() == [False, True, True, False, False]
    assert seen.tolist()[3:] == [0.0, 0.5]
