"""The judge client on real pairs against a real server with 30% faults, killed five times; and its throughput.

    ICR_SHARED=../shared python tests/benchmarks/bench_judge.py [--prompts 805] [--concurrency 32]

Pairs: gpt-4o-mini against gpt-4-turbo-2024-04-09 outputs on X-AlpacaEval in five languages, both orders.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
SERVER = ROOT / "tests" / "integration" / "fault_server.py"
LANGUAGES = ("en", "es", "ru", "de", "fr")
KEY = "secret-key-of-the-judge"
RUN = """
import json, sys, time
from pathlib import Path
from icr_platform.config import EvalConfig
from icr_platform.evaluation import judging
from icr_platform.evaluation.stage import run
from icr_platform.stages import StageContext
spent = [0.0, 0.0]
def timed(*arguments, wrapped=judging.write_judgments):
    started = time.monotonic()
    try:
        return wrapped(*arguments)
    finally:
        spent[:] = [time.monotonic() - started, time.process_time()]
import icr_platform.evaluation.stage as stage
stage.write_judgments = timed
result = run(EvalConfig(**json.loads(sys.argv[1])), StageContext(Path(sys.argv[2]), "bench"))
print(json.dumps({"judging": spent[0], "cpu": spent[1], "metrics": dict(result.metrics)}))
"""


@contextlib.contextmanager
def server(fault_rate: float, seconds: float) -> Iterator[str]:
    """A fault server in a process of its own; gives its base URL."""
    command = [sys.executable, str(SERVER), f"--fault-rate={fault_rate}", f"--seconds={seconds}"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield f"http://127.0.0.1:{process.stdout.readline().strip()}/v1"
    finally:
        process.kill()
        process.wait()


def settings(shared: Path, arguments: argparse.Namespace, url: str, cache: Path) -> dict[str, object]:
    outputs = shared / "data" / "outputs" / "{language}"
    return {
        "prompts": str(shared / "data" / "prompts" / "x-alpacaeval"), "languages": LANGUAGES, "limit": arguments.prompts,
        "outputs": str(outputs / "gpt-4o-mini.json"), "reference_outputs": str(outputs / "gpt-4-turbo-2024-04-09.json"),
        "judge": "openai", "judge_api_model": "judge-1", "judge_url": url, "judge_cache": str(cache),
        "judge_concurrency": arguments.concurrency, "judge_timeout": arguments.timeout, "shard_prompts": 64,
    }  # fmt: skip


def start(config: dict[str, object], folder: Path) -> subprocess.Popen[str]:
    environment = os.environ | {"OPENAI_API_KEY": KEY, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", RUN, json.dumps(config), str(folder)]
    return subprocess.Popen(
        command, env=environment, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def finish(config: dict[str, object], folder: Path) -> dict[str, object]:
    process = start(config, folder)
    out, errors = process.communicate()
    if process.returncode != 0:
        sys.exit(errors)
    return dict(json.loads(out.splitlines()[-1]))


def judgments(folder: Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted((folder / "judgments").glob("part-*.parquet"))]


def throughput(shared: Path, arguments: argparse.Namespace, work: Path) -> list[bytes]:
    with server(0.0, arguments.seconds) as url:
        done = finish(settings(shared, arguments, url, work / "calm-cache"), work / "calm")
        again = finish(settings(shared, arguments, url, work / "calm-cache"), work / "again")
    asked = len(LANGUAGES) * arguments.prompts * 2
    bound, seconds = asked * arguments.seconds / arguments.concurrency, float(str(done["judging"]))
    print(f"calm: {asked} requests in {seconds:.1f} s, bound {bound:.1f} s: {100 * bound / seconds:.1f}% of the bound")
    print(f"CPU of the whole run {float(str(done['cpu'])):.1f} s; load average {os.getloadavg()[0]:.1f}")
    print(f"a second run from the cache: {float(str(again['judging'])):.1f} s")
    return judgments(work / "calm")


def storm(shared: Path, arguments: argparse.Namespace, work: Path, expected: list[bytes]) -> None:
    rng, killed = random.Random(0), 0
    with server(0.3, arguments.seconds) as url:
        config = settings(shared, arguments, url, work / "storm-cache")
        while killed < 5:
            process = start(config, work / "storm")
            with contextlib.suppress(subprocess.TimeoutExpired):
                _, errors = process.communicate(timeout=arguments.startup + 12 * rng.random())
                if process.returncode != 0:
                    sys.exit(errors)
                break
            process.send_signal(signal.SIGKILL)
            process.wait()
            killed += 1
        started = time.monotonic()
        done = finish(config, work / "storm")
        print(f"30% faults, killed {killed} times, last run {time.monotonic() - started:.1f} s, outcomes:")
        print({name: value for name, value in done["metrics"].items() if name.startswith(("judge/", "win_rate/"))})
    print("the judgments table equals the one without faults:", judgments(work / "storm") == expected)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--prompts", type=int, default=805)
    parser.add_argument("--concurrency", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=0.2)
    parser.add_argument("--timeout", type=float, default=3.0)
    parser.add_argument(
        "--startup", type=float, default=6.0, help="seconds before the first request, left out of kills"
    )
    arguments = parser.parse_args()
    shared = Path(os.environ.get("ICR_SHARED", ROOT.parent / "shared"))
    with tempfile.TemporaryDirectory() as folder:
        expected = throughput(shared, arguments, Path(folder))
        storm(shared, arguments, Path(folder), expected)


if __name__ == "__main__":
    main()
