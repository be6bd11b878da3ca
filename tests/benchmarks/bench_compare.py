"""`icr compare` on two real files of outputs, gpt-3.5-turbo and gpt-4o-mini in five languages, judged by a local model.

python tests/benchmarks/bench_compare.py --judge-model MODEL [--limit 3] [--folder FOLDER]

Needs ICR_SHARED with `data/outputs`. Prints the table, seconds, and how many pairs were judged; then the same command again, which judges
nothing. A judge as small as SmolLM2-135M knows little of quality: the figures show that all of the way works, not which model is better.
"""

from __future__ import annotations

import argparse
import csv
import os
import tempfile
import time
from pathlib import Path

from tests.support.real_data import shared_folder

MODELS = ("gpt-3.5-turbo-0125", "gpt-4o-mini")
LANGUAGES = "en,es,ru,de,fr"


def compare(
    folder: Path, judge: str, limit: int, equivalence: float
) -> tuple[float, dict[tuple[str, str], dict[str, str]]]:
    """Seconds, and the rows by metric and language."""
    from icr_platform.cli.commands import run

    outputs = shared_folder() / "outputs"
    table = folder / "comparison.csv"
    began = time.perf_counter()
    status = run(
        [
            "compare", *(str(outputs / "{language}" / f"{model}.json") for model in MODELS), "--languages", LANGUAGES, "--limit", str(limit),
            "--judge", "logprob", "--judge-model", judge, "--judge-min-mass", "0", "--equivalence", str(equivalence), "--format", "csv",
            "--output", str(table),
        ]
    )  # fmt: skip
    if status:
        raise SystemExit(status)
    with table.open(encoding="utf-8", newline="") as file:
        rows = {(row["metric"], row["language"]): row for row in csv.DictReader(file)}
    return time.perf_counter() - began, rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--judge-model", required=True)
    parser.add_argument("--limit", type=int, default=3, help="prompts of each language")
    parser.add_argument("--equivalence", type=float, default=2.0)
    parser.add_argument("--folder", type=Path)
    given = parser.parse_args()
    folder = (given.folder or Path(tempfile.mkdtemp(prefix="compare-"))).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{folder / 'mlflow.db'}"
    judge = str(Path(given.judge_model).resolve()) if Path(given.judge_model).exists() else given.judge_model
    os.chdir(folder)
    first, rows = compare(folder, judge, given.limit, given.equivalence)
    again, same = compare(folder, judge, given.limit, given.equivalence)
    assert rows == same, "the same command gave other numbers"
    for (metric, language), row in rows.items():
        if metric in ("head_to_head", "fidelity", "line_pass_rate", "length/characters"):
            numbers = [f"{float(row[name]):.1f}" for name in ("compared_with_value", "value", "difference")]
            print(
                f"{metric:20} {language:18} {' '.join(f'{value:>8}' for value in numbers)}  p {row['adjusted_p_value'] or '-'}  n {row['n']}"
            )
    print(f"first: {first:.0f} s; again: {again:.0f} s, nothing judged")


if __name__ == "__main__":
    main()
