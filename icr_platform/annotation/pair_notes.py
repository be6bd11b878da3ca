"""What people are told of pairs: what their settings cannot give, and why there are none or few."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import pandas as pd
import pyarrow as pa

from icr_platform.annotation.config import AnnotateSettings
from icr_platform.annotation.pairs import NO_SURVIVOR, ONE_SURVIVOR
from icr_platform.annotation.selection import POOLED, LanguageSamples
from icr_platform.annotation.summary import Written
from icr_platform.core.artifacts import Artifact
from icr_platform.core.errors import InputError


def check_pair_settings(settings: AnnotateSettings) -> None:
    """Raise InputError for settings of pairs that contradict each other."""
    if settings.pool == "language" and settings.pool_prompt != "chosen":
        raise InputError(
            f"config: field 'pool_prompt' is {settings.pool_prompt!r}, but 'pool' is 'language', where both responses of a pair answer one "
            "prompt; set pool: all, or leave pool_prompt out"
        )


def samples_by_prompt(responses: Artifact) -> dict[str, Counter[str]]:
    """How many samples a prompt id has in each language, by language."""
    counts: dict[str, Counter[str]] = {}
    for part in range(len(responses.parts)):
        rows = responses.read_part(part, ["language", "prompt_id"])
        for language, prompt_id in zip(rows["language"].to_pylist(), rows["prompt_id"].to_pylist(), strict=True):
            counts.setdefault(language, Counter())[prompt_id] += 1
    return counts


def impossible_pairs(settings: AnnotateSettings, samples: dict[str, Counter[str]]) -> list[str]:
    """A line for each setting of pairs that these samples cannot give in full, filters aside. samples: see `samples_by_prompt`."""
    notes = []
    groups: Iterable[Counter[str]] = samples.values()
    if settings.pool == "all" and samples:
        pool = sum(samples.values(), Counter[str]())
        groups = [pool]
        if len(samples) == 1:
            notes.append(
                f"pool is 'all', but all responses are in {next(iter(samples))}: pairs are those of pool 'language'"
            )
        partly = sum(any(prompt_id not in own for own in samples.values()) for prompt_id in pool)
        if partly:
            notes.append(
                f"pool: {partly:,} of {len(pool):,} prompt ids are not in every language, and are pooled over those that they have"
            )
    most = max((max(own.values()) for own in groups if own), default=0)
    if settings.pairs_per_prompt > 1 and settings.pairs_per_prompt > most // 2:
        notes.append(
            f"pairs_per_prompt is {settings.pairs_per_prompt}, but a prompt has {most} samples at most, which make {most // 2} pairs, for "
            "none is in two; the others are dropped as few-samples"
        )
    return notes


def pair_notes(languages: Sequence[LanguageSamples], written: Written, settings: AnnotateSettings) -> list[str]:
    """Lines on each language that has no pair, or fewer than its prompts were to give."""
    notes = []
    pairs = written.preferences["language"].to_pandas().value_counts()
    drops = written.drops.to_pandas()
    for samples in languages:
        own = drops[drops["language"] == samples.language]
        further = Counter(own.loc[own["pair_index"].notna(), "reason"])
        if not pairs.get(samples.language, 0):
            if (own["reason"] == POOLED).any():
                notes.append(f"{samples.language}: the pairs of its prompts are all in other languages of the pool")
                continue
            notes.append(f"{samples.language}: no prompt gave a pair; the table of drops says why")
            # Where no two samples were left, the filters of samples are the reason, and have figures of their own.
            if not own.loc[own["sample_index"].isna(), "reason"].isin([NO_SURVIVOR, ONE_SURVIVOR]).all():
                notes.append(f"{samples.language}: {_dropped(own, settings)}")
        elif further:
            notes.append(
                f"{samples.language}: {pairs[samples.language]:,} pairs, {further.total():,} fewer than {settings.pairs_per_prompt} of each "
                f"prompt that gives any ({_listed(further)})"
            )
    return notes


def why_no_pair(drops: pa.Table, settings: AnnotateSettings) -> str:
    """One line on what dropped every prompt, of all languages."""
    return _dropped(drops.to_pandas(), settings)


def _dropped(drops: pd.DataFrame, settings: AnnotateSettings) -> str:
    is_sample = drops["sample_index"].notna()
    prompts, samples = (Counter(drops.loc[rows, "reason"]) for rows in (~is_sample, is_sample))
    asked = [f"rejected {settings.rejected}", f"pool {settings.pool}", f"minimal_margin {settings.minimal_margin:g}"]
    limits = [
        f"{name} {value:g}"
        for name, value in (("upper_bound", settings.upper_bound), ("near_duplicate", settings.near_duplicate))
        if value is not None and value != float("inf")
    ]
    left = f"; of their samples were dropped before: {_listed(samples)}" if samples else ""
    return f"no pair of {prompts.total():,} prompts by {', '.join([*asked, *limits])}: {_listed(prompts)}{left}"


def _listed(reasons: Counter[str]) -> str:
    """
    >>> _listed(Counter({"margin": 1200, "nan": 3}))
    '1,200 margin, 3 nan'
    """
    return ", ".join(f"{count:,} {reason}" for reason, count in reasons.most_common())
