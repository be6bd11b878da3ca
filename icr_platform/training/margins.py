"""What training gained, measured wherever it can be lost again: in the trained weights, in the files, in the next stage's precision.

The margin of the implicit reward is beta times the mean over pairs of how much log pi(chosen) - log pi(rejected) grew since the
start of training. It is measured on at most `SAMPLE` training pairs, which the artifact's order spreads over the languages.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from icr_platform.engines.scoring.logprobs import CompletionScorer, Group
from icr_platform.models.devices import BALANCED, resolve_device, resolve_dtype
from icr_platform.models.loading import load_model
from icr_platform.training.config import TrainConfig
from icr_platform.training.dataset import TrainingPairs
from icr_platform.training.weights import without_bars

if TYPE_CHECKING:
    from transformers import PreTrainedModel

SAMPLE = 64
_NOTABLE = 0.1  # of the trained weights' margin


def sampled_groups(pairs: TrainingPairs) -> list[Group]:
    """Take at most `SAMPLE` pairs at even distances, each as a prompt with its chosen and its rejected response."""
    count = min(SAMPLE, len(pairs))
    rows = [i * len(pairs) // count for i in range(count)]
    return [pairs.group(row) for row in rows]


def trained_log_ratio(config: TrainConfig, groups: list[Group], model: PreTrainedModel) -> float | None:
    """Measure the mean of log pi(chosen) - log pi(rejected) in nats, in float32; None where the device has no room for it."""
    return _unless_full(lambda: _log_ratio(model.to(resolve_device(config.device)), groups))  # type: ignore[arg-type]


def measured_margins(
    config: TrainConfig, groups: list[Group], trained: float | None, checkpoint: Path
) -> tuple[dict[str, float], list[str]]:
    """Measure the margin of the trained weights, of the checkpoint as saved, and as the next stage loads it.

    trained: `trained_log_ratio` of the weights before they were saved.

    Returns:
        Metrics `train/trained_margin`, `train/saved_margin`, `train/loaded_margin`, those that could be measured; and notes
        for people where one is missing, or is not what was trained.
    """
    place = config.device
    if config.accelerate_config and resolve_device(config.device).startswith("cuda"):
        place = BALANCED  # a model that was trained on several GPUs may need several to be loaded
    following = str(resolve_dtype("auto", config.device)).removeprefix("torch.")

    def log_ratio(model: str, dtype: str) -> float | None:
        with without_bars():
            return _unless_full(lambda: _log_ratio(load_model(model, dtype, place, config.trust_remote_code), groups))

    start = log_ratio(config.policy, "float32")
    saved = log_ratio(str(checkpoint), "float32")
    next_start, loaded = start, saved
    if following != "float32":  # a margin is a difference of two numbers in one precision
        next_start, loaded = log_ratio(config.policy, following), log_ratio(str(checkpoint), following)
    ends = {"trained": (start, trained), "saved": (start, saved), "loaded": (next_start, loaded)}
    margins = {
        name: config.beta * (after - before)
        for name, (before, after) in ends.items()
        if before is not None and after is not None
    }
    notes = _notes(margins, following)
    return {f"train/{name}_margin": value for name, value in margins.items()}, notes


def _notes(margins: Mapping[str, float], following: str) -> list[str]:
    missing = [name for name in ("trained", "saved", "loaded") if name not in margins]
    notes = []
    if missing:
        notes.append(f"the margin of the {' and the '.join(missing)} weights was not measured: GPU memory has no room")
    if "trained" not in margins:
        return notes
    trained = margins["trained"]
    fixes = {
        "saved": ("as saved", "use --save-dtype trained"),
        "loaded": (f"as the next stage loads it ({following})", "use --dtype float32 there, or raise --learning-rate"),
    }
    if following == "float32":
        del fixes["loaded"]  # it is the saved one
    for name, (where, fix) in fixes.items():
        if name in margins and abs(margins[name] - trained) > _NOTABLE * abs(trained):
            notes.append(
                f"the margin is {trained:+.4g} in the trained weights but {margins[name]:+.4g} in the checkpoint {where}: "
                f"that precision rounds changes away; {fix}"
            )
    return notes


def _log_ratio(model: PreTrainedModel, groups: list[Group]) -> float:
    scores = CompletionScorer(model).score(groups)
    return float(sum(chosen - rejected for chosen, rejected in scores) / len(scores))


def _unless_full(measure: Callable[[], float]) -> float | None:
    """Measure, or return None when GPU memory is full, which must not cost a finished training."""
    try:
        return measure()
    except torch.OutOfMemoryError:
        return None
    finally:
        gc.collect()  # a model's layers and their hooks refer to each other
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
