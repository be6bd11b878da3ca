"""Scalar rewards through the stages: alone and beside others, first or second, resumed, reused, found again, and what does not fit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from icr_platform.annotation import stage as annotation
from icr_platform.annotation.config import AnnotateConfig
from icr_platform.core.artifacts import open_artifact
from icr_platform.core.errors import InputError
from icr_platform.core.languages import reward_instruction
from icr_platform.core.schemas import DROPS, PREFERENCES, REWARD_BENCH, REWARDS
from icr_platform.core.stage_protocol import StageContext
from icr_platform.engines.scoring import model_scores
from icr_platform.engines.scoring.scalar_scores import ScalarScorer
from icr_platform.evaluation import reward_bench_stage as bench
from icr_platform.evaluation.reward_bench_config import RewardBenchConfig
from icr_platform.pipeline.identity import identify
from tests.support.small_tables import write_responses
from tests.support.tiny_models import PROMPTS, RESPONSES
from tests.support.tiny_reward_models import build_reward_model, chatml_ids, naive_score, save_reward_model

KINDS = ("scalar", "scalar-english")


@pytest.fixture(scope="module")
def reward_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_reward_model(tmp_path_factory.mktemp("reward") / "model", initializer_range=0.1)


@pytest.fixture
def config(tmp_path: Path, tiny_model: Path, prompt_folder: Path, reward_model: Path) -> AnnotateConfig:
    responses = write_responses(tmp_path / "responses", tiny_model)
    return AnnotateConfig(
        prompts=str(prompt_folder), responses=str(responses), reward_model=str(reward_model), reward_kind=KINDS, device="cpu"
    )  # fmt: skip


def rewards_of(folder: Path) -> Any:
    return open_artifact(folder / "rewards", REWARDS).read().to_pandas()


def run(config: AnnotateConfig, folder: Path) -> Any:
    return annotation.run(read(config), StageContext(folder, "test"))


def read(config: AnnotateConfig) -> annotation.AnnotateInputs:
    inputs = annotation.read(config)
    assert isinstance(inputs, annotation.AnnotateInputs)
    return inputs


def expected(reward_model: Path, kind: str, language: str, prompt: int, text: str) -> float:
    english = reward_instruction(language, PROMPTS["en"][prompt])
    asked = PROMPTS[language][prompt] if kind == "scalar" else english
    return naive_score(build_reward_model(initializer_range=0.1), chatml_ids(reward_model, asked, text))


def test_rewards_are_the_reward_models_scores(config: AnnotateConfig, reward_model: Path, tmp_path: Path) -> None:
    """Without policy or reference; the first kind makes the pairs."""
    done = run(config, tmp_path / "out")
    rows = rewards_of(tmp_path / "out")
    assert rows["policy_logprob"].isna().all()
    assert rows["reference_logprob"].isna().all()
    assert len(rows) == 3 * 6 * 3 * 2
    for row in rows.iloc[::7].to_dict("records"):
        prompt = int(row["prompt_id"][1:])
        text = RESPONSES[row["language"]][prompt][: -1 - row["sample_index"]]
        assert row["reward"] == pytest.approx(
            expected(reward_model, row["kind"], row["language"], prompt, text), abs=1e-5
        )
    pairs = open_artifact(tmp_path / "out/preferences", PREFERENCES).read().to_pylist()
    first = rows[rows["kind"] == "scalar"].set_index(["language", "prompt_id", "sample_index"])["reward"]
    assert {row["chosen_reward"] for row in pairs} <= set(first)
    assert "reward_agreement/scalar-scalar-english/es" in done.metrics
    drops = open_artifact(tmp_path / "out/drops", DROPS).read().to_pylist()
    assert len(pairs) + sum(row["sample_index"] is None for row in drops) == 18


def test_scalar_and_implicit_kinds_stand_beside_each_other(
    config: AnnotateConfig, tiny_models: tuple[Path, Path], tmp_path: Path
) -> None:
    both = {"policy": str(tiny_models[0]), "reference": str(tiny_models[1])}
    run(config, tmp_path / "scalar")
    run(config.model_copy(update={**both, "reward_kind": ("cross-lingual", "scalar", "random")}), tmp_path / "second")
    run(config.model_copy(update={**both, "reward_kind": ("cross-lingual",)}), tmp_path / "implicit")
    alone, beside, implicit = (rewards_of(tmp_path / name) for name in ("scalar", "second", "implicit"))

    def values(rows: Any, kind: str, *columns: str) -> Any:
        return rows[rows["kind"] == kind][list(columns)].reset_index(drop=True)

    pd.testing.assert_frame_equal(
        values(alone, "scalar", "reward", "input_digest"), values(beside, "scalar", "reward", "input_digest")
    )
    pd.testing.assert_frame_equal(
        values(implicit, "cross-lingual", *implicit.columns), values(beside, "cross-lingual", *implicit.columns)
    )
    assert list(beside["kind"][:3]) == ["cross-lingual", "scalar", "random"]


def test_what_is_missing_or_unused_is_said(
    config: AnnotateConfig, tiny_models: tuple[Path, Path], tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="'reward_model' is missing for the scalar reward; give --reward-model"):
        annotation.read(config.model_copy(update={"reward_model": ""}))
    with pytest.raises(InputError, match="'policy' is missing for annotate; give --policy MODEL --reference MODEL"):
        annotation.read(config.model_copy(update={"reward_kind": ("scalar", "multilingual")}))
    both = {"policy": str(tiny_models[0]), "reference": str(tiny_models[1]), "reward_kind": ("multilingual",)}
    assert any("'reward_model' is not used" in note for note in read(config.model_copy(update=both)).notes)
    (Path(config.prompts) / "en.jsonl").unlink()
    with pytest.raises(InputError, match=r"scalar-english reward is scored after.*--reward-kind scalar"):
        annotation.read(config.model_copy(update={"responses": str(spanish(tmp_path, tiny_models[0]))}))


def spanish(folder: Path, model: Path) -> Path:
    """Responses in Spanish alone."""
    from icr_platform.core.artifacts import ArtifactWriter
    from icr_platform.core.schemas import RESPONSES as TABLE

    whole = open_artifact(write_responses(folder / "all", model), TABLE).read()
    writer = ArtifactWriter(folder / "es", TABLE, "es")
    writer.write_part(0, whole.filter([language == "es" for language in whole["language"].to_pylist()]))
    writer.close(1)
    return folder / "es"


def test_a_response_beyond_the_context_is_dropped_and_counted(
    config: AnnotateConfig, reward_model: Path, tmp_path: Path
) -> None:
    import shutil

    short = Path(shutil.copytree(reward_model, tmp_path / "short"))
    values = json.loads((short / "config.json").read_text())
    longest = max(
        len(chatml_ids(reward_model, PROMPTS[language][i], RESPONSES[language][i][:-1]))
        for language in PROMPTS
        for i in range(6)
    )
    (short / "config.json").write_text(json.dumps(values | {"max_position_embeddings": longest - 1}))
    changed = config.model_copy(update={"reward_model": str(short), "reward_kind": ("scalar",)})
    with pytest.raises(InputError, match=r"were dropped .*too-long"):
        annotation.read(changed.model_copy(update={"max_dropped": 0}))
    run(changed.model_copy(update={"max_dropped": 50}), tmp_path / "out")
    dropped = open_artifact(tmp_path / "out/drops", DROPS).read().to_pylist()
    details = [row["detail"] for row in dropped if row["reason"] == "too-long"]
    assert details
    assert all(f"context of reward_model is {longest - 1}" in detail for detail in details)


def test_a_killed_stage_goes_on_with_the_scores_it_has(
    config: AnnotateConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(config, tmp_path / "whole")
    score = ScalarScorer.score
    made: list[int] = []

    def dies(self: ScalarScorer, *arguments: Any) -> Any:
        if len(made) == 2:
            raise KeyboardInterrupt
        made.append(1)
        return score(self, *arguments)

    monkeypatch.setattr(ScalarScorer, "score", dies)
    with pytest.raises(KeyboardInterrupt):
        run(config, tmp_path / "killed")
    assert len(list((tmp_path / "killed/work/reward-scores").glob("part-*.parquet"))) == 2
    made.clear()
    monkeypatch.setattr(ScalarScorer, "score", lambda self, *rest: (made.append(1), score(self, *rest))[1])
    run(config, tmp_path / "killed")
    assert len(made) == 1
    pd.testing.assert_frame_equal(rewards_of(tmp_path / "killed"), rewards_of(tmp_path / "whole"))
    assert not (tmp_path / "killed/work").exists()


def test_pairs_are_ranked_by_the_reward_model(
    reward_model: Path, tiny_models: tuple[Path, Path], tmp_path: Path
) -> None:
    rows = [
        {"id": f"q{i}", "language": language, "prompt": PROMPTS[language][i], "chosen": RESPONSES[language][i],
         "rejected": RESPONSES[language][(i + 1) % 6]}
        for language in ("en", "es") for i in range(6)
    ]  # fmt: skip
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = RewardBenchConfig(pairs=str(tmp_path / "pairs.jsonl"), reward_model=str(reward_model), device="cpu")
    assert config.kinds == ("random", *KINDS), "what can be measured without a policy"
    done = bench.run(bench.read(config), StageContext(tmp_path / "out", "test"))
    found = open_artifact(done.artifacts["reward_bench"], REWARD_BENCH).read().to_pandas()
    assert sorted(found["kind"].unique()) == ["length", "random", "scalar", "scalar-english"]
    for row in found[found["kind"].isin(KINDS)].iloc[::5].to_dict("records"):
        i = int(row["prompt_id"][1:])
        texts = RESPONSES[row["language"]][i], RESPONSES[row["language"]][(i + 1) % 6]
        chosen, rejected = (expected(reward_model, row["kind"], row["language"], i, text) for text in texts)
        assert row["margin"] == pytest.approx(chosen - rejected, abs=2e-5)
        assert row["is_right"] == float(chosen > rejected)
        assert row["chosen_policy_logprob"] is None or pd.isna(row["chosen_policy_logprob"])
    assert "reward_accuracy/scalar/es" in done.metrics
    given = config.model_copy(update={"policy": str(tiny_models[0]), "reference": str(tiny_models[1])})
    assert given.kinds == ("cross-lingual", "multilingual", "random", *KINDS)
    assert RewardBenchConfig(pairs="x").kinds == ("cross-lingual", "multilingual", "random")


def test_work_is_known_by_the_models_that_its_kinds_ask(
    config: AnnotateConfig, tiny_models: tuple[Path, Path], tmp_path: Path
) -> None:
    other = save_reward_model(tmp_path / "other", seed=1)
    both = {"policy": str(tiny_models[0]), "reference": str(tiny_models[1])}

    def work(**values: Any) -> str:
        return identify("annotate", config.model_copy(update=values)).work

    # Of scalar kinds alone neither policy nor reference is asked, whoever names them.
    assert work() == work(**both)
    assert work() != work(reward_model=str(other))
    assert work(**both, reward_kind=("multilingual",)) == work(
        **both, reward_kind=("multilingual",), reward_model="", reward_label="x"
    )
    assert work(**both, reward_kind=("multilingual",)) != work(**both, reward_kind=("multilingual", "scalar"))
    assert identify("annotate", config).rows.keys() == {"reward-scores"}
    rows = [
        identify("annotate", config.model_copy(update=values)).rows
        for values in ({}, both | {"reward_kind": ("scalar", "multilingual")})
    ]
    assert rows[0]["reward-scores"] == rows[1]["reward-scores"], "a score is the same whatever stands beside it"
    implicit = [
        identify("annotate", config.model_copy(update=both | {"reward_kind": ("multilingual", *more)})).rows[
            "policy-logprobs"
        ]
        for more in ((), ("scalar",))
    ]
    assert implicit[0] == implicit[1]


def test_scores_of_earlier_work_are_taken_by_row(
    config: AnnotateConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from icr_platform.core.earlier import PLACES, Earlier, Source

    run(config, tmp_path / "first")
    sources = tuple(
        Source(tmp_path / "first" / place.name, place.column, place.digest) for place in PLACES["reward-scores"]
    )
    monkeypatch.setattr(model_scores, "load_reward_scorer", lambda *_: pytest.fail("all of it is scored"))
    monkeypatch.setattr(annotation, "load_reward_scorer", lambda *_: pytest.fail("all of it is scored"))
    context = StageContext(tmp_path / "second", "other", earlier=Earlier({"reward-scores": sources}))
    # Other pairs of the same scores: the English ones come first.
    inputs = annotation.read(config.model_copy(update={"reward_kind": ("scalar-english", "scalar")}))
    annotation.run(inputs, context)
    key = ["language", "prompt_id", "sample_index", "kind"]
    first, second = (rewards_of(tmp_path / name).set_index(key)["reward"].sort_index() for name in ("first", "second"))
    pd.testing.assert_series_equal(first, second)
