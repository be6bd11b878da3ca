"""Agreement statistics against published examples and naive implementations."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from icr_platform.core.intervals import wilson
from ui.review.reliability import cohen_kappa, krippendorff_alpha, pairwise_kappas, verdicts_needed


def test_wilson_solves_its_own_equation() -> None:
    """The bounds are where |share - p| = z * sqrt(p (1 - p) / n); Newcombe (1998) gives 81/263 as .2553 to .3662."""
    found = wilson(81, 263)
    assert (round(found.low, 4), round(found.high, 4)) == (0.2553, 0.3662)
    assert wilson(0, 0).n == 0


@given(st.integers(1, 500), st.data())
def test_wilson_bounds_are_score_bounds(n: int, data: st.DataObject) -> None:
    hits = data.draw(st.integers(0, n))
    found = wilson(hits, n)
    for bound in (found.low, found.high):
        if 1e-6 < bound < 1 - 1e-6:
            assert abs(hits / n - bound) == pytest.approx(
                1.959963984540054 * math.sqrt(bound * (1 - bound) / n), abs=1e-9
            )


@given(st.integers(1, 200), st.data())
def test_verdicts_needed_is_enough_and_no_more(n: int, data: st.DataObject) -> None:
    hits = data.draw(st.integers(0, n))
    more = verdicts_needed(hits, n, 0.05)
    share = (hits + 1.959963984540054**2 / 2) / (n + 1.959963984540054**2)

    def width(total: int) -> float:
        found = wilson(share * total, total)
        return found.high - found.low

    if more > 1:
        assert width(n + more) <= 0.1 < width(n + more - 1)


def test_cohen_kappa_of_a_known_table() -> None:
    """20 yes-yes, 5 yes-no, 10 no-yes, 15 no-no: observed .7, expected .5, kappa .4."""
    left = ["yes"] * 25 + ["no"] * 25
    right = ["yes"] * 20 + ["no"] * 5 + ["yes"] * 10 + ["no"] * 15
    assert cohen_kappa(left, right) == pytest.approx(0.4)
    assert math.isnan(cohen_kappa(["a", "a"], ["a", "a"]))


def test_krippendorff_alpha_of_the_published_example() -> None:
    """Krippendorff (2011), section C: nominal data, four observers, missing values, alpha = 0.743."""
    observers = {
        "A": [1, 2, 3, 3, 2, 1, 4, 1, 2, None, None, None],
        "B": [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, None, 3],
        "C": [None, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, None],
        "D": [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, None],
    }
    items = [{name: values[i] for name, values in observers.items() if values[i] is not None} for i in range(12)]
    assert krippendorff_alpha(items) == pytest.approx(0.743, abs=5e-4)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("abc")), min_size=2, max_size=40))
def test_krippendorff_alpha_of_two_raters_is_naive(pairs: list[tuple[str, str]]) -> None:
    values = [value for pair in pairs for value in pair]
    n = len(values)
    differing = sum(a != b for a in values for b in values)
    found = krippendorff_alpha([{"x": a, "y": b} for a, b in pairs])
    if differing == 0:
        assert math.isnan(found)
    else:
        observed = sum(a != b for a, b in pairs) / len(pairs)
        assert found == pytest.approx(1 - observed / (differing / (n * (n - 1))))


@pytest.mark.parametrize("seed", range(5))
def test_kappa_and_alpha_are_those_of_other_packages(seed: int) -> None:
    """Ten raters over sixty items, many of them missing, against scikit-learn and the krippendorff package."""
    metrics = pytest.importorskip("sklearn.metrics", reason="needs scikit-learn")
    krippendorff = pytest.importorskip("krippendorff", reason="needs krippendorff: pip install krippendorff")
    luck = random.Random(seed)
    values = ("chosen", "rejected", "tie", "both-bad")
    items = [
        {f"r{n}": values[0] if luck.random() < 0.5 else luck.choice(values) for n in range(10) if luck.random() < 0.4}
        for _ in range(60)
    ]
    coded = [[values.index(item[f"r{n}"]) if f"r{n}" in item else math.nan for item in items] for n in range(10)]
    assert krippendorff_alpha(items) == pytest.approx(
        krippendorff.alpha(reliability_data=coded, level_of_measurement="nominal"), abs=1e-12
    )
    for (a, b), (kappa, n) in pairwise_kappas(items).items():
        both = [(item[a], item[b]) for item in items if a in item and b in item]
        theirs = metrics.cohen_kappa_score(*zip(*both, strict=True))
        assert n == len(both)
        assert math.isnan(theirs) if math.isnan(kappa) else kappa == pytest.approx(theirs, abs=1e-12)
