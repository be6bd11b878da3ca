"""Reference outputs to compare with: real files, checked row by row and joined to the prompts by key.

`source` is an outputs artifact, a folder of `LANG.json`, a folder of `LANG/MODEL.json` with one model each, a path with
`{language}` in it (`outputs/{language}/gpt-4o-mini.json`), or whatever else `data.row_sources` opens.

An output is the answer. What a model thought before it, between markers such as `<think>` or in a column such as
`reasoning_content`, is kept apart, and a note says of how many outputs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from icr_platform.core.artifacts import open_artifact, own_manifest, text_digest
from icr_platform.core.disk_rows import OfPrompts
from icr_platform.core.errors import InputError
from icr_platform.core.language_tags import find_name, names_language
from icr_platform.core.languages import UNDETERMINED, counts_as, too_short
from icr_platform.core.schemas import OUTPUTS
from icr_platform.core.spoken_messages import TEXT_PARTS, THOUGHT_FIELDS, spoken_in, thought_text
from icr_platform.data.column_map import NO_MAP, ColumnNames, refuse_map
from icr_platform.data.row_fields import (
    HISTORY_FIELDS,
    INPUT_FIELD,
    ROW_GROUPS,
    SYSTEM_FIELDS,
    BadRow,
    Columns,
    identity_of,
    refused,
    text_fault,
)
from icr_platform.data.row_files import SourceRow
from icr_platform.data.row_messages import messages_of, turn_of
from icr_platform.data.row_sources import UNNAMED, RowSource, Wanted, name_in
from icr_platform.data.sources import open_source
from icr_platform.data.wording import shown
from icr_platform.models.thinking import split_text

Instructions = Mapping[str, Mapping[str, str]]
"""Evaluation prompts: language -> prompt id -> instruction."""
Identify = Callable[[Sequence[str]], Sequence[tuple[str, float]]]
"""Texts -> (language code, confidence in [0, 1]) of each."""

_WITH_THOUGHTS = 3  # the version of the outputs table that keeps them apart
FACTS = (
    "token_count", "finish_reason", "detected_language", "language_confidence", "input_digest", "thought", "thought_language",
    "thought_token_count",
)  # fmt: skip
"""What an outputs artifact says of an output: the findings of its sampler and its language identifier. Files say what was thought only."""
IDENTIFIER = "language_identifier"
"""The manifest of an outputs artifact says under this key what identified its languages."""
_PROBES = 60  # outputs whose language is identified, spread over the file: enough to find the file of another language
_OUTPUT_FIELDS = ("output", "response", "completion", "generation", "generated_text", "answer")
WANTED = Wanted("reference outputs", "id, instruction and output", (_OUTPUT_FIELDS, *ROW_GROUPS))
_ASKED_FIELDS = ("instruction", "prompt", "question", "query", "messages", "conversations")
_READ_BESIDE = (*_ASKED_FIELDS, *SYSTEM_FIELDS, *HISTORY_FIELDS, INPUT_FIELD, *THOUGHT_FIELDS)


@dataclass(frozen=True)
class ReferenceOutputs:
    """Reference outputs by (language, prompt_id): one per prompt, or one per sample of an outputs artifact.

    notes: lines for a person to read, about missing rows and ids that had to be guessed.
    facts: what is said of each text, in the same order: its sample_index and `FACTS`, of a file those that are known.
    is_artifact: whether an outputs artifact was read, which says them all.
    identifier: what identified the languages in `facts`; None where that is not known.
    """

    outputs: Mapping[tuple[str, str], tuple[str, ...]]
    notes: tuple[str, ...]
    facts: Mapping[tuple[str, str], tuple[Mapping[str, Any], ...]] = field(default_factory=dict)
    is_artifact: bool = False
    identifier: str | None = None

    def samples(self, language: str, prompt_id: str) -> list[tuple[int, str, Mapping[str, Any]]]:
        """Sample index, text and what is known of `FACTS` of each output of a prompt. A file has one output per prompt."""
        key = (language, prompt_id)
        facts = self.facts.get(key) or [{"sample_index": index} for index in range(len(self.outputs.get(key, ())))]
        texts = self.outputs.get(key, ())
        return [(fact["sample_index"], text, fact) for fact, text in zip(facts, texts, strict=True)]

    def get(self, language: str, prompt_id: str, sample_index: int = 0) -> str | None:
        """The output that sample `sample_index` is compared with; None when the prompt has none."""
        texts = self.outputs.get((language, prompt_id))
        return texts[sample_index % len(texts)] if texts else None


class _FileOutput(NamedTuple):
    """A row of a file of outputs; `where` says its file and number. told_apart: whether the row had more than its answer."""

    where: str
    prompt_id: str | None
    instruction: str | None
    text: str
    thought: str | None = None
    is_cut: bool = False
    told_apart: bool = False

    @property
    def facts(self) -> dict[str, Any]:
        """What the row says of its output beside the text."""
        return {"sample_index": 0, "thought": self.thought, "finish_reason": "length" if self.is_cut else None}


def load_reference_outputs(
    source: str,
    instructions: Instructions,
    identify: Identify | None = None,
    may_be_empty: bool = False,
    unknown: Collection[str] = (),
    columns: ColumnNames = NO_MAP,
    opened: RowSource | None = None,
) -> ReferenceOutputs:
    """Read the reference outputs of all prompts.

    Args:
        source: see the module.
        instructions: the evaluation prompts.
        identify: identifies languages; without it a file in another language is recognised by its instructions only.
        may_be_empty: accept empty outputs, which a model under evaluation may well write.
        unknown: languages that `identify` does not know, whose files are not checked with it.
        columns: see `data.column_map`.
        opened: the rows of `source`, where they need more than `open_source` to be told apart; else they are opened here.

    Raises:
        InputError: one line that names file, row, field and fix: a damaged file, a row without an output, an empty output, a
            duplicate row, rows of another language or prompt set.
    """
    if own_manifest(Path(source)) is not None:
        refuse_map(source, columns)
        return _load_artifact(Path(source), instructions)
    opened = opened or open_source(source, WANTED, list(instructions), columns=columns)
    outputs: OfPrompts[tuple[str, ...]] = OfPrompts()
    facts: OfPrompts[tuple[Mapping[str, Any], ...]] = OfPrompts()
    notes = list(opened.notes)
    seen = Columns(source, (*_OUTPUT_FIELDS, *_READ_BESIDE))
    for language in instructions:
        # One file without a word on languages is read where one language is asked for.
        is_only = opened.names == (UNNAMED,) and len(instructions) == 1
        name = UNNAMED if is_only else name_in(opened, language, notes)
        path = opened.where(language if name is None else name)
        if name is None:
            found = shown([code for code in opened.names if code])
            raise InputError(
                f"{path}: no such file; add reference outputs in {language!r} or leave it out of --languages; found: {found}"
            )
        joined = _join(path, list(_rows(opened, name, may_be_empty, seen)), language, instructions, notes)
        if identify is not None and language not in unknown:
            _check_language(path, language, [row.text for row in joined.values()], identify)
        for prompt_id, row in joined.items():
            outputs[language, prompt_id] = (row.text,)
            if row.told_apart:
                facts[language, prompt_id] = (row.facts,)
    return ReferenceOutputs(outputs, (*notes, *seen.notes()), facts)


class FoundOutputs(NamedTuple):
    """Outputs as they stand in a file, without a prompt set that they would have to answer.

    table: the columns of schemas.OUTPUTS, of which a file leaves most null; instruction is '' where a row has none.
    has_ids: whether prompt_id is the file's own; else it stands for the instruction. notes: as in `ReferenceOutputs`.
    """

    table: pa.Table
    has_ids: bool
    notes: tuple[str, ...]


def read_outputs(source: str, columns: ColumnNames = NO_MAP) -> FoundOutputs:
    """Read all outputs of a source. Several of one prompt are its samples.

    Raises:
        InputError: one line that names file, row, field and fix: nothing is there, or it is no file of outputs.
    """
    if own_manifest(Path(source)) is not None:
        refuse_map(source, columns)
        return FoundOutputs(open_artifact(Path(source), OUTPUTS).read(), True, ())
    opened = open_source(source, WANTED, columns=columns)
    seen = Columns(source, (*_OUTPUT_FIELDS, *_READ_BESIDE))
    rows: list[dict[str, Any]] = []
    samples: Counter[tuple[str, str]] = Counter()
    found = [(name, row) for name in opened.names for row in _rows(opened, name, True, seen)]
    if not found:
        raise InputError(f"{source}: contains no rows; give {WANTED.what}")
    has_ids = all(row.prompt_id is not None for _, row in found)
    for name, row in found:
        if not has_ids and row.instruction is None:
            raise InputError(
                f"{row.where}: field 'instruction' is missing while other rows have no id; add one of them to all rows"
            )
        prompt_id = row.prompt_id if has_ids else text_digest(" ".join((row.instruction or "").split()))[:16]
        key = (name, prompt_id or "")
        rows.append(
            row.facts
            | {
                "language": name,
                "prompt_id": prompt_id,
                "sample_index": samples[key],
                "instruction": row.instruction or "",
            }
            | {"output": row.text, "character_count": len(row.text)}
        )
        samples[key] += 1
    nullable = pa.schema([field.with_nullable(True) for field in OUTPUTS.schema])
    return FoundOutputs(pa.Table.from_pylist(rows, nullable), has_ids, (*opened.notes, *seen.notes()))


def output_languages(source: str, columns: ColumnNames = NO_MAP) -> list[str]:
    """The languages that there are outputs in; none where a path has {language} in it, or one file says nothing of any.

    Raises:
        InputError: nothing can be read.
    """
    if own_manifest(Path(source)) is not None:
        languages = open_artifact(Path(source), OUTPUTS).read(["language"])["language"].to_pylist()
        return list(dict.fromkeys(languages))
    if "{language}" in source:
        return []
    return [name for name in open_source(source, WANTED, (), columns=columns).names if names_language(name)]


def _load_artifact(folder: Path, instructions: Instructions) -> ReferenceOutputs:
    artifact = open_artifact(folder, OUTPUTS)
    samples: OfPrompts[dict[int, dict[str, Any]]] = OfPrompts()
    is_whole = (own_manifest(folder) or {}).get("schema_version", 0) < _WITH_THOUGHTS
    split = 0
    for index in range(len(artifact.parts)):
        of_part: dict[tuple[str, str], dict[int, dict[str, Any]]] = {}
        for row in artifact.read_part(index, ["language", "prompt_id", "sample_index", "output", *FACTS]).to_pylist():
            # Earlier versions wrote whatever a model said, and identified the language of its thought.
            if is_whole and (found := split_text(None, row["output"])).answer != row["output"]:
                row |= {
                    "output": found.answer,
                    "thought": found.thought,
                    "detected_language": None,
                    "language_confidence": None,
                }
                split += 1
            of_part.setdefault((row["language"], row["prompt_id"]), {})[row["sample_index"]] = row
        for key, rows in of_part.items():
            samples[key] = samples.get(key, {}) | rows
    outputs: OfPrompts[tuple[str, ...]] = OfPrompts()
    facts: OfPrompts[tuple[Mapping[str, Any], ...]] = OfPrompts()
    notes = [_note_of_thoughts(str(folder), split, artifact.rows)] if split else []
    names = dict.fromkeys(code for code, _ in samples)
    for language, prompts in instructions.items():
        name = find_name(language, names)
        if name not in (None, language):
            notes.append(f"{folder}: {name!r} is read for {language!r}, the same language")
        answered = [prompt_id for prompt_id in prompts if (name, prompt_id) in samples]
        if name is None or not answered:
            others = sorted({code for code, prompt_id in samples if prompt_id in instructions.get(code, {})})
            fix = f"leave it out with --languages {','.join(others)}" if others else "give outputs of this prompt set"
            raise InputError(f"{folder}: no output answers a prompt in {language!r}; {fix}")
        for prompt_id in answered:
            key, rows = (language, prompt_id), samples[name, prompt_id]
            outputs[key] = tuple(rows[index]["output"] for index in sorted(rows))
            facts[key] = tuple({name: rows[index][name] for name in ("sample_index", *FACTS)} for index in sorted(rows))
        _note_missing(folder, language, len(prompts), len(answered), notes)
    return ReferenceOutputs(outputs, tuple(notes), facts, True, artifact.extra.get(IDENTIFIER))


def _rows(source: RowSource, name: str, may_be_empty: bool, columns: Columns) -> Iterator[_FileOutput]:
    part = source.where(name)
    for row in source.rows(name):
        columns.see(part, row.fields)
        try:
            yield _output(row, may_be_empty)
        except BadRow as error:
            raise refused(row, error) from None


def _output(row: SourceRow, may_be_empty: bool) -> _FileOutput:
    fields = row.fields
    beside = next(filter(None, (thought_text(fields.get(name)) for name in THOUGHT_FIELDS)), "")
    field = next((name for name in _OUTPUT_FIELDS if fields.get(name) is not None), None)
    if field is None and beside:  # servers leave the answer null where the limit was reached within the thought
        field = next((name for name in _OUTPUT_FIELDS if name in fields), None)
    if field is None:
        known = ", ".join(_OUTPUT_FIELDS)
        raise BadRow(f"field 'output' is missing; add it; found: {shown(list(fields))}; known: {known}")
    output, within = _message_without_thought("" if fields[field] is None else fields[field])
    if messages := messages_of(output):
        output = messages[-1].text if messages[-1].role == "assistant" else None
    if not isinstance(output, str):
        raise BadRow(f"field {field!r} is not text; add it")
    split = split_text(None, output)
    if split.is_cut and not may_be_empty:
        raise BadRow(
            f"field {field!r} ends within a thought, before any answer; generate it again with more tokens or remove the row"
        )
    thoughts = (beside, within, split.thought or "")
    thought = "\n".join(text.strip() for text in thoughts if text.strip()) or None
    told_apart = thought is not None or split.answer != output
    if any(fault := text_fault(text) for text in (split.answer, thought or "")):
        raise BadRow(f"field {field!r} {fault}")
    if not split.answer.strip() and not may_be_empty:
        raise BadRow(f"field {field!r} is empty; generate it again or remove the row")
    identity = identity_of(fields)
    asked = next((name for name in _ASKED_FIELDS if fields.get(name) is not None), None)
    if identity is None and asked is None:
        raise BadRow(
            f"fields 'id' and 'instruction' are both missing; add one to join the row by; found: {shown(list(fields))}"
        )
    # What is called otherwise may be a prompt as a model saw it, with a template around it: it serves where there is no id.
    if identity is None or asked == "instruction":
        names = (*_ASKED_FIELDS, *SYSTEM_FIELDS, *HISTORY_FIELDS, INPUT_FIELD)
        turn = turn_of({name: fields.get(name) for name in names}, may_be_answered=True)
        return _FileOutput(row.where, identity, turn.asked.instruction, split.answer, thought, split.is_cut, told_apart)
    return _FileOutput(row.where, identity, None, split.answer, thought, split.is_cut, told_apart)


def _message_without_thought(value: Any) -> tuple[Any, str]:
    """An output that is a message, or a conversation that ends on it, without the reasoning in that message; and the reasoning."""
    last = value[-1] if isinstance(value, list) and value else value
    if not isinstance(last, Mapping):
        return value, ""
    content = last.get("content", last.get("value"))
    try:
        spoken = spoken_in({**last, "content": content})
    except ValueError:
        return value, ""  # whoever reads the message says what is wrong with it
    if isinstance(content, list):
        content = [part for part in content if part.get("type", "text") in TEXT_PARTS]
    answer = {**last, "content": "" if content is None and spoken.has_thought else content}
    return [*value[:-1], answer] if isinstance(value, list) else answer, spoken.thought


def _join(
    path: str, rows: list[_FileOutput], language: str, instructions: Instructions, notes: list[str]
) -> dict[str, _FileOutput]:
    """Row by prompt id, for the prompts of `language`."""
    if not rows:
        raise InputError(f"{path}: contains no rows; add reference outputs in {language!r}")
    prompts = instructions[language]
    without = [row for row in rows if row.prompt_id is None]
    if without and len(without) < len(rows):
        raise InputError(f"{without[0].where}: field 'id' is missing while other rows have one; add it")
    named = _by_instruction(rows, prompts) if without else _by_id(rows, language, instructions)
    joined: dict[str, _FileOutput] = {}
    for prompt_id, row in named:
        if prompt_id in joined:
            first = joined[prompt_id].where.removeprefix(f"{path}: ")
            raise InputError(f"{row.where}: prompt {prompt_id!r} was answered in {first} already; remove one of them")
        joined[prompt_id] = row
    if not joined:
        # The file of another language is the likeliest mistake, and is named as such where its instructions show it.
        texts, place = {row.instruction for row in rows}, rows[0].where
        for other, others in instructions.items():
            if other != language and texts & set(others.values()):
                raise InputError(
                    f"{place}: field 'instruction' is in {other!r}, expected {language!r}; give the outputs in {language!r}"
                )
        raise InputError(
            f"{place}: no row answers any of the {len(prompts)} prompts in {language!r}; give outputs of this prompt set"
        )
    if without:
        notes.append(f"{path}: rows have no id; {len(joined)} of {len(rows)} joined by exact instruction text")
    if split := sum(row.told_apart for row in joined.values()):
        notes.append(_note_of_thoughts(path, split, len(joined), sum(row.is_cut for row in joined.values())))
    _note_missing(path, language, len(prompts), len(joined), notes)
    return joined


def _note_of_thoughts(path: str, split: int, outputs: int, cut: int = 0) -> str:
    what = f"{path}: {split} of {outputs} outputs come with what was thought before the answer, which is kept apart"
    return f"{what}; {cut} of them end within the thought and have no answer" if cut else what


def _by_instruction(rows: list[_FileOutput], prompts: Mapping[str, str]) -> Iterator[tuple[str, _FileOutput]]:
    """Join by exact instruction text. Raises where a row's text belongs to two prompts, for it identifies neither."""
    counts = Counter(prompts.values())
    by_text = {text: prompt_id for prompt_id, text in prompts.items()}
    for row in rows:
        text = row.instruction or ""
        if counts[text] > 1:
            raise InputError(f"{row.where}: field 'instruction' is that of {counts[text]} prompts; add ids to the rows")
        if text in by_text:
            yield by_text[text], row


def _by_id(rows: list[_FileOutput], language: str, instructions: Instructions) -> Iterator[tuple[str, _FileOutput]]:
    """Join by id. Prompt sets number from 0, so an equal id proves nothing: an instruction, where there is one, must agree."""
    for row in rows:
        prompt_id = row.prompt_id or ""
        if prompt_id not in instructions[language]:
            continue
        words = (row.instruction or "").split()  # files differ in white space
        if row.instruction is not None and words != instructions[language][prompt_id].split():
            same = [code for code, prompts in instructions.items() if prompts.get(prompt_id, "").split() == words]
            whose = f"the one in {same[0]!r}" if same else "another one"
            raise InputError(
                f"{row.where}: field 'instruction' differs from prompt {prompt_id!r} in {language!r}: it is {whose}; "
                "give the outputs of this language and prompt set"
            )
        yield prompt_id, row


def _note_missing(path: Path | str, language: str, wanted: int, found: int, notes: list[str]) -> None:
    if found < wanted:
        notes.append(
            f"{path}: {wanted - found} of {wanted} prompts in {language!r} have no reference output; n = {found} there"
        )


def _check_language(path: str, language: str, outputs: list[str], identify: Identify) -> None:
    """Raise when most of the outputs looked at are clearly in one other language."""
    step = max(1, len(outputs) // _PROBES)
    probes = outputs[::step]
    # "OK" is every language. Short outputs say something together only: one counts where all of them agree with it.
    together = "\n".join(dict.fromkeys(text for text in probes if too_short(text)))
    short = UNDETERMINED if too_short(together) else identify([together])[0][0]
    found = Counter(
        code
        for text, (code, confidence) in zip(probes, identify(probes), strict=True)
        if confidence >= 0.5 and code != UNDETERMINED and (not too_short(text) or counts_as(short, code))
    )
    code = found.most_common(1)[0][0] if found else language
    count = sum(number for other, number in found.items() if counts_as(code, other))
    if not counts_as(language, code) and count > len(probes) / 2:
        raise InputError(
            f"{path}: field 'output' is in {code!r} in {count} of {len(probes)} rows looked at, expected {language!r}; "
            f"give the outputs in {language!r}"
        )
