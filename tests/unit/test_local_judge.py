"""The local judge against one plain forward pass per prompt, and what every pairwise judge shares."""

from __future__ import annotations

from pathlib import Path

import pytest

from icr_platform.core.errors import InputError
from icr_platform.engines.judging.local_judge import LocalJudge, label_ids
from icr_platform.engines.judging.pairwise import (
    DEFAULT_TEMPLATE,
    MODEL_FIRST,
    REFERENCE_FIRST,
    Pair,
    Template,
    load_template,
    orders_of,
)
from icr_platform.models.chat import encode_messages
from icr_platform.models.loading import load_model, load_tokenizer

SHORT = Template((("user", "{instruction}\nm: {output_m}\nM: {output_M}\nm or M?"),))


def pairs(count: int) -> list[Pair]:
    return [
        Pair("es", f"p{i}", 0, "Nombra una fruta." * (1 + i % 3), "manzana " * (1 + i % 7), "pera")
        for i in range(count)
    ]


def test_batched_judgments_equal_one_forward_pass_each(tiny_model: Path) -> None:
    import torch

    judge = LocalJudge(str(tiny_model), SHORT, both_orders=True, seed=0, dtype="float32", device="cpu", min_mass=0.0)
    [judgments] = judge.judge([pairs(9)])
    tokenizer, model = load_tokenizer(str(tiny_model)), load_model(str(tiny_model), "float32", "cpu")
    for judgment in judgments:
        pair = pairs(9)[int(judgment.prompt_id[1:])]
        ids = encode_messages(tokenizer, SHORT.render(pair, judgment.order))
        with torch.inference_mode():
            probabilities = model(torch.tensor([ids])).logits[0, -1].double().softmax(-1)
        m, M = (float(sum(probabilities[i] for i in label_ids(tokenizer, label))) for label in "mM")
        wins = m if judgment.order == MODEL_FIRST else M
        assert judgment.preference == pytest.approx(wins / (m + M), abs=1e-5)
        assert judgment.mass == pytest.approx(m + M, rel=1e-4)
        assert judgment.input_tokens == len(ids)
    assert [j.order for j in judgments[:2]] == [MODEL_FIRST, REFERENCE_FIRST]


def test_a_prompt_that_does_not_fit_is_an_outcome_not_a_crash(tiny_model: Path) -> None:
    judge = LocalJudge(str(tiny_model), SHORT, both_orders=False, seed=0, dtype="float32", device="cpu", min_mass=0.0)
    long = Pair("es", "long", 0, "Nombra", "fruta " * 600, "pera")
    [judgments] = judge.judge([[long, *pairs(2)]])
    assert [judgment.outcome for judgment in judgments] == ["api_error", "ok", "ok"]
    assert "do not fit" in judgments[0].detail


def test_labels_are_read_with_and_without_a_space(tiny_model: Path) -> None:
    tokenizer = load_tokenizer(str(tiny_model))
    for label in "mM":
        texts = {tokenizer.decode([index]) for index in label_ids(tokenizer, label)}
        assert label in texts
        assert {str(text).strip() for text in texts} == {label}


def test_texts_with_placeholders_are_not_filled_in_again() -> None:
    pair = Pair("es", "p", 0, "{output_m} {language}", "{instruction}", "{0} {}")
    [message] = SHORT.render(pair, MODEL_FIRST)
    assert message["content"] == "{output_m} {language}\nm: {instruction}\nM: {0} {}\nm or M?"
    [swapped] = SHORT.render(pair, REFERENCE_FIRST)
    assert "m: {0} {}\nM: {instruction}" in swapped["content"]
    assert "Spanish" in DEFAULT_TEMPLATE.render(pair, MODEL_FIRST)[0]["content"]


def test_the_coin_is_fair_and_the_same_for_every_language() -> None:
    coins = [orders_of(Pair("es", str(i), 0, "", "", ""), False, 42)[0] for i in range(805)]
    assert coins == [orders_of(Pair("de", str(i), 3, "x", "y", "z"), False, 42)[0] for i in range(805)]
    assert 340 < coins.count(MODEL_FIRST) < 465


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("- role: user\n  content: '{instruction} {output_m}'\n", "placeholder {output_M} is missing"),
        ("hello", "not a list of"),
        ("- [", "not valid YAML"),
    ],
)
def test_a_bad_template_is_explained(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "judge.yaml"
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        load_template(str(path))
    assert words in str(caught.value)
    assert "judge.yaml" in str(caught.value)
    assert "\n" not in str(caught.value)
