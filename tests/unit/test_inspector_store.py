"""A tracking or artifact store that stops answering is a sentence in every page, never a traceback."""

from __future__ import annotations

from pathlib import Path

import pytest

from icr_platform.tracking.reader import TrackingReader
from ui.pages import agreement, margins, overview, pairs, regressions, spot_check
from ui.pages.shell import render_page
from ui.review.inspector import Inspector
from ui.review.verdicts import VerdictStore
from ui.tables.queries import Engine
from ui.tables.runs import Catalogue

SHOWS = {
    "": overview.show,
    "pairs": pairs.show,
    "margins": margins.show,
    "regressions": regressions.show,
    "spot-check": spot_check.show_with("ana")[0],
    "agreement": agreement.show,
}


@pytest.mark.parametrize("page", SHOWS)
def test_a_store_that_does_not_answer(
    tmp_path: Path, page: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    catalogue = Catalogue(TrackingReader("http://127.0.0.1:9"), tmp_path)  # discard: nothing listens there
    inspector = Inspector(catalogue, Engine(), VerdictStore(str(tmp_path / "verdicts.db")))
    html = render_page(inspector, page, SHOWS[page], {"run": "0" * 32, "iteration": "1"})
    assert "the tracking store does not answer; is it running?" in html
    assert "Something went wrong" not in html
    assert capsys.readouterr().err == ""
