"""eval: sample outputs on an evaluation set, judge them against reference outputs, and state win rates, fidelity, lengths.

Metrics, per language, with `mean` and `mean_non_english` over languages:
`win_rate`, `lc_win_rate`, `fidelity`, `truncated`, `repetition` in percent (`_se`: standard error, clustered by prompt),
`length/characters`, `length/ratio` (to the reference outputs), `win_rate_n` (prompts judged), `judge/failure_rate` in percent.
`line_pass_rate` and `word_pass_rate`: of `confusion`, in percent, with ends of a 95% interval (`_low`, `_high`).
`truncated` is absent where it is not known how the outputs ended; `dropped`, in percent of the prompts, where all have an output.
Where something was thought before the answers: `thought_tokens/mean`, `thought_language_share` (percent of the thoughts in the
language of the prompt) and `thought_cut` (percent of the outputs that ended within a thought). All other figures are of the answers.
An output that ended within its thought has an empty answer, and is judged as such, as AlpacaEval does.
"""

from __future__ import annotations

import itertools
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from icr_platform.core.artifacts import Artifact, ArtifactWriter, own_manifest
from icr_platform.core.errors import IcrError
from icr_platform.core.faults import fault_notes
from icr_platform.core.schemas import CONFUSION, DROPS, JUDGMENTS, OUTPUTS, SCORES
from icr_platform.core.stage_protocol import StageContext, StageResult
from icr_platform.engines.judging.pairwise import LOW_MASS
from icr_platform.engines.sampling.choice import engine_notes
from icr_platform.evaluation.comparison_tables import head_to_head_table, judgments_by_language
from icr_platform.evaluation.config import EvalConfig
from icr_platform.evaluation.confusion_table import confusion_scores, write_confusion
from icr_platform.evaluation.fidelity import Confusion, confusion_table
from icr_platform.evaluation.inputs import EvaluationInputs, read_inputs
from icr_platform.evaluation.judgments import write_judgments
from icr_platform.evaluation.outputs import write_outputs
from icr_platform.evaluation.prompt_preferences import SAMPLE_KEY
from icr_platform.evaluation.scores import (
    JUDGED,
    MEAN,
    MEAN_NON_ENGLISH,
    UNKNOWN_END,
    Judged,
    Score,
    output_facts,
    people_table,
    score_judgments,
    score_metrics,
    score_outputs,
    scores_table,
    with_means,
)

_TABLES = {
    "outputs": OUTPUTS,
    "output_drops": DROPS,
    "judgments": JUDGMENTS,
    "confusion": CONFUSION,
    "scores": SCORES,
}
_LISTED = 1000  # rows of a table for people


def read(config: EvalConfig) -> EvaluationInputs:
    """Read and check every input; load no weights and write nothing. Raises InputError."""
    return read_inputs(config)


def run(inputs: EvaluationInputs, context: StageContext) -> StageResult:
    """Evaluate, or go on where an earlier run of the same configuration stopped.

    Raises:
        IcrError: more prompts were dropped than `max_dropped` allows, or more judgments failed than `judge_max_failures`;
            everything is kept, and the same command asks for the failed ones again.
    """
    config = inputs.config
    writers = {
        name: ArtifactWriter(context.folder / name, table, context.fingerprint) for name, table in _TABLES.items()
    }
    is_sampled = not config.outputs and not writers["outputs"].complete
    served = engine_notes(config, config.policy, config) if is_sampled else ()
    outputs, drops = write_outputs(config, inputs, writers["outputs"], writers["output_drops"], context.earlier)
    dropped = drops.read().to_pandas()
    judgments = write_judgments(config, inputs, outputs, writers["judgments"], context.earlier)
    confusion = write_confusion(outputs, writers["confusion"], inputs.english)
    scores = _score(inputs, outputs, judgments, confusion) + _dropped_scores(inputs, dropped)
    # Cheap, and written each time: running the command again may have repaired judgments that had failed.
    writers["scores"].write_part(0, scores_table(scores))
    written = writers["scores"].close(1)
    notes = inputs.notes + served + _notes(scores)
    for language, rows in dropped.groupby("language", sort=False):
        notes += tuple(fault_notes(str(language), Counter(rows["reason"]), "prompts", "output_drops"))
    _check_failures(config, scores, judgments)

    tables = {"scores": people_table(scores), "fidelity_confusion": _confusion(outputs, "detected_language")}
    if len(thoughts := _confusion(outputs, "thought_language")):
        tables["thought_languages"] = thoughts
    # Reference outputs that a run of ours made are another policy's: then the win rate is a head-to-head, with a test of 50%.
    if config.reference_outputs and own_manifest(Path(config.reference_outputs)) is not None and judgments.rows:
        tables["head_to_head"] = head_to_head_table(judgments_by_language(judgments))
    artifacts = {
        "outputs": outputs.folder,
        "judgments": judgments.folder,
        "confusion": confusion.folder,
        "scores": written.folder,
    }
    if len(dropped):
        artifacts["output_drops"] = drops.folder
        tables["output_drops"] = dropped.head(_LISTED)
    else:
        shutil.rmtree(drops.folder)
    return StageResult(
        artifacts=artifacts,
        metrics=score_metrics(scores),
        tables=tables,
        notes=notes,
    )


def _confusion(outputs: Artifact, column: str) -> pd.DataFrame:
    """In which languages the answers, or the thoughts, to the prompts of each language are."""
    parts = (outputs.read_part(index, ["language", column]) for index in range(len(outputs.parts)))
    pairs = (pair for part in parts for pair in zip(*map(pa.ChunkedArray.to_pylist, part.columns), strict=True))
    cells = confusion_table((asked, found) for asked, found in pairs if found is not None)
    return pd.DataFrame(cells[:_LISTED], columns=list(Confusion._fields))


def _score(inputs: EvaluationInputs, outputs: Artifact, judgments: Artifact, confusion: Artifact) -> list[Score]:
    """Every figure, from what the outputs say by themselves and from the judgments."""
    unknown = inputs.identify.unknown(inputs.prompts.languages)
    scores: list[Score] = []
    # Language by language: a part has prompts of one language, and the parts of a language follow each other.
    facts = (output_facts(outputs.read_part(index)) for index in range(len(outputs.parts)))
    for _, parts in itertools.groupby(filter(len, facts), lambda part: part["language"].iloc[0]):
        scores += score_outputs(pd.concat(parts, ignore_index=True), unknown)
    scores += confusion_scores(confusion.read_part(index) for index in range(len(confusion.parts)))
    scores += score_judgments(_judged(inputs, outputs, judgments), inputs.control)
    return with_means(scores)


def _judged(inputs: EvaluationInputs, outputs: Artifact, judgments: Artifact) -> Iterator[Judged]:
    """What was judged, language by language: a part of the judgments is of the part of the outputs with its number."""
    read = (
        (judgments.read_part(index, JUDGED), outputs.read_part(index, [*SAMPLE_KEY, "character_count"]))
        for index in range(len(judgments.parts))
    )
    filled = (both for both in read if len(both[0]))
    for _, parts in itertools.groupby(filled, lambda both: both[0]["language"][0].as_py()):
        judged, written = (pa.concat_tables(side).to_pandas() for side in zip(*parts, strict=True))
        keys = judged[SAMPLE_KEY].drop_duplicates().reset_index(drop=True)
        references = inputs.references
        theirs = [len(references.get(*key) or "") if references else 0 for key in keys.itertuples(index=False)]
        lengths = keys.assign(reference_characters=theirs).merge(written, on=SAMPLE_KEY, validate="one_to_one")
        yield Judged(judged, lengths)


def _dropped_scores(inputs: EvaluationInputs, dropped: pd.DataFrame) -> list[Score]:
    """The share of the prompts that have no output, of the languages with such prompts: they are in no other figure."""
    asked = inputs.prompts.table["language"]
    return [
        Score(str(language), "dropped", 100.0 * len(rows) / n, None, n, f"{len(rows)} of {n} prompts have no output")
        for language, rows in dropped.groupby("language", sort=False)
        for n in [pc.sum(pc.equal(asked, language)).as_py()]
    ]


def _failures(scores: list[Score]) -> Score | None:
    return next((score for score in scores if score.metric == "judge/failure_rate"), None)


def _notes(scores: list[Score]) -> tuple[str, ...]:
    notes = []
    failures = _failures(scores)
    if failures is not None and failures.value:
        notes.append(
            f"judge: {failures.flag} failed ({failures.value:.2f}%); they are in the judgments table and in no win rate"
        )
    for score in scores:
        if score.metric == "judge/low_mass" and score.value:
            notes.append(
                f"judge: in {score.value:.2f}% of {score.n} judgments the labels have less than {LOW_MASS:g} of the probability"
            )
    is_cut = [
        score
        for score in scores
        if score.metric == "thought_cut" and score.flag and score.language not in (MEAN, MEAN_NON_ENGLISH)
    ]
    if cut := [f"{score.language}: {score.flag}" for score in is_cut]:
        notes.append(
            f"thought_cut: {'; '.join(cut)} ended within the thought: they have no answer, and are judged as empty outputs"
        )
    unknown = {
        score.language: score.flag for score in scores if score.metric == "truncated" and UNKNOWN_END in score.flag
    }
    if unknown:
        where = "; ".join(f"{language}: {flag}" for language, flag in unknown.items())
        notes.append(f"truncated: {where}; the files of outputs do not say how they ended")
    return tuple(notes)


def _check_failures(config: EvalConfig, scores: list[Score], judgments: Artifact) -> None:
    """Raise IcrError where too many judgments failed, saying how and what to do about the first."""
    failures = _failures(scores)
    if failures is None or failures.value is None or failures.value <= config.judge_max_failures:
        return
    judged = judgments.read(["outcome", "detail"]).to_pandas()
    counts = judged["outcome"].value_counts()
    by_outcome = ", ".join(f"{name} {count}" for name, count in counts.items() if name != "ok")
    if (judged["outcome"] == "api_error").any():
        what_to_do = "the same command asks again where the endpoint failed"
    else:  # the judge answered and was not understood: asking the same again would not help
        first = judged.loc[judged["outcome"] != "ok", "detail"].iloc[0]
        what_to_do = f"the first: {first}; try --judge-answer structured, or another judge"
    raise IcrError(
        f"judge: {failures.flag} failed ({failures.value:.1f}%, above judge_max_failures {config.judge_max_failures:g}%), "
        f"by outcome {by_outcome}; all are kept in {judgments.folder}; {what_to_do}"
    )
