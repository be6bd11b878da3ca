"""Reviewing in a real browser: twenty verdicts by keyboard, undo, coming back, two reviewers at once, agreement and publishing."""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.inspector import READY, Server, serial, wait_change, wait_judgeable
from ui.review.verdict_store import VerdictStore

pytestmark = pytest.mark.browser


def sign_in(tab: Any, name: str) -> None:
    before = serial(tab)
    tab.fill("#reviewer input, #reviewer textarea", name)
    tab.press("#reviewer input, #reviewer textarea", "Enter")
    wait_change(tab, before)
    tab.wait_for_selector("[data-item]")
    wait_judgeable(tab)


def press(tab: Any, key: str) -> None:
    before = serial(tab)
    tab.keyboard.press(key)
    wait_change(tab, before)
    wait_judgeable(tab)


def shown(tab: Any) -> str:
    return str(tab.get_attribute("[data-item]", "data-item"))


def test_twenty_verdicts_by_keyboard(server: Server, open_page: Callable[..., Any]) -> None:
    tab = open_page(server.link("spot-check", "small", overlap=0), fresh=True)
    sign_in(tab, "Keya")
    assert "margin" not in tab.inner_text("#main").lower(), "blind: no margin before the verdict"
    assert "reward" not in tab.inner_text("#main").lower()
    seen = []
    for number in range(20):
        seen.append(shown(tab))
        if number == 3:
            tab.keyboard.press("q")
            tab.keyboard.press("n")
            tab.keyboard.type("two words")
            tab.keyboard.press("Escape")
        press(tab, "1234"[number % 4])
    assert len(set(seen)) == 20, "no item twice"
    assert "Saved: both bad" in tab.inner_text("#verdict-bar")
    press(tab, "z")
    assert shown(tab) == seen[-1], "undo brings the item back"
    press(tab, "2")
    tab.reload()
    tab.wait_for_selector("[data-item]", timeout=30_000)
    assert shown(tab) not in seen, "she goes on where she stopped"
    assert "20 of 72 judged" in " ".join(tab.inner_text(READY).split())
    store = VerdictStore(str(server.folder / "verdicts.db"))
    current, history = store.current(reviewer="Keya"), store.history(reviewer="Keya")
    assert len(current) == 20
    assert [verdict.choice for verdict in history][-3:] == ["both-bad", "withdrawn", "right"]
    fourth = history[3]
    assert (fourth.choice, fourth.reasons, fourth.note) == ("both-bad", ("wrong language",), "two words")
    assert {verdict.left for verdict in current} == {"chosen", "rejected"}, "sides are shuffled"


def test_two_reviewers_at_once(server: Server, open_page: Callable[..., Any]) -> None:
    link = server.link("spot-check", "small", overlap=0, language="es", iteration=1)
    tabs = [open_page(link, fresh=True) for _ in range(2)]
    items: list[list[str]] = [[], []]
    for tab, name in zip(tabs, ("Uma", "Vera"), strict=True):
        sign_in(tab, name)
    for _ in range(5):
        for place, tab in enumerate(tabs):
            items[place].append(shown(tab))
            press(tab, "1")
    assert not set(items[0]) & set(items[1]), "without overlap no item goes to both"


@pytest.mark.parametrize("queue", ["smallest-margin", "largest-margin", "regressions", "disagree"])
def test_other_queues(server: Server, open_page: Callable[..., Any], queue: str) -> None:
    tab = open_page(server.link("spot-check", "small", overlap=100, queue=queue, language="en"), fresh=True)
    sign_in(tab, f"Q {queue}")
    press(tab, "1")
    assert "Saved: left" in tab.inner_text("#verdict-bar")


def test_agreement_export_and_publish(server: Server, open_page: Callable[..., Any]) -> None:
    link = server.link("spot-check", "small", overlap=100, iteration=1, language="th")
    for name, keys in (("Ines", "121"), ("Jana", "1ss")):  # each has her own sides: they may differ on the first item
        tab = open_page(link, fresh=True)
        sign_in(tab, name)
        for key in keys:
            press(tab, key)
    tab = open_page(server.link("agreement", "small"))
    text = tab.inner_text(READY)
    assert "Krippendorff" in text
    assert "Ines – Jana" in text
    tab.click("#export")
    tab.check("#export-formats input[name='datasets']")
    tab.click("#export-left-out input")
    tab.click("[role=option]:has-text('Jana')")
    tab.click("#export-now")
    tab.wait_for_selector("#exported a", timeout=30_000)
    assert "The files are ready below." in tab.inner_text("#export-status")
    with tab.expect_download() as download:
        tab.click("#exported a[href*='verdicts.csv']")
    with Path(download.value.path()).open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    store = VerdictStore(str(server.folder / "verdicts.db"))
    given = {name: len(store.current(reviewer=name)) for name in store.reviewers(server.runs["small"])}
    assert given["Ines"] == given["Jana"] == 3
    counts = Counter(row["reviewer"] for row in rows)
    assert all(re.fullmatch(r"reviewer \d+", name) for name in counts), "pseudonyms unless names are asked for"
    del given["Jana"]
    assert sorted(counts.values()) == sorted(given.values()), "everybody's but Jana's"
    assert tab.locator("#exported a[href*='dataset.zip']").count() > 0
    tab.click("#publish")
    tab.wait_for_selector("#publish-preview tbody", timeout=30_000)
    assert "reviewer 1" in tab.inner_text("#publish-preview")
    tab.click("#publish-now")
    tab.wait_for_function(
        "document.querySelector('#publish-status').innerText.includes('are published')", timeout=30_000
    )
    from icr_platform.tracking.reader import TrackingReader

    record = TrackingReader(f"sqlite:///{server.folder / 'mlflow.db'}").run(server.runs["small"])
    assert "human_agreement/th" in record.metrics
    assert record.metrics["human_agreement_n/all"] >= 2


@pytest.mark.parametrize("width", [1440, 1024])
def test_choices_stay_in_sight_beside_long_texts(server: Server, open_page: Callable[..., Any], width: int) -> None:
    tab = open_page(server.link("spot-check", "long", overlap=0), width, fresh=True)
    sign_in(tab, f"Lou {width}")
    assert tab.evaluate("document.documentElement.scrollHeight > 2 * innerHeight")
    in_sight = "() => document.querySelector('#key-1').getBoundingClientRect().bottom <= innerHeight"
    assert tab.evaluate(in_sight)
    tab.evaluate("window.scrollTo(0, document.documentElement.scrollHeight)")
    assert tab.evaluate(in_sight)
    press(tab, "1")
    assert tab.evaluate("window.scrollY") == 0, "the next item is read from its beginning"


def test_twenty_verdicts_without_a_mouse_by_tab_and_enter(server: Server, open_page: Callable[..., Any]) -> None:
    """From the address bar: Tab reaches the name, then a choice; Enter presses it, and the focus stays for the next."""
    tab = open_page(server.link("spot-check", "small", overlap=0, iteration=1), fresh=True)

    def tab_to(selector: str) -> None:
        for _ in range(80):
            tab.keyboard.press("Tab")
            if tab.evaluate("selector => !!document.activeElement.closest(selector)", selector):
                return
        raise AssertionError(f"Tab never reaches {selector}")

    tab_to("#reviewer")
    tab.keyboard.type("Tabea")
    press(tab, "Enter")
    tab.wait_for_selector("[data-item]")
    tab.keyboard.press("Escape")
    tab_to("#key-2")
    for _ in range(20):
        press(tab, "Enter")
    assert "20 of" in " ".join(tab.inner_text(READY).split())


@pytest.mark.parametrize(("queue", "thoughts", "none"), [("random", 2, 0), ("regressions", 1, 1)])
def test_blind_reviewers_see_thoughts_folded_alike(
    server: Server, open_page: Callable[..., Any], screenshots: Path, queue: str, thoughts: int, none: int
) -> None:
    link = server.link("spot-check", "thinking", overlap=0, language="" if none else "es", iteration=2, queue=queue)
    tab = open_page(link, fresh=True, width=390 if none else 1440)
    sign_in(tab, f"Thea {queue}")
    tab.screenshot(path=screenshots / f"thoughts-spot-check-{queue}.png", full_page=True)
    assert tab.locator("#main details.thought:not([open])").count() == thoughts
    assert tab.inner_text("#main").count("Nothing was thought here.") == none
    assert "the user wants" not in tab.inner_text("#main")
    summary = tab.locator("#main details.thought summary").first
    assert "English" in summary.inner_text()
    summary.focus()
    tab.keyboard.press("Space")
    assert "I should answer in" in tab.inner_text("#main")
    before = shown(tab)
    press(tab, "1")
    assert shown(tab) != before, "keys go on working after a thought was opened"


def test_reviewers_see_the_conversation_before_an_instruction(
    server: Server, open_page: Callable[..., Any], screenshots: Path
) -> None:
    for queue in ("random", "regressions"):
        link = server.link("spot-check", "conversations", overlap=0, language="th", iteration=2, queue=queue)
        tab = open_page(link, fresh=True, width=390 if queue == "random" else 1440)
        sign_in(tab, f"Tara {queue}")
        seen: set[int] = set()
        while tab.locator("[data-item]").count() and len(seen) < 2:
            if tab.locator("#main details.earlier").count():
                summary = tab.locator("#main details.earlier summary").first
                seen.add(int(summary.inner_text().split()[0]))
                summary.focus()
                tab.keyboard.press("Enter")
                tab.screenshot(path=screenshots / f"conversation-spot-check-{queue}-{len(seen)}.png", full_page=True)
            press(tab, "1")
        assert seen <= {1, 2, 5}
        assert seen
