"""Which of a run's metrics are its stage's final ones, said in one tag, so that a reuse reads them from the run's own rows.

A run has live metrics as well, and MLflow keeps the last value of each name only: a name counts as final where that value is the final one.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlflow.entities import Run

TAG = "icr.final_metrics"


def names_tag(run: Run, metrics: Mapping[str, float]) -> str | None:
    """The tag's text for these final metrics; None where the run's rows do not have exactly these values."""
    text = json.dumps(_factored(metrics), separators=(",", ":"))
    return text if _read(run, text) == dict(metrics) else None


def final_metrics(run: Run) -> dict[str, float] | None:
    """What the stage of this run returned, from the run's own rows; None where the run does not say."""
    text = run.data.tags.get(TAG)
    return _read(run, text) if text else None


def _factored(names: Iterable[str]) -> list[tuple[list[str], list[str]]]:
    """Write metric names as products (last parts, first parts): few sets of languages serve all of them, and tags are short.

    >>> _factored(["loss", "win_rate/de", "win_rate/es", "fidelity/de", "fidelity/es"])
    [([''], ['loss']), (['de', 'es'], ['win_rate', 'fidelity'])]
    """
    lasts: dict[str, list[str]] = {}
    for name in names:
        first, _, last = name.rpartition("/")
        lasts.setdefault(first or last, []).append(last if first else "")
    products: dict[tuple[str, ...], list[str]] = {}
    for first, own in lasts.items():
        products.setdefault(tuple(own), []).append(first)
    return [(list(own), firsts) for own, firsts in products.items()]


def _read(run: Run, text: str) -> dict[str, float]:
    names = (
        f"{first}/{last}" if last else first for lasts, firsts in json.loads(text) for first in firsts for last in lasts
    )
    return {name: float(run.data.metrics[name]) for name in names if name in run.data.metrics}
