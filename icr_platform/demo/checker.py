"""The demo world's exact grader as a checker of samples."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from icr_platform.core.errors import InputError
from icr_platform.demo.grader import grade


def check(language: str, prompt: Mapping[str, Any], text: str) -> float:
    """The grade in [0, 1] of a sample.

    Args:
        prompt: a row of the prompts table, of which only the id is read.

    Raises:
        InputError: the prompt is not of the demo world.

    >>> check("en", {"prompt_id": "colour-the-sun.0"}, "The sun is yellow.")
    0.4
    """
    try:
        return grade(prompt["prompt_id"], language, text)
    except KeyError:
        raise InputError(
            f"prompts: prompt {prompt['prompt_id']!r} is not of the demo world; choose another --checker for your own prompts"
        ) from None
