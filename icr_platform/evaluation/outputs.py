"""The outputs of the model under evaluation, part by part: sampled, or taken from files that are there already."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from icr_platform.artifacts import Artifact, ArtifactWriter
from icr_platform.config import EvalConfig
from icr_platform.evaluation.inputs import EvaluationInputs
from icr_platform.evaluation.reference_outputs import ReferenceOutputs
from icr_platform.generation.sampler import Request, Sample, make_sampler
from icr_platform.progress import meter
from icr_platform.schemas import OUTPUTS


def plan_parts(inputs: EvaluationInputs, size: int) -> list[list[Request]]:
    """Prompts of each part: at most `size` of one language, the same whatever is finished already."""
    requests = [
        Request(*row.values()) for row in inputs.prompts.table.select(list(Request.__dataclass_fields__)).to_pylist()
    ]
    parts: list[list[Request]] = []
    for request in requests:
        if not parts or parts[-1][-1].language != request.language or len(parts[-1]) == size:
            parts.append([])
        parts[-1].append(request)
    return parts


def write_outputs(config: EvalConfig, inputs: EvaluationInputs, writer: ArtifactWriter) -> Artifact:
    """Write the parts that are missing and the manifest. The model is loaded only when something is left to sample."""
    parts = plan_parts(inputs, config.shard_prompts)
    left = [index for index in range(len(parts)) if not writer.has_part(index)]
    total = sum(len(part) for part in parts) * config.samples
    done = total - sum(len(parts[index]) for index in left) * config.samples
    if inputs.outputs is not None:
        for index in left:
            writer.write_part(index, _given_part(parts[index], inputs.outputs, inputs))
    elif left:
        sampler = make_sampler(config, config.policy)
        with meter("sample outputs", total, done) as progress:
            for index in left:
                samples = sampler.sample(parts[index], config.samples, config.seed, progress.advance)
                writer.write_part(index, _sampled_part(parts[index], samples, inputs))
    return writer.close(len(parts))


def _sampled_part(
    requests: Sequence[Request], samples: Sequence[Sequence[Sample]], inputs: EvaluationInputs
) -> pa.Table:
    rows = [
        (request, index, sample.text, len(sample.token_ids), sample.finish_reason)
        for request, of_prompt in zip(requests, samples, strict=True)
        for index, sample in enumerate(of_prompt)
    ]
    return _table(rows, inputs)


def _given_part(requests: Sequence[Request], given: ReferenceOutputs, inputs: EvaluationInputs) -> pa.Table:
    rows = [
        (request, index, text, 0, "stop")
        for request in requests
        for index, text in enumerate(given.outputs.get((request.language, request.prompt_id), ()))
    ]
    return _table(rows, inputs)


def _table(rows: Sequence[tuple[Request, int, str, int, str]], inputs: EvaluationInputs) -> pa.Table:
    identified = inputs.identify([text for _, _, text, _, _ in rows])
    return pa.Table.from_pylist(
        [
            {
                "language": request.language,
                "prompt_id": request.prompt_id,
                "sample_index": index,
                "instruction": request.instruction,
                "output": text,
                "token_count": tokens,
                "character_count": len(text),
                "finish_reason": reason,
                "detected_language": found[0],
                "language_confidence": found[1],
            }
            for (request, index, text, tokens, reason), found in zip(rows, identified, strict=True)
        ],
        schema=OUTPUTS.schema,
    )
