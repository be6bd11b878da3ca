"""Forks of a process that share a model on a CPU, against the threads of one process.

    python tests/benchmarks/bench_forks.py [--model FOLDER] [--prompts 24] [--samples 4] [--rounds 2] [--json PATH]

The demo's prompts in five languages are sampled, and the responses scored under the same model, in turns: by one process with one
thread, by one with a thread a core, and by a fork a core. Seconds of the clock, of a whole stage; medians over rounds, after one that
is not counted. All ways give the same rows; with more threads floats are added in another order, and a response may differ.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from icr_platform.annotation import stage as annotation
from icr_platform.annotation.config import AnnotateConfig
from icr_platform.core.cores import usable_cores
from icr_platform.core.stage_protocol import StageContext
from icr_platform.demo.bootstrap import SFT
from icr_platform.demo.world import write_prompts
from icr_platform.generation import stage as generation
from icr_platform.generation.config import GenerateConfig

WAYS: Mapping[str, dict[str, Any]] = {
    "one thread": {"execution": "local"},
    "threads": {"execution": "local"},
    "forks": {"execution": "processes"},
}


def measure(given: argparse.Namespace, folder: Path) -> dict[str, dict[str, list[float]]]:
    """Seconds of each stage by each way, round after round; those of the first round are left out."""
    model, prompts = str(given.model or SFT), folder / "prompts"
    write_prompts(prompts, "icr")
    sampling = GenerateConfig(
        policy=model, prompts=str(prompts), limit=given.prompts, samples=given.samples, max_tokens=given.max_tokens,
        shard_prompts=max(1, given.prompts // 2), batch_size=given.prompts * given.samples, dtype="float32", device="cpu",
        seed=1,
    )  # fmt: skip
    found: dict[str, dict[str, list[float]]] = {stage: {way: [] for way in WAYS} for stage in ("generate", "annotate")}
    for round_ in range(given.rounds + 1):
        for way, where in WAYS.items():
            torch.set_num_threads(1 if way == "one thread" else usable_cores())
            place = folder / f"{round_}-{way}"
            start = time.perf_counter()
            made = generation.run(generation.read(sampling.model_copy(update=where)), StageContext(place / "g", "f"))
            sampled = time.perf_counter()
            scoring = AnnotateConfig(
                policy=model, reference=model, prompts=str(prompts), responses=str(made.artifacts["responses"]),
                drop_wrong_language=False, drop_truncated=False, dtype="float32", device="cpu", **where,
            )  # fmt: skip
            annotation.run(annotation.read(scoring), StageContext(place / "a", "f"))
            if round_:
                found["generate"][way].append(sampled - start)
                found["annotate"][way].append(time.perf_counter() - sampled)
    return found


def main() -> None:
    """Measure, print a table, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="folder; without it the demo's")
    parser.add_argument("--prompts", type=int, default=24, help="in each language")
    parser.add_argument("--samples", type=int, default=4)
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        found = measure(given, Path(name))
    report: dict[str, Any] = {"model": str(given.model or "demo"), "cores": usable_cores()}
    print(f"{'stage':<10}" + "".join(f"{way:>14}" for way in WAYS) + f"{'threads / forks':>18}")
    for stage, ways in found.items():
        ratios = [slow / fast for slow, fast in zip(ways["threads"], ways["forks"], strict=True)]
        report[stage] = {way: statistics.median(taken) for way, taken in ways.items()}
        report[stage]["threads_by_forks"] = statistics.median(ratios)
        seconds = "".join(f"{report[stage][way]:>12.1f} s" for way in WAYS)
        print(f"{stage:<10}{seconds}{report[stage]['threads_by_forks']:>18.2f}")
    if given.json:
        given.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
