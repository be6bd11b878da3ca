"""Sampling with transformers: exact, seeded row by row, and the same in every run on a CPU."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import TYPE_CHECKING, Literal

import torch

from icr_platform.core.errors import IcrError
from icr_platform.core.faults import NOT_FINITE, UNKNOWN_TOKEN
from icr_platform.engines.sampling.decoding import Decoder, Row
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
from icr_platform.models.loading import check_weights, generation_eos, load_model, load_tokenizer
from icr_platform.models.not_finite import not_finite

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from icr_platform.core.config import ChatSettings
    from icr_platform.engines.sampling.settings import SamplingSettings


_OVERFLOWED = Dropped(NOT_FINITE, "the policy's logits are not finite numbers")


class TransformersSampler(Sampler):
    """Samples with a model in this process, `settings.batch_size` rows at a time, longest prompts first (`decoding`).

    Which rows share a step depends on the shard alone, so on a CPU a shard's bytes do too. On a GPU that runs out of memory the
    batch is halved, which may move the last bits of logits and so, rarely, a token.
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
        self.settings = settings
        self.stops = frozenset(stop_ids(tokenizer, generation_eos))
        self.decoder = Decoder(model, settings, self.stops)
        self.batch_size = settings.batch_size
        self.context = context_of(model.config)
        self.embeddings = int(model.config.get_text_config().vocab_size)
        self._has_worked = False

    def sample(
        self, requests: Sequence[Request], samples: int, seed: int, advance: Advance = ignore_progress
    ) -> Sampled:
        """See `Sampler.sample`."""
        planned = [self._rows(request, samples, seed) for request in requests]
        rows = [row for plan in planned if not isinstance(plan, Dropped) for row in plan]
        finished = iter(self._decoded(rows, advance))
        sampled: list[list[Sample] | Dropped] = []
        for plan in planned:
            if isinstance(plan, Dropped):
                sampled.append(plan)
                continue
            own = list(islice(finished, samples))
            if all(own):
                sampled.append([self._sample(token_ids) for token_ids in own])
            else:
                advance(-samples, 0)  # whoever takes the prompt for dropped counts its rows
                sampled.append(_OVERFLOWED)
        return sampled

    def _decoded(self, rows: Sequence[Row], advance: Advance) -> list[list[int]]:
        """Token ids of every row; none where the model gave logits that are not finite.

        Half as many rows at a time from now on, when the GPU's memory does not hold them.
        """
        results: dict[int, list[int]] = {}
        while len(results) < len(rows):
            left = [index for index in range(len(rows)) if index not in results]

            def done(number: int, token_ids: list[int], left: list[int] = left) -> None:
                results[left[number]] = token_ids
                advance(1, len(token_ids))

            try:
                self.decoder.decode([rows[index] for index in left], self.batch_size, done)
            except torch.OutOfMemoryError as error:
                size = min(self.batch_size, len(left))
                if size == 1:
                    raise IcrError(
                        "the GPU's memory does not hold the model and one response; lower max_tokens or use the vllm sampler"
                    ) from error
                self.batch_size = size // 2
                torch.cuda.empty_cache()
        self._has_worked |= any(results.values())
        if rows and not self._has_worked:
            raise not_finite(self.model)
        return [results[index] for index in range(len(rows))]

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
    if settings.execution != "ray":  # other machines have other devices
        require_device(settings.device)
