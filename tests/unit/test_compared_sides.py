"""What Compare pairs and counts, against the platform's own functions and tables written by hand; no model, no server."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from icr_platform.core.artifacts import Artifact, open_artifact
from icr_platform.core.errors import InputError
from icr_platform.core.schemas import OUTPUTS, TABLES
from icr_platform.evaluation.arm_comparison import KEYS, Runs, difference, pair_items
from icr_platform.evaluation.instruction_scores import outputs_followed, shared_checks
from tests.support.synthetic_runs import table_of, write_artifact
from ui.tables import prompt_changes, value_tables
from ui.tables.output_files import OutputFiles
from ui.tables.paired_table import PairedTables, RunValues
from ui.tables.prompt_changes import Comparison, Coverage, Filter
from ui.tables.queries import QueryEngine

OUTPUT_FACTS = {"token_count": 1, "finish_reason": "stop", "detected_language": "es", "language_confidence": 0.9}


def outputs(folder: Path, rows: Sequence[tuple[str, str, str, int]]) -> Artifact:
    """Of (language, prompt id, instruction, characters)."""
    table = [
        OUTPUT_FACTS
        | {
            "language": code,
            "prompt_id": key,
            "sample_index": 0,
            "instruction": asked,
            "output": "x" * size,
            "character_count": size,
        }
        for code, key, asked, size in rows
    ]
    return open_artifact(write_artifact(folder, "outputs", [table_of("outputs", table)]), OUTPUTS)


def judgments(folder: Path, values: dict[tuple[str, str], float]) -> Artifact:
    """Both orders agree."""
    rows = [
        {"language": code, "prompt_id": key, "sample_index": 0, "order": order, "preference": value, "mass": 1.0, "outcome": "ok",
         "judge": "j", "input_tokens": 1, "output_tokens": 1, "detail": ""}
        for (code, key), value in values.items()
        for order in ("model-first", "reference-first")
    ]  # fmt: skip
    return open_artifact(write_artifact(folder, "judgments", [table_of("judgments", rows)]), TABLES["judgments"])


def checks(folder: Path, rows: Sequence[tuple[str, int, str, bool | None]]) -> Artifact:
    """Of (prompt id, sample, instruction, followed)."""
    table = [
        {"language": "es", "prompt_id": key, "sample_index": sample, "turn": 1, "source": "", "instruction_id": kind, "kwargs": "{}",
         "strict": followed, "loose": followed, "reason": ""}
        for key, sample, kind, followed in rows
    ]  # fmt: skip
    return open_artifact(
        write_artifact(folder, "instruction_checks", [table_of("instruction_checks", table)]),
        TABLES["instruction_checks"],
    )


@pytest.fixture
def engine() -> QueryEngine:
    return QueryEngine()


def test_prompts_are_paired_where_both_ask_the_same(tmp_path: Path, engine: QueryEngine) -> None:
    """An id alone says little: prompt sets number from 0. White space differs between files, and a file may lack instructions."""
    before = [
        ("es", "0", "Cuenta  hasta diez", 100),
        ("es", "1", "¿Dónde?", 100),
        ("es", "2", "Adiós", 100),
        ("es", "3", "Sí", 50),
    ]
    after = [
        ("es", "0", "Cuenta hasta\ndiez ", 100),
        ("es", "1", "¿Cuándo?", 300),
        ("es", "2", "", 109),
        ("th", "0", "ไป", 9),
    ]
    tables = [
        value_tables.answered_prompts(engine, [outputs(tmp_path / name, rows)])
        for name, rows in (("before", before), ("after", after))
    ]
    names = engine.keep("none", table_of("prompts", []))
    comparison = Comparison(tables[0], tables[1], names, "length", (tables[0], tables[1]))
    assert prompt_changes.coverage(engine, comparison, "") == Coverage(2, 1, 1, 1)
    assert prompt_changes.coverage(engine, comparison, "th") == Coverage(0, 0, 1, 0)
    rows, total = prompt_changes.ranked(engine, comparison, Filter(), "largest", 0)
    assert [(row["prompt_id"], row["change"], row["length"], row["relative"]) for row in rows] == [
        ("2", 9.0, "0-200", "alike"), ("0", 0.0, "0-200", "alike"),
    ]  # fmt: skip
    assert total == 2


@pytest.mark.parametrize(
    ("before", "after", "length", "relative"),
    [(100, 299, "0-200", "longer"), (100, 300, "200-800", "longer"), (1000, 901, "800-2000", "alike"), (1000, 899, "800-2000", "shorter"),
     (3000, 3300, "2000-", "alike"), (0, 0, "0-200", "alike"), (0, 1, "0-200", "longer"), (1999, 2001, "2000-", "alike")],
)  # fmt: skip
def test_slices_by_length(
    tmp_path: Path, engine: QueryEngine, before: int, after: int, length: str, relative: str
) -> None:
    tables = [
        value_tables.answered_prompts(engine, [outputs(tmp_path / name, [("es", "0", "q", size)])])
        for name, size in (("before", before), ("after", after))
    ]
    comparison = Comparison(
        tables[0], tables[1], engine.keep("none", table_of("prompts", [])), "length", (tables[0], tables[1])
    )
    for field, expected in (("length", length), ("relative", relative)):
        (found,) = prompt_changes.slices(engine, comparison, field)
        assert (found.name, found.prompts, found.before, found.after) == (expected, 1, before, after)
        assert prompt_changes.slices(engine, comparison, "all", Filter(**{field: expected}))[0].prompts == 1
        assert not prompt_changes.slices(engine, comparison, "all", Filter(**{field: "-"}))


def test_flips_come_first(tmp_path: Path, engine: QueryEngine) -> None:
    before = dict.fromkeys([("es", key) for key in "abcde"], 0.5) | {
        ("es", "a"): 0.9,
        ("es", "b"): 0.1,
        ("es", "e"): 0.7,
    }
    after = {("es", "a"): 0.1, ("es", "b"): 0.6, ("es", "c"): 0.52, ("es", "d"): 0.6, ("es", "e"): 1.0}
    tables = [
        value_tables.judged_prompts(engine, judgments(tmp_path / str(i), one)) for i, one in enumerate((before, after))
    ]
    comparison = Comparison(tables[0], tables[1], engine.keep("none", table_of("prompts", [])), "judge")
    rows, _ = prompt_changes.ranked(engine, comparison, Filter(), "flips", 0)
    # win -> loss and loss -> win, then tie -> win, then what stayed what it was.
    assert [row["prompt_id"] for row in rows] == ["a", "b", "d", "e", "c"]
    assert {
        row["prompt_id"] for row in prompt_changes.ranked(engine, comparison, Filter(flow="flips"), "flips", 0)[0]
    } == {"a", "b", "d"}
    near = prompt_changes.neighbours(engine, comparison, Filter(flow="flips"), "flips", "es", "b")
    assert near is not None
    assert (near["place"], near["total"], near["p0"], near["p1"]) == (2, 3, "a", "d")


def test_runs_of_one_side_are_averaged_where_all_have_the_prompt(tmp_path: Path, engine: QueryEngine) -> None:
    runs = [{("es", "a"): 0.2, ("es", "b"): 1.0}, {("es", "a"): 0.6}]
    artifacts = [judgments(tmp_path / str(i), one) for i, one in enumerate(runs)]
    table = value_tables.judged_prompts(engine, *artifacts)
    assert engine.select(f"SELECT prompt_id, round(value, 9) AS value FROM {table}") == [
        {"prompt_id": "a", "value": 0.4}
    ]


def test_instructions_are_those_that_both_sides_verified(tmp_path: Path, engine: QueryEngine) -> None:
    """Against `instruction_scores`, on random verdicts with instructions that come twice and that one side could not verify."""
    rng = np.random.default_rng(3)

    def some(folder: str) -> Artifact:
        rows = [
            (f"p{i}", sample, f"kind:{kind}", None if rng.random() < 0.15 else bool(rng.random() < 0.7))
            for i in range(30)
            for sample in range(2)
            for kind in (0, 1, 1, 2)
        ]
        return checks(tmp_path / folder, rows)

    first, second = some("first"), some("second")
    shared = value_tables.shared_instructions(engine, [first], [second])
    wanted = shared_checks(*(one.read().to_pandas() for one in (first, second)))
    for artifact, kept in zip((first, second), wanted, strict=True):
        table = value_tables.followed_prompts(engine, artifact, shared=shared)
        found = {row["prompt_id"]: row["value"] for row in engine.select(f"SELECT * FROM {table}")}
        naive = outputs_followed(kept).groupby("prompt_id")["strict"].mean().to_dict()
        assert found == pytest.approx(naive)
        by_kind = value_tables.followed_by_kind(engine, artifact, shared=shared)
        for kind, of_kind in kept.groupby("instruction_id"):
            rows = engine.select(f"SELECT prompt_id, value FROM {by_kind} WHERE kind = ?", [kind])
            naive = outputs_followed(of_kind).groupby("prompt_id")["strict"].mean().to_dict()
            assert {row["prompt_id"]: row["value"] for row in rows} == pytest.approx(naive)
            alone = value_tables.followed_prompts(engine, artifact, shared=shared, kind=str(kind))
            assert {row["prompt_id"]: row["value"] for row in engine.select(f"SELECT * FROM {alone}")} == pytest.approx(
                naive
            )


@pytest.mark.parametrize("runs", [1, 2])
def test_the_paired_table_is_what_the_comparison_of_arms_says(tmp_path: Path, engine: QueryEngine, runs: int) -> None:
    rng = np.random.default_rng(runs)
    keys = [(code, f"p{i}") for code in ("en", "es", "th") for i in range(12)]
    values = [[dict(zip(keys, rng.random(len(keys)), strict=True)) for _ in range(runs)] for _ in range(2)]
    artifacts = [
        [judgments(tmp_path / f"{side}-{run}", one) for run, one in enumerate(of)] for side, of in enumerate(values)
    ]
    tables = [value_tables.judged_prompts(engine, *of) for of in artifacts]
    comparison = Comparison(tables[0], tables[1], engine.keep("none", table_of("prompts", [])), "judge")
    sides = [
        RunValues(
            tuple(value_tables.judged_prompts(engine, one) for one in of),
            tuple(range(runs)),
            value_tables.order_of(engine, of[0]),
        )
        for of in artifacts
    ]
    found = {row.language: row for row in PairedTables(engine).of(comparison, sides[0], sides[1], Filter())}
    index = pd.MultiIndex.from_tuples([(*key, "") for key in keys], names=KEYS)
    first, second = (
        Runs([pd.Series([100 * one[key] for key in keys], index) for one in of], tuple(range(runs))) for of in values
    )
    pairs = pair_items(first, second)
    groups = {"en": ["en"], "es": ["es"], "th": ["th"], "mean": ["en", "es", "th"], "mean_non_english": ["es", "th"]}
    assert list(found) == list(groups)
    for name, languages in groups.items():
        wanted = difference(pairs, languages)
        got = found[name].found
        assert (got.n, got.by_seed) == (wanted.n, wanted.by_seed)
        for field in ("first", "second", "difference", "standard_error", "low", "high", "p_value"):
            assert getattr(got, field) == pytest.approx(getattr(wanted, field), abs=1e-9, nan_ok=True), (name, field)
    only = PairedTables(engine).of(comparison, sides[0], sides[1], Filter("es"))
    assert [row.language for row in only] == ["es"]
    assert PairedTables(engine).of(comparison, sides[0], sides[1], Filter("sw")) == []


def written(path: Path, rows: Any) -> str:
    path.write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")
    return str(path)


@pytest.mark.parametrize(
    ("rows", "wanted"),
    [
        ([{"id": 1, "instruction": "Q", "output": "A", "language": "es"}], [("es", "1", 0, "Q", "A")]),
        ([{"id": 1, "output": "A", "language": "es"}], [("es", "1", 0, "", "A")]),
        ([{"id": 1, "output": "A"}, {"id": 1, "output": "B"}], [("", "1", 0, "", "A"), ("", "1", 1, "", "B")]),
        ([{"instruction": "Q", "response": "<think>hm</think>A", "language": "es"}], [("es", "known", 0, "Q", "A")]),
        ([{"instruction": " Q", "output": "A"}], [("es", "known", 0, " Q", "A")]),
        ([{"instruction": "other", "output": "", "language": "es"}], [("es", hashlib.sha256(b"other\0").hexdigest()[:16], 0, "other", "")]),
        ([{"messages": [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]}], "field 'output' is missing"),
        ([{"id": 1, "output": 3}], "field 'output' is not text"),
        ([{"output": "A"}], "fields 'id' and 'instruction' are both missing"),
        ([{"id": 1, "output": "A"}, {"instruction": "Q", "output": "A"}], "field 'instruction' is missing while other rows have no id"),
        ([], "no rows"),
    ],
)  # fmt: skip
def test_files_of_outputs_as_people_have_them(tmp_path: Path, engine: QueryEngine, rows: Any, wanted: Any) -> None:
    path = written(tmp_path / "outputs.json", rows)
    files = OutputFiles([path], tmp_path / "kept")
    beside = outputs(tmp_path / "beside", [("es", "known", "Q", 3), ("th", "p1", "ไป", 3)])
    if isinstance(wanted, str):
        with pytest.raises(InputError, match=wanted) as caught:
            files.read(path, beside)
        assert "\n" not in str(caught.value)
        assert "outputs.json" in str(caught.value)
        return
    found = files.read(path, beside).outputs
    columns = "language, prompt_id, sample_index, instruction, output"
    rows = engine.select(f"SELECT {columns} FROM read_parquet(?)", [[str(part) for part in found.parts]])
    assert [tuple(row.values()) for row in rows] == wanted


def test_only_files_that_were_offered_are_read_and_again_when_they_change(tmp_path: Path) -> None:
    path = written(tmp_path / "outputs.json", [{"id": 1, "output": "A"}])
    secret = written(tmp_path / "secret.json", [{"id": 1, "output": "A"}])
    files = OutputFiles([path], tmp_path / "kept")
    with pytest.raises(InputError, match="none of the files that the inspector was started with"):
        files.read(secret)
    first = files.read(path).outputs
    assert files.read(path).outputs is first
    written(tmp_path / "outputs.json", [{"id": 1, "output": "A"}, {"id": 2, "output": "longer"}])
    assert files.read(path).outputs.rows == 2
    (tmp_path / "outputs.json").unlink()
    with pytest.raises(InputError, match="moved or deleted"):
        files.read(path)
    files.close()
    assert not [place for place in (tmp_path / "kept").iterdir() if place.name != ".lock"]
