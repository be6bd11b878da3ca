"""Sampling with transformers: exact, seeded row by row, and the same in every run on a CPU.

The decode loop is written out, rather than left to `generate`, for two things that `generate` cannot do: a prompt is
computed once for all its samples, and rows that are finished leave the batch. On a small model (0.9M parameters, 40,000
tokens, one core) it samples 5,400 tokens a CPU second in batches of 64 and 8,300 in batches of 512, `generate` 3,300 and
3,700 (`tests/benchmarks/bench_generate.py`).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor

from icr_platform.core.errors import IcrError
from icr_platform.core.faults import NOT_FINITE, UNKNOWN_TOKEN
from icr_platform.engines.sampling.sampler import (
    Advance,
    Dropped,
    Request,
    Sample,
    Sampled,
    Sampler,
    ignore_progress,
    prompt_ids,
    row_seed,
    token_budget,
)
from icr_platform.models.chat import decode_response, stop_ids
from icr_platform.models.context import context_of
from icr_platform.models.devices import require_device
from icr_platform.models.left_padding import Batching, Continuation, begin, find_batching, recomputed
from icr_platform.models.loading import check_weights, generation_eos, load_model, load_tokenizer
from icr_platform.models.not_finite import are_finite, not_finite

if TYPE_CHECKING:
    from transformers import LogitsProcessorList, PreTrainedModel, PreTrainedTokenizerBase

    from icr_platform.core.config import ChatSettings
    from icr_platform.engines.sampling.settings import SamplingSettings


_OVERFLOWED = Dropped(NOT_FINITE, "the policy's logits are not finite numbers")


@dataclass(frozen=True)
class Row:
    """One response to sample: the prompt's ids, its seed, and how many tokens it may have."""

    prompt_ids: tuple[int, ...]
    seed: int
    budget: int
    temperature: float


def uniforms(seeds: Sequence[int], length: int) -> Tensor:
    """[rows, length] float64 in [0, 1): row i is the Philox stream of seeds[i], whatever the other rows are.

    52 bits, so that u * total is below total in float64.
    """
    raw = np.stack([np.random.Philox(key=seed).random_raw(length) for seed in seeds])
    return torch.from_numpy((raw >> np.uint64(12)) * 2.0**-52)


class Penalties:
    """What is taken off the logits of tokens that a row has already, as vLLM defines it; a row's own tokens alone count.

    Repetition looks at the prompt and the response, frequency and presence at the response. A logit l of a token that the
    response has n times becomes `l / repetition - n * frequency - presence`, with `l * repetition` where l is below 0.

    >>> penalties = Penalties([[0, 1]], 4, repetition=2.0, frequency=0.5, presence=1.0, device=torch.device("cpu"))
    >>> penalties.add(torch.tensor([0]), torch.tensor([2]))
    >>> penalties.add(torch.tensor([0]), torch.tensor([2]))
    >>> penalties.apply(torch.tensor([[3.0, -3.0, 3.0, 3.0]]), torch.tensor([0])).tolist()
    [[1.5, -6.0, -0.5, 3.0]]
    """

    def __init__(
        self,
        prompts: Sequence[Sequence[int]],
        vocabulary: int,
        repetition: float,
        frequency: float,
        presence: float,
        device: torch.device,
    ) -> None:
        self._repetition, self._frequency, self._presence = repetition, frequency, presence
        self._counts = torch.zeros((len(prompts), vocabulary), dtype=torch.int32, device=device)  # in the response
        self._in_prompt = torch.zeros((len(prompts), vocabulary), dtype=torch.bool, device=device)
        for row, prompt in enumerate(prompts):
            self._in_prompt[row, torch.tensor(list(prompt), device=device)] = True

    def apply(self, logits: Tensor, rows: Tensor) -> Tensor:
        """[rows, vocabulary] penalised logits of these rows."""
        logits, counts = logits.float(), self._counts[rows]
        is_seen = (counts > 0) | self._in_prompt[rows]
        repeated = torch.where(logits > 0, logits / self._repetition, logits * self._repetition)
        penalised = torch.where(is_seen, repeated, logits)
        return penalised - self._frequency * counts - self._presence * (counts > 0)

    def add(self, rows: Tensor, tokens: Tensor) -> None:
        """Count a token of each of these rows, which must be different ones."""
        self._counts[rows, tokens.clamp(min=0)] += 1


def make_penalties(
    settings: SamplingSettings, rows: Sequence[Row], vocabulary: int, device: torch.device
) -> Penalties | None:
    """The penalties of a batch; None where all are off."""
    if settings.repetition_penalty == 1 and not settings.frequency_penalty and not settings.presence_penalty:
        return None
    return Penalties(
        [row.prompt_ids for row in rows],
        vocabulary,
        settings.repetition_penalty,
        settings.frequency_penalty,
        settings.presence_penalty,
        device,
    )


def choose_tokens(logits: Tensor, uniform: Tensor, warpers: LogitsProcessorList | None) -> Tensor:
    """One token a row, by inversion of the cumulative distribution of the warped logits.

    Args:
        logits: [rows, vocabulary].
        uniform: [rows] in [0, 1).
        warpers: temperature, min-p, top-k, top-p; None takes the likeliest token.

    Returns:
        [rows] token ids; -1 where the logits are not finite.
    """
    if warpers is None:
        return torch.where(are_finite(logits), logits.argmax(-1), -1)
    no_ids = torch.empty(0, dtype=torch.long, device=logits.device)
    warped: Tensor = warpers(no_ids, logits.float())  # type: ignore[arg-type]
    cumulative = torch.softmax(warped, dim=-1, dtype=torch.float64).cumsum(-1)
    total = cumulative[:, -1:]
    token = torch.searchsorted(cumulative, uniform[:, None] * total, right=True)[:, 0]
    return torch.where(total[:, 0] > 0, token, -1)


def make_warpers(settings: SamplingSettings) -> LogitsProcessorList | None:
    """Temperature, then min-p, top-k and top-p, as in vLLM; None for temperature 0, which is greedy."""
    from transformers import (
        LogitsProcessorList,
        MinPLogitsWarper,
        TemperatureLogitsWarper,
        TopKLogitsWarper,
        TopPLogitsWarper,
    )

    if settings.temperature == 0:
        return None
    warpers = LogitsProcessorList()
    if settings.temperature != 1:
        warpers.append(TemperatureLogitsWarper(settings.temperature))
    if settings.min_p:
        warpers.append(MinPLogitsWarper(settings.min_p))
    if settings.top_k:
        warpers.append(TopKLogitsWarper(settings.top_k))
    if settings.top_p < 1:
        warpers.append(TopPLogitsWarper(settings.top_p))
    return warpers


class TransformersSampler(Sampler):
    """Samples with a model in this process, `settings.batch_size` rows at a time, longest prompts first.

    Batches depend on the shard alone, so on a CPU a shard's bytes do too. On a GPU that runs out of memory the batch is
    halved, which may move the last bits of logits and so, rarely, a token. A model whose rows would change each other goes
    one row at a time (`left_padding.find_batching`).
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        settings: SamplingSettings,
        generation_eos: Sequence[int],
    ) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.max_tokens = settings.max_tokens
        self.batching = find_batching(model)
        self.batch_size = settings.batch_size if self.batching.rows is None else 1
        self.settings = settings
        self.stops = frozenset(stop_ids(tokenizer, generation_eos))
        self.context = context_of(model.config)
        self.embeddings = int(model.config.get_text_config().vocab_size)
        self._has_worked = False

    def sample(
        self, requests: Sequence[Request], samples: int, seed: int, advance: Advance = ignore_progress
    ) -> Sampled:
        """See `Sampler.sample`."""
        planned = [self._rows(request, samples, seed) for request in requests]
        rows = [row for plan in planned if not isinstance(plan, Dropped) for row in plan]
        order = sorted(
            range(len(rows)), key=lambda index: (*self._kind(rows[index]), -len(rows[index].prompt_ids), index)
        )
        results: list[Sample | Dropped] = [_OVERFLOWED] * len(rows)
        start = 0
        while start < len(order):
            kind = self._kind(rows[order[start]])
            batch = [index for index in order[start : start + self.batch_size] if self._kind(rows[index]) == kind]
            decoded = self._decode([rows[index] for index in batch])
            if decoded is None:
                continue
            self._has_worked |= any(decoded)
            if not self._has_worked:
                raise not_finite(self.model)
            for index, token_ids in zip(batch, decoded, strict=True):
                results[index] = self._sample(token_ids) if token_ids else _OVERFLOWED
            advance(len(batch), sum(map(len, decoded)))
            start += len(batch)
        finished = iter(results)
        sampled: list[list[Sample] | Dropped] = []
        for plan in planned:
            if isinstance(plan, Dropped):
                sampled.append(plan)
                continue
            own = list(islice(finished, samples))
            whole = [sample for sample in own if isinstance(sample, Sample)]
            if len(whole) < samples:
                advance(-samples, 0)  # whoever takes the prompt for dropped counts its rows
            sampled.append(whole if len(whole) == samples else _OVERFLOWED)
        return sampled

    def _kind(self, row: Row) -> tuple[float, bool]:
        """What the rows of a batch have in common: their temperature, and whether the model still batches such prompts."""
        longest = self.batching.longest
        return row.temperature, longest is not None and len(row.prompt_ids) > longest

    def _rows(self, request: Request, samples: int, seed: int) -> list[Row] | Dropped:
        ids = prompt_ids(self.tokenizer, request)
        if isinstance(ids, Dropped):
            return ids
        beyond = [token for token in ids if token >= self.embeddings]
        if beyond:
            return Dropped(UNKNOWN_TOKEN, f"token {beyond[0]}, of {self.embeddings} that the model has")
        budget = token_budget(len(ids), self.max_tokens, self.context)
        if isinstance(budget, Dropped):
            return budget
        temperature = self.settings.temperature if request.temperature is None else request.temperature
        return [Row(tuple(ids), row_seed(seed, request, index), budget, temperature) for index in range(samples)]

    def _sample(self, token_ids: list[int]) -> Sample:
        reason: Literal["stop", "length"] = "stop" if token_ids[-1] in self.stops else "length"
        return Sample(decode_response(self.tokenizer, token_ids), token_ids, reason)

    def _decode(self, rows: list[Row]) -> list[list[int]] | None:
        """Token ids of every row, all of one temperature; None, and half the batch size from now on, when the GPU's memory does not hold them."""
        try:
            warpers = make_warpers(self.settings.model_copy(update={"temperature": rows[0].temperature}))
            return decode(self.model, rows, warpers, self.stops, self.batching, self.settings)
        except torch.OutOfMemoryError as error:
            if len(rows) == 1:
                raise IcrError(
                    "the GPU's memory does not hold the model and one response; lower max_tokens or use the vllm sampler"
                ) from error
        self.batch_size = len(rows) // 2
        torch.cuda.empty_cache()
        return None


@torch.inference_mode()
def decode(
    model: PreTrainedModel,
    rows: Sequence[Row],
    warpers: LogitsProcessorList | None,
    stops: Collection[int],
    batching: Batching,
    settings: SamplingSettings,
) -> list[list[int]]:
    """Sample every row to its stop token or its budget; a single row where the model does not continue several together.

    settings: whose penalties apply.

    Returns:
        per row its token ids, the stop token included; none where the model gave logits that are not finite.
    """
    device, steps = model.device, max(row.budget for row in rows)
    stream = uniforms([row.seed for row in rows], steps).to(device)
    stop_tokens = torch.tensor(sorted(stops), device=device)
    budgets = torch.tensor([row.budget for row in rows], device=device)
    tokens = torch.full((len(rows), steps), -1, dtype=torch.long, device=device)
    state: Continuation = begin(model, [row.prompt_ids for row in rows], batching)
    most_prompt = max(len(row.prompt_ids) for row in rows)
    alive = torch.arange(len(rows), device=device)
    penalties = make_penalties(settings, rows, state.logits.shape[-1], device)
    for step in range(steps):
        logits = state.logits if penalties is None else penalties.apply(state.logits, alive)
        token = choose_tokens(logits, stream[alive, step], warpers)
        tokens[alive, step] = token
        if penalties is not None:
            penalties.add(alive, token)
        tokens[alive[token < 0]] = -1  # what it sampled before that is given up
        ended = torch.isin(token, stop_tokens) | (budgets[alive] <= step + 1) | (token < 0)
        if ended.any():
            kept = (~ended).nonzero()[:, 0]
            if not len(kept):
                break
            alive, token = alive[kept], token[kept]
            state.keep(kept)
        if most_prompt + step == batching.longest:
            # The next token would change the frequencies of all rows, of what their cache holds too.
            state = recomputed(model, [(*rows[row].prompt_ids, *tokens[row, :step].tolist()) for row in alive.tolist()])
        state.advance(token)
    return [row[row >= 0].tolist() for row in tokens.cpu()]


def load(settings: SamplingSettings, policy: str, chat: ChatSettings) -> TransformersSampler:
    """The sampler of these settings, with the policy's weights."""
    tokenizer = load_tokenizer(policy, chat)
    model = load_model(
        policy, settings.dtype, settings.device, chat.trust_remote_code, quantization=settings.quantization
    )
    return TransformersSampler(model, tokenizer, settings, generation_eos(policy, chat.trust_remote_code))


def check(settings: SamplingSettings, policy: str, chat: ChatSettings) -> None:
    """Raise InputError when the policy's weight files are missing or incomplete."""
    check_weights(policy, chat.trust_remote_code, quantization=settings.quantization)
    if settings.execution == "local":  # other machines have other devices
        require_device(settings.device)
