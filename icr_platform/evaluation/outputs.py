"""The outputs of the model under evaluation, part by part: sampled, or read from given files; prompts without one are dropped."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import pyarrow as pa

from icr_platform.core.artifacts import Artifact, ArtifactWriter, completed
from icr_platform.core.earlier import Earlier, with_earlier
from icr_platform.core.faults import require_few_faults
from icr_platform.core.part_job import Advance, Make, PartJob
from icr_platform.core.schemas import OUTPUTS
from icr_platform.data.reference_outputs import FACTS, IDENTIFIER, ReferenceOutputs
from icr_platform.engines.execution.map_parts import map_parts
from icr_platform.engines.identification.language_id import Identifier, make_identifier
from icr_platform.engines.sampling.choice import make_sampler
from icr_platform.engines.sampling.response_parts import (
    PromptSlices,
    engine_gpus,
    is_shared,
    prompt_digests,
    sample_parts,
    take_prompts,
    unanswered_parts,
)
from icr_platform.evaluation.config import EvalConfig, InstructionsConfig
from icr_platform.evaluation.inputs import EvaluationInputs

_ASKED = ["language", "prompt_id", "instruction", "messages"]


def write_outputs(
    config: EvalConfig, inputs: EvaluationInputs, writer: ArtifactWriter, drops: ArtifactWriter, earlier: Earlier
) -> tuple[Artifact, Artifact]:
    """Write the parts that are missing and the manifests. The model is loaded only when something is left to sample.

    Returns:
        the outputs, and the prompts (schemas.DROPS) that have none.

    Raises:
        IcrError: more prompts were dropped than `max_dropped` allows; everything is kept.
    """
    slices = PromptSlices(inputs.prompts.table, config.shard_prompts)
    left, own = unanswered_parts(len(slices), writer, drops)
    identifier: str | None = inputs.identify.name
    if inputs.outputs is not None:
        identifier = identifier_of(inputs.outputs, inputs.identify)
        for index in left:
            rows = slices[index].select(_ASKED).to_pylist()
            writer.write_part(index, given_outputs(rows, inputs.outputs, inputs.identify))
    else:
        total = inputs.prompts.table.num_rows * config.samples
        job = PartJob(
            label="sample outputs",
            writers=(drops, writer),
            parts=left,
            shard=slices.__getitem__,
            load=partial(load_sampling, config),
            rows=total,
            done=total - sum(map(slices.rows, left)) * config.samples,
            gpus=engine_gpus(config),
            use="sampled",
            is_shared=is_shared(config),
        )
        map_parts(with_earlier(job, earlier.rows("outputs", OUTPUTS, own=own), prompt_digests, take_prompts), config)
    dropped = drops.close([index for index in range(len(slices)) if drops.has_part(index)])
    outputs = writer.close(len(slices), {IDENTIFIER: identifier} if identifier else None)
    counts = Counter(dropped.read(["reason"])["reason"].to_pylist())
    kept = f"all others have their outputs in {writer.folder}"
    require_few_faults(counts, inputs.prompts.table.num_rows, config.max_dropped, "prompts", kept)
    return outputs, dropped


def identifier_of(outputs: ReferenceOutputs, identify: Identifier) -> str | None:
    """What identifies the languages of given outputs. An artifact's rows keep those they came with, unless another identifier is asked
    for; files have none."""
    return outputs.identifier if _keeps_languages(outputs, identify) else identify.name


def _keeps_languages(outputs: ReferenceOutputs, identify: Identifier) -> bool:
    return outputs.is_artifact and outputs.identifier in (None, identify.name)


def given_outputs(prompts: Sequence[Mapping[str, Any]], outputs: ReferenceOutputs, identify: Identifier) -> pa.Table:
    """The given outputs of some prompts, as schemas.OUTPUTS, their languages identified where that is not known.

    prompts: rows with language, prompt_id, instruction and messages.
    """
    keep = _keeps_languages(outputs, identify)
    rows = [  # of the texts of a file it is not known how they ended or how many tokens they have: null
        {**dict.fromkeys(FACTS), **prompt, **facts, "output": text, "character_count": len(text)}
        for prompt in prompts
        for _, text, facts in outputs.samples(prompt["language"], prompt["prompt_id"])
    ]
    unknown = [row for row in rows if not keep or row["detected_language"] is None]
    found = identify.of_answers([row["language"] for row in unknown], [row["output"] for row in unknown])
    for row, (code, confidence) in zip(unknown, found, strict=True):
        row.update(detected_language=code, language_confidence=confidence)
    thinking = [row for row in rows if row["thought"] and not (keep and row["thought_language"])]
    told = identify([row["thought"] for row in thinking])
    for row, (code, _) in zip(thinking, told, strict=True):
        row.update(thought_language=code)
    return pa.Table.from_pylist(rows, schema=OUTPUTS.schema)


def load_sampling(config: EvalConfig | InstructionsConfig) -> Make:
    """Load the sampler; slices of prompts (schemas.PROMPTS) become drops and outputs."""
    identify = make_identifier(config.language_identifier)
    sampler = make_sampler(config, config.policy, config)

    def make(slices: Iterable[pa.Table], advance: Advance) -> Iterator[tuple[pa.Table, pa.Table]]:
        asked: deque[dict[tuple[str, str], tuple[str, str | None]]] = deque()

        def seen() -> Iterator[pa.Table]:  # the sampler may read ahead
            for prompts in slices:
                rows = zip(*(prompts[name].to_pylist() for name in _ASKED), strict=True)
                asked.append({(language, prompt_id): (said, turns) for language, prompt_id, said, turns in rows})
                yield prompts

        for part in sample_parts(sampler, identify, seen(), config.samples, config.seed, advance, config):
            of_slice = asked.popleft()
            keys = zip(*(part.responses[name].to_pylist() for name in ("language", "prompt_id")), strict=True)
            yield part.drops, as_outputs(part.responses, [of_slice[key] for key in keys])

    return make


def as_outputs(responses: pa.Table, asked: Sequence[tuple[str, str | None]]) -> pa.Table:
    """Responses (schemas.RESPONSES) as schemas.OUTPUTS; asked: the instruction and the messages of each."""
    named = responses.rename_columns({"response": "output", "answer_start": "thought_token_count"})
    for position, name in enumerate(("instruction", "messages")):
        named = named.append_column(name, pa.array([row[position] for row in asked], pa.string()))
    return completed(named, OUTPUTS)
