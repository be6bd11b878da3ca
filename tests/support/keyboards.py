"""Five keyboards: what each prints on the keys that the inspector knows, by their places, and pressing them in Chromium as a person does."""

from __future__ import annotations

from typing import Any

LETTERS = {f"Key{letter.upper()}": letter for letter in "abcdefghijklmnopqrstuvwxyz"}
QWERTY = {**LETTERS, **{f"Digit{figure}": figure for figure in "1234567890"}}
KEYBOARDS: dict[str, dict[str, str]] = {
    "qwerty": QWERTY,
    "qwertz": {**QWERTY, "KeyZ": "y", "KeyY": "z"},
    "azerty": {
        **QWERTY, "Digit1": "&", "Digit2": "é", "Digit3": '"', "Digit4": "'", "Digit5": "(", "KeyQ": "a", "KeyA": "q", "KeyW": "z", "KeyZ": "w",
        "KeyM": ",", "Semicolon": "m",
    },
    "cyrillic": {
        **QWERTY, "KeyQ": "й", "KeyW": "ц", "KeyE": "у", "KeyR": "к", "KeyT": "е", "KeyY": "н", "KeyU": "г", "KeyI": "ш", "KeyO": "щ", "KeyP": "з",
        "KeyS": "ы", "KeyZ": "я", "KeyN": "т", "KeyG": "п", "KeyM": "ь",
    },
    "thai": {
        **QWERTY, "Digit1": "ๅ", "Digit2": "/", "Digit3": "-", "Digit4": "ภ", "KeyQ": "ๆ", "KeyW": "ไ", "KeyE": "ำ", "KeyR": "พ", "KeyT": "ะ",
        "KeyY": "ั", "KeyU": "ี", "KeyI": "ร", "KeyO": "น", "KeyP": "ย", "KeyS": "ห", "KeyZ": "ผ", "KeyN": "ื",
    },
    "arabic": {
        **QWERTY, "Digit1": "١", "Digit2": "٢", "Digit3": "٣", "Digit4": "٤", "KeyQ": "ض", "KeyW": "ص", "KeyE": "ث", "KeyR": "ق", "KeyT": "ف",
        "KeyY": "غ", "KeyU": "ع", "KeyI": "ه", "KeyO": "خ", "KeyP": "ح", "KeyS": "س", "KeyZ": "ئ", "KeyN": "ى",
    },
}  # fmt: skip


class Keyboard:
    """Keys of one layout, pressed through Chromium's own input, which neither page nor script can tell from a person's."""

    def __init__(self, tab: Any, layout: str) -> None:
        self._session = tab.context.new_cdp_session(tab)
        self._printed = KEYBOARDS[layout]

    def press(self, code: str, repeats: int = 0) -> None:
        """Press the key at a place. repeats: how often the browser repeats it while it is held down."""
        key = self._printed.get(code, code)
        event: dict[str, Any] = {"code": code, "key": {"Space": " "}.get(code, key)}
        text = {"Space": " ", "Enter": "\r"}.get(code, key if len(key) == 1 else "")
        if code in ("Enter", "Space"):
            event["windowsVirtualKeyCode"] = {"Enter": 13, "Space": 32}[code]
        for number in range(1 + repeats):
            down = {
                "type": "keyDown" if text else "rawKeyDown",
                "autoRepeat": number > 0,
                **({"text": text} if text else {}),
            }
            self._session.send("Input.dispatchKeyEvent", {**event, **down})
        self._session.send("Input.dispatchKeyEvent", {**event, "type": "keyUp"})
