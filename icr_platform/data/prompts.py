"""Prompt sets: instructions in several languages, aligned with English by id, or without English.

They may lie in
- a folder of `LANG.jsonl`, in any of the formats of `data.row_files`, or of `LANG/FILE.jsonl`;
- a path with `{language}` in it;
- one file with a `language` column;
- a `prompts` artifact of an earlier run (a folder with `manifest.json`);
- a hub data set (`owner/name@revision:configuration:split`), or the folder of one (`data.hub_sets`), whose configurations or splits
  are named by language or whose rows have a `language` column. Of several splits the first of train, test and validation is read.

A row has an instruction, or a conversation that ends with one, an id (text or whole number) and, optionally, the name of the data
set that it comes from; `data.row_messages` and `data.row_fields` list what their columns may be called.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from icr_platform.core.artifacts import completed, open_artifact, own_manifest, text_digest
from icr_platform.core.conversations import Conversation
from icr_platform.core.errors import InputError
from icr_platform.core.language_tags import ENGLISH, english_first, is_english, names_language, twice
from icr_platform.core.languages import language_name
from icr_platform.core.schemas import PROMPTS
from icr_platform.data.column_map import NO_MAP, ColumnNames, refuse_map
from icr_platform.data.row_fields import (
    ID_FIELDS,
    INPUT_FIELD,
    KIND_FIELDS,
    KWARGS_FIELDS,
    ROW_GROUPS,
    SYSTEM_FIELDS,
    BadRow,
    Columns,
    checked,
    identity_of,
    refused,
)
from icr_platform.data.row_files import SourceRow
from icr_platform.data.row_messages import turn_of
from icr_platform.data.row_sources import UNNAMED, RowSource, Wanted, name_in
from icr_platform.data.sources import open_source
from icr_platform.data.wording import left_out, shown

_SOURCE_FIELDS = ("source", "dataset")
_CHECKED_BY = (*KIND_FIELDS, *KWARGS_FIELDS)  # read by `data.verifiable`, where answers are checked
_WANTED = Wanted("prompts", "'id' and 'instruction'", (*ROW_GROUPS, KIND_FIELDS, KWARGS_FIELDS))
_NAMED_IN_A_NOTE = 5
_DIGITS_OF_A_DIGEST = 16


class Prompt(NamedTuple):
    """One row of a prompt source. `where` names its file and row, for messages; `is_named` whether it has an id of its own."""

    prompt_id: str
    asked: Conversation
    source: str
    where: str
    is_named: bool


@dataclass(frozen=True)
class PromptSet:
    """Prompts of several languages, each with its English counterpart where the source has English.

    table: schemas.PROMPTS; languages in the order asked for, ids in the order of the English file.
    missing: English ids without a row, by language, for the languages that lack any.
    notes: lines for a person to read.
    """

    table: pa.Table
    languages: tuple[str, ...]
    missing: Mapping[str, tuple[str, ...]]
    notes: tuple[str, ...]


class InstructionsOf(Mapping[str, Mapping[str, str]]):
    """The instructions of a prompt set by language and prompt id.

    Those of the language last asked for are in memory: as Python's texts they take several times what they take in the table.
    """

    def __init__(self, prompts: PromptSet) -> None:
        self._prompts = prompts
        self._last: tuple[str, Mapping[str, str]] = ("", {})

    def __getitem__(self, language: str) -> Mapping[str, str]:
        if language != self._last[0]:
            if language not in self._prompts.languages:
                raise KeyError(language)
            table = self._prompts.table
            rows = table.filter(pc.equal(table["language"], language))
            texts = zip(*(rows[name].to_pylist() for name in ("prompt_id", "instruction")), strict=True)
            self._last = (language, dict(texts))
        return self._last[1]

    def __iter__(self) -> Iterator[str]:
        return iter(self._prompts.languages)

    def __len__(self) -> int:
        return len(self._prompts.languages)


def load_prompts(
    path: str, languages: Sequence[str] = (), limit: int | None = None, columns: ColumnNames = NO_MAP
) -> PromptSet:
    """Read a prompt set.

    A language is read under its own tag, or under the only one in the source that means the same, which a note says. So is English:
    a source without it has prompts whose `english_instruction` is null.

    Args:
        path: see the module.
        languages: tags in the order wanted; empty: English first, then every other language of the source.
        limit: keep the first `limit` ids of the English file, or of each file where there is none.
        columns: see `data.column_map`.

    Raises:
        InputError: nothing is there, a language is unknown, absent or there under several tags, no prompt is left, or a row has no
            usable id or instruction, an id seen before, or one that English lacks.
    """
    if limit is not None and limit < 1:
        raise InputError(f"config: field 'limit' is {limit}; give at least 1, or none for all")
    for code in languages:
        language_name(code)
    source = _open(path, languages, columns)
    notes = list(source.notes)
    names = _names(source, languages, notes)
    if not names:
        raise InputError(f"{path}: empty prompt set, nothing is named by a language code; add {ENGLISH}.jsonl")
    english_name = name_in(source, ENGLISH, notes)
    read = {*names.values(), english_name}
    unread = [name for name in source.names if name != UNNAMED and name not in read and not names_language(name)]
    notes += left_out(path, unread)
    own = [name for name in PROMPTS.schema.names if name != "messages"]  # which is read where it asks
    seen = Columns(path, (*_SOURCE_FIELDS, *SYSTEM_FIELDS, INPUT_FIELD, *_CHECKED_BY, *own))
    english = None
    if english_name is not None:
        english = _read_language(source, english_name, seen, may_lack_ids=len(read) == 1)
        _note_digests(source, english_name, english, notes)
    else:
        notes.append(f"{path}: there is no English: rewards after the English instruction cannot be annotated")
    tables, missing = [], {}
    for language, name in names.items():
        if english is not None and name == english_name:
            rows = english
        else:
            rows = _read_language(source, name, seen, may_lack_ids=english is None and len(names) == 1)
            if english is None:
                _note_digests(source, name, rows, notes)
        kept = list(rows if english is None else english)[:limit]
        tables.append(_aligned(language, rows, english, kept))
        notes += _other_turns(source.where(name), [rows[key] for key in kept if key in rows], english or rows)
        absent = tuple(prompt_id for prompt_id in kept if prompt_id not in rows)
        if absent:
            missing[language] = absent
            named = ", ".join(absent[:_NAMED_IN_A_NOTE]) + (", ..." if len(absent) > _NAMED_IN_A_NOTE else "")
            where = source.where(name)
            notes.append(f"{where}: {len(absent)} of {len(kept)} English prompts have no row here: {named}")
    table = pa.concat_tables(tables)
    if not table.num_rows:
        raise InputError(
            f"{path}: empty prompt set, {' '.join(names)} have none of the first {len(kept)} English ids; add rows"
        )
    return PromptSet(table, tuple(names), missing, (*notes, *seen.notes()))


def _names(source: RowSource, languages: Sequence[str], notes: list[str]) -> dict[str, str]:
    """The name in the source of each language that will be read, in their order."""
    if not languages:
        found = english_first(name for name in source.names if name != UNNAMED and names_language(name))
        if same := twice(found):
            raise InputError(
                f"{source.where(same[1])}: {same[1]!r} is the language of {same[0]!r}, which is there too; keep one, or choose "
                "with --languages"
            )
        return {name: name for name in found}
    names = {}
    for language in dict.fromkeys(languages):
        name = name_in(source, language, notes)
        if name is None:
            why = ", the language the others are aligned with," if language == ENGLISH and len(languages) > 1 else ""
            there = shown(source.names).replace(",", "")
            raise InputError(f"{source.where(language)}: language {language!r}{why} is missing; found: {there}; add it")
        names[language] = name
    return names


def _note_digests(source: RowSource, name: str, prompts: Mapping[str, Prompt], notes: list[str]) -> None:
    if not next(iter(prompts.values())).is_named:
        notes.append(f"{source.where(name)}: rows have no id; each is named by a digest of its instruction")


def _open(path: str, languages: Sequence[str], columns: ColumnNames) -> RowSource:
    if not path:
        raise InputError(
            "config: field 'prompts' is missing; give a folder of LANG.json(l), a Parquet file or a data set"
        )
    if Path(path).is_dir() and own_manifest(Path(path)) is not None:
        refuse_map(path, columns)
        return _ArtifactRows.open(Path(path))
    source = open_source(path, _WANTED, {ENGLISH, *languages} if languages else (), columns=columns)
    if source.names == (UNNAMED,):
        row = next(source.rows(UNNAMED), None)
        found = shown(list(row.fields)) if row else "none"
        raise InputError(
            f"{path}: is one file; give its folder, with one file per language, or add a column 'language'; found: {found}"
        )
    return source


def _read_language(source: RowSource, language: str, columns: Columns, may_lack_ids: bool = False) -> dict[str, Prompt]:
    """Read the prompts of a language, by id, in the order of the source.

    may_lack_ids: rows without any id are named by a digest of their text, which only one language can be.
    """
    prompts: dict[str, Prompt] = {}
    part = source.where(language)
    is_named: bool | None = None
    for row in source.rows(language):
        try:
            turn = turn_of(row.fields)
            key = identity_of(row.fields)
            if is_named is None:
                is_named = key is not None or not may_lack_ids
            if key is None and is_named:
                raise BadRow(
                    f"field 'id' is missing (or {', '.join(ID_FIELDS[2:5])}); give each row the id of its English row; found: "
                    f"{shown(list(row.fields))}"
                )
            if key is not None and not is_named:
                raise BadRow("has an id while rows before it have none; give every row one")
            name = key or text_digest(*turn.asked.identity)[:_DIGITS_OF_A_DIGEST]
            origin = next((str(row.fields[field]) for field in _SOURCE_FIELDS if row.fields.get(field) is not None), "")
            source_name = checked("source", origin, "name the data set") if origin.strip() else origin
        except BadRow as error:
            raise refused(row, error) from None
        columns.see(part, row.fields, turn.remarks, turn.columns)
        if name in prompts:
            field = f"field 'id' {key!r}" if key else f"field {turn.columns[0]!r}"
            raise InputError(f"{row.where}: {field} is a duplicate of {prompts[name].where}; remove one of the rows")
        prompts[name] = Prompt(name, turn.asked, source_name, row.where, key is not None)
    if not prompts:
        raise InputError(f"{source.where(language)}: empty prompt set; add rows with 'id' and 'instruction'")
    return prompts


@dataclass(frozen=True)
class _ArtifactRows:
    """Rows of a prompts artifact, which stay in Arrow's memory, where they are smaller than Python's objects."""

    path: str
    table: pa.Table
    notes: tuple[str, ...] = ()

    @classmethod
    def open(cls, folder: Path) -> _ArtifactRows:
        table = open_artifact(folder, PROMPTS).read()
        if any(map(is_english, pc.unique(table["language"]).to_pylist())):
            return cls(str(folder), table)
        # A run without English wrote the English of every id, if it had one, into its other languages' rows.
        found = table.filter(pc.is_valid(table["english_instruction"])).to_pylist()
        english = {row["prompt_id"]: (row["english_instruction"], row["english_messages"]) for row in found}
        names = ("instruction", "messages", "english_instruction", "english_messages")
        rows = [
            {"language": ENGLISH, "prompt_id": key, "source": ""} | dict(zip(names, said * 2, strict=True))
            for key, said in english.items()
        ]
        added = pa.Table.from_pylist(rows, schema=PROMPTS.schema)
        return cls(str(folder), pa.concat_tables([table, added]))

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(pc.unique(self.table["language"]).to_pylist())

    def where(self, language: str) -> str:
        return f"{self.path} (language {language!r})"

    def rows(self, language: str) -> Iterator[SourceRow]:
        numbers = pc.indices_nonzero(pc.equal(self.table["language"], language))
        for number, row in zip(numbers.to_pylist(), self.table.take(numbers).to_pylist(), strict=True):
            # Its texts were read before: one that looks like a transcript is not taken for one now.
            row["messages"] = Conversation.of(row.pop("instruction"), row["messages"]).messages
            yield SourceRow(f"{self.path}: row {number + 1}", row, number + 1)


def _other_turns(where: str, prompts: Sequence[Prompt], english: Mapping[str, Prompt]) -> list[str]:
    """A note on conversations whose English counterpart has other turns: it is English after which rewards are scored."""
    other = [prompt for prompt in prompts if prompt.asked.roles != english[prompt.prompt_id].asked.roles]
    if not other:
        return []
    first = other[0].prompt_id
    roles = [", ".join(asked.roles) for asked in (other[0].asked, english[first].asked)]
    return [
        f"{where}: {len(other)} of {len(prompts)} prompts have other messages than their English rows, after which rewards are scored; "
        f"the first is {first!r}: {roles[0]}, in English {roles[1]}"
    ]


def _aligned(
    language: str, rows: Mapping[str, Prompt], english: Mapping[str, Prompt] | None, kept: Iterable[str]
) -> pa.Table:
    for prompt in rows.values():
        if english is not None and prompt.prompt_id not in english:
            raise InputError(
                f"{prompt.where}: field 'id' {prompt.prompt_id!r} of {language!r} is missing in English; "
                "add the English row or remove this one"
            )
    chosen = [rows[prompt_id] for prompt_id in kept if prompt_id in rows]
    columns = {
        "language": [language] * len(chosen),
        "prompt_id": [prompt.prompt_id for prompt in chosen],
        "instruction": [prompt.asked.instruction for prompt in chosen],
        "english_instruction": [english[prompt.prompt_id].asked.instruction if english else None for prompt in chosen],
        "source": [prompt.source for prompt in chosen],
        "messages": pa.array([prompt.asked.json for prompt in chosen], pa.string()),
        "english_messages": pa.array(
            [english[prompt.prompt_id].asked.json if english else None for prompt in chosen], pa.string()
        ),
    }
    return completed(pa.table(columns), PROMPTS)
