"""What an arm cost, iteration by iteration, read from its metrics `cost/...`: what it spent itself, and what it found finished."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from icr_platform.report.iteration_metrics import IterationMetrics

_COST, _REUSED = "cost/", "cost/reused_"
_MEASURES = {
    "gpu_hours": "GPU hours",
    "cpu_hours": "CPU core hours",
    "tokens_sampled": "Tokens sampled",
    "tokens_scored": "Tokens scored",
    "tokens_trained": "Tokens trained on",
    "tokens_judged": "Tokens judged",
    "judge_dollars": "Judge, US dollars",
}
_ON_A_LINE = ("gpu_hours", "cpu_hours", "judge_dollars")


class CostRow(NamedTuple):
    """One measure in words. cells: of each iteration; total: of the whole arm. '' where nothing was spent."""

    name: str
    cells: Sequence[str]
    total: str


def cost_rows(iterations: Sequence[IterationMetrics]) -> list[CostRow]:
    """A row for every measure that the iterations have.

    >>> rows = cost_rows([IterationMetrics(0, {"cost/gpu_hours": 0.5}), IterationMetrics(1, {"cost/reused_gpu_hours": 2.0})])
    >>> rows[0].cells, rows[0].total
    (['0.50', '2.00 reused'], '2.50, of which 2.00 reused')
    """
    rows = []
    for measure, name in _MEASURES.items():
        spent, reused = ([t.metrics.get(f"{kind}{measure}", 0.0) for t in iterations] for kind in (_COST, _REUSED))
        if any(spent) or any(reused):
            cells = [_cell(measure, own, found) for own, found in zip(spent, reused, strict=True)]
            rows.append(CostRow(name, cells, _whole(measure, sum(spent), sum(reused))))
    return rows


def cost_until(iterations: Sequence[IterationMetrics]) -> dict[int, str]:
    """What it took to make each policy, reused work and its measurements included, in a few words: hours and a judge's dollars.

    >>> cost_until([IterationMetrics(0, {"cost/gpu_hours": 1.0}), IterationMetrics(1, {"cost/gpu_hours": 2.0, "cost/judge_dollars": 3.0})])
    {0: '1.00 GPU hours', 1: '3.00 GPU hours, 3.00 US dollars'}
    """
    found, sums = {}, dict.fromkeys(_ON_A_LINE, 0.0)
    for t in iterations:
        for measure in sums:
            sums[measure] += t.metrics.get(f"{_COST}{measure}", 0.0) + t.metrics.get(f"{_REUSED}{measure}", 0.0)
        named = [
            f"{amount(measure, value)} {_MEASURES[measure].removeprefix('Judge, ')}"
            for measure, value in sums.items()
            if value
        ]
        if named:
            found[t.iteration] = ", ".join(named)
    return found


def is_cost(name: str) -> bool:
    """Whether a metric stands in the table of costs."""
    return name.startswith(_COST)


def amount(measure: str, value: float) -> str:
    """A figure as people read it: whole tokens, and two digits that count of hours and dollars.

    >>> amount("tokens_scored", 1234567), amount("gpu_hours", 12.346), amount("gpu_hours", 0.00123), amount("judge_dollars", 0.0)
    ('1,234,567', '12.35', '0.0012', '0')
    """
    if measure.startswith("tokens"):
        return f"{value:,.0f}"
    return f"{value:,.2f}" if value >= 0.1 else f"{value:.2g}"


def _cell(measure: str, spent: float, reused: float) -> str:
    parts = [amount(measure, spent)] if spent else []
    return " + ".join([*parts, *([f"{amount(measure, reused)} reused"] if reused else [])])


def _whole(measure: str, spent: float, reused: float) -> str:
    together = amount(measure, spent + reused)
    return f"{together}, of which {amount(measure, reused)} reused" if reused else together
