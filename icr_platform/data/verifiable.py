"""Prompts with instructions that a program can check, as their publishers lay them out.

- IFEval and Marco-Bench-MIF: `key`, `prompt`, `instruction_id_list` and `kwargs`, a mapping for each instruction.
- Multi-IF: `turn_1_prompt`, `turn_1_instruction_id_list`, `turn_1_kwargs` and so on, lists and mappings as JSON within texts.
- Training prompts with the columns of IFEval, or with a `ground_truth` of `{instruction_id, kwargs}`, as open-instruct has it.

Files lie as those of other prompts do (`data.prompts`), and may be named by language and variant: `es_local.jsonl`, `es_mt.jsonl`.
The variant is the source of its prompts. Of a language with several, ids end in the variant (`1000@mt`), so that none hides another.

A row that cannot be used is left out, counted and named: unlike preferences, each prompt stands for itself.
"""

from __future__ import annotations

import ast
import json
import math
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from icr_platform.core.artifacts import own_manifest, text_digest
from icr_platform.core.conversations import Conversation
from icr_platform.core.errors import InputError
from icr_platform.core.language_tags import ENGLISH, english_first, find_name, is_english, names_language, twice
from icr_platform.core.languages import language_name
from icr_platform.core.schemas import PROMPTS
from icr_platform.data.column_map import NO_MAP, ColumnNames
from icr_platform.data.row_fields import (
    HISTORY_FIELDS,
    ID_FIELDS,
    INPUT_FIELD,
    INSTRUCTION_FIELDS,
    KIND_FIELDS,
    KWARGS_FIELDS,
    MESSAGE_FIELDS,
    ROW_GROUPS,
    SOURCE_FIELDS,
    SYSTEM_FIELDS,
    TRUTH_FIELD,
    BadRow,
    Columns,
    checked,
    identity_of,
    refused,
    text_fault,
)
from icr_platform.data.row_files import SourceRow, stem_of
from icr_platform.data.row_messages import Turn, turn_of
from icr_platform.data.row_sources import UNNAMED, RowSource, Wanted, language_of, name_in
from icr_platform.data.sources import open_source
from icr_platform.data.wording import left_out, short, shown

UNREADABLE, UNUSABLE, DUPLICATE, NO_INSTRUCTIONS = "unreadable", "unusable", "duplicate", "no-instructions"
"""Why a row was left out, as in the drops table."""
_MOST_LEFT_OUT = 0.5
"""Share of a language's rows; above it, the columns are probably not those that were meant."""
_TURN = re.compile(r"turn_(\d+)_(prompt|instruction_id_list|kwargs)")
_TURNS_OF_A_MAP = 5
_ANSWERS = ("response", "output", "answer", "completion", "generation")
_ANSWER = re.compile(rf"turn_(\d+)_(?:{'|'.join(_ANSWERS)})")
_LISTS = ("responses", "outputs", "answers")
_ASKING = (*INSTRUCTION_FIELDS, *MESSAGE_FIELDS)
"""What a row says of one prompt, and not of its turns."""
_CUT = re.compile(r"[_\-. ]")
_VARIANT_NOT_REGION = ("mt", "ht")
"""Machine and human translation, which BCP 47 would take for Malta and Haiti."""
_DIGITS_OF_A_DIGEST = 16
_NO_TEXT = ("", "none", "null", "nan")


def _wanted(unreadable: dict[int, str]) -> Wanted:
    """What a row should contain; the dictionary is told of lines that are not JSON."""
    of_turns = [
        (f"turn_{turn}_{what}",)
        for turn in range(1, _TURNS_OF_A_MAP + 1)
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


class Constraint(NamedTuple):
    """One instruction that can be checked.

    kind: such as `punctuation:no_comma`. kwargs: of its checker, without those that are null.
    fault: why the row does not say how to check it; '' where it does.
    """

    kind: str
    kwargs: Mapping[str, Any]
    fault: str = ""


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


class _Part(NamedTuple):
    """A file, configuration, split or value of a column: its name, and the language and the variant that the name says."""

    name: str
    language: str
    variant: str


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

    def rows(self, part: _Part, language: str) -> dict[str, _Row]:
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
    parts = _parts(reader.source, languages, notes)
    chosen = _chosen(reader.source, parts, languages, notes)
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


@dataclass(frozen=True)
class AnswerRows:
    """Rows of outputs under the ids of the turns that they answer, of files named by language and variant too."""

    source: RowSource
    parts: Mapping[str, Sequence[_Part]]
    ids: Collection[tuple[str, str]]
    notes: tuple[str, ...]

    @property
    def path(self) -> str:
        return self.source.path

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.parts)

    def where(self, language: str) -> str:
        first = next(iter(self.parts.get(language, ())), None)
        return self.source.where(language if first is None else first.name)

    def rows(self, language: str) -> Iterator[SourceRow]:
        for part in self.parts[language]:
            for row in self.source.rows(part.name):
                try:
                    key = identity_of(row.fields)
                except BadRow as error:
                    raise refused(row, error) from None
                ending = f"@{part.variant}"
                # A plain file may lie beside one of a variant: what answers the variant has its ending first.
                if key is not None and part.variant and (language, key + ending) in self.ids:
                    key += ending
                yield from _turns_of_answers(row, language, key, self.ids)


def open_answers(path: str, prompts: VerifiableSet, wanted: Wanted, columns: ColumnNames = NO_MAP) -> AnswerRows:
    """Open files of outputs that answer verifiable prompts.

    Args:
        path: a folder, file, path with {language} or data set. prompts: that they answer. columns: see `data.column_map`.
        wanted: what a row of outputs has. A row may also answer each turn in a column of its own (`turn_1_response`), or all
            turns in a list (`responses`, `outputs`).

    Raises:
        InputError: nothing is there, or no part is in a language of the prompts.
    """
    of_turns = tuple((f"turn_{turn}_{name}",) for turn in range(1, _TURNS_OF_A_MAP + 1) for name in _ANSWERS)
    source = open_source(path, wanted._replace(groups=(*wanted.groups, *of_turns, (_LISTS[0],))), columns=columns)
    notes = [*source.notes]
    parts = _parts(source, prompts.languages, notes)
    chosen = {
        language: [part for part in parts if part.language == name]
        for language in prompts.languages
        if (name := find_name(language, list(dict.fromkeys(part.language for part in parts)))) is not None
    }
    ids = {
        (prompt.language, turn_key(prompt.prompt_id, turn))
        for prompt in prompts.prompts
        for turn in range(1, len(prompt.turns) + 1)
    }
    return AnswerRows(source, chosen, ids, tuple(notes))


def _turns_of_answers(
    row: SourceRow, language: str, key: str | None, ids: Collection[tuple[str, str]]
) -> Iterator[SourceRow]:
    """A row for each turn that it answers; one that answers the prompt stays as it is, under its key."""
    fields = {name: value for name, value in row.fields.items() if not _TURN.fullmatch(name)}
    answers: dict[int, Any] = {}
    for name in _LISTS:
        value = fields.get(name)
        if isinstance(value, list) and value and not isinstance(value[0], Mapping) and name in fields:
            answers = dict(enumerate(fields.pop(name), 1))
            break
    for name in list(fields):
        if (found := _ANSWER.fullmatch(name)) is not None:
            answers[int(found[1])] = fields.pop(name)
    if not answers:
        yield row._replace(fields=fields if key is None else {"prompt_id": key, **_without_ids(fields)})
        return
    if key is None:
        raise InputError(f"{row.where}: answers several turns and has no id; add the prompt's key")
    for turn, answer in sorted(answers.items()):
        if answer is not None:
            if (language, turn_key(key, turn)) not in ids and (language, key) in ids:
                raise InputError(
                    f"{row.where}: answers turn {turn} of {key!r}, which has fewer; give one answer to each turn"
                )
            others = {name: value for name, value in _without_ids(fields).items() if name not in _ASKING}
            yield row._replace(fields={"prompt_id": turn_key(key, turn), **others, "output": answer})


def _without_ids(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if name not in ID_FIELDS}


# Which part is in which language --------------------------------------------------------------------------------------------------


def language_and_variant(name: str) -> tuple[str, str] | None:
    """The language that a name says at its beginning or its end, and the variant that the rest of it says; None without a language.

    >>> [language_and_variant(name) for name in ("es", "es_local", "zh_mt", "pt_BR", "mt", "zh-Hant_mt", "ifeval_fr", "train")]
    [('es', ''), ('es', 'local'), ('zh', 'mt'), ('pt_BR', ''), ('mt', ''), ('zh-Hant', 'mt'), ('fr', 'ifeval'), None]
    """
    cuts = [found.start() for found in _CUT.finditer(name)]
    last = name[cuts[-1] + 1 :] if cuts else ""
    if names_language(language_of(name)) and last not in _VARIANT_NOT_REGION:
        return language_of(name), ""
    for cut in reversed(cuts):
        if names_language(language := language_of(name[:cut])):
            return language, name[cut + 1 :]
    for cut in cuts:
        if names_language(language := language_of(name[cut + 1 :])):
            return language, name[:cut]
    return None


def _parts(source: RowSource, languages: Sequence[str], notes: list[str]) -> list[_Part]:
    """The parts of a source that are in some language. Rows of a source that names none are in the one asked for, or in English."""
    parts, unread = [], []
    for name in source.names:
        stem = name or stem_of(Path(source.path).name) or ""
        said = language_and_variant(stem)
        if said is not None:
            parts.append(_Part(name, *said))
        elif name != UNNAMED:
            unread.append(name)
        elif len(languages) > 1:
            raise InputError(
                f"{source.path}: nothing says which rows are in which of {', '.join(languages)}; add a column 'language', or give a "
                "folder of LANG.jsonl"
            )
        else:
            parts.append(_Part(name, languages[0] if languages else ENGLISH, ""))
            if not languages:
                notes.append(
                    f"{source.path}: nothing says its language; read as {ENGLISH!r}, name another in --languages"
                )
    notes += left_out(source.path, unread)
    if not parts:
        raise InputError(f"{source.path}: nothing is named by a language; found: {shown(source.names)}")
    return parts


def _chosen(
    source: RowSource, parts: Sequence[_Part], languages: Sequence[str], notes: list[str]
) -> dict[str, list[_Part]]:
    """The parts of each language that will be read, and notes on their variants."""
    there = list(dict.fromkeys(part.language for part in parts))
    chosen: dict[str, list[_Part]] = {}
    if not languages and (same := twice(there)):
        raise InputError(
            f"{source.path}: {same[1]!r} is the language of {same[0]!r}, which is there too; choose one with --languages"
        )
    for language in dict.fromkeys(languages or english_first(there)):
        try:
            name = find_name(language, there)
        except InputError as error:
            raise InputError(f"{source.path}: {error}") from None
        if name is None:
            raise InputError(f"{source.path}: language {language!r} is missing; found: {shown(source.names)}; add it")
        if name != language:
            notes.append(f"{source.path}: {name!r} is read for {language!r}, the same language")
        chosen[language] = [part for part in parts if part.language == name]
    one = [(part.name or source.path, code, part.variant) for code, [part, *more] in chosen.items() if not more]
    if named := [f"{name!r} is {code!r} ({variant})" for name, code, variant in one if variant]:
        notes.append(f"{source.path}: files are named by language and variant: {', '.join(named)}")
    for language, of in chosen.items():
        if len(of) > 1:
            names = [repr(part.name) for part in of]
            endings = " and ".join(f"@{part.variant}" for part in of if part.variant)
            notes.append(
                f"{source.path}: {', '.join(names[:-1])} and {names[-1]} are all {language!r}: each is a source of its own, and ids "
                f"end in {endings}; to read one only, write its place, as in {source.path}/{{language}}_{of[-1].variant}.jsonl"
            )
    return chosen


# What a row says ------------------------------------------------------------------------------------------------------------------


def _row_of(row: SourceRow, key: str | None, variant: str) -> _Row:
    """Raises BadRow where a turn or its instructions cannot be used."""
    fields = row.fields
    named = [fields[name] for name in SOURCE_FIELDS if fields.get(name)]
    source = variant or next((checked("source", str(value), "name the data set") for value in named), "")
    numbers = sorted({int(found[1]) for name in fields if (found := _TURN.fullmatch(name)) and found[2] == "prompt"})
    if not numbers:
        turn = turn_of(fields)
        checked_turn = CheckedTurn(turn.asked.instruction, constraints_in(fields))
        return _Row(key, (checked_turn,), turn, source, row.where)
    said = {number: _parsed(fields[f"turn_{number}_prompt"]) for number in numbers}
    last = max((number for number in numbers if said[number] is not None), default=0)
    if numbers[0] != 1 or said[1] is None or any(said[number] is None for number in numbers if number < last):
        raise BadRow(f"turn_{last or 1}_prompt is there without the turns before it; write them or remove the row")
    others = {name: fields.get(name) for name in SYSTEM_FIELDS}
    turns = [turn_of({"prompt": said[number], **(others if number == 1 else {})}) for number in numbers[:last]]
    followed = [
        CheckedTurn(turn.asked.instruction, constraints_in(fields, f"turn_{number}_"))
        for number, turn in zip(numbers, turns, strict=False)
    ]
    return _Row(key, tuple(followed), turns[0], source, row.where)


def constraints_in(fields: Mapping[str, Any], before: str = "") -> tuple[Constraint, ...]:
    """The instructions of a row, or of one of its turns; none where it has no column of them.

    before: stands before the names of the columns, such as `turn_1_`.

    Raises:
        BadRow: the column of kinds is not a list of texts.

    >>> constraints_in({"instruction_id_list": ["a:b"], "kwargs": ['{"n": 3.0, "m": null}']})
    (Constraint(kind='a:b', kwargs={'n': 3}, fault=''),)
    """
    given: Mapping[str, Any] = fields
    truth = None if before else _parsed(fields.get(TRUTH_FIELD))
    if not any(fields.get(name) is not None for name in KIND_FIELDS) and (found := _of_truth(truth)) is not None:
        given = found
    name = next((f"{before}{name}" for name in KIND_FIELDS if given.get(f"{before}{name}") is not None), "")
    kinds = _kinds(given.get(name), name)
    beside = next((given[f"{before}{name}"] for name in KWARGS_FIELDS if f"{before}{name}" in given), None)
    listed = _listed_kwargs(beside, len(kinds))
    if len(listed) != len(kinds):
        # Nothing says which belong together: to judge by a guess would be to fail an answer for the file's fault.
        fault = f"the row has {len(kinds)} instructions and {len(listed)} kwargs"
        return tuple(Constraint(kind, {}, fault) for kind in kinds)
    return tuple(_constraint(kind, kwargs) for kind, kwargs in zip(kinds, listed, strict=True))


def _of_truth(truth: Any) -> Mapping[str, Any] | None:
    """open-instruct's `ground_truth`, or a list of `{instruction_id, kwargs}`, as columns; None for another kind of truth."""
    rows = [truth] if isinstance(truth, Mapping) else truth
    if not isinstance(rows, list) or not rows or not all(isinstance(row, Mapping) for row in rows):
        return None
    if not all("instruction_id" in row for row in rows):
        return None
    kinds: list[Any] = []
    kwargs: list[Any] = []
    for row in rows:
        said, beside = _parsed(row["instruction_id"]), _parsed(row.get("kwargs"))
        kinds += said if isinstance(said, list) else [said]
        kwargs += beside if isinstance(beside, list) else [beside]
    return {KIND_FIELDS[0]: kinds, KWARGS_FIELDS[0]: kwargs}


def _kinds(value: Any, name: str) -> list[str]:
    value = _parsed(value)
    if value is None:
        return []
    found = [part.strip() for part in value.split(",")] if isinstance(value, str) else value
    if not isinstance(found, list) or not all(isinstance(kind, str) and kind.strip() for kind in found):
        raise BadRow(f'field {name!r} is {short(repr(value))}; give a list such as ["punctuation:no_comma"]')
    if fault := next(filter(None, map(text_fault, found)), ""):
        raise BadRow(f"field {name!r} {fault}")
    return found


def _listed_kwargs(value: Any, count: int) -> list[Any]:
    """The kwargs of each of `count` instructions, not looked into yet."""
    value = _parsed(value)
    if value is None:
        return [None] * count
    if isinstance(value, Mapping):
        columns = [item for item in value.values() if isinstance(item, list)]
        if len(columns) == len(value) and value and {len(column) for column in columns} == {count}:
            # `datasets` gives a list of structs as a struct of lists.
            return [{name: column[index] for name, column in value.items()} for index in range(count)]
        return [value]
    return value if isinstance(value, list) else [value]


def _constraint(kind: str, kwargs: Any) -> Constraint:
    """An instruction; null stands for arguments of other kinds where a table has a column for each."""
    try:
        kwargs = _parsed(kwargs)
    except BadRow as error:
        return Constraint(kind, {}, f"its kwargs {error}")
    if kwargs is None:
        return Constraint(kind, {})
    if not isinstance(kwargs, Mapping):
        return Constraint(kind, {}, f"its kwargs are {short(repr(kwargs))}, not an object")
    if fault := text_fault(json.dumps(kwargs, ensure_ascii=False, default=str)):
        return Constraint(kind, {}, f"its kwargs: a text {fault}")
    return Constraint(kind, {str(name): _plain(value) for name, value in kwargs.items() if not _is_null(value)})


def _is_null(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def _plain(value: Any) -> Any:
    """Numbers of a column that has gaps are floats: 3.0 is 3."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _parsed(value: Any) -> Any:
    """The value of a column; a text of JSON, or of Python as pandas writes it, is read; None for what says nothing.

    Raises:
        BadRow: a text begins as a list or an object and is neither.
    """
    if _is_null(value) or (isinstance(value, str) and value.strip().lower() in _NO_TEXT):
        return None
    if not isinstance(value, str) or value.strip()[0] not in "[{":
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        try:
            return ast.literal_eval(value.strip())
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            raise BadRow(f"{short(value)!r} begins as JSON and is not; correct it") from None


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
