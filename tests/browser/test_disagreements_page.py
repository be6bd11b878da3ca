"""Disagreements in a browser: a lead reads who said what, adjudicates by keys and by mouse, and undoes it; a page links to Spot-check."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import synthetic_runs
from tests.support.inspector import READY, Server, serial, start_server, wait_change, wait_judgeable
from tests.support.ports import free_port
from ui.review.items import Item
from ui.review.recording import new_token, record
from ui.review.verdict_store import VerdictStore
from ui.review.verdicts import ADJUDICATION, CHOSEN_ITEM
from ui.server.app import open_inspector
from ui.server.options import InspectOptions

PAYLOAD = "**peor** <img src=x onerror=\"document.title='hit'\"> [x](http://elsewhere.example)"


@pytest.fixture
def judged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """An inspector of its own whose three items have verdicts that differ; the last one is about outputs."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    file = tmp_path / "verdicts.db"
    run_id = synthetic_runs.small_run(synthetic_runs.open_tracker(tmp_path), tmp_path / "artifacts", 3).run_id
    inspector = open_inspector(InspectOptions(tracking_uri=f"sqlite:///{tmp_path / 'mlflow.db'}", verdicts=str(file)))
    items = [Item("pair", 2, None, "ar", "p0"), Item("pair", 2, None, "es", "p1"), Item("outputs", 2, 0, "es", "p1")]
    for item in items:
        for reviewer, choice in (("Lucía", "left"), ("ben", "right")):
            left = "chosen" if item.kind == "pair" else "after"
            token = new_token(inspector.links.secret, item, run_id, "random", True, left, reviewer)
            record(inspector, inspector.verdicts, inspector.links, reviewer, choice, token, ["untrue"], PAYLOAD)
    inspector.catalogue.close()
    port = free_port()
    process = start_server(tmp_path, port)
    yield Server(f"http://127.0.0.1:{port}", process, tmp_path, {"small": run_id})
    process.kill()
    process.wait()


def said(store: VerdictStore, run_id: str, queue: str) -> list[tuple[str, str, str, str]]:
    return [(v.reviewer, v.item, v.choice, v.note) for v in store.current(run_id) if v.queue == queue]


def test_a_lead_adjudicates_and_anyone_judges(judged: Server, open_page: Callable[..., Any], screenshots: Path) -> None:
    run_id, store = judged.runs["small"], VerdictStore(str(judged.folder / "verdicts.db"))
    tab = open_page(judged.link("disagreements", "small"), fresh=True)
    assert tab.locator("#main tbody tr").count() == 3
    assert not tab.locator("#verdict-bar").is_visible(), "a list has nothing to answer"
    tab.screenshot(path=screenshots / "disagreements.png")
    before = serial(tab)
    tab.click("#main tbody tr a[data-open] >> nth=0")
    wait_change(tab, before)
    rows = tab.locator(".said-rows li").all_inner_texts()
    assert [row.split()[0] for row in rows] == ["Lucía", "ben"]
    assert "untrue" in rows[0]
    assert tab.locator(".said-rows strong", has_text="peor").count() == 2
    assert tab.title() != "hit"
    assert tab.locator(".said-rows img, .said-rows .note a").count() == 0
    wait_judgeable(tab)
    # By key: first without a name, then with one.
    tab.keyboard.press("1")
    tab.wait_for_selector("#verdict-status .error", timeout=30_000)
    assert "name" in tab.inner_text("#verdict-status")
    tab.get_by_label("Your name").fill("Chefin")
    tab.keyboard.press("Enter")
    wait_judgeable(tab)
    before = serial(tab)
    tab.get_by_label("Note [n]").fill("beide sind belegt")
    tab.keyboard.press("Escape")
    tab.keyboard.press("2")
    wait_change(tab, before)
    assert said(store, run_id, ADJUDICATION) == [("Chefin", "pair:2::ar:p0", "right", "beide sind belegt")]
    assert tab.locator(".said-rows li", has_text="adjudicated").count() == 1
    first = said(store, run_id, ADJUDICATION)[0][1]
    # The next item by key, answered by mouse and undone by key.
    before = serial(tab)
    tab.keyboard.press("ArrowRight")
    wait_change(tab, before)
    wait_judgeable(tab)
    before = serial(tab)
    tab.click("#key-3")
    wait_change(tab, before)
    assert len(said(store, run_id, ADJUDICATION)) == 2
    wait_judgeable(tab)
    before = serial(tab)
    tab.keyboard.press("z")
    wait_change(tab, before)
    assert [row[1] for row in said(store, run_id, ADJUDICATION)] == [first]
    tab.goto(judged.link("disagreements", "small", settled="open"))
    tab.wait_for_selector(READY)
    assert tab.locator("#main tbody tr").count() == 2
    # "Judge this" opens Spot-check at the very item, and goes nowhere else by itself.
    tab.goto(judged.link("pairs", "small", iteration=2, id="p1", id_language="es"))
    tab.wait_for_selector(".said-rows")
    assert tab.locator(".said-rows li").count() == 2
    tab.click("text=Judge this")
    tab.wait_for_selector(".icr [data-item]", timeout=60_000)
    assert "Chosen item" in tab.inner_text("#main")
    wait_judgeable(tab)
    before = serial(tab)
    tab.keyboard.press("1")
    wait_change(tab, before)
    assert "You have judged this item" in tab.inner_text("#main")
    assert [row[:2] for row in said(store, run_id, CHOSEN_ITEM)] == [("Chefin", "pair:2::es:p1")]
    assert not [v for v in store.current(run_id) if v.queue == "random" and v.reviewer == "Chefin"]
