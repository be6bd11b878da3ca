"""Tiny random models of many families go through generate, annotate, one training step and eval, in one process."""

from __future__ import annotations

import csv
import importlib
from pathlib import Path
from types import ModuleType

import pytest

STAGES = ("generate", "annotate", "train", "eval")


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    return importlib.import_module("tests.benchmarks.bench_architectures")


def passes(bench: ModuleType, family: str, tmp_path: Path) -> None:
    kinds = {name: (kind, config) for name, kind, config in bench.families()}
    (tmp_path / "data").mkdir()
    outcome = bench.through_the_stages(family, *kinds[family], bench.Data(tmp_path / "data"), tmp_path)
    assert [getattr(outcome, stage) for stage in STAGES] == ["pass"] * len(STAGES), outcome.because


# Linear attention, a state space beside attention, experts, a sliding window.
@pytest.mark.parametrize("family", ["qwen3_next", "bamba", "mixtral", "gemma3_text"])
def test_a_family_goes_through_all_stages(bench: ModuleType, family: str, tmp_path: Path) -> None:
    passes(bench, family, tmp_path)


def test_no_family_of_the_table_crashes(bench: ModuleType) -> None:
    with bench.TABLE.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len({row["family"] for row in rows}) >= 53
    assert all(row[stage] in ("pass", "refused") for row in rows for stage in STAGES), rows
    assert all(row["because"] for row in rows if "refused" in row.values())


@pytest.mark.slow
def test_every_family_of_the_table_still_does(bench: ModuleType, tmp_path: Path) -> None:
    for number, family in enumerate(bench.FAMILIES.split()):
        folder = tmp_path / str(number)
        folder.mkdir()
        passes(bench, family, folder)
