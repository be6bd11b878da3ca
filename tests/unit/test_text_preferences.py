"""Preferences as text: rows become token ids with the end-of-turn token; bad rows are named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from icr_platform.core.errors import InputError
from icr_platform.data.text_preferences import read_text_preferences, tokenise
from icr_platform.models.chat import end_of_turn_id
from icr_platform.models.loading import load_tokenizer


def write(path: Path, *rows: object) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def test_strings_and_messages_become_pairs(tmp_path: Path, tiny_model: Path) -> None:
    source = write(
        tmp_path / "pairs.jsonl",
        {"prompt": "Name a fruit.", "chosen": "An apple.", "rejected": "A horse.", "score": 3},
        {
            "prompt": [{"role": "user", "content": "Saluda."}],
            "chosen": [{"role": "assistant", "content": "¡Hola!"}],
            "rejected": [{"role": "assistant", "content": "Hello!"}],
            "language": "es",
        },
    )
    tokenizer = load_tokenizer(str(tiny_model))
    rows = tokenise(str(source), tmp_path / "preferences", tokenizer).read().to_pylist()
    assert [(row["language"], row["chosen"]) for row in rows] == [("en", "An apple."), ("es", "¡Hola!")]
    for row in rows:
        assert row["chosen_token_ids"][-1] == end_of_turn_id(tokenizer)
        assert tokenizer.decode(row["chosen_token_ids"][:-1]) == row["chosen"]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("{", "not valid JSON"),
        ([1], "not a JSON object"),
        ({"prompt": "x", "chosen": "y"}, "'rejected'"),
        ({"prompt": "x", "chosen": " ", "rejected": "z"}, "'chosen'"),
        ({"prompt": "x", "chosen": "y", "rejected": "y"}, "equals 'rejected'"),
    ],
)
def test_bad_rows_are_named(row: object, said: str, tmp_path: Path) -> None:
    source = write(tmp_path / "pairs.jsonl", {"prompt": "x", "chosen": "a", "rejected": "b"}, row)
    with pytest.raises(InputError, match=rf"pairs\.jsonl: row 2:? .*{said}"):
        read_text_preferences(str(source))
