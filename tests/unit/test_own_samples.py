"""Rewards against a checker on a policy's own samples: tables worked out by hand, and the demo world's exact grader."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Mapping
from typing import Any

import pandas as pd
import pytest

from icr_platform.core.errors import InputError
from icr_platform.demo.authors import draw_author, respond
from icr_platform.demo.checker import check as demo_check
from icr_platform.demo.grader import grade
from icr_platform.demo.world import split_tasks
from icr_platform.evaluation.own_samples import (
    ALL,
    OwnSamples,
    checked_samples,
    kind_of_the_pairs,
    own_sample_metrics,
    own_samples,
    selected_pairs,
    upside_down_notes,
)

# Texts say what the checker finds: each letter is a kind of instruction, in capitals where the text follows it, `?` where nobody can tell.
TEXTS = {
    ("es", "1"): ["A", "a", "aa"],
    ("es", "2"): ["AB", "Ab", "aB", "ab"],
    ("es", "3"): ["A", "AA"],
    ("de", "1"): ["AAAA", "a"],
    ("de", "4"): ["A?", "a?", "AB"],
}
REWARDS = {
    ("es", "1"): [3.0, 1.0, 2.0],
    ("es", "2"): [1.0, 4.0, 3.0, 2.0],
    ("es", "3"): [0.0, 1.0],
    ("de", "1"): [1.0, 1.0],
    ("de", "4"): [9.0, 5.0, math.nan],
}


def check(language: str, prompt: Mapping[str, Any], text: str) -> Mapping[str, bool | None]:
    kinds = dict.fromkeys(text.upper())
    return {("b" if kind == "?" else kind.lower()): None if kind == "?" else kind in text for kind in kinds}


def responses(texts: Mapping[tuple[str, str], list[str]] = TEXTS) -> list[dict[str, Any]]:
    return [
        {"language": language, "prompt_id": prompt, "sample_index": index, "response": text}
        for (language, prompt), said in texts.items()
        for index, text in enumerate(said)
    ]


def prompts(source: str = "") -> dict[tuple[str, str], dict[str, Any]]:
    return {key: {"language": key[0], "prompt_id": key[1], "instruction": "?", "source": source} for key in TEXTS}


def rewards(kinds: Mapping[str, float]) -> pd.DataFrame:
    rows = [
        (*key, index, kind, sign * value)
        for key, values in REWARDS.items()
        for index, value in enumerate(values)
        for kind, sign in kinds.items()
    ]
    return pd.DataFrame(rows, columns=["language", "prompt_id", "sample_index", "kind", "reward"])


def preferences() -> pd.DataFrame:
    """Selected by the cross-lingual reward: the alpha of German is worth a whole character."""
    rows = [
        ("es", "1", 0, 1, 3.0, 0.0),  # right
        ("es", "2", 1, 0, 4.0, 0.0),  # wrong
        ("es", "3", 1, 0, 1.0, 0.0),  # both
        ("de", "1", 1, 0, 1.0, 1.0),  # wrong
        ("de", "4", 0, 1, 9.0, 1.0),  # not known: of `A?` nobody can tell whether all is followed
    ]
    columns = ["language", "prompt_id", "chosen_index", "rejected_index", "chosen_reward", "length_penalty_alpha"]
    return pd.DataFrame(rows, columns=columns)


def checked() -> pd.DataFrame:
    return checked_samples(check, "mine:check", prompts(), responses())


def ranked(found: OwnSamples, language: str, kind: str, instruction: str = ALL, controlled: bool = False) -> Any:
    key = (language, kind, instruction, controlled)
    (row,) = [row for row in found.ranked if row[:4] == key]
    return row


def test_a_sample_is_as_good_as_its_worst_instruction_and_unknown_where_that_is() -> None:
    table = checked()
    rows = table[table["instruction_kind"] == ALL]
    whole = {tuple(key): score for *key, score in rows[["language", "prompt_id", "sample_index", "score"]].to_numpy()}
    assert [whole["es", "2", index] for index in range(4)] == [1.0, 0.0, 0.0, 0.0]
    assert math.isnan(whole["de", "4", 0])
    assert whole["de", "4", 1] == 0.0, "what fails one instruction fails, whatever cannot be told of the others"
    assert set(table["instruction_kind"]) == {ALL, "a", "b"}


def test_accuracy_is_over_pairs_and_auc_over_prompts() -> None:
    found = own_samples(checked(), rewards({"cross-lingual": 1.0}))
    row = ranked(found, "es", "cross-lingual")
    # Prompt 1: 3 above 1 and 2. Prompt 2: 1 below 4, 3 and 2. Prompt 3: both comply, no pair.
    assert (row.accuracy.accuracy, row.accuracy.n, row.accuracy.prompts) == (40.0, 5, 2)
    assert (row.auc.auc, row.auc.prompts, row.auc.pairs) == (50.0, 2, 5)
    row = ranked(found, "de", "cross-lingual")
    # Prompt 1 is a tie. Prompt 4: of the first sample nothing is known, and the third was not scored.
    assert (row.accuracy.accuracy, row.accuracy.n, row.accuracy.ties) == (50.0, 1, 1)
    assert (found.unchecked, found.unscored) == ({"de": 1}, {("de", "cross-lingual"): 1})
    assert ranked(found, "mean", "cross-lingual").accuracy.accuracy == 45.0


def test_kinds_of_instructions_are_compared_by_themselves() -> None:
    found = own_samples(checked(), rewards({"cross-lingual": 1.0}))
    # Of `a` in prompt 2: 1 and 4 comply, 3 and 2 do not.
    assert ranked(found, "es", "cross-lingual", "a").accuracy[0:4:3] == (pytest.approx(100.0 * 4 / 6), 6)
    assert ranked(found, "es", "cross-lingual", "b").accuracy[0:4:3] == (25.0, 4)
    assert ranked(found, "de", "cross-lingual", "a").accuracy[0:4:3] == (75.0, 2)
    assert ranked(found, "de", "cross-lingual", "b").accuracy.n == 0


def test_the_longer_sample_is_the_baseline_and_ties_count_half() -> None:
    found = own_samples(checked(), rewards({"cross-lingual": 1.0}))
    # Prompt 1: 1 character against 1 and 2. Prompt 2: all have 2.
    assert ranked(found, "es", "length").accuracy[0:5:4] == (pytest.approx(100.0 * (0.5 + 0 + 1.5) / 5), 4)
    assert ranked(found, "de", "length").accuracy.accuracy == 100.0


def test_length_control_takes_the_alpha_of_the_pairs_for_the_kind_that_made_them() -> None:
    two = rewards({"multilingual": -1.0, "cross-lingual": 1.0})
    assert kind_of_the_pairs(two, preferences()) == "cross-lingual"
    found = own_samples(checked(), two, preferences())
    # de 1: 1 - 4 against 1 - 1.
    assert ranked(found, "de", "cross-lingual", controlled=True).accuracy.accuracy == 0.0
    assert ranked(found, "de", "cross-lingual").accuracy.accuracy == 50.0
    assert ranked(found, "es", "cross-lingual", controlled=True).accuracy.accuracy == 40.0
    assert not [row for row in found.ranked if row.is_controlled and row.kind != "cross-lingual"]
    assert kind_of_the_pairs(rewards({"multilingual": -1.0}), preferences()) is None
    only = preferences()[preferences()["language"] == "es"]
    assert {row.language for row in own_samples(checked(), two, only).ranked if row.is_controlled} == {"es"}


def test_what_was_selected_is_counted() -> None:
    es, de = selected_pairs(checked(), preferences())
    assert es[:6] == ("es", 1, 1, 1, 0, 0)
    assert de[:6] == ("de", 0, 1, 0, 0, 1)
    assert (es.accuracy.accuracy, es.accuracy.n, de.accuracy.accuracy) == (50.0, 2, 0.0)


def test_metrics_have_their_names_and_percent() -> None:
    metrics = own_sample_metrics(own_samples(checked(), rewards({"cross-lingual": 1.0}), preferences()))
    expected = {
        "own_reward_accuracy/cross-lingual/es": 40.0,
        "own_reward_accuracy/cross-lingual/de": 0.0,
        "own_reward_accuracy_raw/cross-lingual/de": 50.0,
        "own_reward_accuracy/cross-lingual/mean": 20.0,
        "own_reward_auc/cross-lingual/es": 50.0,
        "own_reward_auc_raw/cross-lingual/de": 50.0,
        "own_reward_auc_raw/cross-lingual/mean_non_english": 50.0,
        "own_reward_accuracy/length/es": 40.0,
        "own_reward_auc/length/de": 100.0,
        "selected_right/es": 100.0 / 3,
        "selected_both/es": 100.0 / 3,
        "selected_wrong/de": 100.0,
        "selected_accuracy/es": 50.0,
    }
    assert {name: metrics[name] for name in expected} == expected


def test_a_reward_that_is_upside_down_is_said() -> None:
    texts = {("es", str(index)): ["A", "a"] for index in range(12)}
    rows = checked_samples(check, "c", {key: {"source": ""} for key in texts}, responses(texts))
    table = pd.DataFrame(
        [(*key, index, "cross-lingual", float(index)) for key in texts for index in range(2)],
        columns=["language", "prompt_id", "sample_index", "kind", "reward"],
    )
    notes = upside_down_notes(own_samples(rows, table))
    assert len(notes) == 2
    assert notes[0].startswith("es: cross-lingual ranks the samples upside down: right in 0% of 12 pairs")
    assert "by 'a' upside down" in notes[1]
    assert upside_down_notes(own_samples(rows, table.assign(reward=-table["reward"]))) == []


@pytest.mark.parametrize(
    ("said", "score"),
    [(True, 1.0), (False, 0.0), (0.25, 0.25), (1, 1.0), (None, math.nan), (float("nan"), math.nan)],
)
def test_a_checker_may_return_a_number_a_truth_or_nothing(said: Any, score: float) -> None:
    texts = {("es", "1"): ["x"]}
    table = checked_samples(lambda *_: said, "c", prompts("colour"), responses(texts))
    assert set(table["instruction_kind"]) == {ALL, "colour"}, "the source of a prompt is its kind"
    assert [value == score or math.isnan(score) for value in table["score"]] == [True, True]


@pytest.mark.parametrize("said", ["yes", 2, -0.1, [1], {"a": "no"}])
def test_a_checker_that_returns_something_else_is_refused_in_one_line(said: Any) -> None:
    with pytest.raises(
        InputError, match=r"checker mine:f: returned .* for prompt '1' in 'es', sample 0; return a number"
    ):
        checked_samples(lambda *_: said, "mine:f", prompts(), responses())


def test_a_checker_that_raises_is_named_with_the_sample() -> None:
    with pytest.raises(InputError, match=r"checker mine:f: raised ZeroDivisionError on prompt '1' in 'es', sample 0"):
        checked_samples(lambda *_: 1 / 0, "mine:f", prompts(), responses())


def test_the_demo_agrees_with_its_exact_grader() -> None:
    """Accuracy over pairs of samples is that of a count over the grades, for a reward that is the grade with noise."""
    rng, noise = random.Random(0), random.Random(1)
    texts, table = {}, []
    asked = {
        (language, f"{task.id}.0"): {"prompt_id": f"{task.id}.0", "source": task.kind}
        for language in ("en", "ru")
        for task in split_tasks("icr")[::5]
    }
    for language, prompt_id in asked:
        task = next(task for task in split_tasks("icr") if f"{task.id}.0" == prompt_id)
        texts[language, prompt_id] = [respond(draw_author(rng), task, language, rng) for _ in range(4)]
        for index, text in enumerate(texts[language, prompt_id]):
            table.append(
                (language, prompt_id, index, "cross-lingual", grade(prompt_id, language, text) + noise.gauss(0, 0.3))
            )
    scored = pd.DataFrame(table, columns=["language", "prompt_id", "sample_index", "kind", "reward"])
    found = own_samples(checked_samples(demo_check, "demo", asked, responses(texts)), scored)

    value = {row[:3]: row[4] for row in table}
    for language in ("en", "ru"):
        observed = [
            float((value[language, key[1], i] > value[language, key[1], j]) == (one > other))
            for key, said in texts.items()
            if key[0] == language
            for (i, one), (j, other) in itertools.combinations(
                enumerate(grade(key[1], language, text) for text in said), 2
            )
            if one != other
        ]
        row = ranked(found, language, "cross-lingual")
        assert (row.accuracy.n, row.accuracy.accuracy) == (
            len(observed),
            pytest.approx(100 * sum(observed) / len(observed)),
        )
        assert 50 < row.accuracy.low < row.accuracy.accuracy < row.accuracy.high
    assert {row.instruction_kind for row in found.ranked} > {ALL, "colour", "what"}
