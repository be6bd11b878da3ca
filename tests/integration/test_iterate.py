"""The whole loop on tiny models and a real store: run tree, learning curve, resume and reuse."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from icr_platform.cli import parse, run
from icr_platform.iterate import iterate
from icr_platform.runner import open_session
from icr_platform.tracking import Tracker


@pytest.fixture
def preset(
    tmp_path: Path, tiny_models: tuple[Path, Path], prompt_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """An `iterate` preset on tiny models: 3 languages, 1 iteration, reference outputs written here."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)
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
    artifacts = {item.path for item in tracker.client.list_artifacts(arm.run.run_id)}
    assert "report-icr.html" in artifacts
    assert tracker.resolve_model("models:/icr-policy@iteration-2").endswith("checkpoint")
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
        return Path(Tracker().resolve_model("models:/icr-policy@iteration-1"), "manifest.json").read_text()

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
