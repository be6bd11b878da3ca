"""Page fragments from untrusted text. Everything goes through Jinja with autoescape: what is no `Markup` is shown as text.

Nothing here ever marks text of a run as safe, so no response, id or note can become an element, an address or a style.
"""

from __future__ import annotations

import difflib
import itertools
import unicodedata
from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

import jinja2
from markupsafe import Markup

from icr_platform.core.languages import NAMES, RIGHT_TO_LEFT, counts_as, too_short
from icr_platform.report.numbers import number, signed

LEAST_SHARED = 0.25  # of the longer text; below it nearly everything would be marked
LONGEST_DIFF = 4000  # tokens of both texts; beyond it a diff takes seconds
_SERIAL = itertools.count()


def render(template: str, **values: Any) -> str:
    """HTML of one template. Each rendering differs in its serial number, by which the page sees that it was replaced."""
    return _environment().get_template(f"{template}.html.j2").render(serial=next(_SERIAL), **values)


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("ui.html"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {
        "number": number, "signed": signed, "label": label, "language": language_label, "count": count, "cut": cut,
    }  # fmt: skip
    environment.globals |= {"direction": direction, "counts_as": counts_as, "too_short": too_short}
    return environment


def count(value: int | float | None) -> str:
    return "–" if value is None else f"{int(value):,}"


def label(text: str, longest: int = 120) -> str:
    """A short field (id, language, reason) on one line: what is invisible or reorders text is written out.

    >>> label("a\\u202eb\\nc")
    'a⟨U+202E⟩b⟨U+000A⟩c'
    """
    shown = "".join(_visible(character) for character in _unstacked(text[: longest + 1]))
    return shown if len(text) <= longest else shown[:longest] + "…"


_MOST_MARKS = 4  # real orthographies stack fewer; dozens would cover the lines around


def _unstacked(text: str) -> str:
    """Text without the combining marks beyond the fourth on one letter."""
    kept, marks = [], 0
    for character in text:
        marks = marks + 1 if unicodedata.category(character) in ("Mn", "Me") else 0
        if marks <= _MOST_MARKS:
            kept.append(character)
    return "".join(kept)


def _visible(character: str) -> str:
    is_hidden = unicodedata.category(character) in ("Cc", "Cf", "Co", "Zl", "Zp") and character not in "\u200c\u200d"
    return f"⟨U+{ord(character):04X}⟩" if is_hidden else character


def cut(text: str, longest: int = 160) -> str:
    """The beginning of a text on one line."""
    line = " ".join(_unstacked(text[: longest * 2]).split())
    return line if len(line) <= longest and len(text) <= longest * 2 else line[:longest] + "…"


def language_label(code: str) -> str:
    """'es' -> 'Spanish'; an unknown code as it is."""
    return NAMES.get(code, label(code, 40))


def direction(code: str) -> str:
    """Value of a `dir` attribute: right-to-left languages surely so, others by their first letter."""
    return "rtl" if code in RIGHT_TO_LEFT else "auto"


class Segment(NamedTuple):
    """A run of text and whether the other text has it too."""

    text: str
    is_shared: bool


class Diff(NamedTuple):
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
    """Word by word; letter by letter in scripts without spaces. Joining a side's segments gives its text back."""
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


_SPACELESS = ("CJK", "HIRAGANA", "KATAKANA", "THAI", "LAO", "KHMER", "MYANMAR")


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
    category = unicodedata.category(character)
    if category.startswith("M") or character in "\u200c\u200d":
        return "mark"
    if character.isspace():
        return "space"
    if not character.isalnum():
        return "sign"
    return "letter" if unicodedata.name(character, "").startswith(_SPACELESS) else "word"


def message(text: str, hint: str = "", kind: str = "info") -> Markup:
    """A sentence in the page. kind: 'info' or 'error'."""
    return Markup('<p class="message {}" role="{}">{}{}</p>').format(
        kind, "alert" if kind == "error" else "status", text, Markup(" <code>{}</code>").format(hint) if hint else ""
    )


def rows_of(values: Sequence[Any], size: int) -> list[Sequence[Any]]:
    return [values[start : start + size] for start in range(0, len(values), size)]
