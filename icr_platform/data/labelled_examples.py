"""Single responses that are labelled good or bad, as KTO takes them, out of the rows that people publish.

- TRL's unpaired layout: `prompt`, `completion` and `label`, as texts or messages; LLaMA-Factory's: a conversation and `kto_tag`. The
  conversation and its response come in every layout that `data.answered_rows` reads;
- a pair in any layout that `data.text_pairs` reads, which is two examples: its chosen response is good, its rejected one bad.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pyarrow as pa

from icr_platform.core.artifacts import Artifact, ArtifactWriter, text_digest
from icr_platform.core.conversations import Conversation
from icr_platform.core.errors import InputError
from icr_platform.core.language_tags import ENGLISH
from icr_platform.core.schemas import EXAMPLES
from icr_platform.data.answered_rows import ANSWER_FIELDS, answered_of
from icr_platform.data.bad_rows import BadRows
from icr_platform.data.column_map import NO_MAP, ColumnNames
from icr_platform.data.row_fields import ROW_GROUPS, BadRow, Columns
from icr_platform.data.row_sources import LANGUAGE_FIELDS, RowSource, Wanted, language_of
from icr_platform.data.sources import open_source
from icr_platform.data.text_pairs import FIELDS, PAIR_LAYOUTS, TiedRow, texts_of
from icr_platform.data.text_preferences import languages_of
from icr_platform.data.wording import left_out, short, shown
from icr_platform.models.chat import encode_response

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

LABEL_FIELDS = ("label", "kto_tag", "is_desirable", "desirable", "is_good", "thumbs_up", "feedback")
_GOOD = frozenset({"true", "1", "yes", "good", "desirable", "positive", "chosen", "up", "thumbs_up", "like", "👍"})
_BAD = frozenset(
    {"false", "0", "-1", "no", "bad", "undesirable", "negative", "rejected", "down", "thumbs_down", "dislike", "👎"}
)
_WANTED = Wanted(
    "labelled responses", "prompt, completion and label", (ANSWER_FIELDS, LABEL_FIELDS, *ROW_GROUPS), PAIR_LAYOUTS
)
_ROWS_AT_ONCE = 4096


class Example(NamedTuple):
    """One response. messages: see schemas.EXAMPLES."""

    prompt_id: str
    language: str
    instruction: str
    messages: str | None
    response: str
    is_good: bool


@dataclass(frozen=True)
class Examples:
    """Examples in the order of their files, and lines for a person to read about what of them is not used."""

    rows: Sequence[Example]
    notes: tuple[str, ...]

    @property
    def digest(self) -> str:
        """Of the examples in their order, in which batches are drawn; their numbers are no part of them."""
        return text_digest(*(json.dumps(row[1:]) for row in self.rows))


def is_good(value: Any) -> bool | None:
    """What a label says; None where it says neither.

    >>> [is_good(value) for value in (True, 0, 1.0, -1, "Yes", " rejected ", 3, None)]
    [True, False, True, False, True, False, None, None]
    """
    text = str(int(value) if isinstance(value, float) and value.is_integer() else value).strip().lower()
    return True if text in _GOOD else False if text in _BAD else None


def examples_of(
    fields: Mapping[str, Any],
) -> tuple[list[tuple[Conversation, str, bool]], frozenset[str], tuple[str, ...]]:
    """The examples of a row, each a conversation, a response and whether it is good; the columns that were read; remarks.

    Raises:
        BadRow: what is wrong, naming the field; TiedRow for a pair that prefers neither.
    """
    given = {name for name, value in fields.items() if value is not None}
    if any(set(layout) <= given for layout in PAIR_LAYOUTS):
        pair = texts_of(fields)
        return [(pair.asked, pair.chosen, True), (pair.asked, pair.rejected, False)], pair.columns, pair.remarks
    name = next((name for name in LABEL_FIELDS if name in given), None)
    if name is None:
        raise BadRow(
            f"neither a label ({', '.join(LABEL_FIELDS[:3])}, ...) nor two responses; found: {shown(list(fields))}; give prompt, "
            "completion and label, or prompt, chosen and rejected"
        )
    label = is_good(fields[name])
    if label is None:
        raise BadRow(
            f"field {name!r} is {short(repr(fields[name]))}, which is neither good nor bad; give true or false"
        )
    row = answered_of({key: value for key, value in fields.items() if key not in LABEL_FIELDS})
    return [(row.asked, row.answer, label)], row.columns | {name}, row.remarks


def read_examples(source: str, columns: ColumnNames = NO_MAP) -> Examples:
    """Read labelled responses: a file, a folder of one file per language, or a data set.

    A row without a language is in that of its file's name, or English. Rows that cannot be used are left out and counted.

    Raises:
        InputError: nothing can be read, no example is left, or more than `bad_rows.MOST_LEFT_OUT` of the rows cannot be used.
    """
    opened = open_source(source, _WANTED, sorts=False, columns=columns)
    languages = languages_of(opened)
    reader = _Reader(source)
    for name in languages:
        reader.read(opened, name)
    unknown = [name for name in opened.names if name not in languages]
    return reader.result([*opened.notes, *left_out(source, unknown)])


class _Reader:
    """Collects the examples of a source, and what is wrong with the rest."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._columns = Columns(source, FIELDS)
        self._bad = BadRows(source)
        self._found: list[Example] = []
        self._rows = self._ties = 0

    def read(self, opened: RowSource, name: str) -> None:
        part = opened.where(name)
        for row in opened.rows(name):
            self._rows += 1
            try:
                found, columns, remarks = examples_of(row.fields)
            except TiedRow:
                self._ties += 1
                self._columns.see(part, row.fields)
                continue
            except BadRow as error:
                self._bad.add(str(error), row.where)
                continue
            self._columns.see(part, row.fields, remarks, columns)
            said = next((row.fields[field] for field in LANGUAGE_FIELDS if row.fields.get(field)), name or ENGLISH)
            language = language_of(str(said))
            self._found += [
                Example(f"row-{row.number}", language, asked.instruction, asked.json, response, good)
                for asked, response, good in found
            ]

    def result(self, notes: list[str]) -> Examples:
        self._bad.require_few(self._rows)
        if not self._found:
            seen = f"all {self._rows:,} rows are ties" if self._rows else "it is empty"
            raise InputError(f"{self._source}: contains no labelled response, {seen}; give rows with {_WANTED.fields}")
        notes += self._bad.notes(self._rows)
        if self._ties:
            notes.append(
                f"{self._source}: {self._ties:,} of {self._rows:,} rows are ties, which prefer neither response, and were left out"
            )
        counts = Counter(row.is_good for row in self._found)
        if len(counts) == 1:
            notes.append(
                f"{self._source}: every response is {'good' if counts[True] else 'bad'}; KTO learns from the contrast of both"
            )
        return Examples(self._found, (*notes, *self._columns.notes()))


def tokenise_examples(
    source: str, folder: Path, tokenizer: PreTrainedTokenizerBase, columns: ColumnNames = NO_MAP
) -> Artifact:
    """Write the examples artifact of a source of texts to `folder`."""
    read = read_examples(source, columns)
    tables = [pa.Table.from_pylist(rows, schema=EXAMPLES.schema) for rows in _rows(read.rows, tokenizer)]
    writer = ArtifactWriter(folder, EXAMPLES, read.digest)
    writer.write_part(0, pa.concat_tables(tables))
    return writer.close(1, {"notes": list(read.notes)} if read.notes else None)


def _rows(examples: Sequence[Example], tokenizer: PreTrainedTokenizerBase) -> Iterator[list[dict[str, object]]]:
    """Rows of the artifact, some at a time: as Python's objects they are large."""
    left = iter(examples)
    while some := list(islice(left, _ROWS_AT_ONCE)):
        yield [{**row._asdict(), "token_ids": encode_response(tokenizer, row.response)} for row in some]
