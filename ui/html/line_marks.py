"""What is marked in a text: lines in another language than was asked for, differences from the text beside it, and search hits. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from typing import NamedTuple

from ui.html.rendering import language_label
from ui.html.texts import Mark, hits
from ui.html.word_diff import Span

Marker = Callable[[str, str], Sequence[tuple[int, str]]]
"""(text, asked language) -> (index of a line among those split at "\\n", what it was taken for; 'und' for nothing)."""


class MarkedText(NamedTuple):
    """A text, its marks, and the number (from 1) and language of each line in another language."""

    text: str
    marks: list[Mark]
    foreign: list[tuple[int, str]]


def mark_nothing(text: str, language: str) -> Sequence[tuple[int, str]]:
    """Stands for a marker where none is handed in."""
    return ()


def marked(
    text: str, languages: Mapping[int, str], differences: Sequence[Span] = (), side: str = "", query: str = ""
) -> MarkedText:
    r"""A text with what is to be marked in it.

    Args:
        languages: of the lines to mark, by index among those split at line feeds, and nowhere else: other line breaks are none to the marker.
        differences: places; side: what they are marked as, 'chosen' or 'rejected'.
        query: a search whose hits are marked.

    >>> marked("Sí.\nYes, it is.", {1: "en"}).marks
    [Mark(start=4, end=15, kind='foreign', title='This line is taken for English')]
    """
    lines = text.split("\n")
    starts = [0, *accumulate(len(line) + 1 for line in lines)]
    foreign = [(index, language) for index, language in sorted(languages.items()) if language and index < len(lines)]
    marks = [
        Mark(starts[index], starts[index] + len(lines[index]), "foreign", _taken_for(code)) for index, code in foreign
    ]
    marks += [Mark(span.start, span.end, side) for span in differences]
    return MarkedText(text, [*marks, *hits(text, query)], [(index + 1, code) for index, code in foreign])


def _taken_for(code: str) -> str:
    if code == "und":
        return "The language of this line cannot be told"
    return f"This line is taken for {language_label(code)}"
