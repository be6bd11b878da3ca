"""Preferences as text, in the layouts that people publish: the same pair out of each, and a line for what cannot be one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from icr_platform.core.artifacts import text_digest
from icr_platform.core.conversations import Conversation
from icr_platform.core.errors import InputError
from icr_platform.data.text_preferences import TextPair, is_text, read_text_preferences, tokenise
from icr_platform.models.chat import end_of_turn_id
from icr_platform.models.loading import load_tokenizer

Row = dict[str, Any]
Q, A, B = "Name a fruit.", "An apple.", "A horse."


def write(path: Path, *rows: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def read(*rows: object, folder: Path) -> tuple[list[TextPair], tuple[str, ...]]:
    found = read_text_preferences(str(write(folder / "pairs.jsonl", *rows)))
    return list(found.pairs), found.notes


def user(text: str) -> Row:
    return {"role": "user", "content": text}


def assistant(text: str) -> Row:
    return {"role": "assistant", "content": text}


def system(text: str) -> Row:
    return {"role": "system", "content": text}


def test_strings_and_messages_become_pairs(tmp_path: Path, tiny_model: Path) -> None:
    source = write(
        tmp_path / "pairs.jsonl",
        {"prompt": Q, "chosen": A, "rejected": B, "score": 3},
        {"prompt": [user("Saluda.")], "chosen": [assistant("¡Hola!")], "rejected": [assistant("Hello!")], "language": "es"},
    )  # fmt: skip
    tokenizer = load_tokenizer(str(tiny_model))
    artifact = tokenise(str(source), tmp_path / "preferences", tokenizer)
    rows = artifact.read().to_pylist()
    assert [(row["language"], row["chosen"]) for row in rows] == [("en", A), ("es", "¡Hola!")]
    for row in rows:
        assert row["chosen_token_ids"][-1] == end_of_turn_id(tokenizer)
        assert tokenizer.decode(row["chosen_token_ids"][:-1]) == row["chosen"]
    assert artifact.extra["notes"] == [f"{source}: columns not used: score"]


LAYOUTS: dict[str, Row] = {
    "trl": {"prompt": Q, "chosen": A, "rejected": B},
    "trl conversational": {"prompt": [user(Q)], "chosen": [assistant(A)], "rejected": [assistant(B)]},
    "one message without a list": {"prompt": user(Q), "chosen": assistant(A), "rejected": assistant(B)},
    "implicit prompt": {"chosen": [user(Q), assistant(A)], "rejected": [user(Q), assistant(B)]},
    "ultrafeedback-binarized": {
        "prompt": Q, "prompt_id": "1", "chosen": [user(Q), assistant(A)], "rejected": [user(Q), assistant(B)],
        "messages": [user(Q), assistant(A)],
    },
    "ultrafeedback-binarized with other white space": {
        "prompt": Q, "chosen": [user(f" {Q}\n"), assistant(A)], "rejected": [user(Q), assistant(B)],
    },
    "sharegpt": {
        "conversations": [{"from": "human", "value": Q}], "chosen": {"from": "gpt", "value": A}, "rejected": {"from": "gpt", "value": B},
    },
    "question": {"question": Q, "chosen": A, "rejected": B},
    "instruction": {"instruction": Q, "chosen_response": A, "rejected_response": B},
    "argilla": {"instruction": Q, "response_chosen": A, "response_rejected": B},
    "stack-exchange-paired": {"question": Q, "response_j": A, "response_k": B},
    "hh": {"chosen": f"\n\nHuman: {Q}\n\nAssistant: {A}", "rejected": f"\n\nHuman: {Q}\n\nAssistant: {B}"},
    "hh with a prompt": {"prompt": f"\n\nHuman: {Q}\n\nAssistant:", "chosen": A, "rejected": B},
    "hh with a prompt and transcripts": {
        "prompt": f"\n\nHuman: {Q}\n\nAssistant:", "chosen": f"\n\nHuman: {Q}\n\nAssistant: {A}",
        "rejected": f"\n\nHuman: {Q}\n\nAssistant: {B}",
    },
    "empty input and system": {"instruction": Q, "input": "", "system": None, "chosen": A, "rejected": B},
    "content in parts": {"prompt": [{"role": "user", "content": [{"type": "text", "text": Q}]}], "chosen": A, "rejected": B},
    "pku": {"prompt": Q, "response_0": B, "response_1": A, "better_response_id": 1, "safer_response_id": 0},
    "shp": {"history": Q, "human_ref_A": A, "human_ref_B": B, "labels": 1},
    "shp, the other way": {"history": Q, "human_ref_A": B, "human_ref_B": A, "labels": 0},
    "alpaca farm": {"instruction": Q, "input": "", "output_1": B, "output_2": A, "preference": 2},
    "helpsteer3": {"context": [user(Q)], "response1": A, "response2": B, "overall_preference": -2},
    "arena": {"conversation_a": [user(Q), assistant(B)], "conversation_b": [user(Q), assistant(A)], "winner": "model_b"},
    "arena's later sets": {"prompt": Q, "response_a": A, "response_b": B, "winner": "model_a"},
    "a chosen with its content only": {"prompt": Q, "chosen": [{"content": A}], "rejected": [{"content": B}]},
    "a list of one text": {"prompt": [Q], "chosen": [A], "rejected": [B]},
}  # fmt: skip


@pytest.mark.parametrize("row", LAYOUTS.values(), ids=LAYOUTS)
def test_every_layout_says_the_same_pair(tmp_path: Path, row: Row) -> None:
    [pair], _ = read(row, folder=tmp_path)
    assert pair == TextPair("row-1", Q, A, B)


BRIEF = (("system", "Be brief."),)
JOINED: list[tuple[Row, Conversation, str]] = [
    ({"system": "Be brief.", "question": Q, "chosen": A, "rejected": B}, Conversation(Q, BRIEF), "1 rows have a system text"),
    ({"instruction": "Translate.", "input": "pomme", "chosen": A, "rejected": B}, Conversation("Translate.\n\npomme"), "1 rows have an 'input'"),
    ({"prompt": [system("Be brief."), user(Q)], "chosen": A, "rejected": B}, Conversation(Q, BRIEF), "a system text"),
    ({"prompt": Q, "chosen": [system("Be brief."), user(Q), assistant(A)], "rejected": [system("Be brief."), user(Q), assistant(B)]},
     Conversation(Q, BRIEF), "a system text"),
    ({"prompt": Q, "chosen": [system("Be brief."), assistant(A)], "rejected": [system("Be brief."), assistant(B)]},
     Conversation(Q, BRIEF), "a system text"),
]  # fmt: skip


@pytest.mark.parametrize(("row", "asked", "note"), JOINED)
def test_what_stands_beside_an_instruction_is_asked_with_it_and_said(
    tmp_path: Path, row: Row, asked: Conversation, note: str
) -> None:
    [pair], notes = read(row, folder=tmp_path)
    assert (Conversation.of(pair.instruction, pair.messages), pair.chosen, pair.rejected) == (asked, A, B)
    assert any(note in line for line in notes)


TWO_TURNS = [user("Hello."), assistant("Hi."), user(Q)]
BEFORE = (("user", "Hello."), ("assistant", "Hi."))
HH = f"\n\nHuman: Hello.\n\nAssistant: Hi.\n\nHuman: {Q}\n\nAssistant:"
TURNS: dict[str, Row] = {
    "prompt of messages": {"prompt": TWO_TURNS, "chosen": A, "rejected": B},
    "trl conversational": {"prompt": TWO_TURNS, "chosen": [assistant(A)], "rejected": [assistant(B)]},
    "implicit prompt": {"chosen": [*TWO_TURNS, assistant(A)], "rejected": [*TWO_TURNS, assistant(B)]},
    "the first turn as prompt": {"prompt": "Hello.", "chosen": [*TWO_TURNS, assistant(A)], "rejected": [*TWO_TURNS, assistant(B)]},
    "the last turn as prompt": {"prompt": Q, "chosen": [*TWO_TURNS, assistant(A)], "rejected": [*TWO_TURNS, assistant(B)]},
    "all of it twice": {"prompt": TWO_TURNS, "chosen": [*TWO_TURNS, assistant(A)], "rejected": [*TWO_TURNS, assistant(B)]},
    "hh": {"chosen": f"{HH} {A}", "rejected": f"{HH} {B}"},
    "hh with a prompt": {"prompt": HH, "chosen": A, "rejected": B},
    "hh with a prompt and transcripts": {"prompt": HH, "chosen": f"{HH} {A}", "rejected": f"{HH} {B}"},
    "sharegpt": {
        "conversations": [{"from": "human", "value": "Hello."}, {"from": "gpt", "value": "Hi."}, {"from": "human", "value": Q}],
        "chosen": {"from": "gpt", "value": A}, "rejected": {"from": "gpt", "value": B},
    },
    "history of pairs": {"instruction": Q, "history": [["Hello.", "Hi."]], "chosen": A, "rejected": B},
    "history of messages": {"prompt": Q, "history": TWO_TURNS[:2], "chosen": A, "rejected": B},
    "helpsteer3": {"context": TWO_TURNS, "response1": A, "response2": B, "overall_preference": -2},
    "arena": {"conversation_a": [*TWO_TURNS, assistant(A)], "conversation_b": [*TWO_TURNS, assistant(B)], "winner": "model_a"},
    "messages as JSON": {"messages": json.dumps(TWO_TURNS), "chosen": A, "rejected": B},
    "messages as pandas writes them": {"messages": str(TWO_TURNS), "chosen": A, "rejected": B},
}  # fmt: skip


@pytest.mark.parametrize("row", TURNS.values(), ids=TURNS)
def test_every_layout_says_the_same_conversation(tmp_path: Path, row: Row) -> None:
    [pair], notes = read(row, folder=tmp_path)
    assert pair == TextPair("row-1", Q, A, B, messages=Conversation(Q, BEFORE).json)
    assert notes == (f"{tmp_path / 'pairs.jsonl'}: 1 rows have earlier turns, which are asked with the instruction",)


def test_the_digest_of_pairs_of_one_turn_is_that_of_before(tmp_path: Path) -> None:
    """Of a training on these pairs by an earlier version."""
    found = read_text_preferences(str(write(tmp_path / "pairs.jsonl", LAYOUTS["trl"])))
    before = text_digest(json.dumps(["", Q, A, B, 1.0, 0.0, "en"]))
    assert found.digest == before
    longer = read_text_preferences(str(write(tmp_path / "longer.jsonl", TURNS["hh"])))
    assert longer.digest != before


BAD: list[tuple[object, str]] = [
    ("{", "not valid JSON"),
    ([1], "not a JSON object"),
    ({"prompt": "x", "chosen": "y"}, "'rejected' is missing .*found: prompt, chosen"),
    ({"prompt": "x", "chosen": " ", "rejected": "z"}, "'chosen'"),
    ({"prompt": "x", "chosen": "y", "rejected": "y"}, "equals 'rejected'"),
    ({"prompt": "", "chosen": "y", "rejected": "z"}, "'prompt' is missing or not text"),
    ({"chosen": "y", "rejected": "z"}, "'prompt' is missing.*found: chosen, rejected; known: instruction, prompt"),
    ({"prompt": "x", "chosen": "a\0b", "rejected": "z"}, r"'chosen' contains U\+0000"),
    ({"prompt": "x", "chosen": "y", "rejected": "\ud800"}, "'rejected' contains half a surrogate"),
    ({"prompt": "x\0", "chosen": "y", "rejected": "z"}, r"'prompt' contains U\+0000"),
    ({"text": "x", "label": 1}, "no columns with two responses; found: text, label; known: prompt with chosen/rejected"),
    ({"prompt": "x", "completion": "y", "label": True}, "as KTO takes it"),
    ({"prompt": [*TWO_TURNS, assistant(A)], "chosen": A, "rejected": B}, "ends with the assistant; end it with the user"),
    ({"prompt": "Another?", "chosen": [*TWO_TURNS, assistant(A)], "rejected": [*TWO_TURNS, assistant(B)]}, "another instruction"),
    ({"prompt": [user("x"), *TWO_TURNS], "chosen": [*TWO_TURNS, assistant(A)], "rejected": [*TWO_TURNS, assistant(B)]}, "another instruction"),
    ({"chosen": "\n\nHuman: a\n\nAssistant: b\n\nHuman: c\n\nAssistant: d", "rejected": "\n\nHuman: a\n\nAssistant: B\n\nHuman: c\n\nAssistant: e"},
     "answer different conversations; pairs share one prompt, and differ in the last turn only"),
    ({"chosen": [*TWO_TURNS, assistant(A)], "rejected": [*TWO_TURNS[:1], assistant(B)]}, "different conversations"),
    ({"prompt": [user("a"), assistant(""), user("c")], "chosen": A, "rejected": B}, "a message of the assistant is empty"),
    ({"prompt": [user("a"), assistant("\0"), user("c")], "chosen": A, "rejected": B}, r"'prompt' contains U\+0000"),
    ({"instruction": Q, "history": [["a", None]], "chosen": A, "rejected": B}, r"'history' contains \['a', None\]; give earlier turns as"),
    ({"chosen": [user("a"), assistant("b")], "rejected": [user("c"), assistant("d")]}, "answer different conversations"),
    ({"prompt": Q, "chosen": [user("Other?"), assistant(A)], "rejected": [user("Other?"), assistant(B)]}, "another instruction"),
    ({"prompt": Q, "chosen": [user(Q)], "rejected": [user(Q)]}, "ends with a message of the user"),
    ({"prompt": Q, "chosen": [{"role": "tool", "content": "x"}], "rejected": B}, "a message is from 'tool'; known roles"),
    ({"prompt": Q, "chosen": 5, "rejected": B}, "'chosen' is missing or not text"),
    ({"prompt": Q, "response_0": A, "response_1": B, "better_response_id": 7}, "'better_response_id' is '7'"),
    ({"prompt": Q, "chosen": [{"role": "assistant", "content": [{"type": "image"}]}], "rejected": B}, "message of the assistant is not text"),
]  # fmt: skip


@pytest.mark.parametrize(("row", "said"), BAD)
def test_bad_rows_are_named(row: object, said: str, tmp_path: Path) -> None:
    source = write(tmp_path / "pairs.jsonl", {"prompt": "x", "chosen": "a", "rejected": "b"}, row)
    with pytest.raises(InputError, match=rf"pairs\.jsonl: row 2:? .*{said}") as refused:
        read_text_preferences(str(source))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(("row", "said"), [case for case in BAD if isinstance(case[0], dict)])
def test_one_bad_row_in_twenty_is_left_out_and_said(row: Row, said: str, tmp_path: Path) -> None:
    good = [{"prompt": f"{Q} {index}", "chosen": A, "rejected": B} for index in range(19)]
    pairs, notes = read(*good[:4], row, *good[4:], folder=tmp_path)
    assert [pair.prompt_id for pair in pairs] == [f"row-{number}" for number in range(1, 21) if number != 5]
    [note] = [note for note in notes if "left out" in note]
    assert "1 of 20 rows were left out: 1 because" in note
    assert "row 5)" in note


def test_more_bad_rows_than_a_tenth_end_it(tmp_path: Path) -> None:
    rows = [{"prompt": Q, "chosen": f"{A} {i}", "rejected": B if i % 8 else ""} for i in range(16)]
    with pytest.raises(InputError, match=r"row 1: field 'rejected' .*; 2 of 16 rows cannot be used"):
        read(*rows, folder=tmp_path)


def test_ties_are_left_out_however_many_they_are(tmp_path: Path) -> None:
    arena = {"prompt": Q, "response_a": A, "response_b": B}
    pairs, notes = read(
        arena | {"winner": "tie (bothbad)"}, arena | {"winner": "model_a"}, arena | {"winner": "tie"}, folder=tmp_path
    )
    assert [pair.prompt_id for pair in pairs] == ["row-2"]
    assert any("2 of 3 rows are ties" in note for note in notes)
    with pytest.raises(InputError, match="contains no pair, all 1 rows are ties"):
        read(arena | {"winner": "tie"}, folder=tmp_path)


def test_scores_are_rewards_where_all_agree_with_the_preference(tmp_path: Path) -> None:
    row = {"prompt": Q, "chosen": A, "rejected": B}
    pairs, notes = read(row | {"score_chosen": 8.5, "score_rejected": 3}, folder=tmp_path)
    assert (pairs[0].chosen_reward, pairs[0].rejected_reward, notes) == (8.5, 3.0, ())
    pairs, notes = read(
        row | {"score_chosen": 5, "score_rejected": 5}, row | {"score_chosen": 5, "score_rejected": 1}, folder=tmp_path
    )
    assert {(pair.chosen_reward, pair.rejected_reward) for pair in pairs} == {(1.0, 0.0)}
    assert "scores are not used, since only 1 of 2 rows" in notes[0]


ROW = {"prompt": Q, "chosen": A, "rejected": B}


def to_parquet(path: Path, rows: list[Row]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path)


def to_dataset(path: Path, rows: list[Row]) -> None:
    datasets.Dataset.from_list(rows).save_to_disk(str(path))


def to_csv(path: Path, rows: list[Row]) -> None:
    pa.csv.write_csv(pa.Table.from_pylist(rows), path)


PLACES: dict[str, tuple[str, Callable[[Path, list[Row]], object]]] = {
    "json lines": ("pairs.jsonl", lambda path, rows: write(path, *rows)),
    "json": ("pairs.json", lambda path, rows: path.write_text(json.dumps(rows, indent=2))),
    "parquet": ("pairs.parquet", to_parquet),
    "csv": ("pairs.csv", to_csv),
    "a folder by language": ("pairs", lambda path, rows: write(path / "en.jsonl", *rows)),
    "a folder as the hub has it": ("pairs", lambda path, rows: to_parquet(path / "data" / "train-00000-of-00001.parquet", rows)),
    "parts": ("pairs", lambda path, rows: [
        to_parquet(path / f"train-0000{part}-of-00002.parquet", rows[part::2]) for part in (0, 1)
    ]),
    "a saved data set": ("pairs", to_dataset),
}  # fmt: skip


@pytest.mark.parametrize(("name", "save"), PLACES.values(), ids=PLACES)
def test_every_place_gives_the_same_pairs_and_the_same_identity(
    tmp_path: Path, name: str, save: Callable[[Path, list[Row]], object]
) -> None:
    rows = [ROW, ROW | {"prompt": "Name a tool."}]
    expected = read_text_preferences(str(write(tmp_path / "expected.jsonl", *rows)))
    save(tmp_path / name, rows)
    assert is_text(str(tmp_path / name))
    found = read_text_preferences(str(tmp_path / name))
    assert found.digest == expected.digest
    assert len({pair.prompt_id for pair in found.pairs}) == 2


def test_a_folder_says_the_languages_and_names_what_it_leaves_out(tmp_path: Path) -> None:
    write(tmp_path / "es.JSONL", ROW)
    write(tmp_path / "en" / "train.jsonl", ROW)
    write(tmp_path / "en" / "test.jsonl", ROW)
    write(tmp_path / "klingon.jsonl", ROW)
    (tmp_path / "notes.docx").write_text("x")
    (tmp_path / "README.md").write_text("x")
    (tmp_path / ".DS_Store").write_text("x")
    found = read_text_preferences(str(tmp_path))
    assert [pair.language for pair in found.pairs] == ["en", "es"]
    assert found.notes == (
        f"{tmp_path}: 'notes.docx' is not a file of rows and was left out",
        f"{tmp_path / 'en'}: 'train' is read; not used: test",
        f"{tmp_path}: 'klingon' names no known language and was left out",
    )


def test_an_artifact_is_not_text(tmp_path: Path) -> None:
    for name in ("manifest.json", "plan.json", "part-00000.parquet"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).write_text("{}")
        assert not is_text(str(tmp_path / name))
    assert not is_text(str(tmp_path / "nowhere"))
