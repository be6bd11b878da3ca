"""How a text begins and ends: in quotation marks, with a phrase, with a postscript; and two texts in one, or the prompt again."""

from __future__ import annotations

import re

from icr_platform.evaluation.instruction_checks.arguments import Arguments
from icr_platform.evaluation.instruction_checks.verdict import Answer, UnverifiedError
from icr_platform.evaluation.instruction_checks.writing import COMMAS, EDGE_QUOTES, folded, is_wrapped_in_quotes, phrase

_POSTSCRIPTS = {"p.p.s": re.compile(r"p\.\s?p\.\s?s"), "p.s": re.compile(r"p\.\s?s\.")}
"""IFEval's patterns, for a text in small letters."""
_TWO = "******"


def has_no_comma(arguments: Arguments, answer: Answer) -> bool:
    return not COMMAS.search(answer.text)


def is_quoted(arguments: Arguments, answer: Answer) -> bool:
    return is_wrapped_in_quotes(answer.text, answer.language)


def ends_with_the_phrase(arguments: Arguments, answer: Answer) -> bool:
    """Quotation marks after the phrase belong to the whole answer, and those that a file has around it to the file."""
    wanted = phrase(arguments.text("end_phrase").strip(EDGE_QUOTES), answer.language)
    if not wanted:
        raise UnverifiedError("kwargs: 'end_phrase' has no words")
    ending = phrase(answer.text[-2 * len(wanted) - 200 :], answer.language).rstrip(EDGE_QUOTES + " ")
    return ending.endswith(wanted.rstrip(EDGE_QUOTES + " "))


def has_postscript(arguments: Arguments, answer: Answer) -> bool:
    marker = arguments.text("postscript_marker")
    pattern = _POSTSCRIPTS.get(marker.lower().rstrip("."))
    if pattern is not None:
        return bool(pattern.search(answer.text.lower()))
    # Other markers are words of the language: they begin one.
    begin = re.escape(folded(marker, answer.language))
    return bool(re.search(rf"(?<!\w){begin}", folded(answer.text, answer.language)))


def has_two_responses(arguments: Arguments, answer: Answer) -> bool:
    """Two different ones, with six asterisks between them, and maybe at the ends, too."""
    parts = [part.strip() for part in answer.text.replace("＊", "*").split(_TWO)]
    responses = [part for part in parts if part]
    return all(parts[1:-1]) and len(responses) == 2 and responses[0] != responses[1]


def repeats_the_prompt(arguments: Arguments, answer: Answer) -> bool:
    """Begins with the request word for word, whatever the case, blanks and kind of apostrophes.

    Raises:
        UnverifiedError: the prompt does not have the words that kwargs say are to be repeated: an answer would have to repeat others.
    """
    request, prompt = (phrase(text, answer.language) for text in (arguments.text("prompt_to_repeat"), answer.prompt))
    if prompt and request not in prompt:
        if request[1:] not in prompt:
            raise UnverifiedError("kwargs: 'prompt_to_repeat' is not part of the prompt")
        request = request[1:]  # a letter of another script that a translation left before it
    return phrase(answer.text, answer.language).startswith(request)
