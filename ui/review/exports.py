"""Verdicts leave the inspector as files: tables of all verdicts, and items with their texts and answers in the formats that other tools read.

`publishing` adds verdicts to their MLflow run. Here they meet the texts part by part, and memory does not grow with their number.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from icr_platform.core.errors import InputError
from icr_platform.core.schemas import TableSchema
from ui.review import item_files
from ui.review.counted import Counted, counted
from ui.review.exported_votes import INDICES, ExportedVotes, Step
from ui.review.item_files import Answered, ItemFiles
from ui.review.item_rows import RULES, item_rows
from ui.review.reviewers import left_out_keys, numbered, reviewer_key
from ui.review.verdict_store import VerdictStore
from ui.review.verdicts import COLUMNS, VERDICTS_SCHEMA, Verdict, preferred_name
from ui.review.whole_files import written_whole
from ui.tables.item_texts import ItemTexts, Search, missing
from ui.tables.queries import QueryEngine
from ui.tables.run_tables import RunTables
from ui.tables.runs import ArmRecord, UnknownRunError

VERDICTS = TableSchema("verdicts", 2, VERDICTS_SCHEMA)
FORMATS = {
    "csv": "verdicts.csv", "parquet": "verdicts.parquet", "trl": item_files.PREFERENCES, "pairs": item_files.LABELLED_PAIRS,
    "items": item_files.ITEMS, "datasets": item_files.DATASET, "llm-comparator": item_files.COMPARATOR,
}  # fmt: skip
"""What each writes, see `ui.review.item_files`; the first two a row for each verdict."""
DEFAULT_FORMATS = ("csv", "parquet", "trl", "pairs", "items")
KINDS = ("blind", "targeted", "open", "imported", "adjudicated")
"""Verdicts whose items have files of their own. Adjudicated: items on which nobody but a lead has an answer."""
EXPORTED_SCHEMA = pa.schema(
    [
        *(pa.field(column.name, column.type) for column in VERDICTS_SCHEMA), ("preferred", pa.string()), ("counts_as", pa.string()),
        *((name, pa.int64()) for name in INDICES),
    ]
)  # fmt: skip
"""Of verdicts.csv and verdicts.parquet: a verdict, the side it prefers, what it counts for, and the samples that were compared."""
_MEMORY = "96MB"


@dataclass(frozen=True)
class ExportRequest:
    """What to export: formats of FORMATS; rule for several votes on an item, of RULES; names of reviewers to leave out, however they are
    spelled, or their numbers as in 'reviewer 2'; whether reviewers have their own names; one language, '' for all."""

    formats: tuple[str, ...] = DEFAULT_FORMATS
    rule: str = RULES[0]
    leave_out: tuple[str, ...] = ()
    names: bool = False
    language: str = ""


@dataclass(frozen=True)
class Exported:
    """Files that were written (folders for data sets), in the order of FORMATS, and sentences about what is not in them."""

    files: list[Path]
    notes: list[str]


def exporting(
    tables: RunTables, store: VerdictStore, run_id: str, folder: Path, asked: ExportRequest = ExportRequest()
) -> Generator[Step, None, Exported]:
    """Write each reviewer's last word on each item of a run, and the items with their answers, to files in a folder.

    The files appear together at the end. Items whose run, table or pair is gone are in the tables of verdicts alone, and said.

    Raises:
        InputError: an unknown format, rule or reviewer; no such run, or no verdict of it; the folder cannot be written.
        IcrError: a store does not answer, or the disk is full.
    """
    _check(asked)
    gone, arm = "", None
    try:
        arm = tables.catalogue.arm(run_id)
    except UnknownRunError as error:
        gone = str(error).rstrip(".")
    typed = store.names(run_id)
    if not typed:
        raise InputError(gone or "There are no verdicts to export yet; record some on Spot-check.")
    left_out = left_out_keys(asked.leave_out, typed)
    names = typed if asked.names else numbered(typed)
    shown = {name: names[name] for name in typed if reviewer_key(name) not in left_out}
    if not shown:
        raise InputError("Every reviewer of this run is left out, so there is nothing to export; leave out fewer.")
    if "datasets" in asked.formats:
        _refuse_foreign(folder)
    with closing(QueryEngine(_MEMORY, threads=1)) as engine:
        votes = yield from ExportedVotes.load(engine, store, run_id, shown, asked.language)
        written: list[Path] = []
        with written_whole(folder, written) as place:
            notes = yield from _write_items(
                votes,
                Search(engine, tables.catalogue, votes.items),
                arm,
                gone,
                _files(place, run_id, asked),
                asked.rule,
            )
            yield from _write_verdicts(votes, place, asked)
    _remove_stale(folder, written, asked)
    return Exported(sorted(written, key=_order), notes)


def _check(asked: ExportRequest) -> None:
    unknown = [name for name in asked.formats if name not in FORMATS]
    if unknown or not asked.formats:
        said = f"There is no format {unknown[0][:40]!r}" if unknown else "No format is chosen"
        raise InputError(f"{said}; the formats are {', '.join(FORMATS)}.")
    item_rows((), asked.rule)  # says which rules there are


def _refuse_foreign(folder: Path) -> None:
    """A folder of the data set's name that no export has written is not replaced."""
    place = folder / item_files.DATASET
    try:
        is_ours = item_files.CARD_MARK in (place / "README.md").read_text(encoding="utf-8")
    except (OSError, ValueError):
        is_ours = False
    if place.exists() and not is_ours:
        raise InputError(
            f"{place}: is there and was not written by an export, so it is kept; give another folder to write to."
        )


def _files(place: Path, run_id: str, asked: ExportRequest) -> list[ItemFiles]:
    """The files of items, open."""
    rule = {
        "majority": "most reviewers' answer, and a draw where they are divided",
        "adjudicated": "a lead's answer where there is one, else most reviewers'",
        "all": "a row for each vote",
    }[asked.rule]
    who = "with the names that they gave" if asked.names else "numbered"
    about = (
        f"What people said of items of the MLflow run {run_id}. Several votes on one item: {rule}. Reviewers are {who}."
    )
    makers: dict[str, Callable[[], ItemFiles]] = {
        "trl": lambda: item_files.JsonLines(place, item_files.PREFERENCES, item_files.preference_line),
        "pairs": lambda: item_files.JsonLines(place, item_files.LABELLED_PAIRS, item_files.labelled_line),
        "items": lambda: item_files.ItemsCsv(place),
        "datasets": lambda: item_files.Dataset(place, about),
        "llm-comparator": lambda: item_files.ComparatorFiles(place, run_id),
    }
    return [make() for name, make in makers.items() if name in asked.formats]


def _write_items(
    votes: ExportedVotes, search: Search, arm: ArmRecord | None, gone: str, files: Sequence[ItemFiles], rule: str
) -> Generator[Step, None, list[str]]:
    """Write the items of each place with their answers. Returns what is not in the files.

    arm: None where the run is gone, and `gone` says why.
    """
    places = votes.per_place()
    total, done, notes = sum(places.values()), 0, []
    try:
        for place in sorted(places, key=lambda place: (place.kind != "pair", place.iteration, place.base or 0)):
            faults = [gone] if arm is None else []
            found = 0
            for texts in search.texts(arm, place, faults) if arm else ():
                for kind, rows in _by_kind(texts, votes.on(texts), rule).items():
                    for file in files:
                        file.write(kind, rows)
                found += len(texts)
                yield Step("items", done + found, total)
            done += places[place]
            if lost := places[place] - found:
                notes.append(
                    f"{lost:,} {'items are' if lost > 1 else 'item is'} in the tables of verdicts alone, without texts: {missing(place, faults)}."
                )
    finally:
        for file in files:
            file.close()
    return notes


def _by_kind(texts: Sequence[ItemTexts], votes: dict[int, list[Verdict]], rule: str) -> dict[str, list[Answered]]:
    """Items with their answers by the kind of verdicts that these rest on."""
    by_item = {votes[one.number][0].item: one for one in texts}
    found = counted(verdict for one in texts for verdict in votes[one.number])
    settled = found.adjudicated if rule == "adjudicated" else []
    rows: dict[str, list[Answered]] = {}
    voted: set[str] = set()
    for kind in KINDS:
        own: list[Verdict] = getattr(found, kind) if kind != "adjudicated" else []
        items = {verdict.item for verdict in own}
        voted |= items
        there = [
            verdict
            for verdict in settled
            if verdict.item in items or (kind == "adjudicated" and verdict.item not in voted)
        ]
        if answers := item_rows([*own, *there], rule):
            rows[kind] = [Answered(row, by_item[row.verdict.item]) for row in answers]
    return rows


def _write_verdicts(votes: ExportedVotes, place: Path, asked: ExportRequest) -> Generator[Step, None, None]:
    """Write the tables of all verdicts, in the order given."""
    lines = item_files.open_csv(place / FORMATS["csv"], EXPORTED_SCHEMA.names) if "csv" in asked.formats else None
    path = item_files.private(place / FORMATS["parquet"]) if "parquet" in asked.formats else None
    table = pq.ParquetWriter(path, EXPORTED_SCHEMA) if path else None
    done = 0
    try:
        for batch in votes.in_order() if lines or table else ():
            kinds = _kinds(counted(verdict for verdict, _ in batch))
            rows = [
                {name: getattr(verdict, name) for name in COLUMNS}
                | {"preferred": preferred_name(verdict), "counts_as": kinds[verdict.submission], **indices}
                for verdict, indices in batch
            ]
            if lines:
                csv.writer(lines).writerows(item_files.csv_row(row.values()) for row in rows)
            if table:
                table.write_table(pa.Table.from_pylist(rows, schema=EXPORTED_SCHEMA))
            done += len(batch)
            yield Step("verdicts written", done, votes.size)
    finally:
        for file in (lines, table):
            if file:
                file.close()


def _kinds(found: Counted) -> dict[str, str]:
    """What each verdict counts for, by its submission."""
    return {verdict.submission: kind for kind, verdicts in vars(found).items() for verdict in verdicts}


def _ours(asked: ExportRequest) -> list[str]:
    """Names of files of items, for every kind of verdicts."""
    names = [FORMATS[name] for name in asked.formats if name in ("trl", "pairs", "items")]
    return [item_files.named(name, kind) for name in names for kind in KINDS]


def _remove_stale(folder: Path, written: Sequence[Path], asked: ExportRequest) -> None:
    """Remove what an earlier export has written under names that this one would use, such as open verdicts of which there are none now."""
    there = [folder / name for name in _ours(asked)]
    if "llm-comparator" in asked.formats:
        there += folder.glob(f"{item_files.COMPARATOR}-*.json")
    for path in there:
        if path not in written and path.is_file():
            path.unlink()


def _order(path: Path) -> tuple[int, int, str]:
    """Where a file stands in a list of all: by format, then by kind."""
    place = next(
        i
        for i, name in enumerate(FORMATS.values())
        if path.name.startswith(Path(name).stem) and path.name.endswith(Path(name).suffix)
    )
    kind = next((i for i, kind in enumerate(KINDS) if path.stem.endswith(f"-{kind}")), 0)
    return kind, place, path.name
