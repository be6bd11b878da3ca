"""Checkers of verifiable instructions against texts that were labelled by hand."""

from __future__ import annotations

import itertools
from collections import defaultdict
from typing import Any

import pytest

from icr_platform.evaluation.instruction_checks import KINDS, check, check_loosely
from tests.support.instruction_cases import CASES, Case


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.kind}-{case.language}-{case.text[:20]!a}")
def test_checks_are_what_was_labelled(case: Case) -> None:
    strict = check(case.kind, case.kwargs, case.text, case.language, case.prompt)
    loose = check_loosely(case.kind, case.kwargs, case.text, case.language, case.prompt)
    assert (strict.followed, loose.followed) == (case.strict, case.loose), strict.reason
    assert bool(strict.reason) == (case.strict is None)


def test_the_table_has_both_outcomes_of_every_kind_in_many_languages() -> None:
    outcomes = defaultdict(set)
    for case in CASES:
        outcomes[case.kind].add(case.strict)
    assert set(outcomes) == set(KINDS)
    assert {kind for kind, found in outcomes.items() if not {True, False} <= found} == set()
    assert len(CASES) >= 220
    assert len({case.language for case in CASES}) >= 10


_FITTING: dict[str, dict[str, Any]] = {
    "keywords:existence": {"keywords": ["tea"]},
    "keywords:frequency": {"keyword": "tea", "frequency": 1, "relation": "at least"},
    "keywords:forbidden_words": {"forbidden_words": ["tea"]},
    "keywords:letter_frequency": {"letter": "t", "let_frequency": 1, "let_relation": "at least"},
    "language:response_language": {"language": "en"},
    "length_constraints:number_sentences": {"num_sentences": 1, "relation": "at least"},
    "length_constraints:number_paragraphs": {"num_paragraphs": 1},
    "length_constraints:number_words": {"num_words": 1, "relation": "at least"},
    "length_constraints:nth_paragraph_first_word": {"num_paragraphs": 1, "nth_paragraph": 1, "first_word": "tea"},
    "detectable_content:number_placeholders": {"num_placeholders": 1},
    "detectable_content:postscript": {"postscript_marker": "P.S."},
    "detectable_format:number_bullet_lists": {"num_bullets": 1},
    "detectable_format:number_highlighted_sections": {"num_highlights": 1},
    "detectable_format:multiple_sections": {"section_spliter": "Part", "num_sections": 1},
    "combination:repeat_prompt": {"prompt_to_repeat": "Tea?"},
    "startend:end_checker": {"end_phrase": "Tea."},
    "change_case:capital_word_frequency": {"capital_frequency": 1, "capital_relation": "at least"},
}
_UNFIT: tuple[Any, ...] = (None, "", "12", "soon", -1, 2.5, float("nan"), True, [], [3], {}, {"a": 1}, b"x")


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_kwargs_that_do_not_fit_leave_it_unverified(kind: str) -> None:
    """Whatever stands in an argument, the answer is a verdict; and what is missing, of another type or null is named."""
    fitting = _FITTING.get(kind, {})
    for name, right in fitting.items():
        others = {key: value for key, value in fitting.items() if key != name}
        for unfit in (others, *({**others, name: value} for value in _UNFIT if not _is_like(value, right))):
            for text in ("Tea is ready.", ""):
                verdict = check(kind, unfit, text, "en")
                assert verdict.followed is None, (unfit, text)
                assert name in verdict.reason
    for kwargs in (7, ["a"], "not JSON"):
        assert fitting == {} or check(kind, kwargs, "Tea is ready.", "en").followed is None


def _is_like(value: Any, right: Any) -> bool:
    """Whether the value is of the type that the argument needs; what such a value means is for the table above."""
    return isinstance(value, str) and isinstance(right, str) and value != "" and right not in ("at least", "t", "en")


_LANGUAGES = ("en", "th", "zh-Hant", "swh_Latn", "tlh", "no language at all", "")
_ODD_TEXTS = ("", " \n", "\0", "\ud800 a", "***", "[" * 9, "é́́" * 30, "🏳️‍🌈" * 9, "٣" * 9, "a\r\nb\x85c")


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_no_text_and_no_language_raises(kind: str) -> None:
    for language, text in itertools.product(_LANGUAGES, _ODD_TEXTS):
        kwargs = _FITTING.get(kind, {})
        strict, loose = check(kind, kwargs, text, language), check_loosely(kind, kwargs, text, language)
        assert (strict.followed is None) == (loose.followed is None)
        assert not strict.followed or loose.followed
        assert text.strip() or not strict.followed


@pytest.mark.parametrize("word", ['"', "\u0640", "\u00ad", "\u200d", "\u064b", "(", "[a", "\\\\", "*", "ß", "\ud800"])
def test_whatever_a_word_of_kwargs_is_made_of(word: str) -> None:
    """Signs that disappear when words are compared are no words, and signs of patterns are signs."""
    for kind, fitting in _FITTING.items():
        for name, right in fitting.items():
            if name not in ("relation", "let_relation", "capital_relation") and not isinstance(right, int):
                kwargs = {**fitting, name: [word] if isinstance(right, list) else word}
                for language in ("en", "ar", "fr", "th"):
                    verdict = check(kind, kwargs, f"Tea is ready. {word}", language, f"Tea? {word}")
                    assert verdict.reason or verdict.followed is not None


def test_an_unknown_kind_is_named() -> None:
    verdict = check("poetry:rhymes", {"scheme": "abab"}, "Tea is ready.", "en")
    assert verdict.followed is None
    assert "poetry:rhymes" in verdict.reason


def test_kwargs_come_as_files_have_them() -> None:
    """Nulls of the other kinds beside them, the text of a JSON object (Multi-IF), integers that a table made floats."""
    nulls = {"num_words": None, "letter": None, "num_bullets": 1.0}
    for kwargs in (nulls, '{"num_bullets": 1, "letter": null}'):
        assert check("detectable_format:number_bullet_lists", kwargs, "* tea", "fr").followed is True
