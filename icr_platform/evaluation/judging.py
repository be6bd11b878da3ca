"""Which judge a configuration asks for, and the judgments table it fills part by part."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from icr_platform.artifacts import MANIFEST, Artifact, ArtifactWriter
from icr_platform.config import EvalConfig
from icr_platform.evaluation.inputs import EvaluationInputs
from icr_platform.evaluation.pairwise import Judge, Judgment, Pair
from icr_platform.progress import meter
from icr_platform.schemas import JUDGMENTS


def make_judge(config: EvalConfig, inputs: EvaluationInputs) -> Judge:
    """The judge that `config.judge` names. To add one, write a class with `judge` and name it here and in the config."""
    if config.judge == "demo":
        from icr_platform.evaluation.demo_judge import DemoJudge

        return DemoJudge()
    if config.judge == "logprob":
        from icr_platform.evaluation.local_judge import LocalJudge

        return LocalJudge(
            config.judge_model, inputs.template, config.both_orders, config.seed, config.dtype, config.device
        )
    from icr_platform.evaluation.judge import ApiJudge

    return ApiJudge.from_config(config, inputs.template)


def pairs_of(outputs: pa.Table, inputs: EvaluationInputs) -> list[Pair]:
    """Pairs of a part of the outputs table; outputs without a reference output have none."""
    pairs = []
    for row in outputs.select(["language", "prompt_id", "sample_index", "instruction", "output"]).to_pylist():
        key = (row["language"], row["prompt_id"], row["sample_index"])
        reference = inputs.references.get(*key) if inputs.references is not None else None
        if reference is not None:
            pairs.append(Pair(*key, row["instruction"], row["output"], reference))
    return pairs


def write_judgments(
    config: EvalConfig, inputs: EvaluationInputs, outputs: Artifact, writer: ArtifactWriter
) -> Artifact:
    """Judge the parts that are missing, and those in which a request failed for good, and write the manifest."""
    if config.judge == "none":
        return writer.close(0)
    parts = len(outputs.parts)
    left = [index for index in range(parts) if not writer.has_part(index) or _has_api_errors(writer.read_part(index))]
    if left:
        (writer.folder / MANIFEST).unlink(missing_ok=True)
        total = outputs.rows
        done = total - sum(outputs.read_part(index, ["language"]).num_rows for index in left)
        judge = make_judge(config, inputs)
        with meter("judge", total, done) as progress:
            tables = (pairs_of(outputs.read_part(index), inputs) for index in left)
            for index, judgments in zip(left, judge.judge(tables), strict=True):
                writer.write_part(index, judgments_table(judgments))
                progress.advance(len({judgment[:3] for judgment in judgments}))
    return writer.close(parts)


def _has_api_errors(judgments: pa.Table) -> bool:
    return bool(pc.any(pc.equal(judgments["outcome"], "api_error")).as_py())


def judgments_table(judgments: list[Judgment]) -> pa.Table:
    """As schemas.JUDGMENTS."""
    return pa.Table.from_pylist([judgment._asdict() for judgment in judgments], schema=JUDGMENTS.schema)
