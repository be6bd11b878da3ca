"""Texts of models and people as they were meant: Markdown, code and tables in a safe subset of HTML, with marks laid over them.

Every text goes through `shown_text`. It holds the text twice where it has formatting: formatted, and as it was written; a key of the page
chooses. Nothing in it loads, links or runs: our own tags are the only ones, and a sanitiser lets only those pass.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from itertools import groupby
from typing import NamedTuple

import nh3
from markupsafe import Markup, escape

from icr_platform.core.language_tags import is_right_to_left
from ui.html.markdown_pieces import RIGHT_TO_LEFT, Run, direction_of, formatted

LONGEST_FORMATTED = 60_000
"""Characters; a longer text is shown as it was written, so that no text keeps the page waiting."""
_TAGS = {
    "p", "div", "span", "mark", "em", "strong", "s", "code", "pre", "blockquote", "ul", "ol", "li", "hr", "table", "thead", "tbody", "tr",
    "th", "td",
}  # fmt: skip
_ATTRIBUTES = {"*": {"class", "dir", "title", "role", "tabindex", "aria-label"}, "ol": {"start"}}


class Mark(NamedTuple):
    """What is said of the characters [start, end) of a text.

    kind: 'foreign' (a line in another language), 'chosen' or 'rejected' (a difference from the text beside it), 'hit' (of a search).
    """

    start: int
    end: int
    kind: str
    title: str = ""


_LAYERS = {"foreign": 0, "chosen": 1, "rejected": 1, "": 1, "hit": 2}
"""Which marks lie around which: differences within a line, hits within differences."""


def shown_text(text: str, marks: Sequence[Mark] = (), language: str = "") -> Markup:
    """A text in its formatting, and as it was written where that is something else; for within an element of class `text`.

    marks: over both, by places in the text. language: whose direction the element has, '' for the text's own.

    >>> shown_text("plain <b>text</b>")
    Markup('<div class="written only">plain &lt;b&gt;text&lt;/b&gt;</div>')
    >>> shown_text("*a*", [Mark(1, 2, "hit")])
    Markup('<div class="formatted"><p><em><mark class="hit">a</mark></em></p></div><div class="written">*<mark class="hit">a</mark>*</div>')
    """
    text = text.replace("\x00", "\ufffd")  # which no page can hold
    layers = _layers(marks, len(text))
    base = is_right_to_left(language)
    found = formatted(lined(text), base) if len(text) <= LONGEST_FORMATTED else None
    own = direction_of(text) if base or RIGHT_TO_LEFT.search(text) else ""
    direction = f" dir='{own}'" if own else ""
    written = _lines(text, layers) if own else _marked(text, range(len(text)), layers)
    if found is None or found.is_plain:
        return _clean(f"<div class='written only'{direction}>{written}</div>")
    parts = "".join(
        _marked(piece.text, piece.places, layers) if isinstance(piece, Run) else piece.html for piece in found.pieces
    )
    return _clean(f"<div class='formatted'>{parts}</div><div class='written'{direction}>{written}</div>")


def marked_line(text: str, query: str) -> Markup:
    """A short text on one line, such as a list's, with the hits of a search.

    >>> marked_line("a <b>", "B")
    Markup('a &lt;<mark class="hit">b</mark>&gt;')
    """
    return Markup(_marked(text, range(len(text)), _layers(hits(text, query), len(text))))


def hits(text: str, query: str) -> list[Mark]:
    """Where a search finds its words in a text, whatever their case, as the list of pairs is searched.

    >>> hits("One or two ONES", "one")
    [Mark(start=0, end=3, kind='hit', title=''), Mark(start=11, end=14, kind='hit', title='')]
    """
    if not query:
        return []
    return [Mark(*match.span(), "hit") for match in re.finditer(re.escape(query), text, re.IGNORECASE)]


def lined(text: str) -> str:
    r"""The text with line feeds alone, of the same length, so that places in it are places in the text.

    >>> lined("a\r\nb\rc")
    'a \nb\nc'
    """
    return text.replace("\r\n", " \n").replace("\r", "\n")


def _lines(text: str, layers: Sequence[list[Mark | None]]) -> str:
    """HTML of a text whose lines run in different directions, each in its own; of any other one without more."""
    lines = text.splitlines(keepends=True)
    directions = [direction_of(line) for line in lines]
    if len({*directions} - {""}) < 2:
        return _marked(text, range(len(text)), layers)
    parts, at = [], 0
    for line, own in zip(lines, directions, strict=True):
        direction = f" dir='{own}'" if own else ""
        parts.append(f"<span class='line'{direction}>{_marked(line, range(at, at + len(line)), layers)}</span>")
        at += len(line)
    return "".join(parts)


def _layers(marks: Sequence[Mark], length: int) -> list[list[Mark | None]]:
    """Per layer that has marks, the mark of each character."""
    found: dict[int, list[Mark | None]] = {}
    for mark in marks:
        layer = found.setdefault(_LAYERS[mark.kind], [None] * length)
        for place in range(max(mark.start, 0), min(mark.end, length)):
            layer[place] = mark
    return [found[number] for number in sorted(found)]


def _marked(text: str, places: Sequence[int], layers: Sequence[list[Mark | None]]) -> str:
    """HTML of a run of text under its marks, the first layer outermost."""
    if not layers or not places:
        return str(escape(text))
    layer, parts, at = layers[0], [], 0
    for mark, group in groupby(places, lambda place: layer[place]):
        size = sum(1 for _ in group)
        inner = _marked(text[at : at + size], places[at : at + size], layers[1:])
        parts.append(inner if mark is None else _element(mark, inner))
        at += size
    return "".join(parts)


def _element(mark: Mark, inner: str) -> str:
    if mark.kind == "foreign":
        return f'<span class="foreign" dir="auto" title="{escape(mark.title)}">{inner}</span>'
    return f'<mark class="{mark.kind}">{inner}</mark>' if mark.kind else f"<mark>{inner}</mark>"


@cache
def _cleaner() -> nh3.Cleaner:
    return nh3.Cleaner(tags=_TAGS, attributes=_ATTRIBUTES, link_rel=None, url_schemes=set())


def _clean(html: str) -> Markup:
    """The second wall: whatever a fault in the parser or here let through, no other tag or attribute passes."""
    return Markup(_cleaner().clean(html))
