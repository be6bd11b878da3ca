"""Paired comparisons of sides with one or several runs, against sums by hand, SciPy, and the functions that iterations are compared with."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from icr_platform.evaluation.arm_comparison import (
    KEYS,
    Compared,
    Judged,
    Runs,
    adjusted,
    difference,
    length_controlled,
    pair_items,
    verdict,
)
from icr_platform.evaluation.comparison import (
    LanguageJudgments,
    bootstrap_mean,
    length_controlled_difference,
    win_rate_difference,
)
from icr_platform.evaluation.reward_accuracy import paired_test


def series(rows: dict[tuple[str, str, str], float]) -> pd.Series:
    return pd.Series(list(rows.values()), pd.MultiIndex.from_tuples(list(rows), names=KEYS), dtype=float)


def drawn(
    rng: np.random.Generator, seeds: int, languages: tuple[str, ...] = ("en", "es"), n: int = 30, items: int = 1
) -> Runs:
    """Values with an effect of the prompt and of the seed; each run lacks a few items."""
    of_prompt, of_seed = rng.normal(0, 20, n), rng.normal(0, 10, seeds)
    runs = []
    for seed in range(seeds):
        rows = {
            (language, f"p{prompt}", str(item) if items > 1 else ""): 50
            + of_prompt[prompt]
            + of_seed[seed]
            + rng.normal(0, 5)
            for language in languages
            for prompt in range(n)
            for item in range(items)
            if rng.random() > 0.02
        }
        runs.append(series(rows))
    return Runs(runs, tuple(range(1, seeds + 1)))


def by_hand(first: Runs, second: Runs, languages: list[str], by_seed: bool) -> tuple[float, float, float, int]:
    """Difference, standard error, degrees of freedom and prompts, by loops over dictionaries."""
    common = [
        key
        for key in first.values[0].index
        if key[0] in languages and all(key in run.index for run in (*first.values, *second.values))
    ]
    prompts = list(dict.fromkeys(key[1] for key in common))

    def shares(values: list[dict[Any, float]]) -> np.ndarray:
        table = np.zeros((len(prompts), len(values)))
        for column, run in enumerate(values):
            means = {code: np.mean([run[key] for key in common if key[0] == code]) for code in languages}
            for row, prompt in enumerate(prompts):
                away = sum(
                    (run[key] - means[key[0]]) / len(languages) / sum(other[0] == key[0] for other in common)
                    for key in common
                    if key[1] == prompt
                )
                table[row, column] = np.mean(list(means.values())) + len(prompts) * away
        return table

    tables = [shares([run.to_dict() for run in side.values]) for side in (first, second)]
    change = tables[1].mean(axis=1) - tables[0].mean(axis=1)
    n = len(change)
    terms = [(np.var(change, ddof=1) / n, n - 1)]
    total = terms[0][0]
    for table in [tables[1] - tables[0]] if by_seed else tables:
        seeds = table.shape[1]
        if seeds == 1:
            continue
        # A two-way analysis of variance without repetition, by its sums of squares.
        mean = table.mean()
        of_seeds = n * sum((table[:, s].mean() - mean) ** 2 for s in range(seeds)) / (seeds - 1)
        rest = sum(
            (table[p, s] - table[p].mean() - table[:, s].mean() + mean) ** 2 for p in range(n) for s in range(seeds)
        ) / ((n - 1) * (seeds - 1))
        if of_seeds > rest:
            total += (of_seeds - rest) / (n * seeds)
            terms += [(of_seeds / (n * seeds), seeds - 1), (rest / (n * seeds), (n - 1) * (seeds - 1))]
    df = total**2 / sum(term**2 / freedom for term, freedom in terms)
    return float(change.mean()), math.sqrt(total), df, n


@pytest.mark.parametrize("seeds", [(3, 3), (3, 1), (1, 2), (2, 4)])
@pytest.mark.parametrize("languages", [["es"], ["en", "es"]])
@pytest.mark.parametrize("items", [1, 3])
def test_several_seeds_against_loops(seeds: tuple[int, int], languages: list[str], items: int) -> None:
    rng = np.random.default_rng(sum(seeds) + items)
    first, second = (drawn(rng, count, items=items) for count in seeds)
    pairs = pair_items(first, second)
    found = difference(pairs, languages, margin=5.0, limits=None)
    mean, error, df, n = by_hand(first, second, languages, by_seed=seeds == (3, 3))
    assert (found.first_runs, found.second_runs, found.by_seed) == (*seeds, seeds == (3, 3))
    assert (found.difference, found.standard_error, found.df, found.n) == pytest.approx((mean, error, df, n))
    low, high = stats.t.interval(0.95, df, mean, error)
    assert (found.low, found.high) == pytest.approx((low, high))
    assert found.p_value == pytest.approx(2 * stats.t.sf(abs(mean) / error, df))
    assert found.second - found.first == pytest.approx(found.difference)
    one_sided = [stats.t.sf((mean + 5) / error, df), stats.t.cdf((mean - 5) / error, df)]
    assert found.equivalence == pytest.approx(max(one_sided))


def test_equivalence_of_one_run_is_two_one_sided_t_tests() -> None:
    rng = np.random.default_rng(4)
    first, second = drawn(rng, 1, ("es",)), drawn(rng, 1, ("es",))
    pairs = pair_items(first, second)
    change = (pairs.second - pairs.first)[:, 0]
    found = difference(pairs, ["es"], margin=8.0, limits=None)
    expected = max(
        stats.ttest_1samp(change, -8.0, alternative="greater").pvalue,
        stats.ttest_1samp(change, 8.0, alternative="less").pvalue,
    )
    assert found.equivalence == pytest.approx(expected)
    assert math.isnan(difference(pairs, ["es"], limits=None).equivalence)


@pytest.mark.parametrize(("n", "expected"), [(100, 0.98**100), (200, 0.98**200)])
def test_no_prompt_that_differs_is_equivalence_only_of_many(n: int, expected: float) -> None:
    same = series({("es", str(prompt), ""): 50.0 for prompt in range(n)})
    found = difference(pair_items(Runs([same], (1,)), Runs([same], (2,))), ["es"], margin=2.0)
    assert (found.difference, found.low, found.high, found.p_value) == (0, 0, 0, 1)
    assert found.equivalence == pytest.approx(expected)


def test_seeds_that_differ_widen_the_interval_and_equal_ones_do_not() -> None:
    rng = np.random.default_rng(1)
    base = {("es", str(prompt), ""): float(rng.uniform(20, 80)) for prompt in range(200)}
    noise = rng.normal(0, 3, (3, 200))

    def side(*shifts: float) -> Runs:
        return Runs(
            [
                series({key: base[key] + shift + noise[run][int(key[1])] for key in base})
                for run, shift in enumerate(shifts)
            ],
            (1, 2, 3),
        )

    still, moving = side(0, 0, 0), side(-10, 5, 20)
    alike = difference(pair_items(still, side(5, 5, 5)), ["es"])
    apart = difference(pair_items(still, moving), ["es"])
    assert alike.difference == pytest.approx(apart.difference) == pytest.approx(5)
    assert alike.p_value < 1e-6 or alike.standard_error == pytest.approx(0, abs=1e-9)
    assert apart.p_value > 0.3
    assert apart.df < 2.1


def test_coverage_with_three_seeds_is_95_percent() -> None:
    """Of 150 simulated comparisons without a difference, about one in twenty excludes 0."""
    rng = np.random.default_rng(7)
    keys = pd.MultiIndex.from_tuples([("es", str(prompt), "") for prompt in range(40)], names=KEYS)
    missed = 0
    for _ in range(150):
        prompts, effect = rng.normal(0, 10, 40), rng.normal(0, 4, (2, 3))
        sides = [
            Runs(
                [pd.Series(50 + prompts + effect[side, seed] + rng.normal(0, 10, 40), keys) for seed in range(3)],
                (1, 2, 3),
            )
            for side in (0, 1)
        ]
        found = difference(pair_items(*sides), ["es"], limits=None)
        missed += not found.low <= 0 <= found.high
    assert 1 <= missed <= 17  # 7.5 expected, standard deviation 2.7


def judgments(values: dict[str, float]) -> LanguageJudgments:
    return LanguageJudgments(list(values), list(values.values()))


def test_one_run_on_each_side_has_the_numbers_of_compared_iterations() -> None:
    rng = np.random.default_rng(2)
    before = {f"p{index}": float(rng.choice([0, 0.25, 0.5, 1])) for index in range(60)}
    after = {f"p{index}": float(rng.choice([0, 0.5, 0.75, 1])) for index in range(5, 70)}
    known = win_rate_difference(judgments(before), judgments(after))
    sides = [
        Runs([series({("es", key, ""): 100 * value for key, value in side.items()})], (1,)) for side in (before, after)
    ]
    found = difference(pair_items(*sides), ["es"])
    assert (found.first, found.second, found.difference) == pytest.approx((known.before, known.after, known.difference))
    assert (found.low, found.high, found.p_value, found.n) == pytest.approx(
        (known.low, known.high, known.p_value, known.n)
    )
    assert found.first_only + found.second_only == known.n_unpaired == 15


def test_rewards_have_the_exact_test_over_prompts_of_several_pairs() -> None:
    rng = np.random.default_rng(3)
    keys = [("es", f"p{index // 3}", f"pair{index}") for index in range(90)]
    right = [rng.choice([0.0, 0.5, 1.0], 90) for _ in range(2)]
    sides = [Runs([series(dict(zip(keys, 100 * values, strict=True)))], (1,)) for values in right]
    found = difference(pair_items(*sides), ["es"], test="sign-flip")
    known = paired_test(right[1], right[0], [key[1] for key in keys])
    assert (found.difference, found.low, found.high, found.p_value) == pytest.approx((*known[:3], known.p_value))
    assert found.standard_error == pytest.approx((known.high - known.difference) / 1.959963984540054)
    assert found.n == 30


def test_followed_prompts_have_mcnemars_test() -> None:
    rng = np.random.default_rng(5)
    keys = [("es", f"p{index}", "") for index in range(50)]
    followed = [100.0 * (rng.random(50) < share) for share in (0.3, 0.6)]
    pairs = pair_items(*(Runs([series(dict(zip(keys, values, strict=True)))], (1,)) for values in followed))
    found = difference(pairs, ["es"], test="mcnemar")
    gained = int((followed[1] > followed[0]).sum())
    assert (found.better, found.worse) == (gained, int((followed[1] < followed[0]).sum()))
    assert found.p_value == pytest.approx(stats.binomtest(gained, found.better + found.worse, 0.5).pvalue)


def test_mean_over_languages_counts_prompts_once_and_languages_equally() -> None:
    rows = {
        (code, str(index), ""): float(index * 10 + (code == "es") * 5) for code in ("en", "es") for index in range(8)
    }
    later = {
        key: value + (4 if key[0] == "en" else 8) + int(key[1]) for key, value in rows.items() if key != ("es", "7", "")
    }
    found = difference(pair_items(Runs([series(rows)], (1,)), Runs([series(later)], (1,))), ["en", "es"], limits=None)
    english, spanish = 4 + np.arange(8.0), 8 + np.arange(7.0)
    assert found.difference == pytest.approx((english.mean() + spanish.mean()) / 2)
    influence = (english - english.mean()) / 16 + np.append((spanish - spanish.mean()) / 14, 0)
    assert found.n == 8
    assert found.standard_error == pytest.approx(math.sqrt(8 / 7 * (influence**2).sum()))
    assert found.p_value == pytest.approx(bootstrap_mean(found.difference + 8 * influence).p_value)


def test_only_what_every_run_has_is_compared() -> None:
    first = Runs(
        [series({("es", "a", ""): 1, ("es", "b", ""): 2}), series({("es", "a", ""): 3, ("es", "c", ""): 4})], (1, 2)
    )
    second = Runs([series({("es", "a", ""): 5, ("es", "d", ""): 6, ("fr", "a", ""): 7})], (1,))
    pairs = pair_items(first, second)
    assert (pairs.language, pairs.prompt) == (["es"], ["a"])
    found = difference(pairs, ["es"])
    assert (found.n, found.first_only, found.second_only) == (1, 0, 1)  # b and c are in one run of the first alone
    assert math.isnan(found.p_value)
    assert found.difference == pytest.approx(3)
    nothing = difference(pairs, ["fr"])
    assert (nothing.n, nothing.second_only) == (0, 1)
    assert math.isnan(nothing.difference)


def test_equal_seeds_are_paired_in_whatever_order_they_come() -> None:
    rng = np.random.default_rng(9)
    first, second = drawn(rng, 3), drawn(rng, 3)
    turned = Runs([second.values[index] for index in (2, 0, 1)], (3, 1, 2))
    found, known = (tuple(difference(pair_items(first, side), ["es"])) for side in (turned, second))
    assert found == pytest.approx(known, nan_ok=True)
    other = Runs(second.values, (4, 5, 6))
    assert not pair_items(first, other).by_seed
    assert not pair_items(Runs(first.values, (1, 2, None)), Runs(second.values, (1, 2, None))).by_seed


def lengths(rng: np.random.Generator, n: int) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "prompt_id": [str(index) for index in range(n)], "preference": rng.choice([0.0, 0.3, 0.8, 1.0], n),
            "candidate_length": rng.integers(100, 900, n), "reference_length": rng.integers(100, 900, n), "difficulty": np.nan,
        }
    )  # fmt: skip


def test_length_control_of_one_run_is_that_of_compared_iterations() -> None:
    rng = np.random.default_rng(6)
    tables = [lengths(rng, 50), lengths(rng, 50)]
    found = length_controlled([{"es": Judged(tables[0])}], [{"es": Judged(tables[1])}], ["es"], resamples=200)
    known = length_controlled_difference(
        *(
            LanguageJudgments(
                table["prompt_id"].tolist(), table["preference"], table["candidate_length"], table["reference_length"]
            )
            for table in tables
        ),
        resamples=200,
    )
    assert (found.first, found.second, found.difference) == pytest.approx(
        (known.before, known.after, known.difference), abs=1e-6
    )
    assert (found.low, found.high, found.p_value) == pytest.approx((known.low, known.high, known.p_value), abs=1e-6)


def test_length_control_of_equal_seeds_is_that_of_one() -> None:
    rng = np.random.default_rng(8)
    first, second = lengths(rng, 40), lengths(rng, 45)
    one = length_controlled([{"es": Judged(first)}], [{"es": Judged(second)}], ["es"], resamples=100)
    three = length_controlled(
        [{"es": Judged(first)}] * 3, [{"es": Judged(second)}] * 3, ["es"], by_seed=True, resamples=100
    )
    assert three.difference == pytest.approx(one.difference)
    assert three.standard_error == pytest.approx(one.standard_error)
    assert (three.n, three.second_only) == (40, 5)


def row(metric: str, language: str, p_value: float, equivalence: float = math.nan) -> dict[str, object]:
    nothing = Compared._make([*[0.0] * 9, *[0] * 7, False])
    values = nothing._replace(p_value=p_value, equivalence=equivalence, difference=1.0)
    return {"metric": metric, "language": language, **values._asdict()}


def test_holm_is_over_languages_and_sides_of_a_metric() -> None:
    table = pd.DataFrame(
        [
            row("win_rate", "es", 0.01),
            row("win_rate", "fr", 0.04),
            row("win_rate", "es", 0.03),
            row("win_rate", "fr", 0.005),
            row("win_rate", "mean", 0.02),
            row("win_rate", "mean", 0.5),
            row("fidelity", "es", 0.02),
        ]
    )
    # By hand: 4 * 0.005, 3 * 0.01, 2 * 0.03, then no less than the one before.
    assert adjusted(table)["adjusted_p_value"].tolist() == pytest.approx([0.03, 0.06, 0.06, 0.02, 0.04, 0.5, 0.02])


@pytest.mark.parametrize(
    ("difference_of", "p_value", "equivalence", "expected"),
    [(3.0, 0.01, 0.9, "higher"), (-3.0, 0.01, 0.9, "lower"), (0.1, 0.6, 0.01, "equivalent"), (0.5, 0.2, 0.3, ""),
     (0.5, 0.01, 0.01, "higher, within the margin"), (1.0, math.nan, math.nan, "")],
)  # fmt: skip
def test_verdicts(difference_of: float, p_value: float, equivalence: float, expected: str) -> None:
    found = {"difference": difference_of, "adjusted_p_value": p_value, "adjusted_equivalence": equivalence}
    assert verdict(found) == expected
