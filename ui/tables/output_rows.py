"""The outputs for one prompt with what the judge, or the checkers of instructions, said of each."""

from __future__ import annotations

from icr_platform.core.artifacts import Artifact
from ui.tables.queries import QueryEngine, ResultRow, parts_of
from ui.tables.value_tables import parts_with_rows


def judgments_of(engine: QueryEngine, judgments: Artifact, language: str, prompt_id: str) -> list[ResultRow]:
    """Every judgment of one prompt."""
    sql = """SELECT sample_index, "order", CASE WHEN isfinite(preference) THEN preference END AS preference, mass, outcome, judge, detail
             FROM read_parquet(?)
             WHERE language = ? AND prompt_id = ? ORDER BY sample_index, "order" """
    return engine.select(sql, [parts_with_rows(judgments), language, prompt_id])


def checks_of(engine: QueryEngine, checks: Artifact, language: str, prompt_id: str) -> list[ResultRow]:
    """Every verdict on the outputs of one prompt, in the order of its instructions."""
    sql = """SELECT sample_index, instruction_id, kwargs, strict, loose, reason FROM read_parquet(?, file_row_number=true)
             WHERE language = ? AND prompt_id = ? ORDER BY sample_index, file_row_number"""
    return engine.select(sql, [parts_with_rows(checks), language, prompt_id])


def judge_of(engine: QueryEngine, judgments: Artifact) -> str:
    """Name of the judge."""
    rows = engine.select("SELECT judge FROM read_parquet(?) LIMIT 1", [parts_of(judgments, [0])])
    return str(rows[0]["judge"]) if rows else ""


def kind_of(engine: QueryEngine, rewards: Artifact) -> str:
    """The kind of reward that makes the pairs."""
    rows = engine.select("SELECT kind FROM read_parquet(?) LIMIT 1", [parts_with_rows(rewards)[:1]])
    return str(rows[0]["kind"]) if rows else ""


def outputs_of(engine: QueryEngine, outputs: Artifact, language: str, prompt_id: str) -> list[ResultRow]:
    """Every output for one prompt."""
    # Every column there is: tables of earlier versions have no thoughts.
    sql = "SELECT * FROM read_parquet(?) WHERE language = ? AND prompt_id = ? ORDER BY sample_index"
    return engine.select(sql, [parts_with_rows(outputs), language, prompt_id])
