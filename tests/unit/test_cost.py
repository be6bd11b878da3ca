"""What work cost: attempts on disk, tokens where they are spent, hours, dollars, and what is counted once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from icr_platform.core.measured_here import cpu_name
from icr_platform.core.progress import meter
from icr_platform.core.spending import ChildsSpending, spend, spent
from icr_platform.engines.endpoints.replies import Reply
from icr_platform.engines.endpoints.reply_cache import ReplyCache
from icr_platform.pipeline import devices_used
from icr_platform.pipeline.attempts import Attempt, attempts_in, counted_attempt
from icr_platform.pipeline.cost import CostedRun, cost_of, costs_by_iteration, total
from icr_platform.pipeline.devices_used import Devices, devices_of
from icr_platform.report.arm_report import Report, policies_of, write_report
from icr_platform.report.cost_table import cost_rows, cost_until
from icr_platform.report.iteration_metrics import IterationMetrics
from icr_platform.report.leaderboard import leaderboard

CPU, GPU = Devices("cpu", "a processor", 4), Devices("gpu", "an accelerator", 2)


def test_attempts_add_up_also_those_that_failed(tmp_path: Path) -> None:
    with counted_attempt(tmp_path, "eval", "f", CPU), meter("sample", 3, use="sampled") as progress:
        progress.advance(3, 30)

    def fail() -> None:
        with counted_attempt(tmp_path, "eval", "f", GPU):
            spend("judge_input", 7)
            raise ValueError("on purpose")

    with pytest.raises(ValueError, match="on purpose"):
        fail()
    with counted_attempt(tmp_path, "train", "f", GPU):  # another stage in the same folder
        spend("trained", 1)
    first, second = attempts_in(tmp_path, "eval", "f")
    assert (first.devices, first.tokens) == (CPU, {"sampled": 30})
    assert (second.devices, second.tokens) == (GPU, {"judge_input": 7})
    assert attempts_in(tmp_path, "eval", "other work") == []
    with counted_attempt(tmp_path, "eval", "other work", CPU):
        pass
    assert len(attempts_in(tmp_path, "eval", "other work")) == 1
    assert attempts_in(tmp_path, "eval", "f") == [], "work of another fingerprint took the folder"


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"fingerprint": "f"}', '{"fingerprint": "f", "attempts": [{}]}', "\x00"]
)
def test_a_damaged_record_ends_no_work(tmp_path: Path, text: str) -> None:
    (tmp_path / ".cost-eval.json").write_text(text)
    with counted_attempt(tmp_path, "eval", "f", CPU):
        pass
    assert len(attempts_in(tmp_path, "eval", "f")) == 1


def test_an_attempt_that_was_killed_counts(tmp_path: Path) -> None:
    code = f"""
import time
from pathlib import Path
from icr_platform.core.spending import spend
from icr_platform.pipeline import attempts
attempts._EVERY = 0.05
with attempts.counted_attempt(Path({str(tmp_path)!r}), "generate", "f", attempts.Devices("gpu", "an accelerator", 2)):
    spend("sampled", 5)
    print("spent", flush=True)
    time.sleep(60)
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "spent\n"
    deadline = time.monotonic() + 60
    while not any(one.tokens for one in attempts_in(tmp_path, "generate", "f")) and time.monotonic() < deadline:
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    (killed,) = attempts_in(tmp_path, "generate", "f")
    assert killed.seconds > 0
    assert killed.tokens == {"sampled": 5}
    with counted_attempt(tmp_path, "generate", "f", GPU):
        spend("sampled", 7)
    both = attempts_in(tmp_path, "generate", "f")
    assert [one.tokens for one in both] == [{"sampled": 5}, {"sampled": 7}]
    assert cost_of(both, None)["cost/tokens_sampled"] == 12


def test_replies_are_paid_for_once(tmp_path: Path) -> None:
    cache = ReplyCache(tmp_path)
    before = spent()
    reply = Reply("m", None, None, "stop", input_tokens=40, output_tokens=2)
    cache.put("key", "judge", [{"role": "user", "content": "?"}], reply)
    assert cache.get("key") is not None
    assert spent() - before == {"judge_input": 40, "judge_output": 2}


def test_a_childs_tokens_are_taken_over_once(tmp_path: Path) -> None:
    path = tmp_path / "spent.json"
    path.write_text('{"trained": 1000}')  # an earlier child's
    parent = ChildsSpending(path)
    before = spent()
    parent.follow()
    path.write_text('{"trained": 10}')
    parent.follow()
    parent.follow()
    path.write_text('{"trained": 25, "scored": 3}')
    parent.follow()
    path.write_text('{"trained": 2')  # half a line
    parent.follow()
    assert spent() - before == {"trained": 25, "scored": 3}


def test_a_child_tells_what_it_spent(tmp_path: Path) -> None:
    code = f"""
from pathlib import Path
from icr_platform.core.spending import spend, told_to_parent
with told_to_parent(Path({str(tmp_path)!r}) / "none.json"):
    pass
with told_to_parent(Path({str(tmp_path)!r}) / "spent.json"):
    spend("trained", 9)
"""
    subprocess.run([sys.executable, "-c", code], check=True)
    assert (tmp_path / "spent.json").read_text() == '{"trained": 9}'
    assert not (tmp_path / "none.json").exists()


def test_threads_lose_nothing() -> None:
    before = spent()

    def work() -> None:
        for _ in range(1000):
            spend("scored", 1)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (spent() - before)["scored"] == 8000


def priced(asked: float = 0.0, answered: float = 0.0, **more: object) -> SimpleNamespace:
    return SimpleNamespace(judge_input_price=asked, judge_output_price=answered, **more)


COSTS = [
    ([], priced(), {}),
    ([Attempt(1800, GPU)], None, {"cost/gpu_hours": 1.0}),
    ([Attempt(1800, GPU), Attempt(900, GPU, {"scored": 5})], None, {"cost/gpu_hours": 1.5, "cost/tokens_scored": 5}),
    ([Attempt(3600, CPU)], None, {"cost/cpu_hours": 4.0}),
    ([Attempt(3600, CPU), Attempt(3600, GPU)], None, {"cost/cpu_hours": 4.0, "cost/gpu_hours": 2.0}),  # resumed elsewhere
    (
        [Attempt(0, CPU, {"sampled": 3, "judge_input": 1_000_000, "judge_output": 10})],
        priced(2.0, 100.0, judge="openai"),
        {"cost/tokens_sampled": 3, "cost/tokens_judged": 1_000_010, "cost/judge_dollars": 2.001},
    ),
    ([Attempt(0, CPU, {"judge_input": 4, "judge_output": 1})], priced(judge="openai"), {"cost/tokens_judged": 5}),  # no price
    ([Attempt(0, CPU, {"judge_input": 4})], priced(9.0, judge="logprob"), {"cost/tokens_judged": 4}),  # its own GPU
    ([Attempt(0, CPU, {"judge_output": 1_000_000})], priced(0.0, 8.0), {"cost/tokens_judged": 1e6, "cost/judge_dollars": 8.0}),
    ([Attempt(0, CPU)], priced(2.0, 8.0, judge="openai"), {}),  # all replies were in the cache
]  # fmt: skip


@pytest.mark.parametrize(("attempts", "config", "expected"), COSTS)
def test_hours_tokens_and_dollars(attempts: list[Attempt], config: object, expected: dict[str, float]) -> None:
    assert cost_of(attempts, config) == pytest.approx(expected)


def run(iteration: int, name: str, hours: float, reused: bool = False) -> CostedRun:
    return CostedRun(iteration, name, reused, {"cost/gpu_hours": hours})


RUNS = [
    ([run(0, "a", 1.0), run(1, "b", 2.0)], {0: {"cost/gpu_hours": 1.0}, 1: {"cost/gpu_hours": 2.0}}),
    ([run(0, "a", 1.0), run(0, "b", 2.0)], {0: {"cost/gpu_hours": 3.0}}),
    ([run(0, "a", 1.0), run(0, "b", 2.0, True)], {0: {"cost/gpu_hours": 1.0, "cost/reused_gpu_hours": 2.0}}),
    ([run(0, "a", 1.0), run(1, "a", 1.0, True)], {0: {"cost/gpu_hours": 1.0}, 1: {}}),  # what this arm made itself
    ([run(0, "a", 1.0, True), run(1, "a", 1.0, True)], {0: {"cost/reused_gpu_hours": 1.0}, 1: {}}),
    ([run(0, "", 1.0), run(1, "", 2.0)], {0: {"cost/gpu_hours": 1.0}, 1: {"cost/gpu_hours": 2.0}}),  # untracked
    ([CostedRun(0, "a", False, {})], {0: {}}),  # of a version that counted nothing
    ([], {}),
]


@pytest.mark.parametrize(("runs", "expected"), RUNS)
def test_nothing_is_counted_twice(runs: list[CostedRun], expected: dict[int, dict[str, float]]) -> None:
    assert costs_by_iteration(runs) == expected
    spent_here = total(expected.values()).get("cost/gpu_hours", 0.0)
    assert spent_here == sum(one.cost.get("cost/gpu_hours", 0.0) for one in runs if not one.reused)


def config_on(device: str, **more: object) -> SimpleNamespace:
    return SimpleNamespace(device=device, **more)


ON_GPUS = [
    (config_on("auto"), 1),
    (config_on("cuda:1"), 1),
    (config_on("balanced"), 8),
    (config_on("cuda", sampler="vllm", tensor_parallel=2, data_parallel=3, execution="local"), 6),
    (config_on("cuda", sampler="transformers", execution="ray", concurrency=4, num_gpus=None), 4),
    (
        config_on(
            "cuda", sampler="vllm", tensor_parallel=2, data_parallel=1, execution="ray", concurrency=3, num_gpus=None
        ),
        6,
    ),
    (config_on("cuda", sampler="transformers", execution="ray", concurrency=4, num_gpus=0.5), 2),
    (config_on("cpu"), 0),
    (config_on("cuda", sampler="server", judge="openai"), 0),  # both models are someone else's
    (config_on("cuda", sampler="server", judge="logprob", execution="local"), 1),
    (config_on("cuda", sampler="vllm", tensor_parallel=2, data_parallel=1, outputs="given.jsonl", judge="openai"), 0),
    (SimpleNamespace(), 0),  # a stage without a model
]


@pytest.mark.parametrize(("config", "gpus"), ON_GPUS)
def test_devices_that_a_stage_holds(config: SimpleNamespace, gpus: float, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    monkeypatch.setattr(devices_used, "gpu_name", lambda: "NVIDIA H100")
    found = devices_of(config)
    assert (found.kind, found.held) == (("gpu", gpus) if gpus else ("cpu", len(os.sched_getaffinity(0))))
    assert found.name == ("NVIDIA H100" if gpus else cpu_name())


def test_processes_of_a_launch_and_workers_without_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(devices_used, "gpu_name", lambda: "NVIDIA H100")
    launched = tmp_path / "ddp.yaml"
    launched.write_text("num_processes: 8\n")
    config = config_on("auto", accelerate_config=str(launched))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert devices_of(config) == Devices("gpu", "NVIDIA H100", 8)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert devices_of(config).kind == "cpu"
    assert devices_of(config_on("auto", execution="ray", concurrency=3, num_cpus=2.0)).held == 6


ITERATIONS = [
    IterationMetrics(0, {"win_rate/es": 40.0, "cost/cpu_hours": 0.5, "cost/tokens_judged": 1000, "cost/judge_dollars": 0.25}),
    IterationMetrics(1, {"win_rate/es": 50.0, "cost/reused_cpu_hours": 2.0, "cost/tokens_sampled": 12345}),
]  # fmt: skip


def test_costs_stand_beside_quality(tmp_path: Path) -> None:
    assert [(row.name, list(row.cells), row.total) for row in cost_rows(ITERATIONS)] == [
        ("CPU core hours", ["0.50", "2.00 reused"], "2.50, of which 2.00 reused"),
        ("Tokens sampled", ["", "12,345"], "12,345"),
        ("Tokens judged", ["1,000", ""], "1,000"),
        ("Judge, US dollars", ["0.25", ""], "0.25"),
    ]
    assert cost_until(ITERATIONS) == {
        0: "0.50 CPU core hours, 0.25 US dollars",
        1: "2.50 CPU core hours, 0.25 US dollars",
    }
    report = Report("title", "mine", ITERATIONS, devices="4 cores of a <processor>")
    write_report(tmp_path / "report.html", report)
    html = (tmp_path / "report.html").read_text()
    assert "2.50, of which 2.00 reused" in html
    assert "4 cores of a &lt;processor&gt;" in html
    assert "cost/cpu_hours" not in html, "not once more among the other metrics"
    assert "2.50 CPU core hours, 0.25 US dollars" in html
    table = leaderboard(policies_of(report), costs={"mine pi_0": "0.50 CPU core hours"})
    assert list(table.columns)[-1] == "cost"
    assert dict(zip(table["model"], table["cost"], strict=True))["mine pi_0"] == "0.50 CPU core hours"
    assert "cost" not in leaderboard(policies_of(report)).columns
    write_report(tmp_path / "free.html", Report("title", "mine", [IterationMetrics(0, {"win_rate/es": 1.0})]))
    assert "<h2>Cost</h2>" not in (tmp_path / "free.html").read_text()
