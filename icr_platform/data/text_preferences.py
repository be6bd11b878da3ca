"""Preferences that come as text, such as the English pairs that make pi_0, turned into the artifact that `train` reads.

The texts were not sampled here, so there are no token ids to keep: the texts are tokenised once, with an end-of-turn token.
`data.text_pairs` says which layouts of a row are read.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pyarrow as pa

from icr_platform.core.artifacts import MANIFEST, PLAN, Artifact, ArtifactWriter, text_digest
from icr_platform.core.errors import InputError
from icr_platform.core.language_tags import ENGLISH, english_first, is_tag, names_language, twice
from icr_platform.core.schemas import PREFERENCES
from icr_platform.data.bad_rows import BadRows
from icr_platform.data.column_map import NO_MAP, ColumnNames
from icr_platform.data.hub_sets import folder_set_of, hub_set_of
from icr_platform.data.row_fields import ID_FIELDS, BadRow, Columns, identity_of
from icr_platform.data.row_sources import (
    LANGUAGE_FIELDS,
    UNNAMED,
    RowSource,
    Wanted,
    language_of,
)
from icr_platform.data.sources import open_source
from icr_platform.data.text_pairs import FIELDS, PAIR_GROUPS, PAIR_LAYOUTS, Texts, TiedRow, texts_of
from icr_platform.data.wording import left_out, shown
from icr_platform.models.chat import encode_response

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PREFERENCES_WANTED = Wanted("preferences", "prompt, chosen and rejected", PAIR_GROUPS, PAIR_LAYOUTS)
_ROWS_AT_ONCE = 4096


class TextPair(NamedTuple):
    """One preference. The rewards may be any grades with chosen above rejected.

    messages: see schemas.PREFERENCES.
    """

    prompt_id: str
    instruction: str
    chosen: str
    rejected: str
    chosen_reward: float = 1.0
    rejected_reward: float = 0.0
    language: str = ENGLISH
    messages: str | None = None


@dataclass(frozen=True)
class TextPreferences:
    """Pairs in the order of their files, and lines for a person to read about what of them is not used."""

    pairs: Sequence[TextPair]
    notes: tuple[str, ...]

    @property
    def digest(self) -> str:
        """Of the pairs in their order, in which batches are drawn; their numbers are no part of them."""
        # A pair without messages is what it was before there were any.
        pairs = (tuple(pair._replace(prompt_id="")) for pair in self.pairs)
        return text_digest(*(json.dumps(pair if pair[-1] is not None else pair[:-1]) for pair in pairs))


def is_text(source: str) -> bool:
    """Whether `--preferences` names files of text or a data set rather than an artifact, finished or not."""
    path = Path(source)
    if path.is_dir():
        return not ((path / MANIFEST).exists() or (path / PLAN).exists() or any(path.glob("part-*.parquet")))
    is_set = folder_set_of(source) is not None or hub_set_of(source) is not None
    return path.exists() or path.is_symlink() or "{language}" in source or is_set


def read_text_preferences(source: str, columns: ColumnNames = NO_MAP) -> TextPreferences:
    """Read pairs of texts: a file, a folder of one file per language, or a data set.

    A row without a language is in that of its file's name, or English. Rows that cannot be used are left out and counted. Pairs are
    named by the numbers of their rows, or by the ids that a map of the columns names (see `data.column_map`).

    Raises:
        InputError: nothing can be read, no pair is left, or more than `bad_rows.MOST_LEFT_OUT` of the rows cannot be used.
    """
    opened = open_source(source, PREFERENCES_WANTED, sorts=False, columns=columns)
    languages = languages_of(opened)
    reader = _Reader(source, has_ids=not columns.keys().isdisjoint(ID_FIELDS))
    for name in languages:
        reader.read(opened, name)
    unknown = [name for name in opened.names if name not in languages]
    return reader.result([*opened.notes, *left_out(source, unknown)])


def languages_of(opened: RowSource) -> list[str]:
    """The names of a source under which rows are read: those that name a language, English first, or UNNAMED alone.

    Raises:
        InputError: none names one, or two name the same.
    """
    if opened.names == (UNNAMED,):
        return [UNNAMED]
    found = english_first(filter(names_language, opened.names))
    if same := twice(found):
        raise InputError(
            f"{opened.where(same[1])}: {same[1]!r} is the language of {same[0]!r}, which is there too; keep one"
        )
    if not found:
        seen = ", ".join(opened.names) or "none"
        raise InputError(f"{opened.path}: no file is named by a language code; name one {ENGLISH}.jsonl; found: {seen}")
    return found


class _Reader:
    """Collects the pairs of a source, and what is wrong with the rest."""

    def __init__(self, source: str, has_ids: bool) -> None:
        self._has_ids = has_ids
        self._source = source
        self._pairs: list[TextPair] = []
        self._scores: list[tuple[float, float] | None] = []
        self._ids: set[tuple[str, str]] = set()
        self._columns = Columns(source, FIELDS)
        self._rows = self._ties = 0
        self._bad = BadRows(source)
        self._no_language: Counter[str] = Counter()

    def read(self, opened: RowSource, name: str) -> None:
        part = opened.where(name)
        for row in opened.rows(name):
            self._rows += 1
            try:
                texts = texts_of(row.fields)
                key = identity_of(row.fields) if self._has_ids else None
            except TiedRow:
                self._ties += 1
                self._columns.see(part, row.fields)
                continue
            except BadRow as error:
                self._bad.add(str(error), row.where)
                continue
            self._columns.see(part, row.fields, texts.remarks, texts.columns)
            said = next((row.fields[field] for field in LANGUAGE_FIELDS if row.fields.get(field)), name or ENGLISH)
            language = language_of(str(said))
            if not is_tag(language):
                self._no_language[language] += 1
            self._add(key or f"row-{row.number}", language, texts)

    def _add(self, prompt_id: str, language: str, texts: Texts) -> None:
        key = prompt_id
        while (language, key) in self._ids:  # of another file of the same language
            key = f"{prompt_id}-{len(self._pairs)}"
        self._ids.add((language, key))
        asked = texts.asked
        self._pairs.append(
            TextPair(key, asked.instruction, texts.chosen, texts.rejected, language=language, messages=asked.json)
        )
        self._scores.append(texts.scores)

    def result(self, notes: list[str]) -> TextPreferences:
        self._bad.require_few(self._rows)
        if not self._pairs:
            seen = f"all {self._rows:,} rows are ties" if self._rows else "it is empty"
            raise InputError(f"{self._source}: contains no pair, {seen}; give rows with {PREFERENCES_WANTED.fields}")
        notes += self._bad.notes(self._rows)
        if self._ties:
            notes.append(
                f"{self._source}: {self._ties:,} of {self._rows:,} rows are ties, which prefer neither response, and were left out"
            )
        if self._no_language:
            names = shown([name for name, _ in self._no_language.most_common()])
            notes.append(
                f"{self._source}: {self._no_language.total():,} pairs are in {names}, which name no known language; they are kept "
                "under these names"
            )
        notes += self._columns.notes()
        return TextPreferences(self._rewarded(notes), tuple(notes))

    def _rewarded(self, notes: list[str]) -> list[TextPair]:
        """The pairs with the scores that their rows bring as rewards, where all do and agree with the preference."""
        scored = [scores for scores in self._scores if scores is not None]
        if not scored:
            return self._pairs
        agree = sum(
            math.isfinite(chosen) and math.isfinite(rejected) and chosen > rejected for chosen, rejected in scored
        )
        if agree < len(self._pairs):
            notes.append(
                f"{self._source}: scores are not used, since only {agree:,} of {len(self._pairs):,} rows score chosen above rejected"
            )
            return self._pairs
        return [
            pair._replace(chosen_reward=scores[0], rejected_reward=scores[1])
            for pair, scores in zip(self._pairs, scored, strict=True)
        ]


def write_text_preferences(
    pairs: Iterable[TextPair],
    folder: Path,
    tokenizer: PreTrainedTokenizerBase,
    fingerprint: str,
    notes: Sequence[str] = (),
) -> Artifact:
    """Write the pairs as a preferences artifact; notes are kept in its manifest."""
    tables = [pa.Table.from_pylist(rows, schema=PREFERENCES.schema) for rows in _rows(pairs, tokenizer)]
    writer = ArtifactWriter(folder, PREFERENCES, fingerprint)
    writer.write_part(0, pa.concat_tables(tables or [PREFERENCES.schema.empty_table()]))
    return writer.close(1, {"notes": list(notes)} if notes else None)


def _rows(pairs: Iterable[TextPair], tokenizer: PreTrainedTokenizerBase) -> Iterator[list[dict[str, object]]]:
    """Rows of the artifact, some at a time: as Python's objects they are large."""
    left = iter(pairs)
    while some := list(islice(left, _ROWS_AT_ONCE)):
        yield [
            {
                "language": pair.language,
                "prompt_id": pair.prompt_id,
                "instruction": pair.instruction,
                "english_instruction": pair.instruction,
                "messages": pair.messages,
                "english_messages": pair.messages,
                "chosen": pair.chosen,
                "rejected": pair.rejected,
                "chosen_index": 0,
                "rejected_index": 1,
                "chosen_reward": pair.chosen_reward,
                "rejected_reward": pair.rejected_reward,
                "margin": pair.chosen_reward - pair.rejected_reward,
                "length_penalty_alpha": 0.0,
                "chosen_characters": len(pair.chosen),
                "rejected_characters": len(pair.rejected),
                "chosen_token_ids": encode_response(tokenizer, pair.chosen),
                "rejected_token_ids": encode_response(tokenizer, pair.rejected),
            }
            for pair in some
        ]


def tokenise(source: str, folder: Path, tokenizer: PreTrainedTokenizerBase, columns: ColumnNames = NO_MAP) -> Artifact:
    """Write the preferences artifact of a source of texts to `folder`."""
    read = read_text_preferences(source, columns)
    return write_text_preferences(read.pairs, folder, tokenizer, read.digest, read.notes)
