"""A sweep on the terminal: a row for each arm, over its seeds."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from rich.table import Table

_FIGURES = (
    ("win_rate/mean_non_english", "Win rate, non-English mean, %"),
    ("win_rate/mean", "Win rate, mean, %"),
    ("instruction_accuracy/strict/mean", "Instructions followed, mean, %"),
    ("fidelity/mean", "Outputs in the asked language, mean, %"),
)
"""What is shown of a sweep: the first of these that was measured."""


class SweptRow(NamedTuple):
    """One arm at one seed: metrics by iteration, empty where it did not finish."""

    arm: str
    seed: int
    state: str
    metrics: Mapping[int, Mapping[str, float]]


class ArmFigures(NamedTuple):
    """One arm over its seeds: the mean at pi_0 and at the last iteration, and the change with its spread over seeds."""

    seeds: int
    first: float
    last: float
    change: float
    spread: float | None
    """Standard deviation of the change over seeds; None of one seed."""


def figures_of(rows: Sequence[SweptRow], name: str) -> ArmFigures | None:
    """The figures of one arm's rows; None where none of them has the metric.

    >>> rows = [SweptRow("a", seed, "finished", {0: {"m": 40.0}, 1: {"m": 44.0 + seed}}) for seed in (0, 2)]
    >>> figures_of(rows, "m")
    ArmFigures(seeds=2, first=40.0, last=45.0, change=5.0, spread=1.4142135623730951)
    """
    ends = [(row.metrics[min(row.metrics)], row.metrics[max(row.metrics)]) for row in rows if row.metrics]
    measured = [(first[name], last[name]) for first, last in ends if name in first and name in last]
    if not measured:
        return None
    changes = [last - first for first, last in measured]
    return ArmFigures(
        seeds=len(measured),
        first=statistics.fmean(first for first, _ in measured),
        last=statistics.fmean(last for _, last in measured),
        change=statistics.fmean(changes),
        spread=statistics.stdev(changes) if len(changes) > 1 else None,
    )


def sweep_terminal_table(rows: Sequence[SweptRow]) -> Table:
    """Arms with their states, and what their policies are at pi_0 and at the end."""
    named = {name for row in rows for metrics in row.metrics.values() for name in metrics}
    name, title = next((figure for figure in _FIGURES if figure[0] in named), ("", "Arms"))
    table = Table(
        title=f"{title} (change: mean ± standard deviation over seeds)" if name else title, title_justify="left"
    )
    for column in ("Arm", "Seeds", "pi_0", "last", "change"):
        table.add_column(column, justify="left" if column == "Arm" else "right")
    for arm in dict.fromkeys(row.arm for row in rows):
        own = [row for row in rows if row.arm == arm]
        states = Counter(row.state for row in own)
        said = (
            str(len(own))
            if set(states) == {"finished"}
            else ", ".join(f"{count} {state}" for state, count in states.items())
        )
        found = figures_of(own, name)
        cells = ["-", "-", "-"]
        if found is not None:
            spread = f" ± {found.spread:.1f}" if found.spread is not None else ""
            cells = [f"{found.first:.1f}", f"{found.last:.1f}", f"{found.change:+.1f}{spread}"]
        table.add_row(arm, said, *cells)
    return table
