"""translate on files and artifacts of every kind: what comes out for what comes in, what is lost and why, and how often anyone is asked."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from icr_platform.core.artifacts import ArtifactWriter, open_artifact
from icr_platform.core.earlier import Earlier, Source
from icr_platform.core.errors import IcrError, InputError
from icr_platform.core.schemas import (
    DROPS,
    OUTPUTS,
    PREFERENCES,
    PROMPTS,
    RESPONSES,
    TEXT_TRANSLATIONS,
    TRANSLATED_RESPONSES,
    TableSchema,
)
from icr_platform.core.stage_protocol import StageContext, StageResult
from icr_platform.data.prompts import load_prompts
from icr_platform.pipeline.identity import identify
from icr_platform.translation import stage
from icr_platform.translation.config import TranslateConfig
from icr_platform.translation.texts import read_texts
from tests.support import own_translators

OWN = "tests.support.own_translators:tagging"
IDENTIFIER = "tests.support.own_translators:tags"
LONG = "Please write a sentence about the sea."


@pytest.fixture(autouse=True)
def asked() -> Iterator[list[tuple[str, str, str]]]:
    """What the translator was asked for."""
    own_translators.ASKED.clear()
    own_translators.LIMIT.clear()
    yield own_translators.ASKED
    own_translators.LIMIT.clear()


def write_lines(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def write_table(folder: Path, table: TableSchema, rows: Sequence[dict[str, Any]]) -> Path:
    """An artifact of rows in which every column that is not said has a value of its kind."""
    nothing: dict[Any, Any] = {pa.string(): "", pa.int32(): 0, pa.float64(): 0.0, pa.list_(pa.int32()): [1]}
    filled = [
        {field.name: row.get(field.name, None if field.nullable else nothing[field.type]) for field in table.schema}
        for row in rows
    ]
    writer = ArtifactWriter(folder, table, "made by hand")
    writer.write_part(0, pa.Table.from_pylist(filled, schema=table.schema))
    writer.close(1)
    return folder


def config_of(texts: Path, tmp_path: Path, **over: Any) -> TranslateConfig:
    given = {"texts": str(texts), "translator": OWN, "language_identifier": IDENTIFIER, "shard_prompts": 3}
    return TranslateConfig.model_validate(given | over)


def run(config: TranslateConfig, folder: Path, earlier: Earlier | None = None) -> StageResult:
    context = StageContext(folder, "fingerprint", lambda *_: None, earlier or Earlier())
    return stage.run(stage.read(config), context)


def rows_of(result: StageResult, table: TableSchema, name: str = "translated") -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = open_artifact(result.artifacts[name], table).read().to_pylist()
    return found


# -- prompts --------------------------------------------------------------------------------------------------------------------------

# (what it is, files by language, into, (language, id) -> instruction that comes out)
PROMPT_SETS: list[tuple[str, dict[str, list[dict[str, Any]]], str, dict[tuple[str, str], str]]] = [
    ("English into one language", {"en": [{"id": "a", "instruction": LONG}]}, "es",
     {("en", "a"): LONG, ("es", "a"): f"es: {LONG}"}),
    ("a row that is there is kept", {"en": [{"id": "a", "instruction": LONG}, {"id": "b", "instruction": "Say hi."}],
                                      "es": [{"id": "b", "instruction": "Di hola."}]}, "es",
     {("en", "a"): LONG, ("en", "b"): "Say hi.", ("es", "a"): f"es: {LONG}", ("es", "b"): "Di hola."}),
    ("two targets", {"en": [{"id": "a", "instruction": LONG}]}, "es,de",
     {("en", "a"): LONG, ("es", "a"): f"es: {LONG}", ("de", "a"): f"de: {LONG}"}),
    ("no English: into English", {"es": [{"id": "a", "instruction": "Di hola, por favor, amigo mío."}]}, "en",
     {("es", "a"): "Di hola, por favor, amigo mío.", ("en", "a"): "en: Di hola, por favor, amigo mío."}),
    ("no English: between others", {"es": [{"id": "a", "instruction": "Di hola, por favor, amigo mío."}]}, "de",
     {("es", "a"): "Di hola, por favor, amigo mío.", ("de", "a"): "de: Di hola, por favor, amigo mío."}),
    ("English is what is translated, not Spanish",
     {"en": [{"id": "a", "instruction": LONG}], "es": [{"id": "a", "instruction": "Di hola."}]}, "de",
     {("en", "a"): LONG, ("es", "a"): "Di hola.", ("de", "a"): f"de: {LONG}"}),
    ("a text without letters stands for itself", {"en": [{"id": "a", "instruction": "2 + 2 = ?"}]}, "es",
     {("en", "a"): "2 + 2 = ?", ("es", "a"): "2 + 2 = ?"}),
    ("white space and code are the translator's", {"en": [{"id": "a", "instruction": "  Run:\n```\nx = {y}\n```\n"}]}, "es",
     {("en", "a"): "  Run:\n```\nx = {y}\n```\n", ("es", "a"): "es:   Run:\n```\nx = {y}\n```\n"}),
    ("other tags", {"eng_Latn": [{"id": "a", "instruction": LONG}]}, "es",
     {("eng_Latn", "a"): LONG, ("es", "a"): f"es: {LONG}"}),
]  # fmt: skip


@pytest.mark.parametrize(
    ("files", "into", "right"), [row[1:] for row in PROMPT_SETS], ids=[row[0] for row in PROMPT_SETS]
)
def test_prompts_become_prompts(
    files: dict[str, list[dict[str, Any]]], into: str, right: dict[tuple[str, str], str], tmp_path: Path
) -> None:
    for language, rows in files.items():
        write_lines(tmp_path / "prompts" / f"{language}.jsonl", rows)
    result = run(config_of(tmp_path / "prompts", tmp_path, into=into), tmp_path / "out")
    found = {(row["language"], row["prompt_id"]): row["instruction"] for row in rows_of(result, PROMPTS)}
    assert found == right
    again = load_prompts(str(result.artifacts["translated"])).table.to_pylist()  # as the next stage reads them
    assert {(row["language"], row["prompt_id"]): row["instruction"] for row in again} == right


def test_a_conversation_is_translated_message_by_message(tmp_path: Path, asked: list[tuple[str, str, str]]) -> None:
    messages = [
        {"role": "system", "content": "Be brief, please, and kind."},
        {"role": "user", "content": LONG},
        {"role": "assistant", "content": "The sea is wide and blue."},
        {"role": "user", "content": LONG},
    ]
    write_lines(tmp_path / "prompts" / "en.jsonl", [{"id": "a", "messages": messages}])
    result = run(config_of(tmp_path / "prompts", tmp_path, into="es"), tmp_path / "out")
    spanish = next(row for row in rows_of(result, PROMPTS) if row["language"] == "es")
    assert json.loads(spanish["messages"]) == [each | {"content": f"es: {each['content']}"} for each in messages]
    assert spanish["instruction"] == f"es: {LONG}"
    assert json.loads(spanish["english_messages"]) == messages
    assert len(asked) == 3  # the user's two turns say the same


def test_what_is_lost_has_a_row_with_its_reason_and_the_rest_adds_up(tmp_path: Path) -> None:
    said = {
        "a": LONG,
        "b": "This one gets lost on its way.",
        "c": "Answer this in English, please.",
        "d": "This becomes empty.",
    }
    write_lines(tmp_path / "prompts" / "en.jsonl", [{"id": key, "instruction": text} for key, text in said.items()])
    result = run(config_of(tmp_path / "prompts", tmp_path, into="es,de"), tmp_path / "out")
    drops = rows_of(result, DROPS, "translation_drops")
    for language in ("es", "de"):
        lost = {row["prompt_id"]: row["reason"] for row in drops if row["language"] == language}
        assert lost == {"b": "untranslatable", "c": "wrong-language", "d": "empty"}
        assert [row["prompt_id"] for row in rows_of(result, PROMPTS) if row["language"] == language] == ["a"]
        assert result.metrics[f"translated/{language}"] == 1
        assert result.metrics[f"untranslated/wrong-language/{language}"] == 25.0
    assert any("en with confidence 0.99" in row["detail"] for row in drops)
    assert any("es: 1 of 4 rows are not translated (wrong-language)" in note for note in result.notes)


def test_prompts_whose_english_could_not_be_made_leave_the_set(tmp_path: Path) -> None:
    rows = [{"id": "a", "instruction": "Di hola, por favor."}, {"id": "b", "instruction": "Esto se pierde: lost."}]
    write_lines(tmp_path / "prompts" / "es.jsonl", rows)
    result = run(config_of(tmp_path / "prompts", tmp_path, into="en"), tmp_path / "out")
    assert {(row["language"], row["prompt_id"]) for row in rows_of(result, PROMPTS)} == {("es", "a"), ("en", "a")}
    lost = {(row["language"], row["prompt_id"]): row["reason"] for row in rows_of(result, DROPS, "translation_drops")}
    assert lost == {("en", "b"): "untranslatable", ("es", "b"): "no-english"}
    assert load_prompts(str(result.artifacts["translated"])).table.num_rows == 2


# -- preferences, outputs, responses --------------------------------------------------------------------------------------------------


def test_preferences_become_preferences_that_training_tokenises(
    tmp_path: Path, asked: list[tuple[str, str, str]]
) -> None:
    rows = [
        {"prompt": LONG, "chosen": "The sea is wide and blue.", "rejected": "No, I will not do that."},
        {"prompt": LONG, "chosen": "The sea is deep, they say.", "rejected": "No, I will not do that."},
        {"prompt": "Another prompt, which is lost.", "chosen": "Yes, of course I do.", "rejected": "No, I do not."},
    ]
    path = write_lines(tmp_path / "pairs.jsonl", rows)
    result = run(config_of(path, tmp_path, into="en,es"), tmp_path / "out")
    found = rows_of(result, PREFERENCES)
    assert Counter(row["language"] for row in found) == {"en": 3, "es": 2}
    spanish = [row for row in found if row["language"] == "es"]
    for row, given in zip(spanish, rows, strict=False):
        assert (row["instruction"], row["chosen"], row["rejected"]) == tuple(f"es: {text}" for text in given.values())
        assert row["english_instruction"] == given["prompt"]
        assert (row["chosen_token_ids"], row["chosen_translated_from"]) == (None, "en")
        assert row["chosen_characters"] == len(row["chosen"])
    assert [row["reason"] for row in rows_of(result, DROPS, "translation_drops")] == ["untranslatable"]
    assert len(asked) == len(set(asked)) == 7  # three texts, and two that the second pair adds, and two of the third


def test_pairs_of_files_in_two_languages_are_not_taken_for_each_others(tmp_path: Path) -> None:
    for language, text in (("en", LONG), ("es", "Escribe una frase sobre el mar.")):
        row = {"prompt": text, "chosen": f"{text} Yes, so it is.", "rejected": f"{text} No, it is not."}
        write_lines(tmp_path / "pairs" / f"{language}.jsonl", [row])
    result = run(config_of(tmp_path / "pairs", tmp_path, into="en,es"), tmp_path / "out")
    found = Counter((row["language"], row["instruction"].split()[-1]) for row in rows_of(result, PREFERENCES))
    assert found == {("en", "sea."): 1, ("es", "mar."): 1, ("en", "mar."): 1, ("es", "sea."): 1}


def test_several_pairs_of_one_prompt_all_come_through(tmp_path: Path) -> None:
    rows = [
        {"language": "en", "prompt_id": "a", "instruction": LONG, "chosen": f"Chosen number {n}.", "rejected": f"Rejected number {n}.",
         "pair_index": n}
        for n in range(3)
    ]  # fmt: skip
    folder = write_table(tmp_path / "preferences", PREFERENCES, rows)
    result = run(config_of(folder, tmp_path, into="es"), tmp_path / "out")
    assert [row["chosen"] for row in rows_of(result, PREFERENCES)] == [f"es: Chosen number {n}." for n in range(3)]
    assert any("3 rows in other languages than those of --into" in note for note in result.notes)


def test_outputs_become_outputs_with_their_instructions(tmp_path: Path) -> None:
    write_lines(
        tmp_path / "prompts" / "en.jsonl",
        [{"id": "a", "instruction": LONG}, {"id": "b", "instruction": "Say hi to me, please."}],
    )
    write_lines(
        tmp_path / "outputs" / "en.json",
        [{"id": "a", "output": "The sea is wide."}, {"id": "b", "output": "Hi, my friend!"}],
    )
    files = config_of(tmp_path / "outputs", tmp_path, into="es", prompts=str(tmp_path / "prompts"))
    found = rows_of(run(files, tmp_path / "out"), OUTPUTS)
    assert [(row["instruction"], row["output"]) for row in found] == [
        (f"es: {LONG}", "es: The sea is wide."),
        ("es: Say hi to me, please.", "es: Hi, my friend!"),
    ]
    rows = [
        {"language": "en", "prompt_id": "a", "sample_index": n, "instruction": LONG, "output": f"Number {n} of it."}
        for n in (0, 1)
    ]
    folder = write_table(tmp_path / "artifact", OUTPUTS, rows)
    found = rows_of(run(config_of(folder, tmp_path, into="es"), tmp_path / "again"), OUTPUTS)
    assert [(row["sample_index"], row["output"]) for row in found] == [
        (0, "es: Number 0 of it."),
        (1, "es: Number 1 of it."),
    ]


def responses_of(tmp_path: Path) -> Path:
    rows = []
    for language, texts in {
        "en": ["", "An answer in English.", "Cut off here, so that"],
        "es": ["Una respuesta larga.", "Otra más, también larga."],
    }.items():
        for index, text in enumerate(texts):
            rows.append(
                {"language": language, "prompt_id": "a", "sample_index": index, "response": text, "detected_language": language,
                 "finish_reason": "length" if text.startswith("Cut") else "stop", "token_count": len(text), "language_confidence": 0.9}
            )  # fmt: skip
    return write_table(tmp_path / "responses", RESPONSES, rows)


@pytest.mark.parametrize(
    ("each", "right"),
    [
        # The second English sample is the first that is neither empty nor cut off; "English" comes back as English.
        (1, [("en", "es", 0)]),
        (2, [("en", "es", 0), ("en", "es", 1)]),
        (None, [("en", "es", 0), ("en", "es", 1), ("es", "en", 0), ("es", "en", 2)]),
    ],
)
def test_responses_go_through_english(each: int | None, right: list[tuple[str, str, int]], tmp_path: Path) -> None:
    config = config_of(responses_of(tmp_path), tmp_path, responses_each=each)
    result = run(config, tmp_path / "out")
    found = sorted(
        (row["language"], row["source_language"], row["sample_index"]) for row in rows_of(result, TRANSLATED_RESPONSES)
    )
    assert found == right
    drops = rows_of(result, DROPS, "translation_drops")
    assert [(row["language"], row["sample_index"], row["reason"]) for row in drops] == [("es", 1, "wrong-language")]
    assert any("responses are not translated: responses_each" in note for note in result.notes) == (each is not None)


# -- asked once, resumed, found again -------------------------------------------------------------------------------------------------


def test_a_killed_translation_goes_on_where_it_stopped(tmp_path: Path, asked: list[tuple[str, str, str]]) -> None:
    rows = [{"id": str(n), "instruction": f"Sentence number {n % 10} of many."} for n in range(20)]
    write_lines(tmp_path / "prompts" / "en.jsonl", rows)
    config = config_of(tmp_path / "prompts", tmp_path, into="es")
    own_translators.LIMIT.append(7)
    with pytest.raises(RuntimeError, match="broke down"):
        run(config, tmp_path / "out")
    own_translators.LIMIT.clear()
    result = run(config, tmp_path / "out")
    assert len(rows_of(result, PROMPTS)) == 40
    # Ten different texts; of parts of three, two were finished, and the seventh text was asked for again.
    assert Counter(asked).total() == 10 + 1
    whole = run(config, tmp_path / "whole")
    for name, table in (("translated", PROMPTS), ("text_translations", TEXT_TRANSLATIONS)):
        assert rows_of(result, table, name) == rows_of(whole, table, name)


def test_texts_that_earlier_work_translated_are_not_asked_again(
    tmp_path: Path, asked: list[tuple[str, str, str]]
) -> None:
    write_lines(
        tmp_path / "prompts" / "en.jsonl", [{"id": str(n), "instruction": f"Sentence number {n}."} for n in range(5)]
    )
    first = run(config_of(tmp_path / "prompts", tmp_path, into="es"), tmp_path / "first")
    sources = {"text_translations": (Source(first.artifacts["text_translations"]),)}
    write_lines(
        tmp_path / "prompts" / "en.jsonl",
        [{"id": f"x{n}", "instruction": f"Sentence number {n}."} for n in range(2, 7)],
    )
    asked.clear()
    again = run(config_of(tmp_path / "prompts", tmp_path, into="es"), tmp_path / "again", Earlier(sources))
    assert [text for text, *_ in asked] == ["Sentence number 5.", "Sentence number 6."]
    assert [row["instruction"] for row in rows_of(again, PROMPTS)][5:] == [
        f"es: Sentence number {n}." for n in range(2, 7)
    ]


def test_identity_is_of_the_texts_the_languages_and_the_translator(tmp_path: Path) -> None:
    write_lines(
        tmp_path / "prompts" / "en.jsonl", [{"id": "a", "instruction": LONG}, {"id": "b", "instruction": "Say hi."}]
    )

    def work(**over: Any) -> str:
        return identify("translate", config_of(tmp_path / "prompts", tmp_path, **({"into": "es"} | over))).work

    own = work()
    assert work(shard_prompts=64, max_dropped=50.0, batch_size=7) == own
    assert work(translation_template="Anything: {text} {target}") == own  # which this translator is not asked with
    assert own not in {work(into="de"), work(into="es,de"), work(limit=1), work(language_confidence=0.9)}
    (tmp_path / "prompts" / "notes.md").write_text("nothing that is read")
    assert work() == own


# (what is wrong, files, settings, what is said)
REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("no language to translate into", {}, "field 'into' is missing for translate; give --into LANGUAGES"),
    ("nothing left", {"into": "en"}, "nothing is left to translate into en; give other languages to --into"),
    ("no such language", {"into": "xz"}, "unknown language code 'xz'"),
    ("no translator", {"into": "es", "translator": ""}, "field 'translator' is missing; give --translator MODEL"),
    ("a server without a name", {"into": "es", "translator": "", "sampler": "server", "server_url": "http://127.0.0.1:1/v1"},
     "field 'translator' is missing"),
    ("no such part", {"into": "es", "translator": "tests.support.own_translators:nobody"}, "field 'translator' is 'tests.support"),
    ("outputs without prompts", {"into": "es", "texts_kind": "outputs"}, "field 'prompts' is missing: files of outputs"),
    ("no such model", {"into": "es", "translator": "./models/none"}, "none"),
]  # fmt: skip


@pytest.mark.parametrize(("settings", "said"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED])
def test_what_cannot_be_translated_is_said_in_one_line(settings: dict[str, Any], said: str, tmp_path: Path) -> None:
    write_lines(tmp_path / "prompts" / "en.jsonl", [{"id": "a", "instruction": LONG}])
    with pytest.raises((InputError, ValueError)) as caught:
        stage.read(config_of(tmp_path / "prompts", tmp_path, **settings))
    assert said in str(caught.value)
    assert isinstance(caught.value, IcrError) is ("xz" not in str(settings))


def test_files_are_what_their_first_row_says(tmp_path: Path) -> None:
    pairs = write_lines(
        tmp_path / "pairs.jsonl", [{"prompt": LONG, "chosen_response": "Yes, it is.", "rejected_response": "No."}]
    )
    asks = write_lines(tmp_path / "asks" / "en.jsonl", [{"id": "a", "instruction": LONG, "output": "An answer."}])
    assert read_texts(config_of(pairs, tmp_path, into="es")).table is PREFERENCES
    found = read_texts(config_of(asks.parent, tmp_path, into="es"))
    assert found.table is PROMPTS
    assert any("output" in note for note in found.notes)  # a column that is not read is named
