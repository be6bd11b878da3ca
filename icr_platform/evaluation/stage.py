"""eval: sample outputs on an evaluation set, judge them against reference outputs, and state win rates, fidelity, lengths.

Metrics, per language, with `mean` and `mean_non_english` over languages:
`win_rate`, `lc_win_rate`, `fidelity`, `truncated`, `repetition` in percent (`_se`: standard error, clustered by prompt),
`length/characters`, `length/ratio` (to the reference outputs), `win_rate_n` (prompts judged), `judge/failure_rate` in percent.
`truncated` is absent where nobody knows how the outputs ended.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pyarrow as pa

from icr_platform.core.artifacts import Artifact, ArtifactWriter, own_manifest
from icr_platform.core.errors import IcrError
from icr_platform.core.schemas import JUDGMENTS, OUTPUTS, SCORES
from icr_platform.core.stage_protocol import StageContext, StageResult
from icr_platform.engines.judging.pairwise import LOW_MASS
from icr_platform.engines.sampling.choice import engine_notes
from icr_platform.evaluation.comparison_tables import head_to_head_table, judgments_by_language
from icr_platform.evaluation.config import EvalConfig
from icr_platform.evaluation.fidelity import Confusion, confusion_table
from icr_platform.evaluation.inputs import EvaluationInputs, read_inputs
from icr_platform.evaluation.judgments import write_judgments
from icr_platform.evaluation.outputs import write_outputs
from icr_platform.evaluation.scores import (
    UNKNOWN_END,
    Score,
    output_facts,
    people_table,
    score_judgments,
    score_metrics,
    score_outputs,
    scores_from_table,
    scores_table,
    with_means,
)


def read(config: EvalConfig) -> EvaluationInputs:
    """Read and check every input; load no weights and write nothing. Raises InputError."""
    return read_inputs(config)


def run(inputs: EvaluationInputs, context: StageContext) -> StageResult:
    """Evaluate, or go on where an earlier run of the same configuration stopped.

    Raises:
        IcrError: more judgments failed than `judge_max_failures` allows; everything is kept, and the same command asks
            for the failed ones again.
    """
    config = inputs.config
    writer = _writer(context, "outputs")
    is_sampled = not config.outputs and not writer.complete
    served = engine_notes(config, config.policy, config) if is_sampled else ()
    outputs = write_outputs(config, inputs, writer, context.earlier)
    judgments = write_judgments(config, inputs, outputs, _writer(context, "judgments"), context.earlier)
    scores = _write_scores(inputs, outputs, judgments, _writer(context, "scores"))
    rows = scores_from_table(scores.read())
    _check_failures(config, rows, judgments)
    return StageResult(
        artifacts={"outputs": outputs.folder, "judgments": judgments.folder, "scores": scores.folder},
        metrics=score_metrics(rows),
        tables={
            "scores": people_table(rows),
            "fidelity_confusion": _confusion(outputs),
            **_head_to_head(config, judgments),
        },
        notes=inputs.notes + served + _notes(rows),
    )


_TABLES = {"outputs": OUTPUTS, "judgments": JUDGMENTS, "scores": SCORES}


def _writer(context: StageContext, name: str) -> ArtifactWriter:
    return ArtifactWriter(context.folder / name, _TABLES[name], context.fingerprint)


def _write_scores(inputs: EvaluationInputs, outputs: Artifact, judgments: Artifact, writer: ArtifactWriter) -> Artifact:
    """Aggregate everything; cheap, and done anew each time because a re-run may have mended failed judgments."""
    facts = pd.concat(
        [output_facts(outputs.read_part(index)) for index in range(len(outputs.parts))], ignore_index=True
    )
    judged = judgments.read().to_pandas()
    scores = score_outputs(facts, inputs.identify.unknown(inputs.prompts.languages))
    if not judged.empty:
        scores += score_judgments(judged, facts, _reference_characters(judged, inputs), inputs.control)
    writer.write_part(0, scores_table(with_means(scores)))
    return writer.close(1)


def _reference_characters(judged: pd.DataFrame, inputs: EvaluationInputs) -> pd.DataFrame:
    keys = judged[["language", "prompt_id", "sample_index"]].drop_duplicates().reset_index(drop=True)
    references = inputs.references
    lengths = [len(references.get(*key) or "") if references else 0 for key in keys.itertuples(index=False)]
    return keys.assign(reference_characters=lengths)


def _confusion(outputs: Artifact) -> pd.DataFrame:
    columns: pa.Table = outputs.read(["language", "detected_language"])
    cells = confusion_table(zip(columns["language"].to_pylist(), columns["detected_language"].to_pylist(), strict=True))
    return pd.DataFrame(cells[:1000], columns=list(Confusion._fields))


def _head_to_head(config: EvalConfig, judgments: Artifact) -> dict[str, pd.DataFrame]:
    """Intervals and p-values where the reference outputs are those of another policy, from a run of ours."""
    is_policy = bool(config.reference_outputs) and own_manifest(Path(config.reference_outputs)) is not None
    if not is_policy or not judgments.rows:
        return {}
    return {"head_to_head": head_to_head_table(judgments_by_language(judgments))}


def _failures(rows: list[Score]) -> Score | None:
    return next((score for score in rows if score.metric == "judge/failure_rate"), None)


def _notes(rows: list[Score]) -> tuple[str, ...]:
    notes = []
    failures = _failures(rows)
    if failures is not None and failures.value:
        notes.append(
            f"judge: {failures.flag} failed ({failures.value:.2f}%); they are in the judgments table and in no win rate"
        )
    for score in rows:
        if score.metric == "judge/low_mass" and score.value:
            notes.append(
                f"judge: in {score.value:.2f}% of {score.n} judgments the labels hold under {LOW_MASS:g} of the probability"
            )
    unknown = {
        score.language: score.flag for score in rows if score.metric == "truncated" and UNKNOWN_END in score.flag
    }
    if unknown:
        where = "; ".join(f"{language}: {flag}" for language, flag in unknown.items())
        notes.append(f"truncated: {where}; the files of outputs do not say how they ended")
    return tuple(notes)


def _check_failures(config: EvalConfig, rows: list[Score], judgments: Artifact) -> None:
    failures = _failures(rows)
    if failures is not None and failures.value is not None and failures.value > config.judge_max_failures:
        raise IcrError(
            f"judge: {failures.flag} failed ({failures.value:.1f}%, above judge_max_failures {config.judge_max_failures:g}%), "
            f"by outcome {_outcomes(judgments)}; all are kept in {judgments.folder}; {_mend(judgments)}"
        )


def _mend(judgments: Artifact) -> str:
    failed = judgments.read(["outcome", "detail"]).to_pandas()
    failed = failed[failed["outcome"] != "ok"]
    if (failed["outcome"] == "api_error").any():
        return "the same command asks again where the endpoint failed"
    return f"the first: {failed['detail'].iloc[0]}; try --judge-answer structured, or another judge"


def _outcomes(judgments: Artifact) -> str:
    counts = judgments.read(["outcome"]).to_pandas()["outcome"].value_counts()
    return ", ".join(f"{name} {count}" for name, count in counts.items() if name != "ok")
