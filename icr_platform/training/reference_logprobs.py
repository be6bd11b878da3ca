"""Reference log-probabilities of the pairs, scored once before training instead of in every step."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from icr_platform.core.arrays import Floats
from icr_platform.core.artifacts import atomic_path
from icr_platform.core.progress import meter
from icr_platform.models.devices import resolve_device
from icr_platform.training.config import TrainConfig
from icr_platform.training.dataset import TrainingPairs

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def precomputes(config: TrainConfig, processes: int) -> bool:
    """Whether the pairs are scored under the reference before training.

    auto: unless that costs time. One process scores the pairs once, where `processes` processes would score them every epoch. With
    one process and one epoch both take the same time (tests/benchmarks/bench_train.py), and scoring needs no second model.
    """
    if config.precompute_reference != "auto":
        return config.precompute_reference == "yes"
    return config.epochs >= processes


def stored_reference_logprobs(path: Path) -> Floats:
    """Read the [P, 2] nats, float64, that `store_reference_logprobs` wrote."""
    array: Floats = np.load(path)
    return array


def store_reference_logprobs(path: Path, logprobs: Floats) -> None:
    """Write [P, 2] nats, all of them or nothing."""
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.save(file, logprobs)


def score_pairs(config: TrainConfig, pairs: TrainingPairs, model: PreTrainedModel) -> Floats:
    """Score the chosen and rejected responses under `model`, which is moved to the configured device.

    Returns: [P, 2] nats, float64: log-probabilities, summed over the tokens of a response that are trained on.
    """
    from icr_platform.engines.scoring.logprobs import CompletionScorer
    from icr_platform.training.weights import autocast

    groups = [pairs.group(row) for row in range(len(pairs))]
    place: Any = resolve_device(config.device)
    scorer = CompletionScorer(model.to(place))
    with meter("score under the reference", 2 * len(groups)) as bar, autocast(config):
        return np.stack(scorer.score(groups, bar.advance))
