"""`icr check PRESET --rehearse N`: every stage on the real models, in minutes, and nothing left behind."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from icr_platform.cli import commands
from tests.support.tiny_models import PROMPTS, RESPONSES

STAGES = ["generate", "annotate", "train"]


@pytest.fixture
def preset(
    tiny_models: tuple[Path, Path], prompt_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Path]:
    """`preset(**changes)` writes one with tiny models, prompts and reference outputs, in a folder of its own."""
    policy, reference = tiny_models
    outputs = tmp_path / "outputs"
    outputs.mkdir()
    for language in PROMPTS:
        ids = [json.loads(line)["id"] for line in (prompt_folder / f"{language}.jsonl").read_text().splitlines()]
        rows = [{"id": name, "output": text} for name, text in zip(ids, RESPONSES[language], strict=True)]
        (outputs / f"{language}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    place = tmp_path / "place"
    place.mkdir()
    monkeypatch.chdir(place)
    here = {"device": "cpu", "dtype": "float32"}
    values: dict[str, Any] = {
        "policy": str(policy), "reference": str(reference), "prompts": str(prompt_folder),
        "generate": {"samples": 6, "max_tokens": 48, **here},
        # Nobody could identify the languages that tiny models write.
        "annotate": {"drop_wrong_language": False, **here},
        "train": {"learning_rate": 1e-4, "accumulation": 2, "epochs": 3, **here},
        "eval": {"max_tokens": 48, **here},
    }  # fmt: skip

    def written(**changes: Any) -> Path:
        for name, value in changes.items():
            if isinstance(value, dict):
                values[name] = values[name] | value
            else:
                values[name] = value
        if values.get("eval_prompts"):
            values["reference_outputs"] = str(outputs)
        path = tmp_path / "mine.yaml"
        path.write_text(yaml.safe_dump(values))
        return path

    return written


def stage_lines(out: str) -> dict[tuple[int, str], str]:
    """What was said of each stage that passed or failed, by iteration and stage."""
    found = re.findall(r"^iteration (\d)  (\w+) +(.*)$", out, re.MULTILINE)
    return {(int(iteration), stage): told for iteration, stage, told in found}


def test_every_stage_is_rehearsed_and_nothing_is_left(
    preset: Callable[..., Path], tmp_path: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    judge = {"judge": "logprob", "judge_model": str(tiny_model), "judge_min_mass": 0.0}
    path = preset(eval_prompts=str(tmp_path / "prompts"), eval=judge, iterations=3)
    assert commands.run(["check", str(path), "--rehearse", "2", "--rehearse-tokens", "12"]) == 0
    assert list(Path().iterdir()) == []  # no store, no work folder, no report
    out = capsys.readouterr().out
    said = stage_lines(out)
    # The policy that was given, and the one that training has just made: later iterations are like the second.
    assert list(said) == [
        *((1, stage) for stage in STAGES), (0, "eval"), (1, "eval"), *((2, stage) for stage in STAGES),
    ]  # fmt: skip
    assert "24 responses" in said[1, "generate"]  # 2 prompts, 3 languages, 4 responses
    assert "pairs of 6 prompts; median margin" in said[1, "annotate"]
    assert "one step, loss" in said[1, "train"]
    assert "12 judgments, win rate" in said[1, "eval"]  # both orders
    assert all(re.match(r"[\d.]+ (ms|s|min)  [\d.]+ [MG]B  ", told) for told in said.values()), said
    for language in PROMPTS:
        assert len(re.findall(rf"^ {{13}}{language} ", out, re.MULTILINE)) == 2  # what each policy writes
    assert "all iterations" in out
    assert out.rstrip().endswith("rehearsal: all 8 stages passed")


def test_one_iteration_without_evaluation_is_rehearsed_as_that(
    preset: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    path = preset(iterations=1, stage_processes=True, train={"lora_rank": 4})
    kept = Path("notes.txt")
    kept.write_text("mine")
    assert commands.run(["check", str(path), "--rehearse", "1"]) == 0
    assert [path.name for path in Path().iterdir()] == ["notes.txt"]
    out = capsys.readouterr().out
    assert list(stage_lines(out)) == [(1, stage) for stage in STAGES]
    assert "all iterations" in out  # processes of their own say what they measured


def test_a_stage_that_fails_is_said_and_the_others_are_rehearsed(
    preset: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = preset(eval_prompts=str(tmp_path / "prompts"), train={"learning_rate": 1e-30})
    assert commands.run(["check", str(path), "--rehearse", "1", "--rehearse-tokens", "12"]) == 1
    assert list(Path().iterdir()) == []
    captured = capsys.readouterr()
    said = stage_lines(captured.out)
    assert said[1, "train"].endswith("FAILED")
    assert list(said) == [(1, "generate"), (1, "annotate"), (1, "train"), (0, "eval")]
    (line,) = [line for line in captured.err.splitlines() if line.startswith("icr: ")]
    assert line.startswith("icr: rehearsal of train in iteration 1: train: 1 steps changed no weight")
    assert ".icr-rehearsal" not in line
    assert "rehearsal: 1 stages failed, 3 passed" in captured.out


def test_training_is_rehearsed_without_pairs_and_why_there_are_none_is_said(
    preset: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """A greedy policy writes one response however often it is asked."""
    path = preset(
        iterations=1, generate={"temperature": 0}, reference=str(yaml.safe_load(preset().read_text())["policy"])
    )
    assert commands.run(["check", str(path), "--rehearse", "1", "--rehearse-tokens", "12"]) == 0
    out = capsys.readouterr().out
    said = stage_lines(out)
    assert "0 pairs of 3 prompts" in said[1, "annotate"]
    assert "there are no pairs: training is rehearsed on made-up ones" in out
    assert "3 pairs, one step" in said[1, "train"]
    assert "looks wrong: iteration 1, annotate: es: none of 1 prompts gives a pair" in out
    assert "policy and reference give every response the same probability: are they the same model?" in out


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "device": ({"train": {"device": "cuda"}}, "field 'device' is 'cuda' but no GPU is visible"),
    "dtype": ({"train": {"dtype": "float16"}}, "float16 does not train on a CPU"),
    "accelerate": ({"train": {"accelerate_config": "nowhere.yaml"}}, "nowhere.yaml"),
    "router": ({"train": {"router_loss": 0.1}}, "not a mixture of experts"),
    "kinds": ({"annotate": {"reward_kind": ["random", "random"]}}, "field 'reward_kind'"),
    "alpha": ({"annotate": {"alpha_min": 1.0, "alpha_max": 0.0}}, "field 'alpha_min'"),
    "translator": ({"annotate": {"reward_kind": ["translate"]}}, "field 'translator' is missing"),
    "sampler": ({"generate": {"sampler": "no_such_module:load"}}, "no_such_module"),
}


@pytest.mark.parametrize(("kind", "arguments"), [*((kind, []) for kind in REFUSED), ("device", ["--rehearse", "1"])])
def test_what_a_later_stage_would_refuse_is_refused_before_anything_is_spent(
    preset: Callable[..., Path], kind: str, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    changes, said = REFUSED[kind]
    assert commands.run(["check", str(preset(**changes)), "--no-tracking", *arguments]) == 2
    captured = capsys.readouterr()
    assert any(said in line for line in captured.err.splitlines() if line.startswith("icr: ")), captured.err
    assert "rehearsal" not in captured.out + captured.err
    assert list(Path().iterdir()) == []


@pytest.mark.parametrize("arguments", [["--rehearse", "-1"], ["--rehearse", "1", "--rehearse-tokens", "0"]])
def test_a_rehearsal_of_nothing_is_refused(preset: Callable[..., Path], arguments: list[str]) -> None:
    assert commands.run(["check", str(preset()), *arguments]) == 2


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_rehearsal_leaves_nothing(preset: Callable[..., Path], number: signal.Signals) -> None:
    command = [sys.executable, "-m", "icr_platform", "check", str(preset()), "--rehearse", "2"]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        for line in process.stdout:
            if line.startswith("iteration 1  generate"):
                break
        assert [path.name.rpartition("-")[0] for path in Path().iterdir()] == [".icr-rehearsal"]
        process.send_signal(number)
        said = process.stderr.read()
        process.wait(60)
    if number != signal.SIGKILL:
        assert process.returncode == 130
        assert "nothing of it is kept" in said
    deadline = time.monotonic() + 20
    while list(Path().iterdir()) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert list(Path().iterdir()) == []


def test_the_demo_is_rehearsed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert commands.run(["check", "demo", "--rehearse", "2"]) == 0
    assert list(tmp_path.iterdir()) == []
    out = capsys.readouterr().out
    assert "rehearsal: all 10 stages passed" in out  # with own samples, which the demo grades, in both iterations
    assert "in their language: en 8/8, es 8/8, de 8/8, fr 8/8, ru 8/8" in stage_lines(out)[1, "generate"]
