"""Secrets planted wherever people put them are found nowhere afterwards: not in the output, the store, artifacts or work folders."""

from __future__ import annotations

import json
import stat
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from icr_platform.cli import commands
from icr_platform.core.config import validate, without_secrets
from icr_platform.core.errors import InputError
from icr_platform.demo import IDENTIFIER
from icr_platform.pipeline.config import IterateConfig
from icr_platform.pipeline.inputs import Resolver
from icr_platform.tracking.tracker import Tracker
from ui.review.verdict_store import VerdictStore

PLANTED = {
    name: f"Zq{number}planted{number}Secret"
    for number, name in enumerate(
        (
            "endpoint key",
            "user",
            "password",
            "signature",
            "hub token",
            "cloud key",
            "library",
            "page",
            "flag",
            "preset",
            "git",
            "store",
        )
    )
}


class _Server(BaseHTTPRequestHandler):
    """Prompts, a page that echoes its address in a refusal, and a chat endpoint that echoes the key it was sent."""

    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._send(200, b"")

    def do_GET(self) -> None:
        if self.path.startswith("/en.jsonl"):
            rows = [{"id": f"p{number}", "language": "en", "instruction": f"Name {number}."} for number in range(4)]
            self._send(200, "".join(json.dumps(row) + "\n" for row in rows).encode())
        elif self.path.startswith("/pairs.jsonl"):
            pairs = [{"prompt": f"Name {n}.", "chosen": f"An apple {n}.", "rejected": f"Red {n}."} for n in range(4)]
            self._send(200, "".join(json.dumps(pair) + "\n" for pair in pairs).encode())
        elif self.path.startswith("/refused"):
            self._send(403, f"<html>{self.path} {self.headers} {PLANTED['page']}</html>".encode())
        else:
            self._send(200, b'{"object": "list", "data": []}')

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if "Name 2" in asked["messages"][0]["content"]:
            said = f"no filter for {self.headers['authorization']}, that is {PLANTED['endpoint key']}"
            self._send(400, json.dumps({"error": {"message": said, "code": "content_filter"}}).encode())
        else:
            choice = {"index": 0, "message": {"role": "assistant", "content": "An apple."}, "finish_reason": "stop"}
            self._send(200, json.dumps({"choices": [choice]}).encode())

    def _send(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: Any) -> None: ...


@pytest.fixture
def host() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Server) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def found_in(folder: Path, shown: str) -> dict[str, str]:
    """Where each planted secret was found: in a file, in a file's name or in what was printed."""
    places = {"the output": shown.encode()}
    for path in folder.rglob("*"):
        places[str(path)] = str(path).encode() + (path.read_bytes() if path.is_file() else b"")
    return {
        name: place
        for name, secret in PLANTED.items()
        for place, content in places.items()
        if secret.encode() in content
    }


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.setenv("OPENAI_API_KEY", PLANTED["endpoint key"])
    monkeypatch.setenv("HF_TOKEN", PLANTED["hub token"])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", PLANTED["cloud key"])


def test_a_run_leaves_no_secret_anywhere(
    host: str, tiny_model: Path, tmp_path: Path, environment: None, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts = f"http://{PLANTED['user']}:{PLANTED['password']}@{host}/en.jsonl?sig={PLANTED['signature']}&v=1"
    (tmp_path / "preset.yaml").write_text(f"policy: {tiny_model}\nsampler: server\nserver_url: http://{host}/v1\n")
    status = commands.run([
        "generate", "--config", "preset.yaml", "--prompts", prompts, "--languages", "en", "--samples", "2", "--server-model", "m",
        "--max-tokens", "8", "--language-identifier", IDENTIFIER, "--max-dropped", "50", "--output", "out",
    ])  # fmt: skip
    shown = "".join(capsys.readouterr())
    assert status == 0, shown
    assert "1 prompts were dropped because the endpoint refused them" in shown
    assert found_in(tmp_path, shown) == {}
    [run] = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db").search_runs(["1"])
    assert run.data.params["generate.prompts"] == f"http://***@{host}/en.jsonl?sig=***&v=1"


def test_processes_are_started_without_secrets(
    host: str,
    tiny_model: Path,
    tmp_path: Path,
    environment: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """What `ps` shows of them, and the file in which a training's processes find their job."""
    started: list[str] = []

    def popen(command: list[str], **_: Any) -> None:
        started.append(" ".join(command))
        raise OSError("no process starts here")

    monkeypatch.setattr(subprocess, "Popen", popen)
    preferences = f"http://{PLANTED['user']}:{PLANTED['password']}@{host}/pairs.jsonl?sig={PLANTED['signature']}"
    status = commands.run([
        "train", "--policy", str(tiny_model), "--preferences", preferences, "--accelerate-config", "accelerate/cpu-2-processes.yaml",
        "--device", "cpu",
    ])  # fmt: skip
    assert status == 1
    assert any("icr_platform.training.worker" in command for command in started)
    assert list(tmp_path.rglob("job.json"))
    assert found_in(tmp_path, "".join([*capsys.readouterr(), *started])) == {}


def test_a_signature_that_changes_is_the_same_work(
    host: str, tiny_model: Path, tmp_path: Path, environment: None, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["generate", "--policy", str(tiny_model), "--languages", "en", "--samples", "1", "--max-tokens", "4", "--limit", "1",
               "--language-identifier", IDENTIFIER, "--prompts"]  # fmt: skip
    assert commands.run([*command, f"http://{host}/en.jsonl?X-Amz-Date=1&X-Amz-Signature=a1"]) == 0
    assert commands.run([*command, f"http://a:b@{host}/en.jsonl?X-Amz-Date=2&X-Amz-Signature=b2"]) == 0
    assert "generate: found finished" in capsys.readouterr().err


def test_every_refusal_keeps_the_secret_to_itself(
    host: str,
    tiny_model: Path,
    tmp_path: Path,
    environment: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError(f"a library: token {PLANTED['hub token']}, api_key={PLANTED['library']}")

    (tmp_path / "preset.yaml").write_text(
        f"judge_url: https://ann:{PLANTED['preset']}@host/v1\njudge: openai\njudge_api_model: j\n"
    )
    base = ["--policy", str(tiny_model), "--languages", "en"]
    evaluate = ["eval", *base, "--prompts", f"http://{host}/en.jsonl", "--outputs", "x", "--reference-outputs", "x"]
    refused = f"http://ann:{PLANTED['password']}@{host}/refused.jsonl?token={PLANTED['signature']}"
    commands_and_statuses = [
        (["generate", *base, "--prompts", refused], 2),
        (["generate", *base, "--prompts", f"http://{host}/en.jsonl", "--samples", f"https://x:{PLANTED['flag']}@y"], 2),
        ([*evaluate, "--config", "preset.yaml"], 2),
        (
            [*evaluate, "--judge", "openai", "--judge-api-model", "j", "--judge-key-variable", f"sk-{PLANTED['flag']}"],
            2,
        ),
        (
            [
                *evaluate,
                "--judge",
                "openai",
                "--judge-api-model",
                "j",
                "--judge-url",
                f"https://host/?key={PLANTED['flag']}",
            ],
            2,
        ),
        (
            [
                "generate",
                *base,
                "--prompts",
                "x",
                "--sampler",
                "server",
                "--server-url",
                f"http://u:{PLANTED['flag']}@{host}/v1",
            ],
            2,
        ),
    ]
    for debug in ("", "1"):
        monkeypatch.setenv("ICR_DEBUG", debug)
        for arguments, status in commands_and_statuses:
            assert commands.run(arguments) == status
        with monkeypatch.context() as patch:
            patch.setattr("icr_platform.pipeline.runner.identify", fail)
            assert commands.run(["generate", *base, "--prompts", f"http://{host}/en.jsonl"]) == 1
    shown = "".join(capsys.readouterr())
    assert "icr: RuntimeError: a library: token ***, api_key=***" in shown
    assert found_in(tmp_path / ".icr", shown) == {}
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://ann:{PLANTED['store']}@127.0.0.1:9")
    assert commands.run(["generate", *base, "--prompts", f"http://{host}/en.jsonl"]) in (1, 2)
    assert found_in(tmp_path / ".icr", "".join(capsys.readouterr())) == {}


def test_what_mlflow_run_stored_is_hidden_or_said(
    tmp_path: Path, environment: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    run = client.create_run("0", tags={"mlflow.source.git.repoURL": f"https://x:{PLANTED['git']}@github.com/o/r"})
    client.log_param(run.info.run_id, "prompts", f"https://x:{PLANTED['git']}@host/p")
    monkeypatch.setenv("MLFLOW_RUN_ID", run.info.run_id)
    Tracker().start("generate", {})
    tags = client.get_run(run.info.run_id).data.tags
    assert tags["mlflow.source.git.repoURL"] == "https://***@github.com/o/r"
    assert "has stored a secret in its parameter 'prompts'" in capsys.readouterr().err


def test_a_stored_configuration_says_where_a_secret_is_to_be_given_again(tmp_path: Path) -> None:
    given = validate(
        IterateConfig,
        {
            "prompts": f"https://ann:{PLANTED['password']}@host/p",
            "eval": {"anchors": f"s3://b/x?sig={PLANTED['flag']}"},
        },
        "test",
    )
    stored = without_secrets(given)
    assert (stored.prompts, stored.eval.anchors) == ("https://***@host/p", "s3://b/x?sig=***")
    assert stored.model_copy(update={"prompts": given.prompts, "eval": given.eval}) == given
    assert without_secrets(stored) == stored
    with pytest.raises(
        InputError, match=r"https://\*\*\*@host/p: \*\*\* stands where a secret was left out of a record"
    ):
        Resolver(tmp_path, tmp_path, None).local(stored.prompts, 0)


def test_verdicts_are_for_their_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "verdicts.sqlite"
    VerdictStore(str(path))
    for file in tmp_path.iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600, file
    path.chmod(0o644)
    VerdictStore(str(path))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
