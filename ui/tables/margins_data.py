"""What Margins shows: distributions, reward against length before and after length control, extremes, and whether reward kinds agree."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from icr_platform.core.artifacts import Artifact
from ui.tables.pairs_data import PairTables, dropped_rows, pair_index
from ui.tables.queries import QueryEngine, ResultRow, finite, parts_of

BINS = 20
GRID = 18


class Distribution(NamedTuple):
    """Margins of one language. bins: counts of BINS equal bins over [low, high]; quantiles at 5, 25, 50, 75, 95%."""

    language: str
    pairs: int
    low: float
    high: float
    quantiles: tuple[float, ...]
    alpha: float
    bins: list[int]


def distributions(engine: QueryEngine, tables: PairTables, language: str = "") -> list[Distribution]:
    """One per language, over the 1st to 99th percentile so that one outlier does not flatten the rest."""
    index = pair_index(engine, tables)
    sql = f"""
        WITH own AS (SELECT * FROM {index} WHERE margin IS NOT NULL AND (? = '' OR language = ?)),
        ends AS (SELECT language, quantile_cont(margin, 0.01) AS low, quantile_cont(margin, 0.99) AS high, count(*) AS pairs,
                        quantile_cont(margin, [0.05, 0.25, 0.5, 0.75, 0.95]) AS quantiles, any_value(alpha) AS alpha
                 FROM own GROUP BY language),
        binned AS (SELECT language, least({BINS} - 1, greatest(0, CAST(floor((margin - low) / nullif(high - low, 0) * {BINS}) AS INTEGER))) AS bin
                   FROM own JOIN ends USING (language)),
        counts AS (SELECT language, bin, count(*) AS n FROM binned GROUP BY language, bin)
        SELECT ends.*, bins FROM ends
        JOIN (SELECT language, list({{'bin': bin, 'n': n}}) AS bins FROM counts GROUP BY language) USING (language)
        ORDER BY language <> 'en', language LIMIT 60"""
    found = []
    for row in engine.select(sql, [language, language]):
        bins = [0] * BINS
        for entry in row["bins"]:
            bins[entry["bin"] or 0] += entry["n"]  # no bin: all margins are the same
        ends = row["low"], row["high"], tuple(row["quantiles"])
        found.append(Distribution(row["language"], row["pairs"], *ends, row["alpha"], bins))
    return found


def has_margins(engine: QueryEngine, tables: PairTables) -> bool:
    """Whether rewards made any of the pairs."""
    rows = engine.select(f"SELECT count(margin) AS n FROM {pair_index(engine, tables)}")
    return bool(rows[0]["n"])


class LengthFigures(NamedTuple):
    """How far length drives the pairs of one language, each before and after length control: annotate's own figures.

    correlation: of length and reward within prompts, over the samples that pairs were chosen among. longer: share in [0, 1] of pairs
    whose chosen response is longer. difference: mean characters of chosen minus rejected. None where annotate did not measure it.
    """

    language: str
    correlation: tuple[float | None, float | None]
    longer: tuple[float | None, float | None]
    difference: tuple[float | None, float | None]


def length_figures(preferences: Artifact, languages: Sequence[str]) -> list[LengthFigures]:
    """Those of the languages that have any, as the manifest of the preferences has them: the very values that MLflow has."""
    metrics = preferences.extra.get("metrics", {})
    found = []
    for language in languages:
        values = [
            tuple(metrics.get(f"{name}/{when}/{language}") for when in ("before", "after"))
            for name in ("length_correlation", "chosen_longer", "length_difference")
        ]
        if any(value is not None for both in values for value in both):
            found.append(LengthFigures(language, *values))
    return found


class LengthReward(NamedTuple):
    """Samples of one language on a grid. rows: column, line, count."""

    samples: int
    x: tuple[float, float]
    y_before: tuple[float, float]
    y_after: tuple[float, float]
    before: list[ResultRow]
    after: list[ResultRow]


def length_reward(engine: QueryEngine, tables: PairTables, language: str, alpha: float) -> LengthReward | None:
    """Reward against length over the samples that pairs were chosen among; the pairs alone would exaggerate it.

    alpha: reward per character that length control takes off. None without a scored sample.
    """
    scored = f"""
        SELECT r.character_count AS length, w.reward FROM read_parquet(?) AS r
        JOIN read_parquet(?) AS w USING (language, prompt_id, sample_index)
        ANTI JOIN (SELECT * FROM {dropped_rows(engine, tables)} WHERE sample_index IS NOT NULL) AS d USING (language, prompt_id, sample_index)
        WHERE r.language = ? AND w.language = ? AND isfinite(w.reward) AND w.kind = (SELECT kind FROM read_parquet(?) LIMIT 1)"""
    files = [parts_of(tables.responses), parts_of(tables.rewards), language, language, parts_of(tables.rewards, [0])]
    digests = "/".join(each.digest for each in (tables.responses, tables.rewards, tables.drops))
    table = engine.materialise(f"lengths/{digests}/{language}", scored, files)
    ends = engine.select(
        f"""SELECT count(*) AS n, quantile_cont(length, [0.01, 0.99]) AS x, quantile_cont(reward, [0.01, 0.99]) AS y,
                   quantile_cont(reward - ? * length, [0.01, 0.99]) AS z FROM {table}""",
        [alpha],
    )[0]
    if not ends["n"]:
        return None
    grids = []
    for column, bounds in (("reward", ends["y"]), ("reward - ? * length", ends["z"])):
        extra = [alpha] if "?" in column else []
        sql = f"""SELECT bin_x AS "column", bin_y AS line, count(*) AS count FROM (
                    SELECT {_bin("length")} AS bin_x, {_bin(column)} AS bin_y FROM {table}) GROUP BY ALL"""
        x, y = ends["x"], bounds
        grids.append(engine.select(sql, [x[0], x[1], x[0], *extra, y[0], y[1], y[0]]))
    return LengthReward(ends["n"], tuple(ends["x"]), tuple(ends["y"]), tuple(ends["z"]), grids[0], grids[1])


def _bin(expression: str) -> str:
    """Grid line of an expression between two bounds; three parameters: low, high, low."""
    place = f"floor(({expression} - ?) / nullif(? - ?, 0) * {GRID})"
    return f"least({GRID - 1}, greatest(0, coalesce(CAST({place} AS INTEGER), 0)))"


def outliers(engine: QueryEngine, tables: PairTables, language: str, largest: bool, rows: int = 8) -> list[ResultRow]:
    """Pairs at one end of the margins."""
    order = "DESC" if largest else "ASC"
    sql = f"""SELECT language, prompt_id, pair_index, margin, chosen_characters, rejected_characters FROM {pair_index(engine, tables)}
              WHERE margin IS NOT NULL AND (? = '' OR language = ?) ORDER BY margin {order}, position LIMIT {rows}"""
    return engine.select(sql, [language, language])


class KindAgreement(NamedTuple):
    """Two reward kinds over one language: share of prompts with the same best and the same worst sample, and correlation."""

    language: str
    left: str
    right: str
    prompts: int
    same_best: float
    same_worst: float
    correlation: float | None


def kind_agreement(engine: QueryEngine, tables: PairTables, language: str = "") -> list[KindAgreement]:
    """Agreement of every two reward kinds; empty when the run has only one. Correlation is within prompts."""
    if not tables.rewards.parts:  # of pairs that no reward made
        return []
    # The first part holds every kind that the run scored: with one kind alone, nothing else is read.
    centred = """
        WITH scored AS (SELECT language, prompt_id, kind, sample_index, reward - avg(reward) OVER (PARTITION BY language, prompt_id, kind) AS centred
                        FROM read_parquet(?) WHERE reward IS NOT NULL AND (SELECT count(DISTINCT kind) FROM read_parquet(?)) > 1)
        SELECT language, prompt_id, kind, arg_max(sample_index, centred) AS best, arg_min(sample_index, centred) AS worst,
               list(centred ORDER BY sample_index) AS centred FROM scored GROUP BY language, prompt_id, kind"""
    files = [parts_of(tables.rewards), parts_of(tables.rewards, [0])]
    narrow = engine.materialise(f"kinds/{tables.rewards.digest}", centred, files)
    sql = f"""
        SELECT a.language, a.kind AS "left", b.kind AS "right", count(*) AS prompts, avg(CAST(a.best = b.best AS INTEGER)) AS same_best,
               avg(CAST(a.worst = b.worst AS INTEGER)) AS same_worst,
               avg(list_dot_product(a.centred, b.centred) / nullif(sqrt(list_dot_product(a.centred, a.centred) *
                   list_dot_product(b.centred, b.centred)), 0)) AS correlation
        FROM {narrow} AS a JOIN {narrow} AS b ON a.language = b.language AND a.prompt_id = b.prompt_id AND a.kind < b.kind
            AND len(a.centred) = len(b.centred)
        WHERE ? = '' OR a.language = ? GROUP BY a.language, a.kind, b.kind
        ORDER BY a.language <> 'en', a.language, "left", "right" LIMIT 200"""
    rows = engine.select(sql, [language, language])
    return [KindAgreement(**{**row, "correlation": finite(row["correlation"])}) for row in rows]
