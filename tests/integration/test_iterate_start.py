"""pi_0 made from English preferences as the first step of an arm: registered, evaluated, found again, given up and made again."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from icr_platform.core.artifacts import open_artifact
from icr_platform.core.errors import InputError
from icr_platform.core.schemas import PREFERENCES
from icr_platform.data.text_preferences import tokenise
from icr_platform.models.loading import load_tokenizer
from icr_platform.pipeline.arm import Arm
from icr_platform.pipeline.config import IterateConfig
from icr_platform.pipeline.iterate import check_losses, iterate
from icr_platform.pipeline.session import RunOptions, open_session
from icr_platform.planning.check import Prediction, check
from icr_platform.tracking.tracker import Tracker
from icr_platform.training.dataset import load_pairs


@pytest.fixture
def values(tmp_path: Path, tiny_models: tuple[Path, Path], prompt_folder: Path, own_store: Path) -> dict[str, Any]:
    """An arm without a policy: the reference and eight English pairs make pi_0."""
    pairs = [{"question": f"Say {word}.", "chosen": f"{word}, as you asked", "rejected": "no"} for word in "abcdefgh"]
    (tmp_path / "english.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    return {
        "arm": "started", "iterations": 1, "reference": str(tiny_models[1]), "prompts": str(prompt_folder), "seed": 1,
        "eval_prompts": str(prompt_folder), "keep_checkpoints": "last",
        "start_preferences": "english.jsonl", "start_preference_columns": {"instruction": "question"},
        "start": {"loss": "hinge", "learning_rate": 1e-3, "batch_size": 4, "accumulation": 1},
        "generate": {"samples": 4, "max_tokens": 24, "shard_prompts": 4},
        "annotate": {"drop_wrong_language": False, "drop_truncated": False},
        "train": {"learning_rate": 1e-4, "batch_size": 4, "accumulation": 1},
        "eval": {"max_tokens": 12, "shard_prompts": 4, "judge": "none"},
    }  # fmt: skip


def run(values: dict[str, Any]) -> Arm:
    return iterate(open_session(RunOptions()), IterateConfig.model_validate(values))


def test_pi_0_is_trained_first_and_everything_follows_from_it(
    values: dict[str, Any], tiny_models: tuple[Path, Path]
) -> None:
    arm = run(values)
    start = arm.stages[0, "start"]
    assert start.run is not None
    assert arm.policies[0] == start.reference("checkpoint")
    assert arm.trainings[0].policy == str(tiny_models[1]), "without a policy the reference is what is trained"
    assert arm.trainings[0].loss == "hinge"
    assert arm.trainings[1].loss == "sigmoid"
    assert arm.trainings[1].policy == arm.policies[0]
    assert arm.metrics[0]["start/train/pairs"] == 8
    assert (0, "eval") in arm.stages
    tracker = Tracker()
    assert tracker.client.get_run(start.run.run_id).data.tags["icr.checkpoint"] == "removed", "keep_checkpoints=last"
    with pytest.raises(InputError, match="no such registered model"):
        tracker.resolve("models:/started-policy@iteration-0")

    assert all(stage.reused for stage in run(values).stages.values())
    redone = run(values | {"eval": values["eval"] | {"max_tokens": 8}})
    anew = {key for key, stage in redone.stages.items() if not stage.reused}
    assert anew == {(0, "eval"), (1, "eval"), (0, "start")}, "to evaluate pi_0 it is made again"
    losses = [each.stages[0, "start"].result.metrics["train/final_loss"] for each in (arm, redone)]
    assert losses[0] == losses[1]


def test_what_the_start_takes_is_predicted(
    values: dict[str, Any], tiny_models: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    config = IterateConfig.model_validate(values | {"start": {**values["start"], "epochs": 3}})
    prediction = Prediction(gpus=2, gpu="H100")  # whose rates are known
    assert check(config, RunOptions(), prediction) == 0
    shown = capsys.readouterr().out
    starting = Arm(config, config, None, [config.policy]).starting()
    tokenizer = load_tokenizer(starting.policy, starting)
    work = Path("tokenised")
    tokenise(starting.preferences, work, tokenizer, starting.preference_columns)
    pairs = load_pairs(open_artifact(work, PREFERENCES), tokenizer, 1000)
    tokens = sum(
        2 * len(prompt) + len(chosen) + len(rejected)
        for prompt, chosen, rejected in zip(pairs.prompt_ids, pairs.chosen_ids, pairs.rejected_ids, strict=True)
    )
    line = next(line for line in shown.splitlines() if line.startswith("start: "))
    said = re.fullmatch(
        r"start: 8 rows, ([\d,]+) tokens, \S+ s on one device, \S+ .B of memory at its peak, .+; once, for pi_0", line
    )
    assert said, line
    assert abs(int(said[1].replace(",", "")) - (1 + 3) * tokens) <= 4, "the reference's pass, and three epochs"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"start": {"loss": "ipo", "label_smoothing": 0.1}}, "field 'start.label_smoothing' (0.1) with start.loss=ipo"),
        (
            {"train": {"loss": "sigmoid_norm", "ld_alpha": 0.5}},
            "field 'train.ld_alpha' (0.5) with train.loss=sigmoid_norm",
        ),
        ({"start_preferences": "missing.jsonl"}, "missing.jsonl"),
    ],
)
def test_what_cannot_start_is_said_before_any_work(
    values: dict[str, Any],
    changes: dict[str, Any],
    said: str,
    tiny_models: tuple[Path, Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = values | {"policy": str(tiny_models[0])} | changes
    with pytest.raises(InputError) as refused:
        run(given)
    assert said in str(refused.value)
    assert not list(Path.cwd().glob("**/responses"))
    assert check(IterateConfig.model_validate(given), RunOptions(), Prediction()) == 2
    assert said in capsys.readouterr().err


def test_a_start_without_preferences_is_refused_unless_it_is_switched_off() -> None:
    given = {"policy": "pi_0", "reference": "pi_ref", "start": {"loss": "kto"}}
    with pytest.raises(InputError, match="field 'start_preferences' is missing"):
        check_losses(IterateConfig.model_validate(given))
    check_losses(IterateConfig.model_validate(given | {"start_preferences": ""}))
    started = IterateConfig.model_validate({"reference": "pi_ref", "start_preferences": "en.jsonl"})
    assert started.policy == "pi_ref"
