"""The demo world's exact language identifier."""

from __future__ import annotations

from collections.abc import Callable

from icr_platform.demo.grader import identify_language
from icr_platform.demo.lexicon import LANGUAGES


def identifier(codes: frozenset[str]) -> tuple[tuple[str, ...], Callable[[str], tuple[str, float]]]:
    """The world's languages, whichever are asked for, and what tells them apart."""
    return LANGUAGES, identify_language
