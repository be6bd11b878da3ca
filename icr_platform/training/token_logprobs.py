"""Log-probabilities of the tokens that are trained on, in tiles of tokens and vocabulary, on a CPU.

TRL's function for this (`trl.kernels.ChunkedLogProbFunction`) keeps memory flat as well, and on GPUs, where Triton folds its tiles, it
is used as it is. In plain torch it projects every position, those of prompts and of padding too, in tiles of 4096 x 32768
logits, each of which is copied several times. Here a tile stays near the core, is changed in place, and is a response's.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from icr_platform.training.cpu_products import BY_TORCH, Products

_ROWS, _COLUMNS = 1024, 4096  # of a tile: 16 MiB
KEPT_LOGITS = 2**26
"""Logits, in numbers, that are kept for the backward pass; more of them are computed again, a third more work for the head."""
TILE_LOGITS = 2 * _ROWS * _COLUMNS
"""Logits that are held while tiles are computed, whatever the vocabulary."""


def target_logprobs(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    squares: bool,
    in_place: bool = False,
    products: Products = BY_TORCH,
) -> tuple[Tensor, Tensor | None]:
    """Compute log softmax(hidden @ weight.T) at the targets.

    Args:
        hidden: [N, H] float32, on the CPU. weight: [V, H] of the LM head. targets: [N] token ids.
        squares: whether the second of what is returned is wanted.
        in_place: add the gradient of the weight, a parameter, to `weight.grad` tile by tile, as `Tensor.backward` does in the end. For a
            large vocabulary the gradient that is saved is the largest tensor of a training. Hooks of the parameter do not see it.
        products: how tiles are multiplied.

    Returns:
        [N] nats, which have a gradient, and [N] log of the sum of squares of all probabilities, which has none.

    >>> hidden, weight = torch.eye(2), torch.tensor([[0.0, 0.0], [0.0, 1.0], [0.0, 0.0]])
    >>> logprobs, _ = target_logprobs(hidden, weight, torch.tensor([2, 1]), squares=False)
    >>> torch.allclose(logprobs, (hidden @ weight.T).log_softmax(1)[[0, 1], [2, 1]])
    True
    """
    is_kept = torch.is_grad_enabled() and len(hidden) * len(weight) <= KEPT_LOGITS
    run: Any = _TargetLogprobs.apply
    logprobs, sums = run(hidden, weight, targets, is_kept, squares, in_place and weight.requires_grad, products)
    return logprobs, sums if squares else None


class _TargetLogprobs(torch.autograd.Function):
    """See `target_logprobs`."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        targets: Tensor,
        is_kept: bool,
        squares: bool,
        in_place: bool,
        products: Products,
    ) -> tuple[Tensor, Tensor]:
        space = hidden.new_empty(min(len(hidden), _ROWS) * min(len(weight), _COLUMNS))
        of_target, tops, totals, log_squares = (hidden.new_zeros(len(hidden)) for _ in range(4))
        kept: list[Tensor] = []
        for rows in _spans(len(hidden), _ROWS):
            part, wanted = hidden[rows], targets[rows]
            top, total, square = (part.new_full((len(part),), value) for value in (float("-inf"), 0.0, 0.0))
            for columns in _spans(len(weight), _COLUMNS):
                block = weight[columns]
                logits = products.multiply(part, block, None if is_kept else _view(space, part, block))
                if is_kept:
                    kept.append(logits)
                here, place = _targets_within(wanted, columns)
                of_target[rows][here] = logits[here, place]
                # Sums are of exp(logit - top), and shrink when a later tile has a larger one (Milakov and Gimelshein 2018,
                # arXiv 1805.02867, algorithm 3).
                higher = torch.maximum(top, logits.amax(1))
                shrunk, top = (top - higher).exp_(), higher
                exponents = torch.sub(logits, top[:, None], out=_view(space, part, block)).exp_()
                total.mul_(shrunk).add_(exponents.sum(1))
                if squares:
                    square.mul_(shrunk * shrunk).add_(exponents.square_().sum(1))
            tops[rows], totals[rows] = top, total
            if squares:
                log_squares[rows] = square.log() - 2 * total.log()
        ctx.save_for_backward(hidden, weight, targets, tops, totals, *kept)
        ctx.parameter, ctx.products = weight if in_place else None, products
        ctx.mark_non_differentiable(log_squares)
        return of_target - tops - totals.log(), log_squares

    @staticmethod
    def backward(ctx: Any, upstream: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        """d log p / d logits = (1 where the target is, 0 elsewhere) - p, times the gradient from above."""
        hidden, weight, targets, tops, totals, *kept = ctx.saved_tensors
        products: Products = ctx.products
        tiles = iter(kept)
        space = hidden.new_empty(0 if kept else min(len(hidden), _ROWS) * min(len(weight), _COLUMNS))
        for_hidden = torch.zeros_like(hidden)
        allocate = torch.empty_like if len(hidden) else torch.zeros_like
        is_begun = ctx.parameter is not None and ctx.parameter.grad is not None
        for_weight = None
        if ctx.needs_input_grad[1]:
            for_weight = ctx.parameter.grad if is_begun else allocate(weight)
        for rows in _spans(len(hidden), _ROWS):
            part, from_above = hidden[rows], upstream[rows]
            for columns in _spans(len(weight), _COLUMNS):
                block = weight[columns]
                tile = next(tiles) if kept else products.multiply(part, block, _view(space, part, block))
                # Likely tokens are near the top, where the difference is almost exact; that to the log of the sum is not.
                tile.sub_(tops[rows, None]).exp_().mul_(-(from_above / totals[rows])[:, None])
                here, place = _targets_within(targets[rows], columns)
                tile[here, place] += from_above[here]
                products.add(for_hidden[rows], tile, block.t(), True)
                if for_weight is not None:  # in which the first rows may find no sums yet
                    products.add(for_weight[columns], tile.t(), part.t(), is_begun or rows.start > 0)
        if ctx.parameter is not None:
            ctx.parameter.grad, for_weight = for_weight, None
        return for_hidden if ctx.needs_input_grad[0] else None, for_weight, None, None, None, None, None


def _spans(length: int, size: int) -> Iterator[slice]:
    return (slice(start, min(start + size, length)) for start in range(0, length, size))


def _view(space: Tensor, part: Tensor, block: Tensor) -> Tensor:
    """The [rows of part, rows of block] at the beginning of `space`."""
    return space[: len(part) * len(block)].view(len(part), len(block))


def _targets_within(targets: Tensor, columns: slice) -> tuple[Tensor, Tensor]:
    """Which rows have their target among the columns, and where among them."""
    here = ((targets >= columns.start) & (targets < columns.stop)).nonzero()[:, 0]
    return here, targets[here] - columns.start
