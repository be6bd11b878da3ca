"""The rehearsal for a GPU, small, on the CPU: every part prints a line of its schema, failures too, and it goes on where it stopped."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict, TypeAdapter

from tests.benchmarks import bench_paper_cost
from tests.benchmarks import gpu_rehearsal as bench
from tests.support.readme_tables import shown_table

SCRIPT = Path(bench.__file__)


class Line(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    part: str
    device: str
    ok: bool
    seconds: float


class Machine(Line):
    tflops: float
    copy_tb_s: float
    torch: str
    transformers: str
    trl: str
    peft: str


class Correctness(Line):
    packed: bool
    why_not_packed: str | None
    float32_from_own: float
    bfloat16_from_own: float
    bfloat16_from_float32: float
    own_bfloat16_from_float32: float


class Attention(Line):
    shape: str
    packed: bool
    packed_tokens_per_s: int
    own_tokens_per_s: dict[str, int]
    fastest: str


class Scoring(Line):
    shape: str
    packed: bool
    response_tokens: int
    tokens_per_s: int
    compiled_tokens_per_s: int
    mfu_of_product_rate: float
    times_naive: float
    peak_gb: float | None
    predicted_gb: float
    pack_tokens: int


class Sampled(BaseModel):
    tokens_per_s: int
    tokens: int


class Sample(Line):
    shape: str
    prompts: int
    max_tokens: int
    transformers: Sampled
    vllm: Sampled | str


class Training(Line):
    shape: str
    lora_rank: int
    is_compiled: bool
    stage_s: float
    step_s: float
    tokens_per_s: int
    peak_gb: float | None
    predicted_gb: float
    mfu_of_product_rate: float


class Iteration(Line):
    command: str
    iterate_s: float
    last_lines: list[str]


SCHEMAS: dict[str, type[Line]] = {
    "machine": Machine, "correctness": Correctness, "attention": Attention, "score-1B": Scoring, "score-8B": Scoring, "sample": Sample,
    "train-1B": Training, "train-1B-compiled": Training, "train-1B-lora": Training, "iteration": Iteration,
}  # fmt: skip


def lines_of(*words: str) -> list[dict[str, Any]]:
    command = [sys.executable, str(SCRIPT), "--tiny", *words]
    done = subprocess.run(command, capture_output=True, text=True, cwd=SCRIPT.parents[2])
    assert done.returncode == 0, done.stderr[-2000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_every_part_prints_its_line(tmp_path: Path) -> None:
    out = tmp_path / "lines.jsonl"
    lines = lines_of("--out", str(out))
    assert [line["part"] for line in lines] == list(bench.PARTS) == list(SCHEMAS)
    for line in lines:
        assert line["ok"], line
        TypeAdapter(SCHEMAS[line["part"]]).validate_python(line)
    found = {line["part"]: line for line in lines}
    assert found["correctness"]["packed"]
    assert found["correctness"]["float32_from_own"] < 2e-5
    assert lines_of("--out", str(out)) == [], "every part is there"


def test_what_failed_is_said_and_run_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bench, "SECONDS", 0.01)
    out = tmp_path / "lines.jsonl"
    for _ in range(2):  # a part without figures is not done
        bench.run_parts(["machine", "sample"], True, out)
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["part"] for line in lines] == ["machine", "sample"] * 2
    assert all(line["why"] == "not done within 0.01 s" and not line["ok"] for line in lines)
    assert "| sample | | | failed: not done within 0.01 s |" in bench.table_of(bench.lines_in(out))


def test_the_table_is_what_was_measured() -> None:
    shown = shown_table(SCRIPT.with_name("README.md"), "gpu_rehearsal")
    assert shown == bench.table_of(bench.lines_in(SCRIPT.with_suffix(".jsonl")))


def test_the_sheet_of_costs_is_what_the_rates_give() -> None:
    assert shown_table(bench_paper_cost.README, "bench_paper_cost") == bench_paper_cost.sheet()
