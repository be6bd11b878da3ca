"""The outputs of the model under evaluation, part by part: sampled, or read from given files."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial

import numpy as np
import pyarrow as pa

from icr_platform.core.artifacts import Artifact, ArtifactWriter
from icr_platform.core.earlier import Earlier, with_earlier
from icr_platform.core.part_job import Advance, Make, PartJob
from icr_platform.core.schemas import OUTPUTS
from icr_platform.data.reference_outputs import FACTS, IDENTIFIER
from icr_platform.engines.execution.map_parts import map_parts
from icr_platform.engines.identification.language_id import make_identifier
from icr_platform.engines.sampling.choice import make_sampler
from icr_platform.engines.sampling.response_parts import (
    engine_gpus,
    prompt_digests,
    prompt_slices,
    sample_part,
    take_prompts,
)
from icr_platform.evaluation.config import EvalConfig
from icr_platform.evaluation.inputs import EvaluationInputs


def write_outputs(config: EvalConfig, inputs: EvaluationInputs, writer: ArtifactWriter, earlier: Earlier) -> Artifact:
    """Write the parts that are missing and the manifest. The model is loaded only when something is left to sample."""
    slices = list(prompt_slices(inputs.prompts.table, config.shard_prompts))
    left = [index for index in range(len(slices)) if not writer.has_part(index)]
    identifier: str | None = config.language_identifier
    if inputs.outputs is not None:
        # An artifact's rows keep the languages they came with, unless another identifier is asked for; files have none.
        keep = bool(inputs.outputs.facts) and inputs.outputs.identifier in (None, identifier)
        identifier = inputs.outputs.identifier if keep else identifier
        for index in left:
            rows = [  # of the texts of a file it is not known how they ended or how many tokens they have: null
                dict.fromkeys(FACTS) | prompt | facts | {"output": text, "character_count": len(text)}
                for prompt in slices[index].select(["language", "prompt_id", "instruction"]).to_pylist()
                for _, text, facts in inputs.outputs.samples(prompt["language"], prompt["prompt_id"])
            ]
            if not keep:
                found = inputs.identify.of_answers([row["language"] for row in rows], [row["output"] for row in rows])
                for row, (code, confidence) in zip(rows, found, strict=True):
                    row.update(detected_language=code, language_confidence=confidence)
            writer.write_part(index, pa.Table.from_pylist(rows, schema=OUTPUTS.schema))
    else:
        total = inputs.prompts.table.num_rows * config.samples
        job = PartJob(
            label="sample outputs",
            writers=(writer,),
            parts=left,
            shard=slices.__getitem__,
            load=partial(_load, config),
            rows=total,
            done=total - sum(slices[index].num_rows for index in left) * config.samples,
            gpus=engine_gpus(config),
        )
        map_parts(with_earlier(job, earlier.rows("outputs", OUTPUTS), prompt_digests, take_prompts), config)
    return writer.close(len(slices), {IDENTIFIER: identifier} if identifier else None)


def _load(config: EvalConfig) -> Make:
    identify = make_identifier(config.language_identifier)
    sampler = make_sampler(config, config.policy, config)

    def make(slices: Iterable[pa.Table], advance: Advance) -> Iterator[tuple[pa.Table]]:
        for prompts in slices:
            responses = sample_part(sampler, identify, prompts, config.samples, config.seed, advance)
            named = responses.rename_columns({"response": "output"})
            instructions = prompts["instruction"].take(pa.array(np.repeat(np.arange(prompts.num_rows), config.samples)))
            yield (named.append_column("instruction", instructions).select(OUTPUTS.schema.names),)

    return make
