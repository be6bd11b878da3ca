"""Two Ray workers against one, on a job that waits on an engine: a real HTTP server that answers each request in a fixed time.

OMP_NUM_THREADS=1 python tests/benchmarks/bench_ray.py [--seconds 0.5] [--repeats 2] [--json PATH]

The demo's prompts in five languages through the server sampler, on a cluster of two nodes of one CPU; one worker and two in
turn. `sampling` starts when the first worker's engine is there, `all` when the stage does; medians, and of paired ratios.
"""

import argparse
import json
import logging
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import icr_platform.demo
from icr_platform.core.stage_protocol import StageContext
from icr_platform.demo.world import write_prompts
from icr_platform.generation.config import GenerateConfig
from icr_platform.generation.stage import read, run
from tests.support.fault_server import KEY, served_apart

SAMPLES, AT_ONCE = 2, 4


class Run(NamedTuple):
    workers: int
    sampling: float
    all: float


def measure(config: GenerateConfig, workers: int, folder: Path) -> Run:
    """Seconds of one run, without and with starting workers."""
    start = time.monotonic()
    result = run(read(config.model_copy(update={"concurrency": workers})), StageContext(folder, "bench"))
    tokens = sum(value for name, value in result.metrics.items() if name.startswith("tokens/"))
    return Run(workers, tokens / result.metrics["tokens_per_second"], time.monotonic() - start)


def paired_runs(config: GenerateConfig, repeats: int, folder: Path) -> list[Run]:
    """One worker and two, in turn; every run gives the same tables."""
    runs = []
    for repeat in range(repeats):
        for workers in (1, 2):
            runs.append(measure(config, workers, folder / f"{repeat}-{workers}"))
            print(f"| {workers} | {runs[-1].sampling:.1f} | {runs[-1].all:.1f} |", flush=True)
    manifests = {path.read_bytes() for path in folder.glob("*/responses/manifest.json")}
    assert len(manifests) == 1, "the tables differ"
    return runs


def report(runs: list[Run], requests: int, seconds: float) -> dict[str, object]:
    """Medians of the ratios of neighbouring runs."""
    pairs = list(zip(runs[::2], runs[1::2], strict=True))
    figures = {
        "requests": requests,
        "seconds_per_request": seconds,
        "sampling_speedup": statistics.median(one.sampling / two.sampling for one, two in pairs),
        "all_speedup": statistics.median(one.all / two.all for one, two in pairs),
        "floor_of_one_worker": requests * seconds / AT_ONCE,
        "load_average": os.getloadavg()[0],
        "runs": [run._asdict() for run in runs],
    }
    print(
        f"\n{requests} requests of {seconds} s, {AT_ONCE} under way per worker: one worker needs at least "
        f"{figures['floor_of_one_worker']:.1f} s\nspeed-up of two workers: sampling {figures['sampling_speedup']:.2f}, "
        f"all {figures['all_speedup']:.2f}; load average {figures['load_average']:.1f}"
    )
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=0.5, help="time that an answer takes")
    parser.add_argument("--prompts", type=int, default=32, help="per language")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()

    import ray
    from ray.cluster_utils import Cluster

    os.environ["OPENAI_API_KEY"] = KEY
    memory = 100 * 2**20
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "object_store_memory": memory})
    for _ in range(2):
        cluster.add_node(num_cpus=1, object_store_memory=memory)
    ray.init(address=cluster.address, logging_level=logging.ERROR)
    with served_apart(seconds=options.seconds) as url, tempfile.TemporaryDirectory() as work:
        write_prompts(Path(work) / "prompts", "icr")
        config = GenerateConfig(
            policy=str(Path(icr_platform.demo.__file__).parent / "sft"), prompts=str(Path(work) / "prompts"),
            limit=options.prompts, samples=SAMPLES, shard_prompts=4, sampler="server", server_concurrency=AT_ONCE,
            server_url=url, execution="ray",
        )  # fmt: skip
        print("| workers | sampling, s | all, s |\n|---|---|---|")
        runs = paired_runs(config, options.repeats, Path(work))
    ray.shutdown()
    cluster.shutdown()
    figures = report(runs, 5 * options.prompts * SAMPLES, options.seconds)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
