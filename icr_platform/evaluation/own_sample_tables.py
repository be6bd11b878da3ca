"""A policy's own samples as `icr annotate` left them: read with what they answer, checked, and made into figures for people."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import pyarrow.compute as pc

from icr_platform.core.artifacts import Artifact, open_artifact
from icr_platform.core.errors import InputError
from icr_platform.core.schemas import PREFERENCES, RESPONSES, REWARDS
from icr_platform.data.column_map import ColumnNames
from icr_platform.data.prompts import load_prompts
from icr_platform.evaluation.own_samples import (
    Checker,
    OwnSamples,
    Prompt,
    checked_samples,
    own_sample_metrics,
    own_samples,
    upside_down_notes,
)
from icr_platform.evaluation.reward_bench_config import LENGTH
from icr_platform.evaluation.sample_checkers import make_checker

OWN_SAMPLES, BEFORE_LENGTH_CONTROL = "samples", "samples before length control"
"""Sources of accuracies, beside pairs and corruptions."""
_SAMPLE = ["language", "prompt_id", "sample_index"]
_PAIR = [
    "language", "prompt_id", "chosen_index", "rejected_index", "chosen_reward", "length_penalty_alpha", "chosen_language", "rejected_language",
]  # fmt: skip


@dataclass(frozen=True)
class AnnotatedSamples:
    """Samples, their rewards, the pairs that were selected (None where they are not given), and who says which are right."""

    named: str
    checker: Checker
    prompts: Mapping[tuple[str, str], Prompt]
    responses: Artifact
    rewards: Artifact
    preferences: Artifact | None


class SampleFigures(NamedTuple):
    """What a stage logs of them; accuracies: rows of the table of reward accuracy. tables: by name."""

    metrics: dict[str, float]
    accuracies: list[dict[str, Any]]
    tables: dict[str, pd.DataFrame]
    notes: list[str]


def read_annotated_samples(
    checker: str, prompts: str, columns: ColumnNames, responses: str, rewards: str, preferences: str = ""
) -> AnnotatedSamples:
    """Open the artifacts and check that they belong together; no model is needed.

    Args:
        checker: see `sample_checkers`. prompts: that the samples answer. responses: of `generate`. rewards, preferences: of `annotate`.

    Raises:
        InputError: an artifact is not of its kind, a sample answers no prompt, or no reward is of a sample.
    """
    samples, scored = open_artifact(Path(responses), RESPONSES), open_artifact(Path(rewards), REWARDS)
    keys = samples.read(_SAMPLE)
    languages = pc.unique(keys["language"]).to_pylist()
    asked = {
        (row["language"], row["prompt_id"]): row
        for row in load_prompts(prompts, languages, columns=columns).table.to_pylist()
    }
    found = set(zip(keys["language"].to_pylist(), keys["prompt_id"].to_pylist(), strict=True))
    if missing := sorted(found - set(asked)):
        raise InputError(
            f"{prompts}: {len(missing)} of {len(found)} prompts that were answered are missing, the first is {missing[0][1]!r} in "
            f"{missing[0][0]!r}; give the prompts that {responses} were sampled for"
        )
    of = scored.read(["language", "prompt_id"])
    if found.isdisjoint(zip(of["language"].to_pylist(), of["prompt_id"].to_pylist(), strict=True)):
        raise InputError(
            f"{rewards}: contains no reward of the samples in {responses}; give what annotate made of them"
        )
    return AnnotatedSamples(
        checker,
        make_checker(checker, prompts, languages, columns),
        asked,
        samples,
        scored,
        open_artifact(Path(preferences), PREFERENCES) if preferences else None,
    )


def sample_figures(samples: AnnotatedSamples) -> SampleFigures:
    """Check every sample and compare the rewards with the checker.

    Raises:
        InputError: the checker failed, or says nothing of any sample.
    """
    parts = (
        samples.responses.read_part(index, [*_SAMPLE, "response"]) for index in range(len(samples.responses.parts))
    )
    rows = (row for part in parts for batch in part.to_batches(1024) for row in batch.to_pylist())
    checked = checked_samples(samples.checker, samples.named, samples.prompts, rows)
    if checked["score"].isna().all():
        raise InputError(
            f"checker {samples.named}: says nothing of any of the {samples.responses.rows} samples; choose a checker of these prompts"
        )
    rewards = samples.rewards.read([*_SAMPLE, "kind", "reward"]).to_pandas()
    preferences = samples.preferences.read(_PAIR).to_pandas() if samples.preferences is not None else None
    found = own_samples(checked, rewards, preferences)
    notes = [f"{language}: the checker says nothing of {count} samples" for language, count in found.unchecked.items()]
    notes += upside_down_notes(found)
    if preferences is not None and not any(row.is_controlled for row in found.ranked):
        notes.append("the pairs were selected by none of these rewards: there are no figures after length control")
    selected = pd.DataFrame([_selected_row(pairs) for pairs in found.selected])
    tables = {"own_samples": ranked_table(found), **({"selected_pairs": selected} if len(selected) else {})}
    return SampleFigures(own_sample_metrics(found), _accuracies(found), tables, notes)


def ranked_table(found: OwnSamples) -> pd.DataFrame:
    """A row for each language, kind of reward and of instruction, before and after length control; figures in percent."""
    rows = []
    for row in found.ranked:
        if row.accuracy.n:
            rows.append(
                {
                    "language": row.language,
                    "kind": row.kind,
                    "instruction_kind": row.instruction_kind,
                    "length_control": row.is_controlled,
                    **row.accuracy._asdict(),
                    **(
                        {f"auc{end}": value for end, value in zip(("", "_low", "_high"), row.auc, strict=False)}
                        if row.auc
                        else {}
                    ),
                }
            )
    return pd.DataFrame(rows)


def _accuracies(found: OwnSamples) -> list[dict[str, Any]]:
    """Of each reward after length control, if it is known, else before; length stands beside both."""
    controlled = {row.kind for row in found.ranked if row.is_controlled}
    return [
        {
            "language": row.language,
            "category": row.instruction_kind,
            "kind": row.kind,
            "source": OWN_SAMPLES
            if row.is_controlled or not controlled or row.kind == LENGTH
            else BEFORE_LENGTH_CONTROL,
            **row.accuracy._asdict(),
            "label_ties": 0,
            "decided_accuracy": row.accuracy.accuracy,
        }
        for row in found.ranked
        if row.accuracy.n
    ]


def _selected_row(pairs: Any) -> dict[str, Any]:
    counts = pairs._asdict()
    accuracy = counts.pop("accuracy")
    return {**counts, "accuracy": accuracy.accuracy, "low": accuracy.low, "high": accuracy.high}
