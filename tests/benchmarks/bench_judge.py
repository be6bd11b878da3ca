"""The judge client on real pairs: throughput and CPU time by concurrency, and a storm of faults with five kills.

    ICR_SHARED=../shared python tests/benchmarks/bench_judge.py [--concurrency 4,8,16,32] [--rounds 50] [--storm 805]

Pairs: gpt-4o-mini against gpt-4-turbo-2024-04-09 outputs on X-AlpacaEval in five languages, both orders. The bound is requests
times the server's seconds over the concurrency. `queued`: seconds in which the judge's thread was ready to run and other
processes had the cores (Linux only); on an idle machine it is near 0.
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
from pathlib import Path
from typing import Any

from tests.support.fault_server import KEY, served_apart

ROOT = Path(__file__).parents[2]
LANGUAGES = ("en", "es", "ru", "de", "fr")
RUN = """
import json, sys, threading, time
from pathlib import Path
import openai  # its import is no part of a request
import icr_platform.evaluation.stage as stage
from icr_platform.evaluation.config import EvalConfig
from icr_platform.core.stage_protocol import StageContext

queued, spent = {}, {}

def watch():
    while True:
        for thread in threading.enumerate():
            if thread.name == "judge":
                path = Path(f"/proc/self/task/{thread.native_id}/schedstat")
                queued[thread.native_id] = int(path.read_text().split()[1]) / 1e9 if path.exists() else 0.0
        time.sleep(0.2)

def timed(*arguments, wrapped=stage.write_judgments):
    started, used = time.monotonic(), time.process_time()
    try:
        return wrapped(*arguments)
    finally:
        spent.update(wall=time.monotonic() - started, cpu=time.process_time() - used, queued=sum(queued.values()))

threading.Thread(target=watch, daemon=True).start()
stage.write_judgments = timed
result = stage.run(stage.read(EvalConfig(**json.loads(sys.argv[1]))), StageContext(Path(sys.argv[2]), "bench"))
print(json.dumps({**spent, "metrics": dict(result.metrics)}))
"""


def settings(shared: Path, prompts: int, concurrency: int, timeout: float, url: str, cache: Path) -> dict[str, object]:
    outputs = shared / "data" / "outputs" / "{language}"
    return {
        "prompts": str(shared / "data" / "prompts" / "x-alpacaeval"), "languages": LANGUAGES, "limit": prompts,
        "outputs": str(outputs / "gpt-4o-mini.json"), "reference_outputs": str(outputs / "gpt-4-turbo-2024-04-09.json"),
        "judge": "openai", "judge_api_model": "judge-1", "judge_url": url, "judge_cache": str(cache),
        "judge_concurrency": concurrency, "judge_timeout": timeout, "shard_prompts": 64,
    }  # fmt: skip


def start(config: dict[str, object], folder: Path) -> subprocess.Popen[str]:
    environment = os.environ | {"OPENAI_API_KEY": KEY, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", RUN, json.dumps(config), str(folder)]
    return subprocess.Popen(
        command, env=environment, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def finish(config: dict[str, object], folder: Path) -> dict[str, Any]:
    process = start(config, folder)
    out, errors = process.communicate()
    if process.returncode != 0:
        sys.exit(errors)
    return dict(json.loads(out.splitlines()[-1]))


def judgments(folder: Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted((folder / "judgments").glob("part-*.parquet"))]


def throughput(shared: Path, concurrency: int, arguments: argparse.Namespace, work: Path) -> None:
    prompts = max(1, min(805, concurrency * arguments.rounds // (2 * len(LANGUAGES))))
    with served_apart(0.0, arguments.seconds) as url:
        done = finish(settings(shared, prompts, concurrency, 30.0, url, work / "cache"), work / "out")
    asked = len(LANGUAGES) * prompts * 2
    bound = asked * arguments.seconds / concurrency
    print(
        f"concurrency {concurrency:3d}: {asked} requests in {done['wall']:.1f} s, bound {bound:.1f} s: "
        f"{100 * bound / done['wall']:.1f}%; CPU {1000 * done['cpu'] / asked:.2f} ms a request, "
        f"queued {done['queued']:.1f} s, load average {os.getloadavg()[0]:.1f}",
        flush=True,
    )


def storm(shared: Path, prompts: int, arguments: argparse.Namespace, work: Path) -> None:
    with served_apart(0.0, 0.0) as url:
        finish(settings(shared, prompts, 32, 30.0, url, work / "calm-cache"), work / "calm")
        again = finish(settings(shared, prompts, 32, 30.0, url, work / "calm-cache"), work / "again")
    print(f"a second run from the cache: {again['wall']:.1f} s", flush=True)
    rng, killed, began = random.Random(0), 0, time.monotonic()
    with served_apart(0.3, arguments.seconds) as url:
        config = settings(shared, prompts, 32, arguments.timeout, url, work / "storm-cache")
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
        done = finish(config, work / "storm")
    print(f"30% faults, killed {killed} times, {time.monotonic() - began:.0f} s in all; metrics of the last run:")
    print({name: value for name, value in done["metrics"].items() if name.startswith(("judge/", "win_rate/"))})
    same = judgments(work / "storm") == judgments(work / "calm")
    print("the judgments table equals the one without faults:", same)
    if not same:
        sys.exit(1)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--concurrency", default="4,8,16,32", help="of the throughput runs; empty: none")
    parser.add_argument("--rounds", type=int, default=50, help="replies that each place among the requests waits for")
    parser.add_argument("--seconds", type=float, default=0.2, help="the server takes for a reply")
    parser.add_argument("--storm", type=int, default=805, help="prompts per language in the storm; 0: no storm")
    parser.add_argument("--timeout", type=float, default=3.0, help="seconds until a request hangs, in the storm")
    parser.add_argument(
        "--startup", type=float, default=6.0, help="seconds before the first request, left out of kills"
    )
    arguments = parser.parse_args()
    shared = Path(os.environ.get("ICR_SHARED", ROOT.parent / "shared"))
    for concurrency in filter(None, arguments.concurrency.split(",")):
        with tempfile.TemporaryDirectory() as folder:
            throughput(shared, int(concurrency), arguments, Path(folder))
    if arguments.storm:
        with tempfile.TemporaryDirectory() as folder:
            storm(shared, arguments.storm, arguments, Path(folder))


if __name__ == "__main__":
    main()
