"""What one policy gained over another on the same prompts: one paired difference over all languages but English, with its interval.

The method starts from English preferences and is meant to reach other languages, so these decide. Languages weigh the same, and a
prompt that is asked in several of them is one observation.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import pandas as pd

from icr_platform.core.artifacts import Artifact
from icr_platform.core.language_tags import is_english
from icr_platform.evaluation.comparison import MeanInterval, bootstrap_mean
from icr_platform.evaluation.instruction_scores import outputs_followed, shared_checks
from icr_platform.evaluation.prompt_preferences import preferences_by_prompt

Measure = Literal["win rate", "prompt accuracy", "reward accuracy"]
_ITEM = ["language", "item"]


def paired_scores(measure: Measure, before: Artifact, after: Artifact, kind: str = "") -> pd.DataFrame:
    """A row per (language, item) that has a score on both sides: `prompt`, the same in every language, `before` and `after` in [0, 1].

    before, after: judgments for the win rate, instruction_checks for the accuracy of prompts, reward_bench for that of the reward.
    kind: of the reward, where its accuracy is measured.
    """
    if measure == "prompt accuracy":
        checks = shared_checks(before.read().to_pandas(), after.read().to_pandas())
        sides = [_followed(side) for side in checks]
    elif measure == "win rate":
        sides = [_preferred(side) for side in (before, after)]
    else:
        sides = [_ranked(side, kind) for side in (before, after)]
    first, second = (side.dropna(subset=["score"]) for side in sides)
    paired = first.merge(second[[*_ITEM, "score"]], on=_ITEM, suffixes=("_before", "_after"))
    return paired.rename(columns={"score_before": "before", "score_after": "after"})


def _preferred(judgments: Artifact) -> pd.DataFrame:
    rows = judgments.read(["language", "prompt_id", "sample_index", "preference"]).to_pandas()
    found = preferences_by_prompt(rows).rename(columns={"preference": "score", "prompt_id": "item"})
    return found.assign(prompt=found["item"])


def _followed(checks: pd.DataFrame) -> pd.DataFrame:
    """Share of each prompt's outputs that follow all its instructions to the letter; sources of one prompt end its id, `ID@SOURCE`."""
    keys = ["language", "prompt_id", "source"]
    found = outputs_followed(checks).groupby(keys, sort=False)["strict"].mean().reset_index()
    named = zip(found["prompt_id"], found["source"], strict=True)
    prompts = [prompt_id.removesuffix(f"@{source}") for prompt_id, source in named]
    return found.rename(columns={"strict": "score", "prompt_id": "item"}).assign(prompt=prompts)


def _ranked(pairs: Artifact, kind: str) -> pd.DataFrame:
    rows = pairs.read(["language", "pair_id", "prompt_id", "source", "kind", "is_right"]).to_pandas()
    of_kind: pd.DataFrame = rows[(rows["kind"] == kind) & (rows["source"] == "pairs")]
    return of_kind.rename(columns={"pair_id": "item", "prompt_id": "prompt", "is_right": "score"})


def mean_gain(scores: pd.DataFrame) -> MeanInterval:
    """After minus before in points, the unweighted mean over the languages that are not English (over English, where no other was asked).

    scores: columns language, prompt, before, after, as of `paired_scores`. The interval is the studentised bootstrap of `bootstrap_mean`
    over prompts; NaN for nothing to compare, and its ends are NaN for a single prompt, or where all changes are the same but not 0.

    >>> one = ("es", "a", 0.0, 1.0), ("es", "b", 0.0, 0.0), ("de", "a", 0.5, 1.0), ("en", "a", 1.0, 0.0)
    >>> mean_gain(pd.DataFrame(one, columns=["language", "prompt", "before", "after"])).mean
    50.0
    """
    others = scores[[not is_english(language) for language in scores["language"]]]
    rows = others if len(others) else scores
    if rows.empty:
        return MeanInterval(*[np.nan] * 5)
    change = 100.0 * (rows["after"] - rows["before"])
    of_language = change.groupby(rows["language"])
    means = of_language.mean()
    weight = 1.0 / (len(means) * of_language.transform("size"))
    # What each prompt adds to the deviation of the mean; translations of a prompt move together.
    added = (weight * (change - of_language.transform("mean"))).groupby(rows["prompt"]).sum().to_numpy()
    if np.abs(added).max() < 1e-9:  # rounding, where nothing varies
        added = np.zeros(len(added))
    return bootstrap_mean(means.mean() + len(added) * added, limits=(-100.0, 100.0))
