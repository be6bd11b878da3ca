"""What stands in people's files, as a message says it: short, and on one line."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from icr_platform.core.language_tags import has_data
from icr_platform.core.languages import language_name

_SHOWN = 12
_LONGEST = 60  # characters


def short(text: str) -> str:
    r"""The text on one line, cut where it is long.

    >>> short("a\nb"), len(short("x" * 1000))
    ('a b', 60)
    """
    line = " ".join(text[: 4 * _LONGEST].split())
    return line if len(line) <= _LONGEST else f"{line[: _LONGEST - 3]}..."


def shown(names: Sequence[str]) -> str:
    """Names for a message, the first ones of many; "none" for none."""
    return ", ".join(short(str(name)) for name in names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "") or "none"


def left_out(path: str, names: Sequence[str]) -> list[str]:
    """Notes on files, parts or values of a column that name no known language."""
    if len(names) > _SHOWN:
        return [f"{path}: {len(names)} names of no known language were left out: {shown(names)}"]
    return [
        f"{path}: {name!r} was left out; name it in --languages if {language_name(name)} is meant"
        if has_data(name)
        else f"{path}: {short(name)!r} names no known language and was left out"
        for name in names
    ]


def nearest(given: str, names: Sequence[str]) -> str | None:
    """The one of `names` that is probably meant; None where none is near.

    >>> nearest("promt", ["id", "prompt"]), nearest("x", ["id", "prompt"])
    ('prompt', None)
    """
    return next(iter(difflib.get_close_matches(given, names, n=1, cutoff=0.6)), None)
