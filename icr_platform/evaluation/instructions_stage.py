"""instructions: answers sampled from a policy (or given), and which of the verifiable instructions of their prompts they follow.

Metrics, in percent, per language, with `mean` and `mean_non_english` over languages: `instruction_accuracy/strict`, `.../loose` (of the
instructions that can be verified) and `prompt_accuracy/strict`, `.../loose` (of the outputs, those that follow all of them), with the ends
of their 95% intervals as `..._low/...` and `..._high/...`; `prompt_accuracy/strict-turn-2/LANG` for prompts of several turns; `unverified`.
Against a baseline: `prompt_accuracy_change/strict/LANG` in points, with its ends and `prompt_accuracy_change_p/...` (McNemar, Holm).
`line_pass_rate` and `word_pass_rate`, as of `icr eval`: whether the answers are in the language of their prompts.
All are of the answers: what was thought before them is not looked at, and one that ended within its thought is empty.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pyarrow as pa

from icr_platform.core.artifacts import Artifact, ArtifactWriter, open_artifact, own_manifest
from icr_platform.core.config import require
from icr_platform.core.errors import InputError
from icr_platform.core.faults import fault_notes
from icr_platform.core.languages import counts_as
from icr_platform.core.schemas import CONFUSION, DROPS, INSTRUCTION_CHECKS, OUTPUTS
from icr_platform.core.stage_protocol import StageContext, StageResult
from icr_platform.data.reference_outputs import WANTED, ReferenceOutputs, load_reference_outputs
from icr_platform.data.verifiable import VerifiableSet, load_verifiable, turn_key
from icr_platform.data.verifiable_answers import open_answers
from icr_platform.engines.execution.map_parts import check_execution
from icr_platform.engines.identification.language_id import Identifier, make_identifier
from icr_platform.engines.sampling.choice import check_policy, engine_notes
from icr_platform.engines.sampling.prompt_checks import check_prompts
from icr_platform.engines.sampling.sampler import Request
from icr_platform.evaluation.config import InstructionsConfig
from icr_platform.evaluation.confusion import english_words, notes_on
from icr_platform.evaluation.confusion_table import confusion_scores, write_confusion
from icr_platform.evaluation.instruction_checks import KINDS
from icr_platform.evaluation.instruction_outputs import write_instruction_outputs
from icr_platform.evaluation.instruction_scores import (
    change_metrics,
    change_table,
    flip_table,
    kind_table,
    metrics_of,
    read_checks,
    score_table,
    turn_table,
)
from icr_platform.evaluation.instruction_verdicts import write_checks
from icr_platform.evaluation.scores import people_table, score_metrics, with_means
from icr_platform.models.chat import USER

_LISTED = 1000  # rows of a table for people
_NAMED = 5
_RESPONSE_LANGUAGE = "language:response_language"


@dataclass(frozen=True)
class InstructionsInputs:
    """All that the stage reads.

    given: answers to check, where they are given and not sampled. baseline: the checks of an earlier policy; None without.
    english: words that count as English, for the word pass rate.
    """

    config: InstructionsConfig
    asked: VerifiableSet
    given: ReferenceOutputs | None
    baseline: Artifact | None
    identify: Identifier
    english: frozenset[str]
    notes: tuple[str, ...]


def read(config: InstructionsConfig) -> InstructionsInputs:
    """Read and check every input; load no weights and write nothing. Raises InputError."""
    require(config, "instructions")
    check_execution(config)
    if not (config.policy or config.outputs):
        raise InputError(
            "config: field 'policy' is missing for instructions; give --policy, or --outputs that exist already"
        )
    if not config.outputs:
        check_policy(config, config.policy, config)
    asked = load_verifiable(config.prompts, config.languages, config.limit, config.prompt_columns)
    notes = [*asked.notes, *_unknown_kinds(asked)]
    given = None
    if config.outputs:
        given = load_given(config, asked)
        notes += given.notes
    else:
        roles = sorted({request.conversation.roles for request in _requests(config, asked)} - {USER})
        check_policy(config, config.policy, config, roles)
        notes += check_prompts(config, config.policy, config, _requests(config, asked), config.max_dropped).notes
        if config.samples > 1 and not config.temperature:
            notes.append(f"temperature 0 is greedy: all {config.samples} answers to a prompt are the same")
    identify = make_identifier(config.language_identifier)
    notes += [*identify.notes(asked.languages), *notes_on(asked.languages)]
    english = english_words(config.confusion_words)
    baseline = _open_baseline(config, asked) if config.baseline else None
    return InstructionsInputs(config, asked, given, baseline, identify, english, tuple(notes))


def load_given(config: InstructionsConfig, asked: VerifiableSet) -> ReferenceOutputs:
    """The answers that are to be checked instead of sampled ones. Raises InputError."""
    instructions: dict[str, dict[str, str]] = {language: {} for language in asked.languages}
    for prompt in asked.prompts:
        for number, turn in enumerate(prompt.turns, 1):
            instructions[prompt.language][turn_key(prompt.prompt_id, number)] = turn.text
    is_artifact = own_manifest(Path(config.outputs)) is not None
    rows = None if is_artifact else open_answers(config.outputs, asked, WANTED, config.output_columns)
    return load_reference_outputs(
        config.outputs, instructions, may_be_empty=True, columns=config.output_columns, opened=rows
    )


def _requests(config: InstructionsConfig, asked: VerifiableSet) -> list[Request]:
    """Every turn as a model is given it at least: after answers of a word each."""
    requests = []
    for prompt in asked.prompts:
        history = prompt.history
        for number, turn in enumerate(prompt.turns, 1):
            conversation = config.asked(prompt.asked._replace(instruction=turn.text, history=history), prompt.language)
            key = turn_key(prompt.prompt_id, number)
            requests.append(Request(prompt.language, key, conversation.instruction, conversation.history))
            history = (*history, ("user", turn.text), ("assistant", "x"))
    return requests


def _unknown_kinds(asked: VerifiableSet) -> Iterator[str]:
    """A note on kinds of instructions that have no checker."""
    counts = Counter(
        constraint.kind for prompt in asked.prompts for turn in prompt.turns for constraint in turn.constraints
    )
    unknown = {kind: count for kind, count in counts.items() if kind not in KINDS}
    if unknown:
        named = ", ".join(f"{kind!r} ({count})" for kind, count in list(unknown.items())[:_NAMED])
        more = f" and {len(unknown) - _NAMED} more" if len(unknown) > _NAMED else ""
        yield (
            f"instructions of these kinds have no checker and are unverified: {named}{more}; known kinds: "
            f"{', '.join(sorted(KINDS))}"
        )


def _open_baseline(config: InstructionsConfig, asked: VerifiableSet) -> Artifact:
    """The checks to compare with; raises InputError where they have no prompt in common with these."""
    baseline = open_artifact(Path(config.baseline), INSTRUCTION_CHECKS)
    keys = baseline.read(["language", "prompt_id"])
    there = set(zip(keys["language"].to_pylist(), keys["prompt_id"].to_pylist(), strict=True))
    if not any(prompt.key in there for prompt in asked.prompts):
        raise InputError(
            f"{config.baseline}: field 'baseline' has no prompt in common with {config.prompts}; give the instruction_checks of a run on "
            "the same prompts"
        )
    return baseline


def run(inputs: InstructionsInputs, context: StageContext) -> StageResult:
    """Sample and check, or go on where an earlier run of the same configuration stopped.

    Raises:
        IcrError: more prompts were dropped than `max_dropped` allows; everything is kept.
    """
    config, asked = inputs.config, inputs.asked
    outputs_writer = ArtifactWriter(context.folder / "instruction_outputs", OUTPUTS, context.fingerprint)
    drops_writer = ArtifactWriter(context.folder / "instruction_drops", DROPS, context.fingerprint)
    checks_writer = ArtifactWriter(context.folder / "instruction_checks", INSTRUCTION_CHECKS, context.fingerprint)
    confusion_writer = ArtifactWriter(context.folder / "instruction_confusion", CONFUSION, context.fingerprint)
    is_sampled = not config.outputs and not outputs_writer.complete
    notes = [*inputs.notes, *(engine_notes(config, config.policy, config) if is_sampled else ())]
    outputs, drops = write_instruction_outputs(
        config, asked, inputs.given, inputs.identify, outputs_writer, drops_writer, context.earlier
    )
    checks = write_checks(asked, outputs, checks_writer)
    confusion = write_confusion(outputs, confusion_writer, inputs.english)
    dropped = drops.read()
    for language, rows in dropped.to_pandas().groupby("language", sort=False):
        notes += fault_notes(str(language), Counter(rows["reason"]), "prompts", "instruction_drops")
    if asked.left_out:  # rows that were never prompts: they are listed with those that have no output
        number = len(outputs.parts)
        drops_writer.write_part(number, pa.Table.from_pylist(list(asked.left_out), schema=DROPS.schema))
        listed = drops_writer.close([part for part in range(number + 1) if drops_writer.has_part(part)])
        dropped = listed.read()

    frame = read_checks(checks)
    scores, kinds, turns = score_table(frame), kind_table(frame), turn_table(frame)
    elsewhere = asked_for_in_another_language(asked)
    parts = (without_prompts(confusion.read_part(index), elsewhere) for index in range(len(confusion.parts)))
    rates = with_means(confusion_scores(parts))
    if elsewhere:
        notes.append(
            f"{len(elsewhere)} prompts ask for an answer in another language than their own: their answers are in no line or word pass rate"
        )
    metrics = metrics_of(frame, turns) | score_metrics(rates)
    tables = {"instruction_scores": scores, "instruction_kinds": kinds.head(_LISTED)}
    tables |= {"pass_rates": people_table(rates)} if rates else {}
    tables |= {"instruction_turns": turns} if len(turns) else {}
    if inputs.baseline is not None:
        before = read_checks(inputs.baseline)
        changes = change_table(before, frame)
        metrics |= change_metrics(changes)
        tables |= {"instruction_changes": changes, "instruction_flips": flip_table(before, frame).head(_LISTED)}
    notes += _notes(scores, kinds)
    artifacts = {
        "instruction_outputs": outputs.folder,
        "instruction_checks": checks.folder,
        "instruction_confusion": confusion.folder,
    }
    if dropped.num_rows:
        artifacts["instruction_drops"] = drops.folder
        tables["instruction_drops"] = dropped.to_pandas().head(_LISTED)
    else:
        shutil.rmtree(drops.folder)
    return StageResult(artifacts, metrics, tables, tuple(notes))


def asked_for_in_another_language(asked: VerifiableSet) -> set[tuple[str, str]]:
    """Language and id of the turns whose answers are right to be in another language than that of their prompt."""
    return {
        (prompt.language, turn_key(prompt.prompt_id, number))
        for prompt in asked.prompts
        for number, turn in enumerate(prompt.turns, 1)
        for constraint in turn.constraints
        if constraint.kind == _RESPONSE_LANGUAGE
        and not counts_as(prompt.language, str(constraint.kwargs.get("language", prompt.language)))
    }


def without_prompts(rows: pa.Table, keys: Collection[tuple[str, str]]) -> pa.Table:
    """Rows of other prompts than these, which are given by language and id."""
    found = zip(rows["language"].to_pylist(), rows["prompt_id"].to_pylist(), strict=True)
    return rows.filter(pa.array([key not in keys for key in found], pa.bool_()))


def _notes(scores: pd.DataFrame, kinds: pd.DataFrame) -> Iterator[str]:
    """What is in no accuracy, and why."""
    for language, of in scores.groupby("language", sort=False):
        partly, none = int(of["partly_unverified"].sum()), int(of["not_judged"].sum())
        own = kinds[(kinds["language"] == language) & (kinds["unverified"] > 0)]
        if not len(own):
            continue
        total = int(own["unverified"].sum() + of["instructions"].sum())
        most = own.sort_values("unverified", ascending=False).iloc[0]
        yield (
            f"{language}: {int(own['unverified'].sum())} of {total} instructions cannot be verified and count neither way, {most['unverified']} of "
            f"them {most['instruction_id']!r} ({most['reason']}); {partly} outputs are judged on their other instructions, {none} have no other"
        )
