"""Keywords and letters: whether they are there, and how often.

IFEval's definitions: a keyword is found as a part of words, too, and a forbidden word only as a word of its own. Its code takes keywords
for patterns, so that `C++` raises an error and `a.b` finds `axb`; here they are texts.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

import regex

from icr_platform.evaluation.instruction_checks.arguments import Arguments, Count
from icr_platform.evaluation.instruction_checks.verdict import Answer, UnverifiedError
from icr_platform.evaluation.instruction_checks.writing import UNSPACED, VOWEL_POINTS, folded, look_alikes, lower

_IS_UNSPACED = re.compile(f"[{UNSPACED}]")
_ARABIC_ARTICLE = "(?:[وفبك]?ال|و?لل)"
_KOREAN_PARTICLE = "(?:은|는|이|가|을|를|에|의|도|만|와|과|로|으로|에서|에게|부터|까지|처럼|보다|이나|나|이라|라)"
_CYRILLIC = frozenset(["ru", "uk", "be", "bg", "sr", "mk", "kk", "ky", "mn", "tg"])


def has_keywords(arguments: Arguments, answer: Answer) -> bool:
    text = folded(answer.text, answer.language)
    return all(_keyword(keyword, answer.language) in text for keyword in arguments.texts("keywords"))


def has_keyword_often(arguments: Arguments, answer: Answer) -> bool:
    keyword = _keyword(arguments.text("keyword"), answer.language)
    relation, number = arguments.relation(), arguments.number("frequency")
    return Count.of(folded(answer.text, answer.language).count(keyword)).stands(relation, number, "keywords")


def avoids_words(arguments: Arguments, answer: Answer) -> bool:
    text = folded(answer.text, answer.language)
    words = [_keyword(word, answer.language) for word in arguments.texts("forbidden_words")]
    return not any(_as_a_word(word, answer.language).search(text) for word in words)


def _keyword(keyword: str, language: str) -> str:
    if not (found := folded(keyword, language).strip()):
        raise UnverifiedError(f"kwargs: {keyword!r} is not a word")
    return found


@lru_cache(maxsize=4096)
def _as_a_word(word: str, language: str) -> regex.Pattern[str]:
    r"""Finds a word that is not part of a longer one.

    `\b` would end words at the vowel signs of Bengali or Hindi, and finds no word within a run of Chinese or Thai, where any place may
    be the end of one. Arabic writes the article, and what precedes it, together with its noun, and Korean the particle.
    """
    inside = r"[\p{L}\p{M}\p{N}_]"
    before = "" if _IS_UNSPACED.match(word) else rf"(?<!{inside})"
    after = "" if _IS_UNSPACED.match(word[-1]) else rf"(?!{inside})"
    if language in ("ar", "arz", "apc", "ary") and before and not word.startswith("ال"):
        before = rf"{before}{_ARABIC_ARTICLE}?"
    if language == "ko" and after:
        after = rf"{_KOREAN_PARTICLE}?{after}"
    return regex.compile(before + regex.escape(word) + after)


def has_letter_often(arguments: Arguments, answer: Answer) -> bool:
    """Counts a letter in either case, composed or not.

    A mark that makes another letter of it (é, क़) tells them apart, while a vowel sign or a virama does not: कि has a क. Cyrillic and
    Latin letters that look alike count as one in languages with Cyrillic letters, whose prompts were typed with either. IFEval's code
    takes a random letter for whatever is not one of a to z.
    """
    letter, relation = unicodedata.normalize("NFC", arguments.text("letter")), arguments.relation("let_relation")
    number = arguments.number("let_frequency")
    if len(regex.findall(r"\X", letter)) != 1:
        raise UnverifiedError(f"kwargs: 'letter' is {letter!r}, which is not one letter")
    count = _hangul_count(letter, answer.text)
    if count is None:
        text, wanted = _letters(answer.text, answer.language), _letters(letter, answer.language)
        count = len(regex.findall(regex.escape(wanted) + _SAME_LETTER, text, regex.VERSION1))
    return Count.of(count).stands(relation, number, "letters")


_SAME_LETTER = r"(?![\p{Script=Inherited}&&\p{Mn}]|[\u093c\u09bc\u0a3c\u0abc\u0b3c])"
"""Nothing follows that makes another letter: an accent, which is of no script, or a nukta."""


def _letters(text: str, language: str) -> str:
    """Small letters in one encoding, full-width ones as others; ligatures and digraphs (ǆ) as the letters that they join."""
    small = VOWEL_POINTS.sub("", lower(unicodedata.normalize("NFKC", text), language))
    return look_alikes(small) if language in _CYRILLIC else small


def _hangul_count(letter: str, text: str) -> int | None:
    """How often a Korean consonant or vowel stands in syllables; None for all that is not one."""
    if not "\u3131" <= letter <= "\u3163":
        return None
    name = unicodedata.name(letter).removeprefix("HANGUL LETTER ")
    parts = unicodedata.normalize("NFD", text)
    return sum(
        1 for part in parts if "\u1100" <= part <= "\u3163" and unicodedata.name(part, "").rpartition(" ")[2] == name
    )
