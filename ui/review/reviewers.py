"""Who is who: a reviewer is the same person however her name was typed this time. Pure."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from functools import lru_cache
from urllib.parse import unquote

from icr_platform.core.artifacts import text_digest
from icr_platform.core.errors import InputError

LONGEST_NAME = 200
# Beside format and control characters: joiners, fillers and selectors that draw nothing, by Unicode's Default_Ignorable_Code_Point,
# and the blank Braille pattern.
_INVISIBLE = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U000e0000-\U000e0fff]"
)
_ALIKE = str.maketrans(
    {"’": "'", "ʼ": "'", "‘": "'", "‐": "-", "‑": "-", "ı": "i"}
)  # phones set quotes; Turkish I is ı


@lru_cache(maxsize=4096)  # a run has few reviewers, each with many verdicts
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


def numbered(names: Iterable[str]) -> dict[str, str]:
    """Pseudonym of each name: 'reviewer 1', 'reviewer 2' and so on, in the order given; spellings of one name share theirs.

    >>> numbered(["Lucía", "Ben", "LUCÍA"])
    {'Lucía': 'reviewer 1', 'Ben': 'reviewer 2', 'LUCÍA': 'reviewer 1'}
    """
    numbers: dict[str, int] = {}
    return {name: f"reviewer {numbers.setdefault(reviewer_key(name), len(numbers) + 1)}" for name in names}


def left_out_keys(names: Iterable[str], typed: Iterable[str]) -> set[str]:
    """Keys of the reviewers to leave out of what leaves the inspector.

    Args:
        names: however they are spelled, or numbers as `numbered` gives them, where nobody is called that.
        typed: names of all reviewers, in the order that numbers them.

    Raises:
        InputError: nobody is called that.
    """
    typed = list(typed)
    known = {reviewer_key(name) for name in typed}
    numbers = {reviewer_key(number): reviewer_key(name) for name, number in numbered(typed).items()}
    found = set()
    for name in names:
        key = reviewer_key(name)
        if key not in known and key not in numbers:
            there = ", ".join(list(dict.fromkeys(typed))[:20])
            raise InputError(
                f"Nobody called {name[:80]!r} has judged this run, so she cannot be left out; there are: {there}."
            )
        found.add(key if key in known else numbers[key])
    return found


def left_out_in(text: str) -> frozenset[str]:
    """Keys of the reviewers whom an address leaves out: separated by commas, with commas of their own as %2C.

    >>> sorted(left_out_in("ana,o%2Cb, LUCÍA"))
    ['ana', 'lucía', 'o,b']
    """
    return frozenset(key for part in text.split(",") if (key := reviewer_key(unquote(part))))


def as_left_out(keys: Iterable[str]) -> str:
    """The text that `left_out_in` reads.

    >>> as_left_out(["o,b", "ana"])
    'ana,o%2Cb'
    """
    return ",".join(key.replace("%", "%25").replace(",", "%2C") for key in sorted(set(keys)))
