"""Page fragments from untrusted text. Everything goes through Jinja with autoescape, which shows all but `Markup` as text.

Nothing here marks text of a run as safe, so that no response, id or note can become an element, an address or a style.
"""

from __future__ import annotations

import itertools
import unicodedata
from functools import cache
from typing import Any

import jinja2
from markupsafe import Markup

from icr_platform.core.language_tags import html_lang, is_right_to_left
from icr_platform.core.languages import counts_as, is_language, language_name, too_short
from icr_platform.report.iteration_metrics import row_name
from icr_platform.report.numbers import number, signed
from ui.html.texts import hits, marked_line, shown_text
from ui.html.word_diff import JOINERS

_SERIAL = itertools.count()


def render(template: str, **values: Any) -> str:
    """HTML of one template."""
    # Renderings differ in their serial number, by which inspector.js sees that the page was replaced.
    return _environment().get_template(f"{template}.html.j2").render(serial=next(_SERIAL), **values)


@cache
def _environment() -> jinja2.Environment:
    """Jinja with the filters that templates use."""
    found = jinja2.Environment(
        loader=jinja2.PackageLoader("ui.html"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    found.filters |= {
        "number": number, "signed": signed, "label": label, "language": language_label, "count": count, "cut": cut,
        "row_name": row_name,
    }  # fmt: skip
    found.globals |= {
        "direction": direction,
        "html_lang": html_lang,
        "counts_as": counts_as,
        "too_short": too_short,
        "hits": hits,
        "marked_line": marked_line,
        "shown_text": shown_text,
    }
    return found


def count(value: int | float | None) -> str:
    """A whole number with grouped thousands; a dash where there is none."""
    return "–" if value is None else f"{int(value):,}"


def label(text: str, longest: int = 120) -> str:
    """A short field (id, language, reason) on one line: what is invisible or reorders text is written out.

    >>> label("a\\u202eb\\nc")
    'a⟨U+202E⟩b⟨U+000A⟩c'
    """
    shown = ""
    for character in _unstacked(text[: longest + 1]):
        # Joiners are invisible, too, but Persian and Indic spelling needs them.
        is_hidden = unicodedata.category(character) in ("Cc", "Cf", "Co", "Zl", "Zp") and character not in JOINERS
        shown += f"⟨U+{ord(character):04X}⟩" if is_hidden else character
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


def cut(text: str, longest: int = 160) -> str:
    """The beginning of a text on one line."""
    line = " ".join(_unstacked(text[: longest * 2]).split())
    return line if len(line) <= longest and len(text) <= longest * 2 else line[:longest] + "…"


def language_label(code: str) -> str:
    """'es' -> 'Spanish'; an unknown code as it is."""
    return language_name(code) if is_language(code) else label(code, 40)


def direction(code: str) -> str:
    """Value of a `dir` attribute: right to left for languages that are written so, by the first letter for all others."""
    return "rtl" if is_right_to_left(code) else "auto"


def message(text: str, hint: str = "", kind: str = "info") -> Markup:
    """A sentence in the page, and a command to copy. kind: 'info' or 'error'."""
    return Markup('<p class="message {}" role="{}">{}{}</p>').format(
        kind, "alert" if kind == "error" else "status", text, Markup(" <code>{}</code>").format(hint) if hint else ""
    )
