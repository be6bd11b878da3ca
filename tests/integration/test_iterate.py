"""The whole loop on tiny models and a real store: run tree, learning curve, resume and reuse."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from icr_platform.cli.commands import run
from icr_platform.cli.flags import parse
from icr_platform.core.errors import InputError
from icr_platform.models.loading import load_model
from icr_platform.models.model_identity import model_identity
from icr_platform.pipeline.checkpoint_removal import checkpoints_to_give_up
from icr_platform.pipeline.config import IterateConfig
from icr_platform.pipeline.iterate import iterate
from icr_platform.pipeline.session import open_session
from icr_platform.tracking.tracker import Tracker


@pytest.fixture
def preset(tmp_path: Path, tiny_models: tuple[Path, Path], prompt_folder: Path, own_store: Path) -> Path:
    """An `iterate` preset on tiny models: 3 languages, 1 iteration, reference outputs written here."""
    policy, reference = tiny_models
    values = {
        "iterations": 2,
        "policy": str(policy),
        "reference": str(reference),
        "prompts": str(prompt_folder),
        "eval_prompts": str(prompt_folder),
        "seed": 1,
        "generate": {"samples": 4, "max_tokens": 24, "shard_prompts": 4},
        "annotate": {"drop_wrong_language": False, "drop_truncated": False},
        "train": {"learning_rate": 1e-4, "batch_size": 4, "accumulation": 1},
        "eval": {"max_tokens": 24, "shard_prompts": 4},
    }
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def children(tracker: Tracker, parent: str) -> dict[str, object]:
    runs = tracker.client.search_runs([tracker.experiment_id], f"tags.\"mlflow.parentRunId\" = '{parent}'")
    return {str(run.data.tags["mlflow.runName"]): run for run in runs}


def test_two_iterations_tracked_and_found_again(preset: Path, tmp_path: Path) -> None:
    config, options = parse("iterate", [f"--config={preset}"])
    arm = iterate(open_session(options), config)  # type: ignore[arg-type]
    assert arm.run is not None
    tracker = Tracker()
    iterations = children(tracker, arm.run.run_id)
    assert sorted(iterations) == ["icr iteration 0", "icr iteration 1", "icr iteration 2"]
    stages = children(tracker, iterations["icr iteration 2"].info.run_id)  # type: ignore[attr-defined]
    assert sorted(stages) == ["annotate", "eval", "generate", "train"]
    assert all(stage.info.status == "FINISHED" for stage in stages.values())  # type: ignore[attr-defined]
    curve = tracker.client.get_metric_history(arm.run.run_id, "fidelity/es")
    assert [point.step for point in curve] == [0, 1, 2]
    assert "margin/median/es" in iterations["icr iteration 1"].data.metrics  # type: ignore[attr-defined]
    page = tracker.client.get_run(arm.run.run_id).data
    assert not [name for name in page.metrics if "_se/" in name or name.startswith(("alpha", "dropped", "pairs"))]
    dropped = stages["annotate"].data.metrics.items()  # type: ignore[attr-defined]
    assert not [name for name, value in dropped if name.startswith("dropped_") and not value]
    artifacts = {item.path for item in tracker.client.list_artifacts(arm.run.run_id)}
    assert "report-icr.html" in artifacts
    said = page.tags["mlflow.note.content"]
    rates = [arm.metrics[t]["fidelity/mean_non_english"] for t in range(3)]
    shown = " → ".join(f"{rate:.1f}" for rate in rates)
    assert said.startswith(f"**Arm icr: 2 iterations; outputs in the asked language, % {shown} (mean, non-English)**")
    assert f"| Spanish | {arm.metrics[0]['fidelity/es']:.1f} | {arm.metrics[1]['fidelity/es']:.1f} |" in said
    assert f"/runs/{arm.run.run_id}/artifacts/report-icr.html?workflowType=machine_learning" in said
    assert all(f"/runs/{run.info.run_id}?" in said for run in iterations.values())  # type: ignore[attr-defined]
    assert tracker.resolve("models:/icr-policy@iteration-2").endswith("checkpoint")
    assert not list((tmp_path / ".icr").glob("generate-*")), "work folders go once MLflow holds the artifacts"

    again = iterate(open_session(options), config)  # type: ignore[arg-type]
    assert all(stage.reused for stage in again.stages.values())
    assert again.metrics == arm.metrics


def test_the_alias_of_an_iteration_is_the_policy_in_use(preset: Path, tmp_path: Path) -> None:
    values = {name: value for name, value in yaml.safe_load(preset.read_text()).items() if name != "eval_prompts"}
    preset.write_text(yaml.safe_dump({**values, "iterations": 1}))

    def checkpoint(*flags: str) -> str:
        config, options = parse("iterate", [f"--config={preset}", *flags])
        iterate(open_session(options), config)  # type: ignore[arg-type]
        return Path(Tracker().resolve("models:/icr-policy@iteration-1"), "manifest.json").read_text()

    client = Tracker().client
    first = checkpoint()
    report = (tmp_path / "report-icr.html").read_text()
    other = checkpoint("--seed=2", "--artifacts=reference")
    assert json.loads(other)["fingerprint"] != json.loads(first)["fingerprint"]
    assert (tmp_path / "report-icr.html").read_text() != report
    assert checkpoint() == first, "a training that was found"
    assert (tmp_path / "report-icr.html").read_text() == report, "not the other configuration's"
    client.delete_registered_model("icr-policy")  # as if a kill had come before it was registered
    assert checkpoint() == first
    assert checkpoint("--seed=2") == other, "by reference"


def test_a_killed_command_goes_on(preset: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "icr_platform", "iterate", f"--config={preset}", f"--output={tmp_path / 'out'}"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("iteration 1: train"):
            break
    process.kill()
    process.communicate()
    assert run(command[3:]) == 0
    digests = {p.parent.name: json.loads(p.read_text())["digest"] for p in (tmp_path / "out").rglob("manifest.json")}
    assert {"responses", "rewards", "preferences", "drops", "outputs", "scores"} <= set(digests)
    tracker = Tracker()
    arms = tracker.client.search_runs([tracker.experiment_id], "tags.\"icr.kind\" = 'arm'")
    assert sorted(arm.info.status for arm in arms) == ["FINISHED", "KILLED"]


def test_the_report_is_rebuilt_from_artifacts_alone(
    preset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config, options = parse("iterate", [f"--config={preset}", "--iterations=1"])
    arm = iterate(open_session(options), config)  # type: ignore[arg-type]
    assert arm.run is not None
    report = tmp_path / "report-icr.html"
    first = report.read_text()
    report.unlink()
    assert run(["report", arm.run.run_id]) == 0
    assert report.read_text() == first
    assert run(["report", "0123"]) == 2
    assert "no such run" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("keep", "reference", "rates", "given_up"),
    [
        ("all", "initial", [5, 6, 7], [[], [], []]),
        ("last", "initial", [5, 6, 7], [[], [1], [1, 2]]),
        ("last", "previous", [5, 6, 7], [[], [], [1, 2]]),
        ("best", "initial", [5, 7, 6], [[], [1], [1, 3]]),
        ("best", "initial", [7, 5, 6], [[], [], [2, 3]]),
        ("best", "initial", [7, 5, 7], [[], [], [1, 2]]),
        ("best", "previous", [7, 5, 6], [[], [], [2, 3]]),
        ("best", "initial", [None, None, None], [[], [1], [1, 2]]),
        ("best", "initial", [None, 5, float("nan")], [[], [1], [1, 3]]),
    ],
)
def test_which_checkpoints_are_given_up_after_each_of_three_iterations(
    keep: str, reference: str, rates: list[float | None], given_up: list[list[int]]
) -> None:
    config = IterateConfig.model_validate({"iterations": 3, "keep_checkpoints": keep, "reward_reference": reference})
    metrics = {t: {"gain_since_0": rate} if rate is not None else {} for t, rate in enumerate(rates, start=1)}
    seen = [checkpoints_to_give_up(config, t, {s: metrics[s] for s in range(1, t + 1)}) for t in (1, 2, 3)]
    assert seen == given_up


def test_a_pi_0_that_was_made_here_is_given_up_like_the_others() -> None:
    config = IterateConfig.model_validate(
        {"iterations": 2, "keep_checkpoints": "last", "start_preferences": "en.jsonl"}
    )
    assert [checkpoints_to_give_up(config, t, {}) for t in (0, 1, 2)] == [[], [0], [0, 1]]
    previous = config.model_copy(update={"reward_reference": "previous"})
    assert [checkpoints_to_give_up(previous, t, {}) for t in (0, 1, 2)] == [[], [], [0, 1]]


def weights_in(tracker: Tracker, run_id: str) -> list[str]:
    return [item.path for item in tracker.client.list_artifacts(run_id, "checkpoint") if "safetensors" in item.path]


def test_only_the_last_checkpoint_is_kept_and_finished_work_is_found_all_the_same(preset: Path, tmp_path: Path) -> None:
    config, options = parse("iterate", [f"--config={preset}", "--keep-checkpoints=last"])
    arm = iterate(open_session(options), config)  # type: ignore[arg-type]
    tracker = Tracker()
    first, second = (arm.stages[t, "train"].run for t in (1, 2))
    assert first is not None
    assert second is not None
    assert not weights_in(tracker, first.run_id)
    assert weights_in(tracker, second.run_id) == ["checkpoint/model.safetensors"]
    assert tracker.client.get_run(first.run_id).data.tags["icr.checkpoint"] == "removed"
    assert load_model(tracker.resolve("models:/icr-policy@iteration-2"))
    with pytest.raises(InputError, match="no such registered model"):
        tracker.resolve("models:/icr-policy@iteration-1")
    with pytest.raises(InputError, match="this checkpoint's weights were removed"):
        load_model(tracker.resolve(f"runs:/{first.run_id}/checkpoint"))

    again = iterate(open_session(options), config)  # type: ignore[arg-type]
    assert all(stage.reused for stage in again.stages.values())
    assert again.metrics == arm.metrics

    other = config.model_copy(update={"eval": config.eval.model_copy(update={"max_tokens": 12})})  # type: ignore[attr-defined]
    redone = iterate(open_session(options), other)  # type: ignore[arg-type]
    anew = {key for key, stage in redone.stages.items() if not stage.reused}
    assert anew == {(0, "eval"), (1, "eval"), (2, "eval"), (1, "train")}, "to evaluate pi_1 it is trained again"
    assert redone.stages[1, "train"].result.metrics["train/final_loss"] == arm.metrics[1]["train/final_loss"]


@pytest.mark.slow
def test_a_checkpoint_that_someone_named_stays(preset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config, options = parse("iterate", [f"--config={preset}", "--iterations=1"])
    one = iterate(open_session(options), config).stages[1, "train"].run  # type: ignore[arg-type]
    assert one is not None
    tracker = Tracker()
    tracker.client.set_registered_model_alias("icr-policy", "production", "1")
    config, options = parse("iterate", [f"--config={preset}", "--keep-checkpoints=last"])
    iterate(open_session(options), config)  # type: ignore[arg-type]
    assert weights_in(tracker, one.run_id)
    assert "its checkpoint stays for models:/icr-policy@production" in capsys.readouterr().err


@pytest.mark.slow
def test_without_mlflow_the_output_folder_keeps_what_was_asked_for(preset: Path, tmp_path: Path) -> None:
    flags = [f"--config={preset}", "--keep-checkpoints=last", "--tracking=false", f"--output={tmp_path / 'out'}"]
    config, options = parse("iterate", flags)
    arm = iterate(open_session(options), config)  # type: ignore[arg-type]
    first, second = (tmp_path / "out" / f"iteration-{t}" / "train" / "checkpoint" for t in (1, 2))
    assert not list(first.glob("*.safetensors"))
    assert load_model(str(second))
    before = model_identity(str(first)), (first / "manifest.json").stat().st_mtime_ns
    again = iterate(open_session(options), config)  # type: ignore[arg-type]
    assert again.stages[1, "train"].result.metrics == arm.stages[1, "train"].result.metrics
    assert before == (model_identity(str(first)), (first / "manifest.json").stat().st_mtime_ns)
    shutil.rmtree(tmp_path / "out" / "iteration-1" / "eval")
    iterate(open_session(options), config)  # type: ignore[arg-type]
    assert (tmp_path / "out" / "iteration-1" / "eval" / "scores" / "manifest.json").exists()
    assert not list(first.glob("*.safetensors")), "trained again for the evaluation, then given up again"
