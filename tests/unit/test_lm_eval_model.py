"""Prompts, choices and answers of lm-eval's tasks in the chat template, against what the template itself renders."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

pytest.importorskip("lm_eval", reason="needs the extra 'benchmarks'")

from icr_platform.core.config import ChatSettings
from icr_platform.engines.sampling.decoding import Decoder, Done
from icr_platform.evaluation.lm_eval_model import CUT_PROMPT, CUT_THOUGHT, REFUSED, TOO_LONG, PolicyModel
from icr_platform.models.chat import bind
from tests.support.tiny_models import CHATML, chatml_tokenizer

THINKING = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}"
    "{% if enable_thinking is defined and not enable_thinking %}{{ '<think>\n\n</think>\n\n' }}{% endif %}{% endif %}"
)
OPENING = CHATML.replace("<|im_start|>assistant\n", "<|im_start|>assistant\n<think>\n")
NO_SYSTEM = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}" + CHATML
PICKY = (
    "{% for m in messages %}{% if 'forbidden' in m['content'] %}{{ raise_exception('no') }}{% endif %}{% endfor %}"
    + CHATML
)
TURN = [{"role": "user", "content": "Was ist Blut?\nAnswer:"}]


def policy_model(tiny_model: Path, template: str = CHATML, **settings: Any) -> PolicyModel:
    tokenizer = chatml_tokenizer()
    tokenizer.add_tokens(["<think>", "</think>"], special_tokens=False)
    tokenizer.chat_template = template
    chat = ChatSettings(system_role="fold", **settings)
    bind(tokenizer, "tiny", chat)
    return PolicyModel(str(tiny_model), tokenizer, chat, 42, pretrained=str(tiny_model), device="cpu", batch_size=2)


@pytest.mark.parametrize(
    ("template", "arguments", "messages"),
    [
        (CHATML, {}, TURN),
        (CHATML, {}, [{"role": "system", "content": "Kurz."}, *TURN]),
        (CHATML, {}, [*TURN, {"role": "assistant", "content": "A"}, *TURN]),
        (THINKING, {}, TURN),
        (THINKING, {"enable_thinking": False}, TURN),
        (OPENING, {}, [*TURN, {"role": "assistant", "content": "B"}, *TURN]),
    ],
)
def test_prompts_are_what_the_template_renders(
    tiny_model: Path, template: str, arguments: dict[str, Any], messages: list[dict[str, str]]
) -> None:
    model = policy_model(tiny_model, template, chat_template_kwargs=arguments)
    rendered = model.framing.apply_chat_template(messages, tokenize=False, add_generation_prompt=True, **arguments)
    assert model.apply_chat_template(messages) == rendered


def test_an_answer_that_is_begun_follows_the_prompt(tiny_model: Path) -> None:
    model = policy_model(tiny_model, THINKING, chat_template_kwargs={"enable_thinking": False})
    begun = model.apply_chat_template([*TURN, {"role": "assistant", "content": "Die Antwort ist"}], False)
    assert begun.endswith("<think>\n\n</think>\n\nDie Antwort ist")


def test_a_description_heads_the_question_where_there_is_no_place_for_it(tiny_model: Path) -> None:
    model = policy_model(tiny_model, NO_SYSTEM)
    described = model.apply_chat_template([{"role": "system", "content": "About stem."}, *TURN])
    assert described == model.apply_chat_template([{"role": "user", "content": "About stem.\n\n" + TURN[0]["content"]}])


@pytest.mark.parametrize(
    ("template", "before"),
    [
        (CHATML, "<|im_start|>assistant\n"),
        (THINKING, "<|im_start|>assistant\n<think>\n\n</think>\n\n"),
        (OPENING, "<|im_start|>assistant\n<think>\n\n</think>\n\n"),
    ],
)
def test_a_choice_is_scored_where_the_answer_begins(tiny_model: Path, template: str, before: str) -> None:
    """lm-eval itself would move the line break at the prompt's end to the choice."""
    model = policy_model(tiny_model, template)
    prompt, scored = model._encode_pair(model.apply_chat_template(TURN), "rot")
    assert str(model.framing.decode(prompt)).endswith(before)
    assert model.framing.decode(scored) == "rot"
    assert model.framing.encode(model.framing.decode(prompt), add_special_tokens=False) == prompt


def test_a_choice_has_the_log_probability_of_its_tokens(tiny_model: Path) -> None:
    model = policy_model(tiny_model)
    framed = model.apply_chat_template(TURN)
    requests = [SimpleNamespace(args=(framed, choice)) for choice in ("rot", "ein Tier")]
    found = [value for value, _ in model.loglikelihood(requests, disable_tqdm=True)]
    by_hand = []
    for _, choice in (request.args for request in requests):
        prompt = model.framing.encode(str(framed), add_special_tokens=False)
        scored = model.framing.encode(choice, add_special_tokens=False)
        with torch.no_grad():
            logprobs = model.model(torch.tensor([prompt + scored])).logits[0].log_softmax(-1)
        by_hand.append(sum(float(logprobs[len(prompt) + at - 1, token]) for at, token in enumerate(scored)))
    assert found == pytest.approx(by_hand, abs=1e-4)


def generated(
    model: PolicyModel, monkeypatch: pytest.MonkeyPatch, texts: list[str], until: list[str], prompt: str = "2 + 3?"
) -> list[str]:
    """The answers that are read from what the policy generates: `texts`, with its end of turn."""

    def decode(_: object, rows: list[Any], batch_size: int, done: Done) -> None:
        for index, text in enumerate(texts[: len(rows)]):
            done(index, model.framing.encode(text + "<|im_end|>", add_special_tokens=False))

    monkeypatch.setattr(Decoder, "decode", decode)
    framed = model.apply_chat_template([{"role": "user", "content": prompt}])
    request = SimpleNamespace(args=(framed, {"until": until, "do_sample": False, "max_gen_toks": 40}))
    return model.generate_until([request] * len(texts), disable_tqdm=True)


@pytest.mark.parametrize(
    ("template", "text", "until", "answer"),
    [
        (CHATML, "Es ist 5.\nFrage: 7", ["Frage:"], "Es ist 5.\n"),
        (CHATML, "Es ist 5.", ["", "Frage:"], "Es ist 5."),
        (CHATML, "5\n\n6", ["\n\n", "</s>"], "5"),
        # stop texts within the thought do not end it
        (THINKING, "<think>\nFrage: 2?\n\nHm.\n</think>\n\nEs ist 5.", ["Frage:", "\n\n"], "Es ist 5."),
        (OPENING, "Frage: 2?\n\nHm.\n</think>\n\nEs ist 5.\n\nFrage:", ["Frage:", "\n\n"], "Es ist 5."),
        (THINKING, "<think>\nHm. 5, Frage: ", ["Frage:"], ""),
        (OPENING, "Hm. 5", [], ""),
    ],
)
def test_answers_are_read_behind_the_thought(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch, template: str, text: str, until: list[str], answer: str
) -> None:
    model = policy_model(tiny_model, template)
    assert generated(model, monkeypatch, [text], until) == [answer]
    assert model.faults[CUT_THOUGHT] == (answer == "")


def test_answers_are_sampled_as_the_platform_samples(tiny_model: Path) -> None:
    """Greedy, each row as if it were alone."""
    model = policy_model(tiny_model)
    prompts = ["Nenne eine Frucht.", "Was ist rot?", "Sag hallo."]
    options = {"until": ["\n"], "do_sample": False, "max_gen_toks": 12}
    framed = [model.apply_chat_template([{"role": "user", "content": prompt}]) for prompt in prompts]
    together = model.generate_until([SimpleNamespace(args=(text, options)) for text in framed], disable_tqdm=True)
    for text, answer in zip(framed, together, strict=True):
        ids = torch.tensor([model.framing.encode(str(text), add_special_tokens=False)])
        stop = model.framing.convert_tokens_to_ids("<|im_end|>")
        alone = model.model.generate(ids, max_new_tokens=12, do_sample=False, eos_token_id=stop, pad_token_id=0)
        assert answer == str(model.framing.decode(alone[0, ids.shape[1] :], skip_special_tokens=True)).split("\n")[0]
    assert any(together)


def test_what_cannot_be_asked_is_counted_and_ends_nothing(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = policy_model(tiny_model, PICKY)
    assert model.apply_chat_template([{"role": "user", "content": "a forbidden word"}]) == "a forbidden word"
    assert model.faults[REFUSED] == 1
    assert generated(model, monkeypatch, ["5"], [], prompt="rot " * 600) == [""]
    assert model.faults[TOO_LONG] == 1
    model._encode_pair(model.apply_chat_template([{"role": "user", "content": "rot " * 600}]), "rot")
    assert model.faults[CUT_PROMPT] == 1
    assert generated(model, monkeypatch, ["5"], [], prompt="forbidden") == ["5"]


def test_options_that_have_no_effect_are_named(tiny_model: Path) -> None:
    model = policy_model(tiny_model)
    framed = model.apply_chat_template(TURN)
    options = {"until": [], "max_gen_toks": 2, "num_beams": 4, "do_sample": True, "temperature": 0.7, "top_p": 0.9}
    model.generate_until([SimpleNamespace(args=(framed, options))], disable_tqdm=True)
    assert model.notes() == ["num_beams of generation_kwargs has no effect with the chat template"]
