"""Sentences of a text in any script, as spans of it: what corruptions move, cut and repeat.

A line is never part of the same sentence as the next one, and a fenced code block is a unit of its own. Within a line a sentence ends
at the marks of its script: `.`, `!` and `?` before a space, and the marks that end a sentence whatever follows, such as `。`, `।`, `؟`
and `۔`. Abbreviations, initials, decimals and the ordinals of German and its neighbours do not end one. Thai and Lao have no mark:
there a space between two words ends a phrase, which stands in for a sentence where it is long enough.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

_FENCED = re.compile(r"^[ \t]*(`{3,}|~{3,}).*?(?:\1[`~]*[ \t]*$|\Z)", re.MULTILINE | re.DOTALL)
_OPAQUE = re.compile(r"`[^`\n]+`|https?://[^\s<>]+|www\.[^\s<>]+|[\w.+-]+@[\w-]+\.[\w.-]+|</?[a-zA-Z][^<>\n]*>")
"""Inline code, addresses and tags: nothing in them ends a sentence, and no number in them is one of the text."""
_MARKER = re.compile(
    r"[ \t\u3000]*(?:(?:[-+*•·◦▪‣●○–—]|#{1,6}|>)[ \t]+|\*{0,2}[(（\[]?\d{1,3}(?:[.)\]、．）:।]\*{0,2})(?!\d)[ \t]*|\*{0,2}[^\W\d_][.)]\*{0,2}[ \t]+)*"
)
"""What stands before the first sentence of a line: an indent, a bullet, the number of an item, a heading's sign."""
_MARKS = re.compile(r"[.!?…\u037e;。！？｡．؟۔।॥།။។៕።։]+[\"'”’»›)\]」』】）*_~]*")
_ALWAYS = frozenset("。！？｡؟۔।॥།။។៕።։")
_PHRASES = re.compile(r"(?<=[\u0e00-\u0eff])[ \u00a0]+(?=[\u0e00-\u0eff])")
_PHRASE_LETTERS = (
    20  # characters: below it a space is more often one around a name or a repetition mark than between phrases
)
_DANDA = frozenset({"hi", "bn", "mr", "ne", "as", "or", "pa", "sa", "mai", "bho"})
_ORDINALS = frozenset(
    {"de", "da", "nb", "nn", "no", "fi", "et", "cs", "sk", "sl", "hr", "sr", "bs", "hu", "pl", "tr", "is"}
)
_ABBREVIATIONS = frozenset(
    re.findall(
        r"\S+",
        """
        mr mrs ms dr prof st vs etc e.g i.e cf fig no nos vol approx dept est inc ltd co corp eq sec ca gen col capt lt jr al ex op
        sr sra srta p.ej ud uds ee uu pág págs núm art cap av
        m mm mme mlle p.ex env chap éd
        hr fr nr bzw usw z.b d.h u.a o.ä vgl evtl ggf abs str inkl ing
        sig dott geom egr ecc pag
        т.е т.д т.п и.о г гг в вв ул стр рис см др тыс млн млрд руб коп напр д.и н.э
        """,
    )
)
"""What a dot follows within a sentence, of the languages of the West and of Russian."""


class Sentence(NamedTuple):
    """A span [start, end) of the text, without the space and the marker of a list before it.

    is_code: a fenced block. is_item: all of a line that begins with the marker of a list, or that no mark ends.
    """

    start: int
    end: int
    is_code: bool = False
    is_item: bool = False


def sentences(text: str, language: str) -> list[Sentence]:
    """The sentences of a text from first to last; headings, items of lists and code blocks are units like them.

    >>> text = "1. Dr. Ruiz paid 3.5 euros. Why?\\n```\\nx = 1. y\\n```\\n- fin"
    >>> [text[found.start : found.end] for found in sentences(text, "en")]
    ['Dr. Ruiz paid 3.5 euros.', 'Why?', '```\\nx = 1. y\\n```', 'fin']
    >>> [len(sentences(text, code)) for text, code in (("一。二！「三。」四", "zh"), ("एक। दो।", "hi"), ("Am 3. Mai. Ja.", "de"))]
    [4, 2, 2]
    """
    primary = re.split("[-_]", language.lower())[0]
    found: list[Sentence] = []
    start = 0
    for block in (*_FENCED.finditer(text), None):
        end = block.start() if block else len(text)
        for line in re.finditer(r"[^\n\r\u2028\u2029\x85]+", text[start:end]):
            found += _in_line(line.group(), start + line.start(), primary)
        if block:
            found.append(Sentence(block.start(), block.end(), is_code=True))
            start = block.end()
    return found


def opaque_spans(text: str) -> list[tuple[int, int]]:
    """Spans of code, fenced or inline, of addresses and of tags, in no order: what is no prose of the text."""
    return [found.span() for pattern in (_FENCED, _OPAQUE) for found in pattern.finditer(text)]


def marker_end(line: str) -> int:
    """How many characters of a line are the marker of a list or a heading, and the space around it.

    >>> [marker_end(line) for line in ("1. a", "  - a", "**2)** a", "3.5 km", "১। ক", "2024 was", "## 4. a")]
    [3, 4, 7, 0, 3, 0, 6]
    """
    found = _MARKER.match(line)
    return found.end() if found else 0


def _in_line(line: str, offset: int, language: str) -> Iterator[Sentence]:
    # What is opaque becomes letters, which end nothing, of the same length.
    plain = _OPAQUE.sub(lambda found: "x" * len(found.group()), line)
    if language in _DANDA and not plain.lstrip().startswith("|"):  # typed with the bar of a keyboard without it
        plain = re.sub(r"(?<=\s)\|(?=\s|$)", "।", plain)
    first = marker_end(plain)
    is_listed = bool(line[:first].strip())
    ends = sorted({*_ends(plain, first, language), *_phrase_ends(plain, first), len(line)})
    spans = [(start, end) for start, end in pairwise((first, *ends)) if line[start:end].strip()]
    for start, end in spans:
        said = line[start:end]
        lead, tail = len(said) - len(said.lstrip()), len(said) - len(said.rstrip())
        is_item = len(spans) == 1 and (is_listed or _MARKS.search(said) is None)
        yield Sentence(offset + start + lead, offset + end - tail, is_item=is_item)


def _ends(line: str, first: int, language: str) -> Iterator[int]:
    for found in _MARKS.finditer(line, first):
        mark, after = found.group(), line[found.end() :]
        if not _ALWAYS.isdisjoint(mark):
            yield found.end()
            continue
        if ";" in mark and language != "el":
            continue
        following = after.lstrip()[:1]
        is_spaced = not after or after[0].isspace()
        # Scripts without spaces use the Latin question mark, too; a dot there belongs to a number or a name.
        is_dense = "." not in mark and following.isalpha() and not following.isascii() and not _is_cased(following)
        if not (is_spaced or is_dense) or following.islower():
            continue
        if mark[0] == "." and not mark.startswith("..") and _is_no_end(line[: found.start()], language):
            continue
        yield found.end()


def _is_no_end(before: str, language: str) -> bool:
    """Whether the dot after this text is that of an abbreviation, an initial or an ordinal."""
    word = re.split(r"[\s(\[\"'«“„]", before)[-1]
    if word.isdigit():
        return language in _ORDINALS and len(word) <= 2
    return (len(word) == 1 and _is_cased(word)) or word.lower() in _ABBREVIATIONS or bool(re.search(r"\.\w$", word))


def _phrase_ends(line: str, first: int) -> Iterator[int]:
    start = first
    for space in _PHRASES.finditer(line, first):
        if space.start() - start >= _PHRASE_LETTERS and line[space.start() - 1] not in "ๆฯ":
            yield space.start()
            start = space.end()


def _is_cased(letter: str) -> bool:
    return letter.lower() != letter.upper()
