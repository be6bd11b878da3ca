"""Whether a text is in a language, by the identifier that comes with the platform."""

from __future__ import annotations

from functools import cache

from icr_platform.core.languages import NAMES, counts_as, is_language, language_name
from icr_platform.engines.identification.language_id import Identifier, make_identifier
from icr_platform.evaluation.instruction_checks.arguments import Arguments
from icr_platform.evaluation.instruction_checks.verdict import Answer, UnverifiedError

_CODES = {name.lower(): code for code, name in NAMES.items()}


def is_in_the_language(arguments: Arguments, answer: Answer) -> bool:
    said = arguments.text("language")
    language = said if is_language(said) else _CODES.get(said.lower(), "")
    if not language:
        raise UnverifiedError(f"kwargs: 'language' is {said!r}, which is not a language")
    return is_in(language, answer.text)


def is_in(language: str, text: str) -> bool:
    """Whether the text is in the language.

    Raises:
        UnverifiedError: the identifier does not know the language.
    """
    identifier = _identifier()
    if not identifier.knows(language):
        raise UnverifiedError(f"{identifier.name} does not know {language_name(language)}")
    [found] = identifier.of_answers([language], [text])
    return counts_as(language, found.language)


@cache
def _identifier() -> Identifier:
    return make_identifier("langid")
