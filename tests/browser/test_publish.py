"""`icr verdicts publish`: reviewers' verdicts become a table and metrics of their MLflow run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import mlflow
import pytest

from icr_platform.core.artifacts import open_artifact
from tests.support import synthetic_runs
from ui.review.exports import VERDICTS
from ui.review.items import Item
from ui.review.recording import new_token, record
from ui.server.app import open_inspector
from ui.server.options import InspectOptions


def icr(*arguments: str) -> subprocess.CompletedProcess[str]:
    code = "from icr_platform.cli import main; main()"
    return subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=120)


def test_publish_from_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")  # the store below is named on the command line
    run_id = synthetic_runs.small_run(
        synthetic_runs.open_tracker(tmp_path), tmp_path / "artifacts", per_language=3
    ).run_id
    uri, verdicts = f"sqlite:///{tmp_path / 'mlflow.db'}", str(tmp_path / "verdicts.db")
    flags = ["--tracking-uri", uri, "--verdicts", verdicts]
    none_yet = icr("verdicts", "publish", run_id, *flags)
    assert none_yet.returncode == 2
    assert "has no verdicts yet" in none_yet.stderr
    inspector = open_inspector(InspectOptions(tracking_uri=uri, verdicts=verdicts))
    for language, prompt_id in (("es", "p0"), ("es", "p1"), ("bn", "p0")):
        token = new_token(Item("pair", 2, None, language, prompt_id), run_id, "random", True)
        record(inspector, inspector.verdicts, "ana", "left", token, ["untrue"], "note")
    for times in (1, 2):
        done = icr("verdicts", "publish", run_id, *flags)
        assert (done.returncode, done.stdout) == (0, f"published 3 verdicts to run {run_id}\n"), done.stderr
        client = mlflow.MlflowClient(uri)
        metrics = client.get_run(run_id).data.metrics
        assert {name for name in metrics if name.startswith("human_agreement/")} == {
            "human_agreement/all",
            "human_agreement/bn",
            "human_agreement/es",
        }
        assert metrics["human_agreement_n/es"] == 2
        assert len(client.get_metric_history(run_id, "human_agreement/es")) == times
        table = open_artifact(Path(client.download_artifacts(run_id, "verdicts", str(tmp_path))), VERDICTS).read()
        assert table.column("language").to_pylist() == ["es", "es", "bn"]
    unknown = icr("verdicts", "publish", "0" * 32, *flags)
    assert unknown.returncode == 2
    assert len(unknown.stderr.splitlines()) == 1
