"""Answers to verifiable prompts, part by part: sampled turn by turn, or read from given files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import pyarrow as pa

from icr_platform.core.artifacts import Artifact, ArtifactWriter, row_digest
from icr_platform.core.conversations import ASSISTANT, USER, Conversation
from icr_platform.core.earlier import Earlier, with_earlier
from icr_platform.core.faults import require_few_faults
from icr_platform.core.part_job import Advance, Make, PartJob
from icr_platform.core.schemas import DROPS, OUTPUTS
from icr_platform.data.reference_outputs import IDENTIFIER, ReferenceOutputs
from icr_platform.data.verifiable import VerifiablePrompt, VerifiableSet, turn_key
from icr_platform.engines.execution.map_parts import map_parts
from icr_platform.engines.identification.language_id import Identifier, make_identifier
from icr_platform.engines.sampling.choice import make_sampler
from icr_platform.engines.sampling.response_parts import (
    PromptSlices,
    SampledRow,
    engine_gpus,
    is_shared,
    prompt_digests,
    response_table,
    take_prompts,
    unanswered_parts,
)
from icr_platform.engines.sampling.sampler import Dropped, Request, Sampler
from icr_platform.evaluation.config import InstructionsConfig
from icr_platform.evaluation.outputs import as_outputs, given_outputs, identifier_of, load_sampling

Key = tuple[str, str]
Later = Mapping[Key, tuple[str, ...]]
"""What the user says after the first turn, by language and prompt id, of prompts of several turns."""


def write_instruction_outputs(
    config: InstructionsConfig,
    asked: VerifiableSet,
    given: ReferenceOutputs | None,
    identify: Identifier,
    writer: ArtifactWriter,
    drops: ArtifactWriter,
    earlier: Earlier,
) -> tuple[Artifact, Artifact]:
    """Write the parts that are missing and the manifests. The model is loaded only when something is left to sample.

    Returns:
        the outputs, a row for each turn and sample, and schemas.DROPS of the prompts and turns that have none.

    Raises:
        IcrError: more prompts were dropped than `max_dropped` allows; everything is kept.
    """
    prompts = asked.table
    by_key = {prompt.key: prompt for prompt in asked.prompts}
    later = {prompt.key: tuple(turn.text for turn in prompt.turns[1:]) for prompt in asked.prompts if prompt.turns[1:]}
    slices = PromptSlices(prompts, config.shard_prompts)
    left, own = unanswered_parts(len(slices), writer, drops)
    identifier: str | None = identify.name
    if given is not None:
        identifier = identifier_of(given, identify)
        for index in left:
            keys = zip(*(slices[index][name].to_pylist() for name in ("language", "prompt_id")), strict=True)
            rows = [row for key in keys for row in _asked_of(by_key[key], given)]
            writer.write_part(index, given_outputs(rows, given, identify))
    else:
        turns = [sum(1 + len(later.get(key, ())) for key in _keys(part)) * config.samples for part in slices]
        job = PartJob(
            label="sample answers",
            writers=(drops, writer),
            parts=left,
            shard=slices.__getitem__,
            # Without later turns an engine of its own process may work ahead, part after part.
            load=partial(load_turns, config, later) if later else partial(load_sampling, config),
            rows=sum(turns),
            done=sum(turns) - sum(turns[index] for index in left),
            gpus=engine_gpus(config),
            use="sampled",
            is_shared=is_shared(config),
        )
        rows_of = earlier.rows("instruction_outputs", OUTPUTS, own=own)
        map_parts(with_earlier(job, rows_of, partial(conversation_digests, later), take_prompts), config)
    dropped = drops.close([index for index in range(len(slices)) if drops.has_part(index)])
    outputs = writer.close(len(slices), {IDENTIFIER: identifier} if identifier else None)
    of_prompt = {
        (prompt.language, turn_key(prompt.prompt_id, number)): prompt.key
        for prompt in asked.prompts
        for number in range(1, len(prompt.turns) + 1)
    }
    # Each prompt once, however many of its turns and samples were dropped.
    lost = {of_prompt[row["language"], row["prompt_id"]]: row["reason"] for row in dropped.read().to_pylist()}
    counts = Counter(lost.values())
    kept = f"all others have their outputs in {writer.folder}"
    require_few_faults(counts, prompts.num_rows, config.max_dropped, "prompts", kept)
    return outputs, dropped


def _keys(prompts: pa.Table) -> list[Key]:
    return list(zip(prompts["language"].to_pylist(), prompts["prompt_id"].to_pylist(), strict=True))


def conversation_digests(later: Later, prompts: pa.Table) -> list[bytes]:
    """What the answers to each prompt are made from, as their `input_digest` says it: all turns of the user."""
    first = prompt_digests(prompts)
    return [
        row_digest(digest, *later[key]) if key in later else digest
        for key, digest in zip(_keys(prompts), first, strict=True)
    ]


def _asked_of(prompt: VerifiablePrompt, given: ReferenceOutputs) -> Iterator[dict[str, Any]]:
    """Each turn of a prompt, after the first of the answers that are given to the turns before it."""
    history = prompt.history
    for number, turn in enumerate(prompt.turns, 1):
        key = turn_key(prompt.prompt_id, number)
        asked = Conversation(turn.text, history)
        yield {"language": prompt.language, "prompt_id": key, "instruction": turn.text, "messages": asked.json}
        history = (*history, (USER, turn.text), (ASSISTANT, given.get(prompt.language, key) or ""))


@dataclass
class _Talk:
    """One sample's conversation: what was said so far, and the answers."""

    language: str
    prompt_id: str
    sample_index: int
    digest: bytes
    asked: Conversation
    coming: tuple[str, ...]


def load_turns(config: InstructionsConfig, later: Later) -> Make:
    """Load the sampler; slices of prompts (schemas.PROMPTS) become drops, and outputs of all their turns.

    Every sample is a conversation of its own: its later turns are answered in sight of its own earlier answers.
    """
    identify = make_identifier(config.language_identifier)
    sampler = make_sampler(config, config.policy, config)

    def make(slices: Iterable[pa.Table], advance: Advance) -> Iterator[tuple[pa.Table, pa.Table]]:
        for prompts in slices:
            yield sample_turns(sampler, identify, config, prompts, later, advance)

    return make


def sample_turns(
    sampler: Sampler,
    identify: Identifier,
    config: InstructionsConfig,
    prompts: pa.Table,
    later: Later,
    advance: Advance,
) -> tuple[pa.Table, pa.Table]:
    """Drops and outputs of a slice of prompts; rows in the order of the prompts, their turns and their samples."""
    rows: list[tuple[SampledRow, Conversation]] = []
    drops: list[dict[str, Any]] = []
    columns = zip(*(prompts[name].to_pylist() for name in ("instruction", "messages")), strict=True)
    digests = conversation_digests(later, prompts)
    talks = [
        _Talk(*key, index, digest, Conversation.of(*said), later.get(key, ()))
        for key, said, digest in zip(_keys(prompts), columns, digests, strict=True)
        for index in range(config.samples)
    ]
    turn = 1
    while talks:
        going_on = []
        for talk, answer in zip(talks, _answers(sampler, config, talks, turn, advance), strict=True):
            key = turn_key(talk.prompt_id, turn)
            if isinstance(answer, Dropped):
                place = {
                    "language": talk.language,
                    "prompt_id": key,
                    "sample_index": None if turn == 1 else talk.sample_index,
                }
                drops.append({**place, "reason": answer.reason, "detail": answer.detail})
                advance(len(talk.coming), 0)
                continue
            rows.append((SampledRow(talk.language, key, talk.sample_index, talk.digest, answer), talk.asked))
            if talk.coming:
                said = (*talk.asked.history, (USER, talk.asked.instruction), (ASSISTANT, answer.text))
                talk.asked, talk.coming = Conversation(talk.coming[0], said), talk.coming[1:]
                going_on.append(talk)
        talks, turn = going_on, turn + 1
    order = {digest: number for number, digest in enumerate(digests)}
    rows.sort(key=lambda row: order[row[0].input_digest])  # stable: turns and samples stay in order
    table = response_table(identify, [row for row, _ in rows])
    outputs = as_outputs(table, [(asked.instruction, asked.json) for _, asked in rows])
    # A prompt that the engine refuses at once has no samples: one row says so.
    once = {(row["language"], row["prompt_id"], row["sample_index"]): row for row in drops}
    return pa.Table.from_pylist(list(once.values()), schema=DROPS.schema), outputs


def _answers(
    sampler: Sampler, config: InstructionsConfig, talks: Sequence[_Talk], turn: int, advance: Advance
) -> Iterator[Any]:
    """What becomes of each conversation's turn: a Sample, or why there is none."""
    if turn == 1:
        first = [talk for talk in talks if talk.sample_index == 0]
        asked = [config.asked(talk.asked, talk.language) for talk in first]
        requests = [
            Request(talk.language, talk.prompt_id, of.instruction, of.history)
            for talk, of in zip(first, asked, strict=True)
        ]
        for result in sampler.sample(requests, config.samples, config.seed, advance):
            if isinstance(result, Dropped):
                advance(config.samples, 0)
            yield from [result] * config.samples if isinstance(result, Dropped) else result
        return
    requests = [
        # The seed names the conversation: two samples of a prompt are answered independently of each other.
        Request(talk.language, f"{turn_key(talk.prompt_id, turn)}.{talk.sample_index}", of.instruction, of.history)
        for talk in talks
        for of in [config.asked(talk.asked, talk.language)]
    ]
    for result in sampler.sample(requests, 1, config.seed, advance):
        if isinstance(result, Dropped):
            advance(1, 0)
        yield result if isinstance(result, Dropped) else result[0]
