"""Reference log-probabilities of the pairs, scored once before training instead of in every step."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from icr_platform.core.arrays import Floats
from icr_platform.core.artifacts import atomic_path
from icr_platform.core.progress import meter
from icr_platform.engines.scoring.packing import Group
from icr_platform.models.devices import resolve_device
from icr_platform.training.config import TrainConfig
from icr_platform.training.dataset import TrainingPairs
from icr_platform.training.examples import TrainingExamples

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_TOGETHER = 1 << 12  # rows whose token ids are lists at a time: more of them are no better sorted by length


def precomputes(config: TrainConfig, processes: int) -> bool:
    """Whether the pairs are scored under the reference before training.

    auto: unless that costs time. One process scores the pairs once, where `processes` processes would score them every epoch. With
    one process and one epoch both take the same time (tests/benchmarks/bench_training.py), and scoring needs no second model.
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


def score_pairs(config: TrainConfig, pairs: TrainingPairs | TrainingExamples, model: PreTrainedModel) -> Floats:
    """Score the chosen and rejected responses under `model`, which is moved to the configured device.

    Returns: [P, 2] nats, float64: log-probabilities, summed over the tokens of a response that are trained on, those behind the length
    of the shorter one times ld_alpha (see `losses.without_tails`). Of kto's examples: of each response and of its mismatched one.
    """
    from icr_platform.engines.scoring.logprobs import CompletionScorer
    from icr_platform.training.weights import autocast

    place: Any = resolve_device(config.device)
    scorer = CompletionScorer(model.to(place))
    scores: Floats = np.empty((len(pairs), 2 if config.ld_alpha is None else 4))
    with meter("score under the reference", scores.size, use="scored") as bar, autocast(config):
        for start in range(0, len(pairs), _TOGETHER):
            groups = [pairs.group(row) for row in range(start, min(start + _TOGETHER, len(pairs)))]
            if config.ld_alpha is not None:
                groups = [_with_shared_parts(group) for group in groups]
            scores[start : start + len(groups)] = scorer.score(groups, bar.advance)
    if config.ld_alpha is None:
        return scores
    whole, shared = np.split(scores, 2, axis=1)
    return shared + config.ld_alpha * (whole - shared)


def _with_shared_parts(group: Group) -> Group:
    """A pair with both responses up to the length that both have: what is predicted of them does not depend on what follows.

    >>> _with_shared_parts(Group([1], [[2, 3, 4], [5, 6]])).completions
    ([2, 3, 4], [5, 6], [2, 3], [5, 6])
    """
    starts = group.starts or (0, 0)
    shared = min(len(ids) - start for ids, start in zip(group.completions, starts, strict=True))
    parts = [ids[: start + shared] for ids, start in zip(group.completions, starts, strict=True)]
    return Group(group.prompt_ids, (*group.completions, *parts), (*starts, *starts))
