"""What is compared by prompt: values of each table by hand, examples with flips, and slices of them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from icr_platform.core.artifacts import Artifact, ArtifactWriter, completed
from icr_platform.core.schemas import BENCHMARKS, INSTRUCTION_CHECKS, JUDGMENTS, OUTPUTS, REWARD_BENCH, TableSchema
from icr_platform.evaluation.arm_comparison import difference, pair_items
from icr_platform.evaluation.instruction_scores import change_table, read_checks
from icr_platform.evaluation.prompt_values import (
    SLICES,
    Metric,
    Opener,
    example_rows,
    paired_values,
    slice_table,
)

DEFAULTS = {"string": "", "int32": 0, "int64": 0, "double": 1.0, "bool": False, "fixed_size_binary[16]": b"0" * 16}


def artifact(folder: Path, schema: TableSchema, rows: list[dict[str, Any]]) -> Artifact:
    """A table with what a test says of its rows, and something in every other column that must have a value."""
    needed = {
        field.name: DEFAULTS[str(field.type)]
        for field in schema.schema
        if not field.nullable and str(field.type) in DEFAULTS
    }
    names = [name for name in schema.schema.names if name in needed or any(name in row for row in rows)]
    given = [{**needed, **row} for row in rows]
    fields = pa.schema([schema.schema.field(name) for name in names])
    writer = ArtifactWriter(folder, schema, "test")
    writer.write_part(0, completed(pa.Table.from_pylist(given, schema=fields), schema))
    return writer.close(1)


def side(folder: Path, **tables: tuple[TableSchema, list[dict[str, Any]]]) -> Opener:
    found = {name: artifact(folder / name, *table) for name, table in tables.items()}
    return found.get


def output(prompt_id: str, text: str, language: str = "es", detected: str = "es", sample: int = 0) -> dict[str, Any]:
    return {
        "language": language, "prompt_id": prompt_id, "sample_index": sample, "instruction": f"ask {prompt_id}", "output": text,
        "character_count": len(text), "detected_language": detected, "finish_reason": "stop",
    }  # fmt: skip


def judgment(prompt_id: str, preference: float | None, order: str = "none", sample: int = 0) -> dict[str, Any]:
    return {
        "language": "es",
        "prompt_id": prompt_id,
        "sample_index": sample,
        "order": order,
        "preference": preference,
        "outcome": "ok",
    }


def check(prompt_id: str, kind: str, strict: bool | None, source: str = "local", turn: int = 1) -> dict[str, Any]:
    return {
        "language": "es", "prompt_id": prompt_id, "sample_index": 0, "turn": turn, "source": source, "instruction_id": kind,
        "kwargs": "{}", "strict": strict, "loose": strict,
    }  # fmt: skip


def values_of(first: Opener, second: Opener) -> Mapping[Metric, Any]:
    return paired_values([first], [second], ((1,), (1,)))


def found_of(first: Opener, second: Opener, name: str) -> Any:
    metric = next(one for one in values_of(first, second) if one.name == name)
    sides = values_of(first, second)[metric]
    return difference(pair_items(*sides), ["es"], test=metric.test, limits=metric.limits)


def test_preferences_orders_and_samples_of_a_prompt_are_one_value(tmp_path: Path) -> None:
    first = side(
        tmp_path / "a",
        judgments=(
            JUDGMENTS,
            [judgment("a", 0.2, "model-first"), judgment("a", 0.4, "reference-first"), judgment("b", 0.5)],
        ),
    )
    # Of prompt a one sample has both orders; the other lacks one, and counts for nothing.
    rows = [
        judgment("a", 0.8, "model-first"),
        judgment("a", 1.0, "reference-first"),
        judgment("a", 0.0, "model-first", 1),
    ]
    rows += [judgment("a", None, "reference-first", 1), judgment("b", 0.5)]
    second = side(tmp_path / "b", judgments=(JUDGMENTS, rows))
    found = found_of(first, second, "win_rate")
    assert (found.first, found.second, found.difference, found.n) == pytest.approx((40, 70, 30, 2))


def test_outputs_have_languages_and_lengths(tmp_path: Path) -> None:
    first = side(tmp_path / "a", outputs=(OUTPUTS, [output("a", "hola"), output("b", "hello", detected="en")]))
    second = side(tmp_path / "b", outputs=(OUTPUTS, [output("a", "buenas"), output("b", "hola"), output("c", "sí")]))
    assert found_of(first, second, "fidelity").difference == pytest.approx(50)
    found = found_of(first, second, "length/characters")
    assert (found.first, found.second, found.second_only) == (4.5, 5.0, 1)


def test_rewards_by_kind_and_corruptions_apart(tmp_path: Path) -> None:
    def rows(*right: float | None) -> list[dict[str, Any]]:
        pairs = [("p", "x", "pairs"), ("p", "y", "pairs"), ("q", "z", "pairs"), ("p", "c", "corruptions")]
        return [
            {
                "language": "es",
                "prompt_id": prompt,
                "pair_id": pair,
                "source": source,
                "kind": "cross-lingual",
                "is_right": value,
            }
            for (prompt, pair, source), value in zip(pairs, right, strict=True)
        ]

    first, second = (
        side(tmp_path / name, reward_bench=(REWARD_BENCH, rows(*right)))
        for name, right in (("a", (0, 1, None, 0)), ("b", (1, 0.5, 1, 1)))
    )
    found = found_of(first, second, "reward_accuracy/cross-lingual")
    assert (found.first, found.second, found.n) == pytest.approx((50, 75, 1))  # two pairs of one prompt; z is unpaired
    assert found_of(first, second, "corruption_accuracy/cross-lingual").difference == 100


def test_instructions_are_those_that_both_verified_as_iterations_compare_them(tmp_path: Path) -> None:
    before = [
        check("a", "comma", True),
        check("a", "words", False),
        check("b", "comma", None),
        check("c", "comma", False),
    ]
    after = [
        check("a", "comma", True),
        check("a", "words", True),
        check("b", "comma", True),
        check("c", "comma", False),
    ]
    first, second = (
        side(tmp_path / name, instruction_checks=(INSTRUCTION_CHECKS, rows))
        for name, rows in (("a", before), ("b", after))
    )
    found = found_of(first, second, "prompt_accuracy/strict")
    tables = [read_checks(one) for opener in (first, second) if (one := opener("instruction_checks")) is not None]
    known = change_table(*tables).set_index("reading").loc["strict"]
    assert (
        (found.difference, found.p_value, found.n)
        == pytest.approx((known["difference"], known["p_value"], known["n"]))
        == (50, 1, 2)
    )
    assert found_of(first, second, "instruction_accuracy/strict").difference == pytest.approx(100 / 3)


def test_benchmarks_by_document_in_percent(tmp_path: Path) -> None:
    def row(*values: float) -> list[dict[str, Any]]:
        documents = [
            {
                "task": "arc_es",
                "document": index,
                "digest": f"d{index}",
                "prompt_digest": "",
                "value": value,
                "answer": "",
                "target": "",
            }
            for index, value in enumerate(values)
        ]
        return [{"language": "es", "family": "arc", "task": "arc_es", "metric": "acc", "documents": documents}]

    first, second = (
        side(tmp_path / name, benchmarks=(BENCHMARKS, row(*values)))
        for name, values in (("a", (0, 1, 0, 1)), ("b", (1, 1, 1, 1)))
    )
    found = found_of(first, second, "benchmark/arc")
    assert (found.difference, found.better, found.worse) == (50, 2, 0)


def test_examples_have_flips_first_and_slices_of_them(tmp_path: Path) -> None:
    sides = []
    preferences = ({"a": 0.9, "b": 0.5, "c": 0.2, "d": 0.7}, {"a": 0.1, "b": 0.4, "c": 0.9, "e": 0.5})
    for name, of in zip("xy", preferences, strict=True):
        rows = [output(prompt, f"{name} {prompt} " * (ord(prompt) - 96)) for prompt in of]
        tables = {
            "outputs": (OUTPUTS, rows),
            "judgments": (JUDGMENTS, [judgment(prompt, value) for prompt, value in of.items()]),
        }
        sides.append(side(tmp_path / name, **tables))
    first, second = sides
    examples = example_rows(first, second, {("es", "a"): "koala", ("es", "b"): "koala", ("es", "c"): "vicuna"})
    assert examples["prompt_id"].tolist() == ["a", "b", "c"]
    assert examples["flip"].tolist() == ["regression", "regression", "improvement"]
    assert examples["difference"].tolist() == pytest.approx([-80, -10, 70])
    shown = ["first_output", "second_output", "instruction", "source"]
    assert examples[shown].iloc[0].tolist() == ["x a ", "y a ", "ask a", "koala"]
    by_source = slice_table(examples, "source").set_index("slice")
    assert by_source["difference"].to_dict() == pytest.approx({"koala": -45, "vicuna": 70})
    assert by_source["n"].to_dict() == {"koala": 2, "vicuna": 1}
    lengths = slice_table(examples, "length")
    assert lengths["n"].sum() == 3
    assert [int(name.split("-")[0]) for name in lengths["slice"]] == sorted(
        int(name.split("-")[0]) for name in lengths["slice"]
    )
    assert slice_table(examples, "language")["slice"].tolist() == ["es"]
    assert len(slice_table(examples, "instruction_kind")) == 0


def test_examples_of_instructions_have_kinds_and_variants(tmp_path: Path) -> None:
    sides = []
    for name, followed in (("x", (True, False)), ("y", (False, True))):
        outputs = [output("p@local", "hola"), output("q@mt", "adiós")]
        checks = [
            check("p@local", "comma", followed[0]),
            check("p@local", "words", True),
            check("q@mt", "comma", followed[1], "mt"),
        ]
        sides.append(
            side(
                tmp_path / name, instruction_outputs=(OUTPUTS, outputs), instruction_checks=(INSTRUCTION_CHECKS, checks)
            )
        )
    first, second = sides
    examples = example_rows(first, second)
    assert examples["source"].tolist() == ["local", "mt"]
    assert examples["instruction_kinds"].tolist() == ["comma, words", "comma"]
    assert examples["flip"].tolist() == ["regression", "improvement"]
    by_kind = slice_table(examples, "instruction_kind").set_index("slice")
    assert by_kind["n"].to_dict() == {"comma": 2, "words": 1}
    assert by_kind["difference"].to_dict() == {"comma": 0, "words": -100}


def test_sides_without_a_verdict_still_have_examples(tmp_path: Path) -> None:
    first, second = (side(tmp_path / name, outputs=(OUTPUTS, [output("a", name)])) for name in "xy")
    examples = example_rows(first, second)
    assert examples[["first_output", "second_output", "flip"]].to_numpy().tolist() == [["x", "y", ""]]
    assert math.isnan(examples["difference"].iloc[0])
    assert example_rows(first, side(tmp_path / "without")).empty
    for by in SLICES:
        assert slice_table(examples, by).empty
