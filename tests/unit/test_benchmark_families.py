"""Which task of which family a language has, under the names that lm-eval's own files give them."""

from __future__ import annotations

import re
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import pytest

from icr_platform.core.errors import InputError
from icr_platform.evaluation.benchmark_families import FAMILIES, language_of, plan
from icr_platform.evaluation.config import BenchmarksConfig


@cache
def names_in_the_wheel() -> frozenset[str]:
    """Tasks and groups of the families, by the names of their files and folders: the index takes seconds."""
    spec = find_spec("lm_eval")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("needs the extra 'benchmarks'")
    folder = Path(spec.submodule_search_locations[0]) / "tasks"
    stems = {path.stem for family in ("belebele", "multiblimp", "mgsm") for path in (folder / family).rglob("*_*.yaml")}
    mmlu = {f"global_mmlu_{path.name}" for path in (folder / "global_mmlu/default").iterdir()}
    mmlu |= {f"global_mmlu_full_{path.name}" for path in (folder / "global_mmlu/full").iterdir()}
    include = {path.stem.removeprefix("_") for path in (folder / "include/default").rglob("_include*.yaml")}
    xcopa = {path.stem.replace("default_", "xcopa_") for path in (folder / "xcopa").glob("default_*.yaml")}
    return frozenset(stems | mmlu | include | xcopa | {"copa"})


# family -> our tag -> the language's name in the family; '' where the family lacks it.
NAMES = {
    "global_mmlu": {
        "en": "en", "en-GB": "en", "de": "de", "deu_Latn": "de", "swh_Latn": "sw", "zh-Hans": "zh", "cmn": "zh", "zh-Hant": "",
        "ar-EG": "ar", "arz": "", "pt-BR": "pt", "yor": "yo", "ru": "", "th": "",
    },
    "global_mmlu_full": {"ru": "ru", "sw": "sw", "fa": "fa", "pes": "fa", "tl": "fil", "fil": "fil", "ms": "ms", "sr": "sr", "sr-Latn": "",
                         "th": "", "am": "am", "mg": "mg", "he": "he"},
    "include": {
        "de": "german", "en": "", "bn": "bengali", "mk": "north_macedonian", "tl": "tagalog", "fil": "tagalog", "zh_CN": "chinese",
        "pes_Arab": "persian", "sw": "", "ms": "malay", "ko": "korean",
    },
    "belebele": {
        "en": "eng_Latn", "sw": "swh_Latn", "zh": "zho_Hans", "zh-TW": "zho_Hant", "zh-Hant": "zho_Hant", "ar": "arb_Arab",
        "arz": "arz_Arab", "fa": "pes_Arab", "no": "nob_Latn", "nn": "", "ko": "kor_Hang", "ps": "pbt_Arab", "uz": "uzn_Latn",
        "sq": "als_Latn", "lv": "lvs_Latn", "ms": "zsm_Latn", "mn": "khk_Cyrl", "hi": "hin_Deva", "hi-Latn": "hin_Latn",
        "et": "est_Latn", "ne": "npi_Deva", "cy": "", "ja": "jpn_Jpan", "or": "ory_Orya",
    },
    "mgsm": {"de": "de", "sw": "sw", "th": "th", "zh": "zh", "en": "en", "ko": "", "te": "te"},
    "mgsm_direct": {"bn": "bn", "ru": "ru", "it": ""},
    "mgsm_en_cot": {"de": "de", "en": "en"},
    "multiblimp": {"en": "eng", "de": "deu", "fa": "fas", "ar": "arb", "hr": "hbs", "sr-Latn": "hbs", "sr": "", "zh": "", "no": "", "sq": "sqi",
                   "kmr": "kmr"},
    "xcopa": {"sw": "sw", "ht": "ht", "qu": "qu", "id": "id", "zh": "zh", "de": "", "et": "et"},
}  # fmt: skip


@pytest.mark.parametrize("family", NAMES)
def test_a_language_is_found_by_any_of_its_tags(family: str) -> None:
    known = names_in_the_wheel()
    found = {tag: FAMILIES[family].find(tag, known) for tag in NAMES[family]}
    others = FAMILIES[family].others
    assert found == {tag: others.format(language=name) if name else None for tag, name in NAMES[family].items()}


def test_xcopa_in_english_is_the_copa_that_it_translates() -> None:
    assert FAMILIES["xcopa"].find("en-GB", names_in_the_wheel()) == "copa"
    assert FAMILIES["xcopa"].find("en", {"xcopa_sw"}) is None


def test_every_task_of_a_family_names_its_language() -> None:
    silent = [
        name
        for name in names_in_the_wheel()
        for family in FAMILIES.values()
        if family.shape
        and re.fullmatch(f"{family.others.format(language='[a-z]{2,3}(_[A-Z][a-z]{3})?')}", name)
        and not language_of(name)
    ]
    # Of MultiBLiMP's 101 languages those that nobody speaks today, or few do: too like words to be taken for languages.
    assert {name.rpartition("_")[0] for name in silent} <= {"multiblimp"}
    assert len(silent) < 60
    named = {
        "belebele_zho_Hant": "zh-Hant", "belebele_zho_Hans": "zh", "belebele_swh_Latn": "sw", "multiblimp_deu": "de",
        "include_base_44_german": "de", "include_base_44_north_macedonian": "mk", "global_mmlu_full_sw": "sw", "mgsm_direct_bn": "bn",
        "xcopa_qu": "qu", "global_mmlu_de_stem": "de", "truthfulqa_es_mc1": "es", "gsm8k": "", "mmlu": "", "arc_challenge": "",
    }  # fmt: skip
    assert {name: language_of(name) for name in named} == named


def test_families_are_named_as_papers_spell_them() -> None:
    config = BenchmarksConfig(policy="p", families="Global-MMLU, INCLUDE,MultiBLiMP")
    assert config.families == ("global_mmlu", "include", "multiblimp")
    work, notes = plan(config.model_copy(update={"languages": ("de", "en", "sw")}), names_in_the_wheel())
    assert [(item.family, item.language, item.task) for item in work] == [
        ("global_mmlu", "de", "global_mmlu_de"), ("global_mmlu", "en", "global_mmlu_en"), ("global_mmlu", "sw", "global_mmlu_sw"),
        ("include", "de", "include_base_44_german"),
        ("multiblimp", "de", "multiblimp_deu"), ("multiblimp", "en", "multiblimp_eng"),
    ]  # fmt: skip
    assert notes == [
        "include has no task in en, sw; not measured there",
        "multiblimp has no task in sw; not measured there",
    ]


def test_a_tag_stands_for_its_tasks_and_nothing_is_measured_twice() -> None:
    known = {"mgsm_direct", "mgsm_direct_de", "mgsm_direct_th", "odd", "sums", "products"}
    parts = {"mgsm_direct": ("mgsm_direct_de", "mgsm_direct_th"), "odd": ("sums", "products")}
    config = BenchmarksConfig(
        policy="p", families=("mgsm_direct",), tasks=("mgsm_direct", "odd", "sums"), languages=("de",)
    )
    work, notes = plan(config, known, lambda name: parts.get(name, (name,)))
    assert [(item.family, item.language, item.task) for item in work] == [
        ("mgsm_direct", "de", "mgsm_direct_de"),
        ("mgsm_direct", "th", "mgsm_direct_th"),
        ("sums", "", "sums"),
        ("products", "", "products"),
    ]
    assert notes == ["mgsm_direct_de is named twice; measured once", "sums is named twice; measured once"]


def test_what_is_probably_meant_by_an_unknown_task_is_said() -> None:
    config = BenchmarksConfig(policy="p", families=(), tasks=("mgsm_direkt_de",))
    with pytest.raises(InputError, match="'mgsm_direkt_de', which lm-eval does not know, nearest is 'mgsm_direct_de'"):
        plan(config, {"mgsm_direct_de", "arc_de"})


@pytest.mark.parametrize(("given", "meant"), [(True, "yes"), (False, "no"), ("auto", "auto")])
def test_yes_and_no_are_words_in_every_yaml(given: object, meant: str) -> None:
    assert BenchmarksConfig(policy="p", chat=given).chat == meant
