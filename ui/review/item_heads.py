"""The beginnings of the texts of many items, by one query."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import pyarrow as pa

from ui.review.items import Item
from ui.tables.pairs_data import pair_number
from ui.tables.run_tables import RunTables
from ui.tables.runs import ArmRecord
from ui.tables.value_tables import parts_with_rows

_HEAD = 240  # characters


class Heads(NamedTuple):
    """Beginnings of what was asked and of both sides' texts; as `items.Facts` orders them."""

    asked: str
    first: str
    second: str


def heads_of(tables: RunTables, arm: ArmRecord, items: Sequence[Item]) -> dict[str, Heads]:
    """By the items' identities; without those whose texts are gone.

    Raises:
        InputError: a table of the run cannot be read.
    """
    there = {t.number for t in arm.iterations}
    items = [item for item in items if {item.iteration, item.iteration if item.base is None else item.base} <= there]
    parts, values = list[str](), list[Any]()
    for iteration in sorted({item.iteration for item in items if item.kind == "pair"}):
        of_pairs = tables.pair_tables(arm.iteration(iteration))
        parts.append(f"""
            SELECT w.key, left(t.instruction, {_HEAD}) AS asked, left(t.chosen, {_HEAD}) AS first, left(t.rejected, {_HEAD}) AS second
            FROM (SELECT *, coalesce({pair_number(of_pairs)}, 0) AS number FROM read_parquet(?)) AS t
            JOIN wanted AS w ON w.language = t.language AND w.prompt_id = t.prompt_id AND w.number = t.number
            WHERE w.kind = 'pair' AND w.iteration = ?""")
        values += [parts_with_rows(of_pairs.preferences), iteration]
    for base, iteration in sorted({(item.base or 0, item.iteration) for item in items if item.kind == "outputs"}):
        # A policy may have been sampled more than once; a reviewer compares first samples.
        side = f"""(SELECT language, prompt_id, first(left(instruction, {_HEAD}) ORDER BY sample_index) AS asked,
                           first(left(output, {_HEAD}) ORDER BY sample_index) AS text
                    FROM read_parquet(?) SEMI JOIN wanted USING (language, prompt_id) GROUP BY ALL)"""
        parts.append(f"""
            SELECT w.key, a.asked, a.text AS first, b.text AS second
            FROM wanted AS w JOIN {side} AS a USING (language, prompt_id) JOIN {side} AS b USING (language, prompt_id)
            WHERE w.kind = 'outputs' AND w.iteration = ? AND w.base = ?""")
        outputs = [tables.catalogue.artifact(arm.iteration(number), "outputs") for number in (iteration, base)]
        values += [*map(parts_with_rows, outputs), iteration, base]
    if not parts:
        return {}
    wanted = pa.Table.from_pylist(
        [
            {
                "key": item.key, "kind": item.kind, "iteration": item.iteration, "base": item.base, "language": item.language,
                "prompt_id": item.prompt_id, "number": item.pair_index,
            }
            for item in items
        ],
        schema=_WANTED,
    )  # fmt: skip
    rows = tables.engine.select(" UNION ALL ".join(parts), values, tables={"wanted": wanted})
    return {row["key"]: Heads(row["asked"], row["first"], row["second"]) for row in rows}


_WANTED = pa.schema(
    [
        *((name, pa.string()) for name in ("key", "kind", "language", "prompt_id")),
        *((name, pa.int64()) for name in ("iteration", "base", "number")),
    ]
)
