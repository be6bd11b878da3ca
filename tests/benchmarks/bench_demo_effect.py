"""Does the demo show the effect? Win rates of pi_ref, pi_0, pi_1, pi_2 over seeds, by implicit reward and by random labels.

python tests/benchmarks/bench_demo_effect.py [--seeds 101,102,103,104,105] [--english-pairs 320] [--work DIR] [--json PATH]

Everything after SFT depends on the seed: English preferences, training order, reference outputs, samples. Win rates are
means over es, de, fr and ru against pi_ref's own outputs, judged by the exact grader on tasks that no training step after
SFT has seen. The claim: the rise pi_0 -> pi_2 is at least 5 points on the mean of seeds and positive in each, and random
labels stay within 3 points of pi_0 on the mean. About two CPU minutes a seed and arm.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from statistics import mean
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import yaml

from icr_platform.cli.worlds import WORLDS
from icr_platform.core.config import merge, validate
from icr_platform.demo.bootstrap import ENGLISH_PAIRS, prepare
from icr_platform.evaluation.config import EvalConfig
from icr_platform.pipeline.config import IterateConfig
from icr_platform.pipeline.iterate import iterate
from icr_platform.pipeline.runner import run_stage
from icr_platform.pipeline.session import RunOptions, Session

PRESET = Path(__file__).parents[2] / "projects" / "conf" / "demo.yaml"
ARMS = {"icr": "cross-lingual", "random-labels": "random"}
METRIC = "win_rate/mean_non_english"
LEAST_MEAN_RISE, MOST_CONTROL_CHANGE = 5.0, 3.0


def measure_arm(work: Path, world: Path, seed: int, arm: str) -> dict[str, Any]:
    """One arm on one seed: its metrics by iteration, pi_0 first, and its CPU seconds."""
    preset = PRESET.read_text(encoding="utf-8").replace("demo:", f"{world}/")
    over = {"arm": arm, "seed": seed, "annotate": {"reward_kind": [ARMS[arm]]}}
    config = validate(IterateConfig, merge(yaml.safe_load(preset), over), str(PRESET), WORLDS)
    session = Session(RunOptions(tracking=False), work, work / arm, None)
    start = time.process_time()
    metrics = iterate(session, config).metrics
    return {
        "win_rate": [metrics[t][METRIC] for t in sorted(metrics)],
        "cpu_seconds": time.process_time() - start,
        "metrics": {t: metrics[t] for t in sorted(metrics)},
    }


def measure_reference(work: Path, world: Path, seed: int) -> float:
    """pi_ref's own win rate, which is 50 but for the sampling of two sets of outputs."""
    preset = yaml.safe_load(PRESET.read_text(encoding="utf-8"))
    places = {
        "policy": str(world / "reference"),
        "prompts": str(world / "prompts" / "test"),
        "reference_outputs": str(world / "outputs"),
    }
    config = validate(EvalConfig, {**preset["eval"], **places, "seed": seed}, str(PRESET), WORLDS)
    session = Session(RunOptions(tracking=False), work, work / "reference", None)
    return run_stage(session, "eval", config).result.metrics[METRIC]


def measure_seed(work: Path, seed: int, english_pairs: int) -> dict[str, Any]:
    """pi_ref and every arm on one seed."""
    start = time.process_time()
    world = prepare(work / f"demo-{seed}", seed, english_pairs)
    found: dict[str, Any] = {"seed": seed, "prepare_cpu_seconds": time.process_time() - start}
    found["reference"] = measure_reference(work, world, seed)
    found["arms"] = {arm: measure_arm(work, world, seed, arm) for arm in ARMS}
    return found


def rise(found: dict[str, Any], arm: str) -> float:
    """Points from pi_0 to the last policy."""
    rates = found["arms"][arm]["win_rate"]
    return float(rates[-1] - rates[0])


def row(name: object, rates: list[float], found_rise: float, control: float) -> str:
    """One line of the table."""
    return f"{name!s:>6}" + "".join(f"{rate:8.1f}" for rate in rates) + f"{found_rise:+8.1f}{control:+10.1f}"


def print_table(results: list[dict[str, Any]]) -> None:
    """Seeds by policies, the rise, and the control's change beside it."""
    print(f"\n{'seed':>6}{'pi_ref':>8}{'pi_0':>8}{'pi_1':>8}{'pi_2':>8}{'rise':>8}{'control':>10}")
    lines = [[found["reference"], *found["arms"]["icr"]["win_rate"]] for found in results]
    rises = [rise(found, "icr") for found in results]
    controls = [rise(found, "random-labels") for found in results]
    for found, rates, up, control in zip(results, lines, rises, controls, strict=True):
        print(row(found["seed"], rates, up, control))
    print(row("mean", [mean(column) for column in zip(*lines, strict=True)], mean(rises), mean(controls)))
    holds = mean(rises) >= LEAST_MEAN_RISE and min(rises) > 0 and abs(mean(controls)) <= MOST_CONTROL_CHANGE
    print(f"\nthe claim {'holds' if holds else 'DOES NOT HOLD'}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="101,102,103,104,105", help="comma-separated; 0 to 3 chose the recipe")
    parser.add_argument("--english-pairs", type=int, default=ENGLISH_PAIRS, help="pairs that pi_0 is trained on")
    parser.add_argument("--work", type=Path, help="folder that keeps the artifacts; default: a temporary one")
    parser.add_argument("--json", type=Path, help="file the numbers are written to, after every seed")
    arguments = parser.parse_args()
    results: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as temporary:
        work = (arguments.work or Path(temporary)).resolve()
        for seed in (int(text) for text in arguments.seeds.split(",")):
            results.append(measure_seed(work, seed, arguments.english_pairs))
            if arguments.json:
                arguments.json.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
            print_table(results)
            sys.stdout.flush()


if __name__ == "__main__":
    main()
