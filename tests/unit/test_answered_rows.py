"""Documents out of rows, in the layouts that people publish: what is asked, and what is learnt."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from icr_platform.core.artifacts import ArtifactWriter, completed
from icr_platform.core.errors import InputError
from icr_platform.core.schemas import OUTPUTS, PREFERENCES, RESPONSES, TableSchema
from icr_platform.data.answered_rows import answered_of
from icr_platform.data.row_fields import BadRow
from icr_platform.data.text_documents import read_text_documents

USER, ANSWER = {"role": "user", "content": "Hi?"}, {"role": "assistant", "content": "Ho."}
SYSTEM = {"role": "system", "content": "Be brief."}
TWO_TURNS = [USER, ANSWER, {"role": "user", "content": "And?"}, {"role": "assistant", "content": "No."}]
SHAREGPT = [{"from": "human", "value": "Hi?"}, {"from": "gpt", "value": "Ho."}]

# A row, what is asked (roles and texts), the response.
ROWS: dict[str, tuple[dict[str, Any], list[tuple[str, str]], str]] = {
    "alpaca": (
        {"instruction": "Add.", "input": "1 2", "output": "3", "text": "Below is ..."}, [("user", "Add.\n\n1 2")], "3",
    ),
    "alpaca without input": ({"instruction": "Hi?", "input": "", "output": "Ho."}, [("user", "Hi?")], "Ho."),
    "gsm8k": ({"question": "Hi?", "answer": "Ho."}, [("user", "Hi?")], "Ho."),
    "aya": ({"inputs": "Hi?", "targets": "Ho.", "language_code": "eng"}, [("user", "Hi?")], "Ho."),
    "prompt and completion": ({"prompt": "Hi?", "completion": "Ho."}, [("user", "Hi?")], "Ho."),
    "trl's messages": ({"prompt": [SYSTEM, USER], "completion": [ANSWER]}, [("system", "Be brief."), ("user", "Hi?")], "Ho."),
    "openorca": (
        {"system_prompt": "Be brief.", "question": "Hi?", "response": "Ho."}, [("system", "Be brief."), ("user", "Hi?")], "Ho.",
    ),
    "query": ({"query": "Hi?", "response": "Ho."}, [("user", "Hi?")], "Ho."),
    "messages": ({"messages": [USER, ANSWER]}, [("user", "Hi?")], "Ho."),
    "ultrachat": ({"prompt": "Hi?", "messages": TWO_TURNS}, [("user", "Hi?"), ("assistant", "Ho."), ("user", "And?")], "No."),
    "messages as json": ({"messages": json.dumps([USER, ANSWER])}, [("user", "Hi?")], "Ho."),
    "messages as python": ({"messages": str([USER, ANSWER])}, [("user", "Hi?")], "Ho."),
    "sharegpt": ({"conversations": SHAREGPT}, [("user", "Hi?")], "Ho."),
    "sharegpt with a system column": (
        {"system": "Be brief.", "conversations": SHAREGPT}, [("system", "Be brief."), ("user", "Hi?")], "Ho.",
    ),
    "ends with the user": ({"conversations": [*SHAREGPT, {"from": "human", "value": "And?"}]}, [("user", "Hi?")], "Ho."),
    "transcript": ({"text": "\n\nHuman: Hi?\n\nAssistant: Ho."}, [("user", "Hi?")], "Ho."),
    "preference": ({"prompt": "Hi?", "chosen": "Ho.", "rejected": "Hm."}, [("user", "Hi?")], "Ho."),
    "ultrafeedback": (
        {"prompt": "Hi?", "chosen": [USER, ANSWER], "rejected": [USER, {"role": "assistant", "content": "Hm."}],
         "messages": [USER, ANSWER]},
        [("user", "Hi?")], "Ho.",
    ),
    "two responses": (
        {"prompt": "Hi?", "response_0": "Hm.", "response_1": "Ho.", "better_response_id": 1}, [("user", "Hi?")], "Ho.",
    ),
    "chosen alone": ({"prompt": "Hi?", "chosen": "Ho."}, [("user", "Hi?")], "Ho."),
    "llama factory": (
        {"instruction": "And?", "output": "No.", "history": [["Hi?", "Ho."]]},
        [("user", "Hi?"), ("assistant", "Ho."), ("user", "And?")], "No.",
    ),
    "parts": (
        {"messages": [USER, {"role": "assistant", "content": [{"type": "text", "text": "Ho."}]}]}, [("user", "Hi?")], "Ho.",
    ),
    "white space is kept": ({"prompt": " Hi? ", "completion": " Ho.\n"}, [("user", " Hi? ")], " Ho.\n"),
    "a completion of several turns": ({"prompt": [USER], "completion": [ANSWER, *TWO_TURNS[2:]]}, [("user", "Hi?"), ("assistant", "Ho."), ("user", "And?")], "No."),
    "an output that is a conversation": ({"output": TWO_TURNS[:2]}, [("user", "Hi?")], "Ho."),
}  # fmt: skip


@pytest.mark.parametrize("name", ROWS)
def test_layouts(name: str) -> None:
    row, asked, answer = ROWS[name]
    found = answered_of(row)
    assert [(message["role"], message["content"]) for message in found.asked.messages] == asked
    assert found.answer == answer


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"instruction": "Hi?", "output": ""}, "field 'output' is empty"),
        ({"instruction": "Hi?", "output": " \n"}, "field 'output' is empty"),
        ({"instruction": "Hi?"}, "no response"),
        ({"instruction": "", "output": "Ho."}, "field 'instruction' is empty"),
        ({"messages": [USER]}, "no response"),
        ({"messages": [USER, {"role": "assistant", "content": ""}]}, "is empty; write the last response"),
        ({"messages": [ANSWER]}, "no turn of the user"),
        ({"messages": [USER, {"role": "tool", "content": "3"}, ANSWER]}, "a message is from 'tool'"),
        ({"instruction": "Hi?", "output": 3}, "field 'output' is not text"),
        ({"instruction": "Hi?", "output": ["a", "b"]}, "field 'output' is not text"),
        ({"instruction": "Hi?", "output": "a\0b"}, "contains U+0000"),
        ({"text": "Once upon a time"}, "no response"),
        ({"output": "Ho."}, "field 'instruction' is missing"),
    ],
)
def test_what_cannot_be_learnt_is_said(row: dict[str, Any], said: str) -> None:
    with pytest.raises(BadRow, match=said.replace("(", r"\(").replace("+", r"\+")):
        answered_of(row)


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


GOOD = [{"id": number, "instruction": f"{number}?", "output": f"{number}!"} for number in range(20)]


def test_a_few_bad_rows_are_counted_and_many_are_an_error(tmp_path: Path) -> None:
    few = write(tmp_path / "few.jsonl", [*GOOD, {"instruction": "x?", "output": ""}])
    read = read_text_documents(str(few))
    assert len(read.documents) == 20
    assert [note for note in read.notes if "1 of 21 rows were left out: 1 because field 'output' is empty" in note]
    many = write(tmp_path / "many.jsonl", [*GOOD[:3], {"instruction": "x?", "output": ""}])
    with pytest.raises(InputError, match=r"many\.jsonl: row 4: field 'output' is empty"):
        read_text_documents(str(many))


def test_folders_are_read_by_language_as_reference_outputs_lie(tmp_path: Path) -> None:
    write(tmp_path / "flat" / "en.jsonl", GOOD[:2])
    write(tmp_path / "flat" / "es.jsonl", GOOD[:1])
    write(tmp_path / "flat" / "notes.jsonl", GOOD[:1])
    read = read_text_documents(str(tmp_path / "flat"))
    assert [document.language for document in read.documents] == ["en", "en", "es"]
    assert any("'notes' names no known language" in note for note in read.notes)
    for language in ("de", "ru"):
        write(tmp_path / "models" / language / "gpt.jsonl", GOOD[:1])
    for source in (tmp_path / "models", tmp_path / "models" / "{language}" / "gpt.jsonl"):
        assert {document.language for document in read_text_documents(str(source)).documents} == {"de", "ru"}


def test_a_column_says_the_language(tmp_path: Path) -> None:
    path = write(tmp_path / "all.jsonl", [row | {"language": "Spanish"} for row in GOOD])
    assert {document.language for document in read_text_documents(str(path)).documents} == {"es"}


def test_columns_are_mapped(tmp_path: Path) -> None:
    rows = [{"meta": {"q": f"{n}?"}, "answers": [f"{n}!", "no"], "output": "not this"} for n in range(3)]
    path = write(tmp_path / "odd.jsonl", rows)
    read = read_text_documents(str(path), {"instruction": "meta.q", "output": "answers.0"})
    assert [(one.asked.instruction, one.answer) for one in read.documents] == [(f"{n}?", f"{n}!") for n in range(3)]
    with pytest.raises(InputError, match=r"the column map names 'outpt'.*nearest is 'output'"):
        read_text_documents(str(path), {"outpt": "answers.0"})


def test_rows_without_an_instruction_are_joined_to_prompts_by_id(tmp_path: Path) -> None:
    outputs = [{"id": row["id"], "output": row["output"]} for row in GOOD]
    path = write(tmp_path / "outputs" / "es.jsonl", outputs)
    with pytest.raises(InputError, match=r"field 'instruction' is missing.*--prompts"):
        read_text_documents(str(path))
    write(tmp_path / "prompts" / "es.jsonl", [{"id": row["id"], "instruction": f"¿{row['id']}?"} for row in GOOD])
    read = read_text_documents(str(tmp_path / "outputs"), prompts=str(tmp_path / "prompts"))
    assert (read.documents[3].asked.instruction, read.documents[3].answer) == ("¿3?", "3!")
    own = write(tmp_path / "own" / "es.jsonl", GOOD)
    read = read_text_documents(str(own.parent), prompts=str(tmp_path / "prompts"))
    assert any("not used" in note for note in read.notes)
    other = write(tmp_path / "other" / "es.jsonl", [{"id": "none", "output": "x"}])
    with pytest.raises(InputError, match="no prompt in 'es' has the id 'none'"):
        read_text_documents(str(other.parent), prompts=str(tmp_path / "prompts"))


def artifact(folder: Path, schema: TableSchema, rows: list[dict[str, Any]]) -> str:
    import pyarrow as pa

    writer = ArtifactWriter(folder, schema, "f")
    writer.write_part(0, completed(pa.Table.from_pylist(rows), schema))
    writer.close(1)
    return str(folder)


def test_artifacts_of_earlier_runs_are_documents(tmp_path: Path) -> None:
    key = {"language": "es", "prompt_id": "0", "sample_index": 0}
    found = {"detected_language": "es", "language_confidence": 1.0, "character_count": 3}
    outputs = [
        key | found | {"instruction": "¿Hola?", "output": text, "finish_reason": reason, "sample_index": index}
        for index, (text, reason) in enumerate([("Sí.", "stop"), ("cortad", "length"), ("", "stop")])
    ]
    read = read_text_documents(artifact(tmp_path / "outputs", OUTPUTS, outputs))
    assert [(one.language, one.asked.instruction, one.answer) for one in read.documents] == [("es", "¿Hola?", "Sí.")]
    assert any("limit of tokens" in note for note in read.notes)
    assert any("an empty response" in note for note in read.notes)
    rewards = {"chosen_reward": 1.0, "rejected_reward": 0.0, "margin": 1.0, "length_penalty_alpha": 0.0}
    pair = {"language": "es", "prompt_id": "0", "instruction": "¿Hola?", "chosen": "Sí.", "rejected": "No.", "chosen_index": 0,
            "rejected_index": 1, "chosen_characters": 3, "rejected_characters": 3, "chosen_token_ids": [1],
            "rejected_token_ids": [2]}  # fmt: skip
    assert read_text_documents(artifact(tmp_path / "pairs", PREFERENCES, [pair | rewards])).documents[0].answer == "Sí."
    response = (
        key
        | found
        | {
            "response": "Sí.",
            "token_ids": [1],
            "finish_reason": "stop",
            "token_ids_source": "sampler",
            "token_count": 1,
        }
    )
    sampled = artifact(tmp_path / "responses", RESPONSES, [response])
    with pytest.raises(InputError, match=r"responses have no instructions.*--prompts"):
        read_text_documents(sampled)
    write(tmp_path / "prompts" / "es.jsonl", [{"id": "0", "instruction": "¿Hola?"}])
    assert read_text_documents(sampled, prompts=str(tmp_path / "prompts")).documents[0].asked.instruction == "¿Hola?"
    with pytest.raises(InputError, match="leave the column map out"):
        read_text_documents(sampled, {"output": "x"})


def test_an_empty_file_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "none.jsonl"
    path.write_text("")
    with pytest.raises(InputError, match=r"none\.jsonl"):
        read_text_documents(str(path))
