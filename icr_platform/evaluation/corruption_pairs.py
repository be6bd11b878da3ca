"""Labelled pairs of outputs and their corruptions, from whatever outputs in several languages people have."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from icr_platform.core.artifacts import open_artifact, own_manifest
from icr_platform.core.conversations import Conversation
from icr_platform.core.errors import InputError
from icr_platform.core.language_tags import is_english
from icr_platform.core.languages import too_short
from icr_platform.core.schemas import OUTPUTS
from icr_platform.data.column_map import NO_MAP, ColumnNames
from icr_platform.data.labelled_pairs import LabelledPair, LabelledPairs, Side, UnusedRow
from icr_platform.data.prompts import load_prompts
from icr_platform.data.reference_outputs import load_reference_outputs, output_languages
from icr_platform.evaluation.corruptions import CORRUPTIONS, REFUSALS, Corruptions, GivenOutput, corrupt

Asked = dict[tuple[str, str], tuple[Conversation, Conversation | None]]
"""By (language, prompt_id): a prompt in the language of its outputs and in English, None where there is no English."""
_CONFIDENT = 0.5
CORRUPTED = "corruptions"
"""The source of these pairs, in tables."""


def read_corruptions(
    outputs: str,
    seed: int,
    identify: Callable[[Sequence[str], Sequence[str]], Sequence[tuple[str, float]]],
    *,
    columns: ColumnNames = NO_MAP,
    languages: Sequence[str] = (),
    limit: int | None = None,
    prompts: str = "",
    prompt_columns: ColumnNames = NO_MAP,
) -> LabelledPairs:
    """Read outputs and corrupt each in every way.

    Args:
        outputs: an artifact, or files in any layout of `data.reference_outputs`. columns: their map.
        identify: (languages asked for, texts) -> language and confidence of each; for outputs of which nothing says their language.
        languages: to keep; empty: all that the outputs are in. limit: prompts per language, the first ones.
        prompts: that the outputs answer, with English; '' where the outputs say them in rows of their own. prompt_columns: their map.

    Raises:
        InputError: nothing can be read, or no output can be corrupted.
    """
    asked, notes = _asked(outputs, columns, languages, limit, prompts, prompt_columns)
    instructions: dict[str, dict[str, str]] = {}
    for (language, prompt_id), (native, _) in asked.items():
        instructions.setdefault(language, {})[prompt_id] = native.instruction
    given = load_reference_outputs(outputs, instructions, may_be_empty=True, columns=columns)

    found: list[GivenOutput] = []
    confidence: list[float | None] = []
    for language, prompt_id in given.outputs:
        for index, text, facts in given.samples(language, prompt_id):
            is_cut, said = facts.get("finish_reason") == "length", facts.get("detected_language")
            asked_for = instructions[language][prompt_id]
            found.append(GivenOutput(language, prompt_id, text, index, asked_for, is_cut, said))
            confidence.append(facts.get("language_confidence"))
    untold = [index for index, output in enumerate(found) if output.detected is None]
    told = identify([found[index].language for index in untold], [found[index].text for index in untold])
    for index, identified in zip(untold, told, strict=True):
        found[index], confidence[index] = found[index]._replace(detected=identified[0]), identified[1]
    # As when samples are annotated: what is short, or hardly told, is not known to be in another language.
    found = [
        output._replace(detected=None) if (sure or 0.0) < _CONFIDENT or too_short(output.text) else output
        for output, sure in zip(found, confidence, strict=True)
    ]
    made = corrupt(found, seed)
    if not made.pairs:
        raise InputError(
            f"{outputs}: no output can be corrupted in any way; {next(_notes(made, len(found)), 'there is none')}"
        )
    pairs = [
        LabelledPair(
            pair.language, _pair_id(pair.prompt_id, pair.sample_index, pair.corruption), pair.prompt_id,
            *asked[pair.language, pair.prompt_id], Side(pair.chosen), Side(pair.rejected), pair.corruption, CORRUPTED,
        )
        for pair in made.pairs
    ]  # fmt: skip
    unused = [
        UnusedRow(row.language, _pair_id(*row[1:4]), row.reason, f"{row.corruption}: {REFUSALS[row.reason]}")
        for row in made.refusals
    ]
    return LabelledPairs(pairs, unused, (*notes, *given.notes, *_notes(made, len(found))))


def _asked(
    outputs: str,
    columns: ColumnNames,
    languages: Sequence[str],
    limit: int | None,
    prompts: str,
    prompt_columns: ColumnNames,
) -> tuple[Asked, tuple[str, ...]]:
    """The prompts of the outputs: those that are given, or those that the outputs say themselves; and notes on them."""
    # Prompts of fewer languages than the outputs are refused, rather than outputs left out without a word.
    languages = languages or output_languages(outputs, columns)
    is_artifact = own_manifest(Path(outputs)) is not None
    if prompts or not is_artifact:
        found = load_prompts(prompts or outputs, languages, limit, prompt_columns if prompts else columns)
        return {
            (row["language"], row["prompt_id"]): (
                Conversation.of(row["instruction"], row["messages"]),
                None
                if row["english_instruction"] is None
                else Conversation.of(row["english_instruction"], row["english_messages"]),
            )
            for row in found.table.to_pylist()
        }, (found.notes if prompts else ())  # what is not used of outputs as prompts is used as outputs
    rows = open_artifact(Path(outputs), OUTPUTS).read(["language", "prompt_id", "instruction", "messages"]).to_pylist()
    said = {(row["language"], row["prompt_id"]): Conversation.of(row["instruction"], row["messages"]) for row in rows}
    english = {prompt_id: asked for (language, prompt_id), asked in said.items() if is_english(language)}
    kept: Asked = {}
    for language in languages:
        ids = [prompt_id for code, prompt_id in said if code == language]
        kept |= {
            (language, prompt_id): (said[language, prompt_id], english.get(prompt_id)) for prompt_id in ids[:limit]
        }
    return kept, ()


def _pair_id(prompt_id: str, sample_index: int, corruption: str) -> str:
    return f"{prompt_id}{f'#{sample_index}' if sample_index else ''}/{corruption}"


def _notes(made: Corruptions, outputs: int) -> Iterator[str]:
    """A line for each corruption that cannot be applied to some outputs."""
    for name in CORRUPTIONS:
        reasons = Counter(row.reason for row in made.refusals if row.corruption == name)
        if reasons:
            said = ", ".join(f"{reason} {count:,}" for reason, count in reasons.most_common())
            yield f"{name}: {reasons.total():,} of {outputs:,} outputs cannot be corrupted so ({said}); the table of drops lists them"
