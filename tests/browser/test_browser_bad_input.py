"""What goes wrong is said in one sentence in the page; nothing is lost and no traceback is shown."""

from __future__ import annotations

import shutil
import sqlite3
import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.support.inspector import READY, Server, go, serial, wait_change, wait_judgeable
from ui.tables.runs import FRESH_SECONDS

pytestmark = pytest.mark.browser


def said(tab: Any) -> str:
    text = str(tab.inner_text(READY))
    assert "Traceback" not in text
    assert "Something went wrong" not in text
    return text


@pytest.mark.parametrize("page", ["", "pairs", "margins", "regressions", "spot-check", "agreement"])
def test_broken_runs(server: Server, open_page: Callable[..., Any], page: str) -> None:
    tab = open_page(server.link(page, "empty"))
    for run in ("empty", "running", "old"):
        go(tab, f"?run={server.runs[run]}&iteration=1")
        assert tab.locator(".icr p.message").count() or page == "agreement", (page, run, said(tab))
        said(tab)


@pytest.mark.parametrize(
    ("page", "query", "sentence"),
    [
        (
            "pairs",
            "iteration=two&margin_min=nan&sort=drop%20table&language=es",
            "which is not a whole number from 0; it was left out",
        ),
        ("pairs", "iteration=99", "The run has no iteration 99; it has 0, 1, 2"),
        ("pairs", "iteration=0", "Iteration 0 is the starting policy"),
        ("pairs", "iteration=1&language=sw", "The run has nothing in Swahili; the page shows all languages"),
        ("pairs", "iteration=1&id=no-such&id_language=es", "no prompt 'no-such'"),
        ("pairs", "iteration=1&margin_min=1e300", "no pair passes the filters"),
        ("margins", "iteration=1&language=sw", "The run has nothing in Swahili; the page shows all languages"),
        (
            "regressions",
            "iteration=2&base=1&language=sw",
            "The run has nothing in Swahili; the page shows all languages",
        ),
        ("regressions", "iteration=0&base=0&measure=reward", "Iteration 0 is the starting policy"),
    ],
)
def test_nonsense_addresses(
    server: Server, open_page: Callable[..., Any], page: str, query: str, sentence: str
) -> None:
    tab = open_page(f"{server.link(page, 'small')}&{query}")
    assert sentence in said(tab)


def test_unknown_run_and_old_schema(server: Server, open_page: Callable[..., Any]) -> None:
    tab = open_page(f"{server.address}/pairs?run={'0' * 32}")
    assert f"There is no run '{'0' * 32}' here" in said(tab)
    go(tab, f"?run={server.runs['old']}&iteration=1")
    assert "'schema_version' is 0, this version reads " in said(tab)


def test_tables_deleted_while_open(server: Server, open_page: Callable[..., Any]) -> None:
    tab = open_page(server.link("pairs", "gone", iteration=1))
    assert tab.locator("table.list tbody tr").count()
    shutil.rmtree(server.folder / "artifacts" / "synthetic-gone")
    go(tab, f"?run={server.runs['gone']}&iteration=1&id=p1&id_language=es")
    assert "moved or deleted while open" in said(tab) or "no such folder" in said(tab)


def test_run_deleted_while_open(server: Server, open_page: Callable[..., Any]) -> None:
    import mlflow

    run = server.runs["doomed"]
    tab = open_page(server.link("pairs", "doomed", iteration=1))
    assert tab.locator("table.list tbody tr").count()
    mlflow.MlflowClient(f"sqlite:///{server.folder / 'mlflow.db'}").delete_run(run)
    time.sleep(FRESH_SECONDS)
    for page in ("pairs", "regressions", "spot-check"):
        tab.goto(server.link(page, "doomed", iteration=1))
        tab.wait_for_selector(READY)
        assert f"Run {run} was deleted from MLflow; restore it there" in said(tab)


def judge(tab: Any, name: str) -> None:
    before = serial(tab)
    tab.fill("#reviewer input, #reviewer textarea", name)
    tab.press("#reviewer input, #reviewer textarea", "Enter")
    wait_change(tab, before)
    tab.wait_for_selector("[data-item]")
    wait_judgeable(tab)


def test_locked_store_and_long_note(server: Server, open_page: Callable[..., Any]) -> None:
    tab = open_page(server.link("spot-check", "small"), fresh=True)
    judge(tab, "Lena")
    tab.fill("#key-n textarea, #key-n input", "n" * 100_001)
    tab.click("#key-1")
    tab.wait_for_selector("#verdict-bar p.message.error")
    assert "100,001 characters" in tab.inner_text("#verdict-bar")
    tab.fill("#key-n textarea, #key-n input", "n" * 100_000)
    blocker = sqlite3.connect(server.folder / "verdicts.db", isolation_level=None)
    blocker.execute("BEGIN EXCLUSIVE")
    tab.click("#key-1")
    tab.wait_for_function(
        "document.querySelector('#verdict-bar').innerText.includes('does not answer')", timeout=30_000
    )
    assert len(tab.input_value("#key-n textarea, #key-n input")) == 100_000, "the note is still there"
    blocker.execute("ROLLBACK")
    before = serial(tab)
    tab.click("#key-1")
    wait_change(tab, before)
    (note,) = blocker.execute("SELECT note FROM icr_verdicts WHERE reviewer = 'Lena'").fetchone()
    assert note == "n" * 100_000
    blocker.close()
