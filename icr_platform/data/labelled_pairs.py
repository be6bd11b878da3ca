"""Labelled pairs: two responses to one prompt and which is better, with the English counterpart of the prompt, to measure rewards on.

They come in every layout that `data.text_pairs` reads, as a `preferences` artifact of an earlier run, or with several responses on a side
(RewardBench 2: one `chosen` against three `rejected`), of which each combination is a pair. Rows may say a `category` and an
`english_instruction`; English is otherwise found by the row's id, in a source of prompts or among the pairs themselves.

Rows that compare the same two responses after the same prompt are votes on one pair, as those of several reviewers: the majority's is
its label, and where the two most frequent are level it is a tie.
"""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from icr_platform.core.artifacts import open_artifact, own_manifest, row_digest
from icr_platform.core.conversations import Conversation
from icr_platform.core.errors import InputError
from icr_platform.core.language_tags import ENGLISH, find_name, is_english, names_language
from icr_platform.core.languages import is_language
from icr_platform.core.schemas import PREFERENCES, RESPONSES
from icr_platform.core.visible_text import has_visible_character
from icr_platform.data.bad_rows import MOST_LEFT_OUT
from icr_platform.data.column_map import NO_MAP, ColumnNames, refuse_map
from icr_platform.data.prompts import load_prompts
from icr_platform.data.row_fields import MESSAGE_FIELDS, ROW_GROUPS, BadRow, Columns, identity_of, optional_text
from icr_platform.data.row_files import stem_of
from icr_platform.data.row_messages import listed, turn_of
from icr_platform.data.row_sources import LANGUAGE_FIELDS, UNNAMED, RowSource, Wanted, language_of
from icr_platform.data.sources import open_source
from icr_platform.data.text_pairs import (
    FIELDS,
    PAIR_GROUPS,
    PAIR_LAYOUTS,
    RESPONSE_FIELDS,
    IdenticalRow,
    texts_of,
)
from icr_platform.data.text_preferences import languages_of
from icr_platform.data.wording import left_out, shown

ENGLISH_FIELDS = ("english_instruction", "english_prompt", "english_messages")
CATEGORY_FIELDS = ("category", "subset", "domain", "source")
IDENTICAL, EMPTY, UNUSABLE = "identical", "empty", "unusable"
"""Why a row is not a pair."""
_WANTED = Wanted(
    "labelled pairs", "prompt, chosen and rejected", (*PAIR_GROUPS, ENGLISH_FIELDS, CATEGORY_FIELDS), PAIR_LAYOUTS
)
_ENGLISH_WANTED = Wanted("prompts", "'id' and 'instruction'", ROW_GROUPS)
_TIE = 0.5
_VERDICT_COLUMNS = frozenset({"submission", "reviewer", "choice", "left", "right"})


class Side(NamedTuple):
    """A response: its text and, where it was sampled here, its tokens, of which those from `start` on are scored."""

    text: str
    token_ids: tuple[int, ...] | None = None
    start: int = 0


class LabelledPair(NamedTuple):
    """Two responses to a prompt.

    pair_id: within the language. prompt_id: the same for all pairs of one prompt, and of its translations where rows have ids.
    english: counterpart of the prompt; None where there is none.
    category: '' where the row names none. source: 'pairs', or what else made it.
    is_tie: neither response is better.
    """

    language: str
    pair_id: str
    prompt_id: str
    asked: Conversation
    english: Conversation | None
    chosen: Side
    rejected: Side
    category: str = ""
    source: str = "pairs"
    is_tie: bool = False

    @property
    def digest(self) -> bytes:
        """Of all that it says."""
        english = self.english.identity if self.english else ()
        sides = [(side.text, *(side.token_ids or ()), side.start) for side in (self.chosen, self.rejected)]
        about = (self.language, self.pair_id, self.prompt_id, self.category, self.source, self.is_tie)
        return row_digest(json.dumps([about, self.asked.identity, english, sides]))


class UnusedRow(NamedTuple):
    """A row that is not a pair: one of IDENTICAL, EMPTY, UNUSABLE, and where it is and what was seen."""

    language: str
    pair_id: str
    reason: str
    detail: str


@dataclass(frozen=True)
class LabelledPairs:
    """Pairs in the order of their source, the rows that are none, and lines for a person to read."""

    pairs: Sequence[LabelledPair]
    unused: Sequence[UnusedRow]
    notes: tuple[str, ...]


def read_labelled_pairs(
    source: str,
    columns: ColumnNames = NO_MAP,
    languages: Sequence[str] = (),
    limit: int | None = None,
    prompts: str = "",
    prompt_columns: ColumnNames = NO_MAP,
) -> LabelledPairs:
    """Read pairs.

    Args:
        columns: see `data.column_map`. languages: to keep, under these tags; empty: all. limit: pairs per language, the first ones.
        prompts: English prompts by id, or a prompt set that has English. prompt_columns: its column map.

    Raises:
        InputError: nothing can be read, a language is missing, no pair is left, or more than MOST_LEFT_OUT of the rows have another layout.
    """
    if own_manifest(Path(source)) is not None:
        refuse_map(source, columns)
        return _kept(source, _artifact_pairs(source), [], [], languages, limit)
    opened = open_source(source, _WANTED, sorts=False, columns=columns)
    reader = _Reader(source, {})
    notes = list(opened.notes)
    names = languages_of(opened)
    notes += left_out(source, [name for name in opened.names if name not in names])
    if prompts:
        reader.english |= read_english(prompts, prompt_columns, notes)
    for name in names:
        reader.read(opened, name)
    pairs = reader.pairs(notes)
    return _kept(source, pairs, reader.unused, notes, languages, limit)


def read_english(prompts: str, columns: ColumnNames, notes: list[str]) -> dict[str, Conversation]:
    """English prompts by id: of a file that names no language, all rows; of a prompt set, its English."""
    if own_manifest(Path(prompts)) is None:
        opened = open_source(prompts, _ENGLISH_WANTED, {ENGLISH}, columns=columns)
        if opened.names == (UNNAMED,):
            return _unambiguous(
                (key, turn_of(row.fields).asked)
                for row in opened.rows(UNNAMED)
                if (key := identity_of(row.fields)) is not None
            )
    read = load_prompts(prompts, (ENGLISH,), columns=columns)
    notes += read.notes
    rows = read.table.select(["prompt_id", "instruction", "messages"]).to_pylist()
    return {row["prompt_id"]: Conversation.of(row["instruction"], row["messages"]) for row in rows}


def _unambiguous(rows: Iterable[tuple[str, Conversation]]) -> dict[str, Conversation]:
    """By id, without those that different prompts have."""
    found: dict[str, set[Conversation]] = {}
    for key, asked in rows:
        found.setdefault(key, set()).add(asked)
    return {key: next(iter(asked)) for key, asked in found.items() if len(asked) == 1}


@dataclass
class _Votes:
    """Rows that compare the same two responses: the first of them, and the labels of all.

    pair: whose prompt_id is the id of its row, '' where it has none. labels: the text that is better, '' for a tie.
    """

    pair: LabelledPair
    labels: Counter[str]

    def decided(self) -> LabelledPair:
        ranked = self.labels.most_common(2)
        is_draw = len(ranked) == 2 and ranked[0][1] == ranked[1][1]
        if is_draw or not ranked[0][0]:
            return self.pair._replace(is_tie=True)
        chosen, rejected = self.pair.chosen, self.pair.rejected
        if ranked[0][0] != chosen.text:
            chosen, rejected = rejected, chosen
        return self.pair._replace(chosen=chosen, rejected=rejected, is_tie=False)


class _EmptyRow(BadRow):
    """A response has nothing to see."""


@dataclass
class _Reader:
    """Collects the pairs of a source, and what is wrong with the rest. english: prompts by id."""

    source: str
    english: dict[str, Conversation]
    unused: list[UnusedRow] = field(default_factory=list)
    _votes: dict[tuple[Any, ...], _Votes] = field(default_factory=dict)
    _pair_ids: Counter[tuple[str, str]] = field(default_factory=Counter)
    _rows: int = 0
    _again: int = 0

    def __post_init__(self) -> None:
        self._columns = Columns(self.source, {*FIELDS, *ENGLISH_FIELDS, *CATEGORY_FIELDS, "margin"})

    def read(self, opened: RowSource, name: str) -> None:
        # Of a file that is given by itself the name may say its language, as it does in a folder.
        stem = language_of(stem_of(Path(self.source).name) or "")
        unnamed = stem if names_language(stem) else ENGLISH
        for row in opened.rows(name):
            said = next((row.fields[field] for field in LANGUAGE_FIELDS if row.fields.get(field)), name or unnamed)
            language, identity = language_of(str(said).strip()), ""
            rows_before = self._rows
            try:
                identity = identity_of(row.fields) or ""
                for number, fields in _combinations(row.fields):
                    self._rows += 1
                    texts = texts_of(fields, keeps_ties=True)
                    self._columns.see(opened.where(name), fields, texts.remarks, texts.columns)
                    english = _english_in(fields)
                    category = next((text for key in CATEGORY_FIELDS if (text := _text_in(fields, key))), "")
                    pair_id = (identity or f"row-{row.number}") + number
                    pair = LabelledPair(
                        language, pair_id, identity, texts.asked, english, Side(texts.chosen), Side(texts.rejected), category,
                        is_tie=texts.is_tie,
                    )  # fmt: skip
                    self._add(pair)
            except BadRow as error:
                self._rows = rows_before + 1
                reason = self._reason(error, row.fields)
                if reason == UNUSABLE and set(row.fields) >= _VERDICT_COLUMNS:
                    raise InputError(
                        f"{row.where}: has verdicts without the texts that they are about; give labelled-pairs.jsonl of the same export"
                    ) from None
                self.unused.append(
                    UnusedRow(language, identity or f"row-{row.number}", reason, f"{row.where}: {error}")
                )

    @staticmethod
    def _reason(error: BadRow, fields: Mapping[str, Any]) -> str:
        if isinstance(error, (IdenticalRow, _EmptyRow)):
            return IDENTICAL if isinstance(error, IdenticalRow) else EMPTY
        given = [fields[name] for name in RESPONSE_FIELDS if name in fields]
        is_empty = len(given) == 2 and any(isinstance(text, str) and not has_visible_character(text) for text in given)
        return EMPTY if is_empty else UNUSABLE

    def _add(self, pair: LabelledPair) -> None:
        if not all(has_visible_character(side.text) for side in (pair.chosen, pair.rejected)):
            raise _EmptyRow("a response has no visible character")
        texts = frozenset({pair.chosen.text, pair.rejected.text})
        key = (pair.language, pair.asked, texts)
        label = "" if pair.is_tie else pair.chosen.text
        if (known := self._votes.get(key)) is not None:
            self._again += 1
            known.labels[label] += 1
            return
        self._pair_ids[pair.language, pair.pair_id] += 1
        if (times := self._pair_ids[pair.language, pair.pair_id]) > 1:
            pair = pair._replace(pair_id=f"{pair.pair_id} ({times})")
        self._votes[key] = _Votes(pair, Counter({label: 1}))

    def pairs(self, notes: list[str]) -> list[LabelledPair]:
        """The pairs, each with English where there is any; raises InputError where the source is not one of pairs."""
        faulty = [row for row in self.unused if row.reason == UNUSABLE]
        if len(faulty) > MOST_LEFT_OUT * self._rows:
            count = f"; {len(faulty):,} of {self._rows:,} rows cannot be used" if len(faulty) > 1 else ""
            raise InputError(f"{faulty[0].detail}{count}")
        pairs = [votes.decided() for votes in self._votes.values()]
        # By id, never by position: rows without one have no counterpart.
        own = _unambiguous(
            (pair.prompt_id, pair.asked) for pair in pairs if is_english(pair.language) and pair.prompt_id
        )
        known = own | self.english
        pairs = [
            pair._replace(
                english=pair.asked if is_english(pair.language) else pair.english or known.get(pair.prompt_id)
            )
            for pair in pairs
        ]
        pairs = _with_prompt_ids(pairs)
        for reason, what in _UNUSED.items():
            rows = [row for row in self.unused if row.reason == reason]
            if rows:
                notes.append(
                    f"{self.source}: {len(rows):,} of {self._rows:,} rows were left out because {what}; the first: {rows[0].detail}"
                )
        if self._again:
            notes.append(
                f"{self.source}: {self._again:,} of {self._rows:,} rows compare two responses that a row before them compares; they are "
                "votes on one pair, and the majority's is its label"
            )
        notes += self._columns.notes()
        return pairs


def _with_prompt_ids(pairs: Sequence[LabelledPair]) -> list[LabelledPair]:
    """One id for all pairs after one prompt. Translations of a prompt share its id; two prompts that share one, as in files that were
    joined, do not become one."""
    ids: dict[tuple[str, Conversation], str] = {}
    owners: dict[tuple[str, str], Conversation] = {}
    for pair in pairs:
        if (pair.language, pair.asked) not in ids:
            name = pair.prompt_id or pair.pair_id
            is_taken = owners.setdefault((pair.language, name), pair.asked) != pair.asked
            ids[pair.language, pair.asked] = f"{name} ({len(ids)})" if is_taken else name
    return [pair._replace(prompt_id=ids[pair.language, pair.asked]) for pair in pairs]


_UNUSED = {
    IDENTICAL: "both responses are the same text",
    EMPTY: "a response is empty",
    UNUSABLE: "they cannot be read",
}


def _combinations(fields: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The pairs of a row: of lists of responses on both sides every combination, each with what its id gets as an ending."""
    for names in PAIR_LAYOUTS:
        sides = [fields.get(name) for name in names]
        if len(names) != 2 or not all(_is_texts(side) for side in sides) or not all(name in fields for name in names):
            continue
        chosen, rejected = ([side] if isinstance(side, str) else list(side or ()) for side in sides)
        if any(isinstance(side, list) for side in sides) and len(chosen) * len(rejected) > 1:
            for (i, better), (j, worse) in itertools.product(enumerate(chosen), enumerate(rejected)):
                yield f"/{i}-{j}", {**fields, names[0]: better, names[1]: worse}
            return
    yield "", fields


def _is_texts(value: Any) -> bool:
    return isinstance(value, str) or (
        isinstance(value, list) and bool(value) and all(isinstance(text, str) for text in value)
    )


def _english_in(fields: Mapping[str, Any]) -> Conversation | None:
    for name in ENGLISH_FIELDS:
        value = fields.get(name)
        value = listed(value, MESSAGE_FIELDS[0])
        if isinstance(value, list) and value:
            return turn_of({"messages": value}).asked
        if text := optional_text(fields, name):
            return turn_of({"instruction": text}).asked
    return None


def _text_in(fields: Mapping[str, Any], name: str) -> str:
    value = fields.get(name)
    return "" if value is None or isinstance(value, (list, Mapping)) else str(value).strip()


def _side_of(row: Mapping[str, Any], side: str) -> Side:
    return Side(row[side], tuple(row[f"{side}_token_ids"]), row[f"{side}_answer_start"] or 0)


def _sample_of(row: Mapping[str, Any], side: str) -> str:
    """The sample's number, with its language where that is not the pair's: a pool may have the same number twice."""
    language = row[f"{side}_language"]
    return f"{row[f'{side}_index']}" if language is None else f"{language}:{row[f'{side}_index']}"


def _artifact_pairs(folder: str) -> list[LabelledPair]:
    """Pairs of a preferences artifact, with the tokens that were sampled."""
    pairs = []
    for part in range(len((artifact := open_artifact(Path(folder), PREFERENCES)).parts)):
        for row in artifact.read_part(part).to_pylist():
            english = row["english_instruction"]
            pairs.append(
                LabelledPair(
                    row["language"],
                    f"{row['prompt_id']}/{_sample_of(row, 'chosen')}-{_sample_of(row, 'rejected')}",
                    row["prompt_id"],
                    Conversation.of(row["instruction"], row["messages"]),
                    None if english is None else Conversation.of(english, row["english_messages"]),
                    _side_of(row, "chosen"),
                    _side_of(row, "rejected"),
                )
            )
    return pairs


def _kept(
    source: str,
    pairs: Sequence[LabelledPair],
    unused: Sequence[UnusedRow],
    notes: list[str],
    languages: Sequence[str],
    limit: int | None,
) -> LabelledPairs:
    """The pairs of these languages, under the tags that were asked for, and the first `limit` of each."""
    there = list(dict.fromkeys(pair.language for pair in pairs))
    tags = {name: name for name in there}
    if languages:
        names = {}
        for code in languages:
            try:
                name = find_name(code, there)
            except InputError as error:
                raise InputError(f"{source}: {error}") from None
            if name is None:
                found = ", ".join(there) or "none"
                raise InputError(f"{source}: no pair is in {code!r}; found: {found}; correct --languages")
            names[name] = code
            if name != code:
                notes.append(f"{source}: {name!r} is read for {code!r}, the same language")
        tags = names
    seen: Counter[str] = Counter()
    kept = []
    for pair in pairs:
        if pair.language in tags:
            seen[pair.language] += 1
            if limit is None or seen[pair.language] <= limit:
                kept.append(pair._replace(language=tags[pair.language]))
    if not kept:
        why = f"all {len(unused):,} rows were left out, the first: {unused[0].detail}" if unused else "it is empty"
        raise InputError(f"{source}: contains no pair, {why}; give rows with {_WANTED.fields}")
    unknown = [name for name in there if name in tags and not is_language(name)]
    if unknown:
        notes.append(f"{source}: {shown(unknown)} name no known language; their pairs are kept under these names")
    return LabelledPairs(kept, unused, tuple(dict.fromkeys(notes)))


def pairs_table(pairs: Sequence[LabelledPair]) -> pa.Table:
    """Key and text of the responses of [P] pairs, as schemas.RESPONSES has them: [2 P] rows, chosen (sample 0) before rejected (sample 1)."""
    rows = [
        {"language": pair.language, "prompt_id": pair.pair_id, "sample_index": index, "response": side.text}
        for pair in pairs
        for index, side in enumerate((pair.chosen, pair.rejected))
    ]
    names = ("language", "prompt_id", "sample_index", "response")
    return pa.Table.from_pylist(rows, schema=pa.schema([RESPONSES.schema.field(name) for name in names]))
