"""Capital and small letters. Where neither the language nor the answer has them, nothing can be said.

IFEval's two kinds ask for English. Prompts in other languages say so in their own words, and the answer is then English, too; where they
do not, the answer is in their language.
"""

from __future__ import annotations

import re
import unicodedata

from icr_platform.core.languages import language_label
from icr_platform.evaluation.instruction_checks.arguments import Arguments, Count
from icr_platform.evaluation.instruction_checks.response_language import is_in
from icr_platform.evaluation.instruction_checks.verdict import Answer, UnverifiedError
from icr_platform.evaluation.instruction_checks.writing import has_case, names_english

_TOKEN = re.compile(r"[^\s,;:!?()\[\]{}\"“”„«»。，、！？；：…]+")
_ENGLISH_TOKEN = re.compile(r"[^\s,;:!?()\[\]{}\"“”'’]+")


def is_all_capital(arguments: Arguments, answer: Answer) -> bool:
    return _is_all(answer, "Lu", {"Ll", "Lt"})


def is_all_small(arguments: Arguments, answer: Answer) -> bool:
    return _is_all(answer, "Ll", {"Lu", "Lt"})


def _is_all(answer: Answer, wanted: str, others: set[str]) -> bool:
    language = _language_with_case(answer)
    # ß has no capital that everyone writes, and ª and º are ordinals' signs.
    categories = {unicodedata.category(letter) for letter in answer.text if letter != "ß"}
    return wanted in categories and not categories & others and (language != "en" or _may_be_english(answer.text))


def _may_be_english(text: str) -> bool:
    """Whether it is, in small letters, which identifiers know best; a text too short to tell is taken by its letters alone."""
    try:
        return is_in("en", text.lower())
    except UnverifiedError:
        return True


def _language_with_case(answer: Answer) -> str:
    """The language that the answer must be in.

    Raises:
        UnverifiedError: it has no capital letters.
    """
    language = "en" if names_english(answer.prompt) else answer.language
    if not has_case(language):
        raise UnverifiedError(f"{language_label(language)} has no capital letters")
    return language


def has_capital_words_often(arguments: Arguments, answer: Answer) -> bool:
    """Counts words of capital letters only, "I" included. NLTK's words, which IFEval counts in English, end at an apostrophe."""
    relation, number = arguments.relation("capital_relation"), arguments.number("capital_frequency")
    token = _ENGLISH_TOKEN if _language_with_case(answer) == "en" else _TOKEN
    count = sum(1 for word in token.findall(answer.text) if _is_capital(word))
    return Count.of(count).stands(relation, number, "capital words")


def _is_capital(word: str) -> bool:
    categories = {unicodedata.category(letter) for letter in word if letter not in "ßªº"}
    return "Lu" in categories and not categories & {"Ll", "Lt"}
