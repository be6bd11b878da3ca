"""Checks of Marco-Bench-MIF's instructions: percent unverified per kind and language, and what a check costs.

python tests/benchmarks/bench_instruction_checks.py [--shared FOLDER] [--csv PATH]

Every instruction of the twelve files is checked, strict and loose, on a real output in the language of its file, and on one in English
where its prompt asks for English. Arabic has no outputs there: prompts stand in for them. Lines that are not JSON are counted and left out.
"""

import argparse
import csv
import json
import os
import random
import sys
import time
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

from icr_platform.evaluation.instruction_checks import check, check_loosely
from icr_platform.evaluation.instruction_checks.writing import names_english


def instructions(path: Path) -> list[dict[str, Any]]:
    rows, unreadable = [], 0
    for line in path.read_text(encoding="utf-8").split("\n"):
        try:
            rows += [json.loads(line)] if line.strip() else []
        except ValueError:
            unreadable += 1
    if unreadable:
        print(f"{path.name}: {unreadable} lines are not JSON", file=sys.stderr)
    return rows


def outputs(shared: Path, language: str) -> list[str]:
    paths = sorted((shared / "data" / "outputs" / language).glob("*.json"))
    return [row["output"] for path in paths for row in json.loads(path.read_text(encoding="utf-8")) if row["output"]]


def measure(shared: Path) -> tuple[dict[str, Counter[tuple[str, str]]], dict[str, list[float]], Counter[str]]:
    """Per kind: how many instructions of a file were 'all' and 'unverified'; microseconds per strict and loose check; reasons."""
    rng = random.Random(0)
    counts: dict[str, Counter[tuple[str, str]]] = defaultdict(Counter)
    spent: dict[str, list[float]] = defaultdict(list)
    reasons: Counter[str] = Counter()
    english = outputs(shared, "en")
    for path in sorted((shared / "data" / "mif").glob("*.jsonl")):
        language, rows = path.stem.split("_")[0], instructions(path)
        answers = outputs(shared, language) or [row["prompt"] for row in rows]
        for row in rows:
            for kind, kwargs in zip(row["instruction_id_list"], row["kwargs"], strict=False):
                text = rng.choice(english if names_english(row["prompt"]) else answers)
                arguments = (kind, kwargs, text, language, row["prompt"])
                start = time.perf_counter()
                verdict = check(*arguments)
                middle = time.perf_counter()
                check_loosely(*arguments)
                spent[kind].append(middle - start)
                spent[f"{kind}, loose"].append(time.perf_counter() - middle)
                counts[kind][path.stem, "all"] += 1
                counts[kind][path.stem, "unverified"] += verdict.followed is None
                reasons[f"{kind}: {verdict.reason}"] += verdict.followed is None
    return counts, spent, reasons


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, default=Path(os.environ.get("ICR_SHARED", "../shared")))
    parser.add_argument("--csv", type=Path)
    given = parser.parse_args()
    counts, spent, reasons = measure(given.shared)
    files = sorted({name for found in counts.values() for name, _ in found})
    table = [["kind", *files, "strict, µs", "loose, µs"]]
    for kind in sorted(counts):
        shares = [100 * counts[kind][name, "unverified"] / max(counts[kind][name, "all"], 1) for name in files]
        # Medians: the first check of a kind loads what it needs.
        costs = [1e6 * sorted(spent[name])[len(spent[name]) // 2] for name in (kind, f"{kind}, loose")]
        table.append([kind, *(f"{share:.0f}" for share in shares), *(f"{cost:.0f}" for cost in costs)])
    of_all = {
        name: [sum(found[name, part] for found in counts.values()) for part in ("unverified", "all")] for name in files
    }
    table.append(["all", *(f"{100 * part / whole:.1f}" for part, whole in of_all.values()), "", ""])
    print("\n".join(f"| {' | '.join(row)} |" for row in table))
    for reason, number in reasons.most_common(40):
        print(number, reason)
    if given.csv:
        with given.csv.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows(table)


if __name__ == "__main__":
    main()
