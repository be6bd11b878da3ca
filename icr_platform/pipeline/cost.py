"""What work cost: hours of devices, tokens and a judge's dollars, of stages, iterations and arms. Pure: attempts in, figures out.

Metrics: `cost/gpu_hours` or `cost/cpu_hours` (device hours: seconds of all attempts, killed ones too, times the GPUs or cores that the
stage held), `cost/tokens_sampled`, `_scored`, `_trained` and `_judged`, and `cost/judge_dollars` where a price was given. They are what a
run itself spent, so that a sum over runs counts nothing twice; `cost/reused_...` is what had been spent, by other runs, on what it found
finished.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from icr_platform.pipeline.attempts import Attempt

COST, REUSED = "cost/", "cost/reused_"
DEVICES = "icr.devices"
"""Tag of stage and arm runs that says in words what they ran on."""


def cost_of(attempts: Sequence[Attempt], config: Any) -> dict[str, float]:
    """Metrics of a stage's attempts; what it did not do has none. Prices are dollars per million tokens."""
    found: Counter[str] = Counter()
    tokens: Counter[str] = Counter()
    for attempt in attempts:
        found[f"{attempt.devices.kind}_hours"] += attempt.seconds * attempt.devices.held / 3600  # type: ignore[assignment]
        tokens.update(attempt.tokens)
    asked, answered = tokens.pop("judge_input", 0), tokens.pop("judge_output", 0)
    found.update({f"tokens_{use}": count for use, count in tokens.items()})
    if asked or answered:
        found["tokens_judged"] = asked + answered
    # A judge in this process costs hours; one behind an endpoint costs what its prices say.
    prices = [getattr(config, f"judge_{side}_price", 0.0) for side in ("input", "output")]
    metrics = {f"{COST}{name}": float(value) for name, value in found.items() if value}
    if getattr(config, "judge", "openai") == "openai" and any(prices) and (asked or answered):
        metrics[f"{COST}judge_dollars"] = (asked * prices[0] + answered * prices[1]) / 1e6
    return metrics


class CostedRun(NamedTuple):
    """A stage as an arm had it. run: id of the run that did the work; '' untracked. cost: that run's."""

    iteration: int
    run: str
    reused: bool
    cost: Mapping[str, float]


def costs_by_iteration(runs: Iterable[CostedRun]) -> dict[int, dict[str, float]]:
    """Metrics of each iteration. Work that an arm uses twice, such as one evaluation of the same policy, is counted where it comes first.

    >>> made = CostedRun(0, "a", False, {"cost/gpu_hours": 1.0})
    >>> costs_by_iteration([made, made._replace(iteration=1, reused=True), CostedRun(1, "b", True, {"cost/gpu_hours": 2.0})])
    {0: {'cost/gpu_hours': 1.0}, 1: {'cost/reused_gpu_hours': 2.0}}
    """
    found: dict[int, dict[str, float]] = {}
    counted: set[str] = set()
    for run in runs:
        of_iteration = found.setdefault(run.iteration, {})
        if run.run and run.run in counted:
            continue
        counted.add(run.run)
        for name, value in run.cost.items():
            key = f"{REUSED}{name.removeprefix(COST)}" if run.reused else name
            of_iteration[key] = of_iteration.get(key, 0.0) + value
    return found


def total(costs: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """The sum of costs, such as those of an arm's iterations."""
    found: dict[str, float] = {}
    for cost in costs:
        for name, value in cost.items():
            found[name] = found.get(name, 0.0) + value
    return found
