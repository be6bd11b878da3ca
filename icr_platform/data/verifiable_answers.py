"""Files of outputs that answer verifiable prompts: of variants of a language, and of several turns."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from icr_platform.core.errors import InputError
from icr_platform.core.language_tags import find_name
from icr_platform.data.column_map import NO_MAP, ColumnNames
from icr_platform.data.row_fields import ID_FIELDS, INSTRUCTION_FIELDS, MESSAGE_FIELDS, BadRow, identity_of, refused
from icr_platform.data.row_files import SourceRow
from icr_platform.data.row_sources import RowSource, Wanted
from icr_platform.data.sources import open_source
from icr_platform.data.variant_parts import Part, parts_of
from icr_platform.data.verifiable import TURN_FIELD, TURNS_OF_A_MAP, VerifiableSet, turn_key

_ANSWERS = ("response", "output", "answer", "completion", "generation")
_ANSWER = re.compile(rf"turn_(\d+)_(?:{'|'.join(_ANSWERS)})")
_LISTS = ("responses", "outputs", "answers")
_ASKING = (*INSTRUCTION_FIELDS, *MESSAGE_FIELDS)
"""What a row says of one prompt, and not of its turns."""


@dataclass(frozen=True)
class AnswerRows:
    """Rows of outputs under the ids of the turns that they answer, of files named by language and variant too."""

    source: RowSource
    parts: Mapping[str, Sequence[Part]]
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
    of_turns = tuple((f"turn_{turn}_{name}",) for turn in range(1, TURNS_OF_A_MAP + 1) for name in _ANSWERS)
    source = open_source(path, wanted._replace(groups=(*wanted.groups, *of_turns, (_LISTS[0],))), columns=columns)
    notes = [*source.notes]
    parts = parts_of(source, prompts.languages, notes)
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
    fields = {name: value for name, value in row.fields.items() if not TURN_FIELD.fullmatch(name)}
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
