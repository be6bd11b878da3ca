"""`kill -9` at random points: the finished tables are byte-identical to an undisturbed run's, the run in MLflow has its whole curve, no
process outlives its parent, and nothing is left in the temporary folder."""

from __future__ import annotations

import contextlib
import json
import os
import random
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path

import psutil
import pytest
from mlflow import MlflowClient

from icr_platform.cli.commands import run

TOKEN = "ICR_TEST_KILL"
TWO_PROCESSES = Path(__file__).parents[2] / "projects" / "conf" / "accelerate" / "cpu-2-processes.yaml"
STAGES = ("generate", "annotate", "train", "eval")
ITERATIONS = 2


def flags(stage: str, models: tuple[Path, Path], prompts: Path, inputs: Path, output: Path) -> list[str]:
    """A small configuration of `stage`, with many shards so that there is something to kill between."""
    policy, reference = models
    sampling = ["--max-tokens=32", "--shard-prompts=1", "--batch-size=2"]
    own = {
        "generate": [f"--prompts={prompts}", "--samples=6", *sampling],
        "annotate": [f"--reference={reference}", f"--prompts={prompts}", f"--responses={inputs / 'responses'}",
                     "--reward-kind=cross-lingual,multilingual", "--drop-wrong-language=false", "--drop-truncated=false"],
        "train": [f"--preferences={inputs / 'preferences'}", "--learning-rate=1e-3", "--epochs=8", "--batch-size=2",
                  "--accumulation=1", "--save-steps=3"],
        "eval": [f"--prompts={prompts}", "--samples=2", *sampling],
        "iterate": [f"--iterations={ITERATIONS}", f"--reference={reference}", f"--prompts={prompts}", f"--eval-prompts={prompts}",
                    "--generate-samples=4", "--generate-max-tokens=24", "--generate-shard-prompts=2",
                    "--annotate-drop-wrong-language=false", "--annotate-drop-truncated=false",
                    "--train-learning-rate=1e-3", "--train-epochs=4", "--train-batch-size=2", "--train-accumulation=1",
                    "--train-save-steps=3", "--eval-max-tokens=24", "--eval-shard-prompts=2"],
    }  # fmt: skip
    return [stage, f"--policy={policy}", f"--output={output}", *own[stage]]


def tables(folder: Path) -> dict[str, bytes]:
    """Every finished file of a stage by relative name; work files of an unfinished one do not count.

    A checkpoint's manifest also says how many seconds the last attempt took, which is left out, and so is an arm's report, which
    names its runs.
    """
    files = (
        path
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.startswith(".") and path.suffix != ".html"
    )
    found = {str(path.relative_to(folder)): path.read_bytes() for path in files}
    for name in found:
        if name.endswith("checkpoint/manifest.json"):
            manifest = json.loads(found[name])
            del manifest["extra"]["metrics"]["train/seconds"]
            found[name] = json.dumps(manifest).encode()
    return found


def count_below(folder: Path) -> int:
    """Files and folders, also while some of them go."""
    return sum(len(folders) + len(files) for _, folders, files in os.walk(folder))


def kill_somewhere(arguments: list[str], output: Path, seconds: float) -> None:
    """Start the stage and kill it within `seconds` of its work (its imports, which dominate, are let pass)."""
    process = subprocess.Popen(
        [sys.executable, "-m", "icr_platform", *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    before = count_below(output)
    while process.poll() is None and count_below(output) <= before:
        time.sleep(0.002)
    time.sleep(random.uniform(0, seconds))
    process.kill()
    process.wait()


def alive(token: str) -> list[int]:
    """Processes, other than this one, that were started with this token in their environment."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.pid != os.getpid() and process.environ().get(TOKEN) == token:
                found.append(process.pid)
    return found


def curves_of(place: Path) -> dict[str, list[int]]:
    """Steps of the newest run in a store that trained, by iteration, in the order of MLflow's rows, and those of the newest arm."""
    client = MlflowClient(f"sqlite:///{place}/mlflow.db")
    experiments = [each.experiment_id for each in client.search_experiments()]
    finished = client.search_runs(experiments, "attributes.status = 'FINISHED'")  # the newest first
    curves: dict[str, list[int]] = {}
    for each in finished:
        tags = each.data.tags
        if tags.get("icr.kind") == "arm":
            name, metric = "arm", "fidelity/es"
        elif tags.get("icr.stage") == "train" and "icr.reused_run" not in tags:  # a kill may come when all is done
            name, metric = tags.get("icr.iteration", ""), "train/loss"
        else:
            continue
        if name not in curves:
            curves[name] = [point.step for point in client.get_metric_history(each.info.run_id, metric)]
    return curves


def check(
    stage: str,
    kills: int,
    models: tuple[Path, Path],
    prompts: Path,
    tmp_path: Path,
    patch: pytest.MonkeyPatch,
    *more: str,
) -> None:
    inputs, places = tmp_path / "inputs", {name: tmp_path / f"in-{name}" for name in ("whole", "killed")}
    token = uuid.uuid4().hex
    for name in (*places, "temporary"):
        places.setdefault(name, tmp_path / name).mkdir()
    patch.setenv(TOKEN, token)
    patch.setenv("TMPDIR", str(places["temporary"]))
    patch.setattr(tempfile, "tempdir", None)
    for earlier in ("generate", "annotate") if stage == "train" else ("generate",) if stage == "annotate" else ():
        assert run([*flags(earlier, models, prompts, inputs, inputs), "--no-tracking"]) == 0

    def begin(name: str) -> list[str]:
        """Go to a folder with a store of its own."""
        patch.chdir(places[name])
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{places[name]}/mlflow.db")
        return [*flags(stage, models, prompts, inputs, tmp_path / name), *more]

    start = time.monotonic()
    assert run(begin("whole")) == 0
    seconds = time.monotonic() - start
    before = sorted(places["temporary"].rglob("*"))
    arguments = begin("killed")
    for _ in range(kills):
        kill_somewhere(arguments, tmp_path / "killed", seconds / (4 if stage == "iterate" else 1))
        deadline = time.monotonic() + 60
        while (orphans := alive(token)) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert not orphans
    assert run(arguments) == 0
    whole, killed = tables(tmp_path / "whole"), tables(tmp_path / "killed")
    assert sorted(killed) == sorted(whole)
    assert [name for name in whole if whole[name] != killed[name]] == []
    curves = curves_of(places["whole"])
    assert curves_of(places["killed"]) == curves
    assert all(curves.values())
    expected = {"train": {""}, "iterate": {"arm", *map(str, range(1, ITERATIONS + 1))}}
    assert set(curves) == expected.get(stage, set())
    assert not alive(token)
    assert sorted(places["temporary"].rglob("*")) == before


@pytest.mark.parametrize("stage", STAGES)
def test_killed_twice(
    stage: str, tiny_models: tuple[Path, Path], prompt_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    random.seed(os.environ.get("ICR_KILL_SEED", stage))
    check(stage, 2, tiny_models, prompt_folder, tmp_path, monkeypatch)


@pytest.mark.slow
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("stage", STAGES)
def test_killed_twenty_times(
    stage: str, tiny_models: tuple[Path, Path], prompt_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    random.seed(os.environ.get("ICR_KILL_SEED", stage))
    check(stage, 20, tiny_models, prompt_folder, tmp_path, monkeypatch)


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_training_in_two_processes_killed_ten_times(
    tiny_models: tuple[Path, Path], prompt_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    random.seed(os.environ.get("ICR_KILL_SEED", "two"))
    more = (f"--accelerate-config={TWO_PROCESSES}", "--device=cpu", "--batch-size=1")
    check("train", 10, tiny_models, prompt_folder, tmp_path, monkeypatch, *more)


@pytest.mark.slow
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("processes", [1, 2])
def test_iterate_killed_ten_times(
    processes: int,
    tiny_models: tuple[Path, Path],
    prompt_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    random.seed(os.environ.get("ICR_KILL_SEED", "iterate"))
    more = (f"--train-accelerate-config={TWO_PROCESSES}", "--train-device=cpu", "--train-batch-size=1")
    check("iterate", 10, tiny_models, prompt_folder, tmp_path, monkeypatch, *(more if processes == 2 else ()))
