"""What a person needs to judge rewards by: do they follow length, how wide are margins, do two kinds agree."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike

from icr_platform.core.arrays import Bools, Floats


def length_correlation(rewards: Floats, characters: Floats) -> float:
    """Pearson correlation of reward and length within prompts, both [P, N]; rewards that are NaN do not take part.

    Both are centred per prompt and pooled, since pairs are made within prompts: that one prompt has long and well-paid
    answers biases no pair. NaN when either does not vary.
    """
    used = np.isfinite(rewards)
    reward, length = _centred(rewards, used), _centred(np.asarray(characters, dtype=np.float64), used)
    scale = float(np.sqrt((reward**2).sum() * (length**2).sum()))
    return float((reward * length).sum()) / scale if scale > 0 else float("nan")


def _centred(values: Floats, used: Bools) -> Floats:
    kept = np.where(used, values, 0.0)
    mean = kept.sum(axis=1, keepdims=True) / np.maximum(used.sum(axis=1, keepdims=True), 1)
    return np.where(used, kept - mean, 0.0)


def chosen_longer(chosen: ArrayLike, rejected: ArrayLike) -> float:
    """Share of pairs whose chosen response has more characters than the rejected one, both [M]; NaN without a pair."""
    more = np.asarray(chosen) > np.asarray(rejected)
    return float(more.mean()) if more.size else float("nan")


def length_difference(chosen: ArrayLike, rejected: ArrayLike) -> float:
    """Mean over pairs of the characters of the chosen response minus those of the rejected one, both [M]; NaN without a pair."""
    differences = np.asarray(chosen, dtype=np.float64) - np.asarray(rejected, dtype=np.float64)
    return float(differences.mean()) if differences.size else float("nan")


def reward_agreement(first: Floats, second: Floats) -> float:
    """Share of response pairs, two of one prompt, that two rewards [P, N] order the same way; 0.5 is chance.

    Pairs that either reward ties, or that hold a NaN, are left out. NaN when none is left.
    """
    same = compared = 0  # column by column: all pairs at once would take N times the memory of the rewards
    for column in range(1, first.shape[1]):
        with np.errstate(invalid="ignore"):
            product = np.sign(first[:, :column] - first[:, column, None])
            product *= np.sign(second[:, :column] - second[:, column, None])
        same += int((product > 0).sum())
        compared += int((np.abs(product) > 0).sum())
    return same / compared if compared else float("nan")


def with_language_means(metrics: Mapping[str, float], languages: list[str]) -> dict[str, float]:
    """The finite metrics, and for every `NAME/LANGUAGE` the unweighted mean over languages as `NAME/mean`."""
    finite = {name: float(value) for name, value in metrics.items() if np.isfinite(value)}
    by_name: dict[str, list[float]] = {}
    for metric, value in finite.items():
        name, _, language = metric.rpartition("/")
        if language in languages:
            by_name.setdefault(name, []).append(value)
    return finite | {f"{name}/mean": float(np.mean(values)) for name, values in by_name.items()}
