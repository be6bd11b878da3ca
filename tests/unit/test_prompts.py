from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from icr_platform.core.artifacts import ArtifactWriter
from icr_platform.core.errors import InputError
from icr_platform.core.schemas import PROMPTS
from icr_platform.data.prompts import load_prompts


def write(path: Path, *lines: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes("\n".join(lines).encode() + b"\n")
    return path


def row(prompt_id: object, instruction: object = "Do it.", **more: object) -> str:
    return json.dumps({"id": prompt_id, "instruction": instruction, **more}, ensure_ascii=False)


def test_rows_meet_their_english_row_by_id_whatever_the_order(tmp_path: Path) -> None:
    write(tmp_path / "en.jsonl", row(1, "one", dataset="d"), row(2, "two"), row(3, "three"))
    write(tmp_path / "sw.json", "[" + ",".join([row("3", "tatu"), row(1, "moja")]) + "]")
    prompts = load_prompts(str(tmp_path), ["sw", "en"])
    assert prompts.languages == ("sw", "en")
    assert [tuple(item.values()) for item in prompts.table.to_pylist()] == [
        ("sw", "1", "moja", "one", ""),
        ("sw", "3", "tatu", "three", ""),
        ("en", "1", "one", "one", "d"),
        ("en", "2", "two", "two", ""),
        ("en", "3", "three", "three", ""),
    ]
    assert prompts.missing == {"sw": ("2",)}
    assert prompts.notes == (f"{tmp_path / 'sw.json'}: 1 of 3 English prompts have no row here: 2",)
    assert prompts.table.schema == PROMPTS.schema


def test_the_first_english_ids_are_kept_and_english_need_not_be_asked_for(prompt_folder: Path) -> None:
    rows = (prompt_folder / "es.jsonl").read_text(encoding="utf-8").splitlines()
    write(prompt_folder / "es.jsonl", *reversed(rows))
    prompts = load_prompts(str(prompt_folder), ["es"], limit=2)
    assert prompts.table.select(["prompt_id", "english_instruction"]).to_pylist() == [
        {"prompt_id": "p0", "english_instruction": "Name a fruit."},
        {"prompt_id": "p1", "english_instruction": "What is red?"},
    ]
    assert load_prompts(str(prompt_folder)).languages == ("en", "de", "es")


def test_unicode_stays_as_it_came(tmp_path: Path) -> None:
    texts = [" leading\u00a0", "a\u2028b\u0085c", "e\u0301 vs é", "\u200bสวัสดี🙂\r\n", "\ufeffx"]
    write(tmp_path / "en.jsonl", *(row(i, text) for i, text in enumerate(texts)))
    assert load_prompts(str(tmp_path)).table["instruction"].to_pylist() == texts


def test_parquet_artifact_and_folder_say_the_same(prompt_folder: Path, tmp_path: Path) -> None:
    expected = load_prompts(str(prompt_folder), ["es", "de"]).table
    rows = [
        {"language": language} | json.loads(line)
        for language in ("de", "es", "en")
        for line in (prompt_folder / f"{language}.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    table = pa.Table.from_pylist(rows).rename_columns(["language", "instruction_id", "instruction", "source"])
    pq.write_table(table, tmp_path / "all.parquet")
    assert load_prompts(str(tmp_path / "all.parquet"), ["es", "de"]).table == expected

    writer = ArtifactWriter(tmp_path / "artifact", PROMPTS, "f")
    writer.write_part(0, expected)  # made without English: its rows still know their English instruction
    writer.close(1)
    assert load_prompts(str(tmp_path / "artifact"), ["es", "de"]).table.drop("source") == expected.drop("source")


def test_hub_data_sets_name_languages_by_configuration_or_split(monkeypatch: pytest.MonkeyPatch) -> None:
    def fake(by_language: bool) -> None:
        rows = {code: [{"id": 7, "instruction": f"{code} text"}] for code in ("en", "de")}
        parts = {code: datasets.Dataset.from_list(rows[code]) for code in rows}
        monkeypatch.setattr(
            datasets, "get_dataset_config_names", lambda _: ["en", "de"] if by_language else ["default"]
        )
        monkeypatch.setattr(datasets, "get_dataset_split_names", lambda _: ["en", "de"])
        monkeypatch.setattr(
            datasets,
            "load_dataset",
            lambda _, code=None: datasets.DatasetDict({"test": parts[code]} if by_language else parts),
        )

    for by_language in (True, False):
        fake(by_language)
        prompts = load_prompts("owner/prompts", ["de"])
        assert prompts.table.to_pylist() == [
            {
                "language": "de",
                "prompt_id": "7",
                "instruction": "de text",
                "english_instruction": "en text",
                "source": "",
            }
        ]
        with pytest.raises(InputError, match=r"owner/prompts on the hub.* 'fr'.*found: en de"):
            load_prompts("owner/prompts", ["fr"])


def bad_inputs() -> Iterator[tuple[str, Callable[[Path], object], str]]:
    """(name, how the good folder is spoilt, what the message must say)."""
    es = "es.jsonl"
    yield "language without a file", lambda p: (p / es).unlink(), r"es\.jsonl: language 'es'.*missing.*found: de en"
    yield "no English", lambda p: (p / "en.jsonl").unlink(), r"en\.jsonl: language 'en'.*aligned with.*missing"
    yield "invalid line", lambda p: write(p / es, row("p0"), '{"id": '), r"es\.jsonl: row 2 is not valid JSON"
    yield "not an object", lambda p: write(p / es, row("p0"), "[1]"), r"es\.jsonl: row 2: is not a JSON object"
    yield "no instruction", lambda p: write(p / es, '{"id": "p0"}'), r"row 1: field 'instruction' is missing"
    yield "empty instruction", lambda p: write(p / es, row("p0", " \n")), r"row 1: field 'instruction' is empty"
    yield "not text", lambda p: write(p / es, row("p0", 5)), r"row 1: field 'instruction' is not text"
    yield (
        "half a surrogate",
        lambda p: write(p / es, '{"id":"p0","instruction":"\\ud800"}'),
        r"'instruction' contains half",
    )
    yield "no id", lambda p: write(p / es, '{"instruction": "x"}'), r"row 1: field 'id' is missing"
    yield "odd id", lambda p: write(p / es, row(1.5)), r"row 1: field 'id' is 1.5"
    yield (
        "duplicate",
        lambda p: write(p / es, row("p0"), "", row("p0")),
        r"row 3: field 'id' 'p0' is a duplicate of .*row 1",
    )
    yield "not in English", lambda p: write(p / es, row("p9")), r"es\.jsonl: row 1: field 'id' 'p9'.*missing in English"
    yield "empty file", lambda p: write(p / es), r"es\.jsonl: empty prompt set"
    yield "latin-1", lambda p: (p / es).write_bytes(b'{"id": "p0"}\n{"instruction": "\xf1"}'), r"line 2 is not UTF-8"
    yield "two files", lambda p: write(p / "es.json", "[]"), r"es\.jsonl: es\.json contains the same language"


@pytest.mark.parametrize(("spoil", "message"), [pytest.param(*case[1:], id=case[0]) for case in bad_inputs()])
def test_bad_input_is_one_line_that_names_file_row_and_field(
    prompt_folder: Path, spoil: Callable[[Path], object], message: str
) -> None:
    spoil(prompt_folder)
    with pytest.raises(InputError, match=message) as caught:
        load_prompts(str(prompt_folder), ["en", "es"])
    assert "\n" not in str(caught.value)
    assert str(prompt_folder) in str(caught.value)


def test_bad_places_and_values(prompt_folder: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    truncated = tmp_path / "truncated.parquet"
    table = pa.table({"language": ["en", None], "id": [1, 2], "instruction": ["a", "b"]})
    pq.write_table(table, truncated)
    pq.write_table(table, tmp_path / "null.parquet")
    nameless = pa.table({"language": ["en", "es"], "instruction": ["a", "b"]})
    pq.write_table(nameless, tmp_path / "no_id.parquet")
    truncated.write_bytes(truncated.read_bytes()[:-20])
    cases = [
        ((str(tmp_path / "nowhere"),), r"nowhere: no such file or folder"),
        (("prompts",), r"prompts: no such file or folder"),
        ((str(empty),), r"empty: empty prompt set"),
        ((str(prompt_folder / "en.jsonl"),), r"en\.jsonl: is one file; give its folder"),
        ((str(truncated),), r"truncated\.parquet: not readable as Parquet"),
        ((str(tmp_path / "null.parquet"),), r"null\.parquet: row 2: field 'language' is missing"),
        (
            (str(tmp_path / "no_id.parquet"),),
            r"no_id\.parquet: row 1: field 'id' is missing .*; found: language, instruction",
        ),
        ((str(prompt_folder), ["xx"]), r"unknown language code 'xx'"),
        ((str(prompt_folder), ["en"], 0), r"field 'limit' is 0"),
    ]
    for arguments, message in cases:
        with pytest.raises(InputError, match=message):
            load_prompts(*arguments)  # type: ignore[arg-type]


def test_files_of_no_language_are_named_and_left_out(prompt_folder: Path) -> None:
    write(prompt_folder / "README.json", "{}")
    prompts = load_prompts(str(prompt_folder))
    assert prompts.notes == (f"{prompt_folder}: 'README' names no known language and was left out",)


def test_the_real_prompt_sets_read_as_they_are(shared_data: Path) -> None:
    alpaca = load_prompts(str(shared_data / "prompts" / "x-alpacaeval"))
    feedback = load_prompts(str(shared_data / "prompts" / "ultrafeedback-1000"))
    assert (alpaca.table.num_rows, len(alpaca.languages)) == (13 * 805, 13)
    assert (feedback.table.num_rows, len(feedback.languages)) == (9 * 1000, 9)
    assert not alpaca.notes + feedback.notes
