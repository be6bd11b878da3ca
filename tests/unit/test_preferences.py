"""One aggregation by prompt under every figure: win rate, comparison, flips, head-to-head and the inspector agree."""

from __future__ import annotations

import math
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from icr_platform.core.artifacts import Artifact, ArtifactWriter
from icr_platform.core.schemas import JUDGMENTS
from icr_platform.evaluation.comparison import LanguageJudgments, flipped_prompts, win_rate_difference
from icr_platform.evaluation.comparison_tables import (
    change_metrics,
    difference_table,
    flip_table,
    head_to_head_table,
    judgments_by_language,
)
from icr_platform.evaluation.prompt_preferences import preferences_by_prompt
from icr_platform.evaluation.scores import Judged, LengthControl, Score, score_judgments
from ui.tables import prompt_changes, sources, value_tables
from ui.tables.queries import QueryEngine

ORDERS = {"both": ("model-first", "reference-first"), "one": ("none",)}


def evaluation(seed: int, prompts: int = 12, samples: int = 2, orders: str = "both") -> list[dict[str, object]]:
    """Judgments of the same outputs whatever the seed, which knocks out a fifth of them and shuffles the rows."""
    value, chance = np.random.default_rng(7), np.random.default_rng(seed)
    rows: list[dict[str, object]] = []
    for language in ("en", "es"):
        for prompt in range(prompts):
            for sample in range(samples):
                for order in ORDERS[orders]:
                    failed = chance.random() < 0.2
                    preference = round(value.random(), 3)
                    rows.append({
                        "language": language, "prompt_id": f"p{prompt}", "sample_index": sample, "order": order,
                        "preference": None if failed else preference, "mass": 0.9, "judge": "j", "input_tokens": 1,
                        "outcome": "api_error" if failed else "ok", "output_tokens": 1, "detail": "down" if failed else "",
                    })  # fmt: skip
    chance.shuffle(rows)
    return rows


def naive(rows: list[dict[str, object]]) -> dict[tuple[object, object], float]:
    """Preference by (language, prompt id), written out."""
    samples: dict[tuple[Any, ...], list[Any]] = defaultdict(list)
    for row in rows:
        samples[row["language"], row["prompt_id"], row["sample_index"]].append(row["preference"])
    prompts = defaultdict(list)
    for (language, prompt_id, _), values in samples.items():
        if None not in values:
            prompts[language, prompt_id].append(sum(values) / len(values))
    return {key: sum(values) / len(values) for key, values in prompts.items()}


def artifact_of(folder: Path, rows: list[dict[str, object]]) -> Artifact:
    writer = ArtifactWriter(folder, JUDGMENTS, "f")
    for part in range(3):
        writer.write_part(part, pa.Table.from_pylist(rows[part::3], schema=JUDGMENTS.schema))
    return writer.close(3)


def scores_of(rows: list[dict[str, object]]) -> dict[tuple[str, str], Score]:
    frame = pd.DataFrame(rows)
    keys = frame[["language", "prompt_id", "sample_index"]].drop_duplicates().reset_index(drop=True)
    tables = [Judged(frame, keys.assign(character_count=9, reference_characters=9))]
    return {(score.language, score.metric): score for score in score_judgments(tables, LengthControl())}


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(("samples", "orders"), [(1, "both"), (2, "both"), (3, "one")])
def test_every_figure_starts_from_the_same_prompts(tmp_path: Path, seed: int, samples: int, orders: str) -> None:
    runs = [evaluation(seed, samples=samples, orders=orders), evaluation(seed + 100, samples=samples, orders=orders)]
    truth = [naive(rows) for rows in runs]
    artifacts = [artifact_of(tmp_path / str(t), rows) for t, rows in enumerate(runs)]
    judged = [judgments_by_language(artifact) for artifact in artifacts]

    frame: Any = preferences_by_prompt(pd.DataFrame(runs[0]))
    found = {(row.language, row.prompt_id): row.preference for row in frame.itertuples()}
    assert {key for key, value in found.items() if not math.isnan(value)} == set(truth[0])
    assert {key: found[key] for key in truth[0]} == pytest.approx(truth[0])

    scores, direct = scores_of(runs[0]), head_to_head_table(judged[0]).set_index("language")
    differences = difference_table(*judged).set_index("language")
    engine = QueryEngine(memory_limit="100MB", threads=1)
    tables = [value_tables.judged_prompts(engine, artifact) for artifact in artifacts]
    comparison = prompt_changes.Comparison(tables[0], tables[1], engine.keep("nothing", sources.EMPTY), "judge")
    slices = {part.name: part for part in prompt_changes.slices(engine, comparison, "language")}
    for code in ("en", "es"):
        own = [value for (language, _), value in truth[0].items() if language == code]
        assert scores[code, "win_rate"].value == pytest.approx(100 * np.mean(own))
        assert scores[code, "win_rate"].n == len(own) == direct.loc[code, "n"]
        assert direct.loc[code, "win_rate"] == pytest.approx(100 * np.mean(own))
        both = [key for key in truth[0] if key in truth[1] and key[0] == code]
        change = 100 * np.mean([truth[1][key] - truth[0][key] for key in both])
        assert differences.loc[code, "n"] == slices[code].prompts == len(both)
        assert differences.loc[code, "difference"] == pytest.approx(change, abs=1e-9)
        assert slices[code].change == pytest.approx(change, abs=1e-9)


def test_the_same_outputs_judged_twice_with_other_failures_show_no_change(tmp_path: Path) -> None:
    before, after = (
        judgments_by_language(artifact_of(tmp_path / str(seed), evaluation(seed, prompts=40, samples=1)))
        for seed in (1, 2)
    )
    table, flips = difference_table(before, after), flip_table(before, after)
    assert table["difference"].abs().max() == 0
    assert (table["n_unpaired"] > 0).all(), "there is something to go wrong"
    assert flips.empty
    assert {value for name, value in change_metrics(table, flips).items() if name.startswith("regressions/")} == {0.0}
    assert flipped_prompts(before, after) == ()


def test_position_bias_is_measured_on_samples_judged_in_both_orders() -> None:
    rows = [row for row in evaluation(3, samples=1) if row["language"] == "en"]
    whole = {row["prompt_id"] for row in rows} - {row["prompt_id"] for row in rows if row["preference"] is None}
    kept = [row for row in rows if row["prompt_id"] in whole]
    first, second = (np.mean([row["preference"] for row in kept if row["order"] == order]) for order in ORDERS["both"])
    bias = scores_of(rows)["all", "judge/position_bias"]
    assert bias.value == pytest.approx(100 * (first - second))
    assert bias.n == len(kept) == 2 * len(whole)


def test_lengths_are_those_of_the_samples_whose_preference_counts() -> None:
    frame = pd.DataFrame(
        [
            {"language": "en", "prompt_id": "a", "sample_index": sample, "order": order, "preference": value, "length": length}
            for sample, length, values in ((0, 10, (1.0, 0.5)), (1, 900, (1.0, None)))
            for order, value in zip(ORDERS["both"], values, strict=True)
        ]
    )  # fmt: skip
    [row] = preferences_by_prompt(frame, ["length"]).to_dict("records")
    assert (row["preference"], row["length"]) == (0.75, 10.0)


def test_judgments_given_from_python_follow_the_same_rule() -> None:
    half = LanguageJudgments(["a", "a", "b"], [1.0, math.nan, 0.2])
    whole = LanguageJudgments(["a", "b"], [0.5, 0.2])
    assert win_rate_difference(half, whole).n == 1
    by_sample = LanguageJudgments(["a", "a", "b"], [1.0, math.nan, 0.2], sample_index=[0, 1, 0])
    assert win_rate_difference(by_sample, whole).n == 2
    nothing = LanguageJudgments([], [])
    assert win_rate_difference(nothing, whole).n == 0


def test_empty_reference_outputs_have_no_length_ratio() -> None:
    keys = pd.DataFrame({"language": "en", "prompt_id": ["a", "b"], "sample_index": 0})
    judgments = keys.assign(
        order="model-first", preference=[0.2, 0.9], mass=None, outcome="ok", input_tokens=1, output_tokens=1
    )
    lengths = keys.assign(character_count=[3, 4], reference_characters=0)
    scores = score_judgments([Judged(judgments, lengths)], LengthControl())
    ratio = next(score for score in scores if score.metric == "length/ratio")
    assert (ratio.value, ratio.flag) == (None, "every reference output is empty")
