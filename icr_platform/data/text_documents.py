"""Documents to learn responses from, as `sft` does: files, folders by language, data sets, and artifacts of earlier runs.

`data.answered_rows` says which layouts of a row are read. Where rows have a response and an id only, as reference outputs may, the
instruction is that of the prompt with this id.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from icr_platform.core.artifacts import open_artifact, own_manifest, text_digest
from icr_platform.core.conversations import Conversation
from icr_platform.core.errors import InputError
from icr_platform.core.language_tags import ENGLISH, find_name, is_tag
from icr_platform.core.schemas import OUTPUTS, PREFERENCES, RESPONSES
from icr_platform.data.answered_rows import FIELDS, GROUPS, REASONING, UNANSWERED, Answered, NoInstruction, answered_of
from icr_platform.data.bad_rows import BadRows
from icr_platform.data.column_map import NO_MAP, ColumnNames, refuse_map
from icr_platform.data.prompts import load_prompts
from icr_platform.data.row_fields import BadRow, Columns, identity_of
from icr_platform.data.row_sources import LANGUAGE_FIELDS, Wanted, language_of
from icr_platform.data.sources import open_source
from icr_platform.data.text_pairs import PAIR_LAYOUTS, TiedRow
from icr_platform.data.text_preferences import languages_of
from icr_platform.data.wording import left_out, shown

_WANTED = Wanted("documents", "instruction and output, messages, or prompt and completion", GROUPS, PAIR_LAYOUTS)
_RESPONSE_COLUMNS = {OUTPUTS.name: "output", RESPONSES.name: "response", PREFERENCES.name: "chosen"}
_CUT = "a response that reached its limit of tokens, and would teach to stop in mid-sentence"
_JOINED = "give the prompts, which are joined by id, with --prompts"

Asked = Callable[[str, str], Conversation | None]
"""The prompt of a language and an id; None where there is none."""


class TextDocument(NamedTuple):
    """A conversation and the response to it."""

    language: str
    asked: Conversation
    answer: str


@dataclass(frozen=True)
class TextDocuments:
    """Documents in the order of their files, and lines for a person to read about what of them is not used."""

    documents: Sequence[TextDocument]
    notes: tuple[str, ...]

    @property
    def digest(self) -> str:
        """Of the documents in their order, in which batches are drawn."""
        return text_digest(*(json.dumps((*one.asked.identity, one.language, one.answer)) for one in self.documents))


def read_text_documents(
    source: str, columns: ColumnNames = NO_MAP, prompts: str = "", prompt_columns: ColumnNames = NO_MAP
) -> TextDocuments:
    """Read all documents of a source. A row without a language is in that of its file's name, or English.

    Rows that cannot be used are left out and counted.

    Args:
        prompts: by whose ids rows that have no instruction are joined; '': none.
        columns, prompt_columns: see `data.column_map`.

    Raises:
        InputError: nothing can be read, no document is left, or more than `bad_rows.MOST_LEFT_OUT` of the rows cannot be used.
    """
    notes: list[str] = []
    asked = _prompts(prompts, prompt_columns, notes) if prompts else None
    reader = _Reader(source, asked)
    if own_manifest(Path(source)) is not None:
        refuse_map(source, columns)
        reader.read_artifact(Path(source))
    else:
        opened = open_source(source, _WANTED, sorts=False, columns=columns)
        names = languages_of(opened)
        for name in names:
            for row in opened.rows(name):
                reader.read_row(opened.where(name), row.where, row.fields, name)
        notes += [*opened.notes, *left_out(source, [name for name in opened.names if name not in names])]
    if prompts and not reader.joined:
        notes.append(f"{prompts}: not used, since the rows of {source} have their instructions")
    return reader.result(notes)


def _prompts(path: str, columns: ColumnNames, notes: list[str]) -> Asked:
    read = load_prompts(path, columns=columns)
    notes += read.notes
    table = read.table.select(["language", "prompt_id", "instruction", "messages"])
    found: dict[str, dict[str, Conversation]] = {}
    for language, prompt_id, *said in zip(*(column.to_pylist() for column in table.columns), strict=True):
        found.setdefault(language, {})[prompt_id] = Conversation.of(*said)
    return lambda language, prompt_id: found.get(find_name(language, found) or "", {}).get(prompt_id)


class _Reader:
    """Collects the documents of a source, and what is wrong with the rest."""

    def __init__(self, source: str, asked: Asked | None) -> None:
        self._source, self._asked = source, asked
        self._documents: list[TextDocument] = []
        self._columns = Columns(source, FIELDS)
        self._bad = BadRows(source)
        self._said: Counter[str] = Counter()
        self._no_language: Counter[str] = Counter()
        self._rows = 0
        self.joined = 0
        """Rows whose instruction is that of a prompt."""

    def read_row(self, part: str, where: str, fields: Mapping[str, Any], name: str) -> None:
        """Read a row of a file; name: what the file's name says of its language."""
        self._rows += 1
        language = language_of(
            str(next((fields[field] for field in LANGUAGE_FIELDS if fields.get(field)), name or ENGLISH))
        )
        try:
            found = self._joined(fields, language)
        except TiedRow:
            self._said["ties, which prefer neither response, and were left out"] += 1
            return
        except BadRow as error:
            self._bad.add(str(error), where)
            return
        kinds = (REASONING, UNANSWERED)
        self._columns.see(part, fields, [said for said in found.remarks if said not in kinds], found.columns)
        self._said.update(said for said in found.remarks if said in kinds)
        if not is_tag(language):
            self._no_language[language] += 1
        self._documents.append(TextDocument(language, found.asked, found.answer))

    def _joined(self, fields: Mapping[str, Any], language: str) -> Answered:
        """The document of a row, whose instruction may be that of a prompt."""
        try:
            return answered_of(fields)
        except NoInstruction as error:
            prompt_id = identity_of(fields)
            if self._asked is None:
                raise BadRow(f"{error}; {_JOINED}" if prompt_id else str(error)) from None
            asked = self._asked(language, prompt_id) if prompt_id is not None else None
            if asked is None:
                raise BadRow(
                    f"no prompt in {language!r} has the id {prompt_id!r}; give the prompts that were answered"
                ) from None
            self.joined += 1
            return Answered(asked, error.answer, frozenset(), ())

    def read_artifact(self, folder: Path) -> None:
        """Read the outputs, responses or chosen responses of an earlier run."""
        table = str((own_manifest(folder) or {}).get("table"))
        schema = next((one for one in (OUTPUTS, RESPONSES, PREFERENCES) if one.name == table), None)
        if schema is None:
            raise InputError(
                f"{folder}: an artifact of {table}; give outputs, responses or preferences, or a file of documents"
            )
        artifact = open_artifact(folder, schema)
        if schema is RESPONSES and self._asked is None:
            raise InputError(f"{folder}: responses have no instructions of their own; {_JOINED}")
        names = ["language", "prompt_id", _RESPONSE_COLUMNS[schema.name]]
        names += [] if schema is RESPONSES else ["instruction", "messages"]
        names += [] if schema is PREFERENCES else ["finish_reason"]
        for index, path in enumerate(artifact.parts):
            for number, row in enumerate(artifact.read_part(index, names).to_pylist()):
                self._rows += 1
                self._read_artifact_row(row, row[_RESPONSE_COLUMNS[schema.name]], f"{path}: row {number}")

    def _read_artifact_row(self, row: Mapping[str, Any], answer: str, where: str) -> None:
        if row.get("finish_reason") == "length":
            self._said[f"{_CUT}, and were left out"] += 1
        elif not answer.strip():
            self._said["an empty response, and were left out"] += 1
        elif "instruction" in row:
            asked = Conversation.of(row["instruction"], row["messages"])
            self._documents.append(TextDocument(row["language"], asked, answer))
        elif self._asked is not None and (found := self._asked(row["language"], row["prompt_id"])):
            self.joined += 1
            self._documents.append(TextDocument(row["language"], found, answer))
        else:
            self._bad.add(f"no prompt in {row['language']!r} has the id {row['prompt_id']!r}", where)

    def result(self, notes: list[str]) -> TextDocuments:
        """The documents.

        Raises:
            InputError: there are none, or too many rows cannot be used.
        """
        self._bad.require_few(self._rows)
        if not self._documents:
            said = "; ".join(f"{count} have {what}" for what, count in self._said.items())
            seen = f"of its {self._rows:,} rows {said or 'none can be used'}" if self._rows else "it is empty"
            raise InputError(f"{self._source}: contains no document, {seen}; give rows with {_WANTED.fields}")
        notes += self._bad.notes(self._rows)
        notes += [f"{self._source}: {count:,} of {self._rows:,} rows have {what}" for what, count in self._said.items()]
        if self._no_language:
            names = shown([name for name, _ in self._no_language.most_common()])
            notes.append(
                f"{self._source}: {self._no_language.total():,} documents are in {names}, which name no known language; they are kept "
                "under these names"
            )
        notes += self._columns.notes()
        return TextDocuments(self._documents, tuple(notes))
