"""Files of judged items, each with its texts and its answer: for training, for the platform's own reward bench, for people, for other tools.

Whatever has rows is written as they come: no file is ever held whole. Items are of one kind of verdicts (see `ui.review.counted`), and
each kind has files of its own: those of blind verdicts of random queues have the plain name, the others end in the kind's name.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TextIO

import pyarrow as pa
import pyarrow.parquet as pq

from icr_platform.core.conversations import Conversation
from ui.review.item_rows import ItemRow, answer_of
from ui.review.items import item_of
from ui.review.verdicts import Verdict
from ui.tables.item_texts import ItemTexts

PREFERENCES = "preferences-trl.jsonl"
LABELLED_PAIRS = "labelled-pairs.jsonl"
ITEMS = "items.csv"
DATASET = "dataset"
COMPARATOR = "llm-comparator"
_STRINGS = pa.list_(pa.string())
ITEMS_SCHEMA = pa.schema(
    [
        ("item", pa.string()), ("kind", pa.string()), ("language", pa.string()), ("prompt_id", pa.string()), ("iteration", pa.int64()),
        ("base", pa.int64()), ("pair_index", pa.int64()), ("chosen_index", pa.int64()), ("rejected_index", pa.int64()),
        ("answer", pa.string()), ("decided_by", pa.string()), ("votes", pa.int64()), ("votes_first", pa.int64()),
        ("votes_second", pa.int64()), ("votes_tie", pa.int64()), ("votes_both_bad", pa.int64()), ("reviewers", _STRINGS),
        ("reasons", _STRINGS), ("notes", _STRINGS), ("counts_as", pa.string()), ("blind", pa.bool_()), ("disclosed", pa.bool_()),
        ("fast", pa.bool_()), ("queue", _STRINGS), ("link", _STRINGS), ("source", _STRINGS), ("first_at", pa.string()),
        ("last_at", pa.string()), ("margin", pa.float64()), ("first_is", pa.string()), ("second_is", pa.string()),
        ("instruction", pa.string()), ("english_instruction", pa.string()), ("messages", pa.string()), ("first_text", pa.string()),
        ("second_text", pa.string()),
    ]
)  # fmt: skip
_TURNS = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
PREFERENCES_SCHEMA = pa.schema(
    [
        ("prompt", _TURNS),
        ("chosen", _TURNS),
        ("rejected", _TURNS),
        ("language", pa.string()),
        ("prompt_id", pa.string()),
    ]
)


class Answered(NamedTuple):
    """An item's answer and its texts."""

    row: ItemRow
    texts: ItemTexts

    @property
    def sides(self) -> tuple[str, str]:
        """Names of the first and the second text."""
        return ("chosen", "rejected") if self.row.verdict.kind == "pair" else ("after", "before")

    @property
    def by_side(self) -> dict[str, str]:
        """The two texts by name."""
        return dict(zip(self.sides, (self.texts.first, self.texts.second), strict=True))

    @property
    def heard(self) -> tuple[Verdict, ...]:
        """The votes, and the adjudication where that is the answer."""
        return (*self.row.votes, *((self.row.verdict,) if self.row.decided_by == "adjudication" else ()))


class ItemFiles(Protocol):
    """Files of one format."""

    def write(self, kind: str, found: Sequence[Answered]) -> None:
        """Add items of a kind of verdicts."""

    def close(self) -> None:
        """Finish what was written."""


def named(name: str, kind: str) -> str:
    """A file's name for a kind of verdicts.

    >>> named("items.csv", "blind"), named("items.csv", "open")
    ('items.csv', 'items-open.csv')
    """
    path = Path(name)
    return name if kind == "blind" else f"{path.stem}-{kind}{path.suffix}"


def private(path: Path) -> Path:
    """An empty file: reviewers' names and notes are their owner's alone from the start."""
    path.unlink(missing_ok=True)
    path.touch(mode=0o600)
    return path


class JsonLines:
    """One JSON object a line, of the items that have one."""

    def __init__(self, folder: Path, name: str, line: Any) -> None:
        """line: the line of an item, '' where it has none."""
        self._folder, self._name, self._line = folder, name, line
        self._open: dict[str, TextIO] = {}
        self.write("blind", ())

    def write(self, kind: str, found: Sequence[Answered]) -> None:
        if kind not in self._open:
            self._open[kind] = private(self._folder / named(self._name, kind)).open("w", encoding="utf-8")
        self._open[kind].writelines(f"{line}\n" for one in found if (line := self._line(one)))

    def close(self) -> None:
        for file in self._open.values():
            file.close()


def preference_line(found: Answered) -> str:
    """One line of TRL's conversational preferences; '' for ties and draws: DPO learns from a side that is better."""
    if not found.row.preferred:
        return ""
    return json.dumps(_preference(found.texts.asked, found.by_side, found.row.preferred), ensure_ascii=False)


def _preference(asked: Conversation, texts: Mapping[str, str], preferred: str) -> dict[str, Any]:
    """prompt, chosen, rejected, each a list of messages. texts: the two sides by name, of which `preferred` is one."""
    (rejected,) = [text for name, text in texts.items() if name != preferred]
    return {
        "prompt": asked.messages,
        "chosen": [{"role": "assistant", "content": texts[preferred]}],
        "rejected": [{"role": "assistant", "content": rejected}],
    }


def labelled_line(found: Answered) -> str:
    """One line of labelled pairs: both responses of an item and the side that is better; without one it is a tie."""
    verdict, texts = found.row.verdict, found.texts
    english = texts.english
    return json.dumps(
        {
            "id": verdict.prompt_id,
            "language": verdict.language,
            "category": verdict.kind,
            "messages": texts.asked.messages,
            **({"english_messages": english.messages} if english.instruction else {}),
            "response_a": texts.first,
            "response_b": texts.second,
            "winner": dict(zip(found.sides, "ab", strict=True)).get(found.row.preferred, "tie"),
        },
        ensure_ascii=False,
    )


def item_values(found: Answered, kind: str) -> dict[str, Any]:
    """A row of ITEMS_SCHEMA."""
    row, texts, heard, sides = found.row, found.texts, found.heard, found.sides
    verdict, answers = row.verdict, [answer_of(vote) for vote in row.votes]
    is_pair = verdict.kind == "pair"
    return {
        "item": verdict.item, "kind": verdict.kind, "language": verdict.language, "prompt_id": verdict.prompt_id,
        "iteration": verdict.iteration, "base": verdict.base, "pair_index": item_of(verdict).pair_index if is_pair else None,
        "chosen_index": texts.first_index if is_pair else None, "rejected_index": texts.second_index if is_pair else None,
        "answer": row.answer, "decided_by": row.decided_by, "votes": len(answers), "votes_first": answers.count(sides[0]),
        "votes_second": answers.count(sides[1]), "votes_tie": answers.count("tie"), "votes_both_bad": answers.count("both-bad"),
        "reviewers": _distinct(vote.reviewer for vote in heard),
        "reasons": _distinct(reason for vote in heard for reason in vote.reasons),
        "notes": [f"{vote.reviewer}: {vote.note}" for vote in heard if vote.note], "counts_as": kind,
        "blind": all(vote.blind for vote in heard), "disclosed": any(vote.disclosed for vote in heard),
        "fast": any(vote.fast for vote in heard), "queue": _distinct(vote.queue for vote in heard),
        "link": _distinct(vote.link for vote in heard if vote.link), "source": _distinct(vote.source for vote in heard),
        "first_at": min(vote.created_at for vote in heard), "last_at": max(vote.created_at for vote in heard),
        "margin": verdict.margin, "first_is": sides[0], "second_is": sides[1], "instruction": texts.asked.instruction,
        "english_instruction": texts.english.instruction or None, "messages": texts.asked.json, "first_text": texts.first,
        "second_text": texts.second,
    }  # fmt: skip


def _distinct(values: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(values))


class ItemsCsv:
    """A row for each item with its texts, for spreadsheets: Excel takes UTF-8 for what it is by the mark at its beginning."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._open: dict[str, TextIO] = {}
        self.write("blind", ())

    def write(self, kind: str, found: Sequence[Answered]) -> None:
        if kind not in self._open:
            self._open[kind] = open_csv(self._folder / named(ITEMS, kind), ITEMS_SCHEMA.names)
        csv.writer(self._open[kind]).writerows(csv_row(item_values(one, kind).values()) for one in found)

    def close(self) -> None:
        for file in self._open.values():
            file.close()


def open_csv(path: Path, columns: Sequence[str]) -> TextIO:
    """A new file for rows, with its heading."""
    file = private(path).open("w", encoding="utf-8-sig", newline="")
    csv.writer(file).writerow(columns)
    return file


def csv_row(values: Iterable[Any]) -> list[Any]:
    """Values of a line. Lists become one text; text that a spreadsheet would take for a formula gets a quote in front.

    >>> csv_row(["=1+1", -1, ["a", "-b"], None])
    ["'=1+1", -1, 'a|-b', None]
    """
    # A million cells: almost all are numbers or harmless texts, which are told at once.
    return [
        value if (kind := type(value)) in _NUMBERS or (kind is str and value[:1] not in _FORMULA) else _cell(value)
        for value in values
    ]


_NUMBERS = frozenset({int, float, bool, type(None)})
_FORMULA = frozenset("=+-@\t\r\n＝＋－＠")  # the wide ones count in East Asian versions


def _cell(value: Any) -> Any:
    text = "|".join(value) if isinstance(value, (list, tuple)) else value
    return f"'{text}" if isinstance(text, str) and text[:1] in _FORMULA else text


class Dataset:
    """A folder that `datasets.load_dataset` reads: items of blind verdicts by default, and `preferences` for TRL's trainers; of other
    kinds the same, each under a name of its own."""

    def __init__(self, folder: Path, about: str) -> None:
        """about: what the data are, a paragraph of the folder's card."""
        self._folder, self._about = folder / DATASET, about
        self._folder.mkdir(mode=0o700)
        self._open: dict[str, pq.ParquetWriter] = {}
        self._rows: dict[str, int] = {}
        self.write("blind", ())

    def write(self, kind: str, found: Sequence[Answered]) -> None:
        self._add("default" if kind == "blind" else kind, ITEMS_SCHEMA, [item_values(one, kind) for one in found])
        preferred = [
            _preference(one.texts.asked, one.by_side, one.row.preferred)
            | {"language": one.row.verdict.language, "prompt_id": one.row.verdict.prompt_id}
            for one in found
            if one.row.preferred
        ]
        if preferred:
            self._add("preferences" if kind == "blind" else f"preferences-{kind}", PREFERENCES_SCHEMA, preferred)

    def _add(self, name: str, schema: pa.Schema, rows: list[dict[str, Any]]) -> None:
        if name not in self._open:
            (self._folder / name).mkdir(mode=0o700)
            self._open[name] = pq.ParquetWriter(
                private(self._folder / name / "train.parquet"), schema, compression="zstd"
            )
        if rows:  # readers stumble over a group of none
            self._open[name].write_table(pa.Table.from_pylist(rows, schema=schema))
        self._rows[name] = self._rows.get(name, 0) + len(rows)

    def close(self) -> None:
        for file in self._open.values():
            file.close()
        card = dataset_card(self._about, self._rows)
        private(self._folder / "README.md").write_text(card, encoding="utf-8")


CARD_MARK = "written by `icr verdicts export`"
"""Stands in the card: a folder without it is somebody else's, and is not replaced."""


def dataset_card(about: str, rows: Mapping[str, int]) -> str:
    """The README of a data set. rows: of each configuration."""
    listed = "".join(
        f"- config_name: {name}\n  data_files:\n  - split: train\n    path: {name}/train.parquet\n" for name in rows
    )
    table = "".join(f"| `{name}` | {count:,} |\n" for name, count in rows.items())
    return (
        f"---\nconfigs:\n{listed}---\n\n# People's verdicts\n\n{about}\n\nThis folder was {CARD_MARK}. Read it in Python with "
        "`datasets.load_dataset(FOLDER)`, or one of these with `datasets.load_dataset(FOLDER, NAME)`:\n\n| name | rows |\n|---|---|\n"
        f"{table}\n`default` has a row for each item with both texts and its `answer`; `preferences` those with a better side, as TRL's "
        "`DPOTrainer` takes them. Both are of blind verdicts of random queues. Names that end otherwise are of verdicts that answer other "
        "questions: do not mix them.\n"
    )


@dataclass
class _Examples:
    """A file for the comparator that is being written. is_empty: no example yet."""

    file: TextIO
    is_empty: bool = True


class ComparatorFiles:
    """Google's LLM Comparator: a file for all pairs (chosen against rejected), one for each two iterations whose outputs were compared."""

    def __init__(self, folder: Path, run_id: str) -> None:
        self._folder, self._run_id = folder, run_id
        self._open: dict[str, _Examples] = {}

    def write(self, kind: str, found: Sequence[Answered]) -> None:
        for one in found:
            verdict = one.row.verdict
            what = "pairs" if verdict.kind == "pair" else f"outputs-{verdict.base}-{verdict.iteration}"
            name = named(f"{COMPARATOR}-{what}.json", kind)
            if name not in self._open:
                self._open[name] = _Examples(private(self._folder / name).open("w", encoding="utf-8"))
                self._open[name].file.write(self._beginning(verdict))
            there = self._open[name]
            there.file.write(("\n" if there.is_empty else ",\n") + json.dumps(_example(one), ensure_ascii=False))
            there.is_empty = False

    def _beginning(self, verdict: Verdict) -> str:
        names = (
            ("chosen", "rejected")
            if verdict.kind == "pair"
            else (f"iteration {verdict.iteration}", f"iteration {verdict.base}")
        )
        fields = {"language": "category", "iteration": "category", "answer": "category", "decided_by": "category", "votes": "number",
                  "prompt_id": "string"}  # fmt: skip
        schema = [{"name": name, "type": kind} for name, kind in fields.items()]
        about = {"metadata": {"source_path": f"run {self._run_id}", "custom_fields_schema": schema},
                 "models": [{"name": name} for name in names]}  # fmt: skip
        return json.dumps(about, ensure_ascii=False)[:-1] + ', "examples": ['

    def close(self) -> None:
        for there in self._open.values():
            there.file.write("\n]}\n")
            there.file.close()


_FULL = 1.5  # the comparator's scores lie between -1.5 and 1.5; above 0 the first text is better


def _example(found: Answered) -> dict[str, Any]:
    row, texts, (first, second) = found.row, found.texts, found.sides
    marks = [(answer_of(vote) == first) - (answer_of(vote) == second) for vote in row.votes]
    mean = sum(marks) / len(marks) if marks else 0.0
    settled = (row.preferred == first) - (row.preferred == second)
    return {
        "input_text": texts.asked.text,
        "tags": [row.verdict.language],
        "output_text_a": texts.first,
        "output_text_b": texts.second,
        "score": _FULL * (settled if row.decided_by == "adjudication" else mean),
        "individual_rater_scores": [
            {"is_flipped": vote.left != first, "score": _FULL * mark, "rationale": _rationale(vote)}
            for vote, mark in zip(row.votes, marks, strict=True)
        ],
        "custom_fields": {
            "language": row.verdict.language, "iteration": str(row.verdict.iteration), "answer": row.answer,
            "decided_by": row.decided_by, "votes": len(row.votes), "prompt_id": row.verdict.prompt_id,
        },
    }  # fmt: skip


def _rationale(vote: Verdict) -> str:
    said = ". ".join(part for part in (", ".join(vote.reasons), vote.note) if part)
    return f"{vote.reviewer}: {said}" if said else vote.reviewer
