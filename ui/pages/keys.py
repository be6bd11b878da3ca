"""The table of keys: what `keys.js` presses and what the help on `?` lists. A key more is a row more."""

from __future__ import annotations

import json
from typing import NamedTuple

from ui.review.verdicts import REASONS

CHOICE_KEYS = (
    ("left", "Left is better", "1"),
    ("right", "Right is better", "2"),
    ("tie", "Tie", "3"),
    ("both-bad", "Both bad", "4"),
    ("skip", "Skip", "s"),
)
"""Choice, what its button says, and its key."""
REASON_KEYS = dict(zip(REASONS, "qertuiop", strict=True))
"""Neither w nor y: their places have z on French and German keyboards, and z withdraws a verdict."""


class Key(NamedTuple):
    """One key.

    sign: as `KeyboardEvent.key` gives it, small letters. A letter is pressed where it is printed, on any Latin keyboard.
    place: as `KeyboardEvent.code` gives it, with 'Shift+' where that belongs to it. It stands for the sign on keyboards that lack it: those of
        other scripts, and the figures of a French one.
    target: selector of what the key presses, on the pages that have it; a field to type in is focused instead.
    nth: which of several that the selector finds.
    """

    sign: str
    place: str
    target: str
    title: str
    nth: int = 0
    needs_item: bool = False
    """Whether it belongs to an item that is to be judged, and does nothing without one."""

    @property
    def shown(self) -> str:
        """The sign as help prints it."""
        return {"ArrowLeft": "←", "ArrowRight": "→", "Escape": "Esc"}.get(self.sign, self.sign)


def place_of(sign: str) -> str:
    """Where an English keyboard has a letter or a figure.

    >>> place_of("z"), place_of("4")
    ('KeyZ', 'Digit4')
    """
    return f"Digit{sign}" if sign.isdigit() else f"Key{sign.upper()}"


def _key(sign: str, target: str, title: str, nth: int = 0, needs_item: bool = False) -> Key:
    return Key(sign, place_of(sign), target, title, nth, needs_item)


KEYS = (
    *(_key(sign, f"#key-{sign}", title, needs_item=True) for _, title, sign in CHOICE_KEYS),
    _key("z", "#key-z", "Undo: withdraw your last verdict and judge its item again"),
    *(
        _key(sign, "#reasons input[type=checkbox]", f"Reason: {reason}", nth, needs_item=True)
        for nth, (reason, sign) in enumerate(REASON_KEYS.items())
    ),
    _key("n", "#key-n textarea, #key-n input", "Write a note; Esc leaves it", needs_item=True),
    _key("m", "#key-m", "Show or fold reasons and note", needs_item=True),
    _key("g", ".icr [data-open-dialog=guidelines]", "Guidelines; Esc closes them"),
    Key("ArrowLeft", "ArrowLeft", ".icr #main a[rel=prev]", "The one before"),
    Key("ArrowRight", "ArrowRight", ".icr #main a[rel=next]", "The next one"),
    Key("Escape", "Escape", ".icr #main [data-key=Escape]", "Back to the list"),
    _key(
        "x",
        ".icr [data-toggle=written]",
        "Show texts as they were written, with their signs of formatting, or formatted",
    ),
    _key("d", ".icr [data-toggle=marks]", "Mark what differs between the two texts, or not"),
    Key("?", "Shift+Slash", ".icr [data-help]", "Show or close this list"),
)


def keys_json() -> str:
    """The table for `keys.js`, safe within a script element."""
    return json.dumps([key._asdict() for key in KEYS]).replace("<", "\\u003c")
