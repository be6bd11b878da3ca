"""Two texts compared word by word, or letter by letter in scripts without spaces. Pure."""

from __future__ import annotations

import difflib
import unicodedata
from functools import cache
from typing import NamedTuple

LEAST_SHARED = 0.25
"""Of the longer text; if less is shared, nearly everything would be marked, and nothing is."""
LONGEST_DIFF = 4000
"""Tokens of both texts; beyond it a diff takes seconds."""
JOINERS = "\u200c\u200d"
"""Invisible, but part of the spelling of Persian and of Indic scripts."""
_SPACELESS = ("CJK", "HIRAGANA", "KATAKANA", "THAI", "LAO", "KHMER", "MYANMAR")


class Segment(NamedTuple):
    """A run of text and whether the other text has it too."""

    text: str
    is_shared: bool


class Diff(NamedTuple):
    """Both texts in segments."""

    left: list[Segment]
    right: list[Segment]
    note: str
    """Why nothing is marked, '' when something is; then each side is one segment."""

    @property
    def told(self) -> str:
        """What the marks mean, or why there are none."""
        if self.note:
            return self.note
        is_same = all(segment.is_shared for segment in (*self.left, *self.right))
        return "Both texts are the same." if is_same else "Marked words are in one of the two only."


def word_diff(left: str, right: str) -> Diff:
    """Both texts in segments; joining a side's segments gives its text back."""
    a, b = tokens(left), tokens(right)
    if len(a) + len(b) > LONGEST_DIFF:
        return Diff([Segment(left, True)], [Segment(right, True)], "These texts are too long to compare word by word.")
    # autojunk would call frequent words junk, but keeps texts of thousands of letters fast.
    matcher = difflib.SequenceMatcher(None, a, b, autojunk=len(a) + len(b) > 1000)
    sides: tuple[list[Segment], list[Segment]] = ([], [])
    for tag, a0, a1, b0, b1 in matcher.get_opcodes():
        for side, words in ((sides[0], a[a0:a1]), (sides[1], b[b0:b1])):
            if words:
                side.append(Segment("".join(words), tag == "equal"))
    shared = sum(len(segment.text) for segment in sides[0] if segment.is_shared)
    if shared < LEAST_SHARED * max(len(left), len(right)):
        return Diff(
            [Segment(left, True)],
            [Segment(right, True)],
            "These texts share so few words that differences are not marked.",
        )
    return Diff(sides[0], sides[1], "")


def tokens(text: str) -> list[str]:
    """Words, the space between them, and single letters (with their marks) of scripts that write no spaces.

    >>> tokens("one two")
    ['one', ' ', 'two']
    """
    found: list[str] = []
    previous = ""
    for character in text:
        kind = _kind(character)
        if found and (kind == "mark" or (kind == previous and kind in ("word", "space"))):
            found[-1] += character
        else:
            found.append(character)
        previous = previous if kind == "mark" else kind
    return found


@cache
def _kind(character: str) -> str:
    """'mark', 'space', 'sign', 'letter' (a token of its own) or 'word' (joined with its neighbours)."""
    category = unicodedata.category(character)
    if category.startswith("M") or character in JOINERS:
        return "mark"
    if character.isspace():
        return "space"
    if not character.isalnum():
        return "sign"
    return "letter" if unicodedata.name(character, "").startswith(_SPACELESS) else "word"
