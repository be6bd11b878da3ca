"""Difficulty of instructions for length control, and which prompt a row of a file is about.

Two kinds of file are read, in CSV or any other format of rows. In one a row names its prompt by id (`prompt_id`, `id` or
`instruction_id`), as text. The other is AlpacaEval's own, `index,instruction_difficulty,is_switched`: its `index` is the place of an instruction among AlpacaEval's 805,
counted from 0, and a place is never an id. X-AlpacaEval's ids run from 1 to 805, so that reading the one as the other gives every
prompt its neighbour's difficulty. The place is therefore looked up in a list of digests, and the digest names the instruction.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

from icr_platform.core.errors import InputError
from icr_platform.core.language_tags import ENGLISH
from icr_platform.data.row_files import file_rows

_IDS = ("prompt_id", "id", "instruction_id")
_INDEX = "index"
_DIFFICULTIES = ("instruction_difficulty", "difficulty")
_DIGITS = 12  # of a digest, in hex: 48 bits tell 805 texts apart
_NUMBER = re.compile(r"[0-9]{1,9}")

Instructions = Mapping[str, Mapping[str, str]]
"""Prompts that are judged: language -> prompt id -> instruction."""
Key = tuple[str, str]


class Difficulties(NamedTuple):
    """Difficulty by (language, prompt id). notes: a line for everything that is not used or not covered."""

    by_prompt: Mapping[Key, float]
    notes: tuple[str, ...]


class _Line(NamedTuple):
    """A row as its texts by column name; `number` counts from 1, the header being row 1."""

    number: int
    fields: Mapping[str, str]


class _Columns(NamedTuple):
    """The columns that are read; `key` is `index` where no column has ids."""

    key: str
    difficulty: str
    language: str | None


def instruction_digest(instruction: str) -> str:
    """Digest of an instruction's words: copies of AlpacaEval differ in the white space at the ends and in line breaks.

    >>> instruction_digest("How are you?\\n") == instruction_digest("How  are you?")
    True
    """
    return hashlib.sha256(" ".join(instruction.split()).encode()).hexdigest()[:_DIGITS]


@cache
def alpacaeval_digests() -> tuple[str, ...]:
    """`instruction_digest` of AlpacaEval's 805 English instructions, in the order of its `index`."""
    text = (files("icr_platform.evaluation") / "data" / "alpacaeval_instructions.txt").read_text(encoding="ascii")
    return tuple(text.split())


def read_difficulty(path: Path, instructions: Instructions) -> Difficulties:
    """Difficulty of the judged prompts; a file without the column `language` is about English.

    Raises:
        InputError: not readable, no column that names a prompt or none of difficulties, a row that cannot be read, two difficulties of one
            prompt, or no row about a prompt that is judged.
    """
    names, rows = _read_rows(path)
    if not rows:
        raise InputError(f"{path}: contains no rows; give a row for each prompt")
    key = next((name for name in (*_IDS, _INDEX) if name in names), None)  # ids win over a place where a file has both
    difficulty = next((name for name in _DIFFICULTIES if name in names), None)
    if key is None or difficulty is None:
        lacks = "names a prompt" if key is None else "has difficulties"
        raise InputError(
            f"{path}: no column {lacks}; found: {', '.join(names) or 'none'}; known: {', '.join(_IDS)} (a prompt's id) or "
            f"{_INDEX} (AlpacaEval's place, 0 to {len(alpacaeval_digests()) - 1}), with {' or '.join(_DIFFICULTIES)}"
        )
    columns = _Columns(key, difficulty, "language" if "language" in names else None)
    english = instructions.get(ENGLISH, {})
    owners = (
        _owners_by_digest(path, rows, columns, english) if columns.key == _INDEX else _owners_by_id(path, rows, columns)
    )
    values: dict[Key, float] = {}
    for row, keys in zip(rows, owners, strict=True):
        text = row.fields[columns.difficulty]
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if keys and not math.isfinite(value):
            raise InputError(
                f"{path}: row {row.number}: field {columns.difficulty!r} is {text!r}, not a finite number; correct it or remove the row"
            )
        values |= dict.fromkeys(keys, value)
    if columns.key != _INDEX:
        _check_ids_are_no_places(path, columns, values, english)
    unused = [name for name in names if name and name not in (*columns, "is_switched")]
    notes = [f"{path}: columns not used: {', '.join(unused)}"] if unused else []
    return Difficulties(values, (*notes, *_coverage(path, columns, values, instructions)))


def _read_rows(path: Path) -> tuple[list[str], list[_Line]]:
    """Column names and rows, every field as the text it is: `007` is an id and stays one."""
    names: dict[str, None] = {}
    rows = []
    for row in file_rows(path, "a prompt's id and its difficulty"):
        names |= dict.fromkeys(row.fields)
        fields = {name: "" if value is None else str(value) for name, value in row.fields.items()}
        rows.append(_Line(row.number, fields))
    for line in rows:
        if lacking := [name for name in names if name not in line.fields]:
            raise InputError(f"{path}: row {line.number}: field {lacking[0]!r} is missing; correct the row")
    return list(names), rows


def _owners_by_id(path: Path, rows: Sequence[_Line], columns: _Columns) -> list[list[Key]]:
    """Of each row, the (language, prompt id) it names."""
    first: dict[Key, int] = {}
    for row in rows:
        language = row.fields[columns.language].strip() if columns.language else ENGLISH
        key = language, row.fields[columns.key]
        for name, text in zip(("language", columns.key), key, strict=True):
            if not text.strip():
                raise InputError(f"{path}: row {row.number}: field {name!r} is empty; fill it in or remove the row")
        if key in first:
            raise InputError(
                f"{path}: row {row.number}: prompt {key[1]!r} has a difficulty in row {first[key]} already; remove one"
            )
        first[key] = row.number
    return [[key] for key in first]


def _owners_by_digest(
    path: Path, rows: Sequence[_Line], columns: _Columns, english: Mapping[str, str]
) -> list[list[Key]]:
    """Of each row, the English prompts with AlpacaEval's instruction at its place."""
    digests = alpacaeval_digests()
    prompts: dict[str, list[Key]] = {}
    for prompt_id, instruction in english.items():
        prompts.setdefault(instruction_digest(instruction), []).append((ENGLISH, prompt_id))
    first: dict[int, int] = {}
    for row in rows:
        text, language = row.fields[_INDEX].strip(), row.fields.get("language", ENGLISH).strip()
        place = int(text) if _NUMBER.fullmatch(text) else -1
        if language != ENGLISH or not 0 <= place < len(digests):
            name, seen = (_INDEX, text) if language == ENGLISH else ("language", language)
            raise InputError(
                f"{path}: row {row.number}: field {name!r} is {seen!r}, but {_INDEX!r} is a place among AlpacaEval's English "
                f"instructions, 0 to {len(digests) - 1}; name other prompts by their ids, in a column 'prompt_id'"
            )
        if place in first:
            raise InputError(f"{path}: row {row.number}: {_INDEX} {place} is in row {first[place]} already; remove one")
        first[place] = row.number
    return [prompts.get(digests[place], []) for place in first]


def _check_ids_are_no_places(
    path: Path, columns: _Columns, values: Mapping[Key, float], english: Mapping[str, str]
) -> None:
    """Refuse AlpacaEval's file with its `index` renamed, or some rows of it.

    Where the ids of these prompts are their places plus one and the same number, a file that counts beyond them counts places.
    """
    places = {digest: place for place, digest in enumerate(alpacaeval_digests())}
    ids = {int(key) for language, key in values if language == ENGLISH and _NUMBER.fullmatch(key)}
    shifts = {
        int(key) - place if _NUMBER.fullmatch(key) else None
        for key, text in english.items()
        if (place := places.get(instruction_digest(text))) is not None
    }
    first = next(iter(shifts), None)
    if len(shifts) != 1 or first is None or not ids or max(ids) - min(ids) >= len(places):
        return
    if min(ids) < first or max(ids) >= first + len(places):
        raise InputError(
            f"{path}: column {columns.key!r} counts from {min(ids)} to {max(ids)}, but the ids of AlpacaEval's instructions in these "
            f"prompts start at {first}; if the column is AlpacaEval's place, call it {_INDEX!r}"
        )


def _coverage(path: Path, columns: _Columns, values: Mapping[Key, float], instructions: Instructions) -> list[str]:
    """Notes on languages that are covered in part; raises where no judged prompt of the file's languages is covered."""
    named = {language for language, _ in values} if columns.language and columns.key != _INDEX else {ENGLISH}
    judged = [language for language in instructions if language in named]
    if not judged:
        return [f"{path}: not used: no prompt in {', '.join(sorted(named))} is judged"]
    missing = {code: [key for key in instructions[code] if (code, key) not in values] for code in judged}
    if all(len(missing[code]) == len(instructions[code]) for code in judged):
        total = sum(len(instructions[code]) for code in judged)
        whose = "AlpacaEval's instructions" if columns.key == _INDEX else f"those in column {columns.key!r}"
        raise InputError(
            f"{path}: none of the {total} prompts in {', '.join(judged)} is among {whose}; give the file of this prompt set"
        )
    return [
        f"{path}: {len(keys)} of {len(instructions[code])} prompts in {code!r} have no difficulty, the first is {keys[0]!r}; where "
        f"one of them is judged, lc_win_rate/{code} is fitted without difficulty and anchors and does not compare with AlpacaEval's figures"
        for code, keys in missing.items()
        if keys
    ]
