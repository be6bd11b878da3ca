"""The shard loop: slices of one language, sampled, identified, written, resumed."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import NamedTuple

import pyarrow as pa

from icr_platform.artifacts import ArtifactWriter
from icr_platform.config import GenerateSettings
from icr_platform.generation.sampler import Advance, Request, Sampler, ignore_progress, make_sampler
from icr_platform.language_id import Identifier, make_identifier
from icr_platform.progress import meter
from icr_platform.schemas import RESPONSES


class Throughput(NamedTuple):
    """What one call sampled: tokens, and seconds without loading the model. Both 0 when nothing was left to do."""

    tokens: int
    seconds: float


def prompt_slices(prompts: pa.Table, size: int) -> Iterator[pa.Table]:
    """Runs of at most `size` consecutive prompts of one language (schemas.PROMPTS), in order: the shards."""
    languages = prompts["language"].to_pylist()
    start = 0
    for row in range(1, len(languages) + 1):
        if row == len(languages) or languages[row] != languages[start] or row - start == size:
            yield prompts.slice(start, row - start)
            start = row


def sample_part(
    sampler: Sampler,
    identifier: Identifier,
    prompts: pa.Table,
    samples: int,
    seed: int,
    advance: Advance = ignore_progress,
) -> pa.Table:
    """Responses (schemas.RESPONSES) to a slice of prompts, `samples` rows each, in the prompts' order.

    Depends on its arguments alone: not on when, where or after what it runs.
    """
    keys = prompts.select(["language", "prompt_id", "instruction"]).to_pylist()
    requests = [Request(**key) for key in keys]
    rows = [
        (request, index, sample)
        for request, results in zip(requests, sampler.sample(requests, samples, seed, advance), strict=True)
        for index, sample in enumerate(results)
    ]
    identified = identifier([sample.text for _, _, sample in rows])
    columns = {
        "language": [request.language for request, _, _ in rows],
        "prompt_id": [request.prompt_id for request, _, _ in rows],
        "sample_index": [index for _, index, _ in rows],
        "response": [sample.text for _, _, sample in rows],
        "token_ids": [sample.token_ids for _, _, sample in rows],
        "finish_reason": [sample.finish_reason for _, _, sample in rows],
        "token_ids_source": [sample.token_ids_source for _, _, sample in rows],
        "token_count": [len(sample.token_ids) for _, _, sample in rows],
        "character_count": [len(sample.text) for _, _, sample in rows],
        "detected_language": [found.language for found in identified],
        "language_confidence": [found.confidence for found in identified],
    }
    return pa.Table.from_pydict(columns, schema=RESPONSES.schema)


def write_responses(
    settings: GenerateSettings, policy: str, prompts: pa.Table, seed: int, writer: ArtifactWriter
) -> tuple[int, Throughput]:
    """Sample every shard that `writer` does not hold yet and write it as a part. Loads no model when none is left.

    Returns:
        the number of parts there are now, for `writer.close`, and what this call sampled.
    """
    shards = list(prompt_slices(prompts, settings.shard_prompts))
    left = [index for index in range(len(shards)) if not writer.has_part(index)]
    if not left:
        return len(shards), Throughput(0, 0.0)
    identifier = make_identifier(settings.language_identifier)
    sampler = make_sampler(settings, policy)
    total = prompts.num_rows * settings.samples
    done = total - sum(shards[index].num_rows for index in left) * settings.samples
    start = time.monotonic()
    with meter("sample responses", total, done) as progress:
        for index in left:
            part = sample_part(sampler, identifier, shards[index], settings.samples, seed, progress.advance)
            writer.write_part(index, part)
        return len(shards), Throughput(progress.tokens, time.monotonic() - start)
