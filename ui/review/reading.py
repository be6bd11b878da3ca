"""How fast anyone can read, so that verdicts that were given without reading can be told from others. Pure."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable

CHARACTERS_A_SECOND = 250.0
"""About 2,500 English words a minute, ten times what people read and three times what they skim: a bound, so that nobody is suspected wrongly."""
_WIDE = 3.0  # letters of an alphabet that one Chinese character or Hangul syllable stands for, about


def is_faster_than_reading(seconds: float, texts: Iterable[str]) -> bool:
    """Whether nobody could have looked over these texts in that time.

    >>> is_faster_than_reading(0.6, ["Yes, it is. " * 20, "No, it is not. " * 20]), is_faster_than_reading(0.6, ["Yes.", "No."])
    (True, False)
    """
    letters = sum(
        _WIDE if unicodedata.east_asian_width(character) in "WF" else 1.0 for text in texts for character in text
    )
    return seconds < letters / CHARACTERS_A_SECOND
