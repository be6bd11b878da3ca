"""Texts in lines, those in another language than was asked for marked, over the marks of a comparison. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from ui.html.word_diff import Segment

Marker = Callable[[str, str], Sequence[tuple[int, str]]]
"""(text, asked language) -> (index of a line among those split at "\\n", what it was taken for; 'und' for nothing)."""


class Line(NamedTuple):
    """A line in segments, the line break that ends it among them. language: what it was taken for; '' for a line that is not marked."""

    segments: list[Segment]
    language: str


class MarkedText(NamedTuple):
    """A text in lines; joining all segments gives it back."""

    lines: list[Line]

    @property
    def foreign(self) -> list[tuple[int, str]]:
        """Number from 1, and language, of each line that is marked."""
        return [(number, line.language) for number, line in enumerate(self.lines, 1) if line.language]


def mark_nothing(text: str, language: str) -> Sequence[tuple[int, str]]:
    """Stands for a marker where none is handed in."""
    return ()


def marked(segments: Sequence[Segment], languages: Mapping[int, str]) -> MarkedText:
    """The lines of a text that is in segments. languages: of the lines to mark, by index.

    >>> found = marked([Segment("Sí.", True), Segment("\\nYes, it is.", False)], {1: "en"})
    >>> [(line.language, [segment.text for segment in line.segments]) for line in found.lines], found.foreign
    ([('', ['Sí.', '\\n']), ('en', ['Yes, it is.'])], [(2, 'en')])
    """
    lines: list[list[Segment]] = [[]]
    for segment in segments:
        for piece in _pieces(segment.text):
            lines[-1].append(Segment(piece, segment.is_shared))
            if piece.endswith("\n"):
                lines.append([])
    return MarkedText([Line(found, languages.get(index, "")) for index, found in enumerate(lines)])


def _pieces(text: str) -> list[str]:
    """The text cut behind every line feed, and nowhere else: other line breaks are none to the marker.

    >>> _pieces("a\\n\\nb\\rc"), _pieces("")
    (['a\\n', '\\n', 'b\\rc'], [])
    """
    *ended, rest = text.split("\n")
    return [f"{line}\n" for line in ended] + ([rest] if rest else [])
