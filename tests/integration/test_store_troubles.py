"""Stores in trouble, for real: one line before work, which names the address without its secrets, what is wrong, and the fix."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from icr_platform.cli.commands import run
from icr_platform.core.errors import InputError
from icr_platform.tracking import run_processes
from icr_platform.tracking.reader import TrackingReader
from icr_platform.tracking.run_processes import is_dead, mark_of_this_process
from icr_platform.tracking.tracker import Tracker
from tests.support.ports import free_port
from tests.support.postgres import empty_schema
from tests.support.s3_server import s3_server


@pytest.fixture(autouse=True)
def _own_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ICR_TRACKING_PATIENCE", "1")
    for name in ("MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID", "MLFLOW_EXPERIMENT_NAME", "MLFLOW_ALLOW_FILE_STORE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database file with MLflow's tables, to copy."""
    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{path}")
        patch.chdir(path.parent)
        Tracker("icr")
    return path


def refused(*said: str) -> str:
    """The one line in which a store is refused."""
    with pytest.raises(InputError) as caught:
        Tracker()
    line = str(caught.value)
    assert "\n" not in line
    assert "secret" not in line
    assert len(line) < 1200
    for fragment in said:
        assert fragment in line, line
    return line


def changed(path: Path, statement: str) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(statement)
        connection.commit()


FILES: dict[str, tuple[Callable[[Path], object], str, tuple[str, ...]]] = {
    "not a database": (lambda path: path.write_bytes(b"PK\3\4" * 999), "{path}", ("is not a readable database", "backup")),
    "another schema": (
        lambda path: changed(path, "UPDATE alembic_version SET version_num = 'fefefefefefe'"), "{path}",
        ("written by another version of MLflow", "fefefefefefe", "mlflow db upgrade"),
    ),
    "other tables": (
        lambda path: (path.unlink(), changed(path, "CREATE TABLE runs (a INT)")), "{path}", ("tables that are not MLflow's",)
    ),
    "read-only": (lambda path: None, "file:{path}?mode=ro&uri=true", ("can only be read", "readonly")),
    "a folder": (lambda path: (path.unlink(), path.mkdir()), "{path}", ("is a folder; name the database's file",)),
    "in memory": (lambda path: None, ":memory:", ("forgets every run",)),
    "no place for it": (lambda path: None, "/proc/none/mlflow.db", ("/proc", "cannot be written")),
}  # fmt: skip


@pytest.mark.parametrize("case", FILES)
def test_database_files(case: str, empty_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    damage, address, said = FILES[case]
    path = Path(shutil.copy(empty_store, tmp_path / "mlflow.db"))
    damage(path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{address.format(path=path)}")
    refused(*said)


def test_a_locked_database_is_waited_for(empty_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = Path(shutil.copy(empty_store, tmp_path / "mlflow.db"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{path}")
    with closing(sqlite3.connect(path, check_same_thread=False)) as other:
        other.execute("BEGIN EXCLUSIVE")
        refused("is locked by another process")
        threading.Timer(0.5, other.rollback).start()
        monkeypatch.setenv("ICR_TRACKING_PATIENCE", "60")
        Tracker()


@pytest.fixture(scope="module")
def web_server() -> Iterator[str]:
    """Answers `/STATUS/BODY` below every path with that status and body."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            _, status, body = self.path.split("/")[:3]
            self.send_response(int(status))
            self.send_header("Location", "https://me:secret@login.example.org/?token=secret")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()


ANSWERS = {
    "401/login": ("refuses the login", "MLFLOW_TRACKING_PASSWORD"),
    "403/Invalid-Host": ("does not permit this", "Invalid-Host", "--allowed-hosts"),
    "404/<html>": ("is not MLflow, or not at this address", "path below which"),
    "407/proxy": ("proxy that wants a login",),
    "302/": ("sends to https://***@login.example.org", "MLFLOW_TRACKING_URI"),
    "200/<html>": ("other than MLflow's JSON, such as a login page",),
    "200/[1]": ("other than MLflow's JSON",),
    "200/{\"status\":1}": ("other than MLflow's JSON",),
    "500/boom": ("HTTP 500: boom", "look into its log"),
    "503/maintenance": ("HTTP 503: maintenance",),
}  # fmt: skip


@pytest.mark.parametrize("answer", ANSWERS)
def test_servers(answer: str, web_server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://me:secret@{web_server}/{answer}")
    refused(web_server, *ANSWERS[answer])


def test_servers_that_are_not_reached(web_server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for address, said in {
        f"https://{web_server}": "does not speak TLS at this address",
        "http://me:secret@no-such-host.invalid": "has a host name that is not known",
        f"http://127.0.0.1:{free_port()}": "does not answer",
    }.items():
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        refused(said)
        with pytest.raises(InputError, match=said):
            TrackingReader(address).check()


def test_postgresql(monkeypatch: pytest.MonkeyPatch) -> None:
    with empty_schema() as url:
        address, _, query = url.partition("?")
        host, _, _ = address.partition("@")[2].partition("/")
        for uri, said in {
            f"postgresql://no_such_user:secret@{host}/icr": "refuses the login",
            f"{address.rpartition('/')[0]}/no_such_database": "has no database or schema of this name",
            f"{address}?options=-csearch_path%3Dno_such_schema": "has no database or schema of this name",
            f"{url}%20-cdefault_transaction_read_only%3Don": "can only be read",
            f"postgresql://me:secret@127.0.0.1:{free_port()}/icr": "does not answer",
        }.items():
            monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
            refused(said)
        assert query


def test_artifact_roots(
    empty_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """A bucket that is not there, a file in the way, a kind that MLflow does not know; and one that is fine is left as it was."""
    path = Path(shutil.copy(empty_store, tmp_path / "mlflow.db"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{path}")
    client = Tracker("icr").client
    (tmp_path / "file").write_text("")
    with s3_server() as server:
        import boto3

        boto3.client("s3").create_bucket(Bucket="there")
        for name, (root, said) in {
            "bucket": ("s3://not-there/mlruns", "has no bucket of this name"),
            "name": ("s3://Not_A_Name/mlruns", "bucket"),
            "file": (f"{tmp_path}/file/mlruns", "a file stands where a folder is needed"),
            "kind": ("nothing://there", "cannot be written"),
        }.items():
            client.create_experiment(name, root)
            monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", name)
            refused(said, f"of experiment {name!r}", root)
        assert run(["check", "demo"]) == 2
        assert "Traceback" not in capfd.readouterr().err
        client.create_experiment("fine", "s3://there/mlruns")
        client.create_experiment("fine too", f"{tmp_path}/new/mlruns")
        Tracker("fine")
        Tracker("fine too")
        assert "Contents" not in boto3.client("s3").list_objects_v2(Bucket="there")
        assert not (tmp_path / "new").exists()
        assert server.requests


def test_names_in_the_environment_that_are_stale(
    empty_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = Path(shutil.copy(empty_store, tmp_path / "mlflow.db"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{path}")
    client = Tracker("icr").client
    other = client.create_experiment("other")
    for name, value, said in (
        ("MLFLOW_RUN_ID", "0" * 32, "has no such run; unset MLFLOW_RUN_ID"),
        ("MLFLOW_RUN_ID", "not an id", "has no such run; unset MLFLOW_RUN_ID"),
        ("MLFLOW_EXPERIMENT_ID", "77", "has no such experiment"),
        ("MLFLOW_EXPERIMENT_ID", "abc", "has no such experiment"),
    ):
        with monkeypatch.context() as patch:
            patch.setenv(name, value)
            refused(value, said)
    ended = client.create_run(other).info.run_id
    client.set_terminated(ended)
    monkeypatch.setenv("MLFLOW_RUN_ID", ended)
    refused("this run is FINISHED; unset MLFLOW_RUN_ID")
    client.delete_run(ended)
    refused("this run is deleted; unset MLFLOW_RUN_ID")

    begun = client.create_run(other).info.run_id  # as `mlflow run` does
    monkeypatch.setenv("MLFLOW_RUN_ID", begun)
    assert Tracker().experiment_id == other, "its children are where it is"
    assert Tracker("other").start("arm", {}).run_id == begun
    with pytest.raises(
        InputError, match=r"made the run in experiment 'other'; give --experiment-name icr to `mlflow run`"
    ):
        Tracker("icr")
    monkeypatch.delenv("MLFLOW_RUN_ID")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", other)
    assert Tracker().experiment_id == other
    assert Tracker("icr").experiment_id != other, "what is given with the command wins"
    client.delete_experiment(other)
    refused(f"MLFLOW_EXPERIMENT_ID={other}: this experiment is deleted; restore it")
    monkeypatch.delenv("MLFLOW_EXPERIMENT_ID")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "other")
    refused("this experiment is deleted; restore it")


def test_a_store_that_was_moved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before, after = tmp_path / "before", tmp_path / "after"
    before.mkdir()
    monkeypatch.chdir(before)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{before}/mlflow.db")
    tracker = Tracker("icr")
    made = tracker.start("stage", {"icr.kind": "stage"})
    made.log_text("text", "responses/part.txt")
    made.finish()
    referenced = tracker.start("stage", {"icr.artifact.responses": str(before / "gone")})
    referenced.finish()
    before.rename(after)
    monkeypatch.chdir(tmp_path)
    uri = f"sqlite:///{after}/mlflow.db"
    reader = TrackingReader(uri)
    assert (reader.artifact(made.run_id, "responses", tmp_path / "cache") / "part.txt").read_text() == "text"
    with pytest.raises(InputError, match=rf"its artifacts lay in {before}/gone, which is not there"):
        reader.artifact(referenced.run_id, "responses", tmp_path / "cache")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    line = refused("the store was moved", f"{before}/mlruns", f"{after}/mlruns", "move it back, or run: sqlite3")
    statements = line.partition(f"sqlite3 {after}/mlflow.db ")[2].strip('"')
    with closing(sqlite3.connect(after / "mlflow.db")) as connection:
        connection.executescript(statements)
    assert Path(Tracker("icr").resolve(f"runs:/{made.run_id}/responses"), "part.txt").read_text() == "text"
    assert not before.exists()


def test_a_process_is_dead_only_where_that_can_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    machine, boot, namespace, pid, started = mark_of_this_process().split("/")
    ended = subprocess.run(
        [sys.executable, "-c", "from icr_platform.tracking.run_processes import mark_of_this_process as m; print(m())"],
        capture_output=True, text=True, check=True,
    ).stdout.strip()  # fmt: skip
    init = run_processes._INITIAL_NAMESPACE
    table = {
        "this one": ("/".join((machine, boot, namespace, pid, started)), False),
        "ended": (ended, True),
        "its id was given again": ("/".join((machine, boot, namespace, pid, "1")), True),
        "another container": ("/".join((machine, boot, "4026539999", pid, "1")), False),
        "another machine of this name": ("/".join(("other", "other", namespace, pid, "1")), False),
        "a container before a reboot, or elsewhere": ("/".join((machine, "other", "4026539999", pid, started)), False),
        "an earlier version's": ("4711:1700000000.00", False),
        "none": ("", False),
        "damaged": ("a/b/c/d/e", False),
    }
    for name, (mark, dead) in table.items():
        assert is_dead(mark) == dead, name
    monkeypatch.setattr(run_processes, "_here", lambda: ("machine", "new", init))
    assert is_dead(f"machine/old/{init}/{pid}/{started}"), "the machine was started again"
    assert not is_dead(f"other/old/{init}/{pid}/{started}")


def test_thousands_of_dead_runs_cost_seconds(
    empty_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import socket

    path = Path(shutil.copy(empty_store, tmp_path / "mlflow.db"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{path}")
    tracker = Tracker("icr")
    alive = tracker.start("alive", {})
    mark = mark_of_this_process() + "0"
    with closing(sqlite3.connect(path)) as connection:
        columns = [row[1] for row in connection.execute("PRAGMA table_info(runs)")]
        others = ", ".join(column for column in columns if column != "run_uuid")
        for number in range(2500):
            connection.execute(
                f"INSERT INTO runs (run_uuid, {others}) SELECT 'dead{number}', {others} FROM runs WHERE run_uuid = ?",
                (alive.run_id,),
            )
            connection.executemany("INSERT INTO tags (key, value, run_uuid) VALUES (?, ?, ?)",
                                   [("icr.host", socket.gethostname(), f"dead{number}"), ("icr.process", mark, f"dead{number}")])  # fmt: skip
        connection.commit()
    Tracker("icr")
    with closing(sqlite3.connect(path)) as connection:
        found = dict(connection.execute("SELECT status, count(*) FROM runs GROUP BY status").fetchall())
    assert found == {"RUNNING": 1, "KILLED": 2500}
