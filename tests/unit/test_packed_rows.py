"""Training on packed rows against TRL's way, which pads: log-probabilities and gradients, by family; and tiles against one matrix."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn
from transformers import (
    CohereConfig,
    CohereForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    PreTrainedModel,
)
from trl.trainer.utils import add_fused_lm_head

from icr_platform.models.small_copy import FIRST_ID, VOCABULARY, WINDOW, random_copy
from icr_platform.training import packed_rows, token_logprobs
from icr_platform.training.packed_rows import pack_rows, why_not_packed_rows
from icr_platform.training.token_logprobs import target_logprobs


@pytest.mark.parametrize("in_place", [False, True], ids=["returned", "in place"])
@pytest.mark.parametrize("kept", [0, 2**26], ids=["computed again", "kept"])
@pytest.mark.parametrize(("rows", "columns"), [(7, 5), (16, 64), (3, 400)])
def test_tiles_equal_the_whole_matrix(
    monkeypatch: pytest.MonkeyPatch, in_place: bool, kept: int, rows: int, columns: int
) -> None:
    """Also where a later tile has the largest logit, far above the first one's, and where a gradient is there already."""
    monkeypatch.setattr(token_logprobs, "_ROWS", rows)
    monkeypatch.setattr(token_logprobs, "_COLUMNS", columns)
    monkeypatch.setattr(token_logprobs, "KEPT_LOGITS", kept)
    draw = torch.Generator().manual_seed(0)
    hidden, weight = (torch.randn(size, 8, generator=draw, requires_grad=True) for size in (16, 130))
    with torch.no_grad():
        weight[100:] *= 30
    targets = torch.randint(0, 130, (16,), generator=draw)
    upstream = torch.randn(16, generator=draw)
    for _ in range(2):
        seen, squares = target_logprobs(hidden, weight, targets, squares=True, in_place=in_place)
        (seen * upstream / 2).sum().backward()
    exact_hidden, exact_weight = (each.detach().double().requires_grad_() for each in (hidden, weight))
    logprobs = (exact_hidden @ exact_weight.T).log_softmax(1)
    expected = logprobs[torch.arange(16), targets]
    (expected * upstream).sum().backward()
    assert squares is not None
    assert torch.allclose(seen.detach().double(), expected.detach(), atol=1e-4, rtol=1e-6)
    assert torch.allclose(squares.double(), (2 * logprobs).logsumexp(1).detach(), atol=1e-4, rtol=1e-6)
    for found, exact in ((hidden, exact_hidden), (weight, exact_weight)):
        assert found.grad is not None
        assert exact.grad is not None
        assert torch.allclose(found.grad.double(), exact.grad, atol=1e-4, rtol=1e-4)


SMALL: dict[str, Any] = {
    "vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "tie_word_embeddings": True,
}  # fmt: skip
PACKED: dict[str, tuple[type[PreTrainedModel], Any]] = {
    "grouped queries": (LlamaForCausalLM, LlamaConfig(**SMALL)),
    "a window": (
        Gemma3ForCausalLM,
        Gemma3TextConfig(
            **SMALL, sliding_window=WINDOW, layer_types=["sliding_attention", "full_attention"], query_pre_attn_scalar=8
        ),
    ),
    "experts, an untied head": (
        MixtralForCausalLM,
        MixtralConfig(**(SMALL | {"tie_word_embeddings": False}), num_local_experts=4, num_experts_per_tok=2),
    ),
}


@pytest.mark.parametrize(("together", "checkpointing"), [(128, False), (40, True)], ids=["short", "long, checkpointed"])
@pytest.mark.parametrize("family", PACKED)
def test_packed_pairs_have_the_log_probabilities_and_gradients_of_padded_ones(
    monkeypatch: pytest.MonkeyPatch, family: str, together: int, checkpointing: bool
) -> None:
    """Three pairs, in attention calls together or apart: beyond the window, rejected as a part of chosen, and almost nothing shared."""
    monkeypatch.setattr(packed_rows, "_TOGETHER", together)
    model: Any = random_copy(*PACKED[family]).requires_grad_(True).train()
    theirs: Any = copy.deepcopy(model)
    add_fused_lm_head(theirs)
    assert why_not_packed_rows(model) is None
    pack_rows(model, are_pairs=True, in_place=True)
    draw = torch.Generator().manual_seed(1)
    words = torch.randint(FIRST_ID, VOCABULARY, (6, 3 * WINDOW), generator=draw)
    words[3, : 2 * WINDOW] = words[0, : 2 * WINDOW]
    words[4] = words[1]
    words[5, 0] = words[2, 0]
    sizes, starts = [60, 30, 9, 72, 20, 40], [2 * WINDOW, 10, 1, 2 * WINDOW, 10, 1]
    mask = (torch.arange(3 * WINDOW) < torch.tensor(sizes)[:, None]).long()
    is_response = mask.bool() & (torch.arange(3 * WINDOW) >= torch.tensor(starts)[:, None])
    ids = words.masked_fill(mask == 0, 0)
    batch = {"input_ids": ids, "attention_mask": mask, "labels": ids.masked_fill(~is_response, -100)}
    found = []
    for one in (model, theirs):
        if checkpointing:
            one.gradient_checkpointing_enable({"use_reentrant": False})
        logprobs = one(**batch, use_cache=False, fused_lm_head=True).log_probs
        (logprobs.sum(1) * torch.tensor([1.0, -2.0, 0.5, 3.0, 0.1, -1.0])).sum().backward()
        found.append((logprobs.detach(), {name: p.grad for name, p in one.named_parameters()}))
    (seen, gradients), (expected, exact) = found
    assert torch.allclose(seen, expected, atol=1e-5)
    scale = max(float(each.abs().max()) for each in exact.values())
    for name, gradient in exact.items():
        assert not gradients[name].is_sparse
        assert float((gradients[name] - gradient).abs().max()) < 1e-5 * scale, name


@pytest.mark.parametrize(
    ("kind", "config", "why"),
    [
        (Gemma2ForCausalLM, Gemma2Config(**SMALL, query_pre_attn_scalar=8), "softcap"),
        (
            CohereForCausalLM,
            CohereConfig(**{name: value for name, value in SMALL.items() if name != "head_dim"}, logit_scale=0.5),
            "deviate",
        ),
        (MambaForCausalLM, MambaConfig(vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=2), "attention"),
    ],
    ids=["scores are capped", "logits are scaled", "state space"],
)
def test_a_family_that_computes_something_else_is_padded(kind: type[PreTrainedModel], config: Any, why: str) -> None:
    assert why in (why_not_packed_rows(random_copy(kind, config)) or "")


def test_another_head_or_precision_is_trls() -> None:
    model = random_copy(LlamaForCausalLM, LlamaConfig(**SMALL))
    assert "float32" in (why_not_packed_rows(model.bfloat16()) or "")
    model.set_output_embeddings(nn.Linear(32, VOCABULARY, bias=True))
    assert "matrix" in (why_not_packed_rows(model) or "")
