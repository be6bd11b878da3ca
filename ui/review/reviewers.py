"""Who is who: a reviewer is the same person however her name was typed this time. Pure."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

from icr_platform.core.artifacts import text_digest

LONGEST_NAME = 200
# Beside format and control characters: joiners, fillers and selectors that draw nothing, by Unicode's Default_Ignorable_Code_Point,
# and the blank Braille pattern.
_INVISIBLE = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U000e0000-\U000e0fff]"
)
_ALIKE = str.maketrans(
    {"’": "'", "ʼ": "'", "‘": "'", "‐": "-", "‑": "-", "ı": "i"}
)  # phones set quotes; Turkish I is ı


def reviewer_key(name: str) -> str:
    """What two spellings of one person's name have in common: compatibility forms, case, invisible characters and spaces do not count.

    '' for a name of which nothing is to be seen.

    >>> reviewer_key(" LUCÍA ") == reviewer_key("Luci\\u0301a") == reviewer_key("Lu\\u200bcía")
    True
    >>> reviewer_key("Ana") == reviewer_key("Anna")
    False
    """
    found = name
    for _ in range(2):  # folding case can leave a form that composes again
        found = unicodedata.normalize("NFKC", found).casefold().translate(_ALIKE)
    found = "".join(
        character
        for character in _INVISIBLE.sub("", found)
        if character.isspace() or unicodedata.category(character) not in ("Cc", "Cf", "Cs")
    )
    found = unicodedata.normalize("NFKC", found).replace("i\u0307", "i")  # İ folds to i and a dot
    key = " ".join(found.split())
    return key if len(key) <= LONGEST_NAME else text_digest(key)


def first_typed(names: Iterable[str]) -> dict[str, str]:
    """For each name the first of those that are the same person's, which is the one to show.

    >>> first_typed(["Lucía", "Ben", "LUCÍA"])
    {'Lucía': 'Lucía', 'Ben': 'Ben', 'LUCÍA': 'Lucía'}
    """
    shown: dict[str, str] = {}
    return {name: shown.setdefault(reviewer_key(name), name) for name in names}


def published_names(names: Iterable[str], own: bool = False) -> dict[str, str]:
    """For each name what stands in its place in what leaves the inspector: 'reviewer 1', 'reviewer 2' and so on by first appearance, one
    number a person however her name was typed; with `own`, the name that she typed first.

    names: in the order in which their first verdicts were stored; history only grows, so that the numbers stay.

    >>> published_names(["nele", "ana", "Nele "])
    {'nele': 'reviewer 1', 'ana': 'reviewer 2', 'Nele ': 'reviewer 1'}
    """
    known: dict[str, str] = {}
    shown = {}
    for name in names:
        shown[name] = known.setdefault(reviewer_key(name), name if own else f"reviewer {len(known) + 1}")
    return shown
