"""A local judge is brought to its verdict at once, whatever its family's template does: turned off, ended, or said in one line."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from icr_platform.core.config import ChatSettings
from icr_platform.core.errors import InputError
from icr_platform.engines.judging.api_judge import LOGPROB_PARAMETERS, STRUCTURED_PARAMETERS, ApiJudge
from icr_platform.engines.judging.judge_chat import judge_chat
from icr_platform.engines.judging.judge_replies import without_reasoning
from icr_platform.engines.judging.local_judge import LocalJudge, label_ids
from icr_platform.engines.judging.pairwise import DEFAULT_TEMPLATE, MODEL_FIRST, Pair, Template
from icr_platform.models.chat import encode_messages, settings_of
from icr_platform.models.loading import load_model, load_tokenizer
from icr_platform.models.thinking import STYLES
from tests.support.template_families import FAMILIES, family_tokenizer

SHORT = Template((("user", "{instruction}\nm: {output_m}\nM: {output_M}\nm or M?"),))
DEFAULT = ChatSettings()

# family -> what its template is told, and what the judge's prompt ends on
VERDICT_AFTER: dict[str, tuple[dict[str, Any], str]] = {
    "qwen2.5": ({}, "<|im_start|>assistant\n"),
    "qwen3": ({"enable_thinking": False}, "<think>\n\n</think>\n\n"),
    "qwen3-2507-thinking": ({}, "<think>\n\n</think>\n\n"),
    "qwen3.5": ({"enable_thinking": False}, "<think>\n\n</think>\n\n"),
    "smollm3": ({"enable_thinking": False}, "<think>\n\n</think>\n"),
    "smollm3-dated": ({"enable_thinking": False}, "<think>\n\n</think>\n"),
    "eurollm": ({}, "<|im_start|>assistant\n"),
    "gemma-3": ({}, "<start_of_turn>model\n"),
    "gemma-4": ({}, "<|turn>model\n"),  # silent without being asked
    "gpt-oss": ({"reasoning_effort": "low"}, "<|start|>assistant<|channel|>final<|message|>"),
    "llama-3.2": ({}, "<|start_header_id|>assistant<|end_header_id|>\n\n"),
    "mistral-nemo": ({}, "m or M?[/INST]"),
    "ministral-3-reasoning": ({}, "[/INST][THINK]\n\n[/THINK]\n\n"),
    "apertus": ({}, "<|assistant_start|>"),
    "tiny-aya": ({}, "<|CHATBOT_TOKEN|><|START_RESPONSE|>"),
    "command-a-reasoning": ({"reasoning": False}, "<|START_THINKING|><|END_THINKING|><|START_RESPONSE|>"),
    "glm-4.5": ({"enable_thinking": False}, "<think></think>"),
    "deepseek-r1-distill": ({}, "<think>\n\n</think>\n\n"),
    "deepseek-v3.1": ({}, "<think></think>".removeprefix("<think>")),
    "nemotron-3-nano": ({"enable_thinking": False}, "<think></think>"),
    "phi-4-reasoning": ({}, "<|im_sep|><think>\n\n</think>\n\n"),
    "granite-3.3": ({}, "<|start_of_role|>assistant<|end_of_role|>"),
    "seed-oss": ({"thinking_budget": 0}, "</seed:think>"),
    "lfm2": ({}, "<|im_start|>assistant\n"),
}


@pytest.mark.parametrize("family", VERDICT_AFTER)
def test_the_verdict_is_read_where_the_answer_begins(family: str) -> None:
    tokenizer = family_tokenizer(family)
    told, ending = VERDICT_AFTER[family]
    chat = judge_chat(tokenizer, family, ("user",), DEFAULT, {})
    ids = encode_messages(tokenizer, [{"role": "user", "content": "m or M?"}]) + chat.opening
    assert settings_of(tokenizer).chat_template_kwargs == told
    assert str(tokenizer.decode(ids)).endswith(ending)
    assert len(chat.notes) == bool(told) + bool(chat.opening), "what is asked otherwise than as it comes is said"
    assert all(note.startswith(f"{family}: ") for note in chat.notes)


def test_every_family_is_a_judge() -> None:
    for family in FAMILIES:
        judge_chat(family_tokenizer(family), family, ("user",), DEFAULT, {})


@pytest.mark.parametrize(
    ("family", "shared", "own", "told", "words"),
    [
        ("qwen3", {"enable_thinking": True}, {}, {"enable_thinking": False}, "enable_thinking false, not true as the policy"),
        ("qwen3", {"enable_thinking": False}, {}, {"enable_thinking": False}, ""),
        ("qwen3", {}, {"enable_thinking": True}, {"enable_thinking": True}, ""),
        ("qwen3", {"reasoning_effort": "high"}, {}, {"enable_thinking": False}, "does not use reasoning_effort"),
        ("llama-3.2", {"enable_thinking": False}, {}, {}, "does not use enable_thinking"),
        ("llama-3.2", {"date_string": "1 May"}, {}, {"date_string": "1 May"}, ""),
        ("gpt-oss", {"reasoning_effort": "high"}, {}, {"reasoning_effort": "low"}, '"low", not "high" as the policy'),
        ("gpt-oss", {}, {"reasoning_effort": "medium"}, {"reasoning_effort": "medium"}, "end on '<|channel|>final<|message|>'"),
        ("gemma-4", {"enable_thinking": True}, {}, {"enable_thinking": False}, "not true as the policy"),
    ],
)  # fmt: skip
def test_the_policys_arguments_reach_a_judge_that_uses_them_and_its_own_are_above_them(
    family: str, shared: dict[str, Any], own: dict[str, Any], told: dict[str, Any], words: str
) -> None:
    tokenizer = family_tokenizer(family)
    chat = judge_chat(tokenizer, family, ("user",), ChatSettings(chat_template_kwargs=shared), own)
    assert settings_of(tokenizer).chat_template_kwargs == told
    assert words in " ".join(chat.notes)


def test_arguments_that_the_template_refuses_are_left_out_if_they_are_the_policys_and_refused_if_its_own() -> None:
    tokenizer = family_tokenizer("qwen2.5")
    tokenizer.chat_template += "{% if tone and tone != 'mild' %}{{ raise_exception('only mild') }}{% endif %}"
    chat = judge_chat(tokenizer, "judge", ("user",), ChatSettings(chat_template_kwargs={"tone": "harsh"}), {})
    assert settings_of(tokenizer).chat_template_kwargs == {}
    assert "refuses tone" in chat.notes[0]
    for own, words in (({"tone": "harsh"}, "only mild"), ({"tome": "mild"}, "does not use 'tome', nearest is 'tone'")):
        with pytest.raises(InputError, match=f"field 'judge_chat_template_kwargs'.*{words}") as caught:
            judge_chat(tokenizer, "judge", ("user",), DEFAULT, own)
        assert "\n" not in str(caught.value)


def test_a_judge_has_no_system_prompt_of_the_policys() -> None:
    tokenizer = family_tokenizer("gemma-2")  # which has no place for one
    judge_chat(tokenizer, "gemma-2", ("user",), ChatSettings(system_prompt="Be brief."), {})
    assert settings_of(tokenizer).system_prompt == ""


@pytest.mark.parametrize("opening", ["<think>\n", "<think>\n\n</think>\n\n", ""])
def test_probabilities_are_those_behind_the_thought(tiny_model: Path, tmp_path: Path, opening: str) -> None:
    import torch

    folder = tmp_path / "judge"
    shutil.copytree(tiny_model, folder)
    template = folder / "chat_template.jinja"
    text = template.read_text(encoding="utf-8")
    template.write_text(text.replace("{% endif %}", opening + "{% endif %}"), encoding="utf-8")
    pair = Pair("es", "p", 0, "Nombra una fruta.", "manzana", "pera")
    judge = LocalJudge(str(folder), SHORT, both_orders=False, seed=0, dtype="float32", device="cpu", min_mass=0.0)
    [[judgment]] = judge.judge([[pair]])
    tokenizer, model = load_tokenizer(str(folder)), load_model(str(folder), "float32", "cpu")
    ids = encode_messages(tokenizer, SHORT.render(pair, judgment.order))
    if opening == "<think>\n":
        ids += tokenizer("\n</think>\n\n", add_special_tokens=False)["input_ids"]
    with torch.inference_mode():
        probabilities = model(torch.tensor([ids])).logits[0, -1].double().softmax(-1)
    m, M = (float(probabilities[label_ids(tokenizer, label)].sum()) for label in "mM")
    assert judgment.preference == pytest.approx((m if judgment.order == MODEL_FIRST else M) / (m + M), abs=1e-5)
    assert judgment.input_tokens == len(ids)
    strict = LocalJudge(str(folder), SHORT, both_orders=False, seed=0, dtype="float32", device="cpu", min_mass=0.9)
    [[failed]] = strict.judge([[pair]])
    assert failed.detail.endswith(f"the answer begins {tokenizer.decode([int(probabilities.argmax())])!r}")


@pytest.mark.parametrize(("samples", "parameters"), [(0, LOGPROB_PARAMETERS), (2, STRUCTURED_PARAMETERS)])
def test_an_endpoint_is_sent_arguments_only_if_there_are_some(samples: int, parameters: dict[str, Any]) -> None:
    make: Callable[..., ApiJudge] = ApiJudge
    given: Any = (None, None, DEFAULT_TEMPLATE, True, 0, samples)
    assert make(*given).parameters == parameters, "else no reply of earlier work would be found in the cache"
    off = {"enable_thinking": False}
    sent = make(*given, template_arguments=off).parameters
    assert sent == {**parameters, "chat_template_kwargs": off}
    json.dumps(sent)


@pytest.mark.parametrize("style", STYLES, ids=lambda style: style.opening)
def test_reasoning_between_the_markers_of_any_family_is_no_verdict(style: Any) -> None:
    assert without_reasoning(f"{style.opening}m{style.closing}M") == "M"
    assert without_reasoning(f"{style.opening}m") is None
