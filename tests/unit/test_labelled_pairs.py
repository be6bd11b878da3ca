"""Labelled pairs as people publish them, the English counterpart of their prompts, votes on one pair, and rows that are no pair."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from icr_platform.core.conversations import Conversation
from icr_platform.core.errors import InputError
from icr_platform.data.labelled_pairs import LabelledPairs, read_labelled_pairs

Row = dict[str, Any]


def write(path: Path, rows: Sequence[Mapping[str, Any]]) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def shown(read: LabelledPairs) -> list[tuple[Any, ...]]:
    """(language, instruction, better, worse, category, tie) of each pair."""
    return [
        (pair.language, pair.asked.instruction, pair.chosen.text, pair.rejected.text, pair.category, pair.is_tie)
        for pair in read.pairs
    ]


HELPSTEER = {"domain": "multilingual", "language": "spanish", "context": [{"role": "user", "content": "Hola"}],
             "response1": "A", "response2": "B", "overall_preference": -2}  # fmt: skip
LAYOUTS: list[tuple[str, list[Row], dict[str, str | None], list[tuple[Any, ...]]]] = [
    ("M-RewardBench", [{"id": 30, "prompt": "Hola", "chosen": "A", "rejected": "B", "language": "spa_Latn", "source": "hep-python"}], {},
     [("spa_Latn", "Hola", "A", "B", "hep-python", False)]),
    ("RewardBench", [{"prompt": "Hi", "chosen": "A", "chosen_model": "x", "rejected": "B", "rejected_model": "y", "subset": "donotanswer", "id": 1}], {},
     [("en", "Hi", "A", "B", "donotanswer", False)]),
    ("RewardBench 2", [{"id": "7", "prompt": "Hi", "chosen": ["A"], "rejected": ["B", "C", "D"], "num_correct": 1, "subset": "Math"}], {},
     [("en", "Hi", "A", wrong, "Math", False) for wrong in "BCD"]),
    ("RewardBench 2, ties", [{"id": "7", "prompt": "Hi", "chosen": ["A", "B"], "rejected": ["C", "D"], "subset": "Ties"}], {},
     [("en", "Hi", good, wrong, "Ties", False) for good in "AB" for wrong in "CD"]),
    ("RewardBench 2, one against one", [{"id": "7", "prompt": "Hi", "chosen": ["A"], "rejected": ["B"], "subset": "Focus"}], {},
     [("en", "Hi", "A", "B", "Focus", False)]),
    ("HelpSteer3, first", [HELPSTEER], {}, [("es", "Hola", "A", "B", "multilingual", False)]),
    ("HelpSteer3, second", [HELPSTEER | {"overall_preference": 1}], {}, [("es", "Hola", "B", "A", "multilingual", False)]),
    ("HelpSteer3, tie", [HELPSTEER | {"overall_preference": 0}], {}, [("es", "Hola", "A", "B", "multilingual", True)]),
    ("HelpSteer3, a talk", [HELPSTEER | {"context": [{"role": "user", "content": "Uno"}, {"role": "assistant", "content": "1"}, {"role": "user", "content": "Dos"}]}], {},
     [("es", "Dos", "A", "B", "multilingual", False)]),
    ("two scores", [{"prompt": "Hi", "response_a": "A", "response_b": "B", "score_a": 2, "score_b": 4.5}], {}, [("en", "Hi", "B", "A", "", False)]),
    ("two equal scores", [{"prompt": "Hi", "response_a": "A", "response_b": "B", "score_a": 4, "score_b": 4.0}], {}, [("en", "Hi", "A", "B", "", True)]),
    ("own columns, graded", [{"text": "Hi", "first": "A", "second": "B", "grades": {"first": 1, "second": 0}, "locale": "fr_FR"}],
     {"prompt": "text", "response_a": "first", "response_b": "second", "score_a": "grades.first", "score_b": "grades.second", "language": "locale"},
     [("fr_FR", "Hi", "A", "B", "", False)]),
    ("arena", [{"prompt": "Hi", "response_a": "A", "response_b": "B", "winner": "model_b"}], {}, [("en", "Hi", "B", "A", "", False)]),
    ("arena, both bad", [{"prompt": "Hi", "response_a": "A", "response_b": "B", "winner": "tie (bothbad)"}], {}, [("en", "Hi", "A", "B", "", True)]),
    ("TRL, conversations", [{"prompt": [{"role": "user", "content": "Hi"}], "chosen": [{"role": "assistant", "content": "A"}],
                            "rejected": [{"role": "assistant", "content": "B"}]}], {}, [("en", "Hi", "A", "B", "", False)]),
    ("UltraFeedback", [{"prompt": "Hi", "prompt_id": "u", "chosen": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "A"}],
                        "rejected": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "B"}], "score_chosen": 8, "score_rejected": 3}], {},
     [("en", "Hi", "A", "B", "", False)]),
    ("HH", [{"chosen": "\n\nHuman: Hi\n\nAssistant: A", "rejected": "\n\nHuman: Hi\n\nAssistant: B"}], {}, [("en", "Hi", "A", "B", "", False)]),
    ("PKU", [{"prompt": "Hi", "response_0": "A", "response_1": "B", "better_response_id": 1}], {}, [("en", "Hi", "B", "A", "", False)]),
    ("category by a map", [{"prompt": "Hi", "chosen": "A", "rejected": "B", "meta": {"task": "qa"}, "source": "web"}], {"category": "meta.task"},
     [("en", "Hi", "A", "B", "qa", False)]),
    ("no category by a map", [{"prompt": "Hi", "chosen": "A", "rejected": "B", "source": "web"}], {"category": None}, [("en", "Hi", "A", "B", "", False)]),
    ("category that is a number", [{"prompt": "Hi", "chosen": "A", "rejected": "B", "category": 3}], {}, [("en", "Hi", "A", "B", "3", False)]),
    ("spaces at the ends stay", [{"prompt": " Hi ", "chosen": " A", "rejected": "A"}], {}, [("en", " Hi ", " A", "A", "", False)]),
]  # fmt: skip


@pytest.mark.parametrize(
    ("rows", "columns", "expected"), [case[1:] for case in LAYOUTS], ids=[case[0] for case in LAYOUTS]
)
def test_layouts(
    rows: list[Row], columns: dict[str, str | None], expected: list[tuple[Any, ...]], tmp_path: Path
) -> None:
    assert shown(read_labelled_pairs(write(tmp_path / "pairs.jsonl", rows), columns)) == expected


AB, NUMBERED = {"response_a": "A", "response_b": "B"}, {"response_1": "A", "response_2": "B"}
A, B, TIE = ("A", "B", False), ("B", "A", False), ("A", "B", True)
# What says which of two responses is better, as people publish it: the columns, and (better, worse, tie).
CHOSEN: list[tuple[Row, tuple[str, str, bool]]] = [
    (AB | {"preference": "A"}, A),  # MENLO
    (AB | {"preference": "B"}, B),
    (AB | {"preference": "tie"}, TIE),
    (AB | {"preference": "Tie"}, TIE),
    (AB | {"preference": "response_b"}, B),
    (AB | {"preferred": "Model A"}, A),
    (AB | {"human_preference": "b"}, B),
    (AB | {"better_response": "first"}, A),
    (AB | {"choice": "Second"}, B),
    (AB | {"verdict": "[[A]]"}, A),  # as judges write it
    (AB | {"verdict": "[[B]]"}, B),
    (AB | {"verdict": "[[C]]"}, TIE),
    (AB | {"label": "A>>B"}, A),  # arena-hard
    (AB | {"label": "B>A"}, B),
    (AB | {"label": "A=B"}, TIE),
    (AB | {"model_a": "gpt-4o-mini", "model_b": "aya-8b", "winner": "aya-8b"}, B),  # by the model's name
    (AB | {"model_a": "gpt-4o-mini", "model_b": "aya-8b", "winner": "gpt-4o-mini"}, A),
    (AB | {"model_a": "x", "model_b": "y", "winner": "model_a"}, A),
    (AB | {"model_a": "x", "model_b": "y", "winner": "both_bad"}, TIE),
    (AB | {"winner_model_a": 0, "winner_model_b": 1, "winner_tie": 0}, B),  # one column each
    (AB | {"winner_model_a": False, "winner_model_b": False, "winner_tie": True}, TIE),
    ({"output_a": "A", "output_b": "B", "winner": "b"}, B),
    ({"completion_a": "A", "completion_b": "B", "preference": "a"}, A),
    ({"model_a_response": "A", "model_b_response": "B", "winner": "model_b"}, B),
    ({"conversation_a": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "A"}],
      "conversation_b": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "B"}], "preference": "B"}, B),
    (NUMBERED | {"preference": 1}, A),
    (NUMBERED | {"preference": "2"}, B),
    (NUMBERED | {"preference": "response_2"}, B),
    (NUMBERED | {"winner": "tie"}, TIE),
    (NUMBERED | {"winner": "A"}, A),
    ({"answer1": "A", "answer2": "B", "winner": 2}, B),
    ({"response1": "A", "response2": "B", "preference": "Response 1"}, A),
    (AB | {"score_a": 1, "score_b": 2, "preference": "A"}, B),  # scores have always come first
]  # fmt: skip


@pytest.mark.parametrize(("row", "expected"), CHOSEN)
def test_which_response_is_better(row: Row, expected: tuple[str, str, bool], tmp_path: Path) -> None:
    (pair,) = read_labelled_pairs(write(tmp_path / "pairs.jsonl", [{"prompt": "Hi"} | row])).pairs
    assert (pair.chosen.text, pair.rejected.text, pair.is_tie) == expected


@pytest.mark.parametrize(
    "row",
    [
        AB | {"preference": "C"},
        AB | {"preference": 1},  # of 0 and 1, or of 1 and 2
        AB | {"preference": ""},
        AB | {"model_a": "x", "model_b": "x", "winner": "x"},  # of a model against itself
        AB | {"model_a": "x", "model_b": "y", "winner": "z"},
        NUMBERED | {"preference": 3},
        NUMBERED | {"preference": "third"},
    ],
)
def test_a_label_that_names_no_response_is_refused(row: Row, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="which names neither response"):
        read_labelled_pairs(write(tmp_path / "pairs.jsonl", [{"prompt": "Hi"} | row]))


def test_lists_in_parquet_are_combined_too(tmp_path: Path) -> None:
    row = {"id": "7", "prompt": "Hi", "chosen": ["A"], "rejected": ["B", "C"], "subset": "Math"}
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "pairs.parquet")
    read = read_labelled_pairs(str(tmp_path / "pairs.parquet"))
    assert [(pair.pair_id, pair.prompt_id) for pair in read.pairs] == [("7/0-0", "7"), ("7/0-1", "7")]


PAIR = {"prompt": "Hola", "chosen": "A", "rejected": "B"}
ENGLISH: list[tuple[str, Row, dict[str, list[Row]], str | None]] = [
    ("a column", PAIR | {"english_instruction": "Hello"}, {}, "Hello"),
    ("a column of messages", PAIR | {"english_messages": [{"role": "user", "content": "Hello"}]}, {}, "Hello"),
    ("a column of messages as JSON", PAIR | {"english_messages": '[{"role": "user", "content": "Hello"}]'}, {}, "Hello"),
    ("an empty column, and prompts", PAIR | {"english_instruction": "", "id": 1}, {"prompts.jsonl": [{"id": 1, "prompt": "Hello"}]}, "Hello"),
    ("prompts without a language", PAIR | {"id": 1}, {"prompts.jsonl": [{"id": "1", "prompt": "Hello"}]}, "Hello"),
    ("prompts with one", PAIR | {"id": 1}, {"prompts.jsonl": [{"id": 1, "language": "en", "prompt": "Hello"}, {"id": 1, "language": "es", "prompt": "Hola"}]}, "Hello"),
    ("a folder of prompts", PAIR | {"id": 1}, {"prompts/en.jsonl": [{"id": 1, "instruction": "Hello"}], "prompts/es.jsonl": [{"id": 1, "instruction": "Hola"}]}, "Hello"),
    ("RewardBench under the same ids", PAIR | {"id": 1}, {"prompts.jsonl": [{"id": 1, "prompt": "Hello", "chosen": "a", "rejected": "b"}]}, "Hello"),
    ("a column before prompts", PAIR | {"id": 1, "english_instruction": "Hi"}, {"prompts.jsonl": [{"id": 1, "prompt": "Hello"}]}, "Hi"),
    ("another id", PAIR | {"id": 2}, {"prompts.jsonl": [{"id": 1, "prompt": "Hello"}]}, None),
    ("no id: nothing is aligned by position", PAIR, {"prompts.jsonl": [{"id": 1, "prompt": "Hello"}]}, None),
    ("an id that two prompts have", PAIR | {"id": 1}, {"prompts.jsonl": [{"id": 1, "prompt": "Hello"}, {"id": 1, "prompt": "Bye"}]}, None),
]  # fmt: skip


@pytest.mark.parametrize(("row", "files", "english"), [case[1:] for case in ENGLISH], ids=[case[0] for case in ENGLISH])
def test_the_english_counterpart(row: Row, files: dict[str, list[Row]], english: str | None, tmp_path: Path) -> None:
    for name, rows in files.items():
        write(tmp_path / name, rows)
    prompts = str(tmp_path / next(iter(files)).split("/")[0]) if files else ""
    (pair,) = read_labelled_pairs(write(tmp_path / "pairs" / "es.jsonl", [row]), prompts=prompts).pairs
    assert pair.english == (None if english is None else Conversation(english))


def test_english_pairs_of_the_same_ids_are_the_counterpart(tmp_path: Path) -> None:
    for language, said in (("eng_Latn", "Hello"), ("spa_Latn", "Hola"), ("swh_Latn", "Habari")):
        write(tmp_path / f"{language}.jsonl", [PAIR | {"id": 4, "prompt": said}, PAIR | {"prompt": said + "!"}])
    read = read_labelled_pairs(str(tmp_path))
    english = {
        (pair.language, pair.asked.instruction): pair.english.instruction if pair.english else None
        for pair in read.pairs
    }
    assert english == {
        ("eng_Latn", "Hello"): "Hello", ("eng_Latn", "Hello!"): "Hello!",
        ("spa_Latn", "Hola"): "Hello", ("spa_Latn", "Hola!"): None,
        ("swh_Latn", "Habari"): "Hello", ("swh_Latn", "Habari!"): None,
    }  # fmt: skip
    assert {pair.prompt_id for pair in read.pairs if pair.asked.instruction in ("Hello", "Hola")} == {"4"}


VOTES = [
    (["a", "a", "b"], ("A", "B", False)),
    (["b", "b", "a"], ("B", "A", False)),
    (["a", "b"], ("A", "B", True)),
    (["tie", "tie", "a"], ("A", "B", True)),
    (["tie", "a"], ("A", "B", True)),
    (["b"], ("B", "A", False)),
    (["a", "tie", "a"], ("A", "B", False)),
]


@pytest.mark.parametrize(("votes", "expected"), VOTES)
def test_several_reviewers_of_a_pair_are_one_observation(
    votes: list[str], expected: tuple[str, str, bool], tmp_path: Path
) -> None:
    rows = [
        {"prompt": "Hi", "response_a": "A", "response_b": "B", "winner": winner, "reviewer": str(number)}
        for number, winner in enumerate(votes)
    ]
    rows.append({"prompt": "Other", "response_a": "A", "response_b": "B", "winner": "a"})
    read = read_labelled_pairs(write(tmp_path / "votes.jsonl", rows))
    first, second = read.pairs
    assert (first.chosen.text, first.rejected.text, first.is_tie) == expected
    assert second.asked.instruction == "Other"
    assert any("votes on one pair" in note for note in read.notes) == (len(votes) > 1)


def test_sides_that_were_swapped_are_the_same_pair(tmp_path: Path) -> None:
    rows = [
        {"prompt": "Hi", "response_a": "A", "response_b": "B", "winner": "a"},
        {"prompt": "Hi", "response_a": "B", "response_b": "A", "winner": "b"},
    ]
    (pair,) = read_labelled_pairs(write(tmp_path / "votes.jsonl", rows)).pairs
    assert (pair.chosen.text, pair.is_tie) == ("A", False)


def test_pairs_of_one_prompt_share_its_id_and_no_others(tmp_path: Path) -> None:
    rows = [
        {"id": "x", "prompt": "Hi", "chosen": "A", "rejected": "B"}, {"id": "y", "prompt": "Hi", "chosen": "C", "rejected": "D"},
        {"id": "x", "prompt": "Bye", "chosen": "A", "rejected": "B"}, {"prompt": "Bye", "chosen": "E", "rejected": "B"},
    ]  # fmt: skip
    read = read_labelled_pairs(write(tmp_path / "pairs.jsonl", rows))
    assert [pair.prompt_id for pair in read.pairs] == ["x", "x", "x (1)", "x (1)"]
    assert len({pair.pair_id for pair in read.pairs}) == 4


UNUSED: list[tuple[str, Row, str]] = [
    ("both the same", PAIR | {"rejected": "A"}, "identical"),
    ("nothing", PAIR | {"chosen": ""}, "empty"),
    ("white space", PAIR | {"rejected": " \n"}, "empty"),
    ("a character that shows nothing", PAIR | {"rejected": "\u200b"}, "empty"),
    ("null", PAIR | {"rejected": None}, "unusable"),
    ("a number", PAIR | {"rejected": 4}, "unusable"),
    ("no prompt", {"chosen": "A", "rejected": "B"}, "unusable"),
    ("an unknown label", {"prompt": "Hi", "response_a": "A", "response_b": "B", "winner": "c"}, "unusable"),
    ("half a character", PAIR | {"chosen": "\ud83d"}, "unusable"),
    ("an id that is a list", PAIR | {"id": ["a"]}, "unusable"),
]


@pytest.mark.parametrize(("row", "reason"), [case[1:] for case in UNUSED], ids=[case[0] for case in UNUSED])
def test_one_bad_row_is_counted_and_the_others_are_read(row: Row, reason: str, tmp_path: Path) -> None:
    rows = [PAIR | {"prompt": f"Hi {number}"} for number in range(20)]
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(each) + "\n" for each in [*rows, row]))
    read = read_labelled_pairs(str(path))
    assert len(read.pairs) == 20
    assert [(unused.reason, "row 21" in unused.detail) for unused in read.unused] == [(reason, True)]
    assert sum("1 of 21 rows were left out" in note for note in read.notes) == 1


@pytest.mark.parametrize(
    ("rows", "settings", "words"),
    [
        ([PAIR | {"rejected": None}] * 3 + [PAIR], {}, ["row 1", "'rejected'", "3 of 4"]),
        ([PAIR | {"rejected": "A"}], {}, ["no pair", "all 1 rows", "row 1"]),
        ([PAIR], {"languages": ("sw",)}, ["'sw'", "found: en"]),
        ([], {}, ["pairs.jsonl"]),
        ([PAIR], {"columns": {"chosen": "good"}}, ["'good'", "not there"]),
        ([PAIR], {"columns": {"english_instructon": "x"}}, ["nearest", "english_instruction"]),
        ([PAIR | {"id": 1}], {"prompts": "nowhere.jsonl"}, ["nowhere.jsonl", "no such file"]),
    ],
)
def test_a_source_that_is_not_one_of_pairs(
    rows: list[Row], settings: dict[str, Any], words: list[str], tmp_path: Path
) -> None:
    with pytest.raises(InputError) as error:
        read_labelled_pairs(write(tmp_path / "pairs.jsonl", rows), **settings)
    assert [word for word in words if word not in str(error.value)] == []


def test_languages_and_limit(tmp_path: Path) -> None:
    rows = [
        PAIR | {"prompt": f"{language} {number}", "language": language}
        for number in range(3)
        for language in ("arb_Arab", "eng_Latn", "Klingon B")
    ]
    path = write(tmp_path / "pairs.jsonl", rows)
    read = read_labelled_pairs(path, languages=("ar", "en"), limit=2)
    assert [pair.language for pair in read.pairs] == ["ar", "en", "ar", "en"]
    assert any("'arb_Arab' is read for 'ar'" in note for note in read.notes)
    everything = read_labelled_pairs(path)
    assert len(everything.pairs) == 9
    assert any("Klingon B name no known language" in note for note in everything.notes)


def test_columns_that_nobody_reads_are_named(tmp_path: Path) -> None:
    read = read_labelled_pairs(write(tmp_path / "pairs.jsonl", [PAIR | {"feedback": "well done", "category": "x"}]))
    assert [note for note in read.notes if "columns not used" in note] == [
        f"{tmp_path}/pairs.jsonl: columns not used: feedback"
    ]
