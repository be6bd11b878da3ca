"""What `icr reward-bench` prints once it is done."""

from __future__ import annotations

import sys

import pandas as pd
from rich.console import Console

from icr_platform.core.stage_protocol import StageResult
from icr_platform.evaluation.reward_bench_config import RewardBenchConfig
from icr_platform.report import terminal_tables

_ACCURACY, _COMPARISON = "accuracy.csv", "comparison.csv"


def show_reward_accuracy(config: RewardBenchConfig, result: StageResult) -> None:
    """Print accuracy per language and kind with intervals, per category, and the paired tests over all languages."""
    folder = result.artifacts["reward_bench"]
    accuracy = pd.read_csv(folder / _ACCURACY, keep_default_na=False, na_values={"accuracy": [""]})
    comparison = pd.read_csv(folder / _COMPARISON, keep_default_na=False)
    console = Console(width=None if sys.stdout.isatty() else 120)
    for table in terminal_tables.reward_accuracy_terminal_tables(accuracy, comparison):
        console.print(table)
