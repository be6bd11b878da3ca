"""Prompts with instructions that a program can check, as their publishers lay them out.

- IFEval and Marco-Bench-MIF: `key`, `prompt`, `instruction_id_list` and `kwargs`, a mapping for each instruction.
- Multi-IF: `turn_1_prompt`, `turn_1_instruction_id_list`, `turn_1_kwargs` and so on, lists and mappings as JSON within texts.
- Training prompts with the columns of IFEval, or with a `ground_truth` of `{instruction_id, kwargs}`, as open-instruct has it.

Files lie as those of other prompts do (`data.prompts`), and may be named by language and variant: `es_local.jsonl`, `es_mt.jsonl`.
The variant is the source of its prompts. Of a language with several, ids end in the variant (`1000@mt`), so that none hides another.

A row that cannot be used is left out, counted and named: unlike preferences, each prompt stands for itself.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from icr_platform.core.artifacts import own_manifest, text_digest
from icr_platform.core.conversations import Conversation
from icr_platform.core.errors import InputError
from icr_platform.core.language_tags import is_english
from icr_platform.core.languages import language_name
from icr_platform.core.schemas import PROMPTS
from icr_platform.data.column_map import NO_MAP, ColumnNames
from icr_platform.data.constraints import Constraint, constraints_in, parsed
from icr_platform.data.row_fields import (
    HISTORY_FIELDS,
    INPUT_FIELD,
    KIND_FIELDS,
    KWARGS_FIELDS,
    ROW_GROUPS,
    SOURCE_FIELDS,
    SYSTEM_FIELDS,
    TRUTH_FIELD,
    BadRow,
    Columns,
    checked,
    identity_of,
)
from icr_platform.data.row_files import SourceRow
from icr_platform.data.row_messages import Turn, turn_of
from icr_platform.data.row_sources import RowSource, Wanted, name_in
from icr_platform.data.sources import open_source
from icr_platform.data.variant_parts import Part, chosen_parts, parts_of
from icr_platform.data.wording import shown

UNREADABLE, UNUSABLE, DUPLICATE, NO_INSTRUCTIONS = "unreadable", "unusable", "duplicate", "no-instructions"
"""Why a row was left out, as in the drops table."""
_MOST_LEFT_OUT = 0.5
"""Share of a language's rows; above it, the columns are probably not those that were meant."""
TURN_FIELD = re.compile(r"turn_(\d+)_(prompt|instruction_id_list|kwargs)")
TURNS_OF_A_MAP = 5
_DIGITS_OF_A_DIGEST = 16


def _wanted(unreadable: dict[int, str]) -> Wanted:
    """What a row should contain; the dictionary is told of lines that are not JSON."""
    of_turns = [
        (f"turn_{turn}_{what}",)
        for turn in range(1, TURNS_OF_A_MAP + 1)
        for what in ("prompt", "instruction_id_list", "kwargs")
    ]
    groups = (*ROW_GROUPS, KIND_FIELDS, KWARGS_FIELDS, (TRUTH_FIELD,), *of_turns)
    return Wanted(
        "prompts with instructions",
        "key, prompt, instruction_id_list and kwargs",
        groups,
        bad_row=unreadable.__setitem__,
    )


def turn_key(prompt_id: str, turn: int) -> str:
    """The id of a turn's output: that of the prompt for the first, `ID#TURN` for later ones.

    >>> turn_key("1000", 1), turn_key("1000", 3)
    ('1000', '1000#3')
    """
    return prompt_id if turn == 1 else f"{prompt_id}#{turn}"


class CheckedTurn(NamedTuple):
    """What the user says in a turn, and the instructions that the answer to it must follow."""

    text: str
    constraints: tuple[Constraint, ...]


@dataclass(frozen=True)
class VerifiablePrompt:
    """A prompt of one or several turns.

    history: messages before the first turn, as of a system text. source: variant or data set, '' when nothing names one.
    english: the first turn of the English row of the same key; None where there is none. where: file and row, for messages.
    """

    language: str
    prompt_id: str
    turns: tuple[CheckedTurn, ...]
    history: tuple[tuple[str, str], ...]
    source: str
    english: Conversation | None
    where: str

    @property
    def key(self) -> tuple[str, str]:
        return self.language, self.prompt_id

    @property
    def asked(self) -> Conversation:
        """The first turn."""
        return Conversation(self.turns[0].text, self.history)


@dataclass(frozen=True)
class VerifiableSet:
    """Prompts of several languages, in the order asked for.

    left_out: rows without a prompt, in the columns of schemas.DROPS. notes: lines for a person to read.
    """

    prompts: tuple[VerifiablePrompt, ...]
    languages: tuple[str, ...]
    left_out: tuple[Mapping[str, Any], ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def table(self) -> pa.Table:
        """The first turns, as schemas.PROMPTS."""
        rows = [
            {
                "language": prompt.language,
                "prompt_id": prompt.prompt_id,
                "instruction": prompt.turns[0].text,
                "english_instruction": prompt.english.instruction if prompt.english else None,
                "source": prompt.source,
                "messages": prompt.asked.json,
                "english_messages": prompt.english.json if prompt.english else None,
            }
            for prompt in self.prompts
        ]
        return pa.Table.from_pylist(rows, schema=PROMPTS.schema)


class _Row(NamedTuple):
    """What a row says. key: its own id; None where it has none. asked: the first turn, and how it is written."""

    key: str | None
    turns: tuple[CheckedTurn, ...]
    said: Turn
    source: str
    where: str

    @property
    def asked(self) -> Conversation:
        return self.said.asked


@dataclass
class _Reader:
    """Reads the parts of a source and keeps count of what is left out."""

    source: RowSource
    unreadable: dict[int, str]
    seen: Columns
    left_out: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def rows(self, part: Part, language: str) -> dict[str, _Row]:
        """The usable rows of a part by key, in their order.

        Raises:
            InputError: none is usable, or most are not.
        """
        where = self.source.where(part.name)
        found: dict[str, _Row] = {}
        before, total = len(self.left_out), 0
        for row in self.source.rows(part.name):
            total += 1
            reason, key = UNUSABLE, None
            try:
                key = identity_of(row.fields)
                read = _row_of(row, key, part.variant)
                name = key or text_digest(*read.asked.identity)[:_DIGITS_OF_A_DIGEST]
                if not any(turn.constraints for turn in read.turns):
                    reason = NO_INSTRUCTIONS
                    raise BadRow(
                        "has no instruction to check; add instruction_id_list and kwargs; found: "
                        + shown(list(row.fields))
                    )
                if name in found:
                    reason = DUPLICATE
                    raise BadRow(f"key {name!r} is that of {found[name].where}, which is read")
            except BadRow as error:
                self._leave_out(language, key or f"row {row.number}", reason, f"{row.where}: {error}")
                continue
            self.seen.see(where, row.fields, read.said.remarks, read.said.columns)
            found[name] = read
        for number, fault in self.unreadable.items():
            self._leave_out(language, f"row {number}", UNREADABLE, fault)
        total += len(self.unreadable)
        self.unreadable.clear()
        self._judge(where, found, before, total)
        return found

    def _leave_out(self, language: str, prompt_id: str, reason: str, detail: str) -> None:
        row = {"language": language, "prompt_id": prompt_id, "sample_index": None, "reason": reason, "detail": detail}
        self.left_out.append(row)

    def _judge(self, where: str, found: Mapping[str, _Row], before: int, total: int) -> None:
        """Say how many rows of a part were left out, and which is the first; refuse a part of which little is left."""
        lost = self.left_out[before:]
        if not total:
            raise InputError(f"{where}: empty prompt set; add rows with key, prompt, instruction_id_list and kwargs")
        if not lost:
            return
        first = str(lost[0]["detail"])
        if not found or len(lost) > _MOST_LEFT_OUT * total:
            raise InputError(f"{first}; {len(lost)} of {total} rows cannot be used")
        counts = Counter(str(row["reason"]) for row in lost)
        reasons = ", ".join(f"{count} {reason}" for reason, count in counts.items())
        self.notes.append(f"{where}: {len(lost)} of {total} rows were left out ({reasons}), the first: {first}")


def load_verifiable(
    path: str, languages: Sequence[str] = (), limit: int | None = None, columns: ColumnNames = NO_MAP
) -> VerifiableSet:
    """Read prompts with instructions that can be checked.

    Args:
        path: see the module.
        languages: tags in the order wanted; empty: English first, then every other language of the source.
        limit: keep the first `limit` keys of the English file, or of each file that shares none with it.
        columns: see `data.column_map`.

    Raises:
        InputError: nothing is there, a language is absent, no row has instructions, or most rows of a part cannot be used.
    """
    if limit is not None and limit < 1:
        raise InputError(f"config: field 'limit' is {limit}; give at least 1, or none for all")
    for code in languages:
        language_name(code)
    reader = _open(path, columns)
    notes = [*reader.source.notes]
    parts = parts_of(reader.source, languages, notes)
    chosen = chosen_parts(reader.source, parts, languages, notes)
    english_part = next((part for part in parts if is_english(part.language) and not part.variant), None)
    english_part = english_part or next((part for part in parts if is_english(part.language)), None)
    read = {(language, part): reader.rows(part, language) for language, of in chosen.items() for part in of}
    english = next((rows for (_, part), rows in read.items() if part == english_part), {})
    if english_part is not None and not english:
        left_out_before = len(reader.left_out)
        english = reader.rows(english_part, english_part.language)
        del reader.left_out[left_out_before:]  # of a language that was not asked for
    prompts = []
    for (language, part), rows in read.items():
        is_aligned = not english.keys().isdisjoint(rows)
        kept = set(list(english if is_aligned else rows)[:limit])
        ending = f"@{part.variant}" if len(chosen[language]) > 1 and part.variant else ""
        if any(row.key is None for row in rows.values()):
            notes.append(f"{reader.source.where(part.name)}: rows have no id; each is named by a digest of its prompt")
        missing = len(english.keys() - rows.keys()) if is_aligned else 0
        if missing:
            notes.append(
                f"{reader.source.where(part.name)}: {missing} of {len(english)} English prompts have no row here"
            )
        prompts += [
            VerifiablePrompt(
                language=language,
                prompt_id=f"{name}{ending}",
                turns=row.turns,
                history=row.asked.history,
                source=row.source,
                english=english[name].asked if name in english else None,
                where=row.where,
            )
            for name, row in rows.items()
            if limit is None or name in kept
        ]
    asked = {prompt.language for prompt in prompts}
    if unread := [language for language in chosen if language not in asked]:
        raise InputError(f"{path}: {unread[0]!r} has none of the first {limit} English keys; add rows or raise --limit")
    notes += [*reader.notes, *reader.seen.notes(), *_notes_of_faults(path, prompts)]
    return VerifiableSet(tuple(prompts), tuple(chosen), tuple(reader.left_out), tuple(notes))


def constraints_of(
    path: str, languages: Sequence[str], columns: ColumnNames = NO_MAP
) -> dict[tuple[str, str], tuple[Constraint, ...]]:
    """The instructions of training prompts, by language and prompt id as `data.prompts.load_prompts` gives them.

    Prompts that have none, or whose columns cannot be read, are left out: they can be sampled and trained on all the same.

    Args:
        path: of the prompts. languages: as `load_prompts` gave them. columns: of the prompts.
    """
    if own_manifest(Path(path)) is not None:
        return {}
    source = open_source(path, _wanted({}), languages, columns=columns)
    found: dict[tuple[str, str], tuple[Constraint, ...]] = {}
    for language in languages:
        name = name_in(source, language, [])
        for row in source.rows(name) if name is not None else ():
            try:
                constraints = constraints_in(row.fields)
                key = identity_of(row.fields) or text_digest(*turn_of(row.fields).asked.identity)[:_DIGITS_OF_A_DIGEST]
            except BadRow:
                continue
            if constraints:
                found[language, key] = constraints
    return found


def _open(path: str, columns: ColumnNames) -> _Reader:
    if not path:
        raise InputError("config: field 'prompts' is missing; give files of IFEval, Marco-Bench-MIF or Multi-IF")
    if Path(path).is_dir() and own_manifest(Path(path)) is not None:
        raise InputError(
            f"{path}: is an artifact of an earlier run, which has no instructions to check; give the files that it was made from"
        )
    unreadable: dict[int, str] = {}
    source = open_source(path, _wanted(unreadable), columns=columns)
    turns = [f"turn_{turn}_{what}" for turn in range(1, 10) for what in ("prompt", "instruction_id_list", "kwargs")]
    read = (*KIND_FIELDS, *KWARGS_FIELDS, TRUTH_FIELD, *turns, *SYSTEM_FIELDS, *HISTORY_FIELDS, INPUT_FIELD, "prompt")
    return _Reader(source, unreadable, Columns(path, read))


# What a row says ------------------------------------------------------------------------------------------------------------------


def _row_of(row: SourceRow, key: str | None, variant: str) -> _Row:
    """Raises BadRow where a turn or its instructions cannot be used."""
    fields = row.fields
    named = [fields[name] for name in SOURCE_FIELDS if fields.get(name)]
    source = variant or next((checked("source", str(value), "name the data set") for value in named), "")
    numbers = sorted(
        {int(found[1]) for name in fields if (found := TURN_FIELD.fullmatch(name)) and found[2] == "prompt"}
    )
    if not numbers:
        turn = turn_of(fields)
        checked_turn = CheckedTurn(turn.asked.instruction, constraints_in(fields))
        return _Row(key, (checked_turn,), turn, source, row.where)
    said = {number: asked for number in numbers if (asked := _said(fields[f"turn_{number}_prompt"])) is not None}
    if not said:
        raise BadRow("field 'turn_1_prompt' is empty; write the prompt or remove the row")
    if list(said) != list(range(1, len(said) + 1)):
        raise BadRow(f"turn_{max(said)}_prompt is there without the turns before it; write them or remove the row")
    others = {name: fields.get(name) for name in SYSTEM_FIELDS}
    turns = [turn_of({"prompt": asked, **(others if number == 1 else {})}) for number, asked in said.items()]
    followed = [
        CheckedTurn(turn.asked.instruction, constraints_in(fields, f"turn_{number}_"))
        for number, turn in enumerate(turns, 1)
    ]
    return _Row(key, tuple(followed), turns[0], source, row.where)


def _said(value: Any) -> Any:
    """A turn of the user, which may be a message as JSON; None for none. A prompt may begin with a bracket as well."""
    try:
        found = parsed(value)
    except BadRow:
        return value
    first = found[0] if isinstance(found, list) and found else found
    is_message = isinstance(first, Mapping) and not {"role", "content", "from", "value"}.isdisjoint(first)
    return found if found is None or is_message else value


def _notes_of_faults(path: str, prompts: Sequence[VerifiablePrompt]) -> Iterator[str]:
    """A note on instructions that no row says how to check."""
    faults = [
        (prompt, constraint)
        for prompt in prompts
        for turn in prompt.turns
        for constraint in turn.constraints
        if constraint.fault
    ]
    if faults:
        prompt, constraint = faults[0]
        yield (
            f"{path}: {len(faults)} instructions cannot be checked as they are written; the first is {constraint.kind!r} in "
            f"{prompt.where}: {constraint.fault}"
        )
