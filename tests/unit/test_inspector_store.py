"""A tracking or artifact store that stops answering is a sentence in every page, never a traceback."""

from __future__ import annotations

from pathlib import Path

import pytest

from icr_platform.tracking.reader import TrackingReader
from ui.pages import spot_check
from ui.pages.inspector import Content, Focus, Inspector, Show
from ui.pages.shell import render_page
from ui.pages.table_of_pages import PAGES, Page
from ui.review.verdict_store import VerdictStore
from ui.tables.queries import QueryEngine
from ui.tables.runs import Catalogue


def of_reviewer(inspector: Inspector, focus: Focus) -> Content:
    """Spot-check of someone who gave her name."""
    return spot_check.offer(inspector, focus, "ana").content


SHOWS: list[tuple[Page, Show | None]] = [
    (page, of_reviewer if page.address == "spot-check" else None) for page in PAGES
]


@pytest.mark.parametrize(("page", "show"), SHOWS, ids=[page.title for page in PAGES])
def test_a_store_that_does_not_answer(
    tmp_path: Path, page: Page, show: Show | None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    catalogue = Catalogue(TrackingReader("http://127.0.0.1:9"), tmp_path)  # discard: nothing listens there
    inspector = Inspector(catalogue, QueryEngine(), VerdictStore(str(tmp_path / "verdicts.db")))
    html = render_page(inspector, page, {"run": "0" * 32, "iteration": "1"}, show)
    assert "the tracking store does not answer; is it running?" in html
    assert "Something went wrong" not in html
    assert capsys.readouterr().err == ""
