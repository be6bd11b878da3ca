"""A review link in a real browser: 30 pairs by mouse and by touch, resumed elsewhere, and links that were edited, have ended or lead nowhere."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.support import synthetic_runs
from tests.support.inspector import READY, Server, serial, start_server, wait_change, wait_judgeable
from tests.support.ports import free_port
from ui.review.links import ReviewLink, address_of
from ui.review.making_links import AskedLink, make_link
from ui.review.verdicts import Verdict
from ui.server.app import open_inspector
from ui.server.options import InspectOptions

pytestmark = pytest.mark.browser
PAIRS = 30


@pytest.fixture(scope="module")
def reviewed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """An inspector of its own with one run: nobody else's verdicts are in it."""
    folder = tmp_path_factory.mktemp("review")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", "")
        run = synthetic_runs.small_run(synthetic_runs.open_tracker(folder), folder / "artifacts", per_language=40)
        port = free_port()
        process = start_server(folder, port)
        yield Server(f"http://127.0.0.1:{port}", process, folder, {"small": run.run_id})
        process.kill()
        process.wait()


def inspector_of(server: Server) -> Any:
    uri = f"sqlite:///{server.folder / 'mlflow.db'}"
    return open_inspector(InspectOptions(tracking_uri=uri, verdicts=str(server.folder / "verdicts.db")))


def made(server: Server, **asked: Any) -> tuple[ReviewLink, str]:
    """A link and its whole address."""
    inspector = inspector_of(server)
    wanted = AskedLink("es", items=PAIRS, **asked)
    link = make_link(inspector, inspector.links, inspector.catalogue.arm(server.runs["small"]), wanted).link
    return link, server.address + address_of(link, inspector.links.secret)


def given(server: Server, link: ReviewLink) -> list[Verdict]:
    history: list[Verdict] = inspector_of(server).verdicts.history(server.runs["small"])
    return [verdict for verdict in history if verdict.link == link.id]


def begin(tab: Any, name: str) -> None:
    before = serial(tab)
    tab.fill("#reviewer input, #reviewer textarea", name)
    tab.click("#start")
    wait_change(tab, before)
    wait_judgeable(tab)


def at(tab: Any) -> str:
    return str(tab.inner_text(".review-bar .progress")).strip()


def state(tab: Any) -> str:
    return str(tab.get_attribute(".icr.review", "data-state"))


_FITS = """() => {
  const bar = document.querySelector("#choices").getBoundingClientRect();
  const panes = [...document.querySelectorAll(".icr.review .sides > section")].map(pane => pane.getBoundingClientRect());
  return { still: document.documentElement.scrollHeight <= innerHeight && document.documentElement.scrollWidth <= innerWidth,
           buttons: bar.bottom <= innerHeight && bar.top > 0, panes: panes.length === 2 && panes.every(p => p.bottom <= bar.top && p.height > 120),
           taps: [...document.querySelectorAll("#choices button")].every(b => b.getBoundingClientRect().height >= (innerWidth > 700 ? 36 : 44)) };
}"""
_WANTED = {"still": True, "buttons": True, "panes": True, "taps": True}


def test_thirty_pairs_by_mouse_and_resumed_elsewhere(
    reviewed: Server, open_page: Callable[..., Any], screenshots: Path
) -> None:
    """Every click is a double one; after ten, she goes on in another browser."""
    link, address = made(reviewed, guidelines="Choose what **you** would rather get.\n\n- facts first")
    tab = open_page(address + "&iteration=1&queue=smallest-margin&overlap=100&open=1&language=en", fresh=True)
    assert tab.url == address, "what was added to the address is dropped"
    assert "rather get" in tab.inner_text("#main")
    begin(tab, "Maus")
    for number in range(PAIRS):
        assert at(tab) == f"{number} of {PAIRS}"
        if number == 10:
            tab = open_page(address, fresh=True)
            begin(tab, " MAUS")
            assert at(tab) == f"10 of {PAIRS}"
            tab.set_viewport_size({"width": 1366, "height": 625})
            tab.screenshot(path=screenshots / "review-1366.png")
            assert tab.evaluate(_FITS) == _WANTED
            tab.keyboard.press("g")
            assert tab.locator("#guidelines[open]").count() == 1
            tab.keyboard.press("1")  # behind the guidelines nothing is pressed
            tab.keyboard.press("Escape")
            assert tab.locator("#guidelines[open]").count() == 0
            tab.keyboard.press("q")
            assert tab.is_visible("#reasons"), "a reason that was ticked is seen"
        before = serial(tab)
        tab.dblclick(f"#key-{'1234'[number % 4]}")
        wait_change(tab, before)
        if number < PAIRS - 1:
            wait_judgeable(tab)
    assert state(tab) == "done"
    assert "What the run preferred" in tab.inner_text("#main")
    tab.screenshot(path=screenshots / "review-done.png")
    stored = given(reviewed, link)
    assert [verdict.choice for verdict in stored] == [
        ("left", "right", "tie", "both-bad")[number % 4] for number in range(PAIRS)
    ]
    assert len({verdict.item for verdict in stored}) == PAIRS
    assert {verdict.reviewer for verdict in stored} == {"Maus"}
    assert stored[10].reasons
    assert all(verdict.blind and not verdict.disclosed for verdict in stored)
    before = serial(tab)
    tab.click("#key-z")
    wait_change(tab, before)
    wait_judgeable(tab)
    tab.keyboard.press("3")
    wait_change(tab, serial(tab)) if state(tab) == "item" else None
    tab.wait_for_function("document.querySelector('.icr.review').dataset.state === 'done'")
    assert [verdict.disclosed for verdict in given(reviewed, link)][-1], "changed after she was told"


def test_thirty_pairs_by_touch(reviewed: Server, browser: Any, screenshots: Path) -> None:
    """On a phone: every tap is a double one, panes are swiped, the buttons stay in reach."""
    link, address = made(reviewed, overlap=100, gold="2")
    context = browser.new_context(viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    tab = context.new_page()
    errors: list[str] = []
    tab.on("pageerror", lambda error: errors.append(str(error)))
    tab.goto(address)
    tab.wait_for_selector(READY, timeout=60_000)
    begin(tab, "Toque")
    tab.screenshot(path=screenshots / "review-390.png")
    assert tab.evaluate(_FITS) == _WANTED
    right = "document.querySelector('.sides section[aria-label=Right]').getBoundingClientRect()"
    assert 0 < tab.evaluate(f"innerWidth - {right}.left") < 60, "the other pane peeks out"
    tab.evaluate("document.querySelector('.sides').scrollTo({ left: 1000 })")
    tab.wait_for_function(f"{right}.right <= innerWidth + 1")
    for number in range(PAIRS + 2):
        before = serial(tab)
        tab.tap(f"#key-{1 + number % 2}")
        tab.tap(f"#key-{1 + number % 2}", force=True, no_wait_after=True)
        wait_change(tab, before)
        if number < PAIRS + 1:
            wait_judgeable(tab)
    assert state(tab) == "done"
    stored = given(reviewed, link)
    assert len(stored) == len({verdict.item for verdict in stored}) == PAIRS + 2
    assert [verdict.choice for verdict in stored] == [("left", "right")[number % 2] for number in range(PAIRS + 2)]
    assert sum(bool(verdict.gold) for verdict in stored) == 2
    assert not errors
    context.close()


def test_links_that_lead_nowhere(reviewed: Server, open_page: Callable[..., Any]) -> None:
    link, address = made(reviewed)
    inspector = inspector_of(reviewed)
    ended = inspector.links.add(replace(link, id="0" * 12, expires_at="2026-01-01T00:00:00+00:00"))
    gone = inspector.links.add(replace(link, id="1" * 12, run_id="0" * 32))
    secret = inspector.links.secret
    for bad, said in (
        (address[:-1] + ("0" if address[-1] != "0" else "1"), "was changed"),
        (address.replace(link.id, ended.id), "was changed"),
        (reviewed.address + "/review", "not complete"),
        (reviewed.address + address_of(ended, secret), "ended on 2026-01-01"),
        (reviewed.address + address_of(gone, secret), "was deleted"),
    ):
        tab = open_page(bad)
        assert said in tab.inner_text(READY)
        assert not tab.is_visible("#choices")
        assert not tab.is_visible("#reviewer")


def test_a_lead_makes_a_link_in_the_browser(reviewed: Server, open_page: Callable[..., Any], screenshots: Path) -> None:
    tab = open_page(reviewed.link("agreement", "small"))
    form = "form[data-make-link]"
    if not tab.is_visible(form):
        tab.click(".make-link > summary")
    for name, value in (("items", "4"), ("gold", "1"), ("guidelines", "# <img src=x onerror=window.__hit=1>")):
        tab.fill(f"{form} [name={name}]", value)
    tab.select_option(f"{form} [name=language]", "es")
    before = serial(tab)
    tab.click(f"{form} button[type=submit]")
    wait_change(tab, before)
    tab.screenshot(path=screenshots / "agreement-links.png", full_page=True)
    address = tab.locator(".links [data-address]").first.input_value()
    assert re.fullmatch(re.escape(reviewed.address) + r"/review\?link=[0-9a-f]{12}\.[0-9a-f]{20}", address)
    tab = open_page(address, fresh=True)
    assert "You will see 5 questions in Spanish" in tab.inner_text("#main")
    assert tab.evaluate("window.__hit === undefined && !document.querySelector('#main img')")
