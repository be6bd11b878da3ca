"""What a stage gets and gives. Stages know nothing of each other or of tracking: they meet in artifacts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

import pandas as pd

from icr_platform.core.earlier import Earlier

MetricLog = Callable[[Mapping[str, float], int], None]


def ignore_metrics(metrics: Mapping[str, float], step: int) -> None:
    """The metric log of runs that are not tracked."""


@dataclass(frozen=True)
class StageContext:
    """Where a stage works.

    folder: receives one sub-folder per artifact, and whatever the stage needs to resume after a kill.
    fingerprint: identity of the work (settings, inputs, models, code); every artifact carries it.
    log_metrics: takes (metrics, step) while the stage runs, such as loss curves.
    earlier: finished and unfinished work whose single rows are reused.
    """

    folder: Path
    fingerprint: str
    log_metrics: MetricLog = ignore_metrics
    earlier: Earlier = field(default_factory=Earlier)


@dataclass(frozen=True)
class StageResult:
    """What a stage made.

    artifacts: finished folders by artifact name.
    metrics: final figures; names as in MLflow (`win_rate/es`, `margin/median/es`), units in the stage's docstring.
    tables: small tables (at most 1,000 rows) for people.
    notes: one-line remarks a person should read, such as languages without a prompt.
    """

    artifacts: Mapping[str, Path]
    metrics: Mapping[str, float] = field(default_factory=dict)
    tables: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


ConfigT = TypeVar("ConfigT", contravariant=True)
InputsT = TypeVar("InputsT")


class Stage(Protocol[ConfigT, InputsT]):
    """What the module of a stage defines."""

    def read(self, config: ConfigT, /) -> InputsT:
        """Read and check everything that the stage needs; load no weights and write nothing.

        Raises:
            InputError: what is wrong, where, and what to do.
        """

    def run(self, inputs: InputsT, context: StageContext, /) -> StageResult:
        """Do the work, or resume it where an earlier run with the same fingerprint stopped in `context.folder`."""


AnyStage = Stage[Any, Any]
