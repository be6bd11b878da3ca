"""How many instructions are followed: tables worked out by hand, intervals against simulation, tests against enumeration."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pandas as pd
import pytest

from icr_platform.evaluation.instruction_scores import (
    accuracy,
    change_metrics,
    change_table,
    flip_table,
    kind_table,
    mcnemar,
    metrics_of,
    outputs_followed,
    score_table,
    turn_table,
)

COMMA, WORDS, CASE = "punctuation:no_comma", "length_constraints:number_words", "change_case:english_capital"


def checks(*rows: tuple[Any, ...], source: str = "", language: str = "es") -> pd.DataFrame:
    """Rows (prompt_id, instruction_id, strict), with loose = strict unless a fourth value says it; sample 0 of turn 1 unless given
    as (prompt_id, turn, sample)."""
    made = []
    for place, kind, strict, *loose in rows:
        prompt_id, turn, sample = place if isinstance(place, tuple) else (place, 1, 0)
        made.append(
            {
                "language": language,
                "prompt_id": prompt_id,
                "sample_index": sample,
                "turn": turn,
                "source": source,
                "instruction_id": kind,
                "kwargs": "{}",
                "strict": strict,
                "loose": loose[0] if loose else strict,
                "reason": "" if strict is not None else "no capital letters",
            }
        )
    frame = pd.DataFrame(made)
    return frame.astype({"strict": object, "loose": object})


EXAMPLE = (
    ("a", COMMA, True),
    ("a", WORDS, True),
    ("b", COMMA, True),
    ("b", WORDS, False, True),
    ("b", CASE, None),
    ("c", CASE, None),
)
"""The example of the module."""


def test_what_cannot_be_verified_counts_neither_way() -> None:
    table = checks(*EXAMPLE)
    [row] = score_table(table).to_dict("records")
    assert row["instruction_accuracy/strict"] == pytest.approx(75.0)
    assert row["instruction_accuracy/loose"] == pytest.approx(100.0)
    assert row["prompt_accuracy/strict"] == pytest.approx(50.0)
    assert row["prompt_accuracy/loose"] == pytest.approx(100.0)
    assert row["unverified"] == pytest.approx(100 * 2 / 6)
    assert (row["instructions"], row["prompts"], row["partly_unverified"], row["not_judged"]) == (4, 2, 1, 1)
    followed = outputs_followed(table).set_index("prompt_id")
    assert followed["verified"].tolist() == [2, 2, 0]
    assert followed.loc["b", ["strict", "loose"]].to_numpy().tolist() == [0.0, 1.0]
    assert np.isnan(followed["strict"].to_numpy(dtype=float)[2])
    kinds = kind_table(table).set_index("instruction_id")
    assert kinds.loc[WORDS, ["strict", "loose", "n", "unverified"]].to_numpy().tolist() == [50.0, 100.0, 2, 0]
    assert kinds.loc[CASE, ["n", "unverified", "reason"]].to_numpy().tolist() == [0, 2, "no capital letters"]
    assert np.isnan(kinds["strict"].to_dict()[CASE])


def test_a_language_in_which_nothing_can_be_verified_has_no_accuracy() -> None:
    table = pd.concat([checks(*EXAMPLE), checks(("a", CASE, None), language="th")])
    metrics = metrics_of(table, turn_table(table))
    assert metrics["unverified/th"] == 100.0
    assert not [name for name in metrics if name.endswith("/th") and not name.startswith("unverified")]
    assert (
        metrics["instruction_accuracy/strict/mean"] == metrics["instruction_accuracy/strict/es"] == pytest.approx(75.0)
    )
    assert metrics["unverified/mean"] == pytest.approx((100 * 2 / 6 + 100) / 2)
    assert all(value == value for value in metrics.values())


def test_the_mean_has_each_language_once_and_a_language_the_mean_of_its_sources() -> None:
    english = checks(*((f"{n}", COMMA, True) for n in range(8)), language="en")
    local = checks(*((f"{n}@local", COMMA, n < 2) for n in range(8)), source="local")
    translated = checks(("0@mt", COMMA, True), ("1@mt", COMMA, False), source="mt")
    table = pd.concat([english, local, translated])
    metrics = metrics_of(table, turn_table(table))
    assert metrics["instruction_accuracy/strict/en"] == 100.0
    assert metrics["instruction_accuracy/strict/es"] == pytest.approx((25 + 50) / 2)
    assert metrics["instruction_accuracy/strict/mean"] == pytest.approx((100 + 37.5) / 2)
    assert metrics["instruction_accuracy/strict/mean_non_english"] == pytest.approx(37.5)
    for name in ("es", "mean", "mean_non_english"):
        low, value, high = (metrics[f"instruction_accuracy{end}/strict/{name}"] for end in ("_low", "", "_high"))
        assert 0 <= low < value < high <= 100
    by_source = score_table(table).set_index(["language", "source"])["instruction_accuracy/strict"]
    assert by_source.to_dict() == {("en", ""): 100.0, ("es", "local"): 25.0, ("es", "mt"): 50.0}


def test_turns_have_figures_of_their_own() -> None:
    table = checks(
        (("a", 1, 0), COMMA, True), (("a", 2, 0), COMMA, True), (("a", 2, 0), WORDS, False), (("b", 1, 0), COMMA, True)
    )
    metrics = metrics_of(table, turn_table(table))
    assert metrics["prompt_accuracy/strict-turn-1/es"] == 100.0
    assert metrics["prompt_accuracy/strict-turn-2/es"] == 0.0
    assert metrics["prompt_accuracy/strict/es"] == pytest.approx(100 * 2 / 3)
    assert turn_table(checks(*EXAMPLE)).empty


def test_the_interval_of_independent_items_is_wilsons() -> None:
    found = accuracy([1] * 81 + [0] * 182, range(263))
    assert (found.value, found.low, found.high) == pytest.approx((30.798, 25.53, 36.62), abs=0.01)
    assert accuracy([], []).n == 0
    assert [round(x, 2) for x in accuracy([1] * 10, range(10))[:3]] == [100.0, 72.25, 100.0]


def test_ten_samples_of_a_prompt_that_agree_say_as_much_as_one() -> None:
    once = accuracy([1, 0, 1, 1, 0] * 8, range(40))
    ten = accuracy(np.repeat([1, 0, 1, 1, 0] * 8, 10), np.repeat(range(40), 10).tolist())
    assert (ten.low, ten.high) == pytest.approx((once.low, once.high), abs=0.5)
    assert ten.n == 400
    same = accuracy([1] * 40, np.repeat(range(4), 10).tolist())
    assert same.low == pytest.approx(accuracy([1] * 4, range(4)).low)


def test_intervals_of_clusters_cover_as_they_say() -> None:
    """Of prompts that are easy or hard, with 6 instructions each: 95% of the intervals contain the true share."""
    random = np.random.default_rng(0)
    covered = naive = 0
    for _ in range(200):
        ease = random.choice([0.3, 0.9], 60)
        followed = (random.random((60, 6)) < ease[:, None]).astype(float).ravel()
        prompts = np.repeat(np.arange(60), 6).tolist()
        found = accuracy(followed, prompts)
        covered += found.low <= 60 <= found.high
        alone = accuracy(followed, range(360))
        naive += alone.low <= 60 <= alone.high
    assert 0.91 <= covered / 200 <= 0.99
    assert naive / 200 < 0.9, "the same instructions taken for independent would promise too much"


def test_mcnemar_is_the_exact_binomial_test() -> None:
    for gained, lost in itertools.product(range(6), repeat=2):
        n = gained + lost
        outcomes = [sum(bits) for bits in itertools.product((0, 1), repeat=n)]
        as_far = sum(abs(count - n / 2) >= abs(gained - n / 2) for count in outcomes)
        assert mcnemar(gained, lost) == pytest.approx(as_far / len(outcomes))


BEFORE = checks(("a", COMMA, True), ("b", COMMA, False), ("c", COMMA, False), ("d", COMMA, True), ("e", COMMA, True))
AFTER = checks(("a", COMMA, True), ("b", COMMA, True), ("c", COMMA, True), ("d", COMMA, False), ("x", COMMA, True))


def test_differences_are_paired_by_prompt() -> None:
    changes = change_table(BEFORE, AFTER)
    strict = changes[changes["reading"] == "strict"].iloc[0]
    assert (strict["before"], strict["after"], strict["difference"]) == (50.0, 75.0, 25.0)
    assert (strict["gained"], strict["lost"], strict["n"], strict["n_unpaired"]) == (2, 1, 4, 2)
    assert strict["p_value"] == 1.0
    metrics = change_metrics(changes)
    assert metrics["prompt_accuracy_change/strict/es"] == 25.0
    assert metrics["prompt_accuracy_change_low/strict/es"] < 25.0 < metrics["prompt_accuracy_change_high/strict/es"]
    flips = flip_table(BEFORE, AFTER)
    assert flips[["prompt_id", "kind", "instructions"]].to_numpy().tolist() == [
        ["d", "regression", COMMA], ["b", "improvement", COMMA], ["c", "improvement", COMMA],
    ]  # fmt: skip


def test_an_instruction_that_one_side_could_not_verify_compares_nothing() -> None:
    """A library that was installed between two runs must not look like an iteration that learnt something."""
    before = checks(("a", COMMA, True), ("a", WORDS, None), ("b", WORDS, None))
    after = checks(("a", COMMA, True), ("a", WORDS, False), ("b", WORDS, False))
    changes = change_table(before, after)
    assert changes[["before", "after", "n", "n_unpaired"]].to_numpy().tolist() == [[100.0, 100.0, 1, 1]] * 2
    assert flip_table(before, after).empty
    assert change_table(checks(("a", CASE, None)), checks(("a", CASE, None))).empty


def test_samples_of_a_prompt_are_one_pair() -> None:
    before = checks(
        *((("a", 1, sample), COMMA, sample < 1) for sample in range(4)),
        *((("b", 1, sample), COMMA, True) for sample in range(4)),
    )
    after = checks(
        *((("a", 1, sample), COMMA, sample < 3) for sample in range(4)),
        *((("b", 1, sample), COMMA, True) for sample in range(4)),
    )
    strict = change_table(before, after).iloc[0]
    assert (strict["before"], strict["after"], strict["gained"], strict["lost"], strict["n"]) == (62.5, 87.5, 1, 0, 2)


def test_p_values_are_adjusted_for_the_languages() -> None:
    def gains(language: str, count: int) -> tuple[pd.DataFrame, pd.DataFrame]:
        return tuple(  # type: ignore[return-value]
            checks(*((f"{n}", COMMA, side or n >= count) for n in range(20)), language=language)
            for side in (False, True)
        )

    pairs = [gains("de", 6), gains("es", 7)]
    before, after = (pd.concat(side) for side in zip(*pairs, strict=True))
    strict = change_table(before, after).query("reading == 'strict'").set_index("language")
    assert strict["p_value"].to_dict() == {"de": pytest.approx(2 / 2**6), "es": pytest.approx(2 / 2**7)}
    assert strict["adjusted_p_value"].to_dict() == {"de": pytest.approx(0.03125), "es": pytest.approx(0.03125)}
