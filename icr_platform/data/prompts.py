"""Prompt sets: instructions in several languages, aligned with English by id.

Layouts that are read as they are:
- a folder of `LANG.json` (an array of objects) or `LANG.jsonl` (an object a line);
- one Parquet file with a `language` column;
- a `prompts` artifact of an earlier run (a folder with `manifest.json`);
- a hub data set (`owner/name`), whose configurations or, failing that, splits are named by language (`en`, `es`, ...). Of a configuration
  with several splits the first of train, test, validation is taken.

Rows carry `instruction`, an id (`prompt_id`, `id` or `instruction_id`, text or whole number) and, optionally, the data set they
come from (`dataset` or `source`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import pyarrow as pa

from icr_platform.core.errors import InputError
from icr_platform.core.languages import NAMES, language_name
from icr_platform.core.schemas import PROMPTS
from icr_platform.data.prompt_sources import ID_FIELDS, PromptSource, open_source

ENGLISH = "en"
_SOURCE_FIELDS = ("source", "dataset")
_NAMED_IN_A_NOTE = 5


class Prompt(NamedTuple):
    """One row of a prompt source; `where` names its file and row for messages."""

    prompt_id: str
    instruction: str
    source: str
    where: str


@dataclass(frozen=True)
class PromptSet:
    """Prompts of several languages, each with its English counterpart.

    table: schemas.PROMPTS; languages in the order asked for, ids in the order of the English file.
    missing: English ids that a language has no row for, by language; languages that lack none are left out.
    notes: one line each for a person to read.
    """

    table: pa.Table
    languages: tuple[str, ...]
    missing: Mapping[str, tuple[str, ...]]
    notes: tuple[str, ...]


def load_prompts(path: str, languages: Sequence[str] = (), limit: int | None = None) -> PromptSet:
    """Read a prompt set.

    Args:
        path: a folder, Parquet file, prompts artifact or hub data set name.
        languages: codes in the order wanted; empty: English first, then every other language of the source.
        limit: keep the first `limit` ids of the English file.

    Raises:
        InputError: nothing there, an unknown or absent language, no prompt at all, or a row without a usable id or instruction, with an id
            seen before, or with one that English lacks.
    """
    if limit is not None and limit < 1:
        raise InputError(f"config: field 'limit' is {limit}; give at least 1, or none for all")
    for code in languages:
        language_name(code)
    source = open_source(path)
    notes = [f"{path}: {name!r} names no known language and was left out" for name in source.names if name not in NAMES]
    wanted = tuple(dict.fromkeys(languages)) or _all_languages(source)
    _require_languages(source, wanted)
    english = _read_language(source, ENGLISH)
    kept = list(english)[:limit]
    tables, missing = [], {}
    for language in wanted:
        rows = english if language == ENGLISH else _read_language(source, language)
        _require_english(rows, english, language)
        tables.append(_aligned(language, rows, english, kept))
        absent = tuple(prompt_id for prompt_id in kept if prompt_id not in rows)
        if absent:
            missing[language] = absent
            notes.append(_missing_note(source.where(language), absent, len(kept)))
    table = pa.concat_tables(tables)
    if not table.num_rows:
        raise InputError(
            f"{path}: empty prompt set, {' '.join(wanted)} have none of the first {len(kept)} English ids; add rows"
        )
    return PromptSet(table, wanted, missing, tuple(notes))


def _all_languages(source: PromptSource) -> tuple[str, ...]:
    known = sorted(name for name in source.names if name in NAMES)
    if not known:
        raise InputError(f"{source.path}: empty prompt set, nothing is named by a language code; add {ENGLISH}.jsonl")
    return tuple(sorted(known, key=lambda code: code != ENGLISH))


def _require_languages(source: PromptSource, languages: Sequence[str]) -> None:
    for language in (ENGLISH, *languages):
        if language not in source.names:
            why = ", the language the others are aligned with" if language == ENGLISH else ""
            found = " ".join(source.names) or "none"
            raise InputError(
                f"{source.where(language)}: language {language!r}{why}, is missing; found: {found}; add it"
            )


def _read_language(source: PromptSource, language: str) -> dict[str, Prompt]:
    """Prompts by id, in the order of the source."""
    prompts: dict[str, Prompt] = {}
    for where, row in source.rows(language):
        prompt = _checked(where, row)
        if prompt.prompt_id in prompts:
            first = prompts[prompt.prompt_id].where
            raise InputError(
                f"{where}: field 'id' {prompt.prompt_id!r} is a duplicate of {first}; remove one of the rows"
            )
        prompts[prompt.prompt_id] = prompt
    if not prompts:
        raise InputError(f"{source.where(language)}: empty prompt set; add rows with 'id' and 'instruction'")
    return prompts


def _checked(where: str, row: Any) -> Prompt:
    if not isinstance(row, Mapping):
        raise InputError(f"{where}: holds no object; write one with 'id' and 'instruction'")
    instruction = row.get("instruction")
    if not isinstance(instruction, str) or not instruction.strip():
        seen = "missing" if instruction is None else "empty" if isinstance(instruction, str) else "no text"
        raise InputError(f"{where}: field 'instruction' is {seen}; write the instruction or remove the row")
    source = next((str(row[name]) for name in _SOURCE_FIELDS if row.get(name) is not None), "")
    prompt = Prompt(_checked_id(where, row), instruction, source, where)
    for name, text in (("id", prompt.prompt_id), ("instruction", instruction), ("source", source)):
        if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
            raise InputError(f"{where}: field {name!r} holds half a surrogate pair, which is no Unicode text; mend it")
    return prompt


def _checked_id(where: str, row: Mapping[str, Any]) -> str:
    value = next((row[name] for name in ID_FIELDS if row.get(name) is not None), None)
    if value is None:
        raise InputError(
            f"{where}: field 'id' is missing (or 'instruction_id'); give each row the id of its English row"
        )
    if isinstance(value, bool) or not isinstance(value, (str, int)) or not str(value).strip():
        raise InputError(f"{where}: field 'id' is {value!r}; give text or a whole number")
    return str(value)


def _require_english(rows: Mapping[str, Prompt], english: Mapping[str, Prompt], language: str) -> None:
    for prompt in rows.values():
        if prompt.prompt_id not in english:
            raise InputError(
                f"{prompt.where}: field 'id' {prompt.prompt_id!r} of {language!r} is missing in English; "
                "add the English row or remove this one"
            )


def _aligned(language: str, rows: Mapping[str, Prompt], english: Mapping[str, Prompt], kept: Iterable[str]) -> pa.Table:
    chosen = [rows[prompt_id] for prompt_id in kept if prompt_id in rows]
    columns = {
        "language": [language] * len(chosen),
        "prompt_id": [prompt.prompt_id for prompt in chosen],
        "instruction": [prompt.instruction for prompt in chosen],
        "english_instruction": [english[prompt.prompt_id].instruction for prompt in chosen],
        "source": [prompt.source for prompt in chosen],
    }
    return pa.Table.from_pydict(columns, schema=PROMPTS.schema)


def _missing_note(where: str, absent: Sequence[str], total: int) -> str:
    named = ", ".join(absent[:_NAMED_IN_A_NOTE]) + (", ..." if len(absent) > _NAMED_IN_A_NOTE else "")
    return f"{where}: {len(absent)} of {total} English prompts have no row here: {named}"
