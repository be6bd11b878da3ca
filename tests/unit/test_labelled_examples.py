"""Labelled responses in the layouts that people publish, and preferences as KTO reads them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from icr_platform.core.errors import InputError
from icr_platform.data.labelled_examples import examples_of, read_examples
from icr_platform.data.text_preferences import read_text_preferences

ASKED = {"role": "user", "content": "Say hi"}
SAID = {"role": "assistant", "content": "Hi"}
PAIR = [("Say hi", "Hi", True), ("Say hi", "No", False)]

ROWS: list[tuple[dict[str, Any], list[tuple[str, str, bool]]]] = [
    ({"prompt": "Say hi", "completion": "Hi", "label": True}, [("Say hi", "Hi", True)]),  # TRL's
    ({"prompt": [ASKED], "completion": [SAID], "label": False}, [("Say hi", "Hi", False)]),  # kto-mix-14k
    ({"messages": [ASKED, SAID], "kto_tag": True}, [("Say hi", "Hi", True)]),  # LLaMA-Factory, ShareGPT or OpenAI
    ({"conversations": [{"from": "human", "value": "Say hi"}, {"from": "gpt", "value": "Hi"}], "kto_tag": 0}, [("Say hi", "Hi", False)]),
    ({"instruction": "Say hi", "output": "Hi", "label": 1}, [("Say hi", "Hi", True)]),  # Alpaca
    ({"question": "Say hi", "response": "Hi", "label": "good"}, [("Say hi", "Hi", True)]),
    ({"prompt": "Say hi", "completion": "Hi", "label": 1.0, "rating": 5}, [("Say hi", "Hi", True)]),  # ultrafeedback-...-kto
    ({"prompt": "Say hi", "completion": "Hi", "label": -1}, [("Say hi", "Hi", False)]),
    ({"prompt": "Say hi", "completion": "Hi", "label": "False"}, [("Say hi", "Hi", False)]),
    ({"prompt": "Say hi", "completion": "Hi", "thumbs_up": "👎"}, [("Say hi", "Hi", False)]),
    ({"prompt": "Say hi", "chosen": "Hi", "rejected": "No"}, PAIR),
    ({"chosen": [ASKED, SAID], "rejected": [ASKED, {"role": "assistant", "content": "No"}]}, PAIR),
    ({"prompt": "Say hi", "response_0": "No", "response_1": "Hi", "better_response_id": 1}, PAIR),
    ({"prompt": "Say hi", "chosen": "Hi", "rejected": "No", "label": 1}, PAIR),  # a pair is a pair
]  # fmt: skip


@pytest.mark.parametrize(("row", "expected"), ROWS)
def test_rows_become_responses_with_labels(row: dict[str, Any], expected: list[tuple[str, str, bool]]) -> None:
    assert [(asked.instruction, response, good) for asked, response, good in examples_of(row)[0]] == expected


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_languages_maps_and_notes(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    write(tmp_path / "set" / "en.jsonl", [{"q": "Say hi", "a": "Hi", "ok": "yes", "who": "me"}])
    write(tmp_path / "set" / "sw.jsonl", [{"q": "Sema", "a": "Habari", "ok": "no", "who": "me"}])
    read = read_examples(str(tmp_path / "set"), {"instruction": "q", "completion": "a", "label": "ok"})
    assert [(row.language, row.response, row.is_good) for row in read.rows] == [
        ("en", "Hi", True),
        ("sw", "Habari", False),
    ]
    assert any("columns not used: who" in note for note in read.notes)


GOOD = {"prompt": "Say hi", "completion": "Hi", "label": True}


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (
            {"prompt": "Say hi", "completion": "Hi", "label": 4},
            "field 'label' is 4, which is neither good nor bad; give true or false",
        ),
        ({"prompt": "Say hi", "completion": "Hi", "label": None}, "neither a label"),
        ({"prompt": "Say hi", "completion": "Hi"}, "give prompt, completion and label"),
        ({"prompt": "Say hi", "completion": "", "label": True}, "'completion' is empty"),
        ({"completion": "Hi", "label": True}, "instruction"),
        ({"prompt": "Say hi", "chosen": "Hi", "rejected": "Hi"}, "equals"),
    ],
)
def test_one_bad_row_is_left_out_and_many_are_an_error(tmp_path: Path, row: dict[str, Any], said: str) -> None:
    few = read_examples(write(tmp_path / "few.jsonl", [GOOD] * 19 + [row]))
    assert len(few.rows) == 19
    assert any("1 of 20 rows were left out" in note and said in note for note in few.notes)
    with pytest.raises(InputError, match="row") as refused:
        read_examples(write(tmp_path / "many.jsonl", [row] * 2))
    assert said in str(refused.value)


def test_one_label_alone_and_ties_are_said(tmp_path: Path) -> None:
    tie = {"prompt": "Say hi", "response_a": "Hi", "response_b": "Ho", "winner": "tie"}
    read = read_examples(write(tmp_path / "one.jsonl", [GOOD, tie]))
    assert any("every response is good" in note for note in read.notes)
    assert any("1 of 2 rows are ties" in note for note in read.notes)
    with pytest.raises(InputError, match="all 1 rows are ties"):
        read_examples(write(tmp_path / "ties.jsonl", [tie]))


def test_the_digest_is_of_the_rows_in_their_order(tmp_path: Path) -> None:
    other = {"prompt": "Say ho", "completion": "Ho", "label": False}
    digests = [
        read_examples(write(tmp_path / f"{place}.jsonl", rows)).digest
        for place, rows in enumerate(([GOOD, other], [GOOD, other], [other, GOOD], [GOOD, {**other, "label": True}]))
    ]
    assert digests[0] == digests[1]
    assert len(set(digests)) == 3


def test_other_losses_say_that_labels_are_ktos(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="loss=kto"):
        read_text_preferences(write(tmp_path / "labels.jsonl", [GOOD]))
