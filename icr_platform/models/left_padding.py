"""Next-token logits of prompts of different lengths, together where a model's rows do not see their batch-mates, else in turn.

Prompts of a batch are padded on the left, and a cache continues them. Not every model takes that: some count positions from
the padding, mix it into a state, or choose a frequency by the longest row. They raise no error but give other probabilities, so
what a model takes is tried on a small copy, against the forward of each prompt alone.

Two prompts of three tokens and of one share a batch as ids, mask and positions, a row each. Row 1 is right only in a model that
looks at nothing under a 0, and that takes its single token for position 0 and not 2:

>>> for part in _padded([[21, 22, 23], [24]], torch.device("cpu")):
...     print(part.tolist())
[[21, 22, 23], [0, 0, 24]]
[[1, 1, 1], [0, 0, 1]]
[[0, 1, 2], [0, 0, 0]]

Llama is such a model:

>>> from transformers import LlamaConfig, LlamaForCausalLM
>>> from icr_platform.models.small_copy import build_random
>>> sizes = dict(vocab_size=VOCABULARY, hidden_size=32, intermediate_size=32, num_hidden_layers=2, pad_token_id=None)
>>> llama = build_random(LlamaForCausalLM, LlamaConfig(num_attention_heads=2, **sizes))
>>> find_batching(llama)
Batching(padding=None, rows=None, cache=None, longest=None, leaving='select')
>>> together = next_logits(llama, [[21, 22, 23], [24]], find_batching(llama))
>>> bool(torch.allclose(together[1:], logits_alone(llama, [24]), atol=1e-5))
True
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, get_args

import torch
from torch import Tensor

from icr_platform.models.quantised import mixes_rows
from icr_platform.models.small_copy import (
    FIRST_ID,
    ROPE_OF_THE_BATCH,
    VOCABULARY,
    WINDOW,
    NoCopyError,
    kind_of,
    small_copy,
    text_ropes,
)

if TYPE_CHECKING:
    from transformers import PreTrainedModel

logger = logging.getLogger(__name__)

TokenIds = Sequence[int]
Leaving = Literal["select", "reorder", "stay"]

_NATS = 1e-3  # by which a next token's log-probability may differ from that of its prompt alone, on a small copy
_STEPS = 10


class Batching(NamedTuple):
    """What a model's rows may not share, because it would change their probabilities: a reason each, None where they may.

    padding: prompts of different lengths go through the model together.
    rows: such rows are continued together, and leave the batch one by one.
    cache: a row that is alone is continued from the keys, values or states kept of it, not computed anew from its first token.
    longest: tokens of a row up to which all that holds; None: it always does.
    leaving: how rows leave the batch. select, reorder: by the cache's method of that name; a cache of recurrent states often has
        one of them only. stay: by neither, so that finished rows are computed on, to no purpose, until the last one ends.
    """

    padding: str | None = None
    rows: str | None = None
    cache: str | None = None
    longest: int | None = None
    leaving: Leaving = "select"


class Continuation(Protocol):
    """Rows that are being continued, and their logits [rows, vocabulary] of the next token."""

    logits: Tensor

    def keep(self, rows: Tensor) -> None:
        """Go on with these rows only."""

    def advance(self, token: Tensor) -> None:
        """Append one token to each row and compute the logits after it."""


@dataclass
class Padded:
    """Rows with a common cache and an attention mask [rows of the cache, tokens so far].

    alive: [rows] of the cache that are continued; None: all of them. The others have ended, and the cache cannot drop them.
    """

    model: PreTrainedModel
    cache: Any
    mask: Tensor
    logits: Tensor
    leaving: Leaving
    alive: Tensor | None = None

    def keep(self, rows: Tensor) -> None:
        self.logits = self.logits[rows]
        if self.leaving == "stay":
            self.alive = rows if self.alive is None else self.alive[rows]
            return
        if self.leaving == "select":
            self.cache.batch_select_indices(rows)
        else:
            self.cache.reorder_cache(rows)
        self.mask = self.mask[rows]

    def advance(self, token: Tensor) -> None:
        position = self.mask.sum(-1, keepdim=True)  # counts tokens, not the padding before them
        self.mask = torch.nn.functional.pad(self.mask, (0, 1), value=1)
        if self.alive is not None:  # any id will do for rows that have ended
            token = token.new_zeros(len(self.mask)).index_copy(0, self.alive, token)
        output = self.model(
            input_ids=token[:, None],
            attention_mask=self.mask,
            position_ids=position,
            past_key_values=self.cache,
            use_cache=True,
        )
        self.cache, logits = output.past_key_values, output.logits[:, -1]
        self.logits = logits if self.alive is None else logits[self.alive]


@dataclass
class Alone:
    """One row with its cache; mask and positions are left to the model, as there is no padding."""

    model: PreTrainedModel
    cache: Any
    logits: Tensor

    def keep(self, rows: Tensor) -> None:
        pass  # the row is kept, or the caller's loop has ended

    def advance(self, token: Tensor) -> None:
        output = self.model(input_ids=token[:, None], past_key_values=self.cache, use_cache=True)
        self.cache, self.logits = output.past_key_values, output.logits[:, -1]


@dataclass
class Recomputed:
    """Rows without a cache: each is computed alone, from its first token, at every step."""

    model: PreTrainedModel
    rows: list[list[int]]
    logits: Tensor

    def keep(self, rows: Tensor) -> None:
        self.rows, self.logits = [self.rows[row] for row in rows.tolist()], self.logits[rows]

    def advance(self, token: Tensor) -> None:
        self.rows = [[*row, one] for row, one in zip(self.rows, token.tolist(), strict=True)]
        self.logits = torch.cat([logits_alone(self.model, row) for row in self.rows])


def begin(model: PreTrainedModel, prompts: Sequence[TokenIds], batching: Batching) -> Continuation:
    """Compute the state after the prompts, a row each. More than one is allowed where `batching` lets rows share, or caches none.

    Distinct prompts are computed once and expanded to the rows that share them, where the cache can do that.
    """
    if batching.cache is not None or _too_long(prompts, batching):
        return recomputed(model, prompts)
    if batching.rows is not None:  # then there is one prompt
        ids = torch.tensor([list(prompts[0])], device=model.device)
        output = model(input_ids=ids, use_cache=True, **_last_logits_only(model))
        return Alone(model, output.past_key_values, output.logits[:, -1])
    rows = list(map(tuple, prompts))
    distinct = rows if batching.leaving == "stay" else list(dict.fromkeys(rows))
    ids, mask, position = _padded(distinct, model.device)
    output = model(
        input_ids=ids, attention_mask=mask, position_ids=position, use_cache=True, **_last_logits_only(model)
    )
    state = Padded(model, output.past_key_values, mask, output.logits[:, -1], batching.leaving)
    if batching.leaving != "stay":
        where = {prompt: index for index, prompt in enumerate(distinct)}
        # The samples of a prompt are rows of their own from here on.
        state.keep(torch.tensor([where[row] for row in rows], device=model.device))
    return state


def recomputed(model: PreTrainedModel, rows: Sequence[TokenIds]) -> Recomputed:
    """Compute the state after rows that no cache is to continue."""
    return Recomputed(model, [list(row) for row in rows], torch.cat([logits_alone(model, row) for row in rows]))


def next_logits(model: PreTrainedModel, prompts: Sequence[TokenIds], batching: Batching) -> Tensor:
    """[prompts, vocabulary] logits of the token after each prompt, in one forward where the model allows it."""
    if batching.padding is not None or _too_long(prompts, batching):
        return torch.cat([logits_alone(model, prompt) for prompt in prompts])
    ids, mask, position = _padded(prompts, model.device)
    output = model(input_ids=ids, attention_mask=mask, position_ids=position, **_last_logits_only(model))
    logits: Tensor = output.logits[:, -1]
    return logits


def logits_alone(model: PreTrainedModel, ids: TokenIds) -> Tensor:
    """[1, vocabulary] logits of the token after a row of tokens, by the model's own forward."""
    row = torch.tensor([list(ids)], device=model.device)
    logits: Tensor = model(input_ids=row, use_cache=False, **_last_logits_only(model)).logits[:, -1]
    return logits


def _too_long(rows: Sequence[TokenIds], batching: Batching) -> bool:
    return batching.longest is not None and max(map(len, rows)) > batching.longest


def _padded(prompts: Sequence[TokenIds], device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """[prompts, longest] ids, mask and positions, padded on the left."""
    length = max(map(len, prompts))
    ids = torch.tensor([[0] * (length - len(prompt)) + list(prompt) for prompt in prompts], device=device)
    mask = torch.tensor([[0] * (length - len(prompt)) + [1] * len(prompt) for prompt in prompts], device=device)
    return ids, mask, (mask.cumsum(-1) - 1).clamp(min=0)


def _last_logits_only(model: PreTrainedModel) -> dict[str, int]:
    return {"logits_to_keep": 1} if "logits_to_keep" in inspect.signature(model.forward).parameters else {}


_found: dict[tuple[type, str], Batching] = {}


def find_batching(model: PreTrainedModel) -> Batching:
    """Try what rows of a model of this class and config may share, once in a process, and log what slows generation down."""
    key = kind_of(type(model), model.config)
    if key not in _found:
        try:
            tried: Batching = _try(small_copy(model), _limit(model))
            if mixed := mixes_rows(model.config):  # which the copy, of plain weights, does not show
                tried = tried._replace(padding=mixed, rows=mixed)
        except NoCopyError as error:
            # Without a copy the model itself is tried, on a few tokens: too few to show that rows may share.
            tolerance = _NATS if model.dtype == torch.float32 else 0.25
            tried = Batching(str(error), str(error), _why_not_cached(model, [[1, 2, 3, 4]], 2, tolerance))
        _found[key] = tried
        if tried.cache is not None:
            logger.warning("%s computes every token anew at each step: %s", type(model).__name__, tried.cache)
        elif tried.rows is not None:
            logger.warning("%s generates one row at a time: %s", type(model).__name__, tried.rows)
    return _found[key]


def _limit(model: PreTrainedModel) -> int | None:
    """Tokens up to which rotary frequencies are fixed; beyond, those of a whole batch depend on its longest row."""
    config = model.config.get_text_config()
    limits = [
        int(
            rope.get("original_max_position_embeddings")
            or getattr(config, "original_max_position_embeddings", None)
            or config.max_position_embeddings
        )
        for rope in text_ropes(config)
        if rope.get("rope_type") in ROPE_OF_THE_BATCH
    ]
    return min(limits, default=None)


@torch.inference_mode()
def _try(copy: PreTrainedModel, longest: int | None) -> Batching:
    # Shorter and longer than the copy's windows, in no order, and short enough to be continued below the limit of its frequencies.
    generator, within = torch.Generator().manual_seed(0), max(1, (_limit(copy) or 10**9) - _STEPS - 1)
    prompts = [
        torch.randint(FIRST_ID, VOCABULARY, (min(length, within),), generator=generator).tolist()
        for length in (3, WINDOW - 4, 3 * WINDOW - 2, WINDOW + 13, 9)
    ]

    def padded() -> float:
        alone = torch.cat([logits_alone(copy, prompt) for prompt in prompts])
        return largest_difference(next_logits(copy, prompts, Batching()), alone)

    padding = _why_not(padded, _NATS)
    if padding is not None:
        return Batching(padding, padding, _why_not_cached(copy, prompts, _STEPS, _NATS), longest)
    doubled = [
        *prompts,
        prompts[1],
    ]  # a prompt with two samples; rows leave after two steps and after six, as rows that end do
    why: list[str] = []
    for leaving in get_args(Leaving):
        way = Batching(leaving=leaving)
        together = _why_not(partial(_continued, copy, doubled, way, _STEPS, {2: [0, 1, 2, 3], 6: [1, 2]}), _NATS)
        if together is None:
            return Batching(longest=longest, leaving=leaving)
        why.append(together)
    return Batching(None, why[-1], _why_not_cached(copy, prompts, _STEPS, _NATS), longest)


def _why_not_cached(model: PreTrainedModel, prompts: Sequence[TokenIds], steps: int, tolerance: float) -> str | None:
    """Why a row alone is not continued from its cache."""
    one_row = Batching(padding="", rows="")

    def largest() -> float:
        return max(_continued(model, [prompt], one_row, steps, {}) for prompt in prompts)

    return _why_not(largest, tolerance)


@torch.inference_mode()
def _continued(
    model: PreTrainedModel, prompts: Sequence[TokenIds], batching: Batching, steps: int, kept: dict[int, list[int]]
) -> float:
    """Continue prompts by some tokens, and measure the largest difference from each row alone.

    kept: by step, which of the rows then go on; the others leave the batch.
    """
    state, rows = begin(model, prompts, batching), [list(prompt) for prompt in prompts]
    largest = 0.0
    for step in range(steps):
        if step in kept:
            state.keep(torch.tensor(kept[step], device=model.device))
            rows = [rows[row] for row in kept[step]]
        largest = max(largest, largest_difference(state.logits, torch.cat([logits_alone(model, row) for row in rows])))
        token = [(7 * step + 31 * index) % (VOCABULARY - FIRST_ID) + FIRST_ID for index in range(len(rows))]
        token = [one % state.logits.shape[-1] for one in token]
        rows = [[*row, one] for row, one in zip(rows, token, strict=True)]
        state.advance(torch.tensor(token, device=model.device))
    return largest


def largest_difference(logits: Tensor, others: Tensor) -> float:
    """The largest difference of log-probabilities, but for tokens that are next to impossible (below e^-12)."""
    ours, theirs = logits.double().log_softmax(-1), others.double().log_softmax(-1)
    return float((ours - theirs).abs().masked_fill(theirs < -12, 0.0).nan_to_num(torch.inf).max())


def _why_not(measure: Callable[[], float], tolerance: float) -> str | None:
    """Say what speaks against a way to compute rows that `measure` compares with each row alone; None: nothing does."""
    try:
        difference = measure()
    except Exception as error:  # noqa: BLE001 - whatever a model's code raises on rows, masks or caches unknown to it
        return f"it does not run so ({type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]})"
    if difference <= tolerance:
        return None
    return f"a row's log-probabilities change by up to {difference:.2g} nats"
