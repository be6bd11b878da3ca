"""Losses through the whole train stage: KTO on labelled responses and on pairs, in one process and in two, and what is said of likelihoods."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from icr_platform.core.errors import InputError
from icr_platform.core.stage_protocol import StageContext, StageResult, ignore_metrics
from icr_platform.pipeline.identity import identify
from icr_platform.training.config import TrainConfig
from icr_platform.training.stage import read, run

TWO_PROCESSES = Path(__file__).parents[2] / "projects" / "conf" / "accelerate" / "cpu-2-processes.yaml"
WORDS = ["alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta", "iota", "kappa"]


@pytest.fixture
def labelled(tmp_path: Path) -> str:
    """Ten good and two bad answers, English and Spanish, and a row whose label says neither."""
    rows: list[dict[str, Any]] = [
        {
            "prompt": f"Say {word}",
            "completion": f"Here it is: {word}",
            "label": place > 1,
            "language": "es" if place % 2 else "en",
        }
        for place, word in enumerate((*WORDS, "lambda", "mu"))
    ]
    path = tmp_path / "labelled.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in (*rows, {**rows[0], "label": "so-so"})))
    return str(path)


def config_for(models: tuple[Path, Path], **changes: Any) -> TrainConfig:
    values: dict[str, Any] = {
        "policy": str(models[0]), "device": "cpu", "learning_rate": 1e-3, "batch_size": 4, "accumulation": 1,
        "warmup": 0.0, "loss": "kto",
    }  # fmt: skip
    return TrainConfig.model_validate(values | changes)


def train(config: TrainConfig, folder: Path) -> StageResult:
    return run(read(config), StageContext(folder, "f", ignore_metrics))


def test_labelled_responses_are_trained_on(tiny_models: tuple[Path, Path], labelled: str, tmp_path: Path) -> None:
    config = config_for(tiny_models, preferences=labelled, epochs=3.0, gamma=0.0)
    result = train(config, tmp_path / "out")
    assert result.metrics["train/pairs"] == 12
    assert result.tables["training_pairs"].set_index("language")["pairs"].to_dict() == {"en": 6, "es": 6}
    curve = result.tables["loss_curve"]
    assert {"train/logps/chosen", "train/logps/chosen/es", "train/kl", "train/rewards/margins"} <= set(curve)
    assert curve["train/kl"].min() >= 0
    assert result.metrics["train/trained_margin"] > 0, "good responses gained on bad ones"
    assert "train/final_reward_accuracy" not in result.metrics, "single responses have none"
    said = "\n".join(result.notes)
    assert "10 responses are good and 2 bad" in said
    assert "undesirable_weight=5" in said
    assert "1 of 13 rows were left out" in said
    assert "neither good nor bad" in said


@pytest.mark.slow
def test_pairs_train_as_two_responses_each_in_one_process_as_in_two(
    tiny_models: tuple[Path, Path], make_preferences: Callable[..., Path], tmp_path: Path
) -> None:
    preferences = str(make_preferences(tmp_path / "preferences", tiny_models[0], 5))
    config = config_for(
        tiny_models, preferences=preferences, gamma=0.5, batch_size=2, accumulation=2, precompute_reference="no"
    )
    two = config.model_copy(
        update={"accelerate_config": str(TWO_PROCESSES), "accumulation": 1, "precompute_reference": "yes"}
    )
    results = [train(each, tmp_path / name) for name, each in (("one", config), ("two", two))]
    assert results[0].metrics["train/pairs"] == 10
    columns = ["train/loss", "train/kl", "train/logps/chosen", "train/logps/rejected"]
    one, other = (result.tables["loss_curve"][columns].to_numpy() for result in results)
    assert one.shape == other.shape == (3, 4)
    assert one[0].tolist() == pytest.approx(other[0].tolist(), rel=1e-4), "the first step, from the same weights"


def test_a_sinking_likelihood_is_said(
    tiny_models: tuple[Path, Path], make_preferences: Callable[..., Path], tmp_path: Path
) -> None:
    """apo_down lowers the likelihood of chosen responses, which is what it is for."""
    preferences = str(make_preferences(tmp_path / "preferences", tiny_models[0], 8))
    config = config_for(tiny_models, preferences=preferences, loss="apo_down", gamma=0.0, epochs=3.0)
    result = train(config, tmp_path / "out")
    change = result.metrics["train/chosen_logp_change"]
    assert change < 0
    languages = sorted(result.tables["training_pairs"]["language"])
    assert all(f"train/chosen_logp_change/{language}" in result.metrics for language in languages)
    assert any(f"log-probability of chosen responses moved by {change:+.3g} nats" in note for note in result.notes)
    curve = result.tables["loss_curve"]["train/logps/chosen"]
    assert curve.iloc[-1] < curve.iloc[0]


def test_the_loss_and_its_rows_are_what_the_work_is_known_by(
    tiny_models: tuple[Path, Path], make_preferences: Callable[..., Path], labelled: str, tmp_path: Path
) -> None:
    preferences = str(make_preferences(tmp_path / "preferences", tiny_models[0], 4))
    variants: list[dict[str, Any]] = [
        {}, {"loss": "hinge"}, {"loss": "kto"}, {"loss": "robust", "label_smoothing": 0.1}, {"ld_alpha": 0.5},
        {"use_weighting": True}, {"loss": "kto", "desirable_weight": 2.0}, {"loss": "kto", "preferences": labelled},
    ]  # fmt: skip
    works = [
        identify("train", config_for(tiny_models, **({"preferences": preferences, "loss": "sigmoid"} | changes))).work
        for changes in variants
    ]
    assert len(set(works)) == len(variants)
    explicit = {"loss": "sigmoid", "ld_alpha": None, "label_smoothing": 0.0, "use_weighting": False}
    assert identify("train", config_for(tiny_models, preferences=preferences, **explicit)).work == works[0]


def test_what_excludes_each_other_is_refused_before_work(tiny_models: tuple[Path, Path], labelled: str) -> None:
    with pytest.raises(InputError, match="label_smoothing"):
        read(config_for(tiny_models, preferences=labelled, label_smoothing=0.1))
    with pytest.raises(InputError, match="loss=kto"):
        read(config_for(tiny_models, preferences=labelled, loss="ipo"))
