"""How long a text is: words, sentences, paragraphs, and the first word of one of them."""

from __future__ import annotations

import re

from icr_platform.evaluation.instruction_checks.arguments import Arguments
from icr_platform.evaluation.instruction_checks.segmentation import sentences_of, words_of
from icr_platform.evaluation.instruction_checks.verdict import Answer, UnverifiedError
from icr_platform.evaluation.instruction_checks.writing import EDGE_QUOTES, UNSPACED, folded

_DIVIDER = re.compile(r"\s?\*\*\*\s?")


def has_words(arguments: Arguments, answer: Answer) -> bool:
    relation, number = arguments.relation(), arguments.number("num_words")
    return words_of(answer.text, answer.language, answer.prompt).stands(relation, number, "words")


def has_sentences(arguments: Arguments, answer: Answer) -> bool:
    relation, number = arguments.relation(), arguments.number("num_sentences")
    return sentences_of(answer.text, answer.language).stands(relation, number, "sentences")


def has_paragraphs(arguments: Arguments, answer: Answer) -> bool:
    """Exactly so many paragraphs, divided by `***`; an empty one between two dividers is a mistake, at either end it is none."""
    number = arguments.number("num_paragraphs")
    paragraphs = [paragraph.strip() for paragraph in _DIVIDER.split(answer.text.replace("＊", "*"))]
    return all(paragraphs[1:-1]) and sum(1 for paragraph in paragraphs if paragraph) == number


def has_first_word(arguments: Arguments, answer: Answer) -> bool:
    """Exactly so many paragraphs, divided by an empty line, and one of them starts with the word."""
    number, place = arguments.number("num_paragraphs"), arguments.number("nth_paragraph", least=1)
    word = arguments.text("first_word")
    if place > number:
        raise UnverifiedError("kwargs: 'nth_paragraph' is above 'num_paragraphs'")
    # IFEval divides at two line ends and counts what is not empty, but takes the nth of all pieces. Line ends of Windows are line ends.
    pieces = re.split(r"\n\n", answer.text.replace("\r\n", "\n"))
    if answer.is_english:
        count = sum(1 for piece in pieces if piece.strip())
    else:
        pieces = [piece for piece in re.split(r"\n[ \t\u3000]*\n", answer.text.replace("\r\n", "\n")) if piece.strip()]
        count = len(pieces)
    if count != number or place > len(pieces) or not pieces[place - 1].strip():
        return False
    paragraph = pieces[place - 1].strip()
    return (
        _english_first_word(paragraph) == word.lower()
        if answer.is_english
        else _starts_with(paragraph, word, answer.language)
    )


def _english_first_word(paragraph: str) -> str:
    """The first word as IFEval reads it: up to the first of its marks, without the quotation marks before it."""
    first = paragraph.split()[0].lstrip("'").lstrip('"')
    return re.split(r"[.,?!'\"]", first, maxsplit=1)[0].lower()


def _starts_with(paragraph: str, word: str, language: str) -> bool:
    """Whether the paragraph begins with a word or phrase, which another word may only follow where no spaces stand between them."""
    text = folded(paragraph, language).lstrip(EDGE_QUOTES + "¿¡ \u3000")
    wanted = folded(word, language).strip(EDGE_QUOTES + " ")
    if not wanted:
        raise UnverifiedError("kwargs: 'first_word' has no letters")
    rest = text[len(wanted) :]
    is_word = (
        not rest
        or bool(re.match(f"[{UNSPACED}]", wanted[-1]))
        or bool(re.match(r"[^\w\u0300-\u036f\u0900-\u0dff]", rest))
    )
    return text.startswith(wanted) and is_word
