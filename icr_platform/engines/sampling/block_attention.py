"""Attention of rows that are sampled together over their blocks of keys and values, registered with transformers.

A model's own layers run on one long row of tokens: the last one of each sampled row, then the prompts of newcomers. Only attention
knows whose tokens they are. A prompt attends to itself. A sampled row attends to its blocks, each by itself at first: with the
scores s of a block, `m = max s`, `z = sum e^(s - m)` and `o = sum e^(s - m) v`. Over the blocks b of a row, and M the largest m,
its attention is `sum_b e^(m_b - M) o_b / sum_b e^(m_b - M) z_b` (flash decoding; arXiv 2205.14135, section 3.1).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from icr_platform.core.arrays import Ints
from icr_platform.engines.sampling.block_cache import NOBODY, Pool
from icr_platform.engines.scoring.packed_attention import Mask, NotPackableError, layer_and_mask

NAME = "icr_blocks"

_QUERIES = 512  # of a prompt in one attention call
# Arguments of an attention call that change nothing in a forward without dropout and cache whose logits alone are read; the window
# is what the mask says.
_WITHOUT_EFFECT = {
    "dropout", "is_causal", "position_ids", "sliding_window", "use_cache", "output_attentions", "output_hidden_states",
    "output_router_logits",
}  # fmt: skip


class Slots(NamedTuple):
    """Where keys and values of some tokens go: tokens `start:stop` of the step, to these blocks and offsets of the pool."""

    pool: Pool
    start: int
    stop: int
    at: tuple[Tensor, Tensor]


class Kind(NamedTuple):
    """What a layer does to the scores besides scaling. sinks: [heads] scores that no value belongs to."""

    scaling: float
    window: int | None
    softcap: float | None
    sinks: Tensor | None


class Partials(NamedTuple):
    """Of [parts] pairs of a block and a lane, per key-value head and query head of it: largest score, weight, weighted values."""

    top: Tensor
    weight: Tensor
    values: Tensor

    @staticmethod
    def together(parts: list[Partials]) -> Partials:
        return parts[0] if len(parts) == 1 else Partials(*(torch.cat(each) for each in zip(*parts, strict=True)))


class Seen:
    """A pool as the rows of one step see it.

    queries: [blocks * lanes] which sampled row asks, 0 where nobody does.
    """

    def __init__(self, pool: Pool, rows: Ints, positions: Ints, device: torch.device) -> None:
        """rows: [places] the number of each place's row in this step, or NOBODY. positions: [places]."""
        self.pool, self._device = pool, device
        lanes = pool.lanes[: pool.top]
        self.rows: Ints = np.where(lanes == NOBODY, NOBODY, rows[lanes])
        last = np.minimum(positions[lanes], pool.end[: pool.top, None] - 1)
        self._last = torch.from_numpy(np.where(self.rows == NOBODY, -1, last)).to(device)
        self.queries = torch.from_numpy(np.maximum(self.rows, 0).ravel()).to(device)
        self._position = torch.from_numpy(positions[lanes]).to(device)
        self._hidden: dict[int | None, Tensor] = {}

    def hidden(self, window: int | None) -> Tensor:
        """[blocks, 1, lanes, 1, tokens of a block] to add to scores: -inf where a row does not look at a key."""
        if window not in self._hidden:
            keys = self.pool.positions(self._device)[:, None]
            is_hidden = keys > self._last[..., None]
            if window is not None:
                is_hidden |= keys <= self._position[..., None] - window
            added = torch.zeros(is_hidden.shape, device=self._device).masked_fill_(is_hidden, -torch.inf)
            self._hidden[window] = added[:, None, :, None]
        return self._hidden[window]

    def attend(self, layer: int, query: Tensor, kind: Kind) -> Partials:
        """query: [rows, key-value heads, query heads of one, size], scaled."""
        keys, values = self.pool.of_layer(layer)
        blocks, heads, size, _ = keys.shape
        lanes, shared = self.rows.shape[1], query.shape[2]
        asked = query[self.queries].view(blocks, lanes, heads, shared, -1).transpose(1, 2)
        scores = (asked.reshape(blocks, heads, lanes * shared, -1) @ keys.transpose(2, 3)).float()
        if kind.softcap is not None:
            scores = kind.softcap * torch.tanh(scores / kind.softcap)
        scores = scores.view(blocks, heads, lanes, shared, size).add_(self.hidden(kind.window)).flatten(2, 3)
        # Where nothing is seen, the largest score is -inf, and -inf - -inf is nan.
        top = scores.amax(-1).clamp_(min=torch.finfo(torch.float32).min)
        weights = scores.sub_(top[..., None]).exp_()
        attended = (weights.to(values.dtype) @ values).float()

        def by_lane(each: Tensor) -> Tensor:
            split = each.view(blocks, heads, lanes, shared, *each.shape[3:])
            return split.transpose(1, 2).reshape(blocks * lanes, heads, shared, *each.shape[3:])

        return Partials(by_lane(top), by_lane(weights.sum(-1)), by_lane(attended))


@dataclass
class Step:
    """What one forward computes: `count` sampled rows, a token each, then `prompts` as (start, stop) of the tokens.

    pools: as the sampled rows see them. slots: where keys and values go.
    """

    count: int
    prompts: list[tuple[int, int]]
    pools: list[Seen]
    slots: list[Slots]
    device: torch.device
    layers: set[int] = field(default_factory=set)

    @cached_property
    def parts(self) -> tuple[Tensor, Tensor]:
        """[rows, parts of the row with most] indices of Partials of all pools, and what hides those that are there as padding."""
        owner = np.concatenate([seen.rows.ravel() for seen in self.pools])
        found = np.flatnonzero(owner != NOBODY)
        found = found[np.argsort(owner[found], kind="stable")]
        counts = np.bincount(owner[found], minlength=self.count)
        starts = np.cumsum(counts) - counts
        column = np.arange(counts.max())
        is_padding = column >= counts[:, None]
        # Padding repeats a part of the row's own: another row's may not be finite.
        parts = found[starts[:, None] + np.where(is_padding, 0, column)]
        hidden = np.where(is_padding, -np.inf, 0).astype(np.float32)
        return torch.from_numpy(parts).to(self.device), torch.from_numpy(hidden).to(self.device)


def block_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Mask | Tensor | None,
    scaling: float | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    block_step: Step | None = None,
    **rest: Any,
) -> tuple[Tensor, None]:
    """Attention of transformers' interface: query [1, heads, T, size], keys and values [1, key-value heads, T, size].

    Args:
        attention_mask: what `packed_mask` answered.
        softcap: cap of the scores, as in Gemma 2.
        s_aux: [heads], the attention sinks of gpt-oss.

    Returns:
        [1, T, heads, size], and None in place of attention weights.

    Raises:
        NotPackableError: the model does not pass its step, layer or mask on, or asks for something that is not known here.
    """
    layer, asked = layer_and_mask(module, block_step, "step", attention_mask, rest, _WITHOUT_EFFECT)
    assert block_step is not None  # else it was refused
    if layer in block_step.layers:
        raise NotPackableError("runs more than once in a layer")
    block_step.layers.add(layer)
    kind = Kind(query.shape[3] ** -0.5 if scaling is None else scaling, asked.window, softcap, s_aux)
    for pool, start, stop, at in block_step.slots:
        pool.write(layer, at, *(each[0, :, start:stop].transpose(0, 1) for each in (key, value)))
    count = block_step.count
    out = query.new_empty(1, query.shape[2], query.shape[1], value.shape[3])
    if count:
        grouped = query[0, :, :count].transpose(0, 1).unflatten(1, (key.shape[1], -1))
        out[0, :count] = _sampled(layer, grouped, kind, block_step)
    for start, stop in block_step.prompts:
        own = slice(start, stop)
        attended = _prompt(query[:, :, own], key[:, :, own], value[:, :, own], kind)
        out[:, own] = attended.transpose(1, 2)
    return out, None


def _sampled(layer: int, query: Tensor, kind: Kind, step: Step) -> Tensor:
    """[rows, heads, size] of the sampled rows; query: [rows, key-value heads, query heads of one, size]."""
    query = query * kind.scaling
    found = Partials.together([seen.attend(layer, query, kind) for seen in step.pools])
    parts, hidden = step.parts
    top = found.top[parts] + hidden[..., None, None]
    most = top.amax(1)
    if kind.sinks is not None:
        sinks = kind.sinks.float().view(most.shape[1:])
        most = torch.maximum(most, sinks)
    share = (top - most[:, None]).exp_()
    total = (share * found.weight[parts]).sum(1)
    if kind.sinks is not None:
        total = total + (sinks - most).exp_()
    values = (share[..., None] * found.values[parts]).sum(1)
    return (values / total[..., None]).flatten(1, 2).to(query.dtype)


def _prompt(query: Tensor, key: Tensor, value: Tensor, kind: Kind) -> Tensor:
    """[1, heads, tokens, size] of a prompt, which looks at itself alone."""
    count = query.shape[2]
    window = kind.window if kind.window is not None and kind.window < count else None
    is_plain = kind.softcap is None and kind.sinks is None
    grouped = query.shape[1] != key.shape[1]
    if is_plain and window is None:
        return F.scaled_dot_product_attention(query, key, value, is_causal=True, scale=kind.scaling, enable_gqa=grouped)
    pieces = []
    # In pieces, whose masks are small and which skip the keys that none of them sees.
    for start in range(0, count, _QUERIES):
        stop = min(start + _QUERIES, count)
        first = 0 if window is None else max(0, start - window + 1)
        distance = torch.arange(start, stop, device=query.device)[:, None] - torch.arange(
            first, stop, device=query.device
        )
        hidden = distance < 0 if window is None else (distance < 0) | (distance >= window)
        mask = torch.zeros(hidden.shape, dtype=query.dtype, device=query.device).masked_fill_(hidden, -torch.inf)
        asked, keys, values = query[:, :, start:stop], key[:, :, first:stop], value[:, :, first:stop]
        if is_plain:
            piece = F.scaled_dot_product_attention(
                asked, keys, values, attn_mask=mask, scale=kind.scaling, enable_gqa=grouped
            )
        else:
            piece = _written_out(asked, keys, values, mask, kind)
        pieces.append(piece)
    return torch.cat(pieces, 2)


def _written_out(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, kind: Kind) -> Tensor:
    """Attention with capped scores (Gemma 2, arXiv 2408.00118) or with sinks, whose share is thrown away (gpt-oss, arXiv 2508.10925)."""
    repeats = query.shape[1] // key.shape[1]
    scores = (query @ key.repeat_interleave(repeats, 1).transpose(2, 3)).float() * kind.scaling
    if kind.softcap is not None:
        scores = kind.softcap * torch.tanh(scores / kind.softcap)
    scores = scores + mask
    if kind.sinks is not None:
        sinks = kind.sinks.float().view(1, -1, 1, 1).expand(*scores.shape[:3], 1)
        scores = torch.cat([scores, sinks], -1)
    weights = scores.softmax(-1)[..., : key.shape[2]].to(value.dtype)
    return weights @ value.repeat_interleave(repeats, 1)
