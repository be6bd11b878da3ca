from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from icr_platform.core.artifacts import ArtifactWriter
from icr_platform.core.conversations import Conversation
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
        ("sw", "1", "moja", "one", "", None, None),
        ("sw", "3", "tatu", "three", "", None, None),
        ("en", "1", "one", "one", "d", None, None),
        ("en", "2", "two", "two", "", None, None),
        ("en", "3", "three", "three", "", None, None),
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
                "messages": None,
                "english_messages": None,
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


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


ASKED: dict[str, tuple[dict[str, object], str, tuple[str, ...]]] = {
    # What a row contains beside its id: the instruction that it is, and what is said about it.
    "instruction": ({"instruction": "Do."}, "Do.", ()),
    "prompt": ({"prompt": "Do."}, "Do.", ()),
    "question": ({"question": "Do."}, "Do.", ()),
    "text": ({"text": "Do."}, "Do.", ()),
    "input alone": ({"input": "Do."}, "Do.", ()),
    "instruction before prompt": ({"instruction": "Do.", "prompt": "### Do."}, "Do.", ("columns not used: prompt",)),
    "alpaca": ({"instruction": "Do.", "input": "x", "output": "y"}, "Do.\n\nx", ("1 rows have an 'input'", "columns not used: output")),
    "alpaca, empty input": ({"instruction": "Do.", "input": ""}, "Do.", ()),
    "alpaca, input repeated": ({"instruction": "Do: x", "input": "x"}, "Do: x", ()),
    "system": ({"system": "Be brief.", "instruction": "Do."}, "Do.", ("1 rows have a system text",)),
    "messages": ({"messages": [user("Do.")]}, "Do.", ()),
    "messages with an answer": (
        {"messages": [user("Do."), {"role": "assistant", "content": "Done."}]}, "Do.", ("an answer after the instruction, which is not used",)
    ),
    "messages with a system": (
        {"messages": [{"role": "system", "content": "S."}, user("Do.")]}, "Do.", ("1 rows have a system text",)
    ),
    "prompt of messages": ({"prompt": [user("Do.")]}, "Do.", ()),
    "sharegpt": ({"conversations": [{"from": "human", "value": "Do."}, {"from": "gpt", "value": "Done."}]}, "Do.", ("an answer",)),
    "parts": ({"messages": [{"role": "user", "content": [{"type": "text", "text": "Do."}]}]}, "Do.", ()),
    "nothing else": ({"instruction": "Do.", "generator": "x", "dataset": "d", "lang": "en"}, "Do.", ()),
    "unused": ({"instruction": "Do.", "score": 1, "tags": ["a"]}, "Do.", ("columns not used: score, tags",)),
}  # fmt: skip


@pytest.mark.parametrize(("fields", "asked", "notes"), ASKED.values(), ids=ASKED)
def test_an_instruction_is_found_whatever_it_is_called(
    tmp_path: Path, fields: dict[str, object], asked: str, notes: tuple[str, ...]
) -> None:
    write(tmp_path / "en.jsonl", json.dumps({"id": 1} | fields))
    prompts = load_prompts(str(tmp_path))
    assert prompts.table["instruction"].to_pylist() == [asked]
    assert len(prompts.notes) == len(notes)
    for said, note in zip(prompts.notes, notes, strict=True):
        assert note in said


def answered(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


BEFORE = (("user", "Hi"), ("assistant", "Hello."))
TURNS = [user("Hi"), answered("Hello."), user("Do.")]
SHAREGPT = [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello."}, {"from": "human", "value": "Do."}]
SYSTEM = (("system", "S."),)
CONVERSATIONS: dict[str, tuple[dict[str, object], Conversation]] = {
    # What a row contains beside its id, and the conversation that it asks.
    "messages": ({"messages": TURNS}, Conversation("Do.", BEFORE)),
    "conversations": ({"conversations": SHAREGPT}, Conversation("Do.", BEFORE)),
    "conversations, answered": ({"conversations": [*SHAREGPT, {"from": "gpt", "value": "Done."}]}, Conversation("Do.", BEFORE)),
    "WildChat, LMSYS": ({"conversation": [*TURNS, answered("Done.")], "model": "x", "turn": 2}, Conversation("Do.", BEFORE)),
    "prompt as a list": ({"prompt": TURNS}, Conversation("Do.", BEFORE)),
    "an answer that is empty": ({"messages": [*TURNS, answered(" ")]}, Conversation("Do.", BEFORE)),
    "WildBench": ({"conversation_input": TURNS}, Conversation("Do.", BEFORE)),
    "HelpSteer3": ({"context": TURNS}, Conversation("Do.", BEFORE)),
    "messages as JSON": ({"messages": json.dumps(TURNS)}, Conversation("Do.", BEFORE)),
    "messages as pandas writes them": ({"messages": str(TURNS)}, Conversation("Do.", BEFORE)),
    "history of pairs": ({"instruction": "Do.", "history": [["Hi", "Hello."]]}, Conversation("Do.", BEFORE)),
    "history of messages": ({"instruction": "Do.", "history": TURNS[:2]}, Conversation("Do.", BEFORE)),
    "history of named pairs": ({"query": "Do.", "history": [{"prompt": "Hi", "response": "Hello."}]}, Conversation("Do.", BEFORE)),
    "no history": ({"instruction": "Do.", "history": []}, Conversation("Do.")),
    "history, input and system": (
        {"instruction": "Do:", "input": "x", "system": "S.", "history": [["Hi", "Hello."]]}, Conversation("Do:\n\nx", SYSTEM + BEFORE),
    ),
    "transcript": ({"prompt": "\n\nHuman: Hi\n\nAssistant: Hello.\n\nHuman: Do.\n\nAssistant:"}, Conversation("Do.", BEFORE)),
    "transcript of one turn": ({"prompt": "\n\nHuman: Do.\n\nAssistant:"}, Conversation("Do.")),
    "a text about a human": ({"prompt": "Human: who is one?"}, Conversation("Human: who is one?")),
    "system": ({"messages": [{"role": "system", "content": "S."}, *TURNS]}, Conversation("Do.", SYSTEM + BEFORE)),
    "system_prompt": ({"system_prompt": "S.", "prompt": "Do."}, Conversation("Do.", SYSTEM)),
    "developer": ({"messages": [{"role": "developer", "content": "S."}, user("Do.")]}, Conversation("Do.", SYSTEM)),
    "system twice": ({"system": "S.", "messages": [{"role": "system", "content": "S."}, user("Do.")]}, Conversation("Do.", SYSTEM)),
    "empty system": ({"messages": [{"role": "system", "content": ""}, user("Do.")]}, Conversation("Do.")),
    "system in between": (
        {"messages": [*TURNS[:2], {"role": "system", "content": "S."}, user("Do.")]}, Conversation("Do.", BEFORE + SYSTEM),
    ),
    "roles in capitals": ({"messages": [{"role": "User", "content": "Do."}]}, Conversation("Do.")),
    "a greeting first": ({"conversations": [{"from": "gpt", "value": "Hello."}, SHAREGPT[2]]}, Conversation("Do.", BEFORE[1:])),
    "two turns of the user": ({"messages": [user("Hi"), user("Do.")]}, Conversation("Do.", BEFORE[:1])),
    "prompt beside its conversation": ({"prompt": "Do.", "messages": TURNS}, Conversation("Do.", BEFORE)),
    "prompt that begins a conversation": ({"prompt": "Hi", "messages": [*TURNS, answered("Done.")]}, Conversation("Hi")),
    "Arena-Hard": ({"turns": [{"content": "Do."}], "cluster": "c"}, Conversation("Do.")),
    "turns": ({"turns": ["Do."]}, Conversation("Do.")),
}  # fmt: skip


@pytest.mark.parametrize(("fields", "asked"), CONVERSATIONS.values(), ids=CONVERSATIONS)
def test_a_conversation_is_found_in_every_layout(
    tmp_path: Path, fields: dict[str, object], asked: Conversation
) -> None:
    write(tmp_path / "en.jsonl", json.dumps({"id": 1} | fields))
    [prompt] = load_prompts(str(tmp_path)).table.to_pylist()
    assert Conversation.of(prompt["instruction"], prompt["messages"]) == asked
    assert prompt["english_messages"] == prompt["messages"] == asked.json


def test_a_language_has_its_conversation_beside_the_english_one(tmp_path: Path) -> None:
    write(tmp_path / "en.jsonl", json.dumps({"id": 1, "messages": TURNS}), json.dumps({"id": 2, "messages": TURNS}))
    write(
        tmp_path / "es.jsonl",
        json.dumps({"id": 1, "messages": [user("Hola"), answered("Buenas."), user("Haz.")]}),
        json.dumps({"id": 2, "instruction": "Haz."}),
    )
    found = load_prompts(str(tmp_path), ["es"])
    rows = found.table.to_pylist()
    assert [Conversation.of(row["instruction"], row["messages"]).roles for row in rows] == [
        ("user", "assistant", "user"),
        ("user",),
    ]
    assert {row["english_messages"] for row in rows} == {Conversation("Do.", BEFORE).json}
    assert any(
        "1 of 2 prompts have other messages than their English rows, after which rewards are scored; the first is '2': user, in English user"
        in note
        for note in found.notes
    )
    # The artifact says the same, English included, which it does not contain.
    writer = ArtifactWriter(tmp_path / "prompts", PROMPTS, "f")
    writer.write_part(0, found.table)
    writer.close(1)
    again = load_prompts(str(tmp_path / "prompts"))
    assert again.table.filter(pc.equal(again.table["language"], "es")).to_pylist() == rows


NOT_ASKED: list[tuple[dict[str, object], str]] = [
    ({"output": "x"}, "'instruction' is missing; found: id, output; known: instruction, prompt"),
    ({"messages": [{"role": "assistant", "content": "b"}]}, "no turn of the user"),
    ({"messages": [{"role": "tool", "content": "b"}]}, "a message is from 'tool'; .*calls of tools are not read"),
    ({"messages": [user("a"), {"role": "assistant", "content": None, "tool_calls": [{}]}]}, "a message is from 'assistant'; .*calls of tools"),
    ({"messages": [user("a"), {"role": "narrator", "content": "b"}]}, "a message is from 'narrator'; known roles"),
    ({"messages": [*TURNS, answered("Done.")]}, "'messages' is a conversation that ends on a turn of the assistant; end it on the user's"),
    ({"prompt": [*TURNS, answered("Done.")]}, "'prompt' is a conversation that ends on a turn of the assistant"),
    ({"messages": [user("a"), {"role": "system", "content": "s"}]}, "ends with a message of the system; end it with the user's"),
    ({"messages": [{"role": "system", "content": "s"}]}, "no turn of the user"),
    ({"messages": [user("a"), answered(""), user("c")]}, "a message of the assistant is empty"),
    ({"messages": [user("a"), answered("b\0"), user("c")]}, r"'messages' contains U\+0000"),
    ({"messages": "[{'role': 'user'"}, "'messages' begins as a list of messages and is not JSON"),
    ({"turns": ["a", "b"]}, "'turns' has 2 turns of the user and no answers between them; ask them with icr mt-bench"),
    ({"prompt": ["a", "b"]}, "'prompt' has 2 turns of the user"),
    ({"instruction": "a", "history": ["b", "c"]}, r"'history' contains 'b'; give earlier turns as \[question, answer\]"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "not text"),
    ({"messages": []}, "'messages' is not text"),
    ({"instruction": ["a"]}, "'instruction' is not text"),
    ({"instruction": "a\0b"}, r"'instruction' contains U\+0000"),
    ({"instruction": "a", "input": 5}, "'input' is not text"),
    ({"instruction": "a", "source": "\ud800"}, "'source' contains half"),
    ({"instruction": "a", "id": "\ud800"}, "'id' contains half"),
    ({"instruction": "a", "id": True}, "'id' is True"),
    ({"instruction": "a", "id": [1]}, r"'id' is \[1\]"),
    ({"instruction": "a", "id": " "}, "'id' is ' '"),
]  # fmt: skip


@pytest.mark.parametrize(("fields", "said"), NOT_ASKED)
def test_a_row_that_asks_nothing_usable_is_refused(tmp_path: Path, fields: dict[str, object], said: str) -> None:
    write(tmp_path / "en.jsonl", row(1), json.dumps({"id": 2} | fields))
    with pytest.raises(InputError, match=rf"en\.jsonl: row 2: .*{said}") as refused:
        load_prompts(str(tmp_path))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("column", "ids"),
    [
        (pa.array([1.0, 2.0]), ["1", "2"]),  # pandas makes floats of whole numbers where one is missing
        (pa.array([1, 2], pa.uint8()), ["1", "2"]),
        (pa.array(["007", "7"]), ["007", "7"]),
        (pa.array(["a", "b"]).dictionary_encode(), ["a", "b"]),
        (pa.array([b"a", b"b"]), ["a", "b"]),
        (pa.array([1, 2]).cast(pa.decimal128(19, 0)), ["1", "2"]),
    ],
    ids=str,
)
def test_ids_of_parquet_are_what_they_were(tmp_path: Path, column: pa.Array, ids: list[str]) -> None:
    table = pa.table({"question_id": column, "prompt": ["a", "b"], "lang": ["en", "en"]})
    pq.write_table(table, tmp_path / "all.parquet")
    assert load_prompts(str(tmp_path / "all.parquet")).table["prompt_id"].to_pylist() == ids


def test_english_rows_without_ids_are_named_by_their_text_and_other_languages_need_ids(tmp_path: Path) -> None:
    write(tmp_path / "en.json", json.dumps([{"instruction": "One."}, {"instruction": "Two."}]))
    prompts = load_prompts(str(tmp_path))
    ids = prompts.table["prompt_id"].to_pylist()
    assert len(set(ids)) == 2
    assert all(len(key) == 16 for key in ids)
    assert prompts.notes == (f"{tmp_path / 'en.json'}: rows have no id; each is named by a digest of its instruction",)
    write(tmp_path / "en.json", json.dumps([{"instruction": "Two."}]))
    assert load_prompts(str(tmp_path)).table["prompt_id"].to_pylist() == ids[1:], "a name stays with its text"
    write(tmp_path / "es.json", json.dumps([{"instruction": "Uno."}]))
    with pytest.raises(InputError, match=r"en\.json: row 1: field 'id' is missing"):
        load_prompts(str(tmp_path))
    (tmp_path / "es.json").unlink()
    write(tmp_path / "en.json", json.dumps([{"instruction": "One."}, {"instruction": "One."}]))
    with pytest.raises(InputError, match=r"row 2: field 'instruction' is a duplicate of .*row 1"):
        load_prompts(str(tmp_path))


FOLDERS: dict[str, tuple[str, ...]] = {
    "endings": ("en.JSONL", "es.jsonl.gz"),
    "capitals": ("EN.jsonl", "Es.ndjson"),
    "names": ("English.jsonl", "spanish.jsonl"),
    "subfolders": ("en/train.jsonl", "es/train.jsonl"),
    "subfolders with splits": ("en/test.jsonl", "es/test.jsonl", "es/validation.jsonl"),
    "parts": ("en-00000-of-00001.jsonl", "es-00000-of-00001.jsonl"),
    "as the hub has splits": ("data/en-00000-of-00001.jsonl", "data/es-00000-of-00001.jsonl"),
    "beside other things": ("en.jsonl", "es.jsonl", "README.md", ".DS_Store", "._es.jsonl", "LICENSE"),
}


@pytest.mark.parametrize("names", FOLDERS.values(), ids=FOLDERS)
def test_a_folder_names_languages_in_many_ways(tmp_path: Path, names: tuple[str, ...]) -> None:
    for name in names:
        path = write(tmp_path / name, row(1, name) if "json" in name.lower() and name[0] != "." else "x")
        if name.endswith("gz"):
            path.write_bytes(gzip.compress(path.read_bytes()))
    prompts = load_prompts(str(tmp_path))
    assert prompts.table["instruction"].to_pylist() == list(names[:2])
    assert prompts.languages == ("en", "es")
    assert len(prompts.notes) == ("validation" in str(names))


def test_files_that_are_not_read_are_named_and_two_of_a_language_refused(prompt_folder: Path) -> None:
    for name in ("es.txt", "fr.xlsx", "klingon.csv", "old/de.jsonl"):
        write(prompt_folder / name, row("p0"))
    assert load_prompts(str(prompt_folder), ["es"]).notes == (
        f"{prompt_folder}: 'es.txt' is not a file of rows and was left out",
        f"{prompt_folder}: 'fr.xlsx' is not a file of rows and was left out",
        f"{prompt_folder}: 'klingon' names no known language and was left out",
        f"{prompt_folder}: 'old' names no known language and was left out",
    )
    for name in ("es.parquet", "ES.jsonl", "es.jsonl.gz", "es/train.jsonl"):
        write(prompt_folder / name, row("p0"))
        with pytest.raises(InputError, match=r"contains the same language; keep one of the two"):
            load_prompts(str(prompt_folder), ["es"])
        (prompt_folder / name).unlink()


def test_columns_that_all_files_have_in_vain_are_named_once(tmp_path: Path) -> None:
    for code in ("en", "es", "de"):
        write(tmp_path / f"{code}.jsonl", row(1, "x", score=1, **({"tag": 1} if code == "de" else {})))
    assert load_prompts(str(tmp_path)).notes == (
        f"{tmp_path}: columns not used: score",
        f"{tmp_path / 'de.jsonl'}: columns not used: score, tag",
    )


def test_one_file_with_a_language_column_may_be_of_any_format(tmp_path: Path) -> None:
    rows = [{"lang": code, "id": 1, "prompt": f"{code} text"} for code in ("es", "en")]
    write(tmp_path / "all.csv", "lang,id,prompt", *(",".join(map(str, item.values())) for item in rows))
    write(tmp_path / "all.tsv", "lang\tid\tprompt", *("\t".join(map(str, item.values())) for item in rows))
    write(tmp_path / "all.jsonl", *map(json.dumps, rows))
    write(tmp_path / "all.json", json.dumps({"rows": rows}))
    write(tmp_path / "split" / "data" / "train.jsonl", *map(json.dumps, rows))
    datasets.Dataset.from_list(rows).save_to_disk(str(tmp_path / "saved"))
    datasets.DatasetDict({"test": datasets.Dataset.from_list(rows)}).save_to_disk(str(tmp_path / "splits"))
    for name in ("all.csv", "all.tsv", "all.jsonl", "all.json", "split", "saved", "splits"):
        found = load_prompts(str(tmp_path / name))
        assert found.table["instruction"].to_pylist() == ["en text", "es text"], name
        assert found.notes == (), name
    for code in ("en", "es"):
        write(tmp_path / "by" / code / "p.jsonl", row(1, f"{code} text"))
    assert load_prompts(str(tmp_path / "by" / "{language}" / "p.jsonl")).languages == ("en", "es")


def test_a_hub_data_set_is_named_with_configuration_and_split(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"language": code, "id": 7, "instruction": f"{code} text", "extra": 1} for code in ("en", "de")]
    parts = datasets.DatasetDict(
        {"train": datasets.Dataset.from_list(rows), "test": datasets.Dataset.from_list(rows[:1])}
    )
    monkeypatch.setattr(datasets, "get_dataset_config_names", lambda _: ["small", "large"])
    monkeypatch.setattr(datasets, "get_dataset_split_names", lambda *_: ["train", "test"])
    asked = []
    monkeypatch.setattr(datasets, "load_dataset", lambda *names: asked.append(names) or parts)
    prompts = load_prompts("owner/prompts:large")
    assert prompts.languages == ("en", "de")
    assert asked[0] == ("owner/prompts", "large")
    assert prompts.notes[0] == "owner/prompts:large on the hub: 'train' is read; not used: test"
    assert load_prompts("owner/prompts:large:test").languages == ("en",)
    for name, said in {
        "owner/prompts": r"several configurations; choose one, as in owner/prompts:small; found: small, large",
        "owner/prompts:none": r"configuration 'none' is not one of small, large",
        "owner/prompts:large:dev": r"split 'dev' is not one of train, test",
    }.items():
        with pytest.raises(InputError, match=said):
            load_prompts(name)
