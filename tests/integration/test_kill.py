"""`kill -9` at random points of every stage: the finished tables are byte-identical to an undisturbed run's."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from icr_platform.cli.commands import run

STAGES = ("generate", "annotate", "train", "eval")


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
    }  # fmt: skip
    return [stage, f"--policy={policy}", f"--output={output}", "--no-tracking", *own[stage]]


def tables(folder: Path) -> dict[str, bytes]:
    """Every finished file of a stage by relative name; work files of an unfinished one do not count.

    A checkpoint's manifest also says how many seconds the last attempt took, which is left out.
    """
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and not path.name.startswith("."))
    found = {str(path.relative_to(folder)): path.read_bytes() for path in files}
    if "checkpoint/manifest.json" in found:
        manifest = json.loads(found["checkpoint/manifest.json"])
        del manifest["extra"]["metrics"]["train/seconds"]
        found["checkpoint/manifest.json"] = json.dumps(manifest).encode()
    return found


def kill_somewhere(arguments: list[str], output: Path, seconds: float) -> None:
    """Start the stage and kill it at a random moment of its work (its imports, which dominate, are let pass)."""
    process = subprocess.Popen([sys.executable, "-m", "icr_platform", *arguments], stderr=subprocess.DEVNULL)
    before = len(list(output.rglob("*"))) if output.exists() else 0
    while process.poll() is None and (len(list(output.rglob("*"))) if output.exists() else 0) <= before:
        time.sleep(0.002)
    time.sleep(random.uniform(0, seconds))
    process.kill()
    process.wait()


def check(stage: str, kills: int, models: tuple[Path, Path], prompts: Path, tmp_path: Path) -> None:
    inputs = tmp_path / "inputs"
    for earlier in STAGES[: STAGES.index(stage)][:2]:
        assert run(flags(earlier, models, prompts, inputs, inputs)) == 0
    start = time.monotonic()
    assert run(flags(stage, models, prompts, inputs, tmp_path / "whole")) == 0
    seconds = time.monotonic() - start
    arguments = flags(stage, models, prompts, inputs, tmp_path / "killed")
    for _ in range(kills):
        kill_somewhere(arguments, tmp_path / "killed", seconds)
    assert run(arguments) == 0
    whole, killed = tables(tmp_path / "whole"), tables(tmp_path / "killed")
    assert sorted(killed) == sorted(whole)
    assert [name for name in whole if whole[name] != killed[name]] == []


@pytest.mark.parametrize("stage", STAGES)
def test_killed_twice(stage: str, tiny_models: tuple[Path, Path], prompt_folder: Path, tmp_path: Path) -> None:
    random.seed(os.environ.get("ICR_KILL_SEED", stage))
    check(stage, 2, tiny_models, prompt_folder, tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("stage", STAGES)
def test_killed_twenty_times(stage: str, tiny_models: tuple[Path, Path], prompt_folder: Path, tmp_path: Path) -> None:
    random.seed(os.environ.get("ICR_KILL_SEED", stage))
    check(stage, 20, tiny_models, prompt_folder, tmp_path)
