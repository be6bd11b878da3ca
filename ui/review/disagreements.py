"""Items on which people disagree: with each other, with the reward or with the judge. One query finds a page of them, in DuckDB."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, NamedTuple

import pyarrow as pa

from ui.review.items import Item
from ui.review.queues import Assignment
from ui.review.seeing import Sight
from ui.review.verdicts import ADJUDICATION, DECIDED, INSPECTOR
from ui.tables.queries import QueryEngine, ResultRow

PAGE_ITEMS = 20
BETWEEN = {"reviewers": "people with each other", "reward": "people and the reward", "judge": "people and the judge"}


@dataclass(frozen=True)
class Wanted:
    """Which disagreements. between: a key of BETWEEN, '' for any. reviewer: key of one who judged the item, '' for anyone.

    settled: 'open' for what no lead has adjudicated, 'settled' for what one has, '' for both. left_out: keys of reviewers who do not count.
    with_imported: whether imported votes count.
    """

    language: str = ""
    between: str = ""
    reviewer: str = ""
    settled: str = ""
    left_out: Collection[str] = ()
    with_imported: bool = False


class Disagreement(NamedTuple):
    """One item. people: how many judged it. answers: such as 'chosen' or 'tie', with how many said so, the most frequent first.

    preferred: the side of the majority, '' where there is none. run_prefers: the side of the reward or the judge, '' without one.
    between: keys of BETWEEN. adjudicated: the lead's answer, '' where there is none yet.
    """

    item: Item
    key: str
    people: int
    answers: tuple[tuple[str, int], ...]
    preferred: str
    run_prefers: str
    between: tuple[str, ...]
    adjudicated: str


class DisagreementPage(NamedTuple):
    """total: of all pages."""

    rows: list[Disagreement]
    total: int


class Near(NamedTuple):
    """Keys of the items before and after one in the list, '' at its ends, and its place from 1."""

    before: str
    after: str
    place: int
    total: int


_ORDER = "people DESC, language, iteration, item"


def page_of(engine: QueryEngine, votes: pa.Table, sight: Sight, wanted: Wanted, start: int) -> DisagreementPage:
    """The items from `start` on, those that most people judged first.

    Args:
        votes: as `VerdictStore.votes` gives them.
    """
    listed = _listed(sight, wanted)
    sql = f"""SELECT *, (SELECT count(*) FROM listed) AS total FROM (SELECT 1) LEFT JOIN (
                  SELECT * FROM listed ORDER BY {_ORDER} LIMIT {PAGE_ITEMS} OFFSET ?) ON true ORDER BY {_ORDER}"""
    rows = engine.select(f"{listed.sql} {sql}", [*listed.values, start], tables={"votes": votes})
    return DisagreementPage([_read(row) for row in rows if row["item"] is not None], rows[0]["total"])


def near(engine: QueryEngine, votes: pa.Table, sight: Sight, wanted: Wanted, key: str) -> Near | None:
    """Where an item stands in the list; None when the filters leave it out."""
    listed = _listed(sight, wanted)
    sql = f"""SELECT * FROM (
                  SELECT item, row_number() OVER w AS place, count(*) OVER () AS total, lag(item) OVER w AS before, lead(item) OVER w AS after
                  FROM listed WINDOW w AS (ORDER BY {_ORDER})) WHERE item = ?"""
    rows = engine.select(f"{listed.sql} {sql}", [*listed.values, key], tables={"votes": votes})
    return Near(rows[0]["before"] or "", rows[0]["after"] or "", rows[0]["place"], rows[0]["total"]) if rows else None


class _Listed(NamedTuple):
    """WITH clauses that end in `listed`, and their parameters."""

    sql: str
    values: list[Any]


def _listed(sight: Sight, wanted: Wanted) -> _Listed:
    clauses, more = ["true"], list[Any]()

    def add(clause: str, *values: Any) -> None:
        clauses.append(clause)
        more.extend(values)

    if wanted.language:
        add("language = ?", wanted.language)
    if wanted.reviewer:
        add("list_contains(reviewers, ?)", wanted.reviewer)
    if sight.own:
        add("list_contains(judged_by, ?)", sight.own)
    for work in sight.hidden:
        add(*_covered(work))
    between = [wanted.between] if wanted.between else list(BETWEEN)
    add("(" + " OR ".join(f"between_{name}" for name in between) + ")")
    if wanted.settled:
        add(f"adjudicated IS {'NOT ' if wanted.settled == 'settled' else ''}NULL")
    # By the same rules as `verdict_summary`: a majority is the side that most prefer, where no other one has as many.
    sql = f"""
        WITH last AS (
            SELECT *, queue = '{ADJUDICATION}' AS adjudicates FROM votes
            QUALIFY row_number() OVER (PARTITION BY reviewer, item, queue = '{ADJUDICATION}', source ORDER BY id DESC) = 1
        ), said AS (
            SELECT *, CASE choice WHEN 'left' THEN "left" WHEN 'right' THEN "right" ELSE '' END AS side,
                   CASE choice WHEN 'left' THEN "left" WHEN 'right' THEN "right" ELSE choice END AS answer,
                   CASE WHEN left_score > right_score THEN "left" WHEN left_score < right_score THEN "right" ELSE '' END AS theirs
            FROM last WHERE list_contains(CAST(? AS VARCHAR[]), choice) AND gold = '' AND NOT list_contains(CAST(? AS VARCHAR[]), reviewer)
        ), people AS (
            SELECT * FROM said WHERE NOT adjudicates AND (source = '{INSPECTOR}' OR ?)
        ), sides AS (
            SELECT item, side, count(*) AS n FROM people GROUP BY ALL
        ), majorities AS (
            SELECT item, CASE WHEN count(*) = 1 THEN any_value(side) ELSE '' END AS preferred
            FROM (SELECT *, max(n) OVER (PARTITION BY item) AS most FROM sides) WHERE n = most GROUP BY item
        ), settled AS (
            SELECT item, arg_max(answer, id) AS adjudicated FROM said WHERE adjudicates AND source = '{INSPECTOR}' GROUP BY item
        ), items AS (
            SELECT item, any_value(kind) AS kind, any_value(iteration) AS iteration, any_value(base) AS base, any_value(language) AS language,
                   any_value(prompt_id) AS prompt_id, count(*) AS people, histogram(answer) AS answers, list(DISTINCT reviewer) AS reviewers,
                   coalesce(max(nullif(theirs, '')), '') AS run_prefers
            FROM people GROUP BY item
        ), judges AS (
            SELECT item, list(DISTINCT reviewer) AS judged_by FROM last WHERE source = '{INSPECTOR}' AND choice <> 'withdrawn' AND NOT adjudicates GROUP BY item
        ), compared AS (
            SELECT *, cardinality(answers) > 1 AS between_reviewers,
                   kind = 'pair' AND preferred <> '' AND run_prefers <> '' AND preferred <> run_prefers AS between_reward,
                   kind = 'outputs' AND preferred <> '' AND run_prefers <> '' AND preferred <> run_prefers AS between_judge
            FROM items JOIN majorities USING (item) LEFT JOIN settled USING (item) LEFT JOIN judges USING (item)
        ), listed AS (SELECT * FROM compared WHERE {" AND ".join(clauses)})"""
    return _Listed(sql, [list(DECIDED), sorted(wanted.left_out), wanted.with_imported, *more])


def _covered(work: Assignment) -> tuple[Any, ...]:
    """SQL of the items that do not belong to a link's work, and its parameters; as `Assignment.covers`."""
    clause = "NOT (kind = ? AND iteration = ? AND base IS NOT DISTINCT FROM ? AND (? = '' OR language = ?))"
    return clause, work.kind, work.iteration, work.base, work.language, work.language


def _read(row: ResultRow) -> Disagreement:
    number = row["item"].partition(":")[0].partition(".")[2]
    item = Item(
        row["kind"], row["iteration"], row["base"], row["language"], row["prompt_id"],
        int(number) if number.isdigit() else 0,
    )  # fmt: skip
    answers = sorted(row["answers"].items(), key=lambda entry: (-entry[1], entry[0]))
    between = tuple(name for name in BETWEEN if row[f"between_{name}"])
    return Disagreement(
        item, row["item"], row["people"], tuple(answers), row["preferred"], row["run_prefers"], between, row["adjudicated"] or "",
    )  # fmt: skip
