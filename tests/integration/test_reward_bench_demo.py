"""On the demo's world, whose grader is exact, the measured accuracy is what the grader says, and English preferences reach other languages."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from icr_platform.core.artifacts import open_artifact
from icr_platform.core.schemas import REWARD_BENCH
from icr_platform.core.stage_protocol import StageContext, StageResult
from icr_platform.demo.authors import draw_author, english_preferences, respond
from icr_platform.demo.bootstrap import SFT
from icr_platform.demo.grader import grade, grade_task
from icr_platform.demo.lexicon import LANGUAGES
from icr_platform.demo.world import split_tasks
from icr_platform.evaluation import reward_bench_stage
from icr_platform.evaluation.reward_bench_config import RewardBenchConfig
from icr_platform.models.loading import load_model, load_tokenizer
from icr_platform.training import stage as training
from icr_platform.training.config import TrainConfig

PAIRS_A_LANGUAGE = 60


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """pi_0 and pi_ref: the model that ships, after DPO on English pairs, and before."""
    folder = tmp_path_factory.mktemp("demo")
    reference = folder / "reference"
    load_model(str(SFT), "float32", "cpu").save_pretrained(reference)
    load_tokenizer(str(SFT)).save_pretrained(reference)
    rows = [
        {"prompt": pair.instruction, "chosen": pair.chosen, "rejected": pair.rejected}
        for pair in english_preferences(0, 320)
    ]
    (folder / "english.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    config = TrainConfig(
        policy=str(reference), preferences=str(folder / "english.jsonl"), device="cpu", dtype="float32",
        learning_rate=2e-4, batch_size=32, accumulation=1, gamma=0.0, warmup=0.0,
    )  # fmt: skip
    trained = training.run(training.read(config), StageContext(folder / "train", "demo"))
    return trained.artifacts["checkpoint"], reference


@pytest.fixture(scope="module")
def measured(models: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> StageResult:
    """Two responses by authors drawn at random to test tasks in every language, labelled by their grades."""
    rng, rows = random.Random("labelled pairs"), []
    for language in LANGUAGES:
        for _ in range(PAIRS_A_LANGUAGE):
            task = rng.choice(split_tasks("test"))
            way = rng.randrange(len(task.questions["en"]))
            texts = [respond(draw_author(rng), task, language, rng) for _ in range(2)]
            grades = [grade_task(task, language, text) for text in texts]
            if texts[0] == texts[1]:
                continue
            rows.append(
                {
                    "id": f"{task.id}.{way}", "language": language, "prompt": task.questions[language][way],
                    "english_instruction": task.questions["en"][way], "response_a": texts[0], "response_b": texts[1],
                    "score_a": grades[0], "score_b": grades[1],
                    "category": "far" if abs(grades[0] - grades[1]) >= 0.4 else "near",
                }
            )  # fmt: skip
    folder = tmp_path_factory.mktemp("pairs")
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
    config = RewardBenchConfig(
        policy=str(models[0]),
        reference=str(models[1]),
        pairs=str(folder / "pairs.jsonl"),
        device="cpu",
        dtype="float32",
    )
    return reward_bench_stage.run(reward_bench_stage.read(config), StageContext(folder / "out", "demo"))


def bench_rows(measured: StageResult) -> pd.DataFrame:
    return open_artifact(measured.artifacts["reward_bench"], REWARD_BENCH).read().to_pandas()


def test_labels_are_the_graders(measured: StageResult) -> None:
    """Every pair is there once, with the side that the grader prefers as chosen, and a tie where it has no preference."""
    given = (measured.artifacts["reward_bench"].parents[1] / "pairs.jsonl").read_text("utf-8").splitlines()
    expected = []
    for row in {line: json.loads(line) for line in given}.values():
        grades = [grade(row["id"], row["language"], row[name]) for name in ("response_a", "response_b")]
        lengths = [len(row[name]) for name in ("response_a", "response_b")]
        best = int(grades[1] > grades[0])
        expected.append((row["language"], lengths[best], lengths[1 - best], grades[0] == grades[1]))
    once = bench_rows(measured).query("kind == 'length'")
    found = once[["language", "chosen_characters", "rejected_characters", "is_tie"]].itertuples(index=False, name=None)
    assert sorted(found) == sorted(expected)
    assert 0 < once["is_tie"].mean() < 0.3


def test_the_reward_of_english_preferences_ranks_as_the_grader_does_in_every_language(measured: StageResult) -> None:
    table: Any = measured.tables["reward_accuracy"]
    over_all = table[table["category"] == ""].set_index(["kind", "language"])["decided_accuracy"]
    for kind in ("cross-lingual", "multilingual"):
        assert all(over_all[kind, language] > 62 for language in LANGUAGES), over_all[kind]
        assert over_all[kind, "mean_non_english"] > over_all["length", "mean_non_english"] + 8
        assert over_all[kind, "mean"] > 70
    assert measured.metrics["reward_accuracy_low/cross-lingual/mean_non_english"] > 60
    assert (
        measured.metrics["reward_accuracy_low/random/mean"] < 50 < measured.metrics["reward_accuracy_high/random/mean"]
    )
    assert 40 < over_all["length", "mean"] < 68  # authors write equally long, whatever their quality


def test_wide_differences_of_grades_are_easier(measured: StageResult) -> None:
    table: Any = measured.tables["reward_accuracy"]
    mean = table[(table["language"] == "mean") & (table["kind"] == "cross-lingual")].set_index("category")
    assert mean.loc["far", "decided_accuracy"] > mean.loc["near", "decided_accuracy"] + 10
    assert mean.loc["far", "low"] > 70
    curve: Any = measured.tables["reward_calibration"]
    curve = curve[(curve["kind"] == "cross-lingual") & (curve["language"] == "all")]
    assert curve["accuracy"].iloc[-1] > curve["accuracy"].iloc[0]
    rows = bench_rows(measured)
    decided = rows[(rows["kind"] == "cross-lingual") & ~rows["is_tie"]]
    assert np.average(curve["accuracy"], weights=curve["n"]) == pytest.approx(100 * decided["is_right"].mean())


def test_the_reward_beats_length_and_chance_beyond_doubt(measured: StageResult) -> None:
    table: Any = measured.tables["reward_comparison"]
    table = table[table["language"] == "all"].set_index(["first", "second"])
    assert table.loc[("cross-lingual", "length"), "p_holm"] < 0.001
    assert table.loc[("cross-lingual", "random"), "p_holm"] < 0.001
    assert table.loc[("cross-lingual", "length"), "low"] > 0
