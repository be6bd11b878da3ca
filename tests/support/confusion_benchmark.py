"""The Language Confusion Benchmark's completions of three models, and what its own script gives on them (ICR_SHARED)."""

from __future__ import annotations

import csv
import sys
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa

from icr_platform.evaluation.confusion_table import LINES, WORDS, confusion_rows, confusion_scores

ALL = "all"


class Slice(NamedTuple):
    """Completions of one model to one source's prompts in one language; `all` for an average."""

    task: str
    model: str
    source: str
    language: str


class Rates(NamedTuple):
    """In percent; words: None in a language without a word rate."""

    lines: float
    words: float | None


def completions(folder: Path) -> dict[Slice, list[str]]:
    csv.field_size_limit(sys.maxsize)
    found: dict[Slice, list[str]] = {}
    for path in sorted(folder.glob("*.csv")):
        with path.open(encoding="utf-8", newline="") as text:
            for row in csv.DictReader(text):
                key = Slice(row["task"], row["model"], row["source"], row["language"])
                found.setdefault(key, []).append(row["completion"])
    return found


def expected(folder: Path) -> dict[Slice, Rates]:
    with (folder / "expected.tsv").open(encoding="utf-8") as text:
        return {
            Slice(row["task"], row["model"], row["source"], row["language"]): Rates(
                _percent(row["lpr"]), None if row["wpr"] == "N/A" else _percent(row["wpr"])
            )
            for row in csv.DictReader(text, delimiter="\t")
        }


def _percent(text: str) -> float:
    return float(text.removesuffix("%"))


def measured(texts: Mapping[Slice, list[str]], english: Collection[str]) -> dict[Slice, Rates]:
    """The rates of every slice by the platform, and the benchmark's averages over them: first over the sources of a language."""
    found: dict[Slice, Rates] = {}
    for key, slices in texts.items():
        scores = {score.metric: score for score in confusion_scores([confusion_rows(as_outputs(key, slices), english)])}
        lines = scores[LINES].value
        assert lines is not None
        found[key] = Rates(lines, scores[WORDS].value if WORDS in scores else None)
    return found | dict(_averages(found))


def as_outputs(key: Slice, texts: list[str]) -> pa.Table:
    """What a table of outputs has of them."""
    size = len(texts)
    return pa.table(
        {
            "language": [key.language] * size,
            "prompt_id": [f"{key.source}-{index}" for index in range(size)],
            "sample_index": pa.array([0] * size, pa.int32()),
            "output": texts,
        }
    )


def _averages(found: Mapping[Slice, Rates]) -> Iterator[tuple[Slice, Rates]]:
    for task, model in dict.fromkeys((key.task, key.model) for key in found):
        own = {key: rates for key, rates in found.items() if key[:2] == (task, model)}
        for source in dict.fromkeys(key.source for key in own):
            yield Slice(task, model, source, ALL), _mean([own[key] for key in own if key.source == source])
        languages = dict.fromkeys(key.language for key in own)
        by_language = {code: _mean([own[key] for key in own if key.language == code]) for code in languages}
        yield from ((Slice(task, model, ALL, code), rates) for code, rates in by_language.items())
        yield Slice(task, model, ALL, ALL), _mean(list(by_language.values()))


def _mean(rates: list[Rates]) -> Rates:
    words = [rate.words for rate in rates if rate.words is not None]
    return Rates(sum(rate.lines for rate in rates) / len(rates), sum(words) / len(words) if words else None)
