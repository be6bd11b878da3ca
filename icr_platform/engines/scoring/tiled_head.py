"""Log-probabilities of an LM head that is one matrix, in tiles of the vocabulary.

A row's logits are needed for its softmax alone. In one piece, those of 128 rows over 262,144 tokens take 128 MiB, which go to memory
and come back four times; in tiles that stay near a core of a CPU they never leave the cache, and the head's weights serve more rows at
once. On a GPU a tile is written once and read once, by one kernel for all that a softmax needs.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from icr_platform.engines.scoring.cpu_linear import is_plain, laid_out

TILED_ROWS = 512  # with fewer, the weights are read too often
_COLUMNS = 1024  # with TILED_ROWS, 2 MiB of logits
TRL_COLUMNS = 32768
"""Tokens of the vocabulary in a tile of TRL's, which has 4,096 rows."""
TILE = TILED_ROWS * _COLUMNS
"""Logits of a tile, in numbers."""

Product = Callable[[Tensor], Tensor]


class FoldedHead:
    """An LM head whose logits are finite, on a GPU: TRL folds its tiles into a softmax by Triton.

    Logits are rounded as the model rounds them; all else is float32.
    """

    rows = 8192
    """Hidden states that it takes together, at most: TRL divides them further."""

    def __init__(self, head: nn.Linear) -> None:
        self._head = head

    def log_softmax_at(self, hidden: Tensor, row: Tensor, target: Tensor) -> Tensor:
        """[K] float64 log-softmax of the logits of hidden states [C, size] at (row, target)."""
        from trl.kernels.chunked_logprob import ChunkedLogProbFunction

        found = ChunkedLogProbFunction.apply(
            hidden[row], self._head.weight, self._head.bias, target, 1.0, TRL_COLUMNS, None, 1.0, ()
        )
        nats: Tensor = found[0]
        return nats.double()


class TiledHead:
    """The products of an LM head's tiles, on a CPU. Its weights must not change while this is in use.

    uses_onednn: lay the tiles' weights out for oneDNN, in copies, where they are in float32.
    """

    rows = TILED_ROWS
    """Hidden states that it takes together, at most."""

    def __init__(self, head: nn.Linear, uses_onednn: bool) -> None:
        weights = head.weight.detach().split(_COLUMNS)
        biases = [None] * len(weights) if head.bias is None else head.bias.detach().split(_COLUMNS)
        tiles = list(zip(weights, biases, strict=True))
        self._by_torch: list[Product] = [
            partial(nn.functional.linear, weight=weight, bias=bias) for weight, bias in tiles
        ]
        self._products = (
            [laid_out(weight, bias) for weight, bias in tiles]
            if uses_onednn and head.weight.dtype == torch.float32
            else self._by_torch
        )

    @contextlib.contextmanager
    def without_onednn(self) -> Iterator[None]:
        """Leave the products to torch while the block lasts."""
        before, self._products = self._products, self._by_torch
        try:
            yield
        finally:
            self._products = before

    def log_softmax_at(self, hidden: Tensor, row: Tensor, target: Tensor) -> Tensor:
        """[K] float64 log-softmax of the logits of hidden states [C, size] at (row, target).

        Sums are of exp(logit - largest), in float64 over tiles, and shrink when a later tile has a larger one (Milakov and Gimelshein
        2018, arXiv 1805.02867, algorithm 3).
        """
        top = hidden.new_full((len(hidden), 1), -torch.inf, dtype=torch.float32)
        total = top.new_zeros(top.shape, dtype=torch.float64)
        found = top.new_zeros(len(target))
        # Which targets are in which tile, without a search in each of them.
        order = target.argsort()
        bounds = torch.arange(len(self._products) + 1, device=target.device) * _COLUMNS
        ends = torch.searchsorted(target[order], bounds).tolist()
        for number, product in enumerate(self._products):
            logits = product(hidden).float()
            own = order[ends[number] : ends[number + 1]]
            found[own] = logits[row[own], target[own] - number * _COLUMNS]
            # A tile may have no finite logit: that of the tokens that a vocabulary was padded with.
            higher = torch.maximum(top, logits.amax(1, keepdim=True)).clamp_min_(torch.finfo(torch.float32).min)
            total.mul_((top - higher).double().exp_()).add_(logits.sub_(higher).exp_().sum(1, keepdim=True))
            top = higher
        return found.double() - (top.double() + total.log_())[row, 0]


def plain_head(head: Any, logits: Product) -> nn.Linear | None:
    """The LM head where the model's logits are its products alone; None where something changes them (Gemma 2 caps them).

    logits: what the model itself makes of hidden states [1, C, size].
    """
    if type(head) is not nn.Linear or not is_plain(head, ("cpu", "cuda")) or not head.weight.is_floating_point():
        return None
    # Large enough for a cap to show.
    hidden = torch.linspace(-99.0, 101.0, 2 * head.in_features).to(head.weight).view(1, 2, -1)
    with torch.no_grad():
        return head if torch.equal(logits(hidden), head(hidden)) else None
