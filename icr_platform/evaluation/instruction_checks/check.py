"""The table of all kinds of instructions, and the check of a text, strict or loose."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from icr_platform.evaluation.instruction_checks import ends, formats, keywords, lengths, letter_case, response_language
from icr_platform.evaluation.instruction_checks.arguments import Arguments
from icr_platform.evaluation.instruction_checks.verdict import Answer, UnverifiedError, Verdict
from icr_platform.evaluation.instruction_checks.writing import base_language

Checker = Callable[[Arguments, Answer], bool]

KINDS: dict[str, Checker] = {
    "keywords:existence": keywords.has_keywords,
    "keywords:frequency": keywords.has_keyword_often,
    "keywords:forbidden_words": keywords.avoids_words,
    "keywords:letter_frequency": keywords.has_letter_often,
    "language:response_language": response_language.is_in_the_language,
    "length_constraints:number_sentences": lengths.has_sentences,
    "length_constraints:number_paragraphs": lengths.has_paragraphs,
    "length_constraints:number_words": lengths.has_words,
    "length_constraints:nth_paragraph_first_word": lengths.has_first_word,
    "detectable_content:number_placeholders": formats.has_placeholders,
    "detectable_content:postscript": ends.has_postscript,
    "detectable_format:number_bullet_lists": formats.has_bullets,
    "detectable_format:constrained_response": formats.is_one_of_the_options,
    "detectable_format:number_highlighted_sections": formats.has_highlights,
    "detectable_format:multiple_sections": formats.has_sections,
    "detectable_format:json_format": formats.is_json,
    "detectable_format:title": formats.has_title,
    "combination:two_responses": ends.has_two_responses,
    "combination:repeat_prompt": ends.repeats_the_prompt,
    "startend:end_checker": ends.ends_with_the_phrase,
    "startend:quotation": ends.is_quoted,
    "change_case:capital_word_frequency": letter_case.has_capital_words_often,
    "change_case:english_capital": letter_case.is_all_capital,
    "change_case:english_lowercase": letter_case.is_all_small,
    "punctuation:no_comma": ends.has_no_comma,
}
"""Checkers by the ids of IFEval, Marco-Bench-MIF and Multi-IF."""


def check(instruction_id: str, kwargs: Any, text: str, language: str, prompt: str = "") -> Verdict:
    """Whether a text follows an instruction, to the letter (IFEval's strict check).

    Args:
        instruction_id: as in the file; one that is not of KINDS is unverified.
        kwargs: of the instruction, as in the file.
        text: what the model answered, without its thoughts. An empty one follows no instruction.
        language: tag of the language that the prompt is in.
        prompt: that the text answers: localised prompts name options, what is counted and the language there, and not in kwargs.

    >>> check("keywords:existence", {"keywords": ["ciel"]}, "Le ciel est bleu.", "fr").followed
    True
    >>> check("change_case:english_capital", {}, "สวัสดี", "th")
    Verdict(followed=None, reason='Thai has no capital letters')
    """
    checker = KINDS.get(instruction_id)
    if checker is None:
        return Verdict(None, f"{instruction_id!r} is not a kind of instruction that has a checker")
    try:
        # An argument that does not fit does so for every text, an empty one included.
        is_followed = checker(Arguments.of(kwargs), Answer(text, base_language(language), prompt))
    except UnverifiedError as error:
        return Verdict(None, str(error))
    return Verdict(is_followed and bool(text.strip()))


def check_loosely(instruction_id: str, kwargs: Any, text: str, language: str, prompt: str = "") -> Verdict:
    """Whether a text follows an instruction once an introduction, a closing remark or Markdown's asterisks are taken from it.

    IFEval's loose check: one of eight variants follows it. What is unverified to the letter is so here, too, and a variant that leaves
    too little to verify does not follow, so that both checks count the same answers. Arguments are those of `check`.
    """
    strict = check(instruction_id, kwargs, text, language, prompt)
    if strict.followed is not False:
        return strict
    others = dict.fromkeys(variants(text))
    return Verdict(any(check(instruction_id, kwargs, other, language, prompt).followed for other in others))


def variants(text: str) -> Iterator[str]:
    """The text, and the same without its first line, its last one, and both; each also without asterisks.

    >>> list(variants("Sure:\\n*a*"))
    ['Sure:\\n*a*', 'Sure:\\na', '*a*', 'a', 'Sure:', 'Sure:', '', '']
    """
    lines = text.split("\n")
    whole = (text, *("\n".join(part).strip() for part in (lines[1:], lines[:-1], lines[1:-1])))
    for variant in whole:
        yield variant
        yield variant.replace("*", "")
