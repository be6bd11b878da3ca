"""What `icr eval` and `icr instructions` print once they are done."""

from __future__ import annotations

import sys
from pathlib import Path

from rich.console import Console

from icr_platform.core.artifacts import open_artifact
from icr_platform.core.parts import is_place
from icr_platform.core.schemas import INSTRUCTION_CHECKS
from icr_platform.core.secrets import shown_url
from icr_platform.core.stage_protocol import StageResult
from icr_platform.data.row_files import stem_of
from icr_platform.evaluation import instruction_scores
from icr_platform.evaluation.config import EvalConfig, InstructionsConfig
from icr_platform.report import terminal_tables
from icr_platform.report.leaderboard import leaderboard


def show_scores(config: EvalConfig, result: StageResult) -> None:
    """Print figures per language, and next to them the published ones, or intervals where another policy is the reference."""
    place = config.policy or config.outputs
    name = stem_of(Path(place).name) or shown_url(place)
    console = Console(width=None if sys.stdout.isatty() else 120)
    console.print(terminal_tables.eval_terminal_table(result.metrics, name))
    published = leaderboard({name: result.metrics})
    if "head_to_head" in result.tables:
        console.print(terminal_tables.head_to_head_terminal_table(result.tables["head_to_head"]))
    elif len(published) and not is_place(config.judge) and not config.reference_outputs.startswith("runs:"):
        console.print(terminal_tables.leaderboard_terminal_table(published))


def show_instructions(config: InstructionsConfig, result: StageResult) -> None:
    """Print the figures per language and per kind of instruction, and what changed against the baseline."""
    console = Console(width=None if sys.stdout.isatty() else 160)
    # Work that was found finished comes without its tables: they follow from the checks.
    checks = instruction_scores.read_checks(open_artifact(result.artifacts["instruction_checks"], INSTRUCTION_CHECKS))
    scores, kinds = instruction_scores.score_table(checks), instruction_scores.kind_table(checks)
    for table in terminal_tables.instructions_terminal_tables(scores, kinds):
        console.print(table)
    if "instruction_changes" in result.tables:
        console.print(terminal_tables.instruction_changes_terminal_table(result.tables["instruction_changes"]))
