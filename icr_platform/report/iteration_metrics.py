"""What an arm measured, iteration by iteration and language by language, read from MLflow's metrics.

Metrics are named as in MLflow: `win_rate/es`, its standard error `win_rate_se/es`, `margin/median/es`, ...
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from icr_platform.core.intervals import Z95
from icr_platform.core.language_tags import english_first, is_english
from icr_platform.core.languages import is_language, language_label

MEANS = {"mean": "Mean", "mean_non_english": "Mean, non-English"}


@dataclass(frozen=True)
class IterationMetrics:
    """Everything measured at one iteration, by metric name."""

    iteration: int
    metrics: Mapping[str, float]


@dataclass(frozen=True)
class Measured:
    """One metric of one language at one iteration.

    change: against the iteration before; None where there is none. is_paired: whether it is over the prompts that both iterations have, and
    not the difference of two values. prompts: how many these are; None where that was not kept.
    """

    value: float | None
    standard_error: float | None = None
    change: float | None = None
    is_paired: bool = False
    prompts: int | None = None


def row_name(code: str) -> str:
    """Name of a table's row: a language, or a mean over several.

    >>> row_name("es"), row_name("mean_non_english")
    ('Spanish', 'Mean, non-English')
    """
    return MEANS.get(code) or language_label(code)


def languages_of(iterations: Iterable[IterationMetrics], *prefixes: str) -> list[str]:
    """Languages with a metric `prefix/LANG` of any of the prefixes: English, the others by code, then the means."""
    found = {
        name.removeprefix(f"{prefix}/")
        for measured in iterations
        for name in measured.metrics
        for prefix in prefixes
        if name.startswith(f"{prefix}/")
    }
    codes = english_first(filter(is_language, found))
    return codes + [mean for mean in MEANS if mean in found]


def measured_of(iterations: Sequence[IterationMetrics], prefix: str, code: str) -> list[Measured]:
    """The metric `prefix/code` over the iterations, with `prefix_se/code` and the change against the iteration before.

    The change is paired by prompt where that was measured, as `prefix_change/code`; of a mean over languages it is their mean then.
    """
    found: list[Measured] = []
    before: float | None = None
    for measured in iterations:
        value, error = (measured.metrics.get(f"{name}/{code}") for name in (prefix, f"{prefix}_se"))
        if (paired := _paired(measured, prefix, code)) is not None:
            found.append(Measured(value, error, paired.change, True, paired.prompts))
        else:
            found.append(Measured(value, error, value - before if value is not None and before is not None else None))
        before = value
    return found


class _Paired(NamedTuple):
    change: float
    prompts: int | None


def _paired(measured: IterationMetrics, prefix: str, code: str) -> _Paired | None:
    """The paired change of a language, or of all those behind a mean; None unless each of them has one."""
    codes = [code]
    if code in MEANS:
        languages = [one for one in languages_of([measured], prefix) if one not in MEANS]
        codes = [one for one in languages if code == "mean" or not is_english(one)]
    changes, counts = (
        [found for one in codes if (found := measured.metrics.get(f"{prefix}_{name}/{one}")) is not None]
        for name in ("change", "change_n")
    )
    if not changes or len(changes) < len(codes):
        return None
    return _Paired(sum(changes) / len(changes), int(sum(counts)) if len(counts) == len(codes) else None)


def interval_of(metrics: Mapping[str, float], prefix: str, code: str) -> tuple[float, float] | None:
    """The 95% interval of the metric `prefix/code`: from its standard error, or the ends that were measured; None without either.

    What stands behind the first name of a metric stays: `reward_accuracy/cross-lingual/es` ends at `reward_accuracy_low/cross-lingual/es`.

    >>> interval_of({"b_low/x/es": 1.0, "b_high/x/es": 2.0}, "b/x", "es"), interval_of({"b/x/es": 1.5}, "b/x", "es")
    ((1.0, 2.0), None)
    """
    metric, slash, variant = prefix.partition("/")
    value, error = metrics.get(f"{prefix}/{code}"), metrics.get(f"{prefix}_se/{code}")
    if value is not None and error:
        return value - Z95 * error, value + Z95 * error
    low, high = (metrics.get(f"{metric}_{end}{slash}{variant}/{code}") for end in ("low", "high"))
    return (low, high) if low is not None and high is not None else None
