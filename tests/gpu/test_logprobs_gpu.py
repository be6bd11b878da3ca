"""The scorer on a GPU: equal to the CPU in float32, to the model's own forward in bfloat16."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    GptOssConfig,
    GptOssForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
)

from icr_platform.engines.scoring.logprobs import CompletionScorer, Group

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
SMALL: dict[str, Any] = {"vocab_size": 500, "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 2,
         "num_attention_heads": 4, "num_key_value_heads": 2, "initializer_range": 0.1}  # fmt: skip


def models() -> list[PreTrainedModel]:
    torch.manual_seed(0)
    windowed = MistralForCausalLM(MistralConfig(**SMALL, head_dim=64, sliding_window=20))
    config = GptOssConfig(**SMALL, head_dim=64, num_local_experts=2, num_experts_per_tok=2, sliding_window=20)
    with_sinks = GptOssForCausalLM(config)
    for layer in with_sinks.model.layers:
        torch.nn.init.normal_(layer.self_attn.sinks)
    return [LlamaForCausalLM(LlamaConfig(**SMALL)).eval(), windowed.eval(), with_sinks.eval()]


def groups() -> list[Group]:
    rng = np.random.default_rng(0)
    return [
        Group(rng.integers(0, 500, prompt).tolist(), [rng.integers(0, 500, n).tolist() for n in (1, 30, 100, 7)])
        for prompt in (10, 90, 3)
    ]


@pytest.mark.parametrize("index", [0, 1, 2])
@pytest.mark.parametrize("tokens", [70, 8192])
def test_float32_equals_the_cpu(index: int, tokens: int) -> None:
    model = models()[index]
    expected = np.concatenate(CompletionScorer(model).score(groups()))
    on_device: Any = model
    scorer = CompletionScorer(on_device.to("cuda"), tokens)
    assert scorer.packed
    lengths = np.array([1, 30, 100, 7] * 3)
    assert (np.abs(np.concatenate(scorer.score(groups())) - expected) / lengths).max() < 2e-5


@pytest.mark.parametrize("index", [0, 1, 2])
@pytest.mark.parametrize("tokens", [70, 8192])
def test_bfloat16_is_as_near_to_float32_as_the_models_own_forward(index: int, tokens: int) -> None:
    lengths = np.array([1, 30, 100, 7] * 3)
    model: Any = models()[index]
    exact = np.concatenate(CompletionScorer(model).score(groups()))
    model = model.to("cuda", torch.bfloat16)
    scorer = CompletionScorer(model, tokens)
    assert scorer.packed
    packed = np.concatenate(scorer.score(groups()))
    scorer.packed = False
    own = np.concatenate(scorer.score(groups()))
    off, own_off = (float((np.abs(scores - exact) / lengths).max()) for scores in (packed, own))
    assert off < 1.5 * own_off + 0.02
    scorer.packed = True
    scorer.compile_blocks()
    compiled = np.concatenate(scorer.score(groups()))
    assert float((np.abs(compiled - exact) / lengths).max()) < 1.5 * own_off + 0.02


def test_float32_weights_are_scored_in_half_precision_where_training_computes_in_it() -> None:
    model: Any = models()[1].to("cuda")  # type: ignore[arg-type]
    exact = np.concatenate(CompletionScorer(model).score(groups()))
    scorer = CompletionScorer(model, 70)
    with torch.autocast("cuda", dtype=torch.bfloat16):
        half = np.concatenate(scorer.score(groups()))
    assert scorer.packed
    assert (np.abs(half - exact) / np.array([1, 30, 100, 7] * 3)).max() < 0.1
