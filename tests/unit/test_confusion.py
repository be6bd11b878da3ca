"""Language confusion by the benchmark's definition: every rule both ways, the benchmark's own completions, other languages, intervals."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pyarrow as pa
import pytest

from icr_platform.core.artifacts import Artifact, ArtifactWriter
from icr_platform.core.errors import InputError
from icr_platform.core.intervals import Z95
from icr_platform.core.schemas import CONFUSION, OUTPUTS
from icr_platform.core.stage_protocol import StageResult
from icr_platform.engines.identification import line_language as lines
from icr_platform.engines.segmentation import words
from icr_platform.evaluation.config import EvalSettings
from icr_platform.evaluation.confusion import Checked, Rule, check, english_words, mark, notes_on, rule_of
from icr_platform.evaluation.confusion_table import (
    confusion_rows,
    confusion_scores,
    pass_rate_change_metrics,
    pass_rate_changes,
    write_confusion,
)
from icr_platform.evaluation.scores import Score
from icr_platform.pipeline.arm import Arm
from icr_platform.pipeline.arm_results import compare_pass_rates
from icr_platform.pipeline.config import IterateConfig
from icr_platform.pipeline.session import Session, StageRun
from tests.support import confusion_benchmark
from tests.support.real_data import shared_folder

LCB = shared_folder() / "lcb"
ES = "Esta es una respuesta bastante larga en español."
EN = "This is quite a long answer in English."
DE = "Das ist eine ziemlich lange Antwort auf Deutsch."
RU = "Это довольно длинный ответ на русском языке."
SR = "Ово је прилично дугачак одговор на српском језику."
SR_LATIN = "Ovo je prilično dugačak odgovor na srpskom jeziku."
HR = "Ovo je dosta dugačak odgovor na hrvatskom jeziku, tijekom cijelog tjedna."
ZH = "这是一个用中文写的相当长的回答。"
JA = "これは日本語で書かれたかなり長い答えです。"
KO = "이것은 한국어로 쓴 꽤 긴 대답입니다."
TH = "นี่เป็นคำตอบที่ค่อนข้างยาวซึ่งเขียนเป็นภาษาไทย"
ID = "Ini adalah jawaban yang cukup panjang dalam bahasa Indonesia karena mereka bisa."
MS = "Ini ialah jawapan yang agak panjang dalam bahasa Melayu kerana kerajaan boleh menyediakannya."


def looked(text: str, language: str) -> Checked:
    rule = rule_of(language)
    assert isinstance(rule, Rule), rule
    return check(text, rule, english_words())


@pytest.mark.parametrize(
    ("language", "text", "counted", "confused"),
    [
        # The language of each line, with the index of the confused ones among the lines of the whole answer.
        ("es", ES, 1, {}),
        ("es", EN, 1, {0: "en"}),
        ("es", f"{ES}\n{EN}\n{DE}", 3, {1: "en", 2: "de"}),
        ("en", f"{EN}\n{ES}", 2, {1: "es"}),
        ("es", f"\n \n\n{ES}\n\n{EN}\n", 2, {5: "en"}),
        # Five words, and four.
        ("es", "one two three four", 0, {}),
        ("es", "This is an English line", 1, {0: "en"}),
        ("es", "   This   is an \t English   ", 0, {}),
        # Punctuation goes first: it makes neither words nor separates any, but for the dash.
        ("es", "This - is . an ! English", 0, {}),
        ("es", "This-is an/English_line (in#one) piece", 0, {}),
        ("es", "This is an—English line", 1, {0: "en"}),
        ("ar", "هذا، جواب، طويل، إلى، حد، ما", 1, {}),
        ("ar", "هذا ، جواب ، قصير ، جدا", 0, {}),
        # Cut at the next question, which stands at the start of a line.
        ("es", f"{ES}\nQ: {EN}\n{EN}", 1, {}),
        ("es", f"{ES}\n Q: {EN}", 2, {1: "en"}),
        ("es", f"{ES} Q: {ES}", 1, {}),
        ("es", f"\nQ: {EN}", 0, {}),
        # Lines end at line feeds and nowhere else.
        ("es", f"{ES}\r\n{EN}\r\n", 2, {1: "en"}),
        ("es", "This is an\u2028English line", 1, {0: "en"}),
        # A best guess of at most 0.3 is no language, and that is another one than the asked one.
        ("es", "12 34 56 78 90", 1, {0: "und"}),
        ("es", "🙂 🙂 🙂 🙂 🙂", 1, {0: "und"}),
        # What looks like English is English: code, and an address counts with its line.
        ("es", f"{ES}\n```\nfor i in range of the list:\n    return the value of this function\n```", 3, {2: "en", 3: "en"}),
        ("es", f"{ES} https://example.org/a/b", 1, {}),
        # Words of Chinese and Japanese are those of their segmenters; of Korean and Hindi those between spaces.
        ("zh", ZH, 1, {}),
        ("zh", "好的。", 0, {}),
        ("zh", EN, 1, {0: "en"}),
        ("zh", JA, 1, {0: "ja"}),
        ("ja", JA, 1, {}),
        ("ja", "はい。", 0, {}),
        ("ja", ZH, 1, {0: "zh"}),
        ("ko", KO, 1, {}),
        ("ko", "이것은한국어로쓴꽤긴대답입니다.", 0, {}),
        ("th", TH, 1, {}),
        ("th", "ครับ", 0, {}),
        ("th", f"{TH}\n{EN}", 2, {1: "en"}),
        # The benchmark's languages count as themselves only, however the tag is spelt.
        ("id", ID, 1, {}),
        ("id", MS, 1, {0: "ms"}),
        ("ind_Latn", MS, 1, {0: "ms"}),
        ("pt-BR", "Esta é uma resposta bastante longa em português.", 1, {}),
        ("arb_Arab", RU, 1, {0: "ru"}),
        # Beyond them, every language that counts as the asked one is right.
        ("ms", ID, 1, {}),
        ("hr", SR_LATIN, 1, {}),
        ("sr", HR, 1, {}),
        ("sr", f"{SR}\n{RU}", 2, {1: "ru"}),
        ("sr-Cyrl", f"{SR}\n{HR}", 2, {1: "hr"}),
        ("nb", "Dette er et ganske langt svar på norsk som ikke er så vanskelig å lese.", 1, {}),
        ("nn", "Dette er et ganske langt svar på norsk som ikke er så vanskelig å lese.", 1, {}),
        ("zh-Hant", "這是一個用中文寫的相當長的回答。", 1, {}),
        ("zh-Hant", JA, 1, {0: "ja"}),
        ("swh_Latn", "Hili ni jibu refu kiasi katika lugha ya Kiswahili.", 1, {}),
        ("mt", "Il-gvern ta' Malta qal li l-proġett se jibda s-sena d-dieħla.", 1, {}),
        # Nothing, and what libraries do not take.
        ("es", "", 0, {}),
        ("ja", "   ", 0, {}),
        ("es", f"{ES} \ud83d", 1, {}),
        ("ja", f"{JA}\0{JA}", 1, {}),
    ],
)  # fmt: skip
def test_lines_that_count_and_those_that_are_confused(
    language: str, text: str, counted: int, confused: dict[int, str]
) -> None:
    found = looked(text, language)
    assert (found.lines, dict(found.confused)) == (counted, confused)
    assert mark(text, language) == list(found.confused)


@pytest.mark.parametrize(
    ("language", "text", "english"),
    [
        ("ru", RU, ()),
        ("ru", "Это довольно длинный feedback на русском языке.", ("feedback",)),
        ("ru", "Это useful feedback, а потом снова feedback на русском языке, и ещё.", ("useful", "feedback")),
        # Not an English word of the list, three letters, capitals.
        ("ru", "Это довольно длинный qwertish на русском языке.", ()),
        ("ru", "Это довольно длинный fee на русском языке.", ()),
        ("ru", "Это довольно длинный Feedback на русском языке.", ()),
        ("ru", "Это довольно длинный FEEDBACK на русском языке.", ()),
        # Punctuation is gone: what it joined is one word, what it ended is a word.
        ("ru", "Это довольно длинный «feedback» на русском языке.", ()),
        ("ru", 'Это довольно длинный "feedback", на русском языке.', ("feedback",)),
        ("ru", "Это довольно длинный feed-back на русском языке.", ("feedback",)),
        # Within another word, and in a line that does not count.
        ("ru", "Это довольно длинный feedbackа на русском языке.", ()),
        ("ru", f"{RU}\nfeedback", ()),
        # Not looked for: a confused line, no word rate.
        ("ru", f"{RU}\n{EN}", None),
        ("es", f"{ES} feedback", None),
        ("tr", "Bu oldukça uzun bir Türkçe cevap ve feedback içeriyor.", None),
        ("vi", "Đây là một câu trả lời khá dài bằng tiếng Việt.", None),
        ("zh", "这是一个用中文写的相当长的feedback回答。", ("feedback",)),
        ("zh", ZH, ()),
        ("ja", "これは日本語で書かれたかなり長いfeedbackの答えです。", ("feedback",)),
        ("ko", "이것은 한국어로 쓴 꽤 긴 feedback 대답입니다.", ("feedback",)),
        ("ko", "이것은 한국어로 쓴 꽤 긴 feedback이 있는 대답입니다.", ()),
        ("hi", "यह हिंदी में लिखा गया काफी लंबा feedback उत्तर है।", ("feedback",)),
        ("ar", "هذا جواب طويل إلى حد ما باللغة العربية مع feedback، شكرا.", ("feedback",)),
        # Beyond the benchmark: languages in other letters, and none in Latin ones.
        ("th", "นี่เป็นคำตอบที่ค่อนข้างยาวซึ่งเขียนเป็นภาษาไทย feedback ครับ", ("feedback",)),
        ("uk", "Це досить довга відповідь українською мовою, а також feedback для вас.", ("feedback",)),
        ("el", "Αυτή είναι μια αρκετά μεγάλη απάντηση στα ελληνικά με feedback.", ("feedback",)),
        ("sr", "Ово је прилично дугачак feedback на српском језику.", ("feedback",)),
        ("sr", SR_LATIN, None),
        ("sr", f"{SR}\n{SR_LATIN}", None),
        ("sr-Latn", SR_LATIN, None),
        ("sw", "Hili ni jibu refu kiasi katika lugha ya Kiswahili.", None),
    ],
)  # fmt: skip
def test_english_words(language: str, text: str, english: tuple[str, ...] | None) -> None:
    assert looked(text, language).english == english


@pytest.mark.parametrize(
    ("language", "why"),
    [
        ("sn", "lid.176, which identifies lines, does not know Shona"),
        ("ny", "does not know Nyanja"),
        ("klingon", "does not know klingon"),
        ("uz-Cyrl", "does not know Uzbek"),
        ("lo", "Lao is written without spaces between words"),
        ("km", "Khmer is written without spaces"),
        ("my", "Burmese is written without spaces"),
        ("bo", "Tibetan is written without spaces"),
    ],
)
def test_a_language_that_cannot_be_looked_at_has_no_figure_and_a_note(language: str, why: str) -> None:
    [note] = notes_on([language, "es", language])
    assert note.startswith(f"{language}: ")
    assert why in note
    assert note.endswith("no line_pass_rate and no word_pass_rate")
    assert mark(EN, language) == []
    rows = confusion_rows(outputs([(language, "a", 0, EN), ("es", "a", 0, ES)]), english_words())
    assert rows["language"].to_pylist() == ["es"]
    assert {score.language for score in confusion_scores([rows])} == {"es"}


def test_a_missing_library_is_named_and_other_languages_have_their_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> words.Split:
        raise ImportError("No module named 'jieba'")

    monkeypatch.setattr(words, "_jieba", missing)
    for cached in (words.segmenter, rule_of):
        cached.cache_clear()
    try:
        [note] = notes_on(["zh", "ja"])
        assert note == (
            "zh: the words of Chinese need jieba: pip install 'icr-platform[words]': no line_pass_rate and no word_pass_rate"
        )
    finally:
        for cached in (words.segmenter, rule_of):
            cached.cache_clear()


def test_libraries_of_words_leave_nothing_behind_and_say_nothing(tmp_path: Path) -> None:
    """PyThaiNLP would make a folder in the person's home, jieba keeps its dictionary in the temporary one and says so."""
    program = (
        "from icr_platform.engines.segmentation.words import segmenter\n"
        "for code, text in (('th', 'สวัสดีครับ'), ('zh', '你好世界'), ('ja', 'こんにちは')): print(len(list(segmenter(code).split(text))))"
    )
    environment = os.environ | {"HOME": str(tmp_path), "TMPDIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert (done.stdout.split(), done.stderr) == (["2", "2", "1"], "")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("language", ["zh", "ja"])
def test_words_come_one_by_one_and_are_enough_to_count(language: str) -> None:
    split = words.segmenter(language).split
    assert split is not None
    text = {"zh": ZH, "ja": JA}[language]
    whole = list(split(text))
    assert "".join(whole) == text
    assert [words.has_words(split, text, n) for n in (1, len(whole), len(whole) + 1)] == [True, True, False]


def test_the_label_and_its_score_are_the_models_own() -> None:
    """Capitals stay capitals, no language is left out, and Wikipedia's codes are read as what they stand for."""
    assert lines.line_language("ΑΥΤΗ ΕΙΝΑΙ ΜΙΑ ΑΠΑΝΤΗΣΗ") == "el"
    assert len(lines.labels()) == 176
    assert "gsw" in lines.labels()
    assert "als" not in lines.labels()


def test_a_list_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "words.txt"
    path.write_text("Feedback\nfee\n  qwertish \nqwertish's\n\nwords\n", encoding="utf-8")
    assert english_words(str(path)) == {"qwertish", "qwertish's", "words"}
    rule = rule_of("ru")
    assert isinstance(rule, Rule)
    text = "Это довольно длинный qwertish feedback на русском языке."
    assert check(text, rule, english_words(str(path))).english == ("qwertish",)


@pytest.mark.parametrize(
    ("content", "said"),
    [(None, "No such file"), (b"", "no English word"), (b"Abc\nxy\n", "no English word"), (b"caf\xe9\nword\n", "not UTF-8")],
)  # fmt: skip
def test_a_list_that_cannot_be_used_is_refused_in_one_line(tmp_path: Path, content: bytes | None, said: str) -> None:
    path = tmp_path / "words.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=said) as refused:
        english_words(str(path))
    assert str(path) in str(refused.value)
    assert "\n" not in str(refused.value)


def test_the_list_of_the_package_has_words_only() -> None:
    assert all(word.isascii() and word.isalpha() and word.islower() and len(word) > 3 for word in english_words())
    assert {"feedback", "machine", "learning"} <= english_words()
    assert not {"para", "esta", "Feedback"} & english_words()


def outputs(rows: list[tuple[str, str, int, str]]) -> pa.Table:
    language, prompt_id, sample, text = zip(*rows, strict=True)
    return pa.table(
        {"language": language, "prompt_id": prompt_id, "sample_index": pa.array(sample, pa.int32()), "output": text}
    )


def scored(rows: list[tuple[str, str, int, str]]) -> dict[tuple[str, str], Score]:
    table = confusion_rows(outputs(rows), english_words())
    assert table.schema.equals(CONFUSION.schema)
    parts = [table.slice(start, 1) for start in range(table.num_rows)] if len({r[2] for r in rows}) == 1 else [table]
    return {(score.metric, score.language): score for score in confusion_scores(parts)}


def wilson(passed: float, n: float) -> tuple[float, float]:
    """By the definition: the shares whose own standard error the observed one lies within, in percent."""
    z, share = Z95, passed / n
    root = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return tuple(100 * (share + z * z / (2 * n) + sign * root) / (1 + z * z / n) for sign in (-1, 1))  # type: ignore[return-value]


def test_rates_and_intervals() -> None:
    rows = [
        ("ru", f"{i}", 0, text) for i, text in enumerate([RU, RU, EN, f"{RU}\n{EN}", "да", f"{RU} И feedback для вас."])
    ]
    found = scored(rows)
    line, word = found["line_pass_rate", "ru"], found["word_pass_rate", "ru"]
    assert (line.value, line.n) == (60.0, 5)  # "да" is in neither rate
    assert (line.low, line.high) == pytest.approx(wilson(3, 5))
    assert word.n == 3
    assert word.value == pytest.approx(200 / 3)
    assert (word.low, word.high) == pytest.approx(wilson(2, 3))


def test_samples_of_one_prompt_that_always_agree_are_one_observation_each_prompt() -> None:
    rows = [("es", f"{i}", sample, text) for i, text in enumerate([ES, EN, ES, ES]) for sample in range(5)]
    alone = scored([("es", f"{i}", 0, text) for i, text in enumerate([ES, EN, ES, ES])])["line_pass_rate", "es"]
    found = scored(rows)["line_pass_rate", "es"]
    assert (found.value, found.n, alone.n) == (75.0, 20, 4)
    # The variance between four prompts has three degrees of freedom.
    assert (found.low, found.high) == pytest.approx(wilson(3 * 3 / 4, 3))
    every = scored([("es", f"{i}", sample, ES) for i in range(4) for sample in range(5)])["line_pass_rate", "es"]
    assert (every.low, every.high) == pytest.approx(wilson(4, 4))
    mixed = scored([("es", f"{i}", sample, (ES, EN)[sample]) for i in range(4) for sample in range(2)])
    assert mixed["line_pass_rate", "es"].low == pytest.approx(wilson(2, 4)[0])


def test_two_policies_are_compared_prompt_by_prompt() -> None:
    """Eight prompts in Russian, one of two samples; line and word rates differ on those that count on both sides only."""
    feedback = f"{RU} И feedback для вас, конечно."
    before = [RU, EN, EN, EN, EN, feedback, feedback, "да"]
    after = [RU, RU, RU, RU, EN, RU, feedback, RU]
    sides = [
        [confusion_rows(outputs([("ru", f"{i}", 0, text) for i, text in enumerate(texts)]), english_words())]
        for texts in (before, after)
    ]
    sides[0] += [confusion_rows(outputs([("es", "a", 0, ES), ("es", "a", 1, EN)]), english_words())]
    sides[1] += [confusion_rows(outputs([("es", "a", 0, ES), ("es", "b", 0, ES), ("el", "a", 0, ES)]), english_words())]
    changes: Any = pass_rate_changes(*sides).set_index(["metric", "language"])
    line = changes.loc[("line_pass_rate", "ru")]
    assert [line[name] for name in ("before", "after", "n", "n_unpaired")] == pytest.approx([300 / 7, 600 / 7, 7, 1])
    assert line["difference"] == pytest.approx(300 / 7)
    assert line["low"] < line["difference"] < line["high"]
    word = changes.loc[("word_pass_rate", "ru")]  # prompts 0, 5 and 6 pass by line on both sides
    assert [word[name] for name in ("before", "after", "n", "n_unpaired")] == pytest.approx([100 / 3, 200 / 3, 3, 4])
    spanish = changes.loc[("line_pass_rate", "es")]
    assert [spanish[name] for name in ("before", "after", "difference", "n", "n_unpaired")] == [50, 100, 50, 1, 1]
    assert ("line_pass_rate", "el") not in changes.index
    metrics = pass_rate_change_metrics(changes.reset_index())
    assert metrics["line_pass_rate_change/ru"] == pytest.approx(300 / 7)
    assert metrics["line_pass_rate_change_low/ru"] == line["low"]
    assert metrics["line_pass_rate_change_p/ru"] == line["adjusted_p_value"]
    assert "line_pass_rate_change_low/es" not in metrics
    assert pass_rate_changes([], []).empty
    assert pass_rate_change_metrics(pass_rate_changes([], [])) == {}


def test_where_nothing_can_be_counted_nothing_is_claimed() -> None:
    found = scored([("ru", "a", 0, "да"), ("ko", "a", 0, EN), ("sr", "a", 0, SR_LATIN), ("es", "a", 0, ES)])
    assert found["line_pass_rate", "ru"].value is None
    assert found["word_pass_rate", "ru"].value is None
    # The benchmark's own convention, beside an interval that says what it is worth.
    nothing = found["word_pass_rate", "ko"]
    assert (nothing.value, nothing.n, nothing.low, nothing.high) == (100.0, 0, 0.0, 100.0)
    assert "no output passes by line" in nothing.flag
    assert found["line_pass_rate", "sr"].value == 100.0
    assert found["word_pass_rate", "sr"].value is None
    assert ("word_pass_rate", "es") not in found
    assert confusion_scores([CONFUSION.schema.empty_table()]) == []


def test_iterations_are_compared_from_their_outputs_alone(tmp_path: Path) -> None:
    """An evaluation that an earlier version finished has no table of lines; iteration 0 has nothing before it."""
    stages, metrics = {}, {}
    for iteration, texts in enumerate(([ES, EN, EN, ES], [ES, ES, ES, EN])):
        stored = write_outputs(tmp_path / str(iteration), [("es", f"{i}", 0, text) for i, text in enumerate(texts)])
        stages[iteration, "eval"] = StageRun(StageResult({"outputs": stored.folder}, {}), "f", None, False)
        metrics[iteration] = {"line_pass_rate/es": 50.0}
    config = IterateConfig.model_construct(eval=EvalSettings())
    arm = Arm(config, config, None, [], stages=stages, metrics=metrics)
    session = cast("Session", SimpleNamespace(tracker=None))
    for iteration in (0, 1):
        compare_pass_rates(session, arm, iteration, None)
    assert arm.metrics[0] == {"line_pass_rate/es": 50.0}
    assert arm.metrics[1]["line_pass_rate_change/es"] == pytest.approx(25.0)
    assert arm.changes[1].keys() == arm.metrics[1].keys() - {"line_pass_rate/es"}


def test_pass_rates_of_other_prompts_do_not_stand_for_those_of_eval() -> None:
    config = IterateConfig.model_construct()
    arm = Arm(config, config, None, [])
    for stage, value in (("eval", 50.0), ("instructions", 60.0), ("generate", 70.0)):
        found = {"line_pass_rate/es": value, f"own/{stage}": 1.0}
        arm.keep(0, stage, StageRun(StageResult({}, found), "f", None, False))
    assert arm.metrics[0] == {
        "line_pass_rate/es": 50.0, "instructions/line_pass_rate/es": 60.0, "generate/line_pass_rate/es": 70.0,
        "own/eval": 1.0, "own/instructions": 1.0, "generate/own/generate": 1.0,
    }  # fmt: skip


def write_outputs(folder: Path, rows: list[tuple[str, str, int, str]]) -> Artifact:
    filled = [
        {"language": language, "prompt_id": key, "sample_index": sample, "output": text, "instruction": "",
         "character_count": len(text), "detected_language": "und", "language_confidence": 0.0}
        for language, key, sample, text in rows
    ]  # fmt: skip
    writer = ArtifactWriter(folder, OUTPUTS, "f")
    writer.write_part(0, pa.Table.from_pylist(filled, schema=OUTPUTS.schema))
    return writer.close(1)


def test_a_part_is_looked_at_again_only_if_it_has_other_outputs(tmp_path: Path) -> None:
    rows = [("es", "a", 0, ES), ("sn", "a", 0, EN), ("es", "b", 0, EN)]

    def write(rows: list[tuple[str, str, int, str]]) -> list[dict[str, object]]:
        stored = write_outputs(tmp_path / "outputs", rows)
        made = write_confusion(stored, ArtifactWriter(tmp_path / "confusion", CONFUSION, "f"), english_words())
        return made.read().to_pylist()

    first = write(rows[:2])
    assert [row["prompt_id"] for row in first] == ["a"]
    path = tmp_path / "confusion" / "part-00000.parquet"
    before = path.stat().st_mtime_ns
    assert write(rows[:2]) == first
    assert path.stat().st_mtime_ns == before
    assert [(row["prompt_id"], row["confused_lines"], row["confused_languages"]) for row in write(rows)] == [
        ("a", [], []), ("b", [0], ["en"]),
    ]  # fmt: skip


@pytest.mark.skipif(not LCB.is_dir(), reason="ICR_SHARED has no completions of the Language Confusion Benchmark")
def test_the_benchmarks_completions_give_its_own_figures() -> None:
    """Every tenth slice of a model, source and language, all models and languages among them; bench_confusion.py has all of them."""
    texts = confusion_benchmark.completions(LCB)
    some = {key: texts[key] for key in list(texts)[::10]}
    assert {key.language for key in some} >= {"ar", "hi", "zh"}
    wanted = confusion_benchmark.expected(LCB)
    for words_path in ("", str(LCB / "words.txt")):
        found = confusion_benchmark.measured(some, english_words(words_path))
        for key in some:
            assert found[key].lines == pytest.approx(wanted[key].lines, abs=0.006), key
            assert (found[key].words is None) == (wanted[key].words is None)
            assert found[key].words == pytest.approx(wanted[key].words, abs=0.006), key
