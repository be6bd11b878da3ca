"""Rows that are continued together while some end and others begin, over blocks of keys and values: the engine under `decoding`.

A step takes one token of each row that goes on, and the prompts of newcomers, through the model in one row without padding. A model
can do that if its attention is transformers' interface and tokens meet nowhere else. What it does is tried on a small copy, against
the forward of each row alone, while rows come and go (`why_no_blocks`).
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface

from icr_platform.core.arrays import Ints
from icr_platform.engines.sampling import block_attention
from icr_platform.engines.sampling.block_attention import Seen, Slots, Step
from icr_platform.engines.sampling.block_cache import NOBODY, Pool
from icr_platform.engines.scoring.packed_attention import NotPackableError, packed_mask
from icr_platform.models.left_padding import largest_difference, logits_alone
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

AttentionInterface.register(block_attention.NAME, block_attention.block_attention)
AttentionMaskInterface.register(block_attention.NAME, packed_mask)

BLOCK = 64  # tokens: a matrix product over fewer is slower, and a row's last block is half empty
SMALL_BLOCK = 16  # of rows so short that most of a larger one is empty, on a CPU
_SHORT = 256  # tokens of a row

_NATS = 1e-3  # by which a next token's log-probability may differ from that of its row alone, on a small copy


def block_size(longest: int, device: torch.device) -> int:
    """Tokens of a block where a row has `longest` tokens at most."""
    return SMALL_BLOCK if longest <= _SHORT and device.type == "cpu" else BLOCK


@dataclass(eq=False)
class Prompt:
    """A prompt whose samples share its blocks.

    blocks: of its keys. lanes: those that no sample has, in which its rows look at them.
    """

    ids: Sequence[int]
    blocks: list[int] = field(default_factory=list)
    lanes: list[int] = field(default_factory=list)


class BlockRows:
    """Rows of a batch, by their places.

    Args:
        places: rows at once, at most. lanes: samples of one prompt at once, at most.

    Weights must not change while it is in use.
    """

    def __init__(self, model: PreTrainedModel, places: int, lanes: int, size: int = BLOCK) -> None:
        self.model = model
        self.device = model.device
        self._lanes = min(lanes, places)
        self.responses = Pool(1, size)
        # With one sample a prompt both are alike, and one pool is one matrix product a layer.
        self.prompts = Pool(self._lanes, size) if self._lanes > 1 else self.responses
        self._position: Ints = np.zeros(places, np.int64)  # of the next token
        self._first: Ints = np.zeros(places, np.int64)  # of the response
        self._blocks: list[list[int]] = [[] for _ in range(places)]
        self._owner: list[tuple[Prompt, int] | None] = [None] * places
        self._keeps = "logits_to_keep" in inspect.signature(model.forward).parameters

    def step(self, places: Sequence[int], tokens: Ints, newcomers: Sequence[Prompt]) -> Tensor:
        """Append a token to the row at each of these places, and compute the prompts of newcomers.

        Returns:
            [places + newcomers, vocabulary] logits of the next token of each.

        Raises:
            NotPackableError: the model's attention does not run so.
        """
        at = np.asarray(places, np.int64)
        slots = [self._append(at)] if len(at) else []
        ids, position, ends, total = [tokens], [self._position[at]], [len(at)], len(at)
        for prompt in newcomers:
            slots.append(self._place(prompt, total))
            ids.append(np.asarray(prompt.ids, np.int64))
            position.append(np.arange(len(prompt.ids)))
            total += len(prompt.ids)
            ends.append(total)
        rows: Ints = np.full(len(self._position), NOBODY)
        rows[at] = np.arange(len(at))
        pools = [self.responses] if self.prompts is self.responses else [self.prompts, self.responses]
        seen = [Seen(pool, rows, self._position, self.device) for pool in pools if pool.top] if len(at) else []
        step = Step(len(at), list(pairwise(ends)), seen, slots, self.device)
        last = torch.from_numpy(np.concatenate([np.arange(len(at)), np.asarray(ends[1:], np.int64) - 1]))
        output = self.model(
            input_ids=self._tensor(np.concatenate(ids))[None],
            position_ids=self._tensor(np.concatenate(position))[None],
            use_cache=False,
            block_step=step,
            **({"logits_to_keep": last} if self._keeps else {}),
        )
        if not step.layers:
            raise NotPackableError("is not transformers' interface")
        self._position[at] += 1
        logits: Tensor = output.logits[0]
        return logits if len(logits) == len(last) and self._keeps else logits[last]

    def join(self, place: int, prompt: Prompt) -> None:
        """A new row, at a free place, continues a prompt that was computed."""
        lane = prompt.lanes.pop()
        self.prompts.lanes[prompt.blocks, lane] = place
        self._owner[place] = prompt, lane
        self._position[place] = self._first[place] = len(prompt.ids)

    def leave(self, place: int, wiped: bool = False) -> None:
        """The row at a place has ended. wiped: what it computed is not finite."""
        owner = self._owner[place]
        assert owner is not None
        prompt, lane = owner
        self._owner[place] = None
        self.responses.free(self._blocks[place], wiped)
        self._blocks[place] = []
        self.prompts.lanes[prompt.blocks, lane] = NOBODY
        prompt.lanes.append(lane)

    def drop(self, prompt: Prompt, wiped: bool = False) -> None:
        """No row will look at a prompt any more."""
        self.prompts.free(prompt.blocks, wiped)
        prompt.blocks = []

    def compact(self) -> None:
        """Keep the pools dense after rows have left."""
        self.prompts.compact()
        if self.prompts is not self.responses:
            self.responses.compact()

    def _append(self, at: Ints) -> Slots:
        """Slots of the rows' next tokens."""
        offset = (self._position[at] - self._first[at]) % self.responses.size
        for place in at[offset == 0].tolist():
            block = self.responses.take(1, int(self._position[place]), held=self._blocks[place])[-1]
            self.responses.lanes[block, 0] = place
        blocks = np.array([self._blocks[place][-1] for place in at.tolist()], np.int64)
        return Slots(self.responses, 0, len(at), (self._tensor(blocks), self._tensor(offset)))

    def _place(self, prompt: Prompt, start: int) -> Slots:
        """Slots of a newcomer's tokens."""
        count, size = len(prompt.ids), self.prompts.size
        self.prompts.take(-(-count // size), 0, end=count, held=prompt.blocks)
        prompt.lanes = list(range(self._lanes))[::-1]
        blocks, offsets = np.divmod(np.arange(count), size)
        at = self._tensor(np.asarray(prompt.blocks)[blocks]), self._tensor(offsets)
        return Slots(self.prompts, start, start + count, at)

    def _tensor(self, array: Any) -> Tensor:
        return torch.from_numpy(array).to(self.device)


@contextlib.contextmanager
def attending(model: PreTrainedModel) -> Iterator[None]:
    """Run a model on the steps of `BlockRows`; afterwards it is as it was."""
    training, before = model.training, model.config._attn_implementation
    model.eval()
    try:
        model.set_attn_implementation(block_attention.NAME)
        with torch.inference_mode():
            yield
    finally:
        model.set_attn_implementation(before)
        model.train(training)


_found: dict[tuple[type, str], str | None] = {}


def why_no_blocks(model: PreTrainedModel) -> str | None:
    """Say why rows of a model are not continued so; None if they are. Its class and config are tried once in a process."""
    if len(set((getattr(model, "hf_device_map", None) or {}).values())) > 1:
        return "it is spread over devices"
    key = kind_of(type(model), model.config)
    if key not in _found:
        _found[key] = _why_not_by_config(model) or _why_not_by_copy(model)
    return _found[key]


def _why_not_by_config(model: PreTrainedModel) -> str | None:
    if mixed := mixes_rows(model.config):
        return mixed
    if not model._supports_attention_backend:
        return "its attention is not transformers' interface"
    ropes = {str(rope.get("rope_type")) for rope in text_ropes(model.config.get_text_config())} & ROPE_OF_THE_BATCH
    return f"its rotary embedding ({', '.join(ropes)}) depends on the longest row of a batch" if ropes else None


def _why_not_by_copy(model: PreTrainedModel) -> str | None:
    try:
        copy = small_copy(model)
    except NoCopyError as error:
        return str(error)
    try:
        with attending(copy):
            seen = list(_continued(copy))
    except NotPackableError as error:
        return f"its attention {error}"
    except Exception as error:  # noqa: BLE001 - whatever a model's code raises on one row of many sequences
        return f"it does not run so ({type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]})"
    with torch.inference_mode():
        difference = max(largest_difference(logits, logits_alone(copy, row)) for row, logits in seen)
    return None if difference <= _NATS else f"a row's log-probabilities change by up to {difference:.2g} nats"


def _continued(copy: PreTrainedModel) -> Iterator[tuple[list[int], Tensor]]:
    """Token ids of rows, before and after the copy's windows, and their logits [1, vocabulary], while rows come and go.

    Two samples a prompt; blocks of a few tokens, so that rows cross them.
    """
    generator = torch.Generator().manual_seed(0)
    prompts = [
        Prompt(torch.randint(FIRST_ID, VOCABULARY, (length,), generator=generator).tolist())
        for length in (3 * WINDOW - 2, WINDOW + 13, WINDOW - 4, 9, 3)
    ]
    engine, rows = BlockRows(copy, places=4, lanes=2, size=5), dict[int, list[int]]()
    owner: dict[int, Prompt] = {}
    # At each step: the places of rows that leave, and then (place, prompt) of those that join.
    changes: dict[int, tuple[list[int], list[tuple[int, int]]]] = {
        0: ([], [(0, 0), (1, 1)]),
        1: ([], [(2, 0), (3, 4)]),
        8: ([0, 3], [(0, 2), (3, 2)]),
        11: ([1, 2], [(1, 3)]),
    }
    for step in range(16):
        left, joined = changes.get(step, ([], []))
        for place in left:
            engine.leave(place)
            del rows[place]
            prompt = owner.pop(place)
            if prompt not in owner.values():
                engine.drop(prompt)
        engine.compact()
        places = list(rows)
        tokens = [(7 * step + 31 * place) % (VOCABULARY - FIRST_ID) + FIRST_ID for place in places]
        newcomers = list(dict.fromkeys(prompts[which] for _, which in joined if not prompts[which].blocks))
        logits = engine.step(places, np.array(tokens, np.int64), newcomers)
        for place, token, one in zip(places, tokens, logits, strict=False):
            rows[place].append(token)
            yield list(rows[place]), one[None]
        for prompt, one in zip(newcomers, logits[len(places) :], strict=True):
            yield list(prompt.ids), one[None]
        for place, which in joined:
            engine.join(place, prompts[which])
            rows[place], owner[place] = list(prompts[which].ids), prompts[which]
