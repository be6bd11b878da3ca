"""Difficulty for length control: AlpacaEval's file by the instruction, other files by id, anything else refused."""

from __future__ import annotations

import csv
import gzip
import json
import random
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from icr_platform.core.errors import InputError
from icr_platform.evaluation.difficulty import alpacaeval_digests, instruction_digest, read_difficulty
from icr_platform.evaluation.inputs import read_anchors
from icr_platform.evaluation.scores import Judged, LengthControl, Score, score_judgments
from icr_platform.evaluation.win_rate import length_controlled_win_rate

MODELS = ["FuseChat-Llama-3.1-8B-Instruct", "alpaca-7b", "claude-2", "minotaur-13b"]


@cache
def english(shared_data: Path) -> tuple[str, ...]:
    """AlpacaEval's instructions in the order of its index."""
    rows = json.loads((shared_data / "prompts" / "x-alpacaeval" / "en.json").read_text(encoding="utf-8"))
    return tuple(row["instruction"] for row in sorted(rows, key=lambda row: int(row["id"])))


def write(path: Path, names: Sequence[str], rows: Sequence[Sequence[object]]) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([names, *rows])
    return path


def test_the_digests_are_those_of_the_805_instructions_in_order(shared_data: Path) -> None:
    assert tuple(map(instruction_digest, english(shared_data))) == alpacaeval_digests()
    assert len(set(alpacaeval_digests())) == 805


def ids_of(kind: str) -> list[str]:
    """Ids of the 805 prompts by AlpacaEval's index."""
    numbers = list(range(1, 806))
    if kind == "shuffled":
        random.Random(0).shuffle(numbers)
    return [f"{n:04d}-é" if kind == "text" else str(n) for n in numbers]


@pytest.mark.parametrize("limit", [200, 400, 804, 805])
@pytest.mark.parametrize("ids", ["in order", "shuffled", "text"])
def test_alpacaevals_file_gives_each_prompt_its_own_difficulty(shared_data: Path, ids: str, limit: int) -> None:
    path = shared_data / "lc-parity" / "instruction_difficulty.csv"
    true = pd.read_csv(path)["instruction_difficulty"].tolist()
    names = ids_of(ids)
    judged = random.Random(limit).sample(range(805), limit)
    prompts = {names[place]: english(shared_data)[place] for place in judged}
    found = read_difficulty(path, {"es": {"1": "Hola."}, "en": prompts})
    assert found.by_prompt == {("en", names[place]): true[place] for place in judged}
    assert found.notes == ()


def judged_rows(places: Sequence[int], rows: pd.DataFrame) -> Judged:
    """Judgments and lengths of stored annotations, as an evaluation has them; the ids are 1 .. 805."""
    rows = rows.set_index("index").loc[list(places)].reset_index()
    key = pd.DataFrame({"language": "en", "prompt_id": [str(place + 1) for place in rows["index"]], "sample_index": 0})
    judgments = key.assign(
        order="none", preference=rows["preference"] - 1, mass=1.0, outcome="ok", input_tokens=1, output_tokens=1
    )
    lengths = key.assign(character_count=rows["output_2_length"], reference_characters=rows["output_1_length"])
    return Judged(judgments, lengths)


def controlled(shared_data: Path, model: str, places: Sequence[int], difficulty: Path) -> tuple[Score, float]:
    """lc_win_rate/en of stored annotations, and the value with the join that is right by construction."""
    folder = shared_data / "lc-parity"
    rows, anchors = pd.read_csv(folder / f"{model}.csv"), pd.read_csv(folder / "gamed_surrogate.csv")
    prompts = {"en": {str(place + 1): english(shared_data)[place] for place in places}}
    control = LengthControl(read_difficulty(difficulty, prompts).by_prompt, anchors)
    scores = score_judgments([judged_rows(places, rows)], control)
    rows = rows.set_index("index").loc[list(places)]
    arguments = rows["preference"] - 1, rows["output_2_length"], rows["output_1_length"]
    own = pd.read_csv(folder / "instruction_difficulty.csv").set_index("index")["instruction_difficulty"]
    right = length_controlled_win_rate(*arguments, own.loc[list(places)], anchors).win_rate
    return next(score for score in scores if (score.language, score.metric) == ("en", "lc_win_rate")), right


@pytest.mark.parametrize("model", MODELS)
def test_length_control_has_the_value_of_the_right_join(shared_data: Path, model: str) -> None:
    places = pd.read_csv(shared_data / "lc-parity" / f"{model}.csv")["index"].tolist()
    score, right = controlled(
        shared_data, model, places[:400], shared_data / "lc-parity" / "instruction_difficulty.csv"
    )
    assert score.value == pytest.approx(right, abs=1e-6)
    assert score.flag == "full"


def test_a_file_that_covers_a_part_gives_the_minimal_variant_without_anchors_and_says_so(
    shared_data: Path, tmp_path: Path
) -> None:
    whole = pd.read_csv(shared_data / "lc-parity" / "instruction_difficulty.csv")
    whole.iloc[::2].to_csv(tmp_path / "half.csv", index=False)
    score, _ = controlled(shared_data, "claude-2", range(400), tmp_path / "half.csv")
    rows = pd.read_csv(shared_data / "lc-parity" / "claude-2.csv")
    rows = rows[rows["index"] < 400]
    arguments = rows["preference"] - 1, rows["output_2_length"], rows["output_1_length"]
    assert score.value == pytest.approx(length_controlled_win_rate(*arguments).win_rate, abs=1e-6)
    assert score.flag == "minimal incomplete-difficulty (200 of 400 judged prompts have a difficulty)"
    prompts = {"en": {str(place + 1): english(shared_data)[place] for place in range(400)}}
    [note] = read_difficulty(tmp_path / "half.csv", prompts).notes
    assert "200 of 400 prompts in 'en' have no difficulty, the first is '2'" in note
    anchors = pd.read_csv(shared_data / "lc-parity" / "gamed_surrogate.csv")
    difficulty = np.where(rows["index"] % 2, np.nan, rows["instruction_difficulty"])
    rate = length_controlled_win_rate(*arguments, difficulty, anchors)
    assert (rate.variant, rate.anchors, rate.flags) == ("minimal", 0, ("incomplete-difficulty",))


@pytest.mark.parametrize("column", ["id", "prompt_id", "instruction_id"])
def test_ids_are_text_and_stay_what_they_are(tmp_path: Path, column: str) -> None:
    ids = ["007", "7", "1.0", "NA", "null", " x", "1e3", "٣", "a,b", 'q"q']
    prompts = {"en": {name: name for name in ids}, "es": {"7": "Siete."}}
    path = write(tmp_path / "d.csv", [column, "difficulty"], [(name, i / 4) for i, name in enumerate(ids)])
    found = read_difficulty(path, prompts)
    assert found.by_prompt == {("en", name): i / 4 for i, name in enumerate(ids)}
    assert found.notes == ()
    by_language = write(
        tmp_path / "l.csv", ["language", column, "instruction_difficulty"], [("es", "7", 2), ("en", "7", 3)]
    )
    assert read_difficulty(by_language, prompts).by_prompt == {("es", "7"): 2.0, ("en", "7"): 3.0}


def test_what_is_not_used_is_said(shared_data: Path, tmp_path: Path) -> None:
    index = shared_data / "lc-parity" / "instruction_difficulty.csv"
    assert "no prompt in en is judged" in read_difficulty(index, {"es": {"1": "Hola."}}).notes[0]
    path = write(
        tmp_path / "d.csv", ["index", "prompt_id", "difficulty", "why"], [(0, "b", 1.5, "x"), (1, "a", 2.5, "y")]
    )
    found = read_difficulty(path, {"en": {"a": "A.", "b": "B."}})
    assert found.by_prompt == {("en", "b"): 1.5, ("en", "a"): 2.5}
    assert found.notes == (f"{path}: columns not used: index, why",)


@pytest.mark.parametrize(
    ("names", "rows", "words"),
    [
        (["row", "instruction_difficulty"], [(0, 1.0)], "no column names a prompt; found: row, instruction_difficulty; known: prompt_id"),
        (["", "instruction_difficulty"], [(0, 1.0)], "no column names a prompt"),
        (["index", "hardness"], [(0, 1.0)], "no column has difficulties; found: index, hardness"),
        (["index", "instruction_difficulty"], [(805, 1.0)], "row 2: field 'index' is '805', but 'index' is a place"),
        (["index", "instruction_difficulty"], [("0.0", 1.0)], "row 2: field 'index' is '0.0'"),
        (["index", "instruction_difficulty"], [("-1", 1.0)], "row 2: field 'index' is '-1'"),
        (["index", "instruction_difficulty"], [(3, 1.0), (3, 1.0)], "row 3: index 3 is in row 2 already"),
        (["index", "instruction_difficulty", "language"], [(3, 1.0, "es")], "field 'language' is 'es'"),
        (["id", "difficulty"], [("1", 1.0), ("1", 2.0)], "row 3: prompt '1' has a difficulty in row 2 already"),
        (["id", "difficulty"], [("1", "")], "row 2: field 'difficulty' is ''"),
        (["id", "difficulty"], [("1", "nan")], "row 2: field 'difficulty' is 'nan'"),
        (["id", "difficulty"], [("1", "inf")], "row 2: field 'difficulty' is 'inf'"),
        (["id", "difficulty"], [("1", 2.0, 3.0)], "row 2: has 3 fields instead of 2"),
        (["id", "difficulty"], [(" ", 2.0)], "row 2: field 'id' is empty"),
        (["id", "difficulty"], [("9", 2.0)], "none of the 2 prompts in en is among those in column 'id'"),
        (["index", "difficulty"], [(0, 2.0)], "none of the 2 prompts in en is among AlpacaEval's instructions"),
        (["id", "difficulty", "id"], [("1", 2.0, "1")], "two columns are called 'id'"),
        (["id", "difficulty"], [], "contains no rows"),
        ([], [], "contains no rows"),
    ],
)  # fmt: skip
def test_anything_else_is_refused_in_one_line(
    tmp_path: Path, names: list[str], rows: list[tuple[object, ...]], words: str
) -> None:
    path = write(tmp_path / "d.csv", names, rows)
    with pytest.raises(InputError) as caught:
        read_difficulty(path, {"en": {"1": "One.", "2": "Two."}})
    assert words in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("rows", [range(400), range(804), (7, 0, 3)])
def test_nor_are_some_rows_of_it(shared_data: Path, tmp_path: Path, rows: Sequence[int]) -> None:
    path = write(tmp_path / "d.csv", ["id", "difficulty"], [(i, i / 100) for i in rows])
    prompts = {str(i + 1): english(shared_data)[i] for i in range(200)}
    with pytest.raises(InputError, match=r"start at 1; .* call it 'index'"):
        read_difficulty(path, {"en": prompts})
    own = write(tmp_path / "own.csv", ["id", "difficulty"], [(i + 1, i / 100) for i in range(1200)])
    assert read_difficulty(own, {"en": prompts}).by_prompt["en", "8"] == 0.07


@pytest.mark.parametrize(("first", "of_prompts"), [(0, 1), (1, 0)])
def test_an_index_that_was_renamed_to_id_is_not_the_neighbours_difficulty(
    shared_data: Path, tmp_path: Path, first: int, of_prompts: int
) -> None:
    path = write(tmp_path / "d.csv", ["id", "difficulty"], [(first + i, i / 100) for i in range(805)])
    prompts = {str(i + of_prompts): english(shared_data)[i] for i in range(400)}
    with pytest.raises(InputError, match=f"counts from {first} to .* start at {of_prompts}; .* call it 'index'"):
        read_difficulty(path, {"en": prompts})
    right = {str(i + first): english(shared_data)[i] for i in range(400)}
    assert read_difficulty(path, {"en": right}).by_prompt["en", str(first + 5)] == 0.05


def test_anchors_are_read_in_any_format_and_as_pandas_reads_them(tmp_path: Path) -> None:
    text = "preference,std_delta_len,instruction_difficulty,name\n0.1,0.30000000000000004,-1.5,a\n1,2,3,b\n"
    plain = tmp_path / "plain.csv"
    plain.write_text(text)
    expected = pd.read_csv(plain)
    (tmp_path / "packed.csv.gz").write_bytes(gzip.compress(b"\xef\xbb\xbf" + text.encode()))
    (tmp_path / "excel.csv").write_bytes(text.replace("\n", "\r\n").encode("utf-16"))
    expected.to_parquet(tmp_path / "table.parquet")
    for name in ("plain.csv", "packed.csv.gz", "excel.csv", "table.parquet"):
        assert read_anchors(tmp_path / name).equals(expected), name
    for content, said in {
        "a;b\n1;2\n": "separated by ';'",
        "a,b\n1,2,3\n": "row 2: has 3 fields",
        "": "is empty",
    }.items():
        plain.write_text(content)
        with pytest.raises(InputError, match=said):
            read_anchors(plain)
