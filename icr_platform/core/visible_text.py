"""Whether a text has anything to see."""

from __future__ import annotations

import unicodedata


def has_visible_character(text: str) -> bool:
    """Whether some character is neither white space nor a control or format character.

    >>> has_visible_character(" \\n\\u200b"), has_visible_character(" .")
    (False, True)
    """
    return any(unicodedata.category(character) not in _INVISIBLE for character in text)


# Unicode's space separators, line and paragraph separators, control and format characters.
_INVISIBLE = frozenset({"Zs", "Zl", "Zp", "Cc", "Cf"})
