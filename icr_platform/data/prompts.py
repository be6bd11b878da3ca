"""Prompt sets: instructions in several languages, aligned with English by id.

They may lie in
- a folder of `LANG.json` (an array of objects) or `LANG.jsonl` (an object a line);
- one Parquet file with a `language` column;
- a `prompts` artifact of an earlier run (a folder with `manifest.json`);
- a hub data set (`owner/name`) whose configurations or, failing that, splits are named by language (`en`, `es`, ...). Where a
  configuration has several splits, the first of train, test and validation is read.

A row has an `instruction`, an id (`prompt_id`, `id` or `instruction_id`, text or whole number) and, optionally, the name of the data
set that it comes from (`dataset` or `source`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import pyarrow as pa

from icr_platform.core.errors import InputError
from icr_platform.core.languages import NAMES, language_name
from icr_platform.core.schemas import PROMPTS
from icr_platform.data.json_rows import is_unicode
from icr_platform.data.prompt_sources import ID_FIELDS, PromptSource, open_source

ENGLISH = "en"
_SOURCE_FIELDS = ("source", "dataset")
_NAMED_IN_A_NOTE = 5


class Prompt(NamedTuple):
    """One row of a prompt source. `where` names its file and row, for messages."""

    prompt_id: str
    instruction: str
    source: str
    where: str


@dataclass(frozen=True)
class PromptSet:
    """Prompts of several languages, each with its English counterpart.

    table: schemas.PROMPTS; languages in the order asked for, ids in the order of the English file.
    missing: English ids without a row, by language, for the languages that lack any.
    notes: lines for a person to read.
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
        InputError: nothing is there, a language is unknown or absent, no prompt is left, or a row has no usable id or instruction,
            an id seen before, or one that English lacks.
    """
    if limit is not None and limit < 1:
        raise InputError(f"config: field 'limit' is {limit}; give at least 1, or none for all")
    for code in languages:
        language_name(code)
    source = open_source(path)
    notes = [f"{path}: {name!r} names no known language and was left out" for name in source.names if name not in NAMES]
    wanted = tuple(dict.fromkeys(languages)) or tuple(
        sorted(set(source.names) & set(NAMES), key=lambda code: (code != ENGLISH, code))
    )
    if not wanted:
        raise InputError(f"{path}: empty prompt set, nothing is named by a language code; add {ENGLISH}.jsonl")
    for code in (ENGLISH, *wanted):
        if code not in source.names:
            why = ", the language the others are aligned with" if code == ENGLISH else ""
            found = " ".join(source.names) or "none"
            raise InputError(f"{source.where(code)}: language {code!r}{why}, is missing; found: {found}; add it")
    english = _read_language(source, ENGLISH)
    kept = list(english)[:limit]
    tables, missing = [], {}
    for language in wanted:
        rows = english if language == ENGLISH else _read_language(source, language)
        tables.append(_aligned(language, rows, english, kept))
        absent = tuple(prompt_id for prompt_id in kept if prompt_id not in rows)
        if absent:
            missing[language] = absent
            named = ", ".join(absent[:_NAMED_IN_A_NOTE]) + (", ..." if len(absent) > _NAMED_IN_A_NOTE else "")
            where = source.where(language)
            notes.append(f"{where}: {len(absent)} of {len(kept)} English prompts have no row here: {named}")
    table = pa.concat_tables(tables)
    if not table.num_rows:
        raise InputError(
            f"{path}: empty prompt set, {' '.join(wanted)} have none of the first {len(kept)} English ids; add rows"
        )
    return PromptSet(table, wanted, missing, tuple(notes))


def _read_language(source: PromptSource, language: str) -> dict[str, Prompt]:
    """Read the prompts of a language, by id, in the order of the source."""
    prompts: dict[str, Prompt] = {}
    for where, fields in source.rows(language):
        prompt = _checked(where, fields)
        if prompt.prompt_id in prompts:
            first = prompts[prompt.prompt_id].where
            raise InputError(
                f"{where}: field 'id' {prompt.prompt_id!r} is a duplicate of {first}; remove one of the rows"
            )
        prompts[prompt.prompt_id] = prompt
    if not prompts:
        raise InputError(f"{source.where(language)}: empty prompt set; add rows with 'id' and 'instruction'")
    return prompts


def _checked(where: str, fields: Mapping[str, Any]) -> Prompt:
    instruction = fields.get("instruction")
    if not isinstance(instruction, str) or not instruction.strip():
        seen = "missing" if instruction is None else "empty" if isinstance(instruction, str) else "not text"
        raise InputError(f"{where}: field 'instruction' is {seen}; write the instruction or remove the row")
    value = next((fields[name] for name in ID_FIELDS if fields.get(name) is not None), None)
    if value is None:
        raise InputError(
            f"{where}: field 'id' is missing (or 'instruction_id'); give each row the id of its English row"
        )
    # JSON's true is an int in Python, and 1.0 could be 1 or "1.0" in another language's file.
    if isinstance(value, bool) or not isinstance(value, (str, int)) or not str(value).strip():
        raise InputError(f"{where}: field 'id' is {value!r}; give text or a whole number")
    source = next((str(fields[name]) for name in _SOURCE_FIELDS if fields.get(name) is not None), "")
    prompt = Prompt(str(value), instruction, source, where)
    for name, text in (("id", prompt.prompt_id), ("instruction", instruction), ("source", source)):
        if not is_unicode(text):
            raise InputError(
                f"{where}: field {name!r} contains half a surrogate pair, which is not Unicode text; fix it"
            )
    return prompt


def _aligned(language: str, rows: Mapping[str, Prompt], english: Mapping[str, Prompt], kept: Iterable[str]) -> pa.Table:
    for prompt in rows.values():
        if prompt.prompt_id not in english:
            raise InputError(
                f"{prompt.where}: field 'id' {prompt.prompt_id!r} of {language!r} is missing in English; "
                "add the English row or remove this one"
            )
    chosen = [rows[prompt_id] for prompt_id in kept if prompt_id in rows]
    columns = {
        "language": [language] * len(chosen),
        "prompt_id": [prompt.prompt_id for prompt in chosen],
        "instruction": [prompt.instruction for prompt in chosen],
        "english_instruction": [english[prompt.prompt_id].instruction for prompt in chosen],
        "source": [prompt.source for prompt in chosen],
    }
    return pa.Table.from_pydict(columns, schema=PROMPTS.schema)
