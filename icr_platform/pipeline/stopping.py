"""When an arm ends before its last iteration, and which of its iterations is the best. Pure: figures in, decisions out."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from icr_platform.core.errors import InputError
from icr_platform.engines.scoring.reward_kinds import scored_kinds
from icr_platform.evaluation.gains import Measure
from icr_platform.pipeline.config import IterateConfig

GAIN, GAIN_SINCE_START = "gain", "gain_since_0"
"""Metrics of an iteration, in points, with `_low` and `_high`: against the iteration before, and against pi_0."""


class Measuring(NamedTuple):
    """What decides whether a policy is better: the measure, the stage and its artifact, and the kind of reward where that is measured."""

    measure: Measure
    stage: str
    artifact: str
    kind: str = ""


def measuring(config: IterateConfig) -> Measuring | None:
    """The first of these that the arm measures: win rates, instructions followed, the reward on labelled pairs; None for none of them.

    A reward that no policy scores is as right after an iteration as before, and so decides nothing.
    """
    if config.eval_prompts and config.eval.judge != "none":
        return Measuring("win rate", "eval", "judgments")
    if config.instruction_prompts:
        return Measuring("prompt accuracy", "instructions", "instruction_checks")
    if config.reward_pairs:
        measured = config.reward_bench_config(config.policy, config.reference).kinds
        kinds = [kind for kind in (*config.annotate.reward_kind, *measured) if kind in measured]
        for kind in scored_kinds(kinds)[:1]:
            return Measuring("reward accuracy", "reward_bench", "reward_bench", kind)
    return None


def check_stop(config: IterateConfig) -> None:
    """Raise an InputError where `stop` asks for a gain, and nothing that is measured would show one."""
    if config.stop == "no-gain" and measuring(config) is None:
        raise InputError(
            "config: field 'stop' is 'no-gain', and nothing is measured that would show a gain; give eval_prompts with a judge, "
            "instruction_prompts, or reward_pairs with a kind of reward that the policy scores, or stop: none"
        )


class Gain(NamedTuple):
    """A paired difference in points. low, high: 95%; NaN where no interval can be given."""

    mean: float
    low: float
    high: float

    @property
    def floor(self) -> float:
        """What is gained at least; the mean itself where there is no interval."""
        return self.mean if math.isnan(self.low) else self.low

    def __str__(self) -> str:
        """
        >>> str(Gain(1.25, -0.5, 3.0)), str(Gain(-4.0, math.nan, math.nan))
        ('+1.2 points (95% interval -0.5 to +3.0)', '-4.0 points (no interval)')
        """
        interval = "no interval" if math.isnan(self.low) else f"95% interval {self.low:+.1f} to {self.high:+.1f}"
        return f"{self.mean:+.1f} points ({interval})"


def gain_in(metrics: Mapping[str, float], name: str = GAIN) -> Gain | None:
    """The gain that an iteration's metrics have; None where nothing was compared."""
    mean = metrics.get(name, math.nan)
    return (
        None if math.isnan(mean) else Gain(mean, *(metrics.get(f"{name}_{end}", math.nan) for end in ("low", "high")))
    )


def reason_to_stop(config: IterateConfig, iteration: int, metrics: Mapping[str, float]) -> str:
    """Why the arm ends after an iteration, in words for a person; '' where it goes on, or is over anyway.

    `no-gain`: the lower end of the gain's interval is not above 0. Where nothing could be compared the arm goes on.
    """
    gain, measured = gain_in(metrics), measuring(config)
    if config.stop == "none" or not 0 < iteration < config.iterations or gain is None or measured is None:
        return ""
    if gain.floor > 0:
        return ""
    return f"iteration {iteration} of {config.iterations} gained nothing over the one before: {measured.measure} {gain}"


def best_iteration(metrics: Mapping[int, Mapping[str, float]], among: Iterable[int]) -> int | None:
    """The iteration with the best interval of its gain since pi_0: the highest lower end, the later of equals; None where none has one.

    >>> best_iteration({1: {"gain_since_0": 9.0, "gain_since_0_low": 1.0}, 2: {"gain_since_0": 5.0, "gain_since_0_low": 2.0}}, (1, 2))
    2
    """
    gains = {t: gain for t in among if (gain := gain_in(metrics.get(t, {}), GAIN_SINCE_START)) is not None}
    return max(gains, key=lambda t: (gains[t].floor, t), default=None)
