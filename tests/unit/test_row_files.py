"""One reader of JSON rows: whoever reads a file that people bring takes the same odd files and refuses the same broken ones."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from icr_platform.core.errors import InputError
from icr_platform.data.json_rows import json_rows
from icr_platform.data.prompts import load_prompts
from icr_platform.data.reference_outputs import load_reference_outputs
from icr_platform.data.row_files import file_rows
from icr_platform.data.text_preferences import read_text_preferences
from icr_platform.evaluation.mt_bench import load_answers, load_questions
from tests.support.peak_memory import peak_bytes, start_peak

TEXTS = ["a\u2028b\u0085c", "second \u200b", "third"]
"""U+2028 and U+0085 end a line for str.splitlines, and for JSON they do not."""


def prompts(folder: Path, suffix: str) -> list[str]:
    return list(load_prompts(str(folder)).table["instruction"].to_pylist())


def outputs(folder: Path, suffix: str) -> list[str]:
    instructions = {"en": {str(index): text for index, text in enumerate(TEXTS)}}
    found = load_reference_outputs(str(folder), instructions)
    return [found.get("en", str(index)) or "" for index in range(len(TEXTS))]


def pairs(folder: Path, suffix: str) -> list[str]:
    return [pair.chosen for pair in read_text_preferences(str(folder / f"en{suffix}")).pairs]


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


def parquet(rows: list[dict[str, Any]]) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), sink)
    return sink.getvalue()


PARQUET = parquet([row(index) for index in range(len(TEXTS))])
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
    "lines-in-json": (".json", b"\n".join(LINES)),
    "array-in-jsonl": (".jsonl", ARRAY),
    "array-within": (".json", b'{"version": 1, "data": ' + ARRAY + b', "n": {"a": [1]}}'),
    "utf-16": (".jsonl", b"\n".join(LINES).decode().encode("utf-16")),
    "utf-16-windows": (".json", ARRAY.decode().replace("\n", "\r\n").encode("utf-16")),
    "utf-32": (".jsonl", b"\n".join(LINES).decode().encode("utf-32")),
    "mac": (".jsonl", b"\r".join(LINES)),
    "ending": (".JSONL", b"\n".join(LINES)),
    "ndjson": (".ndjson", b"\n".join(LINES)),
    "gzip": (".jsonl.gz", gzip.compress(b"\n".join(LINES))),
    "gzip-joined": (".jsonl.gz", b"".join(gzip.compress(line + b"\n") for line in LINES)),
    "gzip-by-content": (".jsonl", gzip.compress(b"\n".join(LINES))),
    "unpacked-by-a-browser": (".jsonl.gz", b"\n".join(LINES)),
    "bz2": (".json.bz2", bz2.compress(ARRAY)),
    "xz": (".json.xz", lzma.compress(ARRAY)),
    "zstd": (".jsonl.zst", pa.compress(b"\n".join(LINES), "zstd", asbytes=True)),
    "parquet": (".parquet", PARQUET),
    "parquet-by-content": (".json", PARQUET),
    "array-escaped": (".json", json.dumps([row(index) for index in range(len(TEXTS))], indent=2).encode()),
}
BROKEN = [
    (".jsonl", LINES[0] + b"\n\n{\n", r"en\.jsonl: row 3 is not valid JSON \(Expecting property name.*fix or remove"),
    (
        ".jsonl",
        LINES[0] + b'\n{"id": "1", "instr',
        r"row 2 is not valid JSON \(Unterminated string.*may be half-downloaded",
    ),
    (".jsonl", LINES[0] + b"\n[1]\n", r"en\.jsonl: row 2: is not a JSON object; write one with "),
    (".jsonl", LINES[0] + b"\nnull\n", r"en\.jsonl: row 2: is not a JSON object"),
    (".jsonl", LINES[0] + LINES[1] + b"\n", r"en\.jsonl: row 1 is not valid JSON \(Extra data\)"),
    (".jsonl", b'{"id": ' + b"[" * 100_000, r"en\.jsonl: row 1 is not valid JSON \(nested more than 50 levels deep\)"),
    (".jsonl", b"[" * 100_000, r"en\.jsonl: row 1 is not readable as JSON \(nested more than 50 levels deep\)"),
    (".jsonl", b'{"id": ' + b"9" * 5000 + b"}", r"en\.jsonl: row 1 is not valid JSON \(a number of 5,000 digits\)"),
    (
        ".jsonl",
        b'{"id": [' + b"0," * 200_000 + b"0]}",
        r"row 1 is not valid JSON \(one row of more than 100,000 values\)",
    ),
    (".jsonl", b'{"id": 1, "id": 2}\n', r"en\.jsonl: row 1 is not valid JSON \(key 'id' is given twice\)"),
    (
        ".jsonl",
        b'{"id": "' + b"x" * 2**24 + b'"}',
        r"en\.jsonl: line 1 is longer than 16 million characters, which no row has",
    ),
    (".jsonl", LINES[0] + b'\n{"id": "\xf1"}\n', r"en\.jsonl: line 2 is not UTF-8 .*iconv"),
    (
        ".jsonl",
        LINES[0].decode().encode("utf-16-le"),
        r"en\.jsonl: contains bytes of value 0: .*UTF-16 without a byte order mark",
    ),
    (".jsonl", LINES[0].decode().encode("utf-16")[:-1], r"en\.jsonl: line 1 is not UTF-16"),
    (
        ".jsonl",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 9\n",
        r"is a git-lfs pointer.*git lfs pull",
    ),
    (".jsonl", b"<!DOCTYPE html><html>Not found</html>", r"is a web page or XML"),
    (".json", b'\n<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', r"is a web page or XML"),
    (".jsonl", b"", r"en\.jsonl: is empty \(0 bytes\)"),
    (".json", b"[]", r"en\.json: (empty|contains)"),
    (".jsonl", b" \n\t\n", r"en\.jsonl: (empty|contains)"),
    (".jsonl", b"PK\x03\x04rest", r"is a zip archive or an Excel file"),
    (".json", b"[" + LINES[0] + b",\n{]", r"en\.json: line 2 is not valid JSON"),
    (
        ".json",
        b"[" + LINES[0] + b",\n" + LINES[1],
        r"the file ends after row 2, without a closing bracket, and may be half-downl",
    ),
    (
        ".json",
        b"[" + LINES[0] + b",\n" + LINES[1][:20],
        r"the file ends within row 2, without a closing bracket, and may be half-",
    ),
    (".json", b"[" + LINES[0] + b"]\n[]", r"en\.json: line 2 is not valid JSON \(Extra data\)"),
    (".json", LINES[0], r"en\.json: is not a JSON array; write an array of objects with "),
    (".json", b'{"instruction": ["a"], "id": [1]}', r"is not a JSON array but columns, instruction, id"),
    (".json", b'{"data": [' + LINES[0] + b'], "more": [{}]}', r"contains several lists of rows, data, more"),
    (".json", b"[1]", r"en\.json: row 1: is not a JSON object"),
    (".json", b"[" * 100_000, r"en\.json: row 1 is not readable as JSON \(nested more than 50"),
    (
        ".json",
        b'[{"id": "' + b"x" * (2**24 + 2**17) + b'"}]',
        r"what begins in line 1 is longer than 16 million characters",
    ),
    (".jsonl.gz", gzip.compress(b"\n".join(LINES))[:-9], r"en\.jsonl\.gz: is damaged or cut off"),
    (".jsonl.gz", gzip.compress(b"\n".join(LINES))[:30] + b"\0" * 90, r"en\.jsonl\.gz: is damaged or cut off"),
    (".jsonl.xz", lzma.compress(b"\n".join(LINES))[:-30], r"en\.jsonl\.xz: is damaged or cut off"),
    (".jsonl.bz2", bz2.compress(b"\n".join(LINES))[:-9], r"en\.jsonl\.bz2: is damaged or cut off"),
    (
        ".jsonl.zst",
        pa.compress(b"\n".join(LINES), "zstd", asbytes=True)[:-9],
        r"en\.jsonl\.zst: (is damaged|not readable)",
    ),
    (".jsonl.gz", gzip.compress(b"\n" * 2**21), r"is the millionth empty one in a row"),
    (".csv", b"id;prompt\n1;a\n", r"columns are separated by ';' instead of commas"),
    (".csv", b"id\tprompt\n1\ta\n", r"columns are separated by tabs instead of commas"),
    (".csv", b"id,prompt\n1,a,b\n", r"row 2: has 3 fields instead of 2"),
    (".csv", b'id,prompt\n1,"a\n', r"row 2: not readable as CSV .*a quote may be missing"),
    (".csv", b"id,id\n1,2\n", r"two columns are called 'id'"),
    (".csv", "id,prompt\n1,caf\xe9\n".encode("cp1252"), r"line 2 is not UTF-8 .*iconv"),
    (".parquet", PARQUET[:-20], r"en\.parquet: not readable as Parquet"),
    (".parquet", b"x" + PARQUET, r"en\.parquet: not readable as Parquet"),
]


@pytest.mark.parametrize(("suffix", "content"), VALID.values(), ids=VALID)
@pytest.mark.parametrize("read", CONSUMERS)
def test_every_consumer_takes_valid_files(tmp_path: Path, read: Consumer, suffix: str, content: bytes) -> None:
    (tmp_path / f"en{suffix}").write_bytes(content)
    assert read(tmp_path, suffix) == TEXTS


@pytest.mark.parametrize(("suffix", "content", "said"), BROKEN, ids=[case[2][:40] for case in BROKEN])
def test_what_cannot_be_read_is_one_line_that_names_file_row_and_reason(
    tmp_path: Path, suffix: str, content: bytes, said: str
) -> None:
    for number, read in enumerate(CONSUMERS):
        check_refusal(tmp_path / str(number), read, suffix, content, said)


def check_refusal(folder: Path, read: Consumer, suffix: str, content: bytes, said: str) -> None:
    folder.mkdir()
    (folder / f"en{suffix}").write_bytes(content)
    with pytest.raises(InputError, match=said) as caught:
        read(folder, suffix)
    assert "\n" not in str(caught.value)
    assert f"en{suffix}" in str(caught.value)


@pytest.mark.parametrize("read", [prompts, outputs, pairs])
def test_half_a_surrogate_is_refused_before_it_can_be_written(tmp_path: Path, read: Consumer) -> None:
    broken = json.dumps(row(0) | dict.fromkeys(("instruction", "output", "chosen"), "cut \ud83d"))
    (tmp_path / "en.jsonl").write_text(broken)
    with pytest.raises(InputError, match=r"en\.jsonl: row 1: field '(instruction|output|chosen)'"):
        read(tmp_path, ".jsonl")


def pipe(path: Path) -> None:
    os.mkfifo(path)


def circle(path: Path) -> None:
    path.symlink_to(path)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda path: None, r"not readable \(No such file or directory\)|no such file"),
        (lambda path: path.mkdir(), r"is a folder, not a file"),
        (lambda path: path.symlink_to("/nowhere/es.jsonl"), r"links to /nowhere/es\.jsonl, which does not exist"),
        (circle, r"a link in a circle|links"),
        (pipe, r"is a pipe or a device"),
        (lambda path: path.symlink_to("/dev/zero"), r"is a pipe or a device"),
    ],
)
def test_what_is_no_file_is_never_waited_for(tmp_path: Path, make: Callable[[Path], object], said: str) -> None:
    make(tmp_path / "en.jsonl")
    with pytest.raises(InputError, match=said):
        list(file_rows(tmp_path / "en.jsonl", "id"))
    if (tmp_path / "en.jsonl").is_symlink() or (tmp_path / "en.jsonl").exists():
        with pytest.raises(InputError, match=said):
            prompts(tmp_path, ".jsonl")


def test_a_name_without_an_ending_is_read_where_its_beginning_says_json(tmp_path: Path) -> None:
    for name, content in ("download", ARRAY), ("rows.txt", b"\n".join(LINES)):
        (tmp_path / name).write_bytes(content)
        assert [found.fields["instruction"] for found in file_rows(tmp_path / name, "id")] == TEXTS
    (tmp_path / "other.txt").write_text("id,instruction\n1,x\n")
    with pytest.raises(InputError, match=r"other\.txt: is not a file of rows by its name; give \.json"):
        list(file_rows(tmp_path / "other.txt", "id"))


def test_a_text_that_a_column_repeats_without_end_is_refused_and_takes_no_memory(tmp_path: Path) -> None:
    once = pa.array(["z" * 2**23])
    for name, column in {
        "flat": pa.DictionaryArray.from_arrays(pa.array([0] * 500, pa.int32()), once),
        "nested": pa.array([["z" * 2**23]] * 20),
        "long": pa.array(["z" * (2**24 + 1)]),
    }.items():
        table = pa.table({"id": range(len(column)), "instruction": column})
        pq.write_table(table, tmp_path / f"{name}.parquet", compression="zstd", dictionary_pagesize_limit=2**30)
    before = start_peak()
    with pytest.raises(InputError, match=r"long\.parquet: a text in row 1 is longer than 16 million"):
        list(file_rows(tmp_path / "long.parquet", "id"))
    with pytest.raises(InputError, match=r"flat\.parquet: row 9: unpacks to more than 300 times its size"):
        list(file_rows(tmp_path / "flat.parquet", "id"))
    assert sum(1 for _ in file_rows(tmp_path / "nested.parquet", "id")) == 20
    assert peak_bytes() - before < 200 * 2**20


def test_a_packed_file_that_expands_without_end_is_refused(tmp_path: Path) -> None:
    (tmp_path / "en.jsonl.gz").write_bytes(gzip.compress(b'{"a": "' + b"x" * 2**23 + b'"}\n') * 20)
    with pytest.raises(InputError, match=r"en\.jsonl\.gz: unpacks to more than 300 times its size"):
        list(file_rows(tmp_path / "en.jsonl.gz", "id"))


def naive_rows(data: bytes) -> list[Any]:
    """What JSON Lines or an array of a small file in UTF-8 contain, by the standard library alone."""
    text = data.decode("utf-8-sig")
    return (
        json.loads(text)
        if text.lstrip().startswith("[")
        else [json.loads(line) for line in text.split("\n") if line.strip()]
    )


def test_the_reader_equals_a_naive_one_on_random_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pieces of 1 to 40 characters: every value, escape and bracket lies across a boundary once."""
    draw = random.Random(0)
    texts = ['"', "\\", '\\"', "]}", "[{,", "\n", "\u2028", "é\U0001f600", "\0", " ", "x" * 50, '\\\\"', ""]

    def value(depth: int) -> Any:
        kind = draw.randrange(6 if depth < 4 else 4)
        if kind < 2:
            return "".join(draw.choices(texts, k=draw.randrange(4)))
        if kind < 4:
            return draw.choice([None, True, -1.5e-7, 12345678901234567890, 0])
        inner = [value(depth + 1) for _ in range(draw.randrange(4))]
        return inner if kind == 4 else {f"{draw.choice(texts)}{index}": item for index, item in enumerate(inner)}

    for trial in range(150):
        monkeypatch.setattr("icr_platform.data.json_rows._CHUNK", draw.randint(1, 40))
        rows = [{"id": index, "value": value(0)} for index in range(draw.randint(1, 5))]
        plain = draw.random() < 0.5
        indent = draw.choice([None, 0, 1])
        array = json.dumps(rows, ensure_ascii=plain, indent=indent)
        files = {"a.json": array, "b.json": f' {{"n": {{"v": {json.dumps(value(2))}}}, "rows": {array}}}', "c.jsonl": "\n".join(json.dumps(item, ensure_ascii=plain) for item in rows)}  # fmt: skip
        for name, text in files.items():
            (tmp_path / name).write_text(text, encoding="utf-8", newline="")
            found = [item for _, item in json_rows(tmp_path / name, "id")]
            expected = json.loads(text)["rows"] if name == "b.json" else naive_rows(text.encode())
            assert found == expected, (trial, name, text)


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    line = LINES[0].replace(TEXTS[0].encode(), b"x" * 2**14)
    (tmp_path / "en.jsonl").write_bytes((line + b"\n") * 600)
    (tmp_path / "en.json").write_bytes(b"[" + b",".join([line] * 600) + b"]")
    # In a process of its own: one that ran other tests has gigabytes, and threads that allocate.
    measure = """if True:
        import sys
        from pathlib import Path
        from icr_platform.data.row_files import file_rows
        from tests.support.peak_memory import peak_bytes, start_peak
        before = start_peak()
        for name in ("en.jsonl", "en.json"):
            assert sum(1 for _ in file_rows(Path(sys.argv[1]) / name, "id")) == 600
        print(peak_bytes() - before)"""
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", measure, str(tmp_path)], capture_output=True, text=True, cwd=root)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 16 * 2**20, "each file has 48 MB"
