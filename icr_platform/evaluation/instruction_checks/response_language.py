"""Whether a text is in a language, by an identifier that comes with the platform.

IFEval asks langdetect, which gives other answers from run to run, and takes what has no features for an answer in whatever language was
asked for. Here such a text, and one that is too short to be told from other languages of its script, is unverified.
"""

from __future__ import annotations

from functools import cache

import regex

from icr_platform.core.language_tags import read_tag
from icr_platform.core.languages import NAMES, counts_as, is_language, language_label, too_short
from icr_platform.engines.identification.language_id import Identifier, has_letters, make_identifier
from icr_platform.evaluation.instruction_checks.arguments import Arguments
from icr_platform.evaluation.instruction_checks.verdict import Answer, UnverifiedError

_CODES = {name.lower(): code for code, name in NAMES.items()}
_SURE = 0.5  # of the probability: below it most of the answers that were taken for another language were names, code or a few words
_SCRIPTS = {"Hans": ("Hani",), "Hant": ("Hani",), "Jpan": ("Hani", "Hira", "Kana"), "Kore": ("Hang", "Hani")}


def is_in_the_language(arguments: Arguments, answer: Answer) -> bool:
    said = arguments.text("language")
    language = said if is_language(said) else _CODES.get(said.lower(), "")
    if not language:
        raise UnverifiedError(f"kwargs: 'language' is {said!r}, which is not a language")
    return not answer.text.strip() or is_in(language, answer.text)


def is_in(language: str, text: str) -> bool:
    """Whether the text is in the language.

    Raises:
        UnverifiedError: the identifier does not know the language, or cannot tell which one the text is in.
    """
    if not has_letters(text):
        raise UnverifiedError("a text without letters is in no language")
    if not _script(language).search(text):
        return False
    identifier = _identifier()
    if not identifier.knows(language):
        raise UnverifiedError(f"{identifier.name} does not know {language_label(language)}")
    [found] = identifier.of_answers([language], [text])
    if counts_as(language, found.language):
        return True
    if too_short(text) or found.confidence < _SURE:
        raise UnverifiedError("the text is too short, or has too little of a language, to be told from other languages")
    return False


@cache
def _script(language: str) -> regex.Pattern[str]:
    """Finds a letter of the script in which the language is written; any letter where that is not known."""
    written = read_tag(language).written
    scripts = _SCRIPTS.get(written, (written,) if written and written not in ("Aran", "Latf", "Latg", "Hanb") else ())
    return regex.compile("|".join(rf"\p{{Script={script}}}" for script in scripts) or r"\p{L}")


@cache
def _identifier() -> Identifier:
    return make_identifier("langid")
