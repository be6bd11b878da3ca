"""Filters of single responses: which take part in pairs, and why the others do not.

Filters of pairs (margin, upper bound, one survivor) are in `pairs`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import NamedTuple

import pyarrow as pa

from icr_platform.annotation.config import AnnotateSettings
from icr_platform.core.artifacts import Artifact
from icr_platform.core.faults import TEMPLATE, TOO_LONG
from icr_platform.core.languages import language_name
from icr_platform.core.visible_text import has_visible_character
from icr_platform.engines.identification.language_id import Identified, is_in_another, known_to_all

EMPTY = "empty"
TRUNCATED = "truncated"
WRONG_LANGUAGE = "wrong-language"
TRANSLATION = "translation"
NAN = "nan"
DUPLICATE = "duplicate"
SAMPLE_REASONS = (EMPTY, TRUNCATED, WRONG_LANGUAGE, TRANSLATION, NAN, DUPLICATE, TOO_LONG, TEMPLATE)

COLUMNS = (
    "language", "response", "finish_reason", "token_count", "character_count", "detected_language",
    "language_confidence", "answer_start",
)  # fmt: skip


class FilterResult(NamedTuple):
    """Why a response was dropped, one of SAMPLE_REASONS or '' when it was not, and what was seen."""

    reason: str
    detail: str


KEPT = FilterResult("", "")


def unknown_languages(responses: Artifact) -> frozenset[str] | None:
    """Languages of a responses artifact that its identifier does not know; None where the artifact does not say."""
    languages = responses.extra.get("languages")
    return None if languages is None else frozenset(languages["unknown"])


def unknown_notes(responses: Artifact, languages: Iterable[str], settings: AnnotateSettings) -> list[str]:
    """One line on each of the responses' `languages` of which no sample can be dropped as wrong-language."""
    unknown = unknown_languages(responses)
    if not settings.drop_wrong_language:
        return []
    if unknown is not None:
        name = responses.extra["languages"]["identifier"]
        why = f"{name}, which identified the responses' languages, does not know"
    else:
        why = "the responses do not say which identifier was used, and not every one knows"
    return [
        f"{language}: {why} {language_name(language)}: no response is dropped as wrong-language"
        for language in languages
        if not _can_be_told(language, unknown)
    ]


def _can_be_told(language: str, unknown: Collection[str] | None) -> bool:
    return known_to_all(language) if unknown is None else language not in unknown


def answer_starts(responses: pa.Table) -> list[int | None]:
    """[R] index of the answer in the token ids of each response; None where nothing stands before it, or nothing is said of it."""
    if "answer_start" not in responses.column_names:
        return [None] * responses.num_rows
    starts: list[int | None] = responses.column("answer_start").to_pylist()
    return starts


def filter_samples(
    responses: pa.Table, settings: AnnotateSettings, unknown: Collection[str] | None = None
) -> list[FilterResult]:
    """One result per row of `responses` (COLUMNS of schemas.RESPONSES), the first reason that holds.

    A response without any token is empty whatever the settings say: there is nothing to score; and one that ended within its thought
    has no answer, and is truncated. All other reasons are of the answer. A response that is too short to
    tell, or that was asked for in a language that the identifier does not know, is never in a wrong language.

    Args:
        unknown: those languages, see `unknown_languages`; None: every language that some identifier does not know.
    """
    columns = [responses.column(name).to_pylist() for name in COLUMNS[:-1]]
    languages = set(columns[COLUMNS.index("language")])
    told = {language for language in languages if _can_be_told(language, unknown)}
    results = []
    for language, response, finish_reason, tokens, characters, detected, confidence, start in zip(
        *columns, answer_starts(responses), strict=True
    ):
        # Cheap reasons come first; a response that was cut may well be identified as something else than it is.
        if tokens and start == tokens:
            result = FilterResult(TRUNCATED, f"cut after {tokens} tokens, before its answer began")
        elif tokens == 0 or (settings.drop_empty and not has_visible_character(response)):
            result = FilterResult(EMPTY, f"no visible character in {characters}, {tokens} tokens")
        elif settings.drop_truncated and finish_reason == "length":
            result = FilterResult(TRUNCATED, f"cut after {tokens} tokens")
        elif (
            settings.drop_wrong_language
            and language in told
            and is_in_another(language, response, Identified(detected, confidence), settings.language_confidence)
        ):
            result = FilterResult(WRONG_LANGUAGE, f"{detected} with confidence {confidence:.2f}")
        else:
            result = KEPT
        results.append(result)
    return results
