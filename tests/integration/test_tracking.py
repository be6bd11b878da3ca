"""Tracking against real stores: a sqlite file, and a real MLflow server that goes away and comes back."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from icr_platform.errors import InputError, TrackingError
from icr_platform.tracking import RunHandle, Tracker


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Server:
    """A real `mlflow server` that can be stopped and started again on its port."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, free_port()
        self.uri = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port), "--workers", "1",
                   "--backend-store-uri", f"sqlite:///{self.folder}/mlflow.db",
                   "--artifacts-destination", str(self.folder / "artifacts")]  # fmt: skip
        environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        environment.pop("MLFLOW_TRACKING_URI", None)
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
        deadline = time.monotonic() + 90
        while time.monotonic() < deadline:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.2)
        raise TimeoutError((self.folder / "server.log").read_text())

    def stop(self) -> None:
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    server = Server(tmp_path)
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
    assert run.data.params == {"a": "1", "url": "https://host/v1", "b": "3"}
    assert run.data.metrics["win_rate/es"] == 51.5
    assert run.data.tags["mlflow.parentRunId"] == parent.run_id
    assert run.inputs.dataset_inputs[0].dataset.name == "prompts"
    assert Path(tracker.resolve_run(f"runs:/{child.run_id}/responses"), "part.txt").read_text() == "text"
    found = tracker.find_finished("k")
    assert found is not None
    assert found.info.run_id == child.run_id


def test_runs_uri_of_a_missing_failed_or_empty_run_is_bad_input(local_store: Path) -> None:
    tracker = Tracker("here")
    run = tracker.start("stage", {})
    with pytest.raises(InputError, match="no such run"):
        tracker.resolve_run("runs:/0123456789abcdef0123456789abcdef/responses")
    run.finish("FAILED")
    with pytest.raises(InputError, match="FAILED, not FINISHED"):
        tracker.resolve_run(f"runs:/{run.run_id}/responses")
    run.finish("FINISHED")
    with pytest.raises(InputError, match="no artifact 'responses'"):
        tracker.resolve_run(f"runs:/{run.run_id}/responses")
    with pytest.raises(InputError, match="no such registered model"):
        tracker.resolve_model("models:/nothing@iteration-1")


def test_runs_of_dead_processes_are_marked_killed_at_the_next_start(local_store: Path) -> None:
    code = "from icr_platform.tracking import Tracker; t = Tracker('here'); print(t.start('s', {}).run_id); import os; os._exit(9)"
    dead = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False).stdout.split()[-1]
    alive = Tracker("here").start("mine", {})
    tracker = Tracker("here")
    assert tracker.client.get_run(dead).info.status == "KILLED"
    assert tracker.client.get_run(alive.run_id).info.status == "RUNNING"


def test_processes_that_create_one_store_at_once_all_succeed(local_store: Path) -> None:
    code = "from icr_platform.tracking import Tracker; Tracker('here').start('s', {}).finish()"
    started = [subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE) for _ in range(3)]
    assert [process.wait() for process in started] == [0, 0, 0], [p.stderr.read() for p in started if p.stderr]


def test_unreachable_server_is_said_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://user:secret@127.0.0.1:{free_port()}")
    start = time.monotonic()
    with pytest.raises(InputError, match="does not answer") as caught:
        Tracker("here")
    assert "secret" not in str(caught.value)
    assert time.monotonic() - start < 30


def test_a_server_lost_midway_costs_nothing(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
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
