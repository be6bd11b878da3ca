"""What one iteration changed against the one before: differences per language, the prompts whose verdict flipped, and the
two judged directly against each other."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict

import pandas as pd

from icr_platform.core.artifacts import Artifact
from icr_platform.evaluation.comparison import (
    LanguageJudgments,
    compare_languages,
    flipped_prompts,
    head_to_head,
    holm,
    judged_preferences,
)

COLUMNS = ["language", "prompt_id", "sample_index", "preference"]


def judgments_by_language(artifact: Artifact) -> dict[str, LanguageJudgments]:
    """Judgments of an artifact by language; a prompt's samples and orders are one cluster."""
    rows = artifact.read(COLUMNS).to_pandas()
    return {
        str(language): LanguageJudgments(
            group["prompt_id"].tolist(),
            group["preference"].to_numpy(dtype=float),
            sample_index=group["sample_index"].tolist(),
        )
        for language, group in rows.groupby("language", sort=False)
    }


def difference_table(before: Mapping[str, LanguageJudgments], after: Mapping[str, LanguageJudgments]) -> pd.DataFrame:
    """A row per language: win rates in percent, difference in points with its 95% interval, p and Holm's p, n."""
    rows = [
        {"language": item.language, **asdict(item.difference), "adjusted_p_value": item.adjusted_p_value}
        for item in compare_languages(before, after)
    ]
    return pd.DataFrame(rows)


def head_to_head_table(judgments: Mapping[str, LanguageJudgments]) -> pd.DataFrame:
    """A row per language of one policy judged directly against another: win rate in percent with its 95% interval, p of no
    difference (a win rate of 50) and Holm's p, and n prompts that were used."""
    found = {language: head_to_head(rows) for language, rows in judgments.items()}
    frame = pd.DataFrame([interval._asdict() for interval in found.values()], index=list(found))
    frame["adjusted_p_value"] = holm(frame["p_value"])
    frame["n"] = [len(judged_preferences(rows)) for rows in judgments.values()]
    return frame.rename(columns={"mean": "win_rate"}).rename_axis("language").reset_index()


def flip_table(before: Mapping[str, LanguageJudgments], after: Mapping[str, LanguageJudgments]) -> pd.DataFrame:
    """A row per prompt whose verdict changed, the greatest losses first."""
    columns = ["language", "prompt_id", "kind", "before_verdict", "after_verdict", "before", "after"]
    return pd.DataFrame([asdict(flip) for flip in flipped_prompts(before, after)], columns=columns)


def change_metrics(differences: pd.DataFrame, flips: pd.DataFrame) -> dict[str, float]:
    """`win_rate_change/LANG` in points over the `win_rate_change_n/LANG` prompts that both have, `win_rate_change_p/LANG` (Holm), and counts
    of `regressions/LANG`."""
    metrics: dict[str, float] = {}
    for row in differences.to_dict("records"):
        language, p_value = row["language"], float(row["adjusted_p_value"])
        metrics[f"win_rate_change/{language}"] = float(row["difference"])
        metrics[f"win_rate_change_n/{language}"] = float(row["n"])
        if not math.isnan(p_value):  # where nothing varies there is none, and MLflow's charts cannot show NaN
            metrics[f"win_rate_change_p/{language}"] = p_value
        lost = (flips["language"] == language) & (flips["kind"] == "regression")
        metrics[f"regressions/{language}"] = float(lost.sum())
    return metrics
