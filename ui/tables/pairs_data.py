"""What Pairs shows: a page of pairs under filters, one pair with all samples of its prompt, and its neighbours."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from icr_platform.core.artifacts import MANIFEST, Artifact, read_json
from icr_platform.core.errors import InputError
from icr_platform.core.schemas import DROPS
from ui.tables.conversations import SEARCHED, History, history_in
from ui.tables.queries import QueryEngine, ResultRow, is_part, like_pattern, numbered_parts, parts_of
from ui.tables.thoughts import thought_in
from ui.tables.view import View

PAGE_ROWS = 50
SEARCH_SECONDS = 8.0
_HEAD = 240  # characters of an instruction in a list
_WITHOUT_PAIR_TOKENS = "* EXCLUDE (chosen_token_ids, rejected_token_ids)"  # thousands of numbers that no page shows
_WITH_SEVERAL_PAIRS = 3  # schema version of preferences
_NUMBERS = ("margin", "chosen_reward", "rejected_reward", "chosen_characters", "rejected_characters")


@dataclass(frozen=True)
class PairTables:
    """The artifacts of one iteration that Pairs and Margins read."""

    prompts: Artifact
    responses: Artifact
    rewards: Artifact
    preferences: Artifact
    drops: Artifact


class PairPage(NamedTuple):
    """rows: language, prompt_id, pair_index (None where a prompt has one at most), instruction (cut) and the numbers of a pair, None for a
    dropped prompt. total: rows of all pages."""

    rows: list[ResultRow]
    total: int


@dataclass(frozen=True)
class PairDetail:
    """One prompt: one of its pairs (None when it was dropped), all samples with rewards by kind, and what was dropped.

    pairs: numbers (pair_index) of all pairs of the prompt; empty where it has one at most. ends: of the pair, by 'chosen' and 'rejected', the
    sample's row, which a pool may take from another language than the prompt's.

    A sample's `thought` is a `Thought`, or None where nothing was thought. history, english_history: (role, text) of the messages
    before the instruction and before its English counterpart.
    """

    language: str
    prompt_id: str
    instruction: str
    english_instruction: str
    source: str
    pair: ResultRow | None
    samples: list[ResultRow]
    kinds: list[str]
    drops: list[ResultRow] = field(default_factory=list)
    history: History = ()
    english_history: History = ()
    pairs: list[int] = field(default_factory=list)
    ends: Mapping[str, ResultRow] = field(default_factory=dict)


class Condition(NamedTuple):
    """A WHERE clause with its parameters."""

    sql: str
    parameters: list[Any]


def pair_index(engine: QueryEngine, tables: PairTables) -> str:
    """Keys and numbers of every prompt, paired or dropped, in the order written; texts stay in the parts.

    Prompts without a pair come from drops, so that a dropped prompt can be found too; `part` is null for them.
    """
    columns = ", ".join(_NUMBERS)
    nothing = ", ".join(f"NULL AS {name}" for name in _NUMBERS)
    sql = f"""
        WITH pairs AS (
            SELECT language, prompt_id, {pair_number(tables)} AS pair_index, {columns}, length_penalty_alpha AS alpha, {numbered_parts(tables.preferences)} AS part,
                   file_row_number AS row
            FROM read_parquet(?, filename=true, file_row_number=true)
        ), dropped AS (
            SELECT DISTINCT language, prompt_id FROM {dropped_rows(engine, tables)}
        )
        SELECT row_number() OVER (ORDER BY part NULLS LAST, row, language, prompt_id) AS position, * FROM (
            SELECT * FROM pairs
            UNION ALL BY NAME
            SELECT language, prompt_id, NULL AS pair_index, {nothing}, NULL AS alpha, NULL AS part, NULL AS row FROM dropped ANTI JOIN pairs USING (language, prompt_id)
        ) ORDER BY position
    """
    return engine.materialise(_index_key(tables), sql, [_files(tables.preferences)])  # 100 bytes a pair


def _files(artifact: Artifact, numbers: list[int] | None = None) -> list[str]:
    paths = parts_of(artifact, numbers)
    if not paths:
        raise InputError(f"The {artifact.table.name} of this run have no rows.")
    return paths


def list_pairs(engine: QueryEngine, tables: PairTables, view: View) -> PairPage:
    """The page of pairs that the view asks for."""
    if view == View(experiment=view.experiment, run=view.run, iteration=view.iteration, start=view.start):
        return _as_written(engine, tables, view.start)
    index = pair_index(engine, tables)
    where = conditions(engine, tables, view)
    seconds = SEARCH_SECONDS if view.q else 20.0
    sql = f"SELECT *, count(*) OVER () AS total FROM {index} AS i WHERE {where.sql} ORDER BY {_order(view)} LIMIT {PAGE_ROWS} OFFSET ?"
    rows = engine.select(sql, [*where.parameters, view.start], seconds)
    total = rows[0]["total"] if rows else 0
    if view.start and not rows:  # an address beyond the last page: the total tells its pager the way back
        counted = engine.select(
            f"SELECT count(*) AS total FROM {index} AS i WHERE {where.sql}", where.parameters, seconds
        )
        total = counted[0]["total"]
    return PairPage(_with_instructions(engine, tables, rows), total)


def _order(view: View) -> str:
    """ORDER BY of the list that a view asks for."""
    direction = "ASC" if view.order == "asc" else "DESC"
    return f"{view.sort} {direction} NULLS LAST, position" if view.sort else "position"


def _as_written(engine: QueryEngine, tables: PairTables, start: int) -> PairPage:
    """Pairs from `start` on in the order written, without waiting for the index: the manifest counts the rows of each part."""
    wanted: list[int] = []
    seen, skip = 0, 0
    for number, rows in enumerate(part_rows(tables.preferences)):
        if seen + rows > start and seen < start + PAGE_ROWS:
            skip = start - seen if not wanted else skip
            wanted.append(number)
        seen += rows
    if not wanted:
        return PairPage([], tables.preferences.rows)
    columns = ", ".join(_NUMBERS)
    sql = f"""SELECT language, prompt_id, {pair_number(tables)} AS pair_index, left(instruction, {_HEAD}) AS instruction, {columns}
              FROM read_parquet(?) LIMIT {PAGE_ROWS} OFFSET ?"""
    return PairPage(engine.select(sql, [parts_of(tables.preferences, wanted), skip]), tables.preferences.rows)


def pair_number(tables: PairTables) -> str:
    """SQL of a row's place among the pairs of its prompt, null where a prompt has one at most, as in tables of earlier versions."""
    return "pair_index" if tables.preferences.version >= _WITH_SEVERAL_PAIRS else "CAST(NULL AS INTEGER)"


def part_rows(artifact: Artifact) -> list[int]:
    """Rows of each part, as the manifest counts them."""
    return [int(entry["rows"]) for entry in read_json(artifact.folder / MANIFEST)["parts"]]


def conditions(engine: QueryEngine, tables: PairTables, view: View) -> Condition:
    """WHERE clause over the index `i` for the filters of a view."""
    clauses = ["true"]
    parameters: list[Any] = []

    def add(sql: str, *values: Any) -> None:
        clauses.append(sql)
        parameters.extend(values)

    if view.language:
        add("i.language = ?", view.language)
    if view.margin_min is not None:
        add("i.margin >= ?", view.margin_min)
    if view.margin_max is not None:
        add("i.margin <= ?", view.margin_max)
    if view.length_min is not None or view.length_max is not None:
        low, high = view.length_min or 0, 2**31 - 1 if view.length_max is None else view.length_max
        add("(i.chosen_characters BETWEEN ? AND ? OR i.rejected_characters BETWEEN ? AND ?)", low, high, low, high)
    if view.dropped:
        reason, values = ("", []) if view.dropped == "*" else (" AND d.reason = ?", [view.dropped])
        sql = f"(i.language, i.prompt_id) IN (SELECT (d.language, d.prompt_id) FROM {dropped_rows(engine, tables)} AS d WHERE true{reason})"
        add(sql, *values)
    else:
        add("i.part IS NOT NULL")  # it has a pair; without a reward, a pair has no margin
    # The index has no texts and no samples. A prompt passes when any of its samples lies in the cell of Margins' plot that was
    # clicked, and when the text stands anywhere in it or in one of its responses.
    cell = [
        (sql, bound)
        for sql, bound in (
            ("r.character_count >= ?", view.sample_length_min),
            ("r.character_count < ?", view.sample_length_max),
            ("w.reward >= ?", view.sample_reward_min),
            ("w.reward < ?", view.sample_reward_max),
        )
        if bound is not None
    ]
    own_language = [view.language] if view.language else []
    if cell:
        within = " AND ".join(sql for sql, _ in cell)
        language = "AND r.language = ? AND w.language = ?" if view.language else ""
        sql = f"""(i.language, i.prompt_id) IN (
            SELECT (r.language, r.prompt_id) FROM read_parquet(?) AS r JOIN read_parquet(?) AS w USING (language, prompt_id, sample_index)
            WHERE w.kind = (SELECT kind FROM read_parquet(?) LIMIT 1) AND {within} {language})"""
        files = [_files(tables.responses), _files(tables.rewards), parts_of(tables.rewards, [0])]
        add(sql, *files, *(bound for _, bound in cell), *own_language, *own_language)
    if view.q:
        pattern = like_pattern(view.q)
        language = "language = ? AND" if view.language else ""
        sql = f"""(i.language, i.prompt_id) IN (
            SELECT (language, prompt_id) FROM {SEARCHED}
            WHERE {language} (instruction ILIKE ? ESCAPE '!' OR english_instruction ILIKE ? ESCAPE '!' OR before ILIKE ? ESCAPE '!'
                              OR prompt_id = ?)
            UNION ALL SELECT (language, prompt_id) FROM read_parquet(?) WHERE {language} response ILIKE ? ESCAPE '!')"""
        asked = [_files(tables.prompts), *own_language, pattern, pattern, pattern, view.q]
        add(sql, *asked, _files(tables.responses), *own_language, pattern)
    return Condition(" AND ".join(clauses), parameters)


def _with_instructions(engine: QueryEngine, tables: PairTables, rows: list[ResultRow]) -> list[ResultRow]:
    """The beginnings of the instructions of a page's rows, read from the parts that hold them."""
    # A page has 50 rows, of a few parts: reading those beats a column of instructions in memory.
    paired = [row for row in rows if row["part"] is not None]
    found: dict[tuple[str, str], str] = {}
    if paired:
        numbers = sorted({row["part"] for row in paired})
        keys = [f"{row['part']}/{row['row']}" for row in paired]
        sql = f"""SELECT language, prompt_id, left(instruction, {_HEAD}) AS instruction
                  FROM read_parquet(?, filename=true, file_row_number=true)
                  WHERE file_row_number IN (SELECT unnest(?)) AND {numbered_parts(tables.preferences)} || '/' || file_row_number IN (SELECT unnest(?))"""
        places = sorted({row["row"] for row in paired})
        texts = engine.select(sql, [parts_of(tables.preferences, numbers), places, keys])
        found = {(row["language"], row["prompt_id"]): row["instruction"] for row in texts}
    unpaired = [row for row in rows if row["part"] is None]
    if unpaired:
        ids = [row["prompt_id"] for row in unpaired]
        sql = f"SELECT language, prompt_id, left(instruction, {_HEAD}) AS instruction FROM read_parquet(?) WHERE prompt_id IN (SELECT unnest(?))"
        texts = engine.select(sql, [_files(tables.prompts), ids])
        found |= {(row["language"], row["prompt_id"]): row["instruction"] for row in texts}
    return [{**row, "instruction": found.get((row["language"], row["prompt_id"]), "")} for row in rows]


def pair_detail(
    engine: QueryEngine, tables: PairTables, language: str, prompt_id: str, number: int | None = None
) -> PairDetail:
    """Everything about one prompt; its samples by the reward that makes the pairs, the highest first, unscored ones last.

    number: of the pair that is shown, see `PairDetail.pairs`; the first one without it, or where the prompt has no such pair.

    Raises:
        InputError: this iteration has no such prompt in this language.
    """
    known = _known_part(engine, tables, language, prompt_id)
    pairs, part = _by_key(engine, tables.preferences, _WITHOUT_PAIR_TOKENS, language, prompt_id, known)
    prompts, _ = _by_key(engine, tables.prompts, "*", language, prompt_id, part)
    if not prompts:
        raise InputError(
            f"This iteration has no prompt {prompt_id[:80]!r} in {language[:40]!r}; open one from the list."
        )
    samples, kinds, drops, at = _samples(engine, tables, language, prompt_id, part)
    prompt = prompts[0]
    pair = _numbered(pairs, number)
    ends = {}
    if pair is not None:
        for side in ("chosen", "rejected"):
            if pair.get(f"{side}_translated_from"):  # the sample is one of another language, and says something else
                continue
            answered = pair.get(f"{side}_language") or language
            there = samples if answered == language else _samples(engine, tables, answered, prompt_id, at)[0]
            by_number = {row["sample_index"]: row for row in there}
            if (end := by_number.get(pair[f"{side}_index"])) is not None:
                ends[side] = end
    return PairDetail(
        language, prompt_id, prompt["instruction"], prompt["english_instruction"], prompt["source"],
        pair, samples, kinds, drops, history_in(prompt), history_in(prompt, "english_"),
        [row["pair_index"] for row in pairs if row.get("pair_index") is not None], ends,
    )  # fmt: skip


class _Samples(NamedTuple):
    """Rows of a prompt's samples, the kinds of their rewards (the first makes the pairs), what was dropped, and the part they lie in."""

    rows: list[ResultRow]
    kinds: list[str]
    drops: list[ResultRow]
    part: int | None


def _samples(engine: QueryEngine, tables: PairTables, language: str, prompt_id: str, part: int | None) -> _Samples:
    # Stages number their shards alike, so the part that holds the pair is the first to look at in the other tables.
    responses, at = _by_key(engine, tables.responses, "* EXCLUDE (token_ids)", language, prompt_id, part)
    rewards, _ = _by_key(engine, tables.rewards, "*", language, prompt_id, at)
    drops = engine.select(
        "SELECT sample_index, reason, detail FROM read_parquet(?) WHERE language = ? AND prompt_id = ? ORDER BY sample_index NULLS FIRST",
        [_files(tables.drops), language, prompt_id],
    ) if tables.drops.parts else []  # fmt: skip
    kinds = list(dict.fromkeys(row["kind"] for row in rewards))
    samples = []
    for row in responses:
        index = row["sample_index"]
        own: Mapping[str, ResultRow] = {reward["kind"]: reward for reward in rewards if reward["sample_index"] == index}
        reward = own[kinds[0]]["reward"] if kinds and kinds[0] in own else None
        dropped = [drop["reason"] for drop in drops if drop["sample_index"] == index]
        samples.append({**row, "rewards": own, "reward": reward, "dropped": dropped, "thought": thought_in(row)})
    samples.sort(key=lambda row: (row["reward"] is None, -(row["reward"] or 0.0), row["sample_index"]))
    return _Samples(samples, kinds, drops, at)


def _known_part(engine: QueryEngine, tables: PairTables, language: str, prompt_id: str) -> int | None:
    """Part of the pair, when the index is there already; a link opened first does not wait for it."""
    key = _index_key(tables)
    if not engine.is_materialised(key):
        return None
    sql = f"SELECT part FROM {pair_index(engine, tables)} WHERE language = ? AND prompt_id = ?"
    rows = engine.select(sql, [language, prompt_id])
    return rows[0]["part"] if rows else None


def _index_key(tables: PairTables) -> str:
    return f"pairs/{tables.preferences.digest}/{tables.drops.digest}"


def _by_key(
    engine: QueryEngine, artifact: Artifact, columns: str, language: str, prompt_id: str, likely: int | None
) -> tuple[list[ResultRow], int | None]:
    """Rows of a prompt and the part that holds them; of whole rows, columns that an older version of the table lacks are None."""
    later = {field.name: None for field in artifact.table.schema if field.nullable} if columns.startswith("*") else {}
    sql = f"""SELECT {columns}, {numbered_parts(artifact)} AS part FROM read_parquet(?, filename=true)
              WHERE language = ? AND prompt_id = ?"""
    # Opening a thousand parts takes a second, opening one a millisecond: all of them are the second try.
    for parts in ([likely] if likely is not None and is_part(artifact, likely) else None, None):
        paths = parts_of(artifact, parts)
        rows = engine.select(sql, [paths, language, prompt_id]) if paths else []
        if rows:
            return [{**later, **row} for row in rows], rows[0]["part"]
    return [], None


class Neighbours(NamedTuple):
    """Keys (language, prompt_id) before and after a pair in the list a view shows, and its place in it from 1.

    before_pair, after_pair: which pairs of these prompts, where they have several.
    """

    before: tuple[str, str] | None
    after: tuple[str, str] | None
    place: int
    total: int
    before_pair: int | None = None
    after_pair: int | None = None


def neighbours(engine: QueryEngine, tables: PairTables, view: View) -> Neighbours | None:
    """Where the view's prompt stands in its own list; None when the filters leave it out."""
    index = pair_index(engine, tables)
    where = conditions(engine, tables, view)
    # One pass over the index: the windows see the whole list in its order, without texts.
    sql = f"""
        WITH listed AS (
            SELECT language, prompt_id, row_number() OVER w AS place, count(*) OVER () AS total,
                   lag(language) OVER w AS l0, lag(prompt_id) OVER w AS p0, lead(language) OVER w AS l1, lead(prompt_id) OVER w AS p1,
                   pair_index, lag(pair_index) OVER w AS n0, lead(pair_index) OVER w AS n1
            FROM {index} AS i WHERE {where.sql} WINDOW w AS (ORDER BY {_order(view)})
        ) SELECT * FROM listed WHERE prompt_id = ? AND language = ?
          ORDER BY coalesce(pair_index, 0) = coalesce(?, pair_index, 0) DESC, pair_index LIMIT 1"""
    values = [*where.parameters, view.id, view.id_language, view.pair]
    rows = engine.select(sql, values, SEARCH_SECONDS if view.q else 20.0)
    if not rows:
        return None
    row = rows[0]
    before = (row["l0"], row["p0"]) if row["p0"] is not None else None
    after = (row["l1"], row["p1"]) if row["p1"] is not None else None
    return Neighbours(before, after, row["place"], row["total"], row["n0"], row["n1"])


def drop_reasons(engine: QueryEngine, tables: PairTables, language: str) -> list[ResultRow]:
    """reason, samples and prompts (of rows without a sample: a prompt, or one of its pairs) dropped, per reason; of one language or of all."""
    sql = f"""SELECT reason, count(sample_index) AS samples, count(DISTINCT (language, prompt_id)) FILTER (sample_index IS NULL) AS prompts
              FROM {dropped_rows(engine, tables)} WHERE ? = '' OR language = ? GROUP BY reason ORDER BY count(*) DESC, reason LIMIT 200"""
    return engine.select(sql, [language, language])


def dropped_rows(engine: QueryEngine, tables: PairTables) -> str:
    """Drops without their details, which only one prompt's page shows."""
    sql = "SELECT language, prompt_id, sample_index, reason FROM read_parquet(?)"
    if not tables.drops.parts:
        return engine.keep("no-drops", DROPS.schema.empty_table())
    return engine.materialise(f"drops/{tables.drops.digest}", sql, [_files(tables.drops)])


def languages_with_prompts(engine: QueryEngine, tables: PairTables) -> list[str]:
    """Languages that have prompts in this iteration, English first."""
    key = f"languages/{tables.prompts.digest}"
    sql = "SELECT DISTINCT language FROM read_parquet(?)"
    table = engine.materialise(key, sql, [_files(tables.prompts)])
    rows = engine.select(f"SELECT language FROM {table} ORDER BY language <> 'en', language LIMIT 300")
    return [row["language"] for row in rows]


def languages_with(engine: QueryEngine, tables: PairTables, prompt_id: str) -> list[str]:
    """Languages that have a prompt, English first."""
    sql = "SELECT DISTINCT language FROM read_parquet(?) WHERE prompt_id = ? ORDER BY language <> 'en', language"
    return [row["language"] for row in engine.select(sql, [_files(tables.prompts), prompt_id])]


def _numbered(pairs: list[ResultRow], number: int | None) -> ResultRow | None:
    """The pair of a prompt with this number, or the first that it has."""
    return next((pair for pair in pairs if pair.get("pair_index") == number), pairs[0] if pairs else None)


def pair_of(
    engine: QueryEngine, tables: PairTables, language: str, prompt_id: str, number: int | None = None
) -> ResultRow:
    """One pair of a prompt, the first or the one of this number, with the languages of its thoughts; InputError when it has none."""
    known = _known_part(engine, tables, language, prompt_id)
    rows, _ = _by_key(engine, tables.preferences, _WITHOUT_PAIR_TOKENS, language, prompt_id, known)
    pair = _numbered(rows, number)
    if pair is None:
        raise InputError(f"This iteration has no pair for prompt {prompt_id[:80]!r} in {language[:40]!r}.")
    thinking = [side for side in ("chosen", "rejected") if thought_in(pair, side)]
    for side in thinking:
        columns, answered = "sample_index, thought_language", pair.get(f"{side}_language") or language
        samples, _ = _by_key(engine, tables.responses, columns, answered, prompt_id, pair["part"])
        spoken = {sample["sample_index"]: sample["thought_language"] for sample in samples}
        pair[f"{side}_thought_language"] = spoken.get(pair[f"{side}_index"])
    return pair
