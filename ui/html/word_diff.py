"""Two texts compared word by word, or letter by letter in scripts without spaces. Pure."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import regex
from rapidfuzz.distance import Indel

MOST_WORK = 400_000_000
"""Words of one text times those of the other; beyond it a comparison takes more than a third of a second, and 50 MB."""
LITTLE_SHARED = 25.0
"""Percent; the marks of texts that share less are lighter, since they cover most of both."""
JOINERS = "\u200c\u200d"
"""Invisible, but part of the spelling of Persian and of Indic scripts."""
_SPACELESS = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}"
# A letter of Khmer or Myanmar takes those that are written below it with it; \X is what a reader calls one sign.
_TOKEN = regex.compile(
    rf"\s+|(?:(?![{_SPACELESS}])[\p{{L}}\p{{N}}][\p{{M}}{JOINERS}]*)+|\X(?:(?<=[\u17d2\u1039])\X)*", regex.DOTALL
)
_ISLAND_LETTERS, _ISLAND_SIGNS, _EDIT_WORDS = 5, 3, 4
"""Shared runs with fewer letters (in scripts without spaces, signs), between edits of at least so many words, are chance: 'of', 'the'."""


class Span(NamedTuple):
    """The characters [start, end) of a text."""

    start: int
    end: int


class Diff(NamedTuple):
    """What only the left and only the right text has, in order. shared: percent of the words of both that both have.

    told: a sentence on what the marks mean, or why there are none.
    """

    left: list[Span]
    right: list[Span]
    shared: float
    told: str

    @property
    def shares_little(self) -> bool:
        """Whether the marks cover most of both texts."""
        return self.shared < LITTLE_SHARED


class _Words(NamedTuple):
    """A text's tokens without the space between them: what is compared, and where it stands."""

    keys: list[str]
    spans: list[Span]


def word_diff(left: str, right: str) -> Diff:
    """What differs between two texts. Space and line breaks are not compared, nor how a letter's marks are encoded.

    >>> word_diff("a small dog sleeps", "a big dog sleeps").left
    [Span(start=2, end=7)]
    """
    if left == right:
        return Diff([], [], 100.0, "Both texts are the same.")
    a, b = _words(left), _words(right)
    if len(a.keys) * len(b.keys) > MOST_WORK:
        return Diff([], [], 0.0, "These texts are too long to compare word by word, so nothing is marked.")
    blocks = _without_islands([(o.src_start, o.dest_start, o.src_end - o.src_start)
                               for o in Indel.opcodes(a.keys, b.keys) if o.tag == "equal"], a, b)  # fmt: skip
    ends = [(0, 0, 0), *blocks, (len(a.keys), len(b.keys), 0)]
    gaps = [((p[0] + p[2], q[0]), (p[1] + p[2], q[1])) for p, q in pairwise(ends)]
    spans = [_spans(words, [gap[side] for gap in gaps]) for side, words in ((0, a), (1, b))]
    both = len(a.keys) + len(b.keys)
    shared = 200.0 * sum(size for _, _, size in blocks) / both if both else 100.0
    return Diff(spans[0], spans[1], shared, _told((left, right), spans, shared))


def tokens(text: str) -> list[str]:
    """Words, the space between them, single letters (with their marks) of scripts that write no spaces, and all other signs.

    >>> tokens("one two")
    ['one', ' ', 'two']
    """
    found: list[str] = _TOKEN.findall(text)
    return found


def _words(text: str) -> _Words:
    found = _Words([], [])
    for match in _TOKEN.finditer(text):
        if not match.group().isspace():
            found.keys.append(unicodedata.normalize("NFC", match.group()))
            found.spans.append(Span(*match.span()))
    return found


def _without_islands(blocks: Sequence[tuple[int, int, int]], a: _Words, b: _Words) -> list[tuple[int, int, int]]:
    """Shared runs (place left, place right, words) without those so short, amid edits so long, that chance put them there."""
    kept: list[tuple[int, int, int]] = []
    last = (0, 0)
    for place, (i, j, size) in enumerate(blocks):
        after = blocks[place + 1] if place + 1 < len(blocks) else (len(a.keys), len(b.keys), 0)
        before_edits = i - last[0] + j - last[1]
        after_edits = after[0] - i - size + after[1] - j - size
        run = "".join(a.keys[i : i + size])
        letters = sum(character.isalnum() for character in run)
        least = _ISLAND_SIGNS if regex.search(f"[{_SPACELESS}]", run) else _ISLAND_LETTERS
        if letters < least and before_edits >= _EDIT_WORDS and after_edits >= _EDIT_WORDS:
            continue
        kept.append((i, j, size))
        last = (i + size, j + size)
    return kept


def _spans(words: _Words, gaps: Sequence[tuple[int, int]]) -> list[Span]:
    """From the first to the last word of each gap that has any."""
    return [Span(words.spans[start].start, words.spans[end - 1].end) for start, end in gaps if end > start]


def _told(texts: tuple[str, str], spans: Sequence[Sequence[Span]], shared: float) -> str:
    if not any(spans):
        return "Both texts have the same words; only spaces or line breaks differ."
    if shared == 0:
        return "The two texts share no words: each is marked as a whole."
    marked = [text[span.start : span.end] for text, own in zip(texts, spans, strict=True) for span in own]
    if not any(character.isalnum() for part in marked for character in part):
        return "Both texts have the same words; only formatting or punctuation differs."
    return f"Marked words are in one of the two only; {shared:.0f}% of the words are in both."
