"""Families of transformers: the committed table of what is packed and batched, and how exact both are, is what is found."""

from __future__ import annotations

import csv
import importlib
import logging
from pathlib import Path
from types import ModuleType

import pytest
import transformers

BENCHMARK = Path(__file__).parents[1] / "benchmarks" / "bench_families.py"
PER_TOKEN = 2e-5

# Families whose attention changes outside its call, whose rows do not bear padding, and a sample of the others.
SAMPLE = [
    ("phimoe", "window"),
    ("qwen2_moe", "window layers"),
    ("granite_swa", ""),
    ("rwkv", ""),
    ("bart", ""),
    ("cohere2", ""),
    ("phi3", ""),
    ("olmo2", ""),
    ("phi3", "longrope"),
]


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    return importlib.import_module("tests.benchmarks.bench_families")


def table() -> dict[tuple[str, str], dict[str, str]]:
    with BENCHMARK.with_name("families.csv").open(encoding="utf-8", newline="") as file:
        return {(row["family"], row["variant"]): row for row in csv.DictReader(file)}


def check(bench: ModuleType, family: str, variant: str) -> None:
    known = table()[family, variant]
    kinds = {name: (kind, config) for name, kind, config in bench.families()}
    result = bench.measure(family, variant, *kinds[family])
    if known["packed"] != "-" or result.packed != "-":
        assert (result.packed, result.batched) == (known["packed"], known["batched"]), result
    assert (result.packed == "yes") == (result.not_packed_because == "")
    if result.packed != "-":
        assert float(result.packed_deviation or result.scored_deviation) <= PER_TOKEN, result


@pytest.mark.parametrize(("family", "variant"), SAMPLE)
def test_a_family_is_scored_as_the_table_says(bench: ModuleType, family: str, variant: str) -> None:
    check(bench, family, variant)


def test_no_family_deviates_in_the_table() -> None:
    rows = table().values()
    assert all(float(row["packed_deviation"]) <= PER_TOKEN for row in rows if row["packed"] == "yes")
    assert all(row["not_packed_because"] for row in rows if row["packed"] != "yes")
    assert all(row["not_batched_because"] for row in rows if row["batched"] != "yes")
    common = {
        "llama",
        "mistral",
        "qwen2",
        "qwen3",
        "gemma2",
        "gemma3_text",
        "phi3",
        "olmo2",
        "cohere2",
        "smollm3",
        "gpt_oss",
    }
    assert all(
        row["packed"] == row["batched"] == "yes" for row in rows if row["family"] in common and not row["variant"]
    )


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_every_family_is_scored_as_the_table_says(bench: ModuleType) -> None:
    transformers.logging.set_verbosity_error()
    logging.getLogger("icr_platform").setLevel(logging.ERROR)
    rows = table()
    if {row["transformers"] for row in rows.values()} != {transformers.__version__}:
        pytest.skip("the table is of another version of transformers")
    assert {family for family, _ in rows} == {name for name, _, _ in bench.families()}
    for family, variant in rows:
        check(bench, family, variant)
