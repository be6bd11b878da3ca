"""Log-probabilities of a head in tiles: equal to a softmax over the whole vocabulary, whatever its size and its logits."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from transformers import PreTrainedModel

from icr_platform.engines.scoring.cpu_linear import lays_out
from icr_platform.engines.scoring.logprobs import CompletionScorer
from icr_platform.engines.scoring.tiled_head import TILED_ROWS, FoldedHead, TiledHead
from tests.unit.test_logprobs import (
    assert_equal_per_token,
    cohere,
    gemma2,
    granite,
    groups_of,
    llama,
    mixtral,
    naive,
    qwen2,
)

SIZE = 24


def head_of(vocabulary: int, has_bias: bool, spread: float) -> nn.Linear:
    head = nn.Linear(SIZE, vocabulary, bias=has_bias)
    nn.init.normal_(head.weight, std=spread)
    return head.requires_grad_(False)


@settings(max_examples=60, deadline=None)
@given(
    vocabulary=st.sampled_from([1, 7, 1023, 1024, 1025, 2500]),
    rows=st.integers(1, 9),
    targets=st.integers(0, 30),
    has_bias=st.booleans(),
    spread=st.sampled_from([0.01, 1.0, 30.0]),
    way=st.sampled_from(["onednn", "torch", "folded"]),
    seed=st.integers(0, 2**16),
)
def test_equals_the_softmax_of_the_whole_vocabulary(
    vocabulary: int, rows: int, targets: int, has_bias: bool, spread: float, way: str, seed: int
) -> None:
    torch.manual_seed(seed)
    head = head_of(vocabulary, has_bias, spread)
    hidden = torch.randn(rows, SIZE)
    row, target = torch.randint(rows, (targets,)).sort().values, torch.randint(vocabulary, (targets,))
    by = FoldedHead(head) if way == "folded" else TiledHead(head, way == "onednn" and lays_out(0))
    found = by.log_softmax_at(hidden, row, target)
    expected = copy.deepcopy(head).double()(hidden.double()).log_softmax(1)[row, target]
    assert found.dtype == torch.float64
    # Of products as large as these, float32 keeps seven digits.
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=2e-6 * max(1.0, spread * SIZE))


def test_a_vocabulary_is_padded_with_tokens_that_never_come() -> None:
    """Whole tiles without a finite logit, first, in between and last, add nothing; a target in one has probability 0."""
    head = head_of(5 * 1024, True, 1.0)
    for tile in (0, 2, 4):
        head.bias[tile * 1024 : (tile + 1) * 1024] = -torch.inf
    hidden, row, target = torch.randn(3, SIZE), torch.tensor([0, 1, 2]), torch.tensor([1030, 3100, 5000])
    found = TiledHead(head, lays_out(0)).log_softmax_at(hidden, row, target)
    torch.testing.assert_close(found[:2].float(), head(hidden).log_softmax(1)[row, target][:2])
    assert found[2] == -torch.inf


def test_a_row_that_is_not_finite_spoils_no_other() -> None:
    head = head_of(2500, False, 1.0)
    hidden = torch.randn(3, SIZE)
    hidden[1, 0] = torch.nan
    found = TiledHead(head, lays_out(0)).log_softmax_at(hidden, torch.arange(3), torch.tensor([0, 1500, 2499]))
    assert found.isnan().tolist() == [False, True, False]


@pytest.mark.parametrize(
    ("make", "is_plain"),
    [(llama, True), (qwen2, True), (mixtral, True), (gemma2, False), (cohere, False), (granite, False)],
)
def test_a_head_is_tiled_where_the_model_leaves_its_logits_alone(
    make: Callable[[], PreTrainedModel], is_plain: bool
) -> None:
    assert (CompletionScorer(make().eval())._tiles is not None) == is_plain


@pytest.mark.parametrize("library", ["onednn", "torch"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_more_rows_than_go_through_the_head_together(library: str, dtype: torch.dtype) -> None:
    """Three chunks of one size, of a vocabulary of three tiles; what the model's own forward says in float64."""
    torch.manual_seed(0)
    model = llama()
    model.resize_token_embeddings(2500)
    model = model.eval().to(dtype)
    scorer = CompletionScorer(model, batch_tokens=4 * TILED_ROWS)
    scorer.use(scorer.choice._replace(library=library, pack_tokens=4 * TILED_ROWS))  # type: ignore[arg-type]
    groups = groups_of([(7, [400, 300, 350, 100])])
    expected = [naive(copy.deepcopy(model).double(), group) for group in groups]
    if dtype == torch.float32:
        assert_equal_per_token(scorer.score(groups), expected, groups)
    else:
        for found, one, group in zip(scorer.score(groups), expected, groups, strict=True):
            assert (abs(found - one) / [len(y) for y in group.completions] < 0.02).all()
