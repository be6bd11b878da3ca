"""Own figures beside the published ones, as tables of the arm's run in a real store."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from rich.console import Console

from icr_platform.pipeline.arm_results import show_leaderboard
from icr_platform.report.arm_report import Report
from icr_platform.report.iteration_metrics import IterationMetrics
from icr_platform.tracking.tracker import Tracker


def test_the_arms_run_gets_the_published_table_with_its_own_rows_on_top(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    tracker = Tracker("leaderboard")
    run = tracker.start("arm", {"icr.kind": "arm"})
    iterations = [IterationMetrics(t, {"win_rate/es": 12.0 + t, "lc_win_rate/es": 13.0 + t}) for t in range(2)]
    console = Console(width=120, record=True, file=(tmp_path / "terminal").open("w"))
    show_leaderboard(Report("title", "mine", iterations), run, console)
    for name, first, paper in (("x_alpacaeval", 12.0, 3.77), ("x_alpacaeval_lc", 13.0, 6.34)):
        path = tracker.client.download_artifacts(run.run_id, f"{name}.json", str(tmp_path))
        table = json.loads(Path(path).read_text())
        rows = {row[0]: row for row in table["data"]}
        assert table["columns"] == ["model", "source", "es"]
        assert (rows["mine pi_0"][2], rows["mine pi_1"][2]) == (first, first + 1)
        assert rows["Llama-3-8B-SFT"] == ["Llama-3-8B-SFT", "arXiv 2503.04647, Table 2", paper]
    assert "mine pi_1" in console.export_text()
    run.finish()
