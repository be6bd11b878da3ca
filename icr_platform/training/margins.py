"""What training gained, measured wherever it can be lost again: in the trained weights, in the files, in the next stage's precision.

The margin of the implicit reward is beta times the mean over pairs of how much log pi(chosen) - log pi(rejected) grew since the
start of training, of kto's single responses the mean over good ones minus that over bad ones. It is measured on at most `SAMPLE` training
pairs, which the artifact's order spreads over the languages.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch

from icr_platform.engines.scoring.logprobs import CompletionScorer, Group
from icr_platform.models.devices import BALANCED, resolve_device, resolve_dtype
from icr_platform.models.loading import load_model
from icr_platform.training.checkpoint_work import free_memory
from icr_platform.training.config import TrainConfig
from icr_platform.training.dataset import TrainingPairs
from icr_platform.training.examples import TrainingExamples
from icr_platform.training.weights import without_bars

if TYPE_CHECKING:
    from transformers import PreTrainedModel

SAMPLE = 64
_NOTABLE = 0.1  # of the trained weights' margin
_NOISE = 0.01  # nats: the rounding of a response's float32 log-probability
ALL = ""
"""Stands for all languages together."""


class Sample(NamedTuple):
    """Responses that training is measured on. is_chosen: for each completion of each group; of kto, whether it is good."""

    groups: list[Group]
    is_chosen: list[tuple[bool, ...]]
    languages: list[str]


class Logprobs(NamedTuple):
    """Mean log-probabilities of responses, in nats; 0 where there are none."""

    chosen: float
    rejected: float


def sampled(rows: TrainingPairs | TrainingExamples) -> Sample:
    """Take at most `SAMPLE` pairs, or twice as many single responses, at even distances."""
    is_paired = isinstance(rows, TrainingPairs)
    count = min(SAMPLE if is_paired else 2 * SAMPLE, len(rows))
    taken = [i * len(rows) // count for i in range(count)]
    groups = [rows.group(row) for row in taken]
    labels: list[tuple[bool, ...]] = [(True, False)] * count
    if isinstance(rows, TrainingExamples):  # without the mismatched responses
        groups = [Group(one.prompt_ids, one.completions[:1], one.starts[:1]) for one in groups]
        labels = [(rows.is_good[row],) for row in taken]
    return Sample(groups, labels, [rows.languages[row] for row in taken])


def trained_log_ratio(config: TrainConfig, sample: Sample, model: PreTrainedModel) -> float | None:
    """Measure the mean of log pi(chosen) - log pi(rejected) in nats, in float32; None where the device has no room for it."""
    found = _unless_full(lambda: _logprobs(model.to(resolve_device(config.device)), sample))  # type: ignore[arg-type]
    return _log_ratio(found)


def _log_ratio(found: dict[str, Logprobs] | None) -> float | None:
    return None if found is None else found[ALL].chosen - found[ALL].rejected


def measured_margins(
    config: TrainConfig, sample: Sample, trained: float | None, checkpoint: Path
) -> tuple[dict[str, float], list[str]]:
    """Measure the margin of the trained weights, of the checkpoint as saved, and as the next stage loads it.

    trained: `trained_log_ratio` of the weights before they were saved.

    Returns:
        Metrics `train/trained_margin`, `train/saved_margin`, `train/loaded_margin`, those that could be measured, and how much
        training moved log-probabilities, in nats: `train/chosen_logp_change`, `train/rejected_logp_change`, and of each language;
        notes for people where a margin is missing, or is not what was trained, and where chosen responses became less likely.
    """
    place = config.device
    if config.accelerate_config and resolve_device(config.device).startswith("cuda"):
        place = BALANCED  # a model that was trained on several GPUs may need several to be loaded
    following = str(resolve_dtype("auto", config.device)).removeprefix("torch.")

    def logprobs(model: str, dtype: str) -> dict[str, Logprobs] | None:
        with without_bars():
            return _unless_full(lambda: _logprobs(load_model(model, dtype, place, config.trust_remote_code), sample))

    start, saved = logprobs(config.policy, "float32"), logprobs(str(checkpoint), "float32")
    next_start, loaded = start, saved
    if following != "float32":  # a margin is a difference of two numbers in one precision
        next_start, loaded = logprobs(config.policy, following), logprobs(str(checkpoint), following)
    first, then, last, end = map(_log_ratio, (start, next_start, saved, loaded))
    ends = {"trained": (first, trained), "saved": (first, last), "loaded": (then, end)}
    margins = {
        name: config.beta * (after - before)
        for name, (before, after) in ends.items()
        if before is not None and after is not None
    }
    notes, figures = _notes(margins, following), {f"train/{name}_margin": value for name, value in margins.items()}
    if start is None or saved is None:
        return figures, notes
    changes = {
        name: Logprobs(after.chosen - start[name].chosen, after.rejected - start[name].rejected)
        for name, after in saved.items()
    }
    for name, change in changes.items():
        ending = f"/{name}" if name != ALL else ""
        figures[f"train/chosen_logp_change{ending}"] = change.chosen
        figures[f"train/rejected_logp_change{ending}"] = change.rejected
    return figures, [*notes, *_notes_of_likelihood(config, start, changes)]


def _notes_of_likelihood(
    config: TrainConfig, start: Mapping[str, Logprobs], changes: Mapping[str, Logprobs]
) -> list[str]:
    """Say where chosen responses became less likely, which preference losses allow as long as rejected ones sink further."""
    sunk = {name: change.chosen for name, change in changes.items() if change.chosen < -_NOISE}
    if not sunk:
        return []
    listed = ", ".join(f"{name} {value:+.3g}" for name, value in sunk.items() if name != ALL)
    overall = changes[ALL].chosen
    return [
        f"the log-probability of chosen responses moved by {overall:+.3g} nats on average, from {start[ALL].chosen:.4g} (it sank in "
        f"{listed}), that of rejected ones by {changes[ALL].rejected:+.3g}; a larger gamma (now {config.gamma:g}) or a lower learning "
        "rate keeps chosen responses likely"
    ]


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


def _logprobs(model: PreTrainedModel, sample: Sample) -> dict[str, Logprobs]:
    """Mean log-probabilities of the sample's responses by language, and of ALL."""
    scores = CompletionScorer(model).score(sample.groups)
    rows = [
        (language, is_chosen, float(score))
        for language, labels, of_group in zip(sample.languages, sample.is_chosen, scores, strict=True)
        for is_chosen, score in zip(labels, of_group, strict=True)
    ]

    def mean(name: str, side: bool) -> float:
        found = [score for language, is_chosen, score in rows if is_chosen == side and name in (ALL, language)]
        return sum(found) / len(found) if found else 0.0

    return {name: Logprobs(mean(name, True), mean(name, False)) for name in (ALL, *sorted(set(sample.languages)))}


def _unless_full(measure: Callable[[], dict[str, Logprobs]]) -> dict[str, Logprobs] | None:
    """Measure, or return None when GPU memory is full, which must not cost a finished training."""
    try:
        return measure()
    except torch.OutOfMemoryError:
        return None
    finally:
        free_memory()  # a model's layers and their hooks refer to each other
