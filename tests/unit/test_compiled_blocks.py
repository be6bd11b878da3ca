"""Blocks that torch's compiler takes: as their own forward in numbers, whatever is scored, and left alone where they cannot be."""

from __future__ import annotations

import shutil
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import Gemma3ForCausalLM, Gemma3TextConfig, PreTrainedModel

from icr_platform.engines.scoring.compiled_blocks import compiled_blocks
from icr_platform.engines.scoring.logprobs import CompletionScorer, Group
from icr_platform.engines.scoring.second_forwards import SecondForwards

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")


@pytest.fixture(scope="module")
def gemma() -> PreTrainedModel:
    """Norms of two widths, of which one is of heads, and a gated feed-forward block in each layer."""
    torch.manual_seed(0)
    config = Gemma3TextConfig(
        vocab_size=300, hidden_size=48, intermediate_size=80, num_hidden_layers=3, num_attention_heads=2,
        num_key_value_heads=1, head_dim=16, initializer_range=0.3, sliding_window=8,
    )  # fmt: skip
    return Gemma3ForCausalLM(config).eval()


def test_scores_are_the_models_own_and_the_model_is_as_it_was(gemma: PreTrainedModel) -> None:
    rng = np.random.default_rng(0)
    groups = [
        Group(rng.integers(3, 300, k).tolist(), [rng.integers(3, 300, n).tolist() for n in (1, 9, 2)]) for k in (4, 30)
    ]
    scorer = CompletionScorer(gemma)
    scorer._multiply_by(SecondForwards())
    own = np.concatenate(scorer.score(groups))
    blocks = compiled_blocks(gemma)
    scorer._multiply_by(blocks)
    with blocks.used():
        replaced = {name for name, module in gemma.named_modules() if "forward" in vars(module)}
    kinds = {name.rpartition(".")[2] for name in replaced}
    assert {"mlp", "input_layernorm", "q_norm", "k_norm", "norm"} <= kinds
    assert not kinds & {"self_attn", "rotary_emb", "lm_head", "embed_tokens", "act_fn"}
    for tokens in (5, 4096):
        scorer.pack_tokens = tokens
        np.testing.assert_allclose(np.concatenate(scorer.score(groups)), own, atol=2e-4)
    assert not any("forward" in vars(module) for module in gemma.modules())


class Doubling(nn.Module):
    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, hidden: Tensor) -> Tensor:
        return 2 * self.weight * hidden


class Otherwise(Doubling):
    def forward(self, hidden: Tensor) -> Tensor:
        return hidden if torch.compiler.is_compiling() else super().forward(hidden)


class ByItsNumbers(Doubling):
    def forward(self, hidden: Tensor) -> Tensor:
        return super().forward(hidden) if hidden.sum().item() > 0 else hidden


class WithAGate(Doubling):
    def forward(self, hidden: Tensor, gate: Tensor | None = None) -> Tensor:
        return super().forward(hidden)


def test_a_block_that_is_another_when_compiled_or_does_not_compile_runs_as_it_is(caplog: Any) -> None:
    model = nn.ModuleDict({"right": Doubling(), "other": Otherwise(), "branches": ByItsNumbers(), "gated": WithAGate()})
    with compiled_blocks(model).used():
        assert [name for name, module in model.items() if "forward" in vars(module)] == ["right"]
        for rows in (0, 1, 2, 7):
            hidden = torch.randn(1, rows, 8)
            torch.testing.assert_close(model["right"](hidden), 2 * hidden)
    said = [record.message for record in caplog.records if record.name.startswith("icr_platform")]
    assert len(said) == 2
    assert said[0] == "Otherwise runs as it is: compiled, it makes other numbers"
    assert said[1].startswith("ByItsNumbers runs as it is, not compiled (")
