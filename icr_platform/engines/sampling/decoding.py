"""Decoding of many rows on one model: the batch stays full, since a row that ends gives its place to one that waits.

Prompts come longest first, and the samples of one share its computation. As long as places are free, prompts of newcomers are
computed by themselves, in packs; once the batch is full, every step takes the last token of each row and the prompts of those that
take the places of rows that have just ended. Who shares a step depends on the rows and their order alone. A model that cannot run
on blocks of keys and values (`block_rows.why_no_blocks`) gets its rows in batches, each of which ends with its longest row.

The loop is written out, rather than left to `generate`, which waits for the longest row of a batch, computes a prompt for each of
its samples, copies all keys and values in every step and has no seed for a row (`tests/benchmarks/bench_sampling.py`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from icr_platform.core.arrays import Bools, Floats, Ints
from icr_platform.engines.sampling.block_rows import BlockRows, Prompt, attending, block_size, why_no_blocks
from icr_platform.engines.sampling.token_choice import Uniforms, choose_tokens, make_filters, make_penalties
from icr_platform.engines.scoring.cpu_linear import OneDnnLinears
from icr_platform.models.left_padding import Batching, Continuation, begin, find_batching, recomputed

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from icr_platform.engines.sampling.settings import SamplingSettings

Done = Callable[[int, list[int]], None]
"""Is told a row by its index, and its token ids, the stop token included; none where the model's logits are not finite."""

_CPU_PROMPTS, _GPU_PROMPTS = 1024, 8192  # tokens of prompts in one step, unless one prompt alone is longer


@dataclass(frozen=True)
class Row:
    """One response to sample: the prompt's ids, its seed, how many tokens it may have, and the temperature; 0 is greedy."""

    prompt_ids: tuple[int, ...]
    seed: int
    budget: int
    temperature: float


class Decoder:
    """Decodes rows on a model in this process, whose weights must not change after the first call.

    settings: whose filters and penalties apply. stops: ids that end a response.
    """

    def __init__(self, model: PreTrainedModel, settings: SamplingSettings, stops: Collection[int]) -> None:
        self.model = model
        self.why_no_blocks = why_no_blocks(model)
        self.batching = Batching() if self.why_no_blocks is None else find_batching(model)
        self._settings, self._stops = settings, np.array(sorted(stops), np.int64)
        self._linears: OneDnnLinears | None = None

    def decode(self, rows: Sequence[Row], batch_size: int, done: Done) -> None:
        """Sample every row to its stop token or its budget, `batch_size` at a time where the model takes several.

        Raises:
            torch.OutOfMemoryError: rows that `done` was not told of are to be decoded again, fewer at a time.
        """
        if self._linears is None:
            self._linears = OneDnnLinears(self.model)
        size = min(batch_size, len(rows)) if self.batching.rows is None else 1
        with self._linears.used():
            if self.why_no_blocks is None:
                with attending(self.model):
                    self._in_blocks(rows, size, done)
            else:
                with torch.inference_mode():
                    for batch in _batches(rows, size, self.batching.longest):
                        self._in_a_batch(rows, batch, done)

    def _in_blocks(self, rows: Sequence[Row], size: int, done: Done) -> None:
        waiting = _by_prompt(rows)
        longest = max(len(row.prompt_ids) + row.budget for row in rows)
        lanes = max(len(family.waiting) for family in waiting)
        engine = BlockRows(self.model, size, lanes, block_size(longest, self.model.device))
        places = _Places(size, self._settings, self._stops, self.model)
        most = _CPU_PROMPTS if engine.device.type == "cpu" else _GPU_PROMPTS
        free, live, family_at = list(range(size))[::-1], list[int](), dict[int, _Family]()
        while waiting or live:
            joined, newcomers = _admit(waiting, free, most)
            # While the batch is filling, a step of the few rows in it would cost nearly what it costs when it is full.
            going = [] if free and waiting else live
            found: list[Tensor] = []
            if going or newcomers:
                logits = engine.step(going, places.last(going), [family.prompt for family in newcomers])
                found = [logits[: len(going)]]
                for family, after_prompt in zip(newcomers, logits[len(going) :], strict=True):
                    family.logits = after_prompt[None].clone()  # a view would keep those of all rows
            for place, family, index in joined:
                engine.join(place, family.prompt)
                places.begin(place, index, rows[index])
                family_at[place] = family
                found.append(family.logits)
            asked = [*going, *(place for place, _, _ in joined)]
            logits = torch.cat(found) if joined else found[0]
            ended = set(places.append(asked, logits))
            live = [place for place in [*live, *asked[len(going) :]] if place not in ended]
            for place in sorted(ended):
                index, token_ids = places.end(place)
                done(index, token_ids)
                engine.leave(place, wiped=not token_ids)
                family = family_at.pop(place)
                family.live -= 1
                family.is_broken |= not token_ids
                if not family.live and not family.waiting:
                    engine.drop(family.prompt, family.is_broken)
                free.append(place)
            if ended:
                engine.compact()

    def _in_a_batch(self, rows: Sequence[Row], batch: Sequence[int], done: Done) -> None:
        """Decode some rows together until the last one ends; a single one where the model does not take several."""
        places = _Places(len(batch), self._settings, self._stops, self.model)
        for place, index in enumerate(batch):
            places.begin(place, index, rows[index])
        state: Continuation = begin(self.model, [rows[index].prompt_ids for index in batch], self.batching)
        longest = max(len(rows[index].prompt_ids) for index in batch)
        alive = list(range(len(batch)))
        while alive:
            ended = set(places.append(alive, state.logits))
            for place in sorted(ended):
                done(*places.end(place))
            kept = [number for number, place in enumerate(alive) if place not in ended]
            if not kept:
                return
            if ended:
                alive = [alive[number] for number in kept]
                state.keep(torch.tensor(kept, device=self.model.device))
            token = torch.from_numpy(places.last(alive)).to(self.model.device)
            if longest == self.batching.longest:
                # The next token would change the frequencies of all rows, of what their cache holds too.
                state = recomputed(self.model, [places.so_far(place)[:-1] for place in alive])
            longest += 1
            state.advance(token)


@dataclass(eq=False)
class _Family:
    """The rows that have a prompt in common.

    waiting: indices of those that have not begun, the next one last. live: how many have begun and not ended.
    logits: [1, vocabulary] after the prompt. is_broken: a row's logits were not finite.
    """

    prompt: Prompt
    waiting: list[int] = field(default_factory=list)
    live: int = 0
    logits: Tensor = field(default_factory=lambda: torch.empty(0))
    is_broken: bool = False


def _by_prompt(rows: Sequence[Row]) -> deque[_Family]:
    """All rows, by their prompts, longest prompts first."""
    families: dict[tuple[int, ...], _Family] = {}
    for index, row in enumerate(rows):
        families.setdefault(row.prompt_ids, _Family(Prompt(row.prompt_ids))).waiting.insert(0, index)
    return deque(sorted(families.values(), key=lambda family: -len(family.prompt.ids)))


def _admit(waiting: deque[_Family], free: list[int], most: int) -> tuple[list[tuple[int, _Family, int]], list[_Family]]:
    """Rows that begin now, as (place, family, index), and the families whose prompts are to be computed for them.

    most: tokens of prompts, unless one alone has more.
    """
    joined, newcomers = list[tuple[int, _Family, int]](), list[_Family]()
    while free and waiting:
        family = waiting[0]
        if not family.prompt.blocks and (not newcomers or newcomers[-1] is not family):
            if newcomers and sum(len(one.prompt.ids) for one in [*newcomers, family]) > most:
                break
            newcomers.append(family)
        joined.append((free.pop(), family, family.waiting.pop()))
        family.live += 1
        if not family.waiting:
            waiting.popleft()
    return joined, newcomers


def _batches(rows: Sequence[Row], size: int, longest: int | None) -> list[list[int]]:
    """Indices of rows in batches, longest prompts first; those with more than `longest` tokens are not batched with others."""
    order = sorted(range(len(rows)), key=lambda index: (-len(rows[index].prompt_ids), index))
    beyond = [index for index in order if longest is not None and len(rows[index].prompt_ids) > longest]
    within = order[len(beyond) :]
    return [part[start : start + size] for part in (beyond, within) for start in range(0, len(part), size)]


class _Places:
    """What is known of the row at each place of a batch, and the choice of its next token."""

    def __init__(self, count: int, settings: SamplingSettings, stops: Ints, model: PreTrainedModel) -> None:
        self._stops, self._filters = stops, make_filters(settings)
        self._uniforms = Uniforms(count)
        self._rows: list[tuple[int, Row]] = [(0, Row((), 0, 0, 0.0))] * count
        self._tokens: list[list[int]] = [[] for _ in range(count)]
        self._last: Ints = np.zeros(count, np.int64)
        self._left: Ints = np.zeros(count, np.int64)  # tokens that the row may still have
        self._temperature: Floats = np.zeros(count)
        vocabulary = int(model.config.get_text_config().vocab_size)
        self._penalties = make_penalties(settings, count, vocabulary, model.device)

    def begin(self, place: int, index: int, row: Row) -> None:
        """A row begins at a place."""
        self._rows[place], self._tokens[place] = (index, row), []
        self._left[place], self._temperature[place] = row.budget, row.temperature
        self._uniforms.begin(place, row.seed)
        if self._penalties is not None:
            self._penalties.begin(place, row.prompt_ids)

    def append(self, places: Sequence[int], logits: Tensor) -> list[int]:
        """Choose a token for each of these rows, from logits [rows, vocabulary]; the places of rows that end with it."""
        at = np.array(places, np.int64)
        if self._penalties is not None:
            on_device = torch.from_numpy(at).to(logits.device)
            logits = self._penalties.apply(logits, on_device)
        chosen = choose_tokens(logits, self._uniforms.draw(at), self._temperature[at], self._filters)
        if self._penalties is not None:
            self._penalties.add(on_device, chosen)
        tokens: Ints = chosen.cpu().numpy()
        for place, token in zip(places, tokens.tolist(), strict=True):
            self._tokens[place].append(token)
        self._last[at] = tokens
        self._left[at] -= 1
        is_last: Bools = np.isin(tokens, self._stops) | (self._left[at] == 0) | (tokens < 0)
        ended: list[int] = at[is_last].tolist()
        return ended

    def last(self, places: Sequence[int]) -> Ints:
        """The last token of each of these rows."""
        return self._last[np.array(places, np.int64)]

    def so_far(self, place: int) -> list[int]:
        """Prompt and response of a row."""
        return [*self._rows[place][1].prompt_ids, *self._tokens[place]]

    def end(self, place: int) -> tuple[int, list[int]]:
        """The index of a row that has ended, and its token ids; none where the model gave logits that are not finite."""
        tokens = self._tokens[place]
        return self._rows[place][0], [] if tokens[-1] < 0 else tokens
