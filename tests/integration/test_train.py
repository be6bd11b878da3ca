"""The train stage on a tiny Llama: what it makes, what it refuses, and that a kill changes nothing."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
import yaml

from icr_platform.core.artifacts import ArtifactWriter, file_digest, open_artifact
from icr_platform.core.errors import IcrError, InputError
from icr_platform.core.schemas import PREFERENCES, PROMPTS
from icr_platform.core.stage_protocol import StageContext, StageResult
from icr_platform.engines.scoring.logprobs import Group, completion_logprobs
from icr_platform.models.loading import load_model, load_tokenizer
from icr_platform.models.model_identity import model_identity
from icr_platform.training.checkpoint import open_checkpoint
from icr_platform.training.config import TrainConfig
from icr_platform.training.dataset import load_pairs
from icr_platform.training.dpo import PairTrainer
from icr_platform.training.stage import read, run
from tests.support.ports import free_port

RECIPES = Path(__file__).parents[2] / "projects" / "conf" / "accelerate"
TWO_PROCESSES = RECIPES / "cpu-2-processes.yaml"
SHARDED = [
    "fsdp2",
    pytest.param(
        "deepspeed-zero3",
        marks=pytest.mark.skipif(find_spec("deepspeed") is None, reason="needs deepspeed (pip install deepspeed)"),
    ),
]

# Runs the stage and kills itself, uncatchably, where it is told to: at a logged step, or before a resume point is marked.
KILLED = """
import json, os, signal, sys
from pathlib import Path
from icr_platform.training.config import TrainConfig
from icr_platform.core.stage_protocol import StageContext
from icr_platform.training import stage, trainer

values, output, where, when, log = json.loads(sys.argv[1])

def kill():
    os.kill(os.getpid(), signal.SIGKILL)

def record(metrics, step):
    with open(log, "a") as file:
        print(step, file=file)
    if where == "step" and step == when:
        kill()

mark = trainer.mark_whole
def mark_or_kill(folder, processes):
    if where == "mark" and folder.name == f"checkpoint-{when}":
        (folder / "optimizer.pt").write_bytes(b"half")
        kill()
    mark(folder, processes)
trainer.mark_whole = mark_or_kill

stage.run(stage.read(TrainConfig.model_validate(values)), StageContext(Path(output), "f", record))
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

    return run(read(TrainConfig.model_validate(values | changes)), StageContext(folder, "f", log))


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
    assert again == steps, "the run that finds it finished has its whole curve"
    with pytest.raises(InputError, match="other inputs or settings"):
        run(read(TrainConfig.model_validate(values)), StageContext(tmp_path / "out", "another"))
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


def test_a_single_step_trains(values: dict[str, Any], tmp_path: Path) -> None:
    """24 pairs make one step at the default batch and accumulation, which is not spent on warming up at rate 0."""
    result = train(values, tmp_path / "out", batch_size=1, accumulation=32, epochs=1.0, learning_rate=1e-3)
    curve = result.tables["loss_curve"]
    assert list(curve["train/learning_rate"]) == [1e-3]
    assert curve["train/rewards/margins"][0] == pytest.approx(0.0, abs=1e-5), (
        "over the step's pairs, before they moved it"
    )
    checkpoint = result.artifacts["checkpoint"]
    assert margin(checkpoint, values["preferences"]) > margin(Path(values["policy"]), values["preferences"]) + 0.1


def test_a_training_that_moves_no_weight_fails_and_says_why(values: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(
        IcrError, match=r"changed no weight of the policy: at --learning-rate 1e-30 .*raise it"
    ) as error:
        train(values, tmp_path / "out", learning_rate=1e-30)
    assert error.value.exit_status == 1
    with pytest.raises(IcrError, match=r"--lora-alpha"):
        train(values, tmp_path / "lora", lora_rank=2, learning_rate=1e-30)
    assert not list(tmp_path.glob("*/checkpoint"))


def test_a_checkpoint_keeps_what_was_trained_though_the_policy_is_stored_in_bfloat16(
    values: dict[str, Any], tmp_path: Path
) -> None:
    """And says what `save_dtype: stored` loses."""
    policy = tmp_path / "policy"
    load_model(values["policy"], "bfloat16", "cpu").save_pretrained(policy)
    load_tokenizer(values["policy"]).save_pretrained(policy)
    before = margin(policy, values["preferences"])
    changes: dict[str, Any] = {"policy": str(policy), "learning_rate": 1e-5}
    for save_dtype in ("trained", "stored"):
        result = train(values, tmp_path / save_dtype, save_dtype=save_dtype, **changes)
        trained, saved, loaded = (result.metrics[f"train/{name}_margin"] for name in ("trained", "saved", "loaded"))
        checkpoint = result.artifacts["checkpoint"]
        by_hand = 0.1 * (margin(checkpoint, values["preferences"]) - before)
        assert saved == pytest.approx(by_hand, rel=1e-3)
        assert loaded == saved, "a CPU loads float32"
        config = json.loads((checkpoint / "config.json").read_text())
        notes = [note for note in result.notes if "margin" in note]
        if save_dtype == "trained":
            assert saved == trained > 0
            assert config["dtype"] == "float32"
            assert not notes
        else:
            assert abs(saved - trained) > 0.1 * trained
            assert config["dtype"] == "bfloat16"
            assert "as saved" in notes[0]
            assert f"{trained:+.4g}" in notes[0]
            assert "--save-dtype trained" in notes[0]


@pytest.mark.slow
@pytest.mark.parametrize("save_dtype", ["trained", "stored"])
def test_a_real_model_stored_in_bfloat16_keeps_its_margin(
    smollm2: Path, make_preferences: Callable[..., Path], tmp_path: Path, save_dtype: str
) -> None:
    """SmolLM2-135M, 24 pairs at 2e-6, as trained by people who hold it in bfloat16."""
    policy = tmp_path / "policy"
    load_model(str(smollm2), "bfloat16", "cpu").save_pretrained(policy)
    load_tokenizer(str(smollm2)).save_pretrained(policy)
    preferences = str(make_preferences(tmp_path / "preferences", policy, 24))
    values = {"policy": str(policy), "preferences": preferences, "device": "cpu", "learning_rate": 2e-6,
              "batch_size": 1, "accumulation": 1, "save_dtype": save_dtype}  # fmt: skip
    result = train(values, tmp_path / "out")
    trained, saved = (result.metrics[f"train/{name}_margin"] / 0.1 for name in ("trained", "saved"))
    reloaded = margin(result.artifacts["checkpoint"], preferences) - margin(policy, preferences)
    print(
        f"save_dtype {save_dtype}: {trained:+.3f} nats in the trained weights, {reloaded:+.3f} reloaded; {result.notes}"
    )
    assert reloaded == pytest.approx(saved, rel=1e-3, abs=1e-4)
    assert trained > 1.0
    if save_dtype == "trained":
        assert reloaded == pytest.approx(trained, rel=0.02)
    else:
        assert "--save-dtype trained" in " ".join(result.notes)


def test_a_router_loss_without_a_router_is_refused(values: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"field 'router_loss'.*not a mixture of experts"):
        read(TrainConfig.model_validate(values | {"router_loss": 0.01}))


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
    # Each attempt is a run of its own, which gets the steps from before too. The second kill came while step 5 was being logged.
    assert [int(step) for step in log.read_text().split()] == [1, 2, 3, 4, 1, 2, 3, 4, 5]
    assert steps == [1, 2, 3, 4, 5, 6]


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
        r"row 3: field 'chosen_token_ids' has token id 400, outside": {
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
    for message, changed in wrong.items():
        with pytest.raises(InputError, match=message):
            read(TrainConfig.model_validate(values | changed))
        with pytest.raises(InputError, match=message):
            train(values | changed, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_two_processes_train_one_model(values: dict[str, Any], tmp_path: Path) -> None:
    """Each process takes half of every batch; the reference of both is the policy, so that rewards begin at zero."""
    steps: list[int] = []
    changes: dict[str, Any] = {"accelerate_config": str(TWO_PROCESSES), "batch_size": 2, "precompute_reference": "no"}
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
def test_a_step_is_the_same_in_one_process_and_in_two_when_pairs_do_not_go_round(
    values: dict[str, Any], make_preferences: Callable[..., Path], tmp_path: Path
) -> None:
    """Eleven pairs in batches of 2 per process: accelerate repeats one pair, which must not count twice."""
    preferences = str(make_preferences(tmp_path / "eleven", Path(values["policy"]), 11))
    changes: dict[str, Any] = {
        "preferences": preferences,
        "epochs": 1.0,
        "precompute_reference": "no",
        "learning_rate": 1e-3,
    }
    curves = []
    ways: dict[str, dict[str, Any]] = {
        "one": {"batch_size": 3, "accumulation": 4},
        "two": {"batch_size": 2, "accumulation": 3, "accelerate_config": str(TWO_PROCESSES)},
    }
    for name, more in ways.items():
        result = train(values, tmp_path / name, **changes, **more)
        assert len(result.tables["loss_curve"]) == 1
        curves.append(result.tables["loss_curve"])
    for column in ("train/loss", "train/grad_norm", "train/rewards/chosen"):
        assert curves[1][column][0] == pytest.approx(curves[0][column][0], rel=1e-5, abs=1e-6)


@pytest.mark.slow
def test_an_error_in_one_of_two_processes_reaches_the_user(values: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(IcrError, match=r"the loss is (nan|inf) at step"):
        train(values, tmp_path / "out", accelerate_config=str(TWO_PROCESSES), learning_rate=1e30, warmup=0.0)


def recipe_for_two_processes(name: str, folder: Path, **changes: Any) -> Path:
    """A shipped recipe with two CPU processes in place of its GPUs, which talk through gloo."""
    settings = yaml.safe_load((RECIPES / f"{name}.yaml").read_text())
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(settings | {"num_processes": 2, "main_process_port": 0} | changes))
    return path


@pytest.mark.parametrize("precompute", [pytest.param("yes", marks=pytest.mark.slow), "no"])
@pytest.mark.parametrize("name", SHARDED)
def test_sharded_recipes_train_what_whole_copies_train(
    values: dict[str, Any], tmp_path: Path, name: str, precompute: str
) -> None:
    """Policy and DPO reference in shards: the curve of DDP, which holds a whole copy of each in both processes."""
    changes: dict[str, Any] = {
        "batch_size": 2,
        "precompute_reference": precompute,
        "dpo_reference": "initial",
        "learning_rate": 1e-3,
    }
    whole = train(values, tmp_path / "whole", accelerate_config=str(TWO_PROCESSES), **changes)
    recipe = recipe_for_two_processes(name, tmp_path)
    result = train(values, tmp_path / "out", accelerate_config=str(recipe), **changes)
    columns = ["train/loss", "train/rewards/margins", "train/rewards/chosen", "train/grad_norm"]
    curves = [each.tables["loss_curve"][columns].to_numpy() for each in (whole, result)]
    assert curves[1] == pytest.approx(curves[0], rel=1e-3, abs=1e-4)
    one, two = (margin(each.artifacts["checkpoint"], values["preferences"]) for each in (whole, result))
    assert two == pytest.approx(one, rel=1e-3)


@pytest.mark.slow
def test_sharded_training_in_bfloat16_saves_its_float32_weights(values: dict[str, Any], tmp_path: Path) -> None:
    """At a rate at which no change shows in bfloat16. (DeepSpeed's bfloat16 needs a GPU: test_dpo.py has its gathering.)"""
    recipe = str(recipe_for_two_processes("fsdp2", tmp_path))
    result = train(values, tmp_path / "out", accelerate_config=recipe, dtype="bfloat16", learning_rate=1e-5)
    before = load_model(values["policy"], "float32", "cpu").state_dict()
    after = load_model(str(result.artifacts["checkpoint"]), "float32", "cpu").state_dict()
    steps = torch.cat([(after[key] - before[key]).flatten() for key in before])
    moved = steps[steps != 0].abs()
    assert len(moved) > 1000
    assert float(moved.median()) < 1e-4, "steps of the learning rate, not of bfloat16's rounding"


@pytest.mark.slow
@pytest.mark.parametrize("name", SHARDED)
def test_a_killed_sharded_training_goes_on_from_its_resume_point(
    values: dict[str, Any], tmp_path: Path, name: str
) -> None:
    """From the shards of weights and optimizer states that both processes wrote."""
    recipe: dict[str, Any] = {"accelerate_config": str(recipe_for_two_processes(name, tmp_path)), "batch_size": 2}
    undisturbed = train(values, tmp_path / "whole", **recipe).tables["loss_curve"]
    arguments = json.dumps([values | recipe, str(tmp_path / "out"), "step", 5, str(tmp_path / "steps")])
    child = subprocess.run([sys.executable, "-c", KILLED, arguments], capture_output=True, text=True)
    assert child.returncode == -9, child.stderr
    work = tmp_path / "out" / "checkpoint.unfinished"
    assert [point.name for point in work.glob("checkpoint-*")] == ["checkpoint-4"]
    shards = {"fsdp2": "*.distcp", "deepspeed-zero3": "zero_pp_rank_*"}[name]
    written = [path.name for path in (work / "checkpoint-4").rglob(shards)]
    assert any("rank_1" in file or file.startswith("__1") for file in written), "accelerate could shard nothing, unsaid"
    resumed = train(values, tmp_path / "out", **recipe).tables["loss_curve"]
    assert resumed["train/loss"].to_numpy() == pytest.approx(undisturbed["train/loss"].to_numpy(), abs=1e-6)


@pytest.mark.slow
def test_two_machines_train_one_model(values: dict[str, Any], tmp_path: Path) -> None:
    """The multi-node recipe, as its comment says to run it: `icr train` on machine 0, its job by hand on machine 1."""
    places = {"num_machines": 2, "main_process_ip": "127.0.0.1", "main_process_port": free_port()}
    recipe = recipe_for_two_processes("fsdp2-multi-node", tmp_path, **places)
    job = tmp_path / "out" / "checkpoint.unfinished" / "job.json"

    def join() -> subprocess.CompletedProcess[str]:
        while not job.exists():
            time.sleep(0.1)
        command = [
            sys.executable,
            "-m",
            "accelerate.commands.launch",
            "--config_file",
            str(recipe),
            "--machine_rank",
            "1",
        ]
        worker = ["-m", "icr_platform.training.worker", str(job)]
        return subprocess.run([*command, *worker], capture_output=True, text=True, timeout=300)

    changes: dict[str, Any] = {"batch_size": 2, "precompute_reference": "no"}
    with ThreadPoolExecutor(1) as machine_1:
        other = machine_1.submit(join)
        result = train(values, tmp_path / "out", accelerate_config=str(recipe), **changes)
    assert other.result().returncode == 0, other.result().stderr
    one_machine = recipe_for_two_processes("fsdp2", tmp_path)
    alone = train(values, tmp_path / "alone", accelerate_config=str(one_machine), **changes)
    curves = [each.tables["loss_curve"]["train/loss"].to_numpy() for each in (result, alone)]
    assert curves[0] == pytest.approx(curves[1], abs=1e-6)
