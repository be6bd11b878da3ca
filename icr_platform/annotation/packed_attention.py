"""Attention over packed sequences, registered with transformers so that any model's own layers can run on a pack.

Each run attends to the runs before it in its sequence and, causally, to itself. Projections, norms and feed-forward layers
see one long row of tokens without padding; only attention knows whose tokens they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.bias import causal_lower_right

from icr_platform.annotation.packing import Pack, Run

NAME = "icr_packed"

KeyValue = tuple[Tensor, Tensor]


class NotPackableError(Exception):
    """The model's attention does not tell what a pack needs to know."""


class PackedLayout:
    """The runs of a pack, and the keys and values of earlier packs' runs that they continue.

    Keys and values of a run are [1, key-value heads, tokens, head size], one pair per layer.
    """

    def __init__(self, pack: Pack, earlier: Mapping[int, dict[int, KeyValue]]) -> None:
        self.runs = pack.runs
        self.earlier = earlier
        self.rows = {run.id: slice(run.start, run.stop) for run in pack.runs}
        self.kept: dict[int, dict[int, KeyValue]] = {run_id: {} for run_id in pack.continued if run_id in self.rows}
        self._masks: dict[tuple[int, int, int | None], Tensor] = {}

    def keep(self, layer: int, key: Tensor, value: Tensor) -> None:
        """Copy what later packs continue out of the pack's keys and values."""
        for run_id, layers in self.kept.items():
            rows = self.rows[run_id]
            layers[layer] = (key[:, :, rows].clone(), value[:, :, rows].clone())

    def keys_values(self, layer: int, run: Run, key: Tensor, value: Tensor) -> KeyValue:
        """All that a run attends to, oldest first."""
        own = slice(run.start, run.stop)
        pairs = [
            (key[:, :, self.rows[past]], value[:, :, self.rows[past]])
            if past in self.rows
            else self.earlier[past][layer]
            for past in run.past
        ]
        if not pairs:
            return key[:, :, own], value[:, :, own]
        keys, values = zip(*pairs, strict=True)
        return torch.cat([*keys, key[:, :, own]], 2), torch.cat([*values, value[:, :, own]], 2)

    def mask(self, run: Run, window: int | None, like: Tensor) -> Tensor:
        """[tokens, past + tokens] to add to the scores: 0 where the run's tokens look, -inf elsewhere."""
        size = run.stop - run.start
        shape = (size, run.past_length, window)
        if shape not in self._masks:
            distance = torch.arange(run.past_length, run.past_length + size, device=like.device)[:, None]
            distance = distance - torch.arange(run.past_length + size, device=like.device)
            hidden = distance < 0 if window is None else (distance < 0) | (distance >= window)
            self._masks[shape] = torch.zeros_like(hidden, dtype=like.dtype).masked_fill_(hidden, float("-inf"))
        return self._masks[shape]


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
    for run in packed_layout.runs:
        keys, values = packed_layout.keys_values(layer, run, key, value)
        window = sliding_window if sliding_window is not None and sliding_window < keys.shape[2] else None
        rows = slice(run.start, run.stop)
        attended = _attend(query[:, :, rows], keys, values, run, packed_layout, scaling, softcap, window)
        out[:, rows] = attended.transpose(1, 2)
    return out, None


def _attend(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    run: Run,
    layout: PackedLayout,
    scaling: float | None,
    softcap: float | None,
    window: int | None,
) -> Tensor:
    """[1, heads, tokens, size] of one run."""
    if softcap is not None:
        return _softcapped(query, keys, values, layout.mask(run, window, query), scaling, softcap)
    grouped = query.shape[1] != keys.shape[1]
    is_causal = not run.past and window is None
    mask: Any = None
    if window is not None or (run.past and not query.is_cuda):
        mask = layout.mask(run, window, query)
    elif run.past:
        # Flash attention knows this one without a matrix; on a CPU it would be built again in every layer.
        mask = causal_lower_right(query.shape[2], keys.shape[2])
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
