"""What `icr eval` prints once it is done."""

from __future__ import annotations

import sys
from pathlib import Path

from rich.console import Console

from icr_platform.core.parts import is_place
from icr_platform.core.secrets import shown_url
from icr_platform.core.stage_protocol import StageResult
from icr_platform.data.row_files import stem_of
from icr_platform.evaluation.config import EvalConfig
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
