"""Attention over packed sequences, registered with transformers so that any model's own layers can run on a pack.

Each run attends to the runs before it in its sequence and, causally, to itself. Projections, norms and feed-forward layers
see one long row of tokens without padding; only attention knows whose tokens they are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.bias import causal_lower_right

from icr_platform.annotation.packing import Pack, Run

NAME = "icr_packed"

KeyValue = tuple[Tensor, Tensor]

_QUERIES = 128  # rows of one attention call on a CPU


class NotPackableError(Exception):
    """The model's attention does not tell what a pack needs to know."""


class Block(NamedTuple):
    """Query rows `start:stop` of a pack that are attended for in one call.

    They look at the runs `past`, of past_length tokens, and at rows from key_start on, up to themselves; runs that begin
    between key_start and key_stop are the block's, key_stop is where the last one ends.
    """

    start: int
    stop: int
    key_start: int
    key_stop: int
    past: tuple[int, ...]
    past_length: int


class PackedLayout:
    """The runs of a pack, and the keys and values of earlier packs' runs that they continue.

    Keys and values of a run are [1, key-value heads, tokens, head size], one pair per layer.
    """

    def __init__(self, pack: Pack, earlier: Mapping[int, dict[int, KeyValue]], device: torch.device) -> None:
        self.blocks = _fused_blocks(pack.runs) if device.type == "cpu" else [_block(run) for run in pack.runs]
        self.earlier = earlier
        self.rows = {run.id: slice(run.start, run.stop) for run in pack.runs}
        self.kept: dict[int, dict[int, KeyValue]] = {run_id: {} for run_id in pack.continued if run_id in self.rows}
        sizes = torch.tensor([run.stop - run.start for run in pack.runs], device=device)
        self._run = torch.arange(len(sizes), device=device).repeat_interleave(sizes)
        self._position = torch.tensor(pack.position_ids, device=device)
        self._masks: dict[tuple[int, int | None], Tensor] = {}

    def keep(self, layer: int, key: Tensor, value: Tensor) -> None:
        """Copy what later packs continue out of the pack's keys and values."""
        for run_id, layers in self.kept.items():
            rows = self.rows[run_id]
            layers[layer] = (key[:, :, rows].clone(), value[:, :, rows].clone())

    def keys_values(self, layer: int, block: Block, key: Tensor, value: Tensor) -> KeyValue:
        """Keys and values of a block's past and of rows key_start:key_stop, oldest first."""
        own = slice(block.key_start, block.key_stop)
        pairs = [
            (key[:, :, self.rows[past]], value[:, :, self.rows[past]])
            if past in self.rows
            else self.earlier[past][layer]
            for past in block.past
        ]
        if not pairs:
            return key[:, :, own], value[:, :, own]
        keys, values = zip(*pairs, strict=True)
        return torch.cat([*keys, key[:, :, own]], 2), torch.cat([*values, value[:, :, own]], 2)

    def mask(self, block: Block, window: int | None, query: Tensor) -> Tensor:
        """[queries, past + own keys] to add to the scores, of the query's dtype: 0 where a query looks, -inf elsewhere."""
        if (block.start, window) not in self._masks:
            queries, keys = slice(block.start, block.stop), slice(block.key_start, block.stop)
            past = torch.arange(block.past_length, device=self._position.device)
            distance = self._position[queries, None] - torch.cat([past, self._position[keys]])
            hidden = distance < 0 if window is None else (distance < 0) | (distance >= window)
            hidden[:, block.past_length :] |= self._run[queries, None] != self._run[keys]
            mask = torch.zeros(hidden.shape, dtype=query.dtype, device=hidden.device).masked_fill_(
                hidden, float("-inf")
            )
            self._masks[block.start, window] = mask
        return self._masks[block.start, window].to(query.device)


def _block(run: Run) -> Block:
    return Block(run.start, run.stop, run.start, run.stop, run.past, run.past_length)


def _fused_blocks(runs: Sequence[Run]) -> list[Block]:
    """About _QUERIES rows a call: short runs with one past together, long runs in pieces that skip the keys after them."""
    spans: list[Block] = []
    for run in runs:
        last = spans[-1] if spans else None
        if last is not None and last.past == run.past and run.stop - last.start <= _QUERIES:
            spans[-1] = last._replace(stop=run.stop, key_stop=run.stop)
        else:
            spans.append(_block(run))
    return [
        span._replace(start=start, stop=min(start + _QUERIES, span.stop))
        for span in spans
        for start in range(span.start, span.stop, _QUERIES)
    ]


def packed_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    softcap: float | None = None,
    sliding_window: int | None = None,
    packed_layout: PackedLayout | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attention of transformers' interface: query [1, heads, T, size], keys and values [1, key-value heads, T, size].

    Returns:
        [1, T, heads, size], and None in place of attention weights.

    Raises:
        NotPackableError: the model does not pass its layout or layer on.
    """
    layer = getattr(module, "layer_idx", None)
    if packed_layout is None or layer is None or attention_mask is not None:
        raise NotPackableError(type(module).__name__)
    packed_layout.keep(layer, key, value)
    out = query.new_empty(1, query.shape[2], query.shape[1], value.shape[3])
    keys, values, key_stop = key, value, 0
    for block in packed_layout.blocks:
        if block.key_stop != key_stop:
            keys, values = packed_layout.keys_values(layer, block, key, value)
            key_stop = block.key_stop
        seen = block.past_length + block.stop - block.key_start
        window = sliding_window if sliding_window is not None and sliding_window < seen else None
        rows = slice(block.start, block.stop)
        attended = _attend(
            query[:, :, rows], keys[:, :, :seen], values[:, :, :seen], block, packed_layout, scaling, softcap, window
        )
        out[:, rows] = attended.transpose(1, 2)
    return out, None


def _attend(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    block: Block,
    layout: PackedLayout,
    scaling: float | None,
    softcap: float | None,
    window: int | None,
) -> Tensor:
    """[1, heads, queries, size] of one block."""
    if softcap is not None:
        return _softcapped(query, keys, values, layout.mask(block, window, query), scaling, softcap)
    grouped = query.shape[1] != keys.shape[1]
    mask: Any = None
    is_causal = False
    if window is not None or query.device.type == "cpu":
        mask = layout.mask(block, window, query)
    elif block.past:
        # Flash attention knows this mask without a matrix; on a CPU it would be built again in every layer.
        mask = causal_lower_right(query.shape[2], keys.shape[2])
    else:
        is_causal = True
    return F.scaled_dot_product_attention(
        query, keys, values, attn_mask=mask, is_causal=is_causal, scale=scaling, enable_gqa=grouped
    )


def _softcapped(
    query: Tensor, keys: Tensor, values: Tensor, mask: Tensor, scaling: float | None, softcap: float
) -> Tensor:
    """Attention with scores capped by `softcap * tanh(scores / softcap)` (Gemma 2, arXiv 2408.00118, section 2)."""
    repeats = query.shape[1] // keys.shape[1]
    keys, values = keys.repeat_interleave(repeats, 1), values.repeat_interleave(repeats, 1)
    scores = query @ keys.transpose(2, 3) * (query.shape[3] ** -0.5 if scaling is None else scaling)
    scores = softcap * torch.tanh(scores / softcap) + mask
    return torch.softmax(scores, -1, dtype=torch.float32).to(query.dtype) @ values
