"""Filters of single responses: which take part in pairs, and why the others do not.

Filters of pairs (margin, upper bound, one survivor) are in `pairs`.
"""

from __future__ import annotations

import unicodedata
from typing import NamedTuple

import pyarrow as pa

from icr_platform.config import AnnotateSettings

EMPTY = "empty"
TRUNCATED = "truncated"
WRONG_LANGUAGE = "wrong-language"
TRANSLATION = "translation"
NAN = "nan"
DUPLICATE = "duplicate"
SAMPLE_REASONS = (EMPTY, TRUNCATED, WRONG_LANGUAGE, TRANSLATION, NAN, DUPLICATE)

UNKNOWN_LANGUAGE = "und"
COLUMNS = (
    "language", "response", "finish_reason", "token_count", "character_count", "detected_language",
    "language_confidence",
)  # fmt: skip


class Verdict(NamedTuple):
    """Why a response was dropped, one of SAMPLE_REASONS or '' when it was not, and what was seen."""

    reason: str
    detail: str


KEPT = Verdict("", "")


def has_visible_character(text: str) -> bool:
    """Whether some character is neither white space nor a control or format character.

    >>> has_visible_character(" \\n\\u200b"), has_visible_character(" .")
    (False, True)
    """
    return any(unicodedata.category(character) not in _INVISIBLE for character in text)


_INVISIBLE = frozenset({"Zs", "Zl", "Zp", "Cc", "Cf"})


def filter_samples(responses: pa.Table, settings: AnnotateSettings) -> list[Verdict]:
    """One verdict per row of `responses` (COLUMNS of schemas.RESPONSES), the first reason that holds.

    A response without any token is empty whatever the settings say: there is nothing to score.
    """
    columns = [responses.column(name).to_pylist() for name in COLUMNS]
    return [_verdict(settings, *row) for row in zip(*columns, strict=True)]


def _verdict(
    settings: AnnotateSettings,
    language: str,
    response: str,
    finish_reason: str,
    token_count: int,
    character_count: int,
    detected_language: str,
    confidence: float,
) -> Verdict:
    if token_count == 0 or (settings.drop_empty and not has_visible_character(response)):
        return Verdict(EMPTY, f"no visible character in {character_count}, {token_count} tokens")
    if settings.drop_truncated and finish_reason == "length":
        return Verdict(TRUNCATED, f"cut after {token_count} tokens")
    is_other = detected_language not in (language, UNKNOWN_LANGUAGE) and confidence >= settings.language_confidence
    if settings.drop_wrong_language and is_other:
        return Verdict(WRONG_LANGUAGE, f"{detected_language} with confidence {confidence:.2f}")
    return KEPT
