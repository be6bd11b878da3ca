"""Attention over packed sequences, registered with transformers so that any model's own layers can run on a pack.

Each segment attends to the segments before it in its sequence and, causally, to itself. Projections, norms and feed-forward layers
see one long row of tokens without padding; only attention knows whose tokens they are. What a layer's queries look at is
what the model asks transformers' mask functions for: they answer with a `Mask`, which the model hands on to its layers.

The first pack of the example in `packing` is the prompt 1 2 with the first tokens 3 and 5 of its completions. On a CPU it takes
two calls, one for the prompt and one for both completions, which share their past:

>>> from icr_platform.engines.scoring.packing import Group, packs
>>> first, second = packs([Group([1, 2], [[3, 4], [5, 6, 7]]), Group([8, 9], [[10, 11], [12]])], 4)
>>> layout = PackedLayout(first, {}, torch.device("cpu"))
>>> prompt, completions = layout.blocks
>>> completions
Block(start=2, stop=4, key_start=2, key_stop=4, past=(0,), past_length=2)

Its queries, a row each, look (0) or do not look (-inf) at the keys of 1, 2, 3 and 5:

>>> layout.mask(completions, None, query=torch.zeros(1)).tolist()
[[0.0, 0.0, 0.0, -inf], [0.0, 0.0, -inf, 0.0]]

Under a window of two tokens neither looks at 1 any more; and in the second pack token 6 looks at keys that the first one left:

>>> layout.mask(completions, 2, query=torch.zeros(1)).tolist()
[[-inf, 0.0, 0.0, -inf], [-inf, 0.0, -inf, 0.0]]
>>> PackedLayout(second, {0: {}, 2: {}}, torch.device("cpu")).blocks[0]
Block(start=0, stop=1, key_start=0, key_stop=1, past=(0, 2), past_length=3)
"""

from __future__ import annotations

import inspect
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.bias import causal_lower_right
from torch.nn.attention.varlen import varlen_attn

from icr_platform.engines.scoring.cpu_linear import product
from icr_platform.engines.scoring.packing import Pack
from icr_platform.engines.scoring.transfers import on_device

NAME = "icr_packed"

KeyValue = tuple[Tensor, Tensor]

_QUERIES = 128  # rows of one attention call on a CPU, at most
_LEAST_QUERIES = 32  # with fewer, calls take longer than what they multiply
_ALIGNED = 8  # GPU kernels take head sizes that are multiples of it
_LARGEST_HEAD = 256  # that flash attention takes
# torch before 2.12 lets queries share keys without being told.
_GROUPED: dict[str, Any] = {"enable_gqa": True} if "enable_gqa" in inspect.signature(varlen_attn).parameters else {}
# Arguments of an attention call that change nothing in a forward without dropout, cache and outputs other than the hidden
# states. `sliding_window` repeats to kernels without masks what the mask says; the model's own forward goes by the mask.
_WITHOUT_EFFECT = {"dropout", "is_causal", "position_ids", "sliding_window", "use_cache", "output_attentions"}


class NotPackableError(Exception):
    """The model's attention does something that packs cannot reproduce; the message says what, after "its attention"."""


@dataclass(frozen=True)
class Mask:
    """Stands for a causal mask: a query looks at itself and at the window - 1 tokens before it, at all of them without a window."""

    window: int | None


def packed_mask(
    *, mask_function: Any, config: Any, use_vmap: bool = False, local_size: int | None = None, **_: Any
) -> Mask:
    """Answer transformers' mask functions (`create_causal_mask`, `create_sliding_window_causal_mask`, ...).

    Args:
        mask_function: (batch, head, query, key) -> whether the query looks at the key.
        config: the model's.
        use_vmap: the model adds conditions of its own to the mask.
        local_size: the window, or a chunk's size; None where there is neither.

    Raises:
        NotPackableError: the mask is not causal, or a condition other than a window restricts it.
    """
    if use_vmap:
        raise NotPackableError("adds conditions of its own to the mask")
    if local_size is not None and local_size != getattr(config, "sliding_window", None):
        raise NotPackableError(f"is cut into chunks of {local_size} tokens")
    first, second = torch.tensor(0), torch.tensor(1)
    if mask_function(first, first, first, second):
        raise NotPackableError("lets tokens look at later ones")
    return Mask(local_size)


class Block(NamedTuple):
    """Rows `start:stop` of a pack whose attention is computed in one call.

    Their queries look at the segments `past`, of past_length tokens together, and at the rows from key_start up to themselves. The
    segments that begin between key_start and key_stop are the block's; key_stop is where the last one ends.
    """

    start: int
    stop: int
    key_start: int
    key_stop: int
    past: tuple[int, ...]
    past_length: int


class Gathered(NamedTuple):
    """How one call of flash attention over sequences of different lengths sees a pack's S segments.

    rows: [K] the keys of each segment, oldest first, as rows of the pool: keys of the segments `earlier`, then the pack's own.
    query_ends, key_ends: [S + 1] int32, where each segment's queries and keys end, after a 0.
    longest_query, longest_key: of any segment.
    """

    rows: Tensor
    earlier: tuple[int, ...]
    query_ends: Tensor
    key_ends: Tensor
    longest_query: int
    longest_key: int


class PackedLayout:
    """The segments of a pack, and the keys and values of earlier packs' segments that they continue.

    Keys and values of a segment are [1, key-value heads, tokens, head size], one pair per layer.
    """

    def __init__(self, pack: Pack, earlier: Mapping[int, dict[int, KeyValue]], device: torch.device) -> None:
        self.blocks = [
            Block(segment.start, segment.stop, segment.start, segment.stop, segment.past, segment.past_length)
            for segment in pack.segments
        ]
        if device.type == "cpu":
            self.blocks = _fused(self.blocks)  # on a GPU, of one segment each: flash attention knows their masks
        self.earlier = earlier
        self._device = device
        self.tokens = len(pack.input_ids)
        self.rows = {segment.id: slice(segment.start, segment.stop) for segment in pack.segments}
        self.kept: dict[int, dict[int, KeyValue]] = {
            segment_id: {} for segment_id in pack.continued if segment_id in self.rows
        }
        self._kept_layers: set[int] = set()
        self._pack = pack
        self._masks: dict[tuple[int, int | None], Tensor] = {}
        self.by_onednn = False
        """Whether attention is oneDNN's products, in place of torch's kernel: on a CPU, in float32."""

    def keep(self, layer: int, key: Tensor, value: Tensor) -> None:
        """Copy what later packs continue out of the pack's keys and values.

        Raises:
            NotPackableError: a layer attends twice, so that its keys and values have no one place.
        """
        if layer in self._kept_layers:
            raise NotPackableError("runs more than once in a layer")
        self._kept_layers.add(layer)
        for segment_id, layers in self.kept.items():
            rows = self.rows[segment_id]
            # Copies: views would keep the keys and values of the whole pack in memory.
            layers[layer] = (key[:, :, rows].clone(), value[:, :, rows].clone())

    @cached_property
    def gathered(self) -> Gathered:
        """For the blocks of a GPU, which are of one segment each. All layers share it."""
        earlier = tuple(dict.fromkeys(past for block in self.blocks for past in block.past if past not in self.rows))
        lengths = [next(iter(self.earlier[past].values()))[0].shape[2] for past in earlier]
        ends = list(accumulate(lengths, initial=0))
        place = {past: range(start, stop) for past, start, stop in zip(earlier, ends, ends[1:], strict=False)}
        place |= {segment: range(ends[-1] + own.start, ends[-1] + own.stop) for segment, own in self.rows.items()}
        keys = [
            [*(place[past] for past in block.past), range(ends[-1] + block.key_start, ends[-1] + block.stop)]
            for block in self.blocks
        ]
        counts = [sum(map(len, of_block)) for of_block in keys], [block.stop - block.start for block in self.blocks]
        key_ends, query_ends = (on_device(list(accumulate(count, initial=0)), self._device).int() for count in counts)
        rows = np.concatenate([np.arange(of.start, of.stop) for of_block in keys for of in of_block])
        return Gathered(on_device(rows, self._device), earlier, query_ends, key_ends, max(counts[1]), max(counts[0]))

    @cached_property
    def _position(self) -> Tensor:
        """[T], of the pack's tokens in their sequences."""
        return on_device(self._pack.position_ids, self._device)

    @cached_property
    def _segment(self) -> Tensor:
        """[T], which of the pack's segments a token is in."""
        sizes = [segment.stop - segment.start for segment in self._pack.segments]
        return on_device(np.repeat(np.arange(len(sizes)), sizes), self._device)

    def keys_values(self, layer: int, block: Block, key: Tensor, value: Tensor) -> KeyValue:
        """Keys and values of a block's past and of rows key_start:key_stop, oldest first."""
        own = slice(block.key_start, block.key_stop)
        pairs = [  # a segment of the past is in this pack, or was kept of an earlier one
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
        # All layers with one window share a mask.
        if (block.start, window) not in self._masks:
            queries, keys = slice(block.start, block.stop), slice(block.key_start, block.stop)
            past = torch.arange(block.past_length, device=self._position.device)
            distance = self._position[queries, None] - torch.cat([past, self._position[keys]])
            hidden = distance < 0 if window is None else (distance < 0) | (distance >= window)
            # Segments that share a block share its past, and do not see each other.
            hidden[:, block.past_length :] |= self._segment[queries, None] != self._segment[keys]
            mask = torch.zeros(hidden.shape, dtype=query.dtype, device=hidden.device).masked_fill_(
                hidden, float("-inf")
            )
            self._masks[block.start, window] = mask
        return self._masks[block.start, window].to(query.device)


def _fused(blocks: Sequence[Block]) -> list[Block]:
    """Blocks of about _QUERIES rows: short segments with one past together, long segments in pieces that skip the keys after them."""
    spans: list[Block] = []
    for block in blocks:
        last = spans[-1] if spans else None
        if last is not None and last.past == block.past and block.stop - last.start <= _QUERIES:
            spans[-1] = last._replace(stop=block.stop, key_stop=block.stop)
        else:
            spans.append(block)
    return [
        span._replace(start=start, stop=min(start + _QUERIES, span.stop))
        for span in spans
        for start in range(span.start, span.stop, _QUERIES)
    ]


def layer_and_mask(
    module: torch.nn.Module,
    told: object,
    what: str,
    attention_mask: object,
    rest: Mapping[str, Any],
    known: Collection[str],
) -> tuple[int, Mask]:
    """Which layer an attention is called for, and the mask that `packed_mask` answered.

    Whatever is not understood is refused: the model then goes another way, slower and as exact.

    Args:
        told: what its layers are to hand on; `what` names it in the message.
        rest: arguments that the attention does not take, of which those in `known` change nothing.

    Raises:
        NotPackableError: the model does not pass these on, or asks for something else.
    """
    layer = getattr(module, "layer_idx", None)
    if told is None or layer is None:
        raise NotPackableError(f"is not told which layer or {what} it is called for")
    if not isinstance(attention_mask, Mask):
        raise NotPackableError("makes its mask itself" if attention_mask is not None else "asks for no mask")
    unknown = [name for name, argument in rest.items() if argument is not None and name not in known]
    unknown += ["is_causal"] * (rest.get("is_causal") is False)
    if unknown:
        raise NotPackableError(f"takes {', '.join(sorted(unknown))}, which is not known here")
    return int(layer), attention_mask


def packed_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Mask | Tensor | None,
    scaling: float | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    packed_layout: PackedLayout | None = None,
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
        NotPackableError: the model does not pass its layout, layer or mask on, or asks for something that is not known here.
    """
    layer, asked = layer_and_mask(module, packed_layout, "pack", attention_mask, rest, _WITHOUT_EFFECT)
    assert packed_layout is not None  # else it was refused
    if softcap is not None and s_aux is not None:
        raise NotPackableError("takes s_aux, softcap, which is not known here")
    if not query.shape[2] == key.shape[2] == value.shape[2] == packed_layout.tokens:
        raise NotPackableError("sees other tokens than the pack's")
    if query.is_cuda and torch.is_autocast_enabled("cuda"):  # torch casts only what it is given as plain tensors
        query, key, value = (each.to(torch.get_autocast_dtype("cuda")) for each in (query, key, value))
    packed_layout.keep(layer, key, value)
    if softcap is None and s_aux is None and _takes_flash(query, value):
        return _attend_at_once(layer, query, key, value, asked.window, packed_layout, scaling), None
    out = query.new_empty(1, query.shape[2], query.shape[1], value.shape[3])
    keys, values, key_stop = key, value, 0
    for block in packed_layout.blocks:
        if block.key_stop != key_stop:  # pieces of one segment share its keys
            keys, values = packed_layout.keys_values(layer, block, key, value)
            key_stop = block.key_stop
        seen = block.past_length + block.stop - block.key_start
        window = asked.window
        view = _View(block, packed_layout, scaling, window if window is not None and window < seen else None)
        rows = slice(block.start, block.stop)
        parts = query[:, :, rows], keys[:, :, :seen], values[:, :, :seen]
        if softcap is not None:
            attended = _softcapped(*parts, view, softcap)
        elif s_aux is not None:
            attended = _with_sinks(*parts, view, s_aux)
        else:
            attended = _attend(*parts, view)
        out[:, rows] = attended.transpose(1, 2)
    return out, None


def _takes_flash(query: Tensor, value: Tensor) -> bool:
    """Whether flash attention over sequences of different lengths computes on such heads."""
    size = query.shape[3]
    is_half = query.dtype in (torch.float16, torch.bfloat16)
    return query.is_cuda and is_half and size == value.shape[3] and size % _ALIGNED == 0 and size <= _LARGEST_HEAD


def _attend_at_once(
    layer: int,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    window: int | None,
    layout: PackedLayout,
    scaling: float | None,
) -> Tensor:
    """[1, T, heads, size]: all segments in one call, where a call a segment costs as much as the layer's matrix products."""
    gathered = layout.gathered
    pools = [
        torch.cat([*(layout.earlier[past][layer][number] for past in gathered.earlier), own], 2)
        if gathered.earlier
        else own
        for number, own in enumerate((key, value))
    ]
    keys, values = (pool[0].transpose(0, 1).index_select(0, gathered.rows) for pool in pools)
    attended: Any = varlen_attn(
        query[0].transpose(0, 1).contiguous(), keys, values, gathered.query_ends, gathered.key_ends,
        gathered.longest_query, gathered.longest_key, scale=scaling, window_size=(-1 if window is None else window - 1, 0),
        **_GROUPED,
    )  # fmt: skip
    whole: Tensor = attended[None]
    return whole


class _View(NamedTuple):
    """What the queries of a block look at, and how their scores are scaled; a window of None reaches over all keys."""

    block: Block
    layout: PackedLayout
    scaling: float | None
    window: int | None

    def mask(self, query: Tensor) -> Tensor:
        return self.layout.mask(self.block, self.window, query)


def _attend(query: Tensor, keys: Tensor, values: Tensor, view: _View, sinks: int = 0) -> Tensor:
    """[1, heads, queries, size] of one block; the first `sinks` keys are seen by every query."""
    grouped = query.shape[1] != keys.shape[1]
    mask: Any = None
    is_causal = False
    if view.window is not None or query.device.type == "cpu":
        mask = F.pad(view.mask(query), (sinks, 0)) if sinks else view.mask(query)
    elif view.block.past or sinks:
        # Flash attention needs no matrix for this mask; on a CPU torch would build one again in every layer.
        mask = causal_lower_right(query.shape[2], keys.shape[2])
    else:
        is_causal = True
    if view.layout.by_onednn and query.shape[2] >= _LEAST_QUERIES:
        return attend_by_onednn(query, keys, values, mask, view.scaling)
    return F.scaled_dot_product_attention(
        query, keys, values, attn_mask=mask, is_causal=is_causal, scale=view.scaling, enable_gqa=grouped
    )


def attend_by_onednn(query: Tensor, keys: Tensor, values: Tensor, mask: Tensor, scaling: float | None) -> Tensor:
    """What `scaled_dot_product_attention` answers, in float32 on a CPU, without gradients: softmax(query keys^T scaling + mask) values.

    torch's kernel multiplies tiles of a head through MKL. Here the queries of all heads that share keys are the rows of one product.

    Args:
        query: [1, heads, queries, size]. keys, values: [1, key-value heads, keys, size]. mask: [queries, keys], to add to scores; every
            query looks at a key.

    Returns: [1, heads, queries, size of a value].
    """
    _, heads, queries, size = query.shape
    shared = keys.shape[1]
    rows = (query * (size**-0.5 if scaling is None else scaling)).reshape(shared, heads // shared * queries, size)
    attended = []
    # oneDNN has no fast kernel for rows with gaps between them.
    for own, of_keys, of_values in zip(rows, keys[0].contiguous(), values[0].contiguous(), strict=True):
        scores = product(own, of_keys)
        scores.view(-1, *mask.shape).add_(mask)
        attended.append(product(scores.softmax(-1), of_values.t()))
    return torch.stack(attended).view(1, heads, queries, -1)


def _with_sinks(query: Tensor, keys: Tensor, values: Tensor, view: _View, sinks: Tensor) -> Tensor:
    """Attention with one more score per head, `sinks`, whose share of the softmax is thrown away (gpt-oss, arXiv 2508.10925).

    The score is made to be that of one more key, before all others, whose value is 0. One more number per head does it: in the
    query it is the sink over the scaling, in the sink's key 1, in all other keys 0. So no kernel needs to know of sinks.
    """
    size, scaling = query.shape[3], query.shape[3] ** -0.5 if view.scaling is None else view.scaling
    query, keys = F.pad(query, (0, _ALIGNED)), F.pad(keys, (0, _ALIGNED, 1, 0))
    query[..., size] = sinks.to(query).view(-1, 1) / scaling
    keys[:, :, 0, size] = 1.0
    attended = _attend(query, keys, F.pad(values, (0, _ALIGNED, 1, 0)), view._replace(scaling=scaling), sinks=1)
    return attended[..., : values.shape[3]]


def _softcapped(query: Tensor, keys: Tensor, values: Tensor, view: _View, softcap: float) -> Tensor:
    """Attention with scores capped by `softcap * tanh(scores / softcap)` (Gemma 2, arXiv 2408.00118, section 2)."""
    repeats = query.shape[1] // keys.shape[1]
    keys, values = keys.repeat_interleave(repeats, 1), values.repeat_interleave(repeats, 1)
    scores = query @ keys.transpose(2, 3) * (query.shape[3] ** -0.5 if view.scaling is None else view.scaling)
    scores = softcap * torch.tanh(scores / softcap) + view.mask(query)
    return torch.softmax(scores, -1, dtype=torch.float32).to(query.dtype) @ values
