"""The loop with everything that is measured without a judge: rewards on labelled pairs, own samples before training, instructions."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from icr_platform.cli.commands import run
from icr_platform.cli.flags import parse
from icr_platform.pipeline.iterate import iterate
from icr_platform.pipeline.session import open_session
from icr_platform.tracking.tracker import Tracker
from tests.support.tiny_models import PROMPTS, RESPONSES

KINDS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("punctuation:no_comma", {}),
    ("length_constraints:number_words", {"num_words": 3, "relation": "less than"}),
    ("change_case:english_capital", {}),
)


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def with_instruction(language: str, index: int) -> dict[str, Any]:
    kind, kwargs = KINDS[index % len(KINDS)]
    return {
        "id": f"p{index}",
        "instruction": PROMPTS[language][index],
        "instruction_id_list": [kind],
        "kwargs": [kwargs],
    }


@pytest.fixture
def preset(tmp_path: Path, tiny_models: tuple[Path, Path], own_store: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two iterations in two languages, with everything switched on but a judge."""
    monkeypatch.setenv("COLUMNS", "120")
    for language in ("en", "es"):
        write_rows(tmp_path / "prompts" / f"{language}.jsonl", [with_instruction(language, i) for i in range(6)])
        pairs = [
            {
                "id": f"q{i}",
                "prompt": PROMPTS[language][i],
                "chosen": RESPONSES[language][i],
                "rejected": RESPONSES[language][i - 1],
            }
            for i in range(6)
        ]
        write_rows(tmp_path / "pairs" / f"{language}.jsonl", pairs)
        asked = [with_instruction(language, i) for i in range(3)]
        mif = [
            {"key": 1000 + i, "prompt": row["instruction"], **{k: row[k] for k in ("instruction_id_list", "kwargs")}}
            for i, row in enumerate(asked)
        ]
        write_rows(tmp_path / "mif" / f"{language}_local.jsonl", mif)
    policy, reference = tiny_models
    values = {
        "iterations": 2,
        "policy": str(policy),
        "reference": str(reference),
        "prompts": "prompts",
        "eval_prompts": "prompts",
        "reward_pairs": "pairs",
        "instruction_prompts": "mif",
        "reward_reference": "previous",
        "keep_checkpoints": "last",
        "seed": 1,
        "generate": {"samples": 4, "max_tokens": 24},
        "annotate": {"drop_wrong_language": False, "drop_truncated": False},
        "train": {"learning_rate": 1e-4, "batch_size": 4, "accumulation": 1},
        "eval": {"max_tokens": 24},
        "instructions": {"max_tokens": 24},
    }
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


EVERY = {"eval", "reward_bench", "instructions"}
IMPROVING = EVERY | {"generate", "annotate", "own_samples", "train"}


def test_everything_is_measured_resumed_and_found_again(
    preset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Killed between the samples and their training: what predicts the iteration has been said by then.
    command = [sys.executable, "-m", "icr_platform", "iterate", f"--config={preset}"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert process.stdout is not None
    seen = []
    for line in process.stdout:
        seen.append(line.strip())
        if line.startswith("iteration 1: train"):
            break
    process.kill()
    process.communicate()
    said = "\n".join(seen)
    assert seen.index("iteration 1: own_samples") < seen.index("iteration 1: train")
    assert "Iteration 1, before it trains: is the reward right on pi_0's own samples?" in said

    config, options = parse("iterate", [f"--config={preset}"])
    arm = iterate(open_session(options), config)  # type: ignore[arg-type]
    steps = [{step for t, step in arm.stages if t == iteration} for iteration in range(3)]
    assert steps == [EVERY, IMPROVING, IMPROVING]
    before_the_kill = {key for key, stage in arm.stages.items() if stage.reused}
    assert before_the_kill == {
        *((0, step) for step in EVERY),
        *((1, s) for s in ("generate", "annotate", "own_samples")),
    }
    check_metrics(arm)
    out = capsys.readouterr().out
    assert "Is the reward right? On labelled pairs, %" in out
    assert "Are instructions followed? Instructions, %" in out
    report = (tmp_path / "report-icr.html").read_text()
    assert "Is the reward right?" in report

    again = iterate(open_session(options), config)  # type: ignore[arg-type]
    assert all(stage.reused for stage in again.stages.values())
    assert again.metrics == arm.metrics
    assert "Iteration 1, before it trains" in capsys.readouterr().out, "also of work that was found"
    assert run(["report", arm.run.run_id]) == 0  # type: ignore[union-attr]
    assert (tmp_path / "report-icr.html").read_text() == report


def check_metrics(arm: Any) -> None:
    """The same keys on the iteration and, of what comes first, on the arm, and the reference of each policy's reward."""
    tracker = Tracker()
    for name, iterations in (
        ("reward_accuracy/cross-lingual/mean", [0, 1, 2]),
        ("reward_accuracy/length/mean", [0, 1, 2]),
        ("instruction_accuracy/strict/mean", [0, 1, 2]),
        ("prompt_accuracy/loose/mean", [0, 1, 2]),
        ("fidelity/es", [0, 1, 2]),
        ("fidelity/mean", [0, 1, 2]),
    ):
        points = tracker.client.get_metric_history(arm.run.run_id, name)
        assert [point.step for point in points] == iterations, name
        assert [arm.metrics[t][name] for t in iterations] == [point.value for point in points], name
    children = {int(run.data.tags["icr.iteration"]): run for run in tracker.children(arm.run.run_id)}
    for name, iterations in (
        ("reward_accuracy_low/multilingual/en", [0, 1, 2]),
        ("prompt_accuracy_change/strict/en", [1, 2]),
        ("prompt_accuracy_change_since_0/strict/en", [1, 2]),
        ("unverified/es", [0, 1, 2]),
    ):
        found = {t: run.data.metrics[name] for t, run in children.items() if name in run.data.metrics}
        assert found == {t: arm.metrics[t][name] for t in iterations}, name
    assert [t for t in arm.metrics if any(name.startswith("own_reward_a") for name in arm.metrics[t])] == [1, 2]
    assert (
        children[2].data.metrics["reward_accuracy/cross-lingual/es"]
        == arm.metrics[2]["reward_accuracy/cross-lingual/es"]
    )
    for number, run_of in children.items():
        steps = {
            one.data.tags.get("icr.step", one.data.tags["icr.stage"]) for one in tracker.children(run_of.info.run_id)
        }
        assert steps == (IMPROVING if number else EVERY)
    assert arm.benching(0).reference == arm.config.reference
    assert [arm.benching(t).reference for t in (1, 2)] == arm.policies[:2], "the policy before, as the reward has it"


def test_check_and_rehearsal_know_what_is_measured(preset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["check", str(preset), "--rehearse=1", "--rehearse-tokens=8", "--iterations=1"]) == 0
    out = capsys.readouterr().out
    assert "reward pairs: en 6, es 6; of every policy" in out
    assert "instruction prompts: en 3, es 3; of every policy" in out
    assert "own samples: instructions says which are right, before each training" in out
    lines = [line for line in out.splitlines() if line.startswith("iteration ")]
    assert [line.split()[2] for line in lines] == [
        "generate", "annotate", "own_samples", "train", "eval", "reward_bench", "instructions", "eval", "reward_bench", "instructions",
    ]  # fmt: skip
    assert "rehearsal: all 10 stages passed" in out


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"reward_pairs": "nowhere"}, "nowhere"),
        ({"instruction_prompts": "pairs"}, "instruction_id_list"),
        ({"reward_bench": {"checker": "nobody:knows"}}, "config: field 'checker' is 'nobody:knows'"),
        ({"reward_bench": {"reward_kind": ["translate"]}}, "config: field 'translator' is missing"),
        ({"benchmarks": {"families": ["arc"]}}, "field 'eval_languages' is empty"),
        ({"benchmarks": {"families": ["no_such"]}, "eval_languages": ["en"]}, "no_such"),
    ],
)
def test_what_cannot_be_measured_is_said_before_anything_runs(
    preset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], change: dict[str, Any], said: str
) -> None:
    preset.write_text(yaml.safe_dump(yaml.safe_load(preset.read_text()) | change))
    assert run(["check", str(preset)]) == 2
    assert said in capsys.readouterr().err
    assert run(["iterate", f"--config={preset}"]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert "iteration 0: eval" not in error, "no stage has begun"
    assert "Traceback" not in error
