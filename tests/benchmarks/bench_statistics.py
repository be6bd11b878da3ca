"""Win-rate statistics: parity with published AlpacaEval 2 figures, times, and coverage of the paired intervals.

    python tests/benchmarks/bench_statistics.py [--data FOLDER] [--simulations 1000] [--json PATH]

FOLDER holds the parity data (default: data/lc-parity under ICR_SHARED or under `shared` beside the repository). Without
it parity is left out, and coverage is simulated on synthetic populations only.
"""

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from icr_platform.evaluation.comparison import LanguageJudgments, bootstrap_mean, length_controlled_difference
from icr_platform.evaluation.win_rate import length_controlled_win_rate, win_rate

SHARED = Path(os.environ.get("ICR_SHARED", Path(__file__).parents[3] / "shared"))
SIZES = (100, 200, 805)
RESAMPLES = 2000


def parity(folder: Path) -> list[dict[str, Any]]:
    """Deviations from the published figures in points, and times in milliseconds, a row a model."""
    anchors, rows = pd.read_csv(folder / "gamed_surrogate.csv"), []
    for published in pd.read_csv(folder / "leaderboard.csv").to_dict("records"):
        table = pd.read_csv(folder / f"{published['model']}.csv")
        lengths = table["output_2_length"], table["output_1_length"]
        data = table["preference"] - 1, *lengths, table["instruction_difficulty_positional"], anchors
        by_id = *data[:3], table["instruction_difficulty"], anchors
        rate, times = win_rate(data[0]), []
        for _ in range(20):
            start = time.perf_counter()
            fixed = length_controlled_win_rate(*data)
            times.append(time.perf_counter() - start)
        start = time.perf_counter()
        refitted = length_controlled_win_rate(*by_id, bootstrap=1000)
        bootstrap_seconds = time.perf_counter() - start
        target = published["length_controlled_winrate"]
        rows.append({
            "model": published["model"],
            "win_rate": rate.win_rate - published["win_rate"],
            "standard_error": rate.standard_error - published["standard_error"],
            "LC_at_inferred_C": length_controlled_win_rate(*data, C=published["C_inferred"]).win_rate - target,
            "LC_at_10": fixed.win_rate - target,
            "LC_cv": length_controlled_win_rate(*data, C="cv").win_rate - target,
            "LC_by_prompt_id": refitted.win_rate,
            "LC_published_SE": refitted.standard_error,
            "LC_bootstrap_SE": refitted.bootstrap_standard_error,
            "fit_ms": 1000 * float(np.median(times)),
            "bootstrap_1000_ms": 1000 * bootstrap_seconds,
        })  # fmt: skip
    return rows


def populations(folder: Path) -> dict[str, np.ndarray]:
    """Differences of preference between two models, a prompt each."""
    generator = np.random.default_rng(5)
    flips = generator.random(20_000)
    found = {
        "4% of prompts flip": np.select([flips < 0.03, flips < 0.04], [1.0, -1.0], generator.normal(0, 0.01, 20_000)),
        "two beta preferences": generator.beta(0.3, 0.5, 20_000) - generator.beta(0.3, 0.6, 20_000),
    }
    pairs = [
        ("claude-2", "FuseChat-Llama-3.1-8B-Instruct"),
        ("alpaca-7b", "minotaur-13b"),
        ("minotaur-13b", "claude-2"),
    ]
    for before, after in pairs if folder.is_dir() else []:
        tables = [pd.read_csv(folder / f"{name}.csv", index_col="index")["preference"] for name in (before, after)]
        found[f"{after} over {before}"] = (tables[1] - tables[0]).dropna().to_numpy()
    return found


def coverage(population: np.ndarray, n: int, simulations: int) -> tuple[float, float]:
    """Percent of 95% intervals that hold the population's mean: ours, and the plain percentile bootstrap's beside it."""
    generator, truth, hits, plain = np.random.default_rng(n), float(population.mean()), 0, 0
    for simulation in range(simulations):
        sample = generator.choice(population, n)
        interval = bootstrap_mean(sample, resamples=RESAMPLES, seed=simulation)
        hits += interval.low <= truth <= interval.high
        means = sample[generator.integers(0, n, (RESAMPLES // 4, n))].mean(axis=1)
        low, high = np.quantile(means, [0.025, 0.975])
        plain += low <= truth <= high
    return 100 * hits / simulations, 100 * plain / simulations


def length_controlled_coverage(folder: Path, simulations: int) -> float:
    """Percent of 95% intervals of the LC difference that hold the whole set's, claude-2 to FuseChat, 805 prompts."""
    anchors = pd.read_csv(folder / "gamed_surrogate.csv")
    tables = [pd.read_csv(folder / f"{name}.csv") for name in ("claude-2", "FuseChat-Llama-3.1-8B-Instruct")]

    def judgments(table: pd.DataFrame) -> LanguageJudgments:
        columns = table["output_2_length"], table["output_1_length"], table["instruction_difficulty"]
        return LanguageJudgments([str(row) for row in range(len(table))], table["preference"] - 1, *columns)

    truth = length_controlled_difference(*map(judgments, tables), anchors=anchors, resamples=2).difference
    generator, hits = np.random.default_rng(0), 0
    for simulation in range(simulations):
        rows = generator.integers(0, len(tables[0]), len(tables[0]))
        sides = [judgments(table.iloc[rows].reset_index(drop=True)) for table in tables]
        interval = length_controlled_difference(*sides, anchors=anchors, resamples=300, seed=simulation)
        hits += interval.low <= truth <= interval.high
    return 100 * hits / simulations


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=SHARED / "data" / "lc-parity")
    parser.add_argument("--simulations", type=int, default=1000)
    parser.add_argument("--length-controlled", type=int, default=0, help="simulations of LC intervals, 0.5 s each")
    parser.add_argument("--json", type=Path, help="file the numbers are written to")
    arguments = parser.parse_args()
    figures: dict[str, Any] = {"parity": parity(arguments.data) if arguments.data.is_dir() else []}
    print(pd.DataFrame(figures["parity"]).T.to_string(header=False))
    figures["coverage"] = {}
    for name, population in populations(arguments.data).items():
        found = {str(n): coverage(population, n, arguments.simulations) for n in SIZES}
        figures["coverage"][name] = found
        cells = (f"n={n}: {ours:.1f}% (percentile {plain:.1f}%)" for n, (ours, plain) in found.items())
        print(f"{name:48s}", *cells, flush=True)
    if arguments.length_controlled and arguments.data.is_dir():
        figures["length_controlled_coverage"] = length_controlled_coverage(arguments.data, arguments.length_controlled)
        print(f"length-controlled difference, n=805: {figures['length_controlled_coverage']:.1f}%")
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
