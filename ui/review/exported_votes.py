"""The verdicts of an export in a database engine of its own, which keeps them on disk where they are many."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import pyarrow as pa

from icr_platform.core.errors import InputError
from ui.review.verdict_store import VerdictStore
from ui.review.verdicts import ADJUDICATION, VERDICTS_SCHEMA, Verdict, verdict_in
from ui.tables.item_texts import ItemTexts, Place
from ui.tables.queries import QueryEngine, ResultRow

BATCH = 2000
_STORED = pa.schema(
    [
        ("id", pa.int64()),
        *(
            pa.field(column.name, pa.string() if pa.types.is_list(column.type) else column.type)  # reasons are JSON
            for column in VERDICTS_SCHEMA
        ),
    ]
)
_SAMPLES = pa.schema([("number", pa.int64()), ("chosen_index", pa.int64()), ("rejected_index", pa.int64())])
# The number after the point of 'pair.3:2::es:p7', see `ui.review.items.Item.key`.
_PAIR_INDEX = r"coalesce(try_cast(regexp_extract(split_part(item, ':', 1), '\.(\d+)$', 1) AS INTEGER), 0)"
# As `VerdictStore.current`: a later word of the same reviewer in the same role. Reviewers have one name each here.
_LAST = "SELECT max(id) FROM {raw} GROUP BY reviewer, item, queue = '" + ADJUDICATION + "', source"


class Step(NamedTuple):
    """How far a long piece of work is: rows done of those that its present stage has."""

    label: str
    done: int
    total: int


@dataclass
class ExportedVotes:
    """A run's verdicts that count, each with the number of its item where that has texts in the run.

    table, items, samples: names of the engine's tables of verdicts, of items (as `ui.tables.item_texts` takes them), and of the samples that
    were found for items. size: verdicts.
    """

    engine: QueryEngine
    table: str
    items: str
    size: int
    samples: str = field(default="")

    @classmethod
    def load(
        cls, engine: QueryEngine, store: VerdictStore, run_id: str, shown: Mapping[str, str], language: str
    ) -> Generator[Step, None, ExportedVotes]:
        """Read the last word of each reviewer on each item.

        shown: names that reviewers get, by name as typed; who is not in it is left out. language: '' for all.

        Raises:
            InputError: no verdict is left.
        """
        raw, done, total = "", 0, store.count(run_id)
        for rows in store.rows(run_id):
            done += len(rows)
            kept = [
                row | {"reviewer": shown[row["reviewer"]]}
                for row in rows
                if row["reviewer"] in shown and language in ("", row["language"])
            ]
            raw = engine.append(raw, pa.Table.from_pylist(kept, schema=_STORED))
            yield Step("verdicts read", done, max(done, total))  # more may have come in meanwhile
        if not raw:
            raise InputError("There are no verdicts to export yet; record some on Spot-check.")
        table = engine.materialise(
            "votes",
            f"""WITH last AS (SELECT * FROM {raw} WHERE id IN ({_LAST.format(raw=raw)}) AND choice <> 'withdrawn'),
                     items AS (SELECT item, row_number() OVER (ORDER BY kind, iteration, base, language, prompt_id, item) AS number FROM (
                               SELECT DISTINCT item, kind, iteration, base, language, prompt_id FROM last WHERE kind IN ('pair', 'outputs')))
                SELECT last.*, items.number, CASE WHEN kind = 'pair' THEN {_PAIR_INDEX} END AS pair_index
                FROM last LEFT JOIN items USING (item) ORDER BY id""",
        )
        engine.select(f"DROP TABLE {raw}")
        columns = "number, kind, iteration, base, language, prompt_id, pair_index"
        items = engine.materialise("items", f"SELECT DISTINCT {columns} FROM {table} WHERE number IS NOT NULL")
        (row,) = engine.select(f"SELECT count(*) AS size FROM {table}")
        if not row["size"]:
            whose = f" in {language!r}" if language else ""
            raise InputError(
                f"There are no verdicts to export{whose}: all were withdrawn, or are of reviewers who are left out."
            )
        return cls(engine, table, items, row["size"], engine.append("", _SAMPLES.empty_table()))

    def per_place(self) -> dict[Place, int]:
        """Items of each place."""
        sql = f"SELECT kind, iteration, base, count(*) AS n FROM {self.items} GROUP BY ALL"
        return {Place(row["kind"], row["iteration"], row["base"]): row["n"] for row in self.engine.select(sql)}

    def on(self, texts: Sequence[ItemTexts]) -> dict[int, list[Verdict]]:
        """Verdicts on some items by their number, in the order given. The samples of pairs are kept for `in_order`."""
        numbers = [one.number for one in texts]
        sql = f"SELECT * FROM {self.table} WHERE number BETWEEN ? AND ? AND number IN (SELECT unnest(?)) ORDER BY id"
        found: dict[int, list[Verdict]] = defaultdict(list)
        for row in self.engine.select(sql, [min(numbers), max(numbers), numbers], seconds=120.0):
            found[row["number"]].append(verdict_in(row))
        columns = [
            [one.number for one in texts],
            [one.first_index for one in texts],
            [one.second_index for one in texts],
        ]
        self.engine.append(self.samples, pa.table(columns, schema=_SAMPLES))
        return found

    def in_order(self) -> Iterator[list[tuple[Verdict, ResultRow]]]:
        """All verdicts in the order given, in batches, each with pair_index, chosen_index and rejected_index, which only pairs have."""
        sql = f"""SELECT v.*, CASE WHEN kind = 'pair' THEN chosen_index END AS chosen_index, CASE WHEN kind = 'pair' THEN rejected_index END AS rejected_index
                  FROM {self.table} AS v LEFT JOIN {self.samples} AS s USING (number) ORDER BY id"""
        for rows in self.engine.stream(sql, size=BATCH):
            yield [(verdict_in(row), {name: row[name] for name in INDICES}) for row in rows]


INDICES = ("pair_index", "chosen_index", "rejected_index")
"""Which of a prompt's pairs was judged, and which of its samples are the pair."""
