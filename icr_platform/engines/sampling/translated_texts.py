"""What a translator is given and gives, and how one that chats is asked."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, Protocol

from icr_platform.core.artifacts import row_digest
from icr_platform.core.errors import InputError
from icr_platform.core.language_tags import is_tag
from icr_platform.core.languages import language_name
from icr_platform.core.visible_text import has_visible_character
from icr_platform.engines.sampling.sampler import Advance, ignore_progress
from icr_platform.engines.sampling.translation import EMPTY, OK, TRUNCATED

UNTRANSLATABLE = "untranslatable"
"""Outcome of a text for which anyone's own translator, such as a lexicon, knows no translation: no fault, since it measures the text."""
_PLACEHOLDER = re.compile(r"\{([a-z_]+)\}")
_PLACEHOLDERS = ("text", "source", "target", "source_code", "target_code")


class Text(NamedTuple):
    """A text, its language, and the language that it is to be translated into."""

    source: str
    target: str
    text: str

    @property
    def digest(self) -> bytes:
        """What its translation is made from, as `input_digest` says it."""
        return row_digest(self.source, self.target, self.text)


class Translated(NamedTuple):
    """A translation; None where there is none, for the reason `outcome`: EMPTY, TRUNCATED, UNTRANSLATABLE or one of `core.faults.FAULTS`."""

    text: str | None
    outcome: str = OK
    detail: str = ""


class Translator(Protocol):
    """Something that is loaded once and asked shard by shard."""

    def translate(
        self, shards: Iterable[Sequence[Text]], advance: Advance = ignore_progress
    ) -> Iterator[list[Translated]]:
        """The translations of each shard, in order. `advance(rows, tokens)` is told of them as they are made.

        Raises:
            IcrError: the engine failed as a whole.
        """
        ...


def check_template(template: str) -> None:
    """Raise InputError for a template that lacks {text} or {target}, or has a placeholder that nothing fills."""
    found = set(_PLACEHOLDER.findall(template))
    said = f"config: field 'translation_template' is {template!r}"
    if unknown := sorted(found - set(_PLACEHOLDERS)):
        raise InputError(f"{said}; {{{unknown[0]}}} is not one of {', '.join(f'{{{name}}}' for name in _PLACEHOLDERS)}")
    if "text" not in found or not found & {"target", "target_code"}:
        raise InputError(f"{said}; it must have {{text}}, and {{target}} or {{target_code}}, in it")


def asked_in(template: str, text: Text) -> str:
    """The request for a translation. Braces in the text are text.

    >>> asked_in("{source} to {target}: {text}", Text("en", "es", "Say {target}."))
    'English to Spanish: Say {target}.'
    """
    values = {
        "text": text.text,
        "source": _name(text.source),
        "target": _name(text.target),
        "source_code": text.source,
        "target_code": text.target,
    }
    return _PLACEHOLDER.sub(lambda found: values.get(found[1], found[0]), template)


def _name(language: str) -> str:
    """The English name of a language; preferences may be in one that has no code, under the name that their file gives it."""
    return language_name(language) if is_tag(language) else language


def outcome_of(text: str, is_cut: bool) -> Translated:
    """What an answer is worth. Half a translation would be taken for what the text says."""
    if is_cut:
        return Translated(None, TRUNCATED, f"cut after {len(text)} characters")
    if not has_visible_character(text):
        return Translated(None, EMPTY, f"no visible character in {len(text)}")
    return Translated(text)
