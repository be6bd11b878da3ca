"""fit_alpha against brute force over every crossing of every pair of samples."""

import itertools
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import ArrayLike, NDArray

from icr_platform.annotation.length_control import fit_alpha
from icr_platform.annotation.pairs import select_pairs
from icr_platform.core.errors import InputError

Floats = NDArray[Any] | list[list[float]] | list[list[int]]
BOUNDS = [(-1.0, 1.0), (0.0, 1.0), (0.05, 0.4), (-0.5, -0.1), (-1000.0, 1000.0)]


def gap(rewards: Floats, lengths: Floats, alpha: float) -> tuple[int, int]:
    """(prompts whose best and worst are one sample, summed |chosen| - |rejected|), one prompt at a time."""
    lost, total = 0, 0
    for row, length in zip(rewards, lengths, strict=True):
        scored = [(r - alpha * n, n, i) for i, (r, n) in enumerate(zip(row, length, strict=True)) if math.isfinite(r)]
        if len(scored) >= 2:
            best, worst = max(scored, key=lambda sample: sample[0]), min(scored, key=lambda sample: sample[0])
            lost += best[2] == worst[2]
            total += best[1] - worst[1]
    return lost, int(total)


def cost(rewards: Floats, lengths: Floats, alpha: float) -> tuple[int, int]:
    """The gap, of whatever sign."""
    lost, total = gap(rewards, lengths, alpha)
    return lost, abs(total)


def crossings(rewards: Floats, lengths: Floats, low: float, high: float) -> list[float]:
    """Bounds, 0, and every alpha within bounds at which two samples of a prompt tie."""
    points = {low, high} | ({0.0} if low <= 0 <= high else set())
    for row, length in zip(rewards, lengths, strict=True):
        for i, j in itertools.combinations(range(len(row)), 2):
            if length[i] != length[j] and math.isfinite(row[i] - row[j]):
                points.add(float((row[i] - row[j]) / (length[i] - length[j])))
    return sorted(point for point in points if low <= point <= high)


def brute_force(rewards: Floats, lengths: Floats, low: float, high: float) -> tuple[tuple[int, int], float]:
    """Smallest cost over all pairwise crossings and all midpoints between them, and the infimum of |alpha| there."""
    points = crossings(rewards, lengths, low, high)
    at_point = {alpha: cost(rewards, lengths, alpha) for alpha in points}
    between = {(a, b): cost(rewards, lengths, (a + b) / 2) for a, b in itertools.pairwise(points)}
    best = min([*at_point.values(), *between.values()])
    nearest = [abs(alpha) for alpha, value in at_point.items() if value == best]
    nearest += [min(abs(a), abs(b)) for (a, b), value in between.items() if value == best]
    return best, min(nearest)


def assert_optimal(rewards: Floats, lengths: Floats, bounds: tuple[float, float]) -> None:
    fit = fit_alpha(rewards, lengths, bounds)
    best, nearest = brute_force(rewards, lengths, *bounds)
    assert bounds[0] <= fit.alpha <= bounds[1]
    assert cost(rewards, lengths, fit.alpha) == best
    if fit.prompts:
        assert abs(fit.mean_length_difference) == pytest.approx(best[1] / fit.prompts, abs=1e-12)
        assert abs(fit.alpha) == pytest.approx(nearest, abs=1e-9)
    if fit.alpha not in crossings(rewards, lengths, *bounds):
        before = float(np.nextafter(fit.alpha, 0.0))
        # Where rounding alone decides, the gap can be that of neither side, and as far from 0.
        assert gap(rewards, lengths, before) != gap(rewards, lengths, fit.alpha), (
            "the float before is as good, and nearer 0"
        )


@pytest.mark.parametrize("seed", range(40))
def test_continuous_rewards_with_missing_samples(seed: int) -> None:
    generator = np.random.default_rng(seed)
    shape = (generator.integers(1, 9), generator.integers(2, 8))
    lengths = generator.integers(1, 2000, shape)
    rewards = -300 + 20 * generator.normal(size=shape) + generator.normal(scale=0.2) * lengths
    rewards[generator.random(shape) < generator.choice([0.0, 0.25])] = np.nan
    assert_optimal(rewards, lengths, BOUNDS[seed % len(BOUNDS)])


@pytest.mark.parametrize("seed", range(20))
def test_two_samples_a_prompt_lose_no_prompt(seed: int) -> None:
    generator = np.random.default_rng(seed)
    lengths = np.stack([generator.permutation(60)[:2] + 1 for _ in range(generator.integers(1, 12))])
    rewards = generator.choice([0.25, 1.0, 1 / 3]) * generator.integers(-8, 9, lengths.shape) + generator.choice(
        [0, -300]
    )
    assert_optimal(rewards, lengths, BOUNDS[seed % len(BOUNDS)])
    fit = fit_alpha(rewards, lengths)
    selection = select_pairs(rewards, lengths, fit.alpha)
    rows = np.arange(len(lengths))
    difference = lengths[rows, selection.chosen_index] - lengths[rows, selection.rejected_index]
    assert selection.kept.all()
    assert difference.mean() == pytest.approx(fit.mean_length_difference, abs=1e-12)


def test_a_tie_that_would_lose_the_prompt_is_stepped_over_to_the_better_side() -> None:
    # Alone, the first prompt ties at 0.5 and turns from 6 to -6 characters; the second adds 2 everywhere.
    rewards, lengths = [[3.0, 0.0], [2.0, 0.0]], [[10, 4], [5, 3]]
    fit = fit_alpha(rewards, lengths, (0.0, 0.9))
    assert cost(rewards, lengths, 0.5) == (1, 2)
    assert fit.alpha == np.nextafter(0.5, 1.0)
    assert fit.mean_length_difference == -2.0


def test_a_prompt_that_ties_at_every_alpha_hinders_no_other() -> None:
    rewards, lengths = [[1.0, 1.0], [2.0, 0.0], [0.0, 1.0]], [[7, 7], [9, 4], [9, 4]]
    fit = fit_alpha(rewards, lengths)
    assert (fit.alpha, fit.mean_length_difference, fit.prompts) == (0.0, 0.0, 3)


def test_bounds_that_leave_a_tie_only_are_kept() -> None:
    assert fit_alpha([[3.0, 0.0]], [[10, 4]], (0.5, 0.5)).alpha == 0.5


@settings(max_examples=300, deadline=None)
@given(data=st.data(), bounds=st.sampled_from(BOUNDS))
def test_whole_rewards_with_many_ties(data: st.DataObject, bounds: tuple[float, float]) -> None:
    shape = data.draw(st.tuples(st.integers(1, 8), st.integers(2, 5)))
    rewards = data.draw(hnp.arrays(np.int64, shape, elements=st.integers(-3, 3))).astype(float)
    lengths = data.draw(hnp.arrays(np.int64, shape, elements=st.integers(0, 5)))
    assert_optimal(rewards, lengths, bounds)


def test_what_rounding_alone_decides_is_stepped_over() -> None:
    """Below 0 the gap is 1. Within 5.6e-17 of it rounding makes -1 of it, which is as near to 0 and no pairs' gap."""
    rewards = [[1.0, 0.0, 0.0, 1.0], [2.0, 1.0, 1.0, 1.0], [1.0, 0.0, 1.0, 1.0]]
    assert_optimal(rewards, [[4, 3, 2, 2], [1, 2, 2, 2], [0, 2, 2, 2]], (-1.0, 1.0))


def test_zero_wins_among_minimisers() -> None:
    fit = fit_alpha([[2.0, 1.0], [1.0, 2.0]], [[10, 20], [10, 20]])
    assert (fit.alpha, fit.mean_length_difference, fit.mean_length_difference_before) == (0.0, 0.0, 0.0)


def test_rewards_that_prefer_short_answers_get_a_negative_alpha() -> None:
    generator = np.random.default_rng(1)
    lengths = generator.integers(1, 2000, (200, 10))
    fit = fit_alpha(generator.normal(size=lengths.shape) - 0.01 * lengths, lengths)
    assert fit.alpha == pytest.approx(-0.01, abs=1e-3)
    assert fit.mean_length_difference_before < -1000
    assert abs(fit.mean_length_difference) < 10


def test_open_end_of_an_interval_is_stepped_over() -> None:
    # At 0.5 the tie still goes to the first, longer sample (gap 3 - 1); just beyond it the gap is 0 - 1.
    rewards, lengths = [[3.5, 2.0, -9.0], [0.0, -9.0, -9.0]], [[5, 2, 2], [1, 2, 2]]
    fit = fit_alpha(rewards, lengths)
    assert fit.alpha > 0.5
    assert fit.alpha == pytest.approx(0.5, abs=1e-12)
    assert cost(rewards, lengths, 0.5) == (0, 2)
    assert cost(rewards, lengths, fit.alpha) == (0, 1)


@pytest.mark.parametrize(
    ("rewards", "lengths", "prompts", "difference"),
    [
        ([[1.0, 2.0, 3.0]], [[7, 7, 7]], 1, 0.0),
        ([[np.nan, np.nan], [1.0, np.nan]], [[1, 2], [3, 4]], 0, math.nan),
        (np.empty((0, 4)), np.empty((0, 4)), 0, math.nan),
        ([[0.0, 0.0]], [[9, 9]], 1, 0.0),
    ],
)
def test_degenerate_inputs_leave_alpha_at_zero(
    rewards: ArrayLike, lengths: ArrayLike, prompts: int, difference: float
) -> None:
    fit = fit_alpha(rewards, lengths)
    assert (fit.alpha, fit.prompts) == (0.0, prompts)
    assert fit.mean_length_difference == pytest.approx(difference, nan_ok=True)


def test_infinite_bounds_find_the_global_minimum() -> None:
    generator = np.random.default_rng(3)
    lengths = generator.integers(1, 5, (4, 3))
    rewards = 1e4 * generator.normal(size=(4, 3))
    unbounded, wide = fit_alpha(rewards, lengths, (-math.inf, math.inf)), fit_alpha(rewards, lengths, (-1e6, 1e6))
    assert unbounded.mean_length_difference == wide.mean_length_difference
    assert unbounded.alpha == pytest.approx(wide.alpha)


@pytest.mark.parametrize("scale", [1e-300, 1.0, 1e15])
@pytest.mark.parametrize("bounds", [(-1.0, 1.0), (-1e18, 1e18), (-1.7e308, 1.7e308)])
def test_bounds_beside_which_rewards_are_rounded_away(scale: float, bounds: tuple[float, float]) -> None:
    generator = np.random.default_rng(5)
    farthest = 40 * scale
    for _ in range(20):
        lengths = generator.integers(1, 5, (4, 4))
        rewards = scale * generator.normal(size=(4, 4))
        best, _ = brute_force(rewards, lengths, max(bounds[0], -farthest), min(bounds[1], farthest))
        assert cost(rewards, lengths, fit_alpha(rewards, lengths, bounds).alpha) == best


def test_bounds_that_exclude_zero_and_bounds_that_are_reversed() -> None:
    rewards, lengths = [[1.0, 2.0]], [[3, 3]]
    assert fit_alpha(rewards, lengths, (0.2, 0.5)).alpha == 0.2
    assert fit_alpha(rewards, lengths, (-0.5, -0.2)).alpha == -0.2
    with pytest.raises(InputError, match="lower one first"):
        fit_alpha(rewards, lengths, (1.0, -1.0))
    with pytest.raises(InputError, match="lower one first"):
        fit_alpha(rewards, lengths, (math.inf, math.inf))
