"""Paired comparisons: what is paired, what the intervals and p-values claim, Holm, flips."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import binomtest

from icr_platform.evaluation.comparison import (
    LanguageJudgments,
    bootstrap_mean,
    compare_languages,
    flipped_prompts,
    head_to_head,
    holm,
    length_controlled_difference,
    win_rate_difference,
)


def judged(preferences: Sequence[float] | NDArray[np.float64], **columns: Any) -> LanguageJudgments:
    return LanguageJudgments([f"p{i}" for i in range(len(preferences))], preferences, **columns)


def test_pairs_by_prompt_id_and_averages_a_prompts_judgments() -> None:
    before = LanguageJudgments(["a", "b", "c", "d", "a"], [0.0, 1.0, 0.5, np.nan, 1.0])
    after = LanguageJudgments(["c", "b", "a", "d", "e"], [1.0, 1.0, 0.0, 1.0, 1.0])
    change = win_rate_difference(before, after)
    assert (change.n, change.n_unpaired) == (3, 2)
    assert change.before == pytest.approx(200 / 3)
    assert change.after == pytest.approx(200 / 3)
    assert change.difference == pytest.approx(0.0)


def test_interval_and_p_value_agree_and_seeds_repeat() -> None:
    generator = np.random.default_rng(0)
    before = judged(generator.random(300))
    after = judged(np.clip(np.asarray(before.preference) + generator.normal(0.06, 0.3, 300), 0, 1))
    change = win_rate_difference(before, after)
    assert change.low < change.difference < change.high
    assert (change.p_value < 0.05) == (not change.low <= 0 <= change.high)
    assert change == win_rate_difference(before, after)
    # The normal approximation is a good one at this size.
    assert change.high - change.low == pytest.approx(2 * 1.96 * change.standard_error, rel=0.05)
    reverse = win_rate_difference(after, before)
    assert (reverse.low, reverse.high) == pytest.approx((-change.high, -change.low))


@pytest.mark.parametrize(
    ("values", "interval"),
    [([], (math.nan, math.nan, math.nan)), ([0.3], (math.nan,) * 3), ([0.0] * 9, (0.0, 0.0, 1.0)), ([1.0] * 9, (math.nan,) * 3)],
)  # fmt: skip
def test_values_that_do_not_vary(values: list[float], interval: tuple[float, ...]) -> None:
    assert bootstrap_mean(values)[2:] == pytest.approx(interval, nan_ok=True)


def test_one_changed_prompt_of_many_is_no_evidence() -> None:
    before, after = np.zeros(200), np.zeros(200)
    after[0] = 1.0
    change = win_rate_difference(judged(before), judged(after))
    assert change.low <= 0 <= change.high <= 100
    assert change.p_value > 0.05


@pytest.mark.parametrize(("worse", "better"), [(0, 1), (1, 0), (1, 1), (0, 2), (2, 0)])
def test_few_changed_prompts_bound_the_change(worse: int, better: int) -> None:
    """Of 120 prompts few differ: by no more than the exact bounds of the shares that do, a whole win each."""
    values = np.array([-0.5] * worse + [0.5] * better + [0.0] * (120 - worse - better))
    found = bootstrap_mean(values, limits=(-1.0, 1.0))
    most = {count: binomtest(count, 120).proportion_ci(0.95, method="exact").high for count in range(3)}
    assert -most[worse] - 1e-9 <= found.low < 0 < found.high <= most[better] + 1e-9
    if worse + better == 1:
        assert (found.low, found.high) == pytest.approx((-most[worse], most[better]))
    assert found.p_value > 0.05
    unbounded = bootstrap_mean(values)
    assert unbounded.low <= found.low
    assert found.high <= unbounded.high


def test_holm_by_hand() -> None:
    np.testing.assert_allclose(holm([0.01, 0.04, 0.03, np.nan]), [0.03, 0.06, 0.06, np.nan])
    np.testing.assert_allclose(holm([0.5, 0.9]), [1.0, 1.0])
    assert holm([]).size == 0


def test_languages_are_adjusted_together() -> None:
    generator = np.random.default_rng(1)
    before = {language: judged(generator.random(200)) for language in ("en", "es", "sw")}
    after = {
        language: judged(np.clip(np.asarray(before[language].preference) + 0.1, 0, 1)) for language in ("es", "en")
    }
    rows = compare_languages(before, after)
    assert [row.language for row in rows] == ["en", "es"]
    assert all(row.adjusted_p_value >= row.difference.p_value for row in rows)
    assert rows[0].difference == win_rate_difference(before["en"], after["en"])


def test_flips_name_the_regressions_first() -> None:
    before = {"en": LanguageJudgments(["a", "b", "c", "d"], [0.9, 0.2, 0.5, 0.8]), "sw": judged([0.1])}
    after = {"en": LanguageJudgments(["d", "c", "b", "a"], [0.7, 0.4, 0.9, 0.1]), "th": judged([0.1])}
    flips = flipped_prompts(before, after)
    assert [(flip.prompt_id, flip.kind, flip.before_verdict, flip.after_verdict) for flip in flips] == [
        ("a", "regression", "win", "loss"),
        ("c", "regression", "tie", "loss"),
        ("b", "improvement", "loss", "win"),
    ]


def test_head_to_head_is_tested_against_one_half() -> None:
    generator = np.random.default_rng(2)
    better = head_to_head(judged(np.clip(generator.normal(0.6, 0.2, 400), 0, 1)))
    even = head_to_head(judged([0.0, 1.0] * 100))
    assert better.low > 50
    assert better.p_value < 0.001
    assert even.mean == 50
    assert even.p_value == pytest.approx(1.0)


def test_length_controlled_difference_takes_longer_outputs_out() -> None:
    generator = np.random.default_rng(3)
    n = 600
    reference = generator.integers(500, 1500, n)
    sides = []
    for longer in (0, 600):
        length = generator.integers(400, 1600, n) + longer
        chance = 1 / (1 + np.exp((reference - length) / 400))
        preference = (generator.random(n) < chance).astype(float)
        sides.append(judged(preference, candidate_length=length, reference_length=reference))
    raw = win_rate_difference(*sides)
    controlled = length_controlled_difference(*sides, resamples=200)
    assert raw.low > 10
    assert abs(controlled.difference) < raw.difference / 2
    assert controlled.low < controlled.difference < controlled.high
    same = length_controlled_difference(sides[0], sides[0], resamples=50)
    assert (same.difference, same.n) == (0.0, n)
    with pytest.raises(ValueError, match="candidate_length"):
        length_controlled_difference(judged([0.5]), judged([0.5]))
