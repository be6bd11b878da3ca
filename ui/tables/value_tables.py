"""What a comparison of two policies compares: a number for each prompt, and what was asked, from finished artifacts.

Each function names a table of the engine, which is built once per artifact: keys and numbers, never whole texts. Of several runs of
one arm a prompt's value is its mean over them, and a prompt counts only where every run has it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from icr_platform.core.artifacts import Artifact
from icr_platform.core.errors import InputError
from ui.tables.queries import QueryEngine, parts_of

INSTRUCTION_CHARACTERS = 400


def judged_prompts(engine: QueryEngine, *judgments: Artifact) -> str:
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
    return _over_runs(engine, "judged", sql, [[parts_with_rows(one)] for one in judgments], judgments)


def rewarded_prompts(engine: QueryEngine, *rewards: Artifact) -> str:
    """Mean implicit reward per prompt over its samples, of the kind that makes the pairs."""
    sql = """
        SELECT language, prompt_id, avg(reward) AS value, NULL AS model_first, NULL AS reference_first FROM read_parquet(?)
        WHERE kind = (SELECT kind FROM read_parquet(?) LIMIT 1) AND reward IS NOT NULL GROUP BY ALL"""
    parameters = [[parts_with_rows(one), parts_of(one, [0])] for one in rewards]
    return _over_runs(engine, "rewarded", sql, parameters, rewards)


def followed_prompts(engine: QueryEngine, *checks: Artifact, shared: str = "", kind: str = "") -> str:
    """Share of each prompt's outputs that follow all of its instructions to the letter, those left out that cannot be verified.

    Args:
        shared: `shared_instructions`, which alone are then looked at.
        kind: of instructions, likewise.
    """
    sql = f"""
        WITH by_output AS (
            SELECT language, prompt_id, sample_index, bool_and(strict) AS followed FROM {_checked(shared)}
            WHERE ? = '' OR instruction_id = ? GROUP BY ALL)
        SELECT language, prompt_id, avg(CAST(followed AS INTEGER)) AS value, NULL AS model_first, NULL AS reference_first
        FROM by_output GROUP BY ALL HAVING value IS NOT NULL"""
    parameters = [[parts_with_rows(one), kind, kind] for one in checks]
    return _over_runs(engine, f"followed/{shared}/{kind}", sql, parameters, checks)


def followed_by_kind(engine: QueryEngine, *checks: Artifact, shared: str = "") -> str:
    """As `followed_prompts`, with a row for each kind of instruction that a prompt has, in the column `kind`."""
    sql = f"""
        WITH by_output AS (
            SELECT language, prompt_id, instruction_id AS kind, sample_index, bool_and(strict) AS followed FROM {_checked(shared)}
            GROUP BY ALL)
        SELECT language, prompt_id, kind, avg(CAST(followed AS INTEGER)) AS value, NULL AS model_first, NULL AS reference_first
        FROM by_output GROUP BY ALL HAVING value IS NOT NULL"""
    parameters = [[parts_with_rows(one)] for one in checks]
    return _over_runs(engine, f"followed-by-kind/{shared}", sql, parameters, checks, "kind, ")


_CHECK = "language, prompt_id, turn, instruction_id, kwargs, number"
# A prompt may have the same instruction twice: each has a number.
_NUMBERED = """(
    SELECT *, row_number() OVER (PARTITION BY language, prompt_id, sample_index, turn, instruction_id, kwargs ORDER BY filename, file_row_number) AS number
    FROM read_parquet(?, filename=true, file_row_number=true))"""


def _checked(shared: str) -> str:
    """SQL of the checks of one run, all or those that are shared."""
    return f"(SELECT * FROM {_NUMBERED} SEMI JOIN {shared} USING ({_CHECK}))" if shared else "read_parquet(?)"


def shared_instructions(engine: QueryEngine, first: Sequence[Artifact], second: Sequence[Artifact]) -> str:
    """The instructions that all runs of both sides verified in all outputs, as `instruction_scores.shared_checks` has it: one that
    only one side could verify compares nothing."""
    one = f"SELECT {_CHECK} FROM {_NUMBERED} GROUP BY ALL HAVING count(strict) = count(*)"
    artifacts = [*first, *second]
    key = f"shared/{'/'.join(artifact.digest for artifact in artifacts)}"
    return engine.materialise(
        key, " INTERSECT ".join([one] * len(artifacts)), [parts_with_rows(run) for run in artifacts]
    )


def pure_prompts(engine: QueryEngine, *confusion: Artifact) -> str:
    """Share of each prompt's outputs without a line in another language, of those that have a line long enough to tell."""
    sql = """
        SELECT language, prompt_id, avg(CAST(len(confused_lines) = 0 AS INTEGER)) AS value, NULL AS model_first, NULL AS reference_first
        FROM read_parquet(?) WHERE line_count > 0 GROUP BY ALL"""
    return _over_runs(engine, "pure", sql, [[parts_with_rows(one)] for one in confusion], confusion)


def answered_prompts(engine: QueryEngine, outputs: Sequence[Artifact], prompts: Sequence[Artifact] = ()) -> str:
    """Mean characters of each prompt's outputs as its value, and in `asked` a number that stands for the instruction.

    Prompt sets number their prompts from 0, so that an equal id says little: `asked` tells whether the prompts are the same.

    Args:
        outputs: of each run, or its responses, which have no instructions; then `prompts` are those of each run.
    """
    beside = (
        " JOIN (SELECT language, prompt_id, instruction FROM read_parquet(?)) USING (language, prompt_id)"
        if prompts
        else ""
    )
    sql = f"""
        SELECT language, prompt_id, avg(character_count) AS value,
               CASE WHEN any_value(instruction) <> '' THEN hash(trim(regexp_replace(any_value(instruction), '\\s+', ' ', 'g'))) END AS asked,
               NULL AS model_first, NULL AS reference_first
        FROM read_parquet(?){beside} GROUP BY ALL"""
    parameters = [
        [parts_with_rows(one), *(parts_of(p) for p in prompts[place : place + 1])] for place, one in enumerate(outputs)
    ]
    return _over_runs(engine, "answered", sql, parameters, outputs, "asked, ")


def asked_prompts(engine: QueryEngine, asked: Artifact) -> str:
    """Name of the table `sources` of a comparison, from a prompts or an outputs artifact; texts are cut for lists."""
    source = "source" if asked.table.name == "prompts" else "''"
    sql = f"""SELECT language, prompt_id, any_value({source}) AS source, left(any_value(instruction), {INSTRUCTION_CHARACTERS}) AS instruction
              FROM read_parquet(?) GROUP BY ALL"""
    return engine.materialise(f"asked/{asked.digest}", sql, [parts_of(asked)])


def order_of(engine: QueryEngine, artifact: Artifact) -> str:
    """The place of each prompt in an artifact: a bootstrap draws prompts by their order, and `icr compare` takes this one."""
    sql = """
        SELECT language, prompt_id, min(place) AS place
        FROM (SELECT language, prompt_id, row_number() OVER (ORDER BY filename, file_row_number) AS place
              FROM read_parquet(?, filename=true, file_row_number=true)) GROUP BY ALL"""
    return engine.materialise(f"order/{artifact.digest}", sql, [parts_with_rows(artifact)])


def parts_with_rows(artifact: Artifact) -> list[str]:
    """Paths of an artifact's parts.

    Raises:
        InputError: it has no rows.
    """
    if not artifact.parts or not artifact.rows:
        hint = "; run `icr eval` with --judge and --reference-outputs" if artifact.table.name == "judgments" else ""
        raise InputError(f"This run has no {artifact.table.name}{hint}.")
    return parts_of(artifact)


def _over_runs(
    engine: QueryEngine,
    what: str,
    sql: str,
    parameters: Sequence[list[Any]],
    artifacts: Sequence[Artifact],
    keys: str = "",
) -> str:
    """The table of one run, or of several the mean of each prompt that all of them have. keys: columns beside language and prompt id."""
    key = f"{what}/{'/'.join(artifact.digest for artifact in artifacts)}"
    if len(artifacts) > 1:
        runs = " UNION ALL ".join(f"SELECT * FROM ({sql})" for _ in artifacts)
        sql = f"""SELECT language, prompt_id, {keys}avg(value) AS value, avg(model_first) AS model_first, avg(reference_first) AS reference_first
                  FROM ({runs}) GROUP BY ALL HAVING count(*) = {len(artifacts)}"""
    return engine.materialise(key, sql, [value for of_run in parameters for value in of_run])
