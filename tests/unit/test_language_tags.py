"""Language tags of every standard: read, named, matched, counted, shown; and what is said of those that are none."""

from __future__ import annotations

import json
import re
from itertools import combinations
from pathlib import Path

import pytest

from icr_platform.core.config import validate
from icr_platform.core.errors import InputError
from icr_platform.core.language_tags import (
    find_name,
    html_lang,
    is_english,
    is_right_to_left,
    is_tag,
    names_language,
    nearest,
    spelled,
    twice,
)
from icr_platform.core.languages import (
    NAMES,
    counts_as,
    in_script,
    is_told_by,
    language_in,
    language_name,
    reward_instruction,
)
from icr_platform.data.prompts import load_prompts
from icr_platform.data.reference_outputs import load_reference_outputs
from icr_platform.engines.identification.language_id import UNKNOWN, make_identifier
from icr_platform.generation.config import GenerateConfig
from tests.support.fasttext_models import write_fasttext_model

KNOWN = {
    # tag: its name in the PREFIX, right to left, valid `lang` attribute
    "zh-Hant": ("Traditional Chinese", False, "zh-Hant"),
    "zho_Hans": ("Simplified Chinese", False, "zh-Hans"),
    "zh_TW": ("Traditional Chinese (Taiwan)", False, "zh-TW"),
    "cmn": ("Chinese", False, "cmn"),
    "yue": ("Cantonese", False, "yue"),
    "pt-BR": ("Brazilian Portuguese", False, "pt-BR"),
    "pt_BR.UTF-8": ("Brazilian Portuguese", False, "pt-BR"),
    "PT-br": ("Brazilian Portuguese", False, "pt-BR"),
    "es-419": ("Latin American Spanish", False, "es-419"),
    "en-GB-oxendict": ("British English (oxendict)", False, "en-GB-oxendict"),
    "swh_Latn": ("Swahili", False, "swh-Latn"),
    "swh": ("Swahili", False, "swh"),
    "swa": ("Swahili", False, "sw"),
    "arb_Arab": ("Arabic", True, "arb-Arab"),
    "arz": ("Egyptian Arabic", True, "arz"),
    "ckb": ("Central Kurdish", True, "ckb"),
    "kmr": ("Northern Kurdish", False, "kmr"),
    "ku-Arab": ("Kurdish (Arabic)", True, "ku-Arab"),
    "fil": ("Filipino", False, "fil"),
    "tgl_Latn": ("Tagalog", False, "fil-Latn"),
    "mt": ("Maltese", False, "mt"),
    "ger": ("German", False, "de"),
    "fre": ("French", False, "fr"),
    "sr-Latn": ("Serbian (Latin)", False, "sr-Latn"),
    "sr_RS@latin": ("Serbian (Latin, Serbia)", False, "sr-Latn-RS"),
    "srp_Cyrl": ("Serbian (Cyrillic)", False, "sr-Cyrl"),
    "az-Arab": ("Azerbaijani (Arabic)", True, "az-Arab"),
    "azj_Latn": ("Azerbaijani", False, "azj-Latn"),
    "azb": ("South Azerbaijani", True, "azb"),
    "pa-Arab": ("Punjabi (Arabic)", True, "pa-Arab"),
    "pa": ("Punjabi", False, "pa"),
    "sd-Deva": ("Sindhi (Devanagari)", False, "sd-Deva"),
    "ks": ("Kashmiri", True, "ks"),
    "ug": ("Uyghur", True, "ug"),
    "yi": ("Yiddish", True, "yi"),
    "dv": ("Divehi", True, "dv"),
    "syr": ("Syriac", True, "syr"),
    "nqo": ("N’Ko", True, "nqo"),
    "pbt_Arab": ("Southern Pashto", True, "pbt-Arab"),
    "iw": ("Hebrew", True, "he"),
    "in": ("Indonesian", False, "id"),
    "nb": ("Norwegian Bokmål", False, "nb"),
    "nno_Latn": ("Norwegian Nynorsk", False, "nn-Latn"),
    "npi": ("Nepali", False, "npi"),
    "ory_Orya": ("Odia", False, "ory-Orya"),
    "zsm": ("Malay", False, "zsm"),
    "lvs": ("Latvian", False, "lvs"),
    "ekk": ("Estonian", False, "ekk"),
    "uzn_Latn": ("Uzbek", False, "uzn-Latn"),
    "pes_Arab": ("Persian", True, "pes-Arab"),
    "prs": ("Dari", True, "fa-AF"),
    "hau": ("Hausa", False, "ha"),
    "mni_Beng": ("Manipuri", False, "mni-Beng"),
    "MT": ("Maltese", False, "mt"),
}


@pytest.mark.parametrize("tag", KNOWN)
def test_a_tag_of_any_standard_has_a_name_a_direction_and_an_attribute(tag: str) -> None:
    name, is_rtl, attribute = KNOWN[tag]
    assert (language_name(tag), is_right_to_left(tag), html_lang(tag)) == (name, is_rtl, attribute)
    assert is_tag(tag)
    # MLflow's rule for metric names.
    assert re.fullmatch(r"[/\w.\- :]+", f"win_rate/{spelled(tag)}")
    assert language_in(f"win_rate/{spelled(tag)}") == spelled(tag)


def test_the_names_that_stood_in_scored_prompts_are_what_they_were() -> None:
    assert len(NAMES) == 85
    for code, name in NAMES.items():
        assert language_name(code) == name
        assert spelled(code) == code
        assert reward_instruction(code, "x").endswith("x")
    assert {code for code in NAMES if is_right_to_left(code)} == {"ar", "fa", "he", "ps", "sd", "ur"}
    assert "using only Traditional Chinese, unless" in reward_instruction("zh-Hant", "x")
    assert reward_instruction("eng_Latn", "x") == reward_instruction("en-GB", "x") == "x"


NOT_KNOWN = {
    # what was given: what is probably meant, and never another language of similar spelling
    "jp": "ja",
    "cn": "zh",
    "gr": "el",
    "cz": "cs",
    "dk": "da",
    "ua": "uk",
    "vn": "vi",
    "hk": "zh-Hant",
    "swahili": "sw",
    "Kiswahili": "sw",
    "Deutsch": "de",
    "日本語": "ja",
    "Englsh": "en",
    "Nowegian": "no",
    "mandarin": "zh",
    "zh-cht": "zh-Hant",
    "sr-latin": "sr-Latn",
    "zh-XX": "zh",
    "deutch": None,  # Deutsch or Dutch
    "xz": None,
    "xx": None,
    "und": None,
    "mul": None,
    "zxx": None,
    "qaa": None,
    "train": None,
    "en-": "en",
    "": None,
    "C": None,
    "POSIX": None,
    "x-private": None,
    "abcdefghij": None,
}


@pytest.mark.parametrize("given", NOT_KNOWN)
def test_what_is_no_tag_is_refused_in_one_line_with_what_is_meant(given: str) -> None:
    near = NOT_KNOWN[given]
    assert not is_tag(given)
    assert nearest(given) == near
    if given:
        with pytest.raises(InputError, match=r"unknown language code") as caught:
            validate(GenerateConfig, {"languages": ["en", given]}, "mine.yaml")
        assert (f"nearest is {near!r}" in str(caught.value)) == (near is not None)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("given", "read"),
    [
        ("en,zh-Hant,swh_Latn", ("en", "zh-Hant", "swh_Latn")),
        (" EN , Mt ", ("en", "mt")),
        (["pt_BR.UTF-8", "sr-Latn"], ("pt_BR", "sr-Latn")),
        (["en", "en"], ("en", "en")),
        (["pt", "pt-BR"], ("pt", "pt-BR")),
        (["tl", "fil"], r"'tl' and 'fil' are the same language"),
        (["sw", "swh_Latn"], r"'sw' and 'swh_Latn' are the same language"),
        (["zh-Hant", "zh_hant"], r"'zh-Hant' and 'zh_hant' are the same language"),
        ([False, "en"], r"false is a truth value in YAML"),
        ([7], r"7 is not a language code"),
        ([None], r"None is not a language code"),
    ],
)
def test_the_setting_keeps_tags_as_they_are_given(given: object, read: object) -> None:
    if isinstance(read, str):
        with pytest.raises(InputError, match=read):
            validate(GenerateConfig, {"languages": given}, "mine.yaml")
    else:
        assert validate(GenerateConfig, {"languages": given}, "mine.yaml").languages == read


@pytest.mark.parametrize(
    ("asked", "there", "found"),
    [
        ("sw", ["sw", "swh_Latn"], "sw"),
        ("sw", ["en", "swh_Latn"], "swh_Latn"),
        ("swh_Latn", ["sw"], "sw"),
        ("zho_Hans", ["zh", "zh-Hant"], "zh"),
        ("zh-Hant", ["zh"], None),
        ("zh-Hant", ["zh_TW", "zh"], "zh_TW"),
        ("zh-HK", ["zh-Hant"], "zh-Hant"),
        ("en", ["en-US", "de"], "en-US"),
        ("en", ["eng_Latn", "en-GB"], "eng_Latn"),
        ("en", ["en-GB"], "en-GB"),
        ("pt-BR", ["pt"], "pt"),
        ("pt-PT", ["pt-BR"], None),
        ("pt", ["pt-BR", "pt-PT"], "pt-BR"),
        ("es-MX", ["es"], "es"),
        ("nb", ["no"], "no"),
        ("nn", ["no"], None),
        ("fil", ["tl"], "tl"),
        ("arb_Arab", ["ar"], "ar"),
        ("arz", ["ar"], None),
        ("ckb", ["ku"], None),
        ("kmr", ["ku"], "ku"),
        ("sr-Latn", ["sr"], None),
        ("iw", ["he"], "he"),
        ("ger", ["de"], "de"),
        ("yue", ["zh"], None),
        ("zsm", ["ms"], "ms"),
        ("es", ["es-MX", "es-AR"], "'es-MX' and 'es-AR' mean it equally"),
        ("en", ["en-GB", "en-AU"], "'en-GB' and 'en-AU' mean it equally"),
    ],
)
def test_a_language_is_found_under_its_tag_or_the_only_one_that_means_it(
    asked: str, there: list[str], found: str | None
) -> None:
    if found is not None and found not in there:
        with pytest.raises(InputError, match=found):
            find_name(asked, there)
    else:
        assert find_name(asked, there) == found


def test_words_that_are_also_codes_are_no_languages_where_nobody_asks_for_them() -> None:
    words = [
        "all",
        "dev",
        "val",
        "test",
        "train",
        "data",
        "new",
        "raw",
        "old",
        "tmp",
        "bin",
        "log",
        "en-de",
        "de-en",
        "README",
        "eval",
        "dup",
        "ids",
        "one",
    ]
    assert [word for word in words if names_language(word)] == []
    tags = [
        "en",
        "mt",
        "ckb",
        "fil",
        "yue",
        "swh",
        "arb",
        "cmn",
        "zsm",
        "npi",
        "zh-Hant",
        "zh_TW",
        "pt-br",
        "fr-CA",
        "swh_Latn",
        "taq_Tfng",
        "en-US",
        "sr-Latn",
        "MT",
    ]
    assert [tag for tag in tags if not names_language(tag)] == []
    assert not is_english("ang")


COUNTS = {
    # (asked, detected): whether it is right
    ("zh-Hant", "zh"): True,
    ("zh-Hant", "zh-Hans"): False,
    ("zh-Hant", "cmn_Hani"): True,
    ("zh", "zho_Hant"): True,
    ("yue", "zh"): True,
    ("yue", "wuu"): False,
    ("nan", "zh"): False,
    ("arz", "ar"): True,
    ("ar", "arz"): True,
    ("arb_Arab", "ars_Arab"): True,
    ("arz", "apc"): False,
    ("ckb", "ku"): False,
    ("ku", "ckb"): True,
    ("kmr", "ku"): True,
    ("kmr", "ckb"): False,
    ("swh_Latn", "sw"): True,
    ("fil", "tl"): True,
    ("nb", "no"): True,
    ("iw", "he"): True,
    ("mt", "ar"): False,
    ("pt-BR", "pt"): True,
    ("en-GB", "en"): True,
    ("sr-Latn", "hr"): True,
    ("sr-Cyrl", "hr"): False,
    ("sr-Latn", "sr-Cyrl"): False,
    ("fa", "pes_Arab"): True,
    ("uz", "uzn_Latn"): True,
    ("klingon", "klingon"): True,
    ("es", "und"): False,
}


@pytest.mark.parametrize("pair", COUNTS)
def test_what_counts_as_the_language_that_was_asked_for(pair: tuple[str, str]) -> None:
    assert counts_as(*pair) is COUNTS[pair]


def test_an_identifier_tells_a_language_in_the_scripts_that_it_knows() -> None:
    langid = make_identifier("langid")
    known = [
        "mt",
        "yue",
        "arz",
        "zh-Hant",
        "zh_TW",
        "pt-BR",
        "swh_Latn",
        "arb_Arab",
        "sr-Latn",
        "sr-Cyrl",
        "fil",
        "nb",
        "es-419",
        "mg",
        "sn",
        "en-GB",
    ]
    assert [tag for tag in known if not langid.knows(tag)] == []
    unknown = ["ckb", "nan", "uz-Cyrl", "pa-Arab", "pa-PK", "az-Arab", "nqo", "ks", "taq_Tfng", "haw"]
    assert [tag for tag in unknown if langid.knows(tag)] == []
    assert all("does not know" in note for note in langid.notes(unknown))
    assert not is_told_by("ku-Arab", "ku")


def test_what_a_text_is_taken_for_does_not_depend_on_other_languages_of_the_run() -> None:
    langid = make_identifier("langid")
    maltese = "Il-mużew jiftaħ fid-disgħa ta' filgħodu u jagħlaq qabel l-ikla ta' filgħaxija."
    spanish = "El museo abre a las nueve de la mañana y cierra antes de la cena."
    alone = langid.of_answers(["es"], [spanish])
    assert alone == langid([spanish])
    assert langid.of_answers(["es", "mt", "mt"], [spanish, maltese, spanish])[0] == alone[0]
    assert [found.language for found in langid.of_answers(["mt", "mt"], [maltese, spanish])] == ["mt", "es"]
    assert langid.of_answers(["ckb"], [spanish]) == [UNKNOWN]
    assert langid.among_all(["es", "mt", "ckb"]) == ["mt"]


def test_an_answer_in_the_other_script_is_told_by_its_letters() -> None:
    cyrillic, latin = (
        "Музеј се отвара у девет сати ујутру и затвара пре вечере.",
        "Muzej se otvara u devet sati ujutru.",
    )
    langid = make_identifier("langid")
    found = langid.of_answers(["sr-Latn", "sr-Cyrl", "sr-Latn", "sr"], [cyrillic, cyrillic, latin, cyrillic])
    assert [counts_as(asked, one.language) for asked, one in zip(["sr-Latn", "sr-Cyrl", "sr-Latn", "sr"], found, strict=True)] == [
        False, True, True, True,
    ]  # fmt: skip
    assert in_script("zh", "zh-Hant", "这个学习") == "zh"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    words = {
        "swh_Latn": "habari ya asubuhi", "arb_Arab": "صباح الخير", "zho_Hans": "早上好 这个", "zho_Hant": "這個 學習",
        "mlt_Latn": "bonġu kif int", "ckb_Arab": "بەیانی باش", "zxx_Zxxx": "qqq zzz", "eng_Latn": "good morning",
    }  # fmt: skip
    return write_fasttext_model(tmp_path_factory.mktemp("model") / "tiny.bin", words)


def test_a_fasttext_model_by_its_path_identifies_languages(model: Path) -> None:
    for name in (str(model), f"fasttext:{model}"):
        assert validate(GenerateConfig, {"language_identifier": name}, "mine.yaml").language_identifier == name
    identify = make_identifier(f"fasttext:{model}")
    texts = ["habari ya\nasubuhi", "صباح الخير", "學習 這個", "bonġu int", "qqq zzz", "12 + 1"]
    assert [found.language for found in identify(texts)] == ["sw", "ar", "zh-Hant", "mt", "und", "und"]
    assert all(0.99 < found.confidence <= 1 for found in identify(texts)[:4])
    assert identify.unknown(["sw", "swh_Latn", "zh-Hant", "ckb", "kmr", "fr"]) == ["kmr", "fr"]
    found = identify.of_answers(["zh-Hant", "fr"], ["早上好 这个", "good morning"])
    assert (found[0].language, found[1]) == ("zh-Hans", UNKNOWN)
    assert identify.name.startswith("fasttext:tiny.bin@"), "by its content, wherever it lies"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file"),
        (b"", "not a fastText model"),
        (b"<!DOCTYPE html>" * 40, "not a fastText model"),
        (b"version https://git-lfs.github.com/spec/v1\n", "not a fastText model"),
    ],
)
def test_a_file_that_is_no_model_is_one_line(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "lid.bin"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        make_identifier(f"fasttext:{path}")
    assert "\n" not in str(caught.value)


def test_a_model_of_sentiment_is_no_model_of_languages(tmp_path: Path) -> None:
    path = write_fasttext_model(tmp_path / "mood.ftz", {"positive": "good", "negative": "bad"})
    with pytest.raises(InputError, match="labels are no languages but __label__"):
        make_identifier(str(path))


def prompts(folder: Path, **texts: str) -> Path:
    folder.mkdir(exist_ok=True)
    for name, text in texts.items():
        (folder / f"{name}.jsonl").write_text(json.dumps({"id": 1, "instruction": text}), encoding="utf-8")
    return folder


def test_prompts_are_read_under_the_tag_that_was_asked_for(tmp_path: Path) -> None:
    folder = prompts(tmp_path / "p", eng_Latn="Name a fruit.", swh_Latn="Taja tunda.", zho_Hant="說出一種水果。")
    read = load_prompts(str(folder), ["sw", "zh-Hant"])
    assert read.table["language"].to_pylist() == ["sw", "zh-Hant"]
    assert set(read.table["english_instruction"].to_pylist()) == {"Name a fruit."}
    assert [note.partition(": ")[2] for note in read.notes] == [
        "'swh_Latn' is read for 'sw', the same language",
        "'zho_Hant' is read for 'zh-Hant', the same language",
        "'eng_Latn' is read for 'en', the same language",
    ]
    assert load_prompts(str(folder)).languages == ("eng_Latn", "swh_Latn", "zho_Hant")
    by_template = load_prompts(str(folder / "{language}.jsonl"), ["sw", "en-US"])
    assert by_template.table["instruction"].to_pylist() == ["Taja tunda.", "Name a fruit."]
    prompts(folder, sw="Taja tunda moja.")
    assert load_prompts(str(folder), ["sw"]).table["instruction"].to_pylist() == ["Taja tunda moja."]
    with pytest.raises(InputError, match=r"'swh_Latn' is the language of 'sw'"):
        load_prompts(str(folder))
    with pytest.raises(InputError, match=r"language 'zh' is missing"):
        load_prompts(str(folder), ["zh"])


def test_a_prompt_set_in_one_language_has_no_english(tmp_path: Path) -> None:
    folder = prompts(tmp_path / "p", mt="Semmi frotta.")
    read = load_prompts(str(folder))
    assert read.table.select(["language", "instruction", "english_instruction"]).to_pylist() == [
        {"language": "mt", "instruction": "Semmi frotta.", "english_instruction": None}
    ]
    assert read.notes == (f"{folder}: there is no English: rewards after the English instruction cannot be annotated",)


def test_reference_outputs_are_found_under_another_tag_of_the_language(tmp_path: Path) -> None:
    (tmp_path / "zh.jsonl").write_text(json.dumps({"id": "1", "output": "苹果。"}), encoding="utf-8")
    found = load_reference_outputs(str(tmp_path), {"zho_Hans": {"1": "说出一种水果。"}})
    assert found.outputs == {("zho_Hans", "1"): ("苹果。",)}
    assert f"{tmp_path / 'zh.jsonl'}: 'zh' is read for 'zho_Hans', the same language" in found.notes
    with pytest.raises(InputError, match="no such file"):
        load_reference_outputs(str(tmp_path), {"zh-Hant": {"1": "說出一種水果。"}})


def test_no_two_of_the_first_languages_are_the_same() -> None:
    assert twice(NAMES) is None
    assert not any(find_name(one, [other]) for one, other in combinations(NAMES, 2))
