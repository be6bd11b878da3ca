"""The tables of README from real_model.csv, whose rows `bench_real_model.py` writes: `python tests/benchmarks/real_model_table.py`.

A cell is the mean over the seeds. Each seed has an interval of 95% by a bootstrap over its own instructions; the mean's has the standard error
that these give, sqrt(sum of squares) / seeds: it speaks of these seeds, and the seeds beside it show how far others may be. The last table sets
beside each other what the reward's accuracy on the policy's own samples was, and what the iteration did, by seed and kind of constraint.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import statistics
from collections.abc import Sequence
from pathlib import Path

from tests.benchmarks.bench_real_model import TRANSLATED
from tests.support.readme_tables import put_table

HERE = Path(__file__).parent
LANGUAGES = ("en", "es", "de", "fr", "ru")
POLICIES = {
    "pi_ref": "pi_ref", "pi_0": "pi_0, after English pairs only", "pi_1": "pi_1, one ICR iteration", "control": "control, random labels",
}  # fmt: skip
ACCURACIES = {
    "labelled": (
        "accuracy on labelled pairs",
        ("cross-lingual", "multilingual", "translate", TRANSLATED, "log-likelihood", "the longer one"),
    ),
    "pi_0's own samples of a prompt": ("own samples, pairs within a prompt", ("cross-lingual",)),
    "those that annotate chose": ("own samples, pairs that annotate chose", ("cross-lingual",)),
}
FEW_RIGHT = 60  # percent

Row = dict[str, str]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--csv", type=Path, default=HERE / "real_model.csv")
    parser.add_argument("--readme", type=Path, default=HERE / "README.md")
    given = parser.parse_args()
    with given.csv.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    tables = {"compliance": compliance(rows), "reward_accuracy": accuracies(rows), "what_it_predicts": predicted(rows)}
    for name, table in tables.items():
        put_table(given.readme, f"real_model_{name}", table)
        print(table, end="\n\n")


def of_seeds(rows: Sequence[Row], measure: str, arm: str) -> list[Row]:
    """The rows of an arm that every seed has, ordered by seed."""
    return sorted((row for row in rows if (row["measure"], row["arm"]) == (measure, arm)), key=lambda row: int(row["seed"]))  # fmt: skip


def mean(rows: Sequence[Row], column: str, low: str, high: str, signed: bool = False) -> str:
    """Mean over seeds with its interval, and what each seed has."""
    values = [float(row[column]) for row in rows]
    errors = [(float(row[high]) - float(row[low])) / (2 * 1.96) for row in rows]
    middle, half = statistics.mean(values), 1.96 * math.sqrt(sum(error**2 for error in errors)) / len(rows)
    form = "+.1f" if signed else ".1f"
    each = ", ".join(f"{value:{form}}" for value in values)
    return f"{middle:{form}} ({middle - half:{form}} to {middle + half:{form}}) | {each}"


def by_language(rows: Sequence[Row]) -> str:
    return " | ".join(f"{statistics.mean(float(row[language]) for row in rows):.1f}" for language in LANGUAGES)


def compliance(rows: Sequence[Row]) -> str:
    lines = [
        f"| policy | {' | '.join(LANGUAGES)} | mean of the four | by seed | minus pi_0 | by seed |",
        "|" + "---|" * (len(LANGUAGES) + 5),
    ]
    for arm, name in POLICIES.items():
        found = of_seeds(rows, "compliance", arm)
        change = mean(found, "minus_pi_0", "minus_low", "minus_high", signed=True) if found[0]["minus_pi_0"] else "| "
        lines.append(f"| {name} | {by_language(found)} | {mean(found, 'mean_of_the_four', 'low', 'high')} | {change} |")
    return "\n".join(lines)


def accuracies(rows: Sequence[Row]) -> str:
    lines = [
        f"| pairs | ranked by | {' | '.join(LANGUAGES)} | mean of the four | by seed | n |",
        "|" + "---|" * (len(LANGUAGES) + 5),
    ]
    for pairs, (measure, arms) in ACCURACIES.items():
        for arm in arms:
            found = of_seeds(rows, measure, arm)
            count = sum(int(row["n"]) for row in found)
            lines.append(f"| {pairs} | {arm} | {by_language(found)} | {mean(found, 'mean_of_the_four', 'low', 'high')} | {count} |")  # fmt: skip
    return "\n".join(lines)


def predicted(rows: Sequence[Row]) -> str:
    """Change of compliance from pi_0, of kinds whose samples the reward ranked right seldom, and of the others."""
    points: list[tuple[float, float, float]] = []
    measured = of_seeds(rows, "own samples, pairs that annotate chose", "cross-lingual")
    arms = [of_seeds(rows, "compliance", arm) for arm in ("pi_0", "pi_1", "control")]
    for right, *of_arms in zip(measured, *arms, strict=True):
        accuracy, before, after, control = (json.loads(row["by_constraint"]) for row in (right, *of_arms))
        points += [(accuracy[kind], after[kind] - before[kind], control[kind] - before[kind]) for kind in accuracy]
    lines = ["| the reward ranked the chosen pairs of a kind right | kinds, over all seeds | pi_1 | control |", "|---|---|---|---|"]  # fmt: skip
    for name, is_few in ((f"in less than {FEW_RIGHT}%", True), (f"in {FEW_RIGHT}% or more", False)):
        group = [point for point in points if (point[0] < FEW_RIGHT) == is_few]
        changes = " | ".join(f"{statistics.mean(point[i] for point in group):+.0f}" for i in (1, 2))
        lines.append(f"| {name} | {len(group)} | {changes} |")
    related = [statistics.correlation([point[0] for point in points], [point[i] for point in points]) for i in (1, 2)]
    lines.append(f"| correlation | {len(points)} | {related[0]:+.2f} | {related[1]:+.2f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
