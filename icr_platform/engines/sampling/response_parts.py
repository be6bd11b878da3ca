"""Parts of a responses artifact: slices of one language's prompts are sampled, their languages identified, and the rows written."""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from icr_platform.core.artifacts import MANIFEST, ArtifactWriter, completed, row_digest
from icr_platform.core.config import CHAT_DEFAULTS, ChatSettings
from icr_platform.core.conversations import Conversation
from icr_platform.core.earlier import Earlier, with_earlier
from icr_platform.core.faults import FAULTS
from icr_platform.core.part_job import Advance, Make, PartJob, Throughput
from icr_platform.core.schemas import DROPS, RESPONSES
from icr_platform.engines.execution.map_parts import map_parts
from icr_platform.engines.identification.language_id import Identifier, make_identifier
from icr_platform.engines.sampling.choice import make_sampler
from icr_platform.engines.sampling.sampler import (
    Dropped,
    Request,
    Sample,
    Sampled,
    Sampler,
    ignore_progress,
    requests_of,
)
from icr_platform.engines.sampling.settings import SamplingSettings
from icr_platform.models.devices import is_cpu


class PromptSlices:
    """Runs of at most `size` consecutive prompts of one language (schemas.PROMPTS), in order: the shards.

    Each is cut when it is asked for: a table of its own takes more memory than the few prompts in it.
    """

    def __init__(self, prompts: pa.Table, size: int) -> None:
        self._prompts, self._bounds = prompts, array("q", [0])
        for end in pc.run_end_encode(prompts["language"].combine_chunks()).run_ends.to_pylist():
            self._bounds.extend(range(self._bounds[-1] + size, end, size))
            self._bounds.append(end)

    def __len__(self) -> int:
        return len(self._bounds) - 1

    def __getitem__(self, index: int) -> pa.Table:
        """index: counted from the first, 0."""
        return self._prompts.slice(self._bounds[index], self.rows(index))

    def __iter__(self) -> Iterator[pa.Table]:
        return map(self.__getitem__, range(len(self)))

    def rows(self, index: int) -> int:
        """How many prompts a slice has."""
        return self._bounds[index + 1] - self._bounds[index]


class SampledPart(NamedTuple):
    """What becomes of a slice of prompts: schemas.RESPONSES, and schemas.DROPS of the prompts that have none."""

    responses: pa.Table
    drops: pa.Table


def sample_parts(
    sampler: Sampler,
    identifier: Identifier,
    slices: Iterable[pa.Table],
    samples: int,
    seed: int,
    advance: Advance = ignore_progress,
    chat: ChatSettings = CHAT_DEFAULTS,
) -> Iterator[SampledPart]:
    """Slices of prompts (schemas.PROMPTS) in order, `samples` responses a prompt, in the prompts' order.

    chat: has the system prompt.

    A part depends on its slice, `samples` and `seed` alone: not on when, where or after what it is sampled. An engine with
    a process of its own goes on with later slices while the caller has a part.
    """
    asked: deque[tuple[list[Request], list[bytes]]] = deque()

    def shards() -> Iterator[list[Request]]:
        for prompts in slices:
            asked.append((requests_of(prompts, chat), prompt_digests(prompts)))
            yield asked[-1][0]

    for sampled in sampler.sample_shards(shards(), samples, seed, advance):
        requests, digests = asked.popleft()
        advance(samples * sum(isinstance(result, Dropped) for result in sampled), 0)
        yield SampledPart(_responses(identifier, requests, digests, sampled), _drops(requests, sampled))


def _drops(requests: Sequence[Request], sampled: Sampled) -> pa.Table:
    rows = [
        {
            "language": request.language,
            "prompt_id": request.prompt_id,
            "sample_index": None,
            "reason": result.reason,
            "detail": result.detail,
        }
        for request, result in zip(requests, sampled, strict=True)
        if isinstance(result, Dropped)
    ]
    return pa.Table.from_pylist(rows, schema=DROPS.schema)


class SampledRow(NamedTuple):
    """A sample with its key and the digest of what it was made from."""

    language: str
    prompt_id: str
    sample_index: int
    input_digest: bytes
    sample: Sample


def _responses(
    identifier: Identifier, requests: Sequence[Request], digests: Sequence[bytes], sampled: Sampled
) -> pa.Table:
    rows = [
        SampledRow(request.language, request.prompt_id, index, digest, sample)
        for request, digest, results in zip(requests, digests, sampled, strict=True)
        if not isinstance(results, Dropped)
        for index, sample in enumerate(results)
    ]
    return response_table(identifier, rows)


def response_table(identifier: Identifier, rows: Sequence[SampledRow]) -> pa.Table:
    """Samples as schemas.RESPONSES, with the languages of their answers and thoughts."""
    asked, texts = [row.language for row in rows], [row.sample.text for row in rows]
    identified = identifier.of_answers(asked, texts)
    thoughts = [row.sample.thought for row in rows]
    thought_in = iter(identifier([thought for thought in thoughts if thought is not None]))
    columns = {
        "language": asked,
        "prompt_id": [row.prompt_id for row in rows],
        "sample_index": [row.sample_index for row in rows],
        "response": texts,
        "token_ids": [row.sample.token_ids for row in rows],
        "finish_reason": [row.sample.finish_reason for row in rows],
        "token_ids_source": [row.sample.token_ids_source for row in rows],
        "token_count": [len(row.sample.token_ids) for row in rows],
        "character_count": [len(text) for text in texts],
        "detected_language": [found.language for found in identified],
        "language_confidence": [found.confidence for found in identified],
        "input_digest": [row.input_digest for row in rows],
        "answer_start": pa.array([row.sample.answer_start for row in rows], pa.int32()),
        "thought": pa.array(thoughts, pa.string()),
        "thought_language": pa.array(
            [None if thought is None else next(thought_in).language for thought in thoughts], pa.string()
        ),
    }
    return completed(pa.table(columns), RESPONSES)


def write_responses(
    settings: SamplingSettings,
    policy: str,
    chat: ChatSettings,
    prompts: pa.Table,
    seed: int,
    responses: ArtifactWriter,
    drops: ArtifactWriter,
    earlier: Earlier,
) -> tuple[int, Throughput]:
    """Sample every shard that `responses` does not contain yet and write it as a part. Loads no model when none is left.

    drops: receives a part of the same number where prompts were dropped; those that may pass are asked again. earlier: has rows
    of the same settings and policy.

    Returns:
        the number of parts there are now, for `responses.close`, and what this call sampled.
    """
    shards = PromptSlices(prompts, settings.shard_prompts)
    left, own = unanswered_parts(len(shards), responses, drops)
    total = prompts.num_rows * settings.samples
    job = PartJob(
        label="sample responses",
        writers=(drops, responses),
        parts=left,
        shard=shards.__getitem__,
        load=partial(_load, settings, policy, chat, seed),
        rows=total,
        done=total - sum(map(shards.rows, left)) * settings.samples,
        gpus=engine_gpus(settings),
        use="sampled",
        is_shared=is_shared(settings),
    )
    job = with_earlier(job, earlier.rows("responses", RESPONSES, own=own), prompt_digests, take_prompts)
    return len(shards), map_parts(job, settings)


def unanswered_parts(count: int, writer: ArtifactWriter, drops: ArtifactWriter) -> tuple[list[int], Path | None]:
    """Parts of `count` that are missing, or in which a prompt was dropped that may be answered today.

    Returns:
        their numbers; and the writer's folder, to take the rest of such parts from (`Earlier.rows`), None where there are none.
    """
    passing = [reason for reason, fault in FAULTS.items() if fault.may_pass]
    again = [
        index
        for index in range(count)
        if writer.has_part(index)
        and drops.has_part(index)
        and not set(passing).isdisjoint(drops.read_part(index)["reason"].to_pylist())
    ]
    left = sorted({*again, *(index for index in range(count) if not writer.has_part(index))})
    if left:  # the manifests would vouch for parts that are about to change
        for artifact in (writer, drops):
            (artifact.folder / MANIFEST).unlink(missing_ok=True)
    return left, writer.folder if again else None


def prompt_digests(prompts: pa.Table) -> list[bytes]:
    """What the responses to each prompt (schemas.PROMPTS) are made from, as their `input_digest` says it."""
    columns = zip(
        *(prompts[name].to_pylist() for name in ("language", "prompt_id", "instruction", "messages")), strict=True
    )
    return [
        row_digest(language, prompt_id, *Conversation.of(instruction, messages).identity)
        for language, prompt_id, instruction, messages in columns
    ]


def take_prompts(prompts: pa.Table, items: Sequence[int]) -> pa.Table:
    """Some rows of a slice of prompts."""
    return prompts.take(pa.array(items, pa.int64()))


def _load(settings: SamplingSettings, policy: str, chat: ChatSettings, seed: int) -> Make:
    identifier = make_identifier(settings.language_identifier)
    sampler = make_sampler(settings, policy, chat)

    def make(slices: Iterable[pa.Table], advance: Advance) -> Iterator[tuple[pa.Table, pa.Table]]:
        for part in sample_parts(sampler, identifier, slices, settings.samples, seed, advance, chat):
            yield part.drops, part.responses

    return make


def is_shared(settings: SamplingSettings) -> bool:
    """Whether forks of this process can go on with the sampler."""
    return settings.sampler == "transformers" and is_cpu(settings.device)


def engine_gpus(settings: SamplingSettings) -> int:
    """GPUs that the engine spans where there are any; an endpoint has its own."""
    if settings.sampler == "server" or settings.device.startswith("cpu"):
        return 0
    return settings.tensor_parallel * settings.data_parallel if settings.sampler == "vllm" else 1
