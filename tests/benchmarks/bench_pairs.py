"""Time and memory of fit_alpha and select_pairs, against the reference implementation's grid of 1,000 alphas; and of each pair rule at the
size of CroCo's experiments, 10,000 prompts x 64 samples, with the mean length difference that its alpha leaves.

python tests/benchmarks/bench_pairs.py [--json PATH]
"""

import argparse
import json
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from icr_platform.annotation.alpha_search import fit_rule_alpha
from icr_platform.annotation.length_control import extremes, fit_alpha, length_controlled
from icr_platform.annotation.pair_rules import RULES, PairRule
from icr_platform.annotation.pairs import select_pairs

SAMPLES = 10
GRID = [step / 1000 for step in range(1000)]


def scored_prompts(prompts: int, samples: int = SAMPLES) -> tuple[np.ndarray, np.ndarray]:
    """Rewards [prompts, samples] that grow with length, and lengths in characters."""
    generator = np.random.default_rng(0)
    lengths = generator.integers(20, 3000, (prompts, samples))
    return 3 * generator.normal(size=lengths.shape) + 0.003 * lengths, lengths


def grid_in_python(rewards: list[list[float]], lengths: list[list[int]]) -> float:
    """What the published code does: every alpha of the grid, every prompt, in Python."""
    differences = []
    for alpha in GRID:
        total = 0
        for reward, length in zip(rewards, lengths, strict=True):
            controlled = [r - alpha * n for r, n in zip(reward, length, strict=True)]
            total += length[controlled.index(max(controlled))] - length[controlled.index(min(controlled))]
        differences.append(abs(total))
    return GRID[differences.index(min(differences))]


def grid_in_numpy(rewards: np.ndarray, lengths: np.ndarray) -> float:
    rows, everything = np.arange(len(rewards)), np.ones(rewards.shape, dtype=bool)
    differences = []
    for alpha in GRID:
        ends = extremes(length_controlled(rewards, lengths, alpha), everything)
        differences.append(abs(int((lengths[rows, ends.highest] - lengths[rows, ends.lowest]).sum())))
    return GRID[int(np.argmin(differences))]


def seconds(work: Callable[[], Any], repeats: int = 1) -> tuple[float, Any]:
    """Median wall time of the repeats, and the last result."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        result = work()
        times.append(time.perf_counter() - start)
    return float(np.median(times)), result


def mean_difference(rewards: np.ndarray, lengths: np.ndarray, alpha: float) -> float:
    selection = select_pairs(rewards, lengths, alpha)
    rows = np.flatnonzero(selection.kept)
    chosen, rejected = selection.chosen_index[rows], selection.rejected_index[rows]
    return float((lengths[rows, chosen] - lengths[rows, rejected]).mean())


def measure() -> dict[str, float]:
    rewards, lengths = scored_prompts(1000)
    exact_seconds, fit = seconds(lambda: fit_alpha(rewards, lengths), repeats=20)
    grid_seconds, grid_alpha = seconds(lambda: grid_in_python(rewards.tolist(), lengths.tolist()))
    numpy_seconds, _ = seconds(lambda: grid_in_numpy(rewards, lengths))
    pair_seconds, _ = seconds(lambda: select_pairs(rewards, lengths, fit.alpha), repeats=20)
    many_rewards, many_lengths = scored_prompts(100_000)
    many_seconds, _ = seconds(
        lambda: select_pairs(many_rewards, many_lengths, fit_alpha(many_rewards, many_lengths).alpha)
    )
    return {
        "fit_alpha_1000x10_ms": 1000 * exact_seconds,
        "select_pairs_1000x10_ms": 1000 * pair_seconds,
        "grid_python_1000x10_s": grid_seconds,
        "grid_numpy_1000x10_s": numpy_seconds,
        "speedup_over_python_grid": grid_seconds / exact_seconds,
        "speedup_over_numpy_grid": numpy_seconds / exact_seconds,
        "mean_difference_exact_characters": fit.mean_length_difference,
        "mean_difference_grid_characters": mean_difference(rewards, lengths, grid_alpha),
        "fit_and_select_100000x10_s": many_seconds,
        "peak_memory_100000x10_MB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def measure_rules() -> dict[str, float]:
    """Of each rule: CPU seconds to fit alpha and to select the pairs, and the mean length difference in characters."""
    rewards, lengths = scored_prompts(10_000, 64)
    draws = np.random.default_rng(1).random(rewards.shape)
    figures = {}
    for name, pairs in [*((name, 1) for name in RULES), ("lowest", 4), ("mean-2sd", 4)]:
        rule = PairRule(name, pairs, draws)
        start = time.process_time()
        fit = fit_rule_alpha(rewards, lengths, rule)
        fitted = time.process_time()
        select_pairs(rewards, lengths, fit.alpha, rule=rule)
        figures[f"{name}_x{pairs}_fit_cpu_s"] = fitted - start
        figures[f"{name}_x{pairs}_select_cpu_s"] = time.process_time() - fitted
        figures[f"{name}_x{pairs}_mean_difference_characters"] = fit.mean_length_difference
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="file the numbers are written to")
    arguments = parser.parse_args()
    figures = measure() | measure_rules()
    for name, value in figures.items():
        print(f"{name:48s} {value:12.4g}")
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
