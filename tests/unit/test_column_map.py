"""Columns of any name, read by a map: from files, saved data sets and folders as the hub lays them out; and what a map gets wrong."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import datasets
import pytest

from icr_platform.core.config import validate
from icr_platform.core.errors import InputError
from icr_platform.data.prompts import load_prompts
from icr_platform.data.reference_outputs import load_reference_outputs
from icr_platform.data.text_preferences import read_text_preferences
from icr_platform.generation.config import GenerateConfig
from icr_platform.pipeline.identity import identify
from tests.support.published_sets import ARENA, BENCH, FEEDBACK, ODD, ODD_COLUMNS, ODD_PAIRS

Rows = list[dict[str, Any]]
ROWS: Rows = [
    {"uid": f"u{number}", "q": f"{code} {number}", "lang": code, "instruction": "not this", "id": 9}
    for number in (1, 2)
    for code in ("en", "sw")
]
COLUMNS = {"id": "uid", "instruction": "q", "language": "lang"}


def lines(path: Path, rows: Rows) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def write(folder: Path, files: dict[str, bytes]) -> str:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return str(folder)


def saved(folder: Path, rows: Rows) -> str:
    datasets.DatasetDict({"test": datasets.Dataset.from_list(rows)}).save_to_disk(str(folder))
    return str(folder)


def texts(path: str, columns: Mapping[str, str | None], languages: tuple[str, ...] = ()) -> list[tuple[str, str, str]]:
    table = load_prompts(path, languages, columns=columns).table
    return [(row["language"], row["prompt_id"], row["instruction"]) for row in table.to_pylist()]


PLACES: dict[str, Callable[[Path], str]] = {
    "a file": lambda path: lines(path / "all.jsonl", ROWS),
    "a folder as the hub has it": lambda path: str(Path(lines(path / "set" / "data" / "test-00000-of-00001.jsonl", ROWS)).parents[1]),
    "a saved data set": lambda path: saved(path / "set", ROWS),
    "a split of a saved one": lambda path: saved(path / "set", ROWS) + ":test",
}  # fmt: skip


@pytest.mark.parametrize("place", PLACES)
def test_prompts_by_a_map(place: str, tmp_path: Path) -> None:
    path = PLACES[place](tmp_path)
    expected = [("en", "u1", "en 1"), ("en", "u2", "en 2"), ("sw", "u1", "sw 1"), ("sw", "u2", "sw 2")]
    assert texts(path, COLUMNS) == expected
    notes = " ".join(load_prompts(path, columns=COLUMNS).notes)
    assert "instruction (the column map reads 'instruction' from 'q')" in notes, "what is not read is named"
    assert "id (the column map reads 'id' from 'uid')" in notes


def test_published_layouts_in_a_folder(tmp_path: Path) -> None:
    arena = write(tmp_path / "arena", ARENA)
    ids = {"id": "question_id", "instruction": "prompt"}
    for columns in ({}, ids):
        assert texts(arena, columns, ("he",)) == [("he", "q1", "he: How much is 1 + 1?")]
    assert texts(f"{arena}:en:test", ids) == [("en", "q1", "en: How much is 1 + 1?")]
    bench = read_text_preferences(
        write(tmp_path / "bench", BENCH), {"prompt": "prompt", "chosen": "rejected", "rejected": "chosen"}
    )
    assert [(pair.language, pair.chosen, pair.rejected) for pair in bench.pairs] == [
        (name, "No.", f"{name}!") for name in ("arb_Arab", "deu_Latn")
    ]  # fmt: skip
    feedback = write(tmp_path / "feedback", FEEDBACK)
    given = {"prompt": "prompt", "chosen": "chosen.-1.content", "rejected": "rejected.-1.content", "id": "prompt_id"}
    for path in (feedback, f"{feedback}:default:test_prefs", f"{feedback}:test_prefs"):
        (pair,) = read_text_preferences(path, given).pairs
        assert pair[:6] == ("f0", "Hi?", "Hello.", "Go.", 8.5, 2.0)
    odd = write(tmp_path / "odd", ODD)
    assert [row[2] for row in texts(f"{odd}/data.jsonl", ODD_COLUMNS, ("sw",))] == ["sw 1", "sw 2"]
    assert {pair.language for pair in read_text_preferences(f"{odd}/data.jsonl", ODD_PAIRS).pairs} == {"en", "sw"}


def test_reference_outputs_and_choices_by_a_map(tmp_path: Path) -> None:
    rows: Rows = [{"nr": "1", "said": {"text": "Right."}, "output": "Wrong."}]
    path = lines(tmp_path / "o" / "es.jsonl", rows)
    found = load_reference_outputs(
        str(Path(path).parent), {"es": {"1": "?"}}, columns={"id": "nr", "output": "said.text"}
    )
    assert found.get("es", "1") == "Right."
    duel = [{"ask": "?", "one": "A", "two": "B", "best": "model_b", "chosen": "x", "rejected": "y"}]
    columns = {"prompt": "ask", "response_a": "one", "response_b": "two", "winner": "best"}
    (pair,) = read_text_preferences(lines(tmp_path / "duel.jsonl", duel), columns).pairs
    assert (pair.chosen, pair.rejected) == ("B", "A"), "columns of another layout are not read"


def test_a_column_can_be_left_out(tmp_path: Path) -> None:
    path = lines(tmp_path / "en.jsonl", [{"id": 1, "instruction": "Sum it.", "input": "1 2", "language": "en"}])
    assert texts(path, {}) == [("en", "1", "Sum it.\n\n1 2")]
    assert texts(path, {"input": None}) == [("en", "1", "Sum it.")]


REFUSED: dict[str, tuple[dict[str, str | None], str]] = {
    "no such column": ({"instruction": "quary"}, "reads 'instruction' from 'quary', which is not there; found: uid, q, lang, instruction, id;"),
    "a typing error": ({"id": "uud"}, "'id' from 'uud', which is not there; found: uid, q, lang, instruction, id; give 'uid'"),
    "a path into a text": ({"instruction": "q.content"}, "from 'q.content', which is not there"),
    "what nobody reads": ({"instuction": "q"}, "names 'instuction', which prompts do not have; nearest is 'instruction'"),
    "of another kind of rows": ({"chosen": "q"}, "names 'chosen', which prompts do not have; known: prompt_id, instruction"),
    "two names of one thing": ({"instruction": "q", "prompt": "q"}, "names 'instruction' and 'prompt', which are the same; give one"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_a_map_that_cannot_be_followed_is_one_line(case: str, tmp_path: Path) -> None:
    columns, said = REFUSED[case]
    with pytest.raises(InputError) as caught:
        load_prompts(lines(tmp_path / "all.jsonl", ROWS), columns={"language": "lang", **columns})
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_columns_of_two_layouts_are_refused(tmp_path: Path) -> None:
    path = lines(tmp_path / "pairs.jsonl", [{"a": "1", "b": "2", "prompt": "?"}])
    with pytest.raises(
        InputError, match="'chosen' and 'response_b', which are not of one layout; give one of: chosen, rejected"
    ):
        read_text_preferences(path, {"chosen": "a", "response_b": "b"})


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("instruction=prompt", "not JSON"),
        ('{"id": true}', "names no column"),
        ('{"id": ["a"]}', "names no column"),
        ('{"id": ""}', "names no column"),
        ("[]", "not a mapping"),
    ],
)
def test_what_is_not_a_map(value: str, said: str) -> None:
    with pytest.raises(InputError, match=f"field 'prompt_columns': .*{said}"):
        validate(GenerateConfig, {"prompt_columns": value}, "icr generate")


def test_work_is_known_by_the_rows_however_their_columns_are_called(tiny_model: Path, tmp_path: Path) -> None:
    plain = [{"id": row["uid"], "instruction": row["q"], "language": row["lang"]} for row in ROWS]
    given = {"policy": str(tiny_model), "prompts": lines(tmp_path / "plain.jsonl", plain)}
    mapped = {**given, "prompts": lines(tmp_path / "own.jsonl", ROWS), "prompt_columns": COLUMNS}
    works = [identify("generate", GenerateConfig.model_validate(values)).work for values in (given, mapped)]
    assert works[0] == works[1]
    other = {**mapped, "prompt_columns": {**COLUMNS, "instruction": "uid"}}
    assert identify("generate", GenerateConfig.model_validate(other)).work != works[0]


def test_pairs_in_what_is_no_language_are_said(tmp_path: Path) -> None:
    """As in HelpSteer3, whose pairs about code name a language of programming."""
    row = {"prompt": "?", "chosen": "A", "rejected": "B"}
    path = lines(tmp_path / "pairs.jsonl", [{**row, "language": "python"}, {**row, "language": "korean"}])
    read = read_text_preferences(path)
    assert [pair.language for pair in read.pairs] == ["python", "ko"]
    assert f"{path}: 1 pairs are in python, which name no known language; they are kept under these names" in read.notes
    english = read_text_preferences(path, {"language": None})
    assert [pair.language for pair in english.pairs] == ["en", "en"]
