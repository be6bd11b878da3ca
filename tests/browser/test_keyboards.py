"""Verdicts are what a person meant: in every keyboard layout, by mouse and by finger, with keys held down, pressed twice and pressed too early."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support import synthetic_runs
from tests.support.inspector import READY, Server, serial, wait_change, wait_judgeable
from tests.support.keyboards import KEYBOARDS, Keyboard
from ui.review.link_store import LinkStore
from ui.review.verdict_store import VerdictStore
from ui.review.verdicts import Verdict

pytestmark = pytest.mark.browser
VERDICTS = int(os.environ.get("ICR_REVIEW_VERDICTS", "5"))
"""In each layout, by mouse and by finger; thirty take three minutes."""
_PAIRS = 12  # of a language in the small run
NAME = "#reviewer input, #reviewer textarea"
BUTTONS = (("left", "1"), ("right", "2"), ("tie", "3"), ("both-bad", "4"))
# Whatever is pressed while an item appears was meant for the one before: all kinds of it, at each rendering and at its first frame.
TOO_EARLY = """
const early = () => {
  for (const [code, key] of [["Digit1", "1"], ["KeyS", "s"], ["KeyZ", "z"], ["Digit3", "&"]])
    document.body.dispatchEvent(new KeyboardEvent("keydown", { code, key, bubbles: true, cancelable: true }));
  document.querySelector("#key-2")?.click();
};
document.addEventListener("icr-rendered", () => { early(); requestAnimationFrame(early); });
"""


@pytest.fixture(scope="module")
def run(server: Server) -> str:
    """Name of a run that has more pairs in each language than verdicts are given."""
    if VERDICTS + 2 > _PAIRS:
        many = synthetic_runs.small_run(
            synthetic_runs.open_tracker(server.folder), server.folder / "many", VERDICTS + _PAIRS
        )
        server.runs["many"] = many.run_id
        return "many"
    return "small"


class Reviewer:
    """Who judges item after item, and knows what she meant."""

    def __init__(self, tab: Any, name: str, layout: str = "qwerty") -> None:
        self.tab, self.name, self.keyboard = tab, name, Keyboard(tab, layout)
        self.meant: list[tuple[str, str, tuple[str, ...], str]] = []

    def sign_in(self) -> None:
        """The name and Enter, and at once a key that is meant for the item, which is not there yet."""
        before = serial(self.tab)
        self.tab.fill(NAME, self.name)
        self.tab.focus(NAME)
        self.keyboard.press("Enter")
        self.keyboard.press("Digit1")
        wait_change(self.tab, before)
        self.tab.wait_for_selector("[data-item]")
        wait_judgeable(self.tab)
        assert self.tab.input_value(NAME) == self.name
        assert self.focus() == "main", "the focus is on the item"

    def focus(self) -> str:
        return str(self.tab.evaluate("document.activeElement.closest('[id]').id"))

    def item(self) -> str:
        return str(self.tab.get_attribute("[data-item]", "data-item"))

    def judge(self, choice: str, act: Callable[[], None], reasons: tuple[str, ...] = (), note: str = "") -> None:
        """Do what stores a verdict, and wait for the next item."""
        before, item = serial(self.tab), self.item()
        act()
        self.meant.append((item, choice, reasons, note))
        self.settle(before)

    def settle(self, before: str) -> None:
        wait_change(self.tab, before)
        wait_judgeable(self.tab)


def stored(server: Server, name: str) -> list[Verdict]:
    return VerdictStore(str(server.folder / "verdicts.db")).history(reviewer=name)


def as_meant(server: Server, name: str) -> list[tuple[str, str, tuple[str, ...], str]]:
    """What was stored, with the names that items have on the page."""
    secret = LinkStore(VerdictStore(str(server.folder / "verdicts.db")).database).secret
    return [(secret.alias(v.item), v.choice, v.reasons, v.note) for v in stored(server, name)]


@pytest.mark.parametrize("layout", KEYBOARDS)
def test_every_verdict_was_meant_in_every_layout(
    server: Server, open_page: Callable[..., Any], screenshots: Path, run: str, layout: str
) -> None:
    tab = open_page(server.link("spot-check", run, overlap=100, language="es"), fresh=True)
    tab.evaluate(TOO_EARLY)
    her = Reviewer(tab, f"Lucía {layout}", layout)
    her.sign_in()
    press = her.keyboard.press
    choices = [("left", "Digit1"), ("right", "Digit2"), ("tie", "Digit3"), ("both-bad", "Digit4"), ("skip", "KeyS")]
    for number in range(VERDICTS):
        choice, code = choices[number % len(choices)]
        her.judge(choice, lambda code=code, number=number: press(code, repeats=15 * (number % 2)))  # type: ignore[misc]
        press("Space")  # scrolls, and never votes
    # Reasons and a note, in which figures and letters are text; undo brings them back; held down, it withdraws one verdict.
    press("KeyQ")
    press("KeyP", repeats=5)
    press("KeyN")
    tab.wait_for_function("document.activeElement.closest('#key-n')")
    tab.keyboard.type("1 too short, 2 s z")
    tab.keyboard.press("Escape")
    remarks = (("wrong language", "unsafe"), "1 too short, 2 s z")
    her.judge("tie", lambda: press("Digit3"), *remarks)
    for code in [code for code in ("KeyZ", "KeyW", "KeyY") if code == "KeyZ" or KEYBOARDS[layout][code] == "z"]:
        her.judge("withdrawn", lambda code=code: press(code, repeats=15), *remarks)  # type: ignore[misc]
        her.meant[-1] = (her.meant[-2][0], *her.meant[-1][1:])  # it is about the item before
        assert her.item() == her.meant[-1][0], "undo brings the item back"
        assert tab.input_value("#key-n textarea, #key-n input") == remarks[1]
        assert tab.locator("#reasons input:checked").count() == 2
        her.judge("right", lambda: press("Digit2"), *remarks)
    tab.screenshot(path=screenshots / f"keyboard-{layout}.png")
    found = stored(server, her.name)
    assert as_meant(server, her.name) == her.meant
    assert [v.disclosed for v in found] == [False] * (VERDICTS + 1) + [True] * (len(found) - VERDICTS - 1)


def test_every_verdict_was_meant_by_mouse_and_by_the_focus_on_a_button(
    server: Server, open_page: Callable[..., Any], run: str
) -> None:
    """Double clicks, Space after a click, Enter held down, and a press that begins before the item is there."""
    tab = open_page(server.link("spot-check", run, overlap=100, language="es"), fresh=True)
    tab.evaluate(TOO_EARLY)
    her = Reviewer(tab, "Mai")
    her.sign_in()
    her.judge("left", lambda: tab.dblclick("#key-1"))
    assert her.focus() == "main", "Space would press a button that keeps the focus"
    her.keyboard.press("Space")
    her.judge("right", lambda: tab.click("#key-2", click_count=3))

    def left_and_at_once_tie() -> None:
        tab.click("#key-1")
        tab.click("#key-3", force=True)

    her.judge("left", left_and_at_once_tie)
    tab.focus("#key-4")
    her.judge("both-bad", lambda: her.keyboard.press("Enter", repeats=15))
    assert her.focus() == "key-4", "who works by Enter goes on by Enter"
    her.keyboard.press("Space", repeats=3)  # the button has the focus from the item before: this scrolls
    her.judge("both-bad", lambda: her.keyboard.press("Enter"))
    tab.focus("#key-3")
    her.judge("tie", lambda: her.keyboard.press("Space"))
    # Pressed on one item and let go on the next: it was not meant for that.
    box = tab.locator("#key-2").bounding_box()
    her.judge("left", lambda: her.keyboard.press("Digit1"))
    tab.mouse.move(box["x"] + 5, box["y"] + 5)
    before, item = serial(tab), her.item()
    tab.mouse.down()
    her.keyboard.press("Digit1")
    her.meant.append((item, "left", (), ""))
    wait_change(tab, before)
    tab.mouse.up()
    wait_judgeable(tab)
    before, withdrawn = serial(tab), her.meant[-1][0]
    tab.dblclick("#key-z")
    her.meant.append((withdrawn, "withdrawn", (), ""))
    her.settle(before)
    her.judge("skip", lambda: tab.click("#key-s"))
    for number in range(VERDICTS - len(her.meant)):
        choice, key = BUTTONS[number % len(BUTTONS)]
        her.judge(choice, lambda key=key: tab.dblclick(f"#key-{key}"))  # type: ignore[misc]
    assert as_meant(server, "Mai") == her.meant


def test_every_verdict_was_meant_by_finger(server: Server, browser: Any, screenshots: Path, run: str) -> None:
    context = browser.new_context(has_touch=True, is_mobile=True, viewport={"width": 390, "height": 844})
    try:
        tab = context.new_page()
        tab.goto(server.link("spot-check", run, overlap=100, language="es"))
        tab.wait_for_selector(READY, timeout=60_000)
        tab.evaluate(TOO_EARLY)
        her = Reviewer(tab, "Tapasi")
        her.sign_in()

        def tap_twice(selector: str) -> None:
            tab.tap(selector)
            tab.tap(selector, force=True)

        for number in range(VERDICTS):
            choice, key = BUTTONS[number % len(BUTTONS)]
            her.judge(choice, lambda key=key: tap_twice(f"#key-{key}"))  # type: ignore[misc]
        tab.screenshot(path=screenshots / "finger.png")
        assert as_meant(server, "Tapasi") == her.meant
    finally:
        context.close()


def test_the_list_of_keys(server: Server, open_page: Callable[..., Any], screenshots: Path) -> None:
    """Opened by `?` and by its button, closed by both and by Esc; it lists what the page has, and other keys wait behind it."""
    tab = open_page(server.link("spot-check", "small", overlap=100, language="es"), fresh=True)
    her = Reviewer(tab, "Kira")
    her.sign_in()
    listed = ".icr dialog[data-keys] tr:visible"
    tab.keyboard.press("?")
    signs = [row.split()[0] for row in tab.locator(listed).all_inner_texts()]
    assert signs[:15] == [*"1234sz", *"qertuiop", "n"]
    assert signs[-1] == "?"
    assert "Undo: withdraw" in tab.inner_text("dialog[data-keys]")
    assert "Back to the list" not in tab.inner_text("dialog[data-keys]")
    tab.screenshot(path=screenshots / "keys.png")
    tab.keyboard.press("1")
    tab.keyboard.press("?")
    assert tab.locator("dialog[data-keys][open]").count() == 0
    tab.click("[data-help]")
    tab.keyboard.press("Escape")
    assert tab.locator("dialog[data-keys][open]").count() == 0
    tab.click("[data-help]")
    tab.click("dialog[data-keys] button")
    assert tab.locator("dialog[data-keys][open]").count() == 0
    assert stored(server, "Kira") == []
    pairs = open_page(server.link("pairs", "small"))
    pairs.keyboard.press("?")
    assert "Left is better" not in pairs.inner_text("dialog[data-keys]"), "no item is judged there"
    assert "Show or close this list" in pairs.inner_text("dialog[data-keys]")
