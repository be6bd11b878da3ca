"""Line and word pass rates of the Language Confusion Benchmark's completions, and what a million outputs take.

python tests/benchmarks/bench_confusion.py parity [--shared FOLDER] [--tsv PATH]
python tests/benchmarks/bench_confusion.py million [--shared FOLDER] [--outputs 1000000] [--folder FOLDER]

parity: every model, source and language, and the averages, beside what the benchmark's own script gives (expected.tsv), with its list of
English words and with the package's: the largest differences in points, and the rows that differ by more than 0.5.
million: outputs artifacts of the real completions over and over, in parts of 4,096, looked at and scored; CPU milliseconds a line,
and the peak memory with a hundredth of the outputs and with all.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import cycle, islice
from pathlib import Path

import pyarrow as pa

from icr_platform.core.artifacts import Artifact, ArtifactWriter
from icr_platform.core.schemas import CONFUSION, OUTPUTS
from icr_platform.evaluation.confusion import check, english_words, rule_of
from icr_platform.evaluation.confusion_table import confusion_scores, write_confusion
from tests.support.confusion_benchmark import ALL, Rates, Slice, completions, expected, measured

PART = 4096
LIMIT = 0.5
OWN = "the package's words"


def parity(folder: Path, tsv: Path | None) -> None:
    texts, wanted = completions(folder), expected(folder)
    columns: dict[str, dict[Slice, Rates]] = {
        name: measured(texts, english_words(path))
        for name, path in (("the benchmark's words", str(folder / "words.txt")), (OWN, ""))
    }
    lines = [
        "\t".join(
            (*Slice._fields, "lines", "words", *(f"{kind}, {name}" for name in columns for kind in ("lines", "words")))
        )
    ]
    for key, rates in wanted.items():
        cells = [rates, *(found[key] for found in columns.values())]
        lines.append("\t".join((*key, *("-" if value is None else f"{value:.2f}" for cell in cells for value in cell))))
    if tsv is not None:
        tsv.write_text("\n".join(lines) + "\n", encoding="utf-8")
    for name, found in columns.items():
        differing = [(key, distance(found[key], rates)) for key, rates in wanted.items()]
        largest = max(value for _, value in differing)
        print(f"{name}: {len(wanted)} rows, largest difference {largest:.3f} points")
        for key, value in differing:
            if value > LIMIT:
                print("  ", *key, f"{value:.2f}", found[key], wanted[key])
    for model in dict.fromkeys(key.model for key in wanted):
        for task in dict.fromkeys(key.task for key in wanted):
            key = Slice(task, model, ALL, ALL)
            print(f"{model}, {task}: lines and words {columns[OWN][key]}, expected {wanted[key]}")


def distance(found: Rates, wanted: Rates) -> float:
    assert (found.words is None) == (wanted.words is None)
    return max(abs(found.lines - wanted.lines), abs((found.words or 0.0) - (wanted.words or 0.0)))


def outputs(folder: Path, rows: list[tuple[str, str]], size: int) -> Artifact:
    """An artifact of `size` outputs: the completions, over and over, each of a prompt of its own."""
    writer, source = ArtifactWriter(folder, OUTPUTS, "f"), enumerate(cycle(rows))

    def part() -> Iterator[dict[str, object]]:
        for index, (language, text) in islice(source, min(PART, size - written)):
            yield {
                "language": language, "prompt_id": str(index), "sample_index": 0, "instruction": "", "output": text,
                "character_count": len(text), "detected_language": "und", "language_confidence": 0.0,
            }  # fmt: skip

    written = parts = 0
    while written < size:
        table = pa.Table.from_pylist(list(part()), schema=OUTPUTS.schema)
        writer.write_part(parts, table)
        written, parts = written + table.num_rows, parts + 1
    return writer.close(parts)


def million(shared: Path, size: int, folder: Path) -> None:
    rows = [(key.language, text) for key, texts in completions(shared).items() for text in texts]
    lines = sum(text.count("\n") + 1 for _, text in islice(cycle(rows), size))
    english = english_words()
    for language in {language for language, _ in rows}:  # loads its words
        rule = rule_of(language)
        assert not isinstance(rule, str), rule
        check("", rule, english)
    made = outputs(folder / "outputs", rows, size)
    del rows
    before, wall, cpu = memory(), time.monotonic(), time.process_time()
    seen = write_confusion(made, ArtifactWriter(folder / "confusion", CONFUSION, "f"), english)
    scores = confusion_scores(seen.read_part(index) for index in range(len(seen.parts)))
    cpu, wall = time.process_time() - cpu, time.monotonic() - wall
    print(
        f"{size:,} outputs of {lines:,} lines: {1000 * cpu / lines:.3f} ms of CPU a line, {1000 * cpu / size:.2f} an output, {wall:.0f} s; "
        f"peak memory {memory():,.0f} MB ({before:,.0f} before); {len(scores)} scores",
        flush=True,
    )


def memory() -> float:
    """Peak of this process, MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("parity", "million"))
    parser.add_argument("--shared", type=Path, default=Path(os.environ.get("ICR_SHARED", "../shared")))
    parser.add_argument("--tsv", type=Path)
    parser.add_argument("--outputs", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    folder = options.shared / "data" / "lcb"
    if options.what == "parity":
        parity(folder, options.tsv)
    elif options.folder is not None:
        million(folder, options.outputs, options.folder)
    else:
        for size in (options.outputs // 100, options.outputs):  # each in a process of its own, whose peak is its own
            with tempfile.TemporaryDirectory() as temporary:
                command = ["million", "--shared", str(options.shared), "--outputs", str(size), "--folder", temporary]
                subprocess.run([sys.executable, __file__, *command], check=True)


if __name__ == "__main__":
    main()
