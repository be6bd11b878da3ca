"""One reader of JSON rows: whoever reads a file that people bring takes the same odd files and refuses the same broken ones."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from icr_platform.core.errors import InputError
from icr_platform.data.json_rows import json_rows
from icr_platform.data.prompts import load_prompts
from icr_platform.data.reference_outputs import load_reference_outputs
from icr_platform.data.text_preferences import read_text_pairs
from icr_platform.evaluation.mt_bench import load_answers, load_questions

TEXTS = ["a\u2028b\u0085c", "second \u200b", "third"]
"""U+2028 and U+0085 end a line for str.splitlines, and for JSON they do not."""


def prompts(folder: Path, suffix: str) -> list[str]:
    return list(load_prompts(str(folder)).table["instruction"].to_pylist())


def outputs(folder: Path, suffix: str) -> list[str]:
    instructions = {"en": {str(index): text for index, text in enumerate(TEXTS)}}
    found = load_reference_outputs(str(folder), instructions)
    return [found.get("en", str(index)) or "" for index in range(len(TEXTS))]


def pairs(folder: Path, suffix: str) -> list[str]:
    return [pair.chosen for pair in read_text_pairs(folder / f"en{suffix}")]


def questions(folder: Path, suffix: str) -> list[str]:
    return [found.turns[0] for found in load_questions(str(folder / f"{{language}}{suffix}"), ["en"])]


def answers(folder: Path, suffix: str) -> list[str]:
    return [turns[0] for turns in load_answers(str(folder / f"{{language}}{suffix}"), ["en"]).values()]


def row(index: int) -> dict[str, Any]:
    """A row that every consumer takes."""
    text = TEXTS[index]
    return {
        "id": index, "question_id": index, "instruction": text, "output": text, "prompt": "?", "chosen": text, "rejected": "x",
        "category": "writing", "turns": [text, "and?"], "choices": [{"turns": [text, "and."]}], "score": float("nan"),
    }  # fmt: skip


LINES = [json.dumps(row(index), ensure_ascii=False).encode() for index in range(len(TEXTS))]
ARRAY = b"[" + b",\n".join(LINES) + b"]"
BOM = b"\xef\xbb\xbf"
CONSUMERS = [prompts, outputs, pairs, questions, answers]
Consumer = Callable[[Path, str], list[str]]

VALID = {
    "plain": (".jsonl", b"\n".join(LINES) + b"\n"),
    "no-last-line-end": (".jsonl", b"\n".join(LINES)),
    "windows": (".jsonl", b"\r\n".join(LINES) + b"\r\n"),
    "byte-order-mark": (".jsonl", BOM + b"\n".join(LINES)),
    "joined-files": (".jsonl", b"".join(BOM + line + b"\n" for line in LINES)),
    "empty-lines": (".jsonl", b"\n \n" + b"\n\t\r\n\n".join(LINES) + b"\n\n"),
    "spaces": (".jsonl", b"\n".join(b"  " + line + b" " for line in LINES)),
    "array": (".json", ARRAY),
    "array-windows": (".json", BOM + ARRAY.replace(b",\n", b",\r\n\r\n") + b"\n"),
    "array-escaped": (".json", json.dumps([row(index) for index in range(len(TEXTS))], indent=2).encode()),
}
BROKEN = [
    (
        ".jsonl",
        LINES[0] + b"\n\n{\n",
        r"en\.jsonl: row 3 is not valid JSON \(Expecting property name.*fix or remove",
    ),
    (".jsonl", LINES[0] + b"\n[1]\n", r"en\.jsonl: row 2: is not a JSON object; write one with "),
    (".jsonl", LINES[0] + b"\nnull\n", r"en\.jsonl: row 2: is not a JSON object"),
    (".jsonl", LINES[0] + LINES[1] + b"\n", r"en\.jsonl: row 1 is not valid JSON \(Extra data\)"),
    (".jsonl", b"[" * 100_000, r"en\.jsonl: row 1 is not valid JSON \(maximum recursion"),
    (".jsonl", b'{"id": ' + b"9" * 5000 + b"}", r"en\.jsonl: row 1 is not valid JSON \(Exceeds the limit"),
    (".jsonl", LINES[0] + b'\n{"id": "\xf1"}\n', r"en\.jsonl: line 2 is not UTF-8"),
    (".jsonl", LINES[0].decode().encode("utf-16"), r"en\.jsonl: line 1 is not UTF-8"),
    (".json", b"[" + LINES[0] + b",\n{]", r"en\.json: line 2 is not valid JSON"),
    (".json", b"\n".join(LINES), r"en\.json: line 2 is not valid JSON \(Extra data\); name it \.jsonl"),
    (".json", LINES[0], r"en\.json: is not a JSON array; write an array of objects with "),
    (".json", b"[1]", r"en\.json: row 1: is not a JSON object"),
    (".json", b"[" * 100_000, r"en\.json: is not readable as JSON \(maximum recursion"),
]


def of_every_consumer(cases: Iterable[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """Each with each, but for arrays of pairs: `--preferences` takes JSON Lines only."""
    return [(read, *case) for read in CONSUMERS for case in cases if (read, case[0]) != (pairs, ".json")]


@pytest.mark.parametrize(("read", "suffix", "content"), of_every_consumer(VALID.values()))
def test_every_consumer_takes_valid_files(tmp_path: Path, read: Consumer, suffix: str, content: bytes) -> None:
    (tmp_path / f"en{suffix}").write_bytes(content)
    assert read(tmp_path, suffix) == TEXTS


@pytest.mark.parametrize(("read", "suffix", "content", "said"), of_every_consumer(BROKEN))
def test_every_consumer_names_file_row_and_reason(
    tmp_path: Path, read: Consumer, suffix: str, content: bytes, said: str
) -> None:
    (tmp_path / f"en{suffix}").write_bytes(content)
    with pytest.raises(InputError, match=said) as caught:
        read(tmp_path, suffix)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("read", [prompts, outputs, pairs])
def test_half_a_surrogate_is_refused_before_it_can_be_written(tmp_path: Path, read: Consumer) -> None:
    broken = json.dumps(row(0) | dict.fromkeys(("instruction", "output", "chosen"), "cut \ud83d"))
    (tmp_path / "en.jsonl").write_text(broken)
    with pytest.raises(InputError, match=r"en\.jsonl: row 1: field '(instruction|output|chosen)'"):
        read(tmp_path, ".jsonl")


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere\.jsonl: not readable \(No such file or directory\)"):
        list(json_rows(tmp_path / "nowhere.jsonl", "id"))
