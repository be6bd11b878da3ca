"""Scores: averaged per prompt first, failures counted, the mean's standard error clustered by prompt."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from icr_platform.evaluation.prompt_preferences import preferences_by_prompt
from icr_platform.evaluation.scores import (
    Judged,
    LengthControl,
    Score,
    score_judgments,
    score_metrics,
    scores_table,
    with_means,
)


def judged(preferences: dict[tuple[str, str, int, str], float | None]) -> pd.DataFrame:
    return pd.DataFrame(
        [
            {"language": language, "prompt_id": prompt_id, "sample_index": sample, "order": order,
             "preference": math.nan if value is None else value, "mass": 0.9,
             "outcome": "ok" if value is not None else "api_error", "input_tokens": 10, "output_tokens": 1}
            for (language, prompt_id, sample, order), value in preferences.items()
        ]
    )  # fmt: skip


def tables_of(frame: pd.DataFrame) -> list[Judged]:
    keys = frame[["language", "prompt_id", "sample_index"]].drop_duplicates().reset_index(drop=True)
    rng = np.random.default_rng(0)
    lengths = keys.assign(character_count=rng.integers(50, 400, len(keys)))
    return [Judged(frame, lengths.assign(reference_characters=rng.integers(50, 400, len(keys))))]


def scored(frame: pd.DataFrame) -> dict[str, float]:
    return score_metrics(with_means(score_judgments(tables_of(frame), LengthControl())))


def test_one_failed_order_drops_the_sample_but_not_the_prompt() -> None:
    frame = judged(
        {
            ("es", "a", 0, "model-first"): 0.2, ("es", "a", 0, "reference-first"): 0.6,
            ("es", "a", 1, "model-first"): 1.0, ("es", "a", 1, "reference-first"): None,
            ("es", "b", 0, "model-first"): None, ("es", "b", 0, "reference-first"): 0.1,
        }
    )  # fmt: skip
    found = preferences_by_prompt(frame).set_index("prompt_id")["preference"]
    assert found["a"] == pytest.approx(0.4)
    assert math.isnan(found["b"])
    metrics = scored(frame)
    assert metrics["win_rate/es"] == pytest.approx(40.0)
    assert metrics["win_rate_n/es"] == 1
    assert metrics["judge/failure_rate"] == pytest.approx(100 * 2 / 6)


def test_more_samples_of_the_same_prompts_do_not_shrink_the_standard_error() -> None:
    rng = np.random.default_rng(1)
    value = {f"p{i}": float(rng.random()) for i in range(40)}
    once = scored(judged({("es", p, 0, "none"): v for p, v in value.items()}))
    often = scored(judged({("es", p, s, "none"): v for p, v in value.items() for s in range(5)}))
    assert often["win_rate_se/es"] == pytest.approx(once["win_rate_se/es"])
    assert often["win_rate_n/es"] == 40


def test_the_standard_error_of_the_mean_knows_that_languages_share_prompts() -> None:
    rng = np.random.default_rng(2)
    value = {f"p{i}": float(rng.random()) for i in range(200)}
    same = scored(judged({(code, p, 0, "none"): v for p, v in value.items() for code in ("en", "es", "de", "fr")}))
    assert same["win_rate_se/mean"] == pytest.approx(same["win_rate_se/es"])
    free = scored(
        judged(
            {(code, f"p{i}", 0, "none"): float(rng.random()) for i in range(200) for code in ("en", "es", "de", "fr")}
        )
    )
    assert free["win_rate_se/mean"] == pytest.approx(free["win_rate_se/es"] / 2, rel=0.2)
    assert free["win_rate/mean_non_english"] == pytest.approx(
        np.mean([free[f"win_rate/{code}"] for code in ("es", "de", "fr")])
    )


def test_a_flag_says_that_length_control_had_no_difficulty() -> None:
    rng = np.random.default_rng(3)
    frame = judged({("es", f"p{i}", 0, "none"): float(rng.random()) for i in range(60)})
    scores = score_judgments(tables_of(frame), LengthControl())
    controlled = next(score for score in scores if score.metric == "lc_win_rate")
    assert "minimal" in controlled.flag
    full = score_judgments(tables_of(frame), LengthControl({("es", f"p{i}"): float(i % 7) for i in range(60)}))
    assert "full" in next(score for score in full if score.metric == "lc_win_rate").flag
    assert [Score(**row) for row in scores_table(scores).to_pylist()] == scores


def test_languages_come_in_one_table_or_in_one_each() -> None:
    rng = np.random.default_rng(4)
    keys = [
        (code, f"p{i}", 0, order)
        for code in ("es", "en")
        for i in range(9)
        for order in ("model-first", "reference-first")
    ]
    (whole,) = tables_of(judged({key: None if rng.random() < 0.2 else float(rng.random()) for key in keys}))
    each = [Judged(*(table[table["language"] == code] for table in whole)) for code in ("es", "en")]
    assert score_judgments(iter(each), LengthControl()) == score_judgments([whole], LengthControl())


def test_no_judgment_at_all_gives_no_win_rate_and_a_failure_rate() -> None:
    metrics = scored(judged({("es", "a", 0, "none"): None}))
    assert metrics["judge/failure_rate"] == 100.0
    assert "win_rate/es" not in metrics


def test_the_controlled_means_error_goes_with_prompts_not_with_judgments() -> None:
    rng = np.random.default_rng(1)
    same = rng.beta(0.5, 0.5, 120)
    keys = [(code, f"p{i}", 0, order) for code in ("es", "de", "fr") for i in range(120) for order in ("a", "b")]
    copies = scored(judged({key: float(same[int(key[1][1:])]) for key in keys}))
    assert copies["lc_win_rate_se/mean"] == pytest.approx(copies["lc_win_rate_se/es"], rel=0.15)
    apart = scored(judged({key: float(rng.beta(0.5, 0.5)) for key in keys}))
    assert apart["lc_win_rate_se/mean"] == pytest.approx(apart["lc_win_rate_se/es"] / math.sqrt(3), rel=0.2)
    assert copies["lc_win_rate/mean"] == pytest.approx(
        np.mean([copies[f"lc_win_rate/{c}"] for c in ("es", "de", "fr")])
    )
