"""`reward_bench` on corrupted outputs, with tiny models, and on a policy's own samples, with none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest

from icr_platform.cli.worlds import WORLDS
from icr_platform.core.artifacts import ArtifactWriter, open_artifact
from icr_platform.core.errors import InputError
from icr_platform.core.schemas import DROPS, PREFERENCES, RESPONSES, REWARD_BENCH, REWARDS, TableSchema
from icr_platform.core.stage_protocol import StageContext, StageResult
from icr_platform.demo import CHECKER
from icr_platform.evaluation import reward_bench_stage as stage
from icr_platform.evaluation.corruptions import CORRUPTIONS
from icr_platform.evaluation.reward_bench_config import RewardBenchConfig

OUTPUTS = {
    "en": ["It was built in 1889 for the world fair. Many wanted to take it down.", "Cats sleep for most of the day. They purr."],
    "es": ["Se construyó en 1889 para la feria mundial. Muchos querían quitarla.", "Los gatos duermen mucho. Ronronean."],
}  # fmt: skip
ASKED = {"en": ["Name a fruit, without commas.", "Name two."], "es": ["Di una fruta, sin comas.", "Di dos."]}


def run(config: RewardBenchConfig, folder: Path) -> StageResult:
    return stage.run(stage.read(config), StageContext(folder, "test"))


def write_json(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")


def write_table(folder: Path, table: TableSchema, rows: list[dict[str, Any]]) -> str:
    """An artifact; columns that rows do not name are null, or empty."""
    empty = {pa.string(): "", pa.int32(): 0, pa.float64(): 0.0}
    given = [
        {f.name: None if f.nullable else [] if pa.types.is_list(f.type) else empty[f.type] for f in table.schema} | row
        for row in rows
    ]
    writer = ArtifactWriter(folder / table.name, table, "test")
    writer.write_part(0, pa.Table.from_pylist(given, schema=table.schema))
    writer.close(1)
    return str(folder / table.name)


def test_corruptions_are_pairs_like_others(tiny_models: tuple[Path, Path], tmp_path: Path) -> None:
    for language, texts in OUTPUTS.items():
        rows = [{"id": str(i), "instruction": ASKED[language][i], "output": text} for i, text in enumerate(texts)]
        write_json(tmp_path / "outputs" / f"{language}.json", rows)
    policy, reference = map(str, tiny_models)
    config = RewardBenchConfig(
        policy=policy, reference=reference, corrupt=str(tmp_path / "outputs"), reward_kind=("cross-lingual",)
    )
    result = run(config, tmp_path / "out")
    rows = open_artifact(result.artifacts["reward_bench"], REWARD_BENCH).read().to_pandas()
    drops = open_artifact(result.artifacts["reward_bench_drops"], DROPS).read().to_pandas()
    assert set(rows["source"]) == {"corruptions"}
    assert set(rows["category"]) == set(CORRUPTIONS)
    assert len(rows) / 2 + len(drops) == 4 * len(CORRUPTIONS), "twice: the reward and length"
    assert set(drops["reason"]) == {"no-number"}
    assert result.metrics["corruption_accuracy/cut/length/mean"] == 100.0
    assert result.metrics["corruption_accuracy/looped/length/mean"] == 0.0
    assert result.metrics["corruption_accuracy/shuffled/length/es"] == 50.0
    assert {f"corruption_accuracy/{name}/cross-lingual/es" for name in CORRUPTIONS} <= set(result.metrics)
    assert not [name for name in result.metrics if name.startswith("reward_accuracy/")]


@pytest.fixture
def samples(tmp_path: Path) -> dict[str, str]:
    """Two samples a prompt, of which one has a comma; the reward likes the comma in Spanish. Of the other prompts nothing can be checked."""
    checked = {"instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]}
    for language, (first, second) in ASKED.items():
        rows = [{"key": key, "prompt": first, **checked} for key in range(1, 9)]
        plain = {"key": 9, "prompt": second, "instruction_id_list": [], "kwargs": []}
        write_json(tmp_path / "prompts" / f"{language}.json", [*rows, plain])
    keys = [(language, str(key), index) for language in ASKED for key in range(1, 10) for index in range(2)]
    named: list[dict[str, Any]] = [
        dict(zip(("language", "prompt_id", "sample_index"), key, strict=True)) for key in keys
    ]
    sampled = [key | {"response": ("A pear.", "Yes, a pear.")[key["sample_index"]]} for key in named]
    scored = [
        key | {"kind": "cross-lingual", "reward": float(key["sample_index"] == (key["language"] == "es"))}
        for key in named
    ]
    selected = [
        {"language": language, "prompt_id": str(key), "chosen_index": int(language == "es"),
         "rejected_index": int(language == "en"), "chosen_reward": 1.0, "length_penalty_alpha": 0.0}
        for language in ASKED for key in range(1, 10)
    ]  # fmt: skip
    return {
        "prompts": str(tmp_path / "prompts"),
        "responses": write_table(tmp_path, RESPONSES, sampled),
        "rewards": write_table(tmp_path, REWARDS, scored),
        "preferences": write_table(tmp_path, PREFERENCES, selected),
    }


def test_own_samples_need_no_model(samples: dict[str, str], tmp_path: Path) -> None:
    result = run(RewardBenchConfig(checker="instructions", **samples), tmp_path / "out")
    expected = {
        "own_reward_accuracy/cross-lingual/en": 100.0,
        "own_reward_accuracy/cross-lingual/es": 0.0,
        "own_reward_auc/cross-lingual/mean": 50.0,
        "own_reward_auc_raw/cross-lingual/es": 0.0,
        "own_reward_accuracy/length/es": 0.0,
        "selected_right/en": 100.0,
        "selected_wrong/es": 100.0,
        "selected_accuracy/es": 0.0,
    }
    assert {name: result.metrics[name] for name in expected} == expected
    said = "\n".join(result.notes)
    assert "es: the checker says nothing of 2 samples" in said
    assert "es: cross-lingual ranks the samples upside down" in said
    folder = result.artifacts["reward_bench"]
    table = pd.read_csv(folder / "accuracy.csv", keep_default_na=False)
    assert set(table["source"]) == {"samples", "samples before length control"}
    assert set(table["category"]) == {"", "punctuation:no_comma"}
    assert set(result.tables) == {"reward_accuracy", "own_samples", "selected_pairs"}
    assert len(pd.read_csv(folder / "selected_pairs.csv")) == 2


def test_without_pairs_there_are_figures_before_length_control_only(samples: dict[str, str], tmp_path: Path) -> None:
    del samples["preferences"]
    result = run(RewardBenchConfig(checker="instructions", **samples), tmp_path / "out")
    assert "own_reward_auc_raw/cross-lingual/es" in result.metrics
    assert "own_reward_auc/cross-lingual/es" not in result.metrics
    assert set(pd.read_csv(result.artifacts["reward_bench"] / "accuracy.csv")["source"]) == {"samples"}


@pytest.mark.parametrize(
    ("without", "message"),
    [
        ("checker", "field 'checker' is missing to measure a reward on a policy's own samples; give --checker beside responses"),
        ("responses", "field 'responses' is missing"),
        ("rewards", "field 'rewards' is missing"),
        ("prompts", "field 'prompts' is missing"),
    ],
)  # fmt: skip
def test_what_own_samples_lack_is_named(samples: dict[str, str], without: str, message: str) -> None:
    given = {"checker": "instructions", **samples} | {without: ""}
    with pytest.raises(InputError, match=message):
        stage.read(RewardBenchConfig(**given))


def test_inputs_that_do_not_belong_together_are_refused(samples: dict[str, str], tmp_path: Path) -> None:
    write_json(tmp_path / "plain" / "en.json", [{"id": "1", "instruction": "Name a fruit."}])
    write_json(tmp_path / "plain" / "es.json", [{"id": "1", "instruction": "Di una fruta."}])
    with pytest.raises(InputError, match=r"16 of 18 prompts that were answered are missing, the first is '2' in 'en'"):
        stage.read(RewardBenchConfig(checker="instructions", **samples | {"prompts": str(tmp_path / "plain")}))
    rows = [{"language": "fr", "prompt_id": "1", "sample_index": 0, "kind": "multilingual"}]
    others = write_table(tmp_path / "other", REWARDS, rows)
    with pytest.raises(InputError, match="contains no reward of the samples in"):
        stage.read(RewardBenchConfig(checker="instructions", **samples | {"rewards": others}))
    with pytest.raises(InputError, match="prompt '1' is not of the demo world"):
        run(RewardBenchConfig(checker=CHECKER, **samples), tmp_path / "demo")
    with pytest.raises(InputError, match="there is no module 'nowhere'"):
        stage.read(RewardBenchConfig(checker="nowhere:check", **samples))


def test_the_demo_names_its_checker() -> None:
    assert RewardBenchConfig.model_validate({"checker": "demo"}, context=WORLDS).checker == CHECKER
