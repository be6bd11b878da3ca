"""The same prompts under two policies: what changed, prompt by prompt and over slices of them.

Standard errors are those of paired differences, and count prompts, not rows: one prompt in five languages is one cluster.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from icr_platform.core.intervals import Z95
from ui.tables.queries import QueryEngine, ResultRow

PAGE_ROWS = 50
TIE = 0.05
"""A preference within 0.5 ± TIE is a tie: averaged over both orders, the judge could not tell."""
OUTCOMES = ("win", "tie", "loss")
IN_OWN_UNIT = ("reward", "length")
"""Measures that are no shares: they are shown in their own unit, and have no outcomes."""
LENGTHS = {
    "0-200": "under 200 characters",
    "200-800": "200 to 799",
    "800-2000": "800 to 1,999",
    "2000-": "2,000 and more",
}
"""Slices by the mean length of both answers."""
RELATIVE_LENGTHS = {"shorter": "shorter by over 10%", "alike": "about as long", "longer": "longer by over 10%"}
"""Slices by the length of the second side's answer beside the first's."""
CONCLUSIONS = ("better", "worse", "no clear change")


class Comparison(NamedTuple):
    """Two policies on the same prompts, as names of the engine's tables.

    before, after: (language, prompt_id, value). sources: (language, prompt_id, source, instruction).
    measure: what value is, 'judge', 'reward', 'instructions', 'lines' or 'length'.
    answers: `value_tables.answered_prompts` of both, where prompts must ask the same to be paired, and for slices by length.
    by_kind: before and after have a column `kind`, and a prompt has a row for each.
    """

    before: str
    after: str
    sources: str
    measure: str
    answers: tuple[str, str] | None = None
    by_kind: bool = False


@dataclass(frozen=True)
class Slice:
    """Change on one slice of the prompts; before, after and change are in percent, or in the unit of a measure `IN_OWN_UNIT`."""

    name: str
    prompts: int
    before: float
    after: float
    change: float
    standard_error: float | None
    better: int
    worse: int

    @property
    def interval(self) -> tuple[float, float] | None:
        """95% interval of the change."""
        if self.standard_error is None:
            return None
        reach = Z95 * self.standard_error
        return self.change - reach, self.change + reach

    @property
    def ends(self) -> tuple[float, float]:
        """The interval, or the change twice where one prompt gives none."""
        return self.interval or (self.change, self.change)

    @property
    def conclusion(self) -> str:
        """One of CONCLUSIONS: 'no clear change' when the interval contains 0."""
        interval = self.interval
        if interval is None or interval[0] <= 0 <= interval[1]:
            return "no clear change"
        return "better" if self.change > 0 else "worse"


def joined(comparison: Comparison) -> str:
    """SQL of `joined`: prompts under both policies, with the change of value and the outcome of each."""
    outcome = "CASE WHEN {0}.value > 0.5 + {1} THEN 'win' WHEN {0}.value < 0.5 - {1} THEN 'loss' ELSE 'tie' END"
    lengths, answers = "'' AS length, '' AS relative", ""
    if comparison.answers:
        before, after = comparison.answers
        # Where both ask the same: ids are numbers from 0 in many prompt sets. A file may not say what it answers.
        answers = f"""JOIN {before} AS c USING (language, prompt_id) JOIN {after} AS d USING (language, prompt_id) WHERE coalesce(c.asked = d.asked, true)"""
        mean, bounds = "(c.value + d.value) / 2", [name.partition("-")[2] for name in LENGTHS]
        bins = " ".join(f"WHEN {mean} < {end} THEN '{name}'" for name, end in zip(LENGTHS, bounds, strict=True) if end)
        lengths = f"""CASE {bins} ELSE '{[*LENGTHS][-1]}' END AS length,
               CASE WHEN d.value < 0.9 * c.value THEN 'shorter' WHEN d.value * 0.9 > c.value THEN 'longer' ELSE 'alike' END AS relative"""
    keys = "language, prompt_id, kind" if comparison.by_kind else "language, prompt_id"
    return f"""joined AS (
        SELECT language, prompt_id, {"kind" if comparison.by_kind else "''"} AS kind, a.value AS before, b.value AS after,
               b.value - a.value AS change, coalesce(s.source, '') AS source, coalesce(s.instruction, '') AS instruction,
               {outcome.format("a", TIE)} AS outcome_before, {outcome.format("b", TIE)} AS outcome_after, {lengths}
        FROM {comparison.before} AS a JOIN {comparison.after} AS b USING ({keys})
        LEFT JOIN {comparison.sources} AS s USING (language, prompt_id) {answers})"""


class Filter(NamedTuple):
    """Which prompts: empty means all. flow: 'win-loss' and the like, or 'flips' for all that changed."""

    language: str = ""
    source: str = ""
    flow: str = ""
    length: str = ""
    relative: str = ""

    @property
    def sql(self) -> str:
        flow = "outcome_before || '-' || outcome_after = ? OR (? = 'flips' AND outcome_before <> outcome_after)"
        return " AND ".join(
            (
                *(f"(? = '' OR {name} = ?)" for name in ("language", "source", "length", "relative")),
                f"(? = '' OR {flow})",
            )
        )

    @property
    def parameters(self) -> list[Any]:
        values = (self.language, self.source, self.length, self.relative)
        return [*(value for one in values for value in (one, one)), self.flow, self.flow, self.flow]


class Coverage(NamedTuple):
    """Prompts with a value: of both sides, of one alone, and with one id but other words, which are not the same prompt."""

    both: int
    first_only: int
    second_only: int
    asked_otherwise: int


def coverage(engine: QueryEngine, comparison: Comparison, language: str) -> Coverage:
    """How many prompts are compared, in one language or in all, and how many are not."""
    sql = f"""WITH {joined(comparison)}, keys AS (SELECT DISTINCT language, prompt_id FROM joined),
                  first AS (SELECT DISTINCT language, prompt_id FROM {comparison.before}),
                  second AS (SELECT DISTINCT language, prompt_id FROM {comparison.after}),
                  found AS (SELECT language, k.prompt_id IS NOT NULL AS paired, a.prompt_id IS NOT NULL AS in_first, b.prompt_id IS NOT NULL AS in_second
                            FROM first AS a FULL JOIN second AS b USING (language, prompt_id) LEFT JOIN keys AS k USING (language, prompt_id))
              SELECT count(*) FILTER (paired) AS "both", count(*) FILTER (in_first AND NOT in_second) AS first_only,
                     count(*) FILTER (in_second AND NOT in_first) AS second_only,
                     count(*) FILTER (in_first AND in_second AND NOT paired) AS asked_otherwise
              FROM found WHERE ? = '' OR language = ?"""
    return Coverage(**engine.select(sql, [language, language])[0])


def languages_in(engine: QueryEngine, table: str) -> list[str]:
    """The languages of a table of values."""
    return [row["language"] for row in engine.select(f"SELECT DISTINCT language FROM {table} ORDER BY language")]


# Ties are broken by key where these are used, or a prompt could stand on two pages.
_RANKS = {
    "worse": "change ASC",
    "better": "change DESC",
    "largest": "abs(change) DESC",
    # From a win to a loss, or back, before what only became a tie or was one.
    "flips": "(outcome_before <> outcome_after AND 'tie' NOT IN (outcome_before, outcome_after)) DESC, (outcome_before <> outcome_after) DESC, abs(change) DESC",
}


def ranked(
    engine: QueryEngine, comparison: Comparison, wanted: Filter, rank: str, start: int
) -> tuple[list[ResultRow], int]:
    """A page of prompts by change, and how many there are."""
    sql = f"""WITH {joined(comparison)} SELECT *, count(*) OVER () AS total FROM joined WHERE {wanted.sql}
              ORDER BY {_RANKS[rank or "worse"]}, language, prompt_id LIMIT {PAGE_ROWS} OFFSET ?"""
    rows = engine.select(sql, [*wanted.parameters, start])
    return rows, rows[0]["total"] if rows else 0


def neighbours(
    engine: QueryEngine, comparison: Comparison, wanted: Filter, rank: str, language: str, prompt_id: str
) -> ResultRow | None:
    """place, total, and the keys before (l0, p0) and after (l1, p1) a prompt in the ranked list."""
    sql = f"""WITH {joined(comparison)}, listed AS (
                  SELECT *, row_number() OVER w AS place, count(*) OVER () AS total, lag(language) OVER w AS l0, lag(prompt_id) OVER w AS p0,
                         lead(language) OVER w AS l1, lead(prompt_id) OVER w AS p1
                  FROM joined WHERE {wanted.sql} WINDOW w AS (ORDER BY {_RANKS[rank or "worse"]}, language, prompt_id))
              SELECT * FROM listed WHERE prompt_id = ? AND language = ?"""
    rows = engine.select(sql, [*wanted.parameters, prompt_id, language])
    return rows[0] if rows else None


def flow(engine: QueryEngine, comparison: Comparison, wanted: Filter) -> dict[tuple[str, str], int]:
    """Prompts by outcome before and after."""
    sql = f"""WITH {joined(comparison)} SELECT outcome_before, outcome_after, count(*) AS n FROM joined WHERE {wanted.sql} GROUP BY ALL"""
    rows = engine.select(sql, wanted._replace(flow="").parameters)  # the chosen cell must not empty the others
    return {(row["outcome_before"], row["outcome_after"]): row["n"] for row in rows}


def slices(engine: QueryEngine, comparison: Comparison, by: str, wanted: Filter | None = None) -> list[Slice]:
    """Change by 'language', 'source', 'length', 'relative', 'kind' or 'all', with standard errors clustered by prompt id."""
    wanted = wanted or Filter()
    scale = 1.0 if comparison.measure in IN_OWN_UNIT else 100.0
    group = "'all'" if by == "all" else by
    # influence: what a row adds to the error of its slice's mean. A prompt's rows, one per language, are no independent
    # observations, so they are summed before they are squared.
    sql = f"""
        WITH {joined(comparison)},
        grouped AS (SELECT *, {group} AS slice FROM joined WHERE {wanted.sql}),
        centred AS (SELECT *, change - avg(change) OVER (PARTITION BY slice) AS influence FROM grouped),
        clusters AS (SELECT slice, prompt_id, sum(influence) AS influence FROM centred GROUP BY ALL),
        errors AS (SELECT slice, count(*) AS clusters, sum(influence * influence) AS squares FROM clusters GROUP BY ALL)
        SELECT slice, count(*) AS n, avg(before) AS before, avg(after) AS after, avg(change) AS change, any_value(clusters) AS clusters,
               any_value(squares) AS squares, count(*) FILTER (change > 0) AS better, count(*) FILTER (change < 0) AS worse
        FROM grouped JOIN errors USING (slice) GROUP BY slice ORDER BY slice <> 'en', slice LIMIT 200"""
    slices = []
    for row in engine.select(sql, wanted.parameters):
        clusters, n = row["clusters"], row["n"]
        # The square root of the clusters' summed squares, corrected for few clusters (Liang and Zeger, 1986): CR1.
        error = scale * float((clusters / (clusters - 1) * row["squares"]) ** 0.5) / n if clusters > 1 else None
        before, after, change = (scale * row[name] for name in ("before", "after", "change"))
        slices.append(Slice(row["slice"], n, before, after, change, error, row["better"], row["worse"]))
    order = {name: place for place, name in enumerate((*LENGTHS, *RELATIVE_LENGTHS))}
    return sorted(slices, key=lambda found: order.get(found.name, -1)) if by in ("length", "relative") else slices
