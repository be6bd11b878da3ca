"""The table of checks: which instructions each output follows, written part by part."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow as pa

from icr_platform.core.artifacts import Artifact, ArtifactWriter, row_digest
from icr_platform.core.progress import meter
from icr_platform.core.schemas import INSTRUCTION_CHECKS
from icr_platform.data.constraints import Constraint
from icr_platform.data.verifiable import CheckedTurn, VerifiablePrompt, VerifiableSet, turn_key
from icr_platform.evaluation.instruction_checks import Verdict, check, check_loosely

Turns = Mapping[tuple[str, str], tuple[VerifiablePrompt, int]]
"""Prompt and number of the turn that an output answers, by its language and prompt id."""


def write_checks(asked: VerifiableSet, outputs: Artifact, writer: ArtifactWriter) -> Artifact:
    """Check each part of the outputs, and write those whose checks are missing or are those of other outputs."""
    turns = {
        (prompt.language, turn_key(prompt.prompt_id, number)): (prompt, number)
        for prompt in asked.prompts
        for number in range(1, len(prompt.turns) + 1)
    }
    with meter("check answers", outputs.rows) as progress:
        for index in range(len(outputs.parts)):
            rows = outputs.read_part(index, ["language", "prompt_id", "sample_index", "output"]).to_pylist()
            digests = [digest for row in rows for digest in _digests(row, turns)]
            # Parts of outputs are made again where an endpoint had failed: then their checks are those of other texts.
            if not writer.has_part(index) or writer.read_part(index)["input_digest"].to_pylist() != digests:
                checked = [checked for row in rows for checked in _checks(row, turns)]
                writer.write_part(index, pa.Table.from_pylist(checked, schema=INSTRUCTION_CHECKS.schema))
            progress.advance(len(rows))
    return writer.close(len(outputs.parts))


def _turn_of(row: Mapping[str, Any], turns: Turns) -> tuple[VerifiablePrompt, int, CheckedTurn]:
    prompt, number = turns[row["language"], row["prompt_id"]]
    return prompt, number, prompt.turns[number - 1]


def _digests(row: Mapping[str, Any], turns: Turns) -> Iterator[bytes]:
    """What each check of an output is made from."""
    _, _, turn = _turn_of(row, turns)
    for constraint in turn.constraints:
        key = (row["language"], row["prompt_id"], row["sample_index"])
        yield row_digest(*key, turn.text, row["output"], constraint.kind, _json(constraint), constraint.fault)


def _json(constraint: Constraint) -> str:
    return json.dumps(constraint.kwargs, ensure_ascii=False, sort_keys=True, default=str)


def _checks(row: Mapping[str, Any], turns: Turns) -> Iterator[dict[str, Any]]:
    prompt, number, turn = _turn_of(row, turns)
    for constraint, digest in zip(turn.constraints, _digests(row, turns), strict=True):
        strict, loose = _verdicts(constraint, row["output"], prompt.language, turn.text)
        yield {
            "language": prompt.language,
            "prompt_id": prompt.prompt_id,
            "sample_index": row["sample_index"],
            "turn": number,
            "source": prompt.source,
            "instruction_id": constraint.kind,
            "kwargs": _json(constraint),
            "strict": strict.followed,
            "loose": loose.followed,
            "reason": strict.reason,
            "input_digest": digest,
        }


def _verdicts(constraint: Constraint, text: str, language: str, prompt: str) -> tuple[Verdict, Verdict]:
    """Strict and loose; what is followed to the letter is followed loosely."""
    if constraint.fault:
        unverified = Verdict(None, constraint.fault)
        return unverified, unverified
    strict = check(constraint.kind, constraint.kwargs, text, language, prompt)
    if strict.followed is not False:
        return strict, strict
    return strict, check_loosely(constraint.kind, constraint.kwargs, text, language, prompt)
