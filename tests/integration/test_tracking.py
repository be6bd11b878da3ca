"""Tracking against real stores: a sqlite file, and a real MLflow server that goes away and comes back."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest

from icr_platform.core.errors import InputError, TrackingError
from icr_platform.tracking.final_metrics import final_metrics
from icr_platform.tracking.model_registry import forget_iterations, register_checkpoint
from icr_platform.tracking.reader import TrackingReader
from icr_platform.tracking.run_handle import RunHandle
from icr_platform.tracking.tracker import Tracker
from tests.support.mlflow_server import MlflowServer
from tests.support.ports import free_port


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[MlflowServer]:
    server = MlflowServer(tmp_path)
    server.start()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    yield server
    server.stop()


@pytest.fixture
def local_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)
    return tmp_path


def test_a_run_keeps_params_metrics_tables_and_artifacts(local_store: Path) -> None:
    tracker = Tracker("here")
    parent = tracker.start("arm", {"icr.kind": "arm"})
    child = tracker.start("stage", {"icr.kind": "stage", "icr.cache_key": "k"}, parent)
    child.log_params({"a": 1, "url": "https://me:secret@host/v1?key=abc"})
    child.log_params({"a": 2, "b": 3})
    child.log_metrics({"win_rate/es": 51.5, "odd[name]é": 1.0})
    child.log_dataset("prompts", "d" * 64, "somewhere", "generate")
    (local_store / "work").mkdir()
    (local_store / "work" / "part.txt").write_text("text")
    child.log_artifacts(local_store / "work", "responses")
    child.finish()
    run = tracker.client.get_run(child.run_id)
    assert run.data.params == {"a": "1", "url": "https://***@host/v1?key=***", "b": "3"}
    assert run.data.metrics["win_rate/es"] == 51.5
    assert run.data.tags["mlflow.parentRunId"] == parent.run_id
    assert run.inputs is not None
    assert run.inputs.dataset_inputs[0].dataset.name == "prompts"
    assert Path(tracker.resolve(f"runs:/{child.run_id}/responses"), "part.txt").read_text() == "text"
    found = tracker.find_finished("k")
    assert found is not None
    assert found.info.run_id == child.run_id


def test_runs_uri_of_a_missing_failed_or_empty_run_is_bad_input(local_store: Path) -> None:
    tracker = Tracker("here")
    run = tracker.start("stage", {})
    with pytest.raises(InputError, match="no such run"):
        tracker.resolve("runs:/0123456789abcdef0123456789abcdef/responses")
    run.finish("FAILED")
    with pytest.raises(InputError, match="FAILED, not FINISHED"):
        tracker.resolve(f"runs:/{run.run_id}/responses")
    run.finish("FINISHED")
    with pytest.raises(InputError, match="no artifact 'responses'"):
        tracker.resolve(f"runs:/{run.run_id}/responses")
    with pytest.raises(InputError, match="no such registered model"):
        tracker.resolve("models:/nothing@iteration-1")


def trained(tracker: Tracker, folder: Path, text: str) -> RunHandle:
    """A FINISHED train run with a checkpoint that says `text`."""
    run = tracker.start("train", {"icr.stage": "train"})
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(text)
    run.log_artifacts(folder, "checkpoint")
    run.finish()
    return run


def checkpoint_of(tracker: Tracker, uri: str) -> str:
    return Path(tracker.resolve(uri), "config.json").read_text()


def test_an_alias_is_the_checkpoint_in_use_whatever_was_registered_before(local_store: Path) -> None:
    tracker = Tracker("here")
    first, second, other = (trained(tracker, local_store / "work", text) for text in ("first", "second", "other"))
    for iteration, run in ((1, first), (2, second), (3, second)):
        register_checkpoint(tracker, "icr-policy", run, iteration)
    assert checkpoint_of(tracker, "models:/icr-policy@iteration-2") == "second"
    tracker.client.set_registered_model_alias("icr-policy", "champion", "1")

    register_checkpoint(
        tracker, "icr-policy", other, 1
    )  # another configuration: what the first led to is not in use any more
    assert checkpoint_of(tracker, "models:/icr-policy@iteration-1") == "other"
    with pytest.raises(InputError, match="no such registered model"):
        tracker.resolve("models:/icr-policy@iteration-2")
    assert checkpoint_of(tracker, "models:/icr-policy@champion") == "first", "a person's alias stays"

    for _ in range(2):  # back again, with trainings that are found; the second time nothing changes
        for iteration, run in ((1, first), (2, second)):
            register_checkpoint(tracker, "icr-policy", run, iteration)
        register_checkpoint(tracker, "it's another arm", first, 1)
    assert checkpoint_of(tracker, "models:/icr-policy@iteration-1") == "first"
    assert checkpoint_of(tracker, "models:/icr-policy@iteration-2") == "second"
    assert checkpoint_of(tracker, "models:/it's another arm@iteration-1") == "first"
    assert len(tracker.client.search_model_versions("name = 'icr-policy'")) == 3, "one version for each checkpoint"

    forget_iterations(tracker, "icr-policy", range(1, 2))
    assert set(tracker.client.get_registered_model("icr-policy").aliases) == {"iteration-1", "champion"}
    forget_iterations(tracker, "nothing-policy", range(1, 2))


def test_a_registry_that_refuses_is_one_line(
    local_store: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_REGISTRY_URI", "nothing://here")
    tracker = Tracker("here")
    run = trained(tracker, local_store / "work", "text")
    capsys.readouterr()
    register_checkpoint(tracker, "icr-policy", run, 1)
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert f"models:/icr-policy@iteration-1: not set; use runs:/{run.run_id}/checkpoint instead" in said


def test_artifacts_on_this_machine_are_read_where_they_lie(local_store: Path) -> None:
    tracker = Tracker("here")
    run = trained(tracker, local_store / "work", "text")
    link = tracker.start("train (reused)", {"icr.reused_run": run.run_id})
    link.finish()
    folder = Path(tracker.resolve(f"runs:/{run.run_id}/checkpoint"))
    assert folder.is_relative_to(local_store / "mlruns")
    assert tracker.resolve(f"runs:/{run.run_id}/checkpoint/config.json") == str(folder / "config.json")
    assert tracker.resolve(f"runs:/{link.run_id}/checkpoint") == str(folder), "a reused stage's run leads to the work"
    assert not (local_store / ".icr").exists()
    referenced = tracker.start("train", {"icr.artifact.checkpoint": str(local_store / "work")})
    referenced.finish()
    uri = f"runs:/{referenced.run_id}/checkpoint/config.json"
    assert tracker.resolve(uri) == str(local_store / "work" / "config.json")


def test_artifacts_behind_a_server_are_fetched_once_and_removed_at_the_end(
    server: MlflowServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    tracker = Tracker("here")
    run = trained(tracker, tmp_path / "work", "text")
    record = tracker.client.get_run(run.run_id)
    stored = tracker.stored(record, "checkpoint")
    assert stored is not None
    assert (stored.local, stored.reference) == (None, f"runs:/{run.run_id}/checkpoint")
    assert tracker.stored(record, "nothing") is None
    assert Path(tracker.resolve(f"{stored.reference}/config.json")).read_text() == "text"
    register_checkpoint(tracker, "icr-policy", run, 1)
    folder = stored.folder()
    assert [path.name for path in folder.iterdir()] == ["config.json"], "a file of it that came before is not it"
    assert folder.is_relative_to(tmp_path / ".icr" / "artifacts")
    assert tracker.resolve("models:/icr-policy@iteration-1") == str(folder)
    server.stop()
    assert stored.folder() == folder, "fetched once"
    tracker.close()
    assert not folder.exists()
    server.start()
    reader = TrackingReader(server.uri)
    assert (reader.artifact(run.run_id, "checkpoint", tmp_path / "cache") / "config.json").read_text() == "text"
    reader.close()
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [".lock"]


def test_final_metrics_come_from_the_rows_only_where_they_are_exact(local_store: Path) -> None:
    tracker = Tracker("here")
    exact = {"win_rate/es": 0.1 + 0.2, "win_rate/de": 51.0, "fidelity/es": 1e-300, "loss": 2.5, "length/tokens/es": 3.0}
    odd = {"loss/élan": 1.0, "infinite": float("inf"), "nothing": float("nan")}
    for metrics, expected in (exact, exact), ({}, {}), *(({**exact, name: odd[name]}, None) for name in odd):
        run = tracker.start("stage", {})
        run.log_live({"train/loss": 1.0, "loss": 9.0}, 0)
        run.log_metrics(metrics)
        run.tag_final_metrics(metrics)
        assert final_metrics(tracker.client.get_run(run.run_id)) == expected
    run.log_metrics({"later": 1.0})
    live = tracker.start("stage", {})
    live.log_live({"loss": 9.0}, 7)
    live.log_metrics({"loss": 1.0})
    live.tag_final_metrics({"loss": 1.0})
    assert final_metrics(tracker.client.get_run(live.run_id)) is None, "its row holds the curve's end"


def test_an_artifact_store_that_does_not_answer_is_one_line(local_store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("boto3", reason="needs boto3: pip install 'moto[s3]'")
    for name, value in {"MLFLOW_S3_ENDPOINT_URL": f"http://127.0.0.1:{free_port()}", "AWS_MAX_ATTEMPTS": "1",
                        "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "ICR_TRACKING_PATIENCE": "0"}.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    another = Tracker("another")

    def begun(name: str, place: str) -> RunHandle:
        """A run whose artifact store was there when the command began."""
        number = another.client.create_experiment(name, place)
        return RunHandle(another.uri, another.client.create_run(number).info.run_id, number)

    run = begun("here", "s3://bucket/mlruns")
    with pytest.raises(
        InputError, match=r"s3://bucket/mlruns: the artifact store of experiment 'here' does not answer"
    ):
        Tracker("here")
    with pytest.raises(TrackingError, match="the artifact store stopped answering; the work is kept"):
        run.log_text("text", "notes.txt")
    with pytest.raises(TrackingError, match="the artifact store stopped answering; the work is kept"):
        another.stored(another.client.get_run(run.run_id), "checkpoint")
    run = begun("refused", "nothing://here")
    with pytest.raises(
        InputError, match=r"nothing://here: the artifact store of experiment 'refused' cannot be written"
    ):
        Tracker("refused")
    with pytest.raises(TrackingError, match=rf"runs:/{run.run_id}/notes.txt: the artifact store refuses "):
        run.log_text("text", "notes.txt")


def test_texts_and_tables_leave_nothing_behind_and_replace_earlier_ones(
    local_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A table that a killed attempt had logged is not appended to, and no file passes through the temporary folder."""
    monkeypatch.setenv("ICR_CACHE", str(local_store / "cache"))
    (local_store / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(local_store / "temporary"))
    changed = (local_store / "temporary").stat().st_mtime_ns
    abandoned = local_store / "cache" / "outgoing" / "tmpkilled"
    abandoned.mkdir(parents=True)
    os.utime(abandoned, (0, 0))
    tracker = Tracker("here")
    run = tracker.start("sweep", {})
    for win_rate in (50.0, 51.5):
        run.log_table(pd.DataFrame({"language": ["es"], "win_rate": [win_rate]}), "table")
    run.log_table(pd.DataFrame({"language": []}), "sub/other")
    run.log_text("text", "sub/notes.txt")
    assert (local_store / "temporary").stat().st_mtime_ns == changed
    assert not list((local_store / "cache" / "outgoing").iterdir())
    number = tracker.client.get_run(run.run_id).info.experiment_id
    assert tracker.client.load_table(number, "table.json").to_dict("list") == {"language": ["es"], "win_rate": [51.5]}
    tags = tracker.client.get_run(run.run_id).data.tags
    assert [entry["path"] for entry in json.loads(tags["mlflow.loggedArtifacts"])] == ["table.json", "sub/other.json"]
    run.finish()
    place = Path(tracker.resolve(f"runs:/{run.run_id}/sub"))
    assert (place / "notes.txt").read_text() == "text"


def test_runs_of_dead_processes_are_marked_killed_at_the_next_start(local_store: Path) -> None:
    code = "from icr_platform.tracking.tracker import Tracker; t = Tracker('here'); print(t.start('s', {}).run_id); import os; os._exit(9)"
    dead = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False).stdout.split()[-1]
    alive = Tracker("here").start("mine", {})
    tracker = Tracker("here")
    assert tracker.client.get_run(dead).info.status == "KILLED"
    assert tracker.client.get_run(alive.run_id).info.status == "RUNNING"


def test_processes_that_create_one_store_at_once_all_succeed(local_store: Path) -> None:
    code = "from icr_platform.tracking.tracker import Tracker; Tracker('here').start('s', {}).finish()"
    started = [subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE) for _ in range(3)]
    assert [process.wait() for process in started] == [0, 0, 0], [p.stderr.read() for p in started if p.stderr]


def test_unreachable_server_is_said_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://user:secret@127.0.0.1:{free_port()}")
    start = time.monotonic()
    with pytest.raises(InputError, match="does not answer") as caught:
        Tracker("here")
    assert "secret" not in str(caught.value)
    assert time.monotonic() - start < 30


def test_a_server_lost_midway_costs_nothing(server: MlflowServer, monkeypatch: pytest.MonkeyPatch) -> None:
    run: RunHandle = Tracker("here").start("stage", {})
    server.stop()
    run.log_live({"train/loss": 3.0}, 1)  # waits
    run.log_live({"train/loss": 2.0}, 2)
    monkeypatch.setenv("ICR_TRACKING_PATIENCE", "1")
    with pytest.raises(TrackingError, match="run the same command again"):
        run.log_metrics({"train/loss": 1.0}, 3)
    back = threading.Timer(2.0, server.start)
    back.start()
    monkeypatch.setenv("ICR_TRACKING_PATIENCE", "120")
    run.log_metrics({"train/loss": 0.5}, 4)  # tries until the server is back, then sends everything
    back.join()
    history = run.client.get_metric_history(run.run_id, "train/loss")
    assert [(point.step, point.value) for point in history] == [(1, 3.0), (2, 2.0), (3, 1.0), (4, 0.5)]
