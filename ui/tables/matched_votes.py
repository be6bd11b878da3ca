"""Votes of a file, and the items of a run that they are about: found by language and prompt id, or by the two texts."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import pyarrow as pa

from icr_platform.core.errors import InputError
from icr_platform.core.language_tags import find_name
from icr_platform.data.votes import UnusableVote, Vote, read_votes
from ui.tables.pairs_data import pair_number
from ui.tables.queries import ResultRow
from ui.tables.run_tables import RunTables
from ui.tables.runs import ArmRecord, IterationRecord
from ui.tables.value_tables import parts_with_rows

BATCH = 2000


class Matched(NamedTuple):
    """A vote and its item: kind, iteration, base, language, prompt_id, number (of the pair), margin, and first_score, second_score,
    first_characters, second_characters of the item's sides. is_first_left: whether the item's first side (chosen, after) is the vote's left one."""

    vote: Vote
    item: ResultRow
    is_first_left: bool


class Unmatched(NamedTuple):
    """Where a vote is that belongs to no item of the run, and why."""

    where: str
    reason: str


def matched_votes(tables: RunTables, arm: ArmRecord, path: str) -> Iterator[Matched | Unmatched]:
    """Every vote of a file, in its order; memory does not grow with the file.

    Raises:
        InputError: the file cannot be read, or the run has nothing that was judged.
    """
    items = _items(tables, arm)
    languages = arm.languages()
    reader = read_votes(path)
    while batch := list(itertools.islice(reader, BATCH)):
        votes = [vote for vote in batch if isinstance(vote, Vote)]
        found = iter(_match(tables, arm, items, votes, languages))
        for one in batch:
            yield Unmatched(one.where, one.fault) if isinstance(one, UnusableVote) else next(found)


_COLUMNS = ("language", "prompt_id", "asked", "left", "right")
_NUMBERS = ("pair_index", "iteration", "base", "left_characters", "right_characters")
_SCHEMA = pa.schema(
    [
        ("n", pa.int64()),
        *((name, pa.string()) for name in (*_COLUMNS, "kind")),
        *((name, pa.int64()) for name in _NUMBERS),
        ("is_first_left", pa.bool_()),
    ]
)
# NFC and white space do not tell two texts apart: other tools strip and wrap what they show.
_PLAIN = r"md5(trim(regexp_replace(nfc_normalize({}), '[\s\x{{85}}\p{{Z}}]+', ' ', 'g')))"


def _match(
    tables: RunTables, arm: ArmRecord, items: str, votes: Sequence[Vote], languages: Sequence[str]
) -> list[Matched | Unmatched]:
    asked = pa.Table.from_pylist(
        [_row(n, vote, arm.run.run_id, languages) for n, vote in enumerate(votes)], schema=_SCHEMA
    )
    plain = {name: _PLAIN.format(f'v."{name}"') for name in ("asked", "left", "right")}
    sql = f"""
        WITH v AS (SELECT *, {plain["asked"]} AS asked_hash, {plain["left"]} AS left_hash, {plain["right"]} AS right_hash FROM votes AS v),
        by_text AS (
            SELECT v.n, i.*, i.first = v.left_hash AS is_first_left,
                   4 * CAST(v.prompt_id = i.prompt_id AS INTEGER) + 2 * CAST(v.asked <> '' AND v.asked_hash = i.asked AS INTEGER) + CAST(v.language = i.language AS INTEGER) AS fit
            FROM v JOIN {items} AS i ON i.low = least(v.left_hash, v.right_hash) AND i.high = greatest(v.left_hash, v.right_hash)
            WHERE v."left" <> '' AND coalesce(v.iteration = i.iteration, true) AND coalesce(v.base = i.base, true) AND coalesce(v.pair_index = i.number, true)
        ), by_id AS (
            SELECT v.n, i.*, v.is_first_left, 0 AS fit
            FROM v JOIN {items} AS i ON i.prompt_id = v.prompt_id AND i.kind = v.kind
            WHERE v."left" = '' AND v.language IN ('', i.language) AND coalesce(v.iteration = i.iteration, true) AND coalesce(v.base = i.base, true)
              AND coalesce(v.pair_index = i.number, true)
              AND coalesce(v.left_characters = CASE WHEN v.is_first_left THEN i.first_characters ELSE i.second_characters END, true)
              AND coalesce(v.right_characters = CASE WHEN v.is_first_left THEN i.second_characters ELSE i.first_characters END, true)
        ), found AS (
            SELECT * FROM (SELECT * FROM by_text UNION ALL SELECT * FROM by_id) QUALIFY fit = max(fit) OVER (PARTITION BY n)
        )
        SELECT *, count(*) OVER (PARTITION BY n) AS several, count(DISTINCT (language, prompt_id)) OVER (PARTITION BY n) AS prompts
        FROM found QUALIFY row_number() OVER (PARTITION BY n ORDER BY iteration DESC, base DESC NULLS FIRST, number) = 1"""
    rows = {row["n"]: row for row in tables.engine.select(sql, seconds=300.0, tables={"votes": asked})}
    there = _known_prompts(tables, items, asked)
    return [_matched(vote, rows.get(n), (vote.prompt_id in there)) for n, vote in enumerate(votes)]


def _row(n: int, vote: Vote, run_id: str, languages: Sequence[str]) -> dict[str, object]:
    is_named = bool(vote.left_name)
    # The same run has the same texts; of another run the lengths must be the same, as far as the row has them.
    lengths = vote.own if vote.own and vote.own["run_id"] != run_id else {}
    return {
        "n": n,
        **{name: getattr(vote, name) for name in _COLUMNS},
        "language": (find_name(vote.language, languages) or vote.language) if vote.language else "",
        "kind": "outputs" if vote.left_name in ("before", "after") else "pair" if is_named else "",
        **{name: getattr(vote, name) for name in ("pair_index", "iteration", "base")},
        **{name: lengths.get(name) for name in ("left_characters", "right_characters")},
        "is_first_left": vote.left_name in ("chosen", "after") if is_named else None,
    }


def _known_prompts(tables: RunTables, items: str, asked: pa.Table) -> set[str]:
    sql = f"SELECT DISTINCT prompt_id FROM {items} SEMI JOIN votes USING (prompt_id)"
    return {row["prompt_id"] for row in tables.engine.select(sql, seconds=60.0, tables={"votes": asked})}


def _matched(vote: Vote, row: ResultRow | None, is_known: bool) -> Matched | Unmatched:
    if vote.own and vote.own["gold"]:
        return Unmatched(vote.where, "it is about a gold pair of a review link, which is no item of the run")
    if row is None:
        if vote.left:
            here = (
                "the run has other texts under this prompt id" if is_known else "no item of the run has these two texts"
            )
            return Unmatched(vote.where, here)
        if not vote.prompt_id:
            return Unmatched(vote.where, "it has neither the two texts nor a prompt id")
        here = (
            "the run has this prompt id, but no such language, pair or iteration, or other texts"
            if is_known
            else "the run has no such prompt id"
        )
        return Unmatched(vote.where, here)
    if row["prompts"] > 1:
        return Unmatched(vote.where, "it fits several prompts of the run; add the columns language and prompt_id")
    if row["several"] > 1 and not vote.left:
        return Unmatched(
            vote.where, "it fits several items of its prompt; add the columns iteration, base or pair_index"
        )
    if vote.own and vote.own["run_id"] and not vote.own["left_characters"] and row["several"] > 1:
        return Unmatched(vote.where, "it is of another run, and does not say how long its texts are")
    return Matched(vote, row, bool(row["is_first_left"]))


def _items(tables: RunTables, arm: ArmRecord) -> str:
    """Name of the narrow table of everything in a run that can be judged: its pairs, and the outputs of every two iterations."""
    parts, values, digests = list[str](), list[object](), list[str]()
    for iteration in arm.iterations:
        if iteration.has_finished("annotate"):
            of_pairs = tables.pair_tables(iteration)
            if not of_pairs.preferences.rows:
                continue
            digests.append(of_pairs.preferences.digest)
            parts.append(f"""
                SELECT 'pair' AS kind, CAST({iteration.number} AS INTEGER) AS iteration, CAST(NULL AS INTEGER) AS base, language, prompt_id,
                       coalesce({pair_number(of_pairs)}, 0) AS number, {_PLAIN.format("instruction")} AS asked, {_PLAIN.format("chosen")} AS first,
                       {_PLAIN.format("rejected")} AS second, margin, chosen_reward - length_penalty_alpha * chosen_characters AS first_score,
                       rejected_reward - length_penalty_alpha * rejected_characters AS second_score, length(chosen) AS first_characters,
                       length(rejected) AS second_characters FROM read_parquet(?)""")
            values.append(parts_with_rows(of_pairs.preferences))
    evaluated = [iteration for iteration in arm.iterations if iteration.has_finished("eval")]
    outputs = [_outputs(tables, iteration) for iteration in evaluated]
    digests += outputs
    for before, after in itertools.combinations(range(len(evaluated)), 2):
        parts.append(f"""
            SELECT 'outputs' AS kind, CAST({evaluated[after].number} AS INTEGER) AS iteration, CAST({evaluated[before].number} AS INTEGER) AS base,
                   a.language, a.prompt_id, 0 AS number, a.asked, a.text AS first, b.text AS second, CAST(NULL AS DOUBLE) AS margin,
                   a.score AS first_score, b.score AS second_score, a.characters AS first_characters, b.characters AS second_characters
            FROM {outputs[after]} AS a JOIN {outputs[before]} AS b USING (language, prompt_id)""")
    if not parts:
        raise InputError(
            f"Run {arm.run.run_id} has neither pairs nor two evaluated iterations, so there is nothing to vote on."
        )
    sql = f"SELECT *, least(first, second) AS low, greatest(first, second) AS high FROM ({' UNION ALL '.join(parts)})"
    return tables.engine.materialise(f"items/{arm.run.run_id}/{'/'.join(digests)}", sql, values)


def _outputs(tables: RunTables, iteration: IterationRecord) -> str:
    """Name of the table of an iteration's first outputs with the judge's preference: None where an order of the two has none."""
    outputs = tables.catalogue.artifact(iteration, "outputs")
    judgments = tables.catalogue.artifact(iteration, "judgments")
    sql = f"""
        WITH first_ones AS (
            SELECT language, prompt_id, sample_index, instruction, output FROM read_parquet(?)
            QUALIFY row_number() OVER (PARTITION BY language, prompt_id ORDER BY sample_index) = 1
        ), judged AS (
            SELECT language, prompt_id, sample_index,
                   CASE WHEN count(*) = count(preference) FILTER (isfinite(preference)) THEN avg(preference) END AS score
            FROM read_parquet(?) GROUP BY ALL
        )
        SELECT language, prompt_id, {_PLAIN.format("instruction")} AS asked, {_PLAIN.format("output")} AS text, length(output) AS characters, score
        FROM first_ones LEFT JOIN judged USING (language, prompt_id, sample_index)"""
    key = f"first-outputs/{outputs.digest}/{judgments.digest}"
    return tables.engine.materialise(key, sql, [parts_with_rows(outputs), parts_with_rows(judgments)])
