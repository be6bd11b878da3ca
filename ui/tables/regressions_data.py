"""What Regressions shows: the same prompts under two policies, by the judge's preference or by the implicit reward.

Standard errors are those of paired differences, and count prompts, not rows: one prompt in five languages is one cluster.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from icr_platform.core.artifacts import Artifact
from icr_platform.core.errors import InputError
from icr_platform.core.intervals import Z95
from ui.tables.queries import QueryEngine, ResultRow, parts_of

PAGE_ROWS = 50
INSTRUCTION_CHARACTERS = 400
TIE = 0.05
"""A preference within 0.5 ± TIE is a tie: averaged over both orders, the judge could not tell."""
OUTCOMES = ("win", "tie", "loss")
CONCLUSIONS = ("better", "worse", "no clear change")


class Comparison(NamedTuple):
    """Two policies on the same prompts, as names of the engine's tables.

    before, after: (language, prompt_id, value). sources: (language, prompt_id, source, instruction).
    measure: what value is, 'judge', 'reward' or 'instructions'.
    """

    before: str
    after: str
    sources: str
    measure: str


@dataclass(frozen=True)
class Slice:
    """Change on one slice of the prompts; before, after and change are in percent, or in reward units for rewards."""

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


def judged_prompts(engine: QueryEngine, judgments: Artifact) -> str:
    """Preference per prompt: the rule of `icr_platform.evaluation.prompt_preferences`, which every figure of `icr eval` follows, in SQL."""
    # A sample counts only if every order was answered: one order alone carries the judge's bias for a position.
    sql = """
        WITH by_sample AS (
            SELECT language, prompt_id, sample_index, CASE WHEN count(preference) = count(*) THEN avg(preference) END AS value,
                   avg(preference) FILTER ("order" = 'model-first') AS model_first,
                   avg(preference) FILTER ("order" = 'reference-first') AS reference_first
            FROM (SELECT * REPLACE (CASE WHEN isfinite(preference) THEN preference END AS preference) FROM read_parquet(?)) GROUP BY ALL)
        SELECT language, prompt_id, avg(value) AS value, avg(model_first) AS model_first, avg(reference_first) AS reference_first
        FROM by_sample GROUP BY ALL HAVING avg(value) IS NOT NULL"""
    return engine.materialise(f"judged/{judgments.digest}", sql, [_parts(judgments)])


def rewarded_prompts(engine: QueryEngine, rewards: Artifact) -> str:
    """Mean implicit reward per prompt over its samples, of the kind that makes the pairs."""
    sql = """
        SELECT language, prompt_id, avg(reward) AS value, NULL AS model_first, NULL AS reference_first FROM read_parquet(?)
        WHERE kind = (SELECT kind FROM read_parquet(?) LIMIT 1) AND reward IS NOT NULL GROUP BY ALL"""
    return engine.materialise(f"rewarded/{rewards.digest}", sql, [_parts(rewards), parts_of(rewards, [0])])


def followed_prompts(engine: QueryEngine, checks: Artifact) -> str:
    """Share of each prompt's outputs that follow all of its instructions to the letter, those left out that cannot be verified."""
    sql = """
        WITH by_output AS (
            SELECT language, prompt_id, sample_index, bool_and(strict) AS followed FROM read_parquet(?) GROUP BY ALL)
        SELECT language, prompt_id, avg(CAST(followed AS INTEGER)) AS value, NULL AS model_first, NULL AS reference_first
        FROM by_output GROUP BY ALL HAVING value IS NOT NULL"""
    return engine.materialise(f"followed/{checks.digest}", sql, [_parts(checks)])


def _parts(artifact: Artifact) -> list[str]:
    if not artifact.parts or not artifact.rows:
        hint = "; run `icr eval` with --judge and --reference-outputs" if artifact.table.name == "judgments" else ""
        raise InputError(f"This run has no {artifact.table.name}{hint}.")
    return parts_of(artifact)


def _joined(comparison: Comparison) -> str:
    """SQL of `joined`: prompts under both policies, with the change of value and the outcome of each."""
    outcome = "CASE WHEN {0}.value > 0.5 + {1} THEN 'win' WHEN {0}.value < 0.5 - {1} THEN 'loss' ELSE 'tie' END"
    return f"""joined AS (
        SELECT a.language, a.prompt_id, a.value AS before, b.value AS after, b.value - a.value AS change, coalesce(s.source, '') AS source,
               coalesce(s.instruction, '') AS instruction, {outcome.format("a", TIE)} AS outcome_before, {outcome.format("b", TIE)} AS outcome_after
        FROM {comparison.before} AS a JOIN {comparison.after} AS b USING (language, prompt_id)
        LEFT JOIN {comparison.sources} AS s USING (language, prompt_id))"""


class Filter(NamedTuple):
    """Which prompts: empty means all. flow: 'win-loss' and the like."""

    language: str = ""
    source: str = ""
    flow: str = ""

    @property
    def sql(self) -> str:
        return "(? = '' OR language = ?) AND (? = '' OR source = ?) AND (? = '' OR outcome_before || '-' || outcome_after = ?)"

    @property
    def parameters(self) -> list[Any]:
        return [self.language, self.language, self.source, self.source, self.flow, self.flow]


# Ties are broken by key where these are used, or a prompt could stand on two pages.
_RANKS = {
    "worse": "change ASC",
    "better": "change DESC",
    "largest": "abs(change) DESC",
}


def ranked(
    engine: QueryEngine, comparison: Comparison, wanted: Filter, rank: str, start: int
) -> tuple[list[ResultRow], int]:
    """A page of prompts by change, and how many there are."""
    sql = f"""WITH {_joined(comparison)} SELECT *, count(*) OVER () AS total FROM joined WHERE {wanted.sql}
              ORDER BY {_RANKS[rank or "worse"]}, language, prompt_id LIMIT {PAGE_ROWS} OFFSET ?"""
    rows = engine.select(sql, [*wanted.parameters, start])
    return rows, rows[0]["total"] if rows else 0


def neighbours(
    engine: QueryEngine, comparison: Comparison, wanted: Filter, rank: str, language: str, prompt_id: str
) -> ResultRow | None:
    """place, total, and the keys before (l0, p0) and after (l1, p1) a prompt in the ranked list."""
    sql = f"""WITH {_joined(comparison)}, listed AS (
                  SELECT *, row_number() OVER w AS place, count(*) OVER () AS total, lag(language) OVER w AS l0, lag(prompt_id) OVER w AS p0,
                         lead(language) OVER w AS l1, lead(prompt_id) OVER w AS p1
                  FROM joined WHERE {wanted.sql} WINDOW w AS (ORDER BY {_RANKS[rank or "worse"]}, language, prompt_id))
              SELECT * FROM listed WHERE prompt_id = ? AND language = ?"""
    rows = engine.select(sql, [*wanted.parameters, prompt_id, language])
    return rows[0] if rows else None


def flow(engine: QueryEngine, comparison: Comparison, wanted: Filter) -> dict[tuple[str, str], int]:
    """Prompts by outcome before and after."""
    sql = f"""WITH {_joined(comparison)} SELECT outcome_before, outcome_after, count(*) AS n FROM joined WHERE {wanted.sql} GROUP BY ALL"""
    rows = engine.select(sql, wanted._replace(flow="").parameters)  # the chosen cell must not empty the others
    return {(row["outcome_before"], row["outcome_after"]): row["n"] for row in rows}


def slices(engine: QueryEngine, comparison: Comparison, by: str, wanted: Filter | None = None) -> list[Slice]:
    """Change per 'language', 'source' or 'all', with standard errors clustered by prompt id."""
    wanted = wanted or Filter()
    scale = 1.0 if comparison.measure == "reward" else 100.0
    group = {"language": "language", "source": "source", "all": "'all'"}[by]
    # influence: what a row adds to the error of its slice's mean. A prompt's rows, one per language, are no independent
    # observations, so they are summed before they are squared.
    sql = f"""
        WITH {_joined(comparison)},
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
    return slices


def asked_prompts(engine: QueryEngine, asked: Artifact) -> str:
    """Name of the table `sources` of a comparison, from a prompts or an outputs artifact; texts are cut for lists."""
    source = "source" if asked.table.name == "prompts" else "''"
    sql = f"""SELECT language, prompt_id, any_value({source}) AS source, left(any_value(instruction), {INSTRUCTION_CHARACTERS}) AS instruction
              FROM read_parquet(?) GROUP BY ALL"""
    return engine.materialise(f"asked/{asked.digest}", sql, [parts_of(asked)])


def judgments_of(engine: QueryEngine, judgments: Artifact, language: str, prompt_id: str) -> list[ResultRow]:
    """Every judgment of one prompt."""
    sql = """SELECT sample_index, "order", CASE WHEN isfinite(preference) THEN preference END AS preference, mass, outcome, judge, detail
             FROM read_parquet(?)
             WHERE language = ? AND prompt_id = ? ORDER BY sample_index, "order" """
    return engine.select(sql, [_parts(judgments), language, prompt_id])


def checks_of(engine: QueryEngine, checks: Artifact, language: str, prompt_id: str) -> list[ResultRow]:
    """Every verdict on the outputs of one prompt, in the order of its instructions."""
    sql = """SELECT sample_index, instruction_id, kwargs, strict, loose, reason FROM read_parquet(?, file_row_number=true)
             WHERE language = ? AND prompt_id = ? ORDER BY sample_index, file_row_number"""
    return engine.select(sql, [_parts(checks), language, prompt_id])


def judge_of(engine: QueryEngine, judgments: Artifact) -> str:
    """Name of the judge."""
    rows = engine.select("SELECT judge FROM read_parquet(?) LIMIT 1", [parts_of(judgments, [0])])
    return str(rows[0]["judge"]) if rows else ""


def outputs_of(engine: QueryEngine, outputs: Artifact, language: str, prompt_id: str) -> list[ResultRow]:
    """Every output for one prompt."""
    # Every column there is: tables of earlier versions have no thoughts.
    sql = "SELECT * FROM read_parquet(?) WHERE language = ? AND prompt_id = ? ORDER BY sample_index"
    return engine.select(sql, [_parts(outputs), language, prompt_id])
