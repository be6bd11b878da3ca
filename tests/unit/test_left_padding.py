"""Sampled tokens and judged labels are those of the model's own forward of each row alone, for families of every kind."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from icr_platform.engines.judging.local_judge import LocalJudge, label_ids
from icr_platform.engines.judging.pairwise import MODEL_FIRST, Pair, Template
from icr_platform.engines.sampling import block_rows
from icr_platform.engines.sampling.sampler import Request
from icr_platform.engines.sampling.settings import SamplingSettings
from icr_platform.engines.sampling.transformers_sampler import TransformersSampler
from icr_platform.models import left_padding
from icr_platform.models.chat import encode_messages, encode_prompt
from icr_platform.models.left_padding import Batching, find_batching
from icr_platform.models.loading import load_tokenizer
from icr_platform.models.small_copy import NoCopyError, build_random, small_config
from tests.support.answers import answers

TEXTS = ["Name a fruit.", "¿De qué color es la hierba? ¿Es un perro una herramienta?" * 2, "Was ist rot?", "Hi"]


def build(family: str, vocabulary: int, **settings: Any) -> PreTrainedModel:
    """A tiny random model of a family, as its default config describes it."""
    config = small_config(getattr(transformers, family + "Config")())
    vars(config).update({"vocab_size": vocabulary, "eos_token_id": 0, "pad_token_id": 0} | settings)
    return build_random(getattr(transformers, family + "ForCausalLM"), config)


def longrope(vocabulary: int) -> PreTrainedModel:
    """Other frequencies for the whole batch, and for what is cached, as soon as one row passes 48 tokens."""
    rope = {"rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0] * 8, "long_factor": [8.0] * 8,
            "factor": 4.0, "original_max_position_embeddings": 48}  # fmt: skip
    return build("Phi3", vocabulary, rope_parameters=rope, original_max_position_embeddings=48)


def own_greedy(model: PreTrainedModel, prompt: list[int], stops: frozenset[int], most: int) -> list[int]:
    ids = list(prompt)
    with torch.inference_mode():
        while len(ids) < len(prompt) + most:
            ids.append(int(model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].argmax()))
            if ids[-1] in stops:
                break
    return ids[len(prompt) :]


FAMILIES: dict[str, tuple[bool, bool]] = {  # whether rows share a batch, whether a cache continues a row
    "Llama": (True, True),
    "Mistral": (True, True),
    "Gemma3": (True, True),
    "GptOss": (True, True),
    "DeepseekV4": (False, True),
    "Bart": (False, True),
    "Pegasus": (False, True),
    "Qwen3Next": (True, True),
    "Jamba": (True, True),
    "FalconH1": (True, True),
    "Lfm2": (True, True),
    "MiniMax": (True, True),
    "RecurrentGemma": (False, False),
    "Rwkv": (False, False),
}


def tiny(family: str, vocabulary: int) -> PreTrainedModel:
    if family == "Gemma3":
        config = small_config(transformers.Gemma3TextConfig())
        vars(config).update({"vocab_size": vocabulary, "eos_token_id": 0, "pad_token_id": 0})
        return build_random(transformers.Gemma3ForCausalLM, config)
    return build(family, vocabulary, is_decoder=True)


@pytest.mark.parametrize("family", FAMILIES)
def test_sampled_tokens_are_those_of_each_row_alone(family: str, tiny_model: Path) -> None:
    tokenizer = load_tokenizer(str(tiny_model))
    model = tiny(family, len(tokenizer))
    sampler = assert_samples_its_own(model, tokenizer, 8)
    batching = sampler.decoder.batching
    assert (batching.rows is None, batching.cache is None) == FAMILIES[family], batching


@pytest.mark.parametrize("family", ["Bloom", "Qwen3Next"])
def test_rows_that_a_cache_cannot_drop_stay_until_the_last_one_ends(
    family: str, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some rows end early: they are computed on, and change nothing."""

    def cannot(*_: Any) -> None:
        raise AttributeError("'SomeCache' object cannot drop rows")

    monkeypatch.setattr(transformers.Cache, "batch_select_indices", cannot)
    monkeypatch.setattr(transformers.Cache, "reorder_cache", cannot)
    monkeypatch.setattr(left_padding, "_found", {})
    tokenizer = load_tokenizer(str(tiny_model))
    model = tiny(family, len(tokenizer))
    likely = [own_greedy(model, encode_prompt(tokenizer, text), frozenset(), 3)[-1] for text in TEXTS[:2]]
    monkeypatch.setattr("icr_platform.engines.sampling.transformers_sampler.stop_ids", lambda *_: likely)
    sampler = assert_samples_its_own(model, tokenizer, 12)
    assert sampler.decoder.batching == Batching(leaving="stay")


def test_frequencies_of_the_longest_row_do_not_reach_the_others(tiny_model: Path) -> None:
    """Prompts below, at and above 48 tokens; rows pass the limit while they are sampled."""
    tokenizer = load_tokenizer(str(tiny_model))
    sampler = assert_samples_its_own(longrope(len(tokenizer)), tokenizer, 40)
    assert sampler.decoder.batching == Batching(longest=48)


def assert_samples_its_own(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, most: int
) -> TransformersSampler:
    settings = SamplingSettings(temperature=0, max_tokens=most, batch_size=64)
    sampler = TransformersSampler(model, tokenizer, settings, ())
    samples = answers(sampler.sample([Request("en", str(i), text) for i, text in enumerate(TEXTS)], 2, seed=0))
    for text, (first, second) in zip(TEXTS, samples, strict=True):
        assert first.token_ids == own_greedy(model, encode_prompt(tokenizer, text), sampler.stops, most)
        assert second.token_ids == first.token_ids
    return sampler


@pytest.mark.parametrize("family", ["Rwkv", "RecurrentGemma", "Llama"])
def test_judged_labels_are_those_of_each_prompt_alone(family: str, tiny_model: Path, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(str(tiny_model))
    tiny(family, len(tokenizer)).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    judge = LocalJudge(
        str(tmp_path),
        Template((("user", "{instruction}\nm: {output_m}\nM: {output_M}"),)),
        both_orders=True, seed=0, dtype="float32", device="cpu", min_mass=0.0,
    )  # fmt: skip
    pairs = [Pair("es", f"p{i}", 0, TEXTS[i % 4], "manzana " * (1 + 2 * i), "pera") for i in range(5)]
    [judgments] = judge.judge([pairs])
    for judgment in judgments:
        ids = encode_messages(tokenizer, judge.template.render(pairs[int(judgment.prompt_id[1:])], judgment.order))
        with torch.inference_mode():
            p = judge.model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].double().softmax(-1)
        m, M = (float(sum(p[i] for i in label_ids(tokenizer, label))) for label in "mM")
        assert judgment.preference == pytest.approx((m if judgment.order == MODEL_FIRST else M) / (m + M), abs=1e-4)


def test_a_model_that_cannot_be_shrunk_goes_one_row_at_a_time(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(model: PreTrainedModel) -> PreTrainedModel:
        raise NoCopyError("a small copy of it does not run (KeyError: 'sizes')")

    for module in (left_padding, block_rows):
        monkeypatch.setattr(module, "small_copy", refuse)
        monkeypatch.setattr(module, "_found", {})
    tokenizer = load_tokenizer(str(tiny_model))
    sampler = assert_samples_its_own(tiny("Llama", len(tokenizer)), tokenizer, 6)
    assert sampler.decoder.batching.rows is not None
    assert "generates one row at a time: a small copy of it does not run (KeyError: 'sizes')" in caplog.text


@pytest.mark.parametrize(("family", "lost"), [("GPT2", "position_ids"), ("Llama", "attention_mask")])
def test_a_model_that_mistakes_padding_is_found(family: str, lost: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Positions counted from the padding, and padding that is looked at: what some families do, here in two that do not."""
    body = getattr(transformers, f"{family}Model")
    forward: Callable[..., Any] = body.forward

    def wrong(self: Any, input_ids: Any = None, **rest: Any) -> Any:
        return forward(self, input_ids=input_ids, **rest | {lost: None})

    kind = getattr(transformers, "GPT2LMHeadModel" if family == "GPT2" else f"{family}ForCausalLM")
    config = small_config(getattr(transformers, f"{family}Config")())
    monkeypatch.setattr(left_padding, "_found", {})
    assert find_batching(build_random(kind, config)) == Batching()
    left_padding._found.clear()
    monkeypatch.setattr(body, "forward", wrong)
    batching = find_batching(build_random(kind, config))
    assert "change by up to" in str(batching.padding)
    assert batching.cache is None
