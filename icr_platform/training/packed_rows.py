"""Training on rows of tokens without padding, in which the sequences of a pair share what they begin with, on a CPU.

TRL pads the sequences of a batch to the longest, and computes a prompt for the chosen and again for the rejected response. Here
their tokens are laid out in one row, each once; projections, norms and feed-forward layers see that row, and attention alone knows
whose tokens they are. What a token's hidden state depends on is the same: log-probabilities and gradients are TRL's, up to rounding.

One pair of the sequences 1 2 3 4 and 1 2 5, where 0 is padding:

    row of the pack   0  1  2  3  4
    input id          1  2  3  4  5
    position          0  1  2  3  2

>>> batch = torch.tensor([[1, 2, 3, 4], [1, 2, 5, 0]])
>>> rows = PackedRows(batch, batch > 0, are_pairs=True)
>>> rows.input_ids.tolist(), rows.position_ids.tolist()
([1, 2, 3, 4, 5], [0, 1, 2, 3, 2])
>>> rows.spans
[Span(start=0, stop=4, shared=slice(0, 0, None)), Span(start=4, stop=5, shared=slice(0, 2, None))]
>>> rows.place.tolist()
[[0, 1, 2, 3], [0, 1, 4, 0]]
"""

from __future__ import annotations

import functools
import types
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from trl.trainer.utils import FusedCausalLMOutput

from icr_platform.engines.scoring.logprobs import why_not_packed
from icr_platform.engines.scoring.packed_attention import Mask, NotPackableError, packed_mask
from icr_platform.models.multimodal import restore_logit_scale
from icr_platform.models.small_copy import FIRST_ID, VOCABULARY, WINDOW, NoCopyError, kind_of, small_copy
from icr_platform.training.cpu_products import BY_ONEDNN, BY_TORCH
from icr_platform.training.token_logprobs import target_logprobs

NAME = "icr_packed_rows"

# Arguments of an attention call that change nothing here; see `engines.scoring.packed_attention`.
_WITHOUT_EFFECT = {"is_causal", "position_ids", "sliding_window", "use_cache", "output_attentions"}
_TOGETHER = (
    128  # rows of an attention call over several sequences: more looks at too much in vain, fewer are many small calls
)
_PER_TOKEN = 1e-4  # nats by which a log-probability may deviate on a small copy


class Span(NamedTuple):
    """Rows start:stop of a pack, which look at the rows `shared` before them and at each other."""

    start: int
    stop: int
    shared: slice


class PackedRows:
    """The tokens of a padded batch, each once; the sequences of a pair follow each other.

    input_ids, position_ids: [T]. spans: of the sequences; `shared` is what one begins with that another has. place: [B, L] the row of the
    pack that each token is, 0 of padding. blocks: the rows of one attention call each.
    """

    def __init__(self, input_ids: Tensor, attention_mask: Tensor, are_pairs: bool) -> None:
        """input_ids, attention_mask: [B, L]; are_pairs: rows 0 to n are the chosen sequences, rows n to B = 2n the rejected ones."""
        sequences = [ids[mask.bool()] for ids, mask in zip(input_ids, attention_mask, strict=True)]
        half = len(sequences) // 2 if are_pairs else len(sequences)
        together = [(first, first + half) if are_pairs else (first,) for first in range(half)]
        self.spans: list[Span] = []
        self.place = torch.zeros_like(input_ids)
        tokens, positions, stop = [], [], 0
        for number in (number for numbers in together for number in numbers):
            sequence, shared = sequences[number], slice(0, 0)
            if number >= half:
                other = self.spans[-1]
                shared = slice(other.start, other.start + _common(sequences[number - half], sequence))
            count = shared.stop - shared.start
            start, stop = stop, stop + len(sequence) - count
            self.spans.append(Span(start, stop, shared))
            rows = torch.cat([torch.arange(shared.start, shared.stop), torch.arange(start, stop)])
            self.place[number, attention_mask[number].bool()] = rows
            tokens.append(sequence[count:])
            positions.append(torch.arange(count, len(sequence)))
        self.input_ids, self.position_ids = torch.cat(tokens), torch.cat(positions)
        self.blocks = _blocks(self.spans, 2 if are_pairs else 1)
        sizes = torch.tensor([span.stop - span.start for span in self.spans])
        self._sequence = torch.arange(len(sizes)).repeat_interleave(sizes)
        bounds = torch.tensor([(span.shared.start, span.shared.stop) for span in self.spans])
        self._shared = bounds.repeat_interleave(sizes, 0)
        self._masks: dict[tuple[int, int | None], Tensor | None] = {}

    def mask(self, block: Span, window: int | None) -> Tensor | None:
        """[rows, shared rows and rows] of a block, to add to scores: 0 where a query looks, -inf elsewhere; None: causal alone."""
        if (block.start, window) not in self._masks:  # all layers with one window share it
            self._masks[block.start, window] = self._made_mask(block, window)
        return self._masks[block.start, window]

    def _made_mask(self, block: Span, window: int | None) -> Tensor | None:
        own, shared = torch.arange(block.start, block.stop), torch.arange(block.shared.start, block.shared.stop)
        is_one = bool(self._sequence[own[0]] == self._sequence[own[-1]])
        if is_one and not len(shared) and (window is None or len(own) <= window):
            return None
        keys = torch.cat([shared, own])
        distance = self.position_ids[own, None] - self.position_ids[keys]
        is_shared = (self._shared[own, :1] <= keys) & (keys < self._shared[own, 1:])
        is_seen = is_shared | ((self._sequence[own, None] == self._sequence[keys]) & (distance >= 0))
        if window is not None:
            is_seen &= distance < window
        return torch.zeros(is_seen.shape).masked_fill_(~is_seen, float("-inf"))


def _blocks(spans: Sequence[Span], sequences: int) -> list[Span]:
    """Rows of one attention call: short pairs together, which see only themselves; of a long pair each sequence by itself.

    sequences: 2 where they are pairs.

    >>> short, rest = [Span(0, 50, slice(0, 0)), Span(50, 60, slice(0, 40))], [Span(60, 300, slice(0, 0)), Span(300, 400, slice(60, 100))]
    >>> _blocks([*short, *rest], 2) == [Span(0, 60, slice(0, 0)), *rest]
    True
    """
    blocks: list[Span] = []
    for first in range(0, len(spans), sequences):
        unit = spans[first : first + sequences]
        if unit[-1].stop - unit[0].start > _TOGETHER:
            blocks += unit
        elif blocks and unit[-1].stop - blocks[-1].start <= _TOGETHER:
            blocks[-1] = blocks[-1]._replace(stop=unit[-1].stop)
        else:
            blocks.append(Span(unit[0].start, unit[-1].stop, slice(0, 0)))
    return blocks


def _common(first: Tensor, second: Tensor) -> int:
    """Tokens that both begin with, but for the last of the second, which thereby has a row of its own."""
    length = min(len(first), len(second) - 1)
    differs = (first[:length] != second[:length]).nonzero()
    return int(differs[0]) if len(differs) else length


def rows_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Mask | Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    packed_rows: PackedRows | None = None,
    **rest: Any,
) -> tuple[Tensor, None]:
    """Attention of transformers' interface: query [1, heads, T, size], keys and values [1, key-value heads, T, size].

    attention_mask: what `packed_mask` answered.

    Returns: [1, T, heads, size], and None in place of attention weights.

    Raises:
        NotPackableError: the model does not pass its rows or mask on, or asks for something that is not known here.
    """
    unknown = sorted(name for name, given in rest.items() if given is not None and name not in _WITHOUT_EFFECT)
    if packed_rows is None or not isinstance(attention_mask, Mask) or unknown or rest.get("is_causal") is False:
        raise NotPackableError(f"takes {', '.join(unknown)}" if unknown else "does not pass on whose tokens they are")
    if not query.shape[2] == key.shape[2] == value.shape[2] == len(packed_rows.input_ids):
        raise NotPackableError("sees other tokens than the row's")
    repeats = query.shape[1] // key.shape[1]
    if repeats > 1:  # torch's kernel for CPUs wants as many keys as queries
        key, value = (each.repeat_interleave(repeats, 1) for each in (key, value))
    sizes = [block.stop - block.start for block in packed_rows.blocks]
    # Split once: the gradient of a slice is as large as all rows, and there would be three a block.
    queries, own_keys, own_values = (each.split(sizes, 2) for each in (query, key, value))
    attended = []
    for number, block in enumerate(packed_rows.blocks):
        keys, values = own_keys[number], own_values[number]
        if count := block.shared.stop - block.shared.start:  # what the block before begins with
            keys, values = (
                torch.cat([each[number - 1][:, :, :count], each[number]], 2) for each in (own_keys, own_values)
            )
        mask = packed_rows.mask(block, attention_mask.window)
        attended.append(
            F.scaled_dot_product_attention(
                queries[number], keys, values, attn_mask=mask, dropout_p=dropout, is_causal=mask is None, scale=scaling
            )
        )
    return torch.cat(attended, 2).transpose(1, 2), None


AttentionInterface.register(NAME, rows_attention)
AttentionMaskInterface.register(NAME, packed_mask)


def pack_rows(
    model: PreTrainedModel,
    are_pairs: bool,
    squares: bool = False,
    in_place: bool = False,
    uses_onednn: bool = False,
) -> None:
    """Let `model(..., fused_lm_head=True)` answer as after TRL's `add_fused_lm_head`, but over packed rows; other calls as before.

    The model must be one of which `why_not_packed_rows` says nothing.

    Args:
        are_pairs: batches are of n chosen sequences, then of the n rejected ones.
        squares: whether log_sum_sq_probs is among the outputs.
        in_place: add the LM head's gradient to `weight.grad` tile by tile. Where the input embedding is the same matrix, its gradient names
            the rows that were looked up, and is added to the head's: both as matrices of their own would take three times the memory.
        uses_onednn: for the products of the LM head.
    """
    if in_place:
        _look_up_sparsely(model)
    before, attention = model.forward, model.config._attn_implementation

    @functools.wraps(type(model).forward)
    def forward(self: PreTrainedModel, *args: Any, fused_lm_head: bool = False, **inputs: Any) -> Any:
        if fused_lm_head:
            head = functools.partial(
                target_logprobs, squares=squares, in_place=in_place, products=BY_ONEDNN if uses_onednn else BY_TORCH
            )
            return _over_rows(self, are_pairs, head, **inputs)
        self.set_attn_implementation(attention)
        try:
            return before(*args, **inputs)
        finally:
            self.set_attn_implementation(NAME)

    # Always, not while a forward lasts: with gradient checkpointing, layers run again in the backward pass.
    model.set_attn_implementation(NAME)
    model.forward = types.MethodType(forward, model)


def _over_rows(
    model: PreTrainedModel,
    are_pairs: bool,
    logprobs_of: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor | None]],
    *,
    input_ids: Tensor,
    attention_mask: Tensor,
    labels: Tensor,
    use_cache: bool = False,
    **others: None,
) -> FusedCausalLMOutput:
    """Log-probabilities of a padded batch's labels, [B, L - 1] nats, 0 where a label is -100. logprobs_of: see `target_logprobs`."""
    if given := [name for name, value in others.items() if value is not None]:  # peft names more, without values
        raise TypeError(f"packed rows do not know {', '.join(given)}")
    rows = PackedRows(input_ids, attention_mask, are_pairs)
    body = model.base_model(
        input_ids=rows.input_ids[None], position_ids=rows.position_ids[None], use_cache=use_cache, packed_rows=rows
    )
    is_target = labels[:, 1:] != -100  # a token is predicted one place before it
    predicting = body.last_hidden_state[0][rows.place[:, :-1][is_target]]
    head: Any = model.get_output_embeddings()
    found = logprobs_of(predicting, head.weight, labels[:, 1:][is_target])
    logprobs, sums = (
        None if each is None else each.new_zeros(is_target.shape).masked_scatter(is_target, each) for each in found
    )
    return FusedCausalLMOutput(log_probs=logprobs, log_sum_sq_probs=sums, label_mask=is_target)


def _look_up_sparsely(model: PreTrainedModel) -> None:
    """Let the input embedding's gradient name the rows that were looked up where the LM head, which is the same matrix, has a dense one."""
    embedding: Any = model.get_input_embeddings()
    head: Any = model.get_output_embeddings()
    if isinstance(embedding, nn.Embedding) and embedding.weight is head.weight and embedding.weight.requires_grad:
        embedding.sparse = True


_decided: dict[tuple[type, str], str | None] = {}


def why_not_packed_rows(model: PreTrainedModel) -> str | None:
    """Say why a model is not trained on packed rows; None if it can be. Tried on a small copy, once for each class and config."""
    head: Any = model.get_output_embeddings()
    if type(head) is not nn.Linear or head.bias is not None:
        return "its LM head is not a matrix alone"
    if any(one.device.type != "cpu" or one.dtype != torch.float32 for one in model.parameters()):
        return "it is not in float32 on a CPU"
    key = kind_of(type(model), model.config)
    if key not in _decided:
        _decided[key] = why_not_packed(model) or _why_not_by_copy(model)
    return _decided[key]


def _why_not_by_copy(model: PreTrainedModel) -> str | None:
    try:
        copy = small_copy(model)
    except NoCopyError as error:
        return str(error)
    restore_logit_scale(copy)
    draw = torch.Generator().manual_seed(0)
    # Two pairs around the window: what they share is longer than it, or their ends are.
    shared, ends = (2 * WINDOW, 5), ((4, 7), (2 * WINDOW, WINDOW + 9))
    prompts = [torch.randint(FIRST_ID, VOCABULARY, (length,), generator=draw) for length in shared]
    sequences = [
        torch.cat([prompt, torch.randint(FIRST_ID, VOCABULARY, (lengths[side],), generator=draw)])
        for side in range(2)
        for prompt, lengths in zip(prompts, ends, strict=True)
    ]
    with torch.no_grad():
        expected = []
        for ids in sequences:
            logprobs = copy(input_ids=ids[None], use_cache=False).logits[0, :-1].float().log_softmax(-1)
            expected.append(logprobs.gather(1, ids[1:, None])[:, 0])
        batch = nn.utils.rnn.pad_sequence(sequences, batch_first=True)
        mask = nn.utils.rnn.pad_sequence([torch.ones_like(ids) for ids in sequences], batch_first=True)
        pack_rows(copy, are_pairs=True)
        try:
            labels = batch.masked_fill(mask == 0, -100)
            seen = copy(input_ids=batch, attention_mask=mask, labels=labels, fused_lm_head=True).log_probs
        except NotPackableError as error:
            return f"its attention {error}"
        # What a model's own layers raise on one long row of tokens, or without a mask that they count on.
        except (TypeError, AttributeError, KeyError, IndexError, ValueError, RuntimeError) as error:
            return (
                f"its layers do not run on packed rows ({type(error).__name__}: {(str(error).splitlines() or [''])[0]})"
            )
    off = max(float((row[: len(own)] - own).abs().max()) for row, own in zip(seen, expected, strict=True))
    return None if off <= _PER_TOKEN else f"log-probabilities over packed rows deviate from its own, by {off:.2g} nats"
