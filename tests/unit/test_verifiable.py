"""Files of verifiable instructions as people bring them: what is read, under which key, and what is left out and named."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from icr_platform.core.errors import InputError
from icr_platform.data.constraints import Constraint, constraints_in
from icr_platform.data.prompts import load_prompts
from icr_platform.data.reference_outputs import WANTED, load_reference_outputs
from icr_platform.data.variant_parts import language_and_variant
from icr_platform.data.verifiable import VerifiableSet, constraints_of, load_verifiable
from icr_platform.data.verifiable_answers import open_answers

COMMA, WORDS = "punctuation:no_comma", "length_constraints:number_words"
AT_LEAST_3 = {"relation": "at least", "num_words": 3}
ROW = {
    "key": 1000,
    "prompt": "Hi. No commas, 3 words.",
    "instruction_id_list": [COMMA, WORDS],
    "kwargs": [{}, AT_LEAST_3],
}
BOTH = (Constraint(COMMA, {}), Constraint(WORDS, AT_LEAST_3))
NULLS = {"num_words": None, "relation": None, "keywords": None}


def write(path: Path, rows: list[dict[str, Any]], *lines: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = [*(json.dumps(row, ensure_ascii=False) for row in rows), *lines]
    path.write_text("\n".join(text) + "\n", encoding="utf-8")
    return path


def ids(found: VerifiableSet, language: str) -> list[str]:
    return [prompt.prompt_id for prompt in found.prompts if prompt.language == language]


KINDS_AND_KWARGS: dict[str, tuple[Any, Any, tuple[Constraint, ...]]] = {
    "as published": ([COMMA, WORDS], [{}, AT_LEAST_3], BOTH),
    "nulls": ([COMMA, WORDS], [None, AT_LEAST_3 | {"keywords": None}], BOTH),
    "all keys of all kinds, as in a table": ([COMMA, WORDS], [NULLS, NULLS | AT_LEAST_3], BOTH),
    "not a number, as pandas has it": ([COMMA], [{"num_words": float("nan")}], BOTH[:1]),
    "whole numbers that are floats": ([WORDS], [AT_LEAST_3 | {"num_words": 3.0}], BOTH[1:]),
    "a list of JSON texts": ([COMMA, WORDS], ["{}", json.dumps(AT_LEAST_3)], BOTH),
    "JSON of a list of JSON texts": (json.dumps([COMMA, WORDS]), json.dumps(["{}", json.dumps(AT_LEAST_3)]), BOTH),
    "JSON of a list": (json.dumps([COMMA, WORDS]), json.dumps([{}, AT_LEAST_3]), BOTH),
    "Python as pandas writes it": (f"['{COMMA}', '{WORDS}']", str([{}, AT_LEAST_3 | {"keywords": None}]), BOTH),
    "a struct of lists": ([COMMA, WORDS], {name: [None, value] for name, value in AT_LEAST_3.items()}, BOTH),
    "one kind as a text": (COMMA, None, BOTH[:1]),
    "kinds with commas": (f"{COMMA}, {WORDS}", [{}, AT_LEAST_3], BOTH),
    "one mapping for one kind": ([WORDS], AT_LEAST_3, BOTH[1:]),
    "no kwargs": ([COMMA], None, BOTH[:1]),
    "a text that says nothing": ([COMMA], "None", BOTH[:1]),
    "the same kind twice": ([COMMA, COMMA], [{}, {}], (BOTH[0], BOTH[0])),
    "nothing": ([], [], ()),
    "null": (None, None, ()),
    "lists within": (["keywords:existence"], [{"keywords": ["a", "b"]}], (Constraint("keywords:existence", {"keywords": ["a", "b"]}),)),
}  # fmt: skip


@pytest.mark.parametrize("name", KINDS_AND_KWARGS)
def test_kinds_and_kwargs_in_every_layout(name: str) -> None:
    kinds, kwargs, wanted = KINDS_AND_KWARGS[name]
    fields = {"instruction_id_list": kinds, "kwargs": kwargs}
    assert constraints_in({name: value for name, value in fields.items() if value is not None}) == wanted


@pytest.mark.parametrize(
    ("kinds", "kwargs", "fault"),
    [
        ([COMMA], [{}, AT_LEAST_3], "the row has 1 instructions and 2 kwargs"),
        ([COMMA, WORDS], [AT_LEAST_3], "the row has 2 instructions and 1 kwargs"),
        ([COMMA, WORDS], [], "the row has 2 instructions and 0 kwargs"),
        ([WORDS], ["at least 3"], "its kwargs are 'at least 3', not an object"),
        ([WORDS], [[3]], r"its kwargs are [3], not an object"),
        (
            [WORDS],
            [{"a": ["\ud800"]}],
            "its kwargs: a text contains half a surrogate pair, which is not Unicode text; fix it",
        ),
        ([WORDS], ["{num_words"], "its kwargs '{num_words' begins as JSON and is not; correct it"),
    ],
)
def test_what_cannot_be_told_is_a_fault_of_the_row_and_not_of_an_answer(kinds: Any, kwargs: Any, fault: str) -> None:
    found = constraints_in({"instruction_id_list": kinds, "kwargs": kwargs})
    assert [(constraint.kind, constraint.fault) for constraint in found] == [(kind, fault) for kind in kinds]


@pytest.mark.parametrize(
    "truth",
    [
        [{"instruction_id": [COMMA, WORDS], "kwargs": [None, AT_LEAST_3]}],
        str([{"instruction_id": [COMMA, WORDS], "kwargs": [None, AT_LEAST_3]}]),
        json.dumps({"instruction_id": [COMMA, WORDS], "kwargs": [{}, AT_LEAST_3]}),
        [{"instruction_id": COMMA, "kwargs": {}}, {"instruction_id": WORDS, "kwargs": AT_LEAST_3}],
    ],
)
def test_training_prompts_of_open_instruct_say_it_in_their_ground_truth(truth: Any) -> None:
    assert constraints_in({"ground_truth": truth}) == BOTH
    assert constraints_in({"ground_truth": "72"}) == (), "the right answer to a question of mathematics"


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("en", ("en", "")), ("ar_local", ("ar", "local")), ("es_mt", ("es", "mt")), ("zh-mt", ("zh", "mt")), ("mt", ("mt", "")),
        ("mt_mt", ("mt", "mt")), ("en_MT", ("en_MT", "")), ("pt_BR", ("pt_BR", "")), ("pt_BR_local", ("pt_BR", "local")),
        ("zh-Hant", ("zh-Hant", "")), ("swh_Latn.mt", ("swh_Latn", "mt")), ("ja_gpt4", ("ja", "gpt4")), ("de_translated", ("de", "translated")),
        ("es_local_v2", ("es", "local_v2")), ("ifeval_fr", ("fr", "ifeval")), ("es_input_data", ("es", "input_data")),
        ("Spanish", ("es", "")), ("Hindi_local", ("hi", "local")), ("train", None), ("README", None), ("input_data", None),
    ],
)  # fmt: skip
def test_names_of_files_say_language_and_variant(name: str, wanted: tuple[str, str] | None) -> None:
    assert language_and_variant(name) == wanted


def test_variants_of_a_language_are_sources_of_their_own_and_hide_nothing(tmp_path: Path) -> None:
    english = write(tmp_path / "en.jsonl", [ROW, ROW | {"key": 1001, "prompt": "Two."}])
    for name in ("ar_local", "es_local", "es_mt"):
        write(tmp_path / f"{name}.jsonl", [ROW | {"prompt": name}])
    found = load_verifiable(str(english.parent))
    assert found.languages == ("en", "ar", "es")
    assert [(prompt.language, prompt.prompt_id, prompt.source, prompt.turns[0].text) for prompt in found.prompts[2:]] == [
        ("ar", "1000", "local", "ar_local"), ("es", "1000@local", "local", "es_local"), ("es", "1000@mt", "mt", "es_mt"),
    ]  # fmt: skip
    assert {prompt.english.instruction for prompt in found.prompts if prompt.english and prompt.language != "en"} == {
        ROW["prompt"]
    }
    said = "\n".join(found.notes)
    assert "'ar_local' is 'ar' (local)" in said
    assert "'es_local' and 'es_mt' are all 'es': each is a source of its own, and ids end in @local and @mt" in said
    assert "es_mt.jsonl: 1 of 2 English prompts have no row here" in said
    one = load_verifiable(str(tmp_path / "{language}_mt.jsonl"))
    assert (one.languages, ids(one, "es")) == (("es",), ["1000"])
    assert ids(load_verifiable(str(tmp_path), ["es"]), "es") == ["1000@local", "1000@mt"]
    assert load_verifiable(str(tmp_path / "es_mt.jsonl")).languages == ("es",)
    table = found.table.to_pylist()
    assert (table[3]["prompt_id"], table[3]["english_instruction"], table[3]["source"]) == (
        "1000@local",
        ROW["prompt"],
        "local",
    )


def test_a_row_that_cannot_be_used_is_counted_and_named_and_the_others_go_on(tmp_path: Path) -> None:
    rows = [ROW | {"key": key} for key in range(12)]
    rows[2]["prompt"] = " "
    rows[3] |= {"instruction_id_list": [], "kwargs": []}
    rows[4] |= {"instruction_id_list": 7}
    rows[5]["key"] = 1
    rows[6]["key"] = [1]
    write(tmp_path / "en.jsonl", rows, '{"key": 12, "prompt": "a "b""}', "null")
    found = load_verifiable(str(tmp_path))
    assert ids(found, "en") == ["0", "1", "7", "8", "9", "10", "11"]
    assert [(row["prompt_id"], row["reason"]) for row in found.left_out] == [
        ("2", "unusable"), ("3", "no-instructions"), ("4", "unusable"), ("1", "duplicate"), ("row 7", "unusable"),
        ("row 13", "unreadable"), ("row 14", "unreadable"),
    ]  # fmt: skip
    [note] = [note for note in found.notes if "left out" in note]
    assert "7 of 14 rows were left out (3 unusable, 1 no-instructions, 1 duplicate, 2 unreadable)" in note
    assert f"{tmp_path}/en.jsonl: row 3: field 'prompt' is empty" in note
    details = [row["detail"] for row in found.left_out]
    assert "row 6: key '1' is that of" in details[3]
    assert "row 13 is not valid JSON" in details[5]


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([{"id": 1, "instruction": "Hi"}], r"row 1: has no instruction to check; add instruction_id_list and kwargs; found: id, instruction; 1 of 1 rows cannot be used"),
        ([ROW, {"key": 1}, {"key": 2}], r"row 2: field 'instruction' is missing; .* 2 of 3 rows cannot be used"),
        ([], r"en\.jsonl: empty prompt set"),
    ],
)  # fmt: skip
def test_a_file_of_which_little_is_left_is_refused(rows: list[dict[str, Any]], said: str, tmp_path: Path) -> None:
    write(tmp_path / "en.jsonl", rows)
    with pytest.raises(InputError, match=said) as raised:
        load_verifiable(str(tmp_path))
    assert "\n" not in str(raised.value)


MULTI_IF = {
    "key": "1:en", "language": "English",
    "turn_1_prompt": json.dumps({"role": "user", "content": "Say hi."}),
    "turn_1_instruction_id_list": json.dumps([COMMA]), "turn_1_kwargs": json.dumps(["{}"]),
    "turn_2_prompt": json.dumps({"role": "user", "content": "Longer."}),
    "turn_2_instruction_id_list": json.dumps([COMMA, WORDS]), "turn_2_kwargs": json.dumps(["{}", json.dumps(AT_LEAST_3)]),
    "turn_3_prompt": json.dumps({"role": "user", "content": "Again."}),
    "turn_3_instruction_id_list": json.dumps([COMMA, WORDS]), "turn_3_kwargs": json.dumps(["{}", json.dumps(AT_LEAST_3)]),
}  # fmt: skip


@pytest.mark.parametrize("form", ["jsonl", "csv", "parquet"])
def test_multi_if_has_three_turns_whose_instructions_accumulate(form: str, tmp_path: Path) -> None:
    hindi = MULTI_IF | {
        "key": "2:hi",
        "language": "Hindi",
        "turn_3_prompt": "None",
        "turn_3_instruction_id_list": None,
        "turn_3_kwargs": "",
    }
    path = tmp_path / f"multi_if.{form}"
    rows: list[dict[str, Any]] = [MULTI_IF, hindi]
    if form == "csv":
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(MULTI_IF))
            writer.writeheader()
            writer.writerows(rows)
    elif form == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        write(path, rows)
    found = load_verifiable(str(path))
    assert found.languages == ("en", "hi")
    english, other = found.prompts
    assert [(turn.text, turn.constraints) for turn in english.turns] == [
        ("Say hi.", BOTH[:1]), ("Longer.", BOTH), ("Again.", BOTH),
    ]  # fmt: skip
    assert (other.prompt_id, [turn.text for turn in other.turns], other.english) == (
        "2:hi",
        ["Say hi.", "Longer."],
        None,
    )
    assert not found.left_out
    assert not any("not used" in note for note in found.notes)


def test_turns_that_are_missing_in_between_are_a_row_left_out(tmp_path: Path) -> None:
    gap = MULTI_IF | {"key": "2", "turn_2_prompt": None}
    absent = {name: value for name, value in MULTI_IF.items() if not name.startswith("turn_2")} | {"key": "3"}
    rows: list[dict[str, Any]] = [MULTI_IF, gap, absent, MULTI_IF | {"key": "4"}]
    found = load_verifiable(str(write(tmp_path / "a.jsonl", rows)))
    assert [row["prompt_id"] for row in found.left_out] == ["2", "3"]
    assert all("turn_3_prompt is there without the turns before it" in str(row["detail"]) for row in found.left_out)


@pytest.mark.parametrize(
    "text", ["[Title] Write on.", "{x} is a set. Why?", "[1, 2] is a list.", '{"a": 1} is JSON.', '{"a": 1}', "[]"]
)
def test_a_turn_may_begin_with_a_bracket(text: str, tmp_path: Path) -> None:
    found = load_verifiable(str(write(tmp_path / "a.jsonl", [MULTI_IF | {"turn_1_prompt": text}])))
    assert found.prompts[0].turns[0].text == text


def a_folder(folder: Path) -> str:
    write(folder / "en.jsonl", [ROW])
    return str(folder)


def a_file_without_a_language(folder: Path) -> str:
    return str(write(folder / "input_data.jsonl", [ROW]))


def a_parquet_table_with_all_keys(folder: Path) -> str:
    (folder / "data").mkdir()
    row = ROW | {"kwargs": [NULLS, NULLS | AT_LEAST_3]}
    pq.write_table(pa.Table.from_pylist([row]), folder / "data" / "train-00000-of-00001.parquet")
    return str(folder)


def a_packed_array(folder: Path) -> str:
    (folder / "en.json").write_text(json.dumps([ROW]), encoding="utf-8")
    return str(folder)


def a_column_of_languages(folder: Path) -> str:
    return str(write(folder / "all.jsonl", [ROW | {"language": "eng_Latn"}]))


@pytest.mark.parametrize(
    "place", [a_folder, a_file_without_a_language, a_parquet_table_with_all_keys, a_packed_array, a_column_of_languages]
)
def test_ifeval_lies_in_many_places(place: Callable[[Path], str], tmp_path: Path) -> None:
    found = load_verifiable(place(tmp_path), ["en"])
    [prompt] = found.prompts
    assert (prompt.key, prompt.turns[0].constraints, prompt.asked.instruction) == (("en", "1000"), BOTH, ROW["prompt"])
    assert not found.left_out


def test_a_file_that_names_no_language_is_english_unless_one_is_asked_for(tmp_path: Path) -> None:
    path = a_file_without_a_language(tmp_path)
    found = load_verifiable(path)
    assert found.languages == ("en",)
    assert any("nothing says its language; read as 'en'" in note for note in found.notes)
    assert load_verifiable(path, ["sw"]).languages == ("sw",)
    with pytest.raises(InputError, match="nothing says which rows are in which of en, sw; add a column 'language'"):
        load_verifiable(path, ["en", "sw"])


def test_columns_by_other_names_are_read_by_a_map(tmp_path: Path) -> None:
    row = {"meta": {"n": 5}, "question_text": "Hi.", "checks": {"ids": [COMMA], "args": [{}]}}
    path = str(write(tmp_path / "en.jsonl", [row]))
    columns = {
        "id": "meta.n",
        "instruction": "question_text",
        "instruction_id_list": "checks.ids",
        "kwargs": "checks.args",
    }
    [prompt] = load_verifiable(path, columns=columns).prompts
    assert (prompt.prompt_id, prompt.turns[0].constraints) == ("5", BOTH[:1])
    with pytest.raises(
        InputError,
        match="the column map names 'kwarg', which prompts with instructions do not have; nearest is 'kwargs'",
    ):
        load_verifiable(path, columns={"kwarg": "checks.args"})


def test_a_limit_keeps_the_same_keys_in_every_language(tmp_path: Path) -> None:
    write(tmp_path / "en.jsonl", [ROW | {"key": key} for key in (3, 1, 2)])
    write(tmp_path / "es.jsonl", [ROW | {"key": key} for key in (1, 2, 3)])
    write(tmp_path / "hi.jsonl", [ROW | {"key": key} for key in ("x", "y", "z")])
    found = load_verifiable(str(tmp_path), limit=2)
    assert (ids(found, "en"), ids(found, "es"), ids(found, "hi")) == (["3", "1"], ["1", "3"], ["x", "y"])
    assert ids(load_verifiable(str(tmp_path), ["es"], limit=2), "es") == ["1", "3"], (
        "also where English is not asked for"
    )


@pytest.mark.parametrize(
    ("languages", "said"),
    [(["fr"], "language 'fr' is missing; found: en"), (["en", "xx"], "unknown language code 'xx'")],
)
def test_a_language_that_is_not_there_is_named(languages: list[str], said: str, tmp_path: Path) -> None:
    write(tmp_path / "en.jsonl", [ROW])
    with pytest.raises(InputError, match=said):
        load_verifiable(str(tmp_path), languages)


def test_rows_without_ids_are_named_by_their_text(tmp_path: Path) -> None:
    rows = [{name: value for name, value in ROW.items() if name != "key"}, {**ROW, "key": None, "prompt": "Other."}]
    found = load_verifiable(str(write(tmp_path / "en.jsonl", rows)))
    assert len({prompt.prompt_id for prompt in found.prompts}) == 2
    assert any("each is named by a digest of its prompt" in note for note in found.notes)


def test_training_prompts_have_the_keys_of_the_prompts_reader_and_miss_no_column(tmp_path: Path) -> None:
    write(
        tmp_path / "en.jsonl",
        [{"id": 1, "instruction": "A", "instruction_id_list": [COMMA], "kwargs": [{}]}, {"id": 2, "instruction": "B"}],
    )
    write(
        tmp_path / "es.jsonl",
        [{"id": 1, "instruction": "C", "instruction_id_list": COMMA, "kwargs": "[{}]"}, {"id": 2, "instruction": "D"}],
    )
    prompts = load_prompts(str(tmp_path))
    assert not any("not used" in note for note in prompts.notes)
    assert constraints_of(str(tmp_path), prompts.languages) == {("en", "1"): BOTH[:1], ("es", "1"): BOTH[:1]}
    mapped = load_prompts(str(tmp_path), columns={"instruction_id_list": "instruction_id_list"})
    assert len(mapped.table) == 4


def answers(
    path: Path, asked: VerifiableSet, columns: dict[str, str | None] | None = None
) -> dict[tuple[str, str], str]:
    texts: dict[str, dict[str, str]] = {language: {} for language in asked.languages}
    for prompt in asked.prompts:
        for number, turn in enumerate(prompt.turns, 1):
            texts[prompt.language][prompt.prompt_id if number == 1 else f"{prompt.prompt_id}#{number}"] = turn.text
    opened = open_answers(str(path), asked, WANTED, columns or {})
    found = load_reference_outputs(str(path), texts, may_be_empty=True, opened=opened)
    return {key: text for key, (text,) in found.outputs.items()}


@pytest.mark.parametrize(
    ("row", "wanted"),
    [
        ({"turn_1_response": "a", "turn_2_response": "b", "turn_3_response": "c"}, ["a", "b", "c"]),
        ({"turn_1_output": "a", "turn_2_output": "b", "turn_3_output": None}, ["a", "b"]),
        ({"responses": ["a", "b", "c"]}, ["a", "b", "c"]),
        ({"outputs": ["a", "<think>hm</think>b"]}, ["a", "b"]),
        (MULTI_IF | {"turn_1_response": "a", "turn_2_response": "b"}, ["a", "b"]),
        ({"response": "a"}, ["a"]),
    ],
)
def test_answers_to_several_turns(row: dict[str, Any], wanted: list[str], tmp_path: Path) -> None:
    asked = load_verifiable(str(write(tmp_path / "p" / "a.jsonl", [MULTI_IF])))
    path = write(tmp_path / "en.jsonl", [{**row, "key": "1:en"}])
    assert list(answers(path, asked).values()) == wanted


def test_a_plain_file_beside_a_variant_has_answers_of_its_own(tmp_path: Path) -> None:
    for name in ("es", "es_mt"):
        write(tmp_path / "p" / f"{name}.jsonl", [ROW | {"prompt": name}])
        write(tmp_path / "o" / f"{name}.jsonl", [{"key": 1000, "response": f"to {name}"}])
    asked = load_verifiable(str(tmp_path / "p"))
    assert answers(tmp_path / "o", asked) == {("es", "1000"): "to es", ("es", "1000@mt"): "to es_mt"}


@pytest.mark.parametrize("column", ["instruction", "prompt", "messages", "conversations"])
def test_what_asks_may_be_a_conversation_with_a_system_text(column: str, tmp_path: Path) -> None:
    is_list = column in ("messages", "conversations")
    text: Any = [{"role": "user", "content": "Hi."}] if is_list else "Hi."
    row = {"key": 1, column: text, "system": "Be kind.", "instruction_id_list": [COMMA], "colour": "red"}
    found = load_verifiable(str(write(tmp_path / "en.jsonl", [row])))
    [prompt] = found.prompts
    assert (prompt.turns[0].text, prompt.history) == ("Hi.", (("system", "Be kind."),))
    assert [note.partition(": ")[2] for note in found.notes] == [
        "1 rows have a system text, which is a message of its own before the instruction",
        "columns not used: colour",
    ]


def test_answers_of_variants_join_by_their_files_and_by_their_ids(tmp_path: Path) -> None:
    for name in ("es_local", "es_mt", "ar_local"):
        write(tmp_path / "p" / f"{name}.jsonl", [ROW | {"prompt": name}])
        write(tmp_path / "o" / f"{name}.jsonl", [{"key": 1000, "response": f"to {name}"}])
    asked = load_verifiable(str(tmp_path / "p"))
    wanted = {("ar", "1000"): "to ar_local", ("es", "1000@local"): "to es_local", ("es", "1000@mt"): "to es_mt"}
    assert answers(tmp_path / "o", asked) == wanted
    rows = [{"language": code, "id": key, "output": text} for (code, key), text in wanted.items()]
    assert answers(write(tmp_path / "all.jsonl", rows), asked) == wanted
    by_text = [
        {"language": code, "prompt": f"{code}_{key.partition('@')[2] or 'local'}", "output": text}
        for (code, key), text in wanted.items()
    ]
    assert answers(write(tmp_path / "texts.jsonl", by_text), asked) == wanted


def test_more_answers_than_turns_are_refused(tmp_path: Path) -> None:
    asked = load_verifiable(str(write(tmp_path / "p" / "en.jsonl", [ROW])))
    path = write(tmp_path / "en.jsonl", [{"key": 1000, "responses": ["a", "b"]}])
    with pytest.raises(
        InputError, match="row 1: answers turn 2 of '1000', which has fewer; give one answer to each turn"
    ):
        answers(path, asked)


def test_the_real_files_of_marco_bench_are_read_wholly(shared_data: Path) -> None:
    folder = shared_data / "mif"
    found = load_verifiable(str(folder))
    assert found.languages == ("en", "ar", "bn", "de", "es", "fr", "ru", "sw", "th", "zh")
    counts = {language: len(ids(found, language)) for language in found.languages}
    assert counts == dict.fromkeys(found.languages, 541) | {"es": 2 * 541, "zh": 2 * 541 - 1}
    assert [(row["language"], row["prompt_id"], row["reason"]) for row in found.left_out] == [
        ("zh", "row 15", "unreadable")
    ]
    assert len({prompt.key for prompt in found.prompts}) == len(found.prompts)
    assert all(prompt.english is not None for prompt in found.prompts)
    faults = [prompt.prompt_id for prompt in found.prompts for item in prompt.turns[0].constraints if item.fault]
    assert sorted(faults) == ["1127@mt", "2380@local", "2380@local"]
    kinds = {item.kind for prompt in found.prompts for item in prompt.turns[0].constraints}
    assert len(kinds) == 25
