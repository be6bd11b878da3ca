"""What a rehearsal says of texts that were sampled: which look wrong, and which only look so because there were few tokens."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest

from icr_platform.planning.seen import _texts

Row = tuple[str, str, str, str, str | None]  # language, text, how it ended, detected language, thought
SPANISH: Row = ("es", "Una manzana es una fruta.", "stop", "es", None)
CUT: Row = ("es", "Una manzana es", "length", "es", None)
FOREIGN: Row = ("es", "An apple is a fruit.", "stop", "en", None)
UNCLEAR: Row = ("es", "Sí.", "stop", "und", None)
EMPTY: Row = ("es", "", "stop", "und", None)
THINKING: Row = ("es", "", "length", "und", "The user wants")
THOUGHT: Row = ("es", "Una fruta.", "stop", "es", "The user wants a fruit.")

CASES: dict[str, tuple[list[Row], int, str, list[str]]] = {
    "good": ([SPANISH, SPANISH], 32, "2 responses, 7 tokens each; in their language: es 2/2", []),
    "cut as expected": ([SPANISH, CUT], 32, "2 responses, 7 tokens each; 1 cut at 32 tokens (to be expected); in", []),
    "all cut, with few tokens": ([CUT, CUT], 32, "2 cut at 32 tokens (to be expected)", []),
    "all cut, with all tokens": (
        [CUT, CUT], 64, "2 cut at 64 tokens", ["no response ended within max_tokens 64: each is dropped where drop_truncated is set"],
    ),
    "one foreign": ([SPANISH, FOREIGN], 32, "in their language: es 1/2", []),
    "all foreign": (
        [FOREIGN, FOREIGN], 32, "in their language: es 0/2", ["es: none of 2 responses is in Spanish, most are in en"],
    ),
    "unclear": ([UNCLEAR, UNCLEAR], 32, "2 responses, 7 tokens each", []),
    "unclear and foreign": ([UNCLEAR, FOREIGN], 32, "es 0/1", ["es: none of 1 responses is in Spanish, most are in en"]),
    "empty": ([EMPTY, EMPTY], 32, "2 responses", ["all responses are empty"]),
    "still thinking": (
        [THINKING, THOUGHT], 32, "1 were still thinking",
        ["1 of 2 responses were still thinking after 32 tokens; --rehearse-tokens N with a larger N shows whether thoughts end"],
    ),
    "never stops thinking": (
        [THINKING, THINKING], 64, "2 were still thinking",
        ["2 of 2 responses were still thinking after 64 tokens",
         "no response ended within max_tokens 64: each is dropped where drop_truncated is set"],
    ),
    "thought to its end": ([THOUGHT], 32, "in their language: es 1/1", []),
}  # fmt: skip


def table(rows: list[Row]) -> pd.DataFrame:
    names = ("language", "response", "finish_reason", "detected_language", "thought")
    return pd.DataFrame([dict(zip(names, row, strict=True)) | {"token_count": 7} for row in rows])


@pytest.mark.parametrize("case", CASES)
def test_what_looks_wrong_is_told_from_what_few_tokens_make_look_so(case: str) -> None:
    rows, tokens, told, warnings = CASES[case]
    found = _texts(table(rows), "response", [], [], tokens, 64)
    assert told in found.told
    assert list(found.warnings) == warnings


def test_a_language_that_the_identifier_does_not_know_is_not_judged() -> None:
    assert _texts(table([FOREIGN]), "response", [], ["es"], 32, 64).warnings == ()


@pytest.mark.parametrize(
    ("rows", "told"),
    [([SPANISH], "1 prompts have no response: 1 too-long"), ([], "no prompt was answered: 1 too-long")],
)
def test_prompts_that_were_dropped_are_said(rows: list[Any], told: str) -> None:
    assert _texts(table(rows), "response", ["too-long"], [], 32, 64).warnings[0] == told
