"""Samples of models that think: their text is the answer, and the thought stands beside it. Every sampler's samples pass here."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from icr_platform.engines.sampling.sampler import (
    Advance,
    Dropped,
    Request,
    Sample,
    Sampled,
    Sampler,
    ignore_progress,
)
from icr_platform.models.chat import encode_messages
from icr_platform.models.thinking import read_response

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class ThoughtfulSampler(Sampler):
    """A sampler of a model whose tokenizer has markers of thoughts. Token ids stay as they were sampled."""

    def __init__(self, sampler: Sampler, tokenizer: PreTrainedTokenizerBase) -> None:
        self.sampler, self.tokenizer = sampler, tokenizer

    def sample(
        self, requests: Sequence[Request], samples: int, seed: int, advance: Advance = ignore_progress
    ) -> Sampled:
        """See `Sampler.sample`."""
        return self._told_apart(requests, self.sampler.sample(requests, samples, seed, advance))

    def sample_shards(
        self, shards: Iterable[Sequence[Request]], samples: int, seed: int, advance: Advance = ignore_progress
    ) -> Iterator[Sampled]:
        """See `Sampler.sample_shards`."""
        asked: deque[Sequence[Request]] = deque()

        def seen() -> Iterator[Sequence[Request]]:  # the engine may read ahead
            for shard in shards:
                asked.append(shard)
                yield shard

        for sampled in self.sampler.sample_shards(seen(), samples, seed, advance):
            yield self._told_apart(asked.popleft(), sampled)

    def _told_apart(self, requests: Sequence[Request], sampled: Sampled) -> Sampled:
        results: list[list[Sample] | Dropped] = []
        for request, outcome in zip(requests, sampled, strict=True):
            if isinstance(outcome, Dropped):
                results.append(outcome)
                continue
            prompt_ids = encode_messages(self.tokenizer, request.messages)
            results.append([told_apart(self.tokenizer, prompt_ids, sample) for sample in outcome])
        return results


def told_apart(tokenizer: PreTrainedTokenizerBase, prompt_ids: Sequence[int], sample: Sample) -> Sample:
    """The sample with its thought told from its answer. One that ended within its thought has no answer, and counts as cut."""
    read = read_response(tokenizer, prompt_ids, sample.token_ids)
    if read.answer_start is None:
        return sample
    return replace(
        sample,
        text=read.answer,
        thought=read.thought,
        answer_start=read.answer_start,
        finish_reason="length" if read.is_cut else sample.finish_reason,
    )
