"""The figures of a finished annotation: metrics by name, and one table row per language."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa

from icr_platform.annotation.config import AnnotateSettings
from icr_platform.annotation.diagnostics import (
    chosen_longer,
    length_correlation,
    length_difference,
    reward_agreement,
    with_language_means,
)
from icr_platform.annotation.filters import SAMPLE_REASONS
from icr_platform.annotation.length_control import length_controlled
from icr_platform.annotation.pairs import DROP_REASONS, FEW_SAMPLES, PairSelection
from icr_platform.annotation.selection import NEAR_DUPLICATE, POOLED, LanguagePairs, LanguageSamples
from icr_platform.core.arrays import Integers
from icr_platform.core.faults import FAULTS
from icr_platform.engines.sampling.translation import FAILURES, OK

PROMPT_REASONS = (*DROP_REASONS, NEAR_DUPLICATE)
PAIR_COLUMNS = (
    "language", "margin", "chosen_language", "rejected_language", "chosen_characters", "rejected_characters",
)  # fmt: skip
DROP_COLUMNS = ("language", "sample_index", "reason", "pair_index")
# Quantiles, not mean and spread: margins have long tails, and one garbled pair would move a mean.
_QUANTILES = {"q10": 0.1, "median": 0.5, "q90": 0.9}


class Written(NamedTuple):
    """Narrow columns of the finished artifacts.

    preferences: PAIR_COLUMNS. drops: DROP_COLUMNS. translations: language, outcome; None without.
    """

    preferences: pa.Table
    drops: pa.Table
    translations: pa.Table | None


def language_figures(
    languages: Sequence[LanguageSamples],
    selected: Sequence[LanguagePairs],
    written: Written,
    settings: AnnotateSettings,
) -> dict[str, float]:
    """Metrics of each language as `NAME/LANG`; names and units are those of `stage`. What is not defined is NaN.

    written: what was written of these languages.
    """
    preferences, drops = written.preferences.to_pandas(), written.drops.to_pandas()
    metrics: dict[str, float] = {}
    for samples, pairs in zip(languages, selected, strict=True):
        # Of the samples that pairs were chosen among: what length control did to the reward that makes the pairs.
        reward = np.where(pairs.reason == 0, samples.rewards[settings.reward_kind[0]], np.nan)
        characters = samples.characters.astype(np.float64)
        controlled = length_controlled(reward, characters, pairs.alpha)
        figures: dict[str, float] = {
            "alpha": pairs.alpha,
            "length_correlation/before": length_correlation(reward, characters),
            "length_correlation/after": length_correlation(controlled, characters),
        }
        for one, other in combinations(settings.reward_kind, 2):
            figures[f"reward_agreement/{one}-{other}"] = reward_agreement(samples.rewards[one], samples.rewards[other])

        made = preferences[preferences["language"] == samples.language]
        margins = made["margin"]
        figures["pairs"] = len(margins)
        for name, quantile in _QUANTILES.items():
            figures[f"margin/{name}"] = float(margins.quantile(quantile)) if len(margins) else float("nan")

        lengths = {"after": (made["chosen_characters"], made["rejected_characters"])}
        if settings.pool != "all":  # whose pairs are of several languages
            lengths["before"] = _lengths(pairs.uncontrolled, samples)
        for when, sides in lengths.items():
            figures[f"chosen_longer/{when}"] = chosen_longer(*sides)
            figures[f"length_difference/{when}"] = length_difference(*sides)

        dropped = drops[drops["language"] == samples.language]
        is_sample, is_pair = dropped["sample_index"].notna(), dropped["pair_index"].notna()
        by_prompt, by_sample, by_pair = (
            Counter(dropped.loc[rows, "reason"]) for rows in (~is_sample & ~is_pair, is_sample, is_pair)
        )
        in_pool, several = settings.pool == "all", settings.pairs_per_prompt > 1
        of_prompts = (*PROMPT_REASONS, POOLED) if in_pool else PROMPT_REASONS
        figures |= {f"dropped_prompts/{name}": by_prompt[name] / len(samples.prompt_ids) for name in of_prompts}
        if several and (asked := len(made) + by_pair.total()):
            figures |= {f"dropped_pairs/{name}": by_pair[name] / asked for name in (*PROMPT_REASONS, FEW_SAMPLES)}
        if in_pool and len(made):
            # The row has the language of its prompt, which is that of one side at least: what the other has is not null.
            figures["mixed_pairs"] = float(made[["chosen_language", "rejected_language"]].notna().any(axis=1).mean())
        figures |= {
            f"dropped_samples/{name}": by_sample[name] / samples.samples
            for name in SAMPLE_REASONS
            if name not in FAULTS or by_sample[name]
        }

        if written.translations is not None:
            outcome = written.translations.to_pandas().query("language == @samples.language")["outcome"]
            failed, sent = outcome.isin(FAILURES).sum(), outcome.isin([OK, *FAILURES]).sum()
            figures["translation_failures"] = float(failed / sent) if sent else float("nan")
        metrics |= {f"{name}/{samples.language}": float(value) for name, value in figures.items()}
    return metrics


def annotation_metrics(figures: Mapping[str, float], languages: Sequence[str]) -> dict[str, float]:
    """`language_figures` of all languages that are defined, and their means over languages."""
    found = with_language_means(figures, list(languages))
    # Dozens of reasons times languages: those for which nothing was dropped would bury the others.
    return {name: value for name, value in found.items() if value or not name.startswith("dropped_")}


def _lengths(selection: PairSelection, samples: LanguageSamples) -> tuple[Integers, Integers]:
    """Characters of the chosen and of the rejected response of each pair that is kept."""
    kept = np.flatnonzero(selection.kept)
    rows = kept // selection.pairs_per_prompt
    chosen, rejected = (
        samples.characters[rows, columns[kept]] for columns in (selection.chosen_index, selection.rejected_index)
    )
    return chosen, rejected


def summary_table(metrics: Mapping[str, float], languages: Sequence[str]) -> pd.DataFrame:
    """One row per language: pairs, alpha, margins, length correlations, shares of prompts and samples dropped."""
    columns = ("pairs", "alpha", "margin/median", "length_correlation/before", "length_correlation/after")
    rows = []
    for language in languages:
        row: dict[str, object] = {"language": language}
        row |= {name: metrics.get(f"{name}/{language}") for name in columns}
        for kind in ("dropped_prompts", "dropped_samples"):
            shares = [
                value
                for name, value in metrics.items()
                if name.startswith(f"{kind}/") and name.endswith(f"/{language}")
            ]
            row[kind] = sum(shares)
        rows.append(row)
    return pd.DataFrame(rows)
