"""The train stage on a tiny Llama: what it makes, what it refuses, and that a kill changes nothing."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch

from icr_platform.annotation.logprobs import Group, completion_logprobs
from icr_platform.artifacts import ArtifactWriter, file_digest, open_artifact
from icr_platform.config import TrainConfig
from icr_platform.errors import IcrError, InputError
from icr_platform.models import load_model, load_tokenizer, model_identity
from icr_platform.schemas import PREFERENCES, PROMPTS
from icr_platform.stages import StageContext, StageResult
from icr_platform.training.checkpoint import open_checkpoint
from icr_platform.training.dataset import load_pairs
from icr_platform.training.dpo import PairTrainer
from icr_platform.training.stage import run, validate

TWO_PROCESSES = Path(__file__).parents[2] / "projects" / "conf" / "accelerate" / "cpu-2-processes.yaml"

# Runs the stage and kills itself, uncatchably, where it is told to: at a logged step, or before a resume point is marked.
KILLED = """
import json, os, signal, sys
from pathlib import Path
from icr_platform.config import TrainConfig
from icr_platform.stages import StageContext
from icr_platform.training import dpo, stage

values, output, where, when, log = json.loads(sys.argv[1])

def kill():
    os.kill(os.getpid(), signal.SIGKILL)

def record(metrics, step):
    with open(log, "a") as file:
        print(step, file=file)
    if where == "step" and step == when:
        kill()

mark = dpo.mark_whole
def mark_or_kill(folder, processes):
    if where == "mark" and folder.name == f"checkpoint-{when}":
        (folder / "optimizer.pt").write_bytes(b"half")
        kill()
    mark(folder, processes)
dpo.mark_whole = mark_or_kill

stage.run(TrainConfig.model_validate(values), StageContext(Path(output), "f", record))
"""


@pytest.fixture
def values(tiny_models: tuple[Path, Path], make_preferences: Callable[..., Path], tmp_path: Path) -> dict[str, Any]:
    """Fields of a training of 6 steps in two epochs."""
    preferences = make_preferences(tmp_path / "preferences", tiny_models[0], 24)
    return {
        "policy": str(tiny_models[0]), "reference": str(tiny_models[1]), "preferences": str(preferences),
        "device": "cpu", "learning_rate": 2e-3, "epochs": 2.0, "batch_size": 4, "accumulation": 2, "save_steps": 2,
    }  # fmt: skip


def train(values: dict[str, Any], folder: Path, steps: list[int] | None = None, **changes: Any) -> StageResult:
    def log(metrics: Mapping[str, float], step: int) -> None:
        if steps is not None:
            steps.append(step)

    return run(TrainConfig.model_validate(values | changes), StageContext(folder, "f", log))


def margin(model: Path, preferences: str) -> float:
    """Mean over pairs of log p(chosen) - log p(rejected), nats."""
    pairs = load_pairs(open_artifact(Path(preferences), PREFERENCES), load_tokenizer(str(model)), 4096)
    columns = (pairs.prompt_ids, pairs.chosen_ids, pairs.rejected_ids)
    groups = [Group(prompt, (chosen, rejected)) for prompt, chosen, rejected in zip(*columns, strict=True)]
    scores = completion_logprobs(load_model(str(model), "float32", "cpu"), groups)
    return float(sum(chosen - rejected for chosen, rejected in scores) / len(scores))


def content(checkpoint: Path) -> dict[str, str]:
    return {path.name: file_digest(path) for path in checkpoint.iterdir() if path.name != "manifest.json"}


def test_training_raises_the_margin_and_leaves_a_plain_model(values: dict[str, Any], tmp_path: Path) -> None:
    steps: list[int] = []
    result = train(values, tmp_path / "out", steps)
    checkpoint = result.artifacts["checkpoint"]
    assert steps == [1, 2, 3, 4, 5, 6]
    before, after = (margin(model, values["preferences"]) for model in (Path(values["policy"]), checkpoint))
    assert after > before + 1.0
    assert result.metrics["train/pairs"] == 24
    assert result.metrics["train/final_reward_margin"] > 0
    assert list(result.tables["loss_curve"]["step"]) == steps
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["checkpoint"], "resume points are removed"
    assert "/" not in json.loads((checkpoint / "config.json").read_text()).get("_name_or_path", "")
    assert not [path.name for path in checkpoint.iterdir() if str(tmp_path).encode() in path.read_bytes()]

    again: list[int] = []
    assert train(values, tmp_path / "out", again).metrics == result.metrics
    assert not again
    with pytest.raises(InputError, match="other inputs or settings"):
        run(TrainConfig.model_validate(values), StageContext(tmp_path / "out", "another"))
    (checkpoint / "model.safetensors").write_bytes(b"cut")
    with pytest.raises(InputError, match=r"model\.safetensors: 3 bytes instead of"):
        open_checkpoint(checkpoint)


def test_the_reference_only_changes_how_not_what(values: dict[str, Any], tmp_path: Path) -> None:
    """Scoring the pairs before training gives the model that running the reference in every step gives."""
    for reference in ("policy", "initial"):
        states = []
        for precompute in ("yes", "no"):
            folder = tmp_path / f"{reference}-{precompute}"
            result = train(values, folder, dpo_reference=reference, precompute_reference=precompute, learning_rate=1e-4)
            states.append(load_model(str(result.artifacts["checkpoint"]), "float32", "cpu").state_dict())
        worst = max(float((states[0][name] - states[1][name]).abs().max()) for name in states[0])
        assert worst < 1e-5


def test_lora_trains_and_is_merged(values: dict[str, Any], tmp_path: Path) -> None:
    result = train(values, tmp_path / "out", lora_rank=4, learning_rate=1e-2)
    checkpoint = result.artifacts["checkpoint"]
    assert not list(checkpoint.glob("adapter*"))
    assert margin(checkpoint, values["preferences"]) > margin(Path(values["policy"]), values["preferences"]) + 0.5


@pytest.mark.parametrize("changes", [{}, pytest.param({"lora_rank": 2}, marks=pytest.mark.slow)], ids=["full", "lora"])
def test_kills_and_resumes_give_the_same_bytes(
    values: dict[str, Any], tmp_path: Path, changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    undisturbed = train(values, tmp_path / "whole", **changes).artifacts["checkpoint"]
    log = tmp_path / "steps"
    for where, when in (("mark", 4), ("step", 5)):
        arguments = json.dumps([values | changes, str(tmp_path / "out"), where, when, str(log)])
        child = subprocess.run([sys.executable, "-c", KILLED, arguments], capture_output=True, text=True)
        assert child.returncode == -9, child.stderr
        assert not (tmp_path / "out" / "checkpoint").exists()
    batches: list[int] = []
    step = PairTrainer.training_step
    monkeypatch.setattr(PairTrainer, "training_step", lambda *given: (batches.append(1), step(*given))[1])
    steps: list[int] = []
    resumed = train(values, tmp_path / "out", steps, **changes).artifacts["checkpoint"]
    assert content(resumed) == content(undisturbed)
    assert model_identity(str(resumed)) == model_identity(str(undisturbed)), "the next stage's work is found again"
    assert len(batches) == 4, "steps 5 and 6, two batches each, from the resume point of step 4"
    assert [int(step) for step in log.read_text().split()] == [1, 2, 3, 4, 5]
    assert steps == [5, 6], "the kill came while step 5 was being logged"


def test_a_loss_that_is_not_finite_stops_the_training(values: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(IcrError, match=r"the loss is (nan|inf) at step \d+.*lower --learning-rate"):
        train(values, tmp_path / "out", learning_rate=1e30, warmup=0.0)
    assert not (tmp_path / "out" / "checkpoint").exists()


def test_too_short_a_limit_names_it(values: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="longer than max_length=5 tokens"):
        train(values, tmp_path / "out", max_length=5)


def damaged(preferences: Path, folder: Path, **columns: Any) -> str:
    """A copy of the artifact with columns of its row 3 replaced."""
    rows = open_artifact(preferences, PREFERENCES).read().to_pylist()
    rows[3] |= columns
    writer = ArtifactWriter(folder, PREFERENCES, "damaged")
    writer.write_part(0, pa.Table.from_pylist(rows))
    writer.close(1)
    return str(folder)


def test_bad_input_is_refused_before_anything_is_written(values: dict[str, Any], tmp_path: Path) -> None:
    preferences = Path(values["preferences"])
    unfinished = shutil.copytree(preferences, tmp_path / "unfinished")
    (unfinished / "manifest.json").unlink()
    writer = ArtifactWriter(tmp_path / "prompts", PROMPTS, "prompts")
    writer.close(0)
    writer = ArtifactWriter(tmp_path / "empty", PREFERENCES, "empty")
    writer.close(0)
    speechless = shutil.copytree(values["policy"], tmp_path / "speechless")
    (speechless / "chat_template.jinja").unlink()
    wrong = {
        "unfinished": {"preferences": str(unfinished)},
        "expected 'preferences'": {"preferences": str(tmp_path / "prompts")},
        "no preference pair": {"preferences": str(tmp_path / "empty")},
        r"row 3: field 'chosen_token_ids' holds token id 400, outside": {
            "preferences": damaged(preferences, tmp_path / "outside", chosen_token_ids=[5, 400])
        },
        r"row 3: field 'rejected_token_ids' is empty": {
            "preferences": damaged(preferences, tmp_path / "none", rejected_token_ids=[])
        },
        "'reference' is missing": {"dpo_reference": "initial", "reference": ""},
        "chat_template": {"policy": str(speechless)},
        "no such folder": {"policy": "/nowhere/model"},
        "no such accelerate config": {"accelerate_config": str(tmp_path / "none.yaml")},
        "field 'device'": {"device": "cuda:7"},
        "field 'dtype' float16": {"dtype": "float16"},
    }
    for message, changes in wrong.items():
        with pytest.raises(InputError, match=message):
            validate(TrainConfig.model_validate(values | changes))
        with pytest.raises(InputError, match=message):
            train(values, tmp_path / "out", **changes)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_two_processes_train_one_model(values: dict[str, Any], tmp_path: Path) -> None:
    """Each process takes half of every batch; the reference of both is the policy, so that rewards begin at zero."""
    steps: list[int] = []
    changes = {"accelerate_config": str(TWO_PROCESSES), "batch_size": 2, "precompute_reference": "no"}
    result = train(values, tmp_path / "out", steps, **changes)
    assert steps == [1, 2, 3, 4, 5, 6]
    curve = result.tables["loss_curve"]
    assert curve["train/rewards/chosen"][0] == pytest.approx(0.0, abs=1e-5)
    alone = train(values, tmp_path / "alone", precompute_reference="no").artifacts["checkpoint"]
    together = result.artifacts["checkpoint"]
    before, one, two = (margin(model, values["preferences"]) for model in (Path(values["policy"]), alone, together))
    assert two - before == pytest.approx(one - before, rel=0.1), "the same pairs in every step, in two halves"
    state = load_model(str(together), "float32", "cpu").state_dict()
    assert all(torch.isfinite(tensor).all() for tensor in state.values())


@pytest.mark.slow
def test_an_error_in_one_of_two_processes_reaches_the_user(values: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(IcrError, match=r"the loss is (nan|inf) at step"):
        train(values, tmp_path / "out", accelerate_config=str(TWO_PROCESSES), learning_rate=1e30, warmup=0.0)
