"""A Hugging Face hub on 127.0.0.1, as far as `huggingface_hub`, `transformers` and `datasets` ask it, and a way to ask through them.

It serves repositories of files at several commits, by branch, tag or commit, with the hub's own headers and error codes. Whoever asks
runs in a process of its own, since these libraries read HF_ENDPOINT, HF_HOME and HF_HUB_OFFLINE when they are imported.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

_RESOLVE = re.compile(r"/(?:(datasets)/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)")
_API = re.compile(r"/api/(models|datasets)/([^/]+/[^/]+)(?:/(revision|tree|paths-info)/([^/]+)(?:/(.*))?)?")


@dataclass(frozen=True)
class Repository:
    """Files by commit, and the branches and tags that name commits. is_gated: nobody who asks may read it."""

    commits: Mapping[str, Mapping[str, bytes]]
    refs: Mapping[str, str] = field(default_factory=dict)
    is_gated: bool = False

    def commit(self, revision: str) -> str | None:
        found = self.refs.get(revision, revision)
        return found if found in self.commits else None


@dataclass
class Hub:
    """A running hub. asked: `METHOD path` of every request."""

    url: str
    asked: list[str]

    def environment(self, home: Path, is_offline: bool = False) -> dict[str, str]:
        own = {"HF_ENDPOINT": self.url, "HF_HOME": str(home), "HF_HUB_OFFLINE": str(int(is_offline))}
        quiet = {"HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_DISABLE_XET": "1"}
        # MLflow leaves the store that an earlier test set in the environment.
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "MLFLOW_TRACKING"))}
        return {**kept, **own, **quiet, "ICR_CACHE": str(home / "icr")}


@contextmanager
def running_hub(models: Mapping[str, Repository], data_sets: Mapping[str, Repository]) -> Iterator[Hub]:
    """Serve repositories by name until the block ends."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None: ...

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_POST(self) -> None:
            self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            self.do_GET()

        def do_GET(self) -> None:
            path = unquote(urlparse(self.path).path)
            asked.append(f"{self.command} {path}")
            if found := _RESOLVE.fullmatch(path):
                kind, name, revision, file = found.groups()
                self._file(self._repository("datasets" if kind else "models", name), revision, file)
            elif found := _API.fullmatch(path):
                kind, name, what, revision, inside = found.groups()
                self._api(self._repository(kind, name), name, what, revision or "main", inside or "")
            else:
                self._say(404, {}, b"{}")

        def _repository(self, kind: str, name: str) -> Repository | None:
            return (data_sets if kind == "datasets" else models).get(name)

        def _commit(self, repository: Repository | None, revision: str) -> str | None:
            if repository is None:
                self._fault(401, "RepoNotFound", "Repository not found")
            elif repository.is_gated:
                self._fault(401, "GatedRepo", "Access to this repository is restricted")
            elif (commit := repository.commit(revision)) is None:
                self._fault(404, "RevisionNotFound", f"Invalid rev id: {revision}")
            else:
                return commit
            return None

        def _file(self, repository: Repository | None, revision: str, file: str) -> None:
            commit = self._commit(repository, revision)
            if commit is None or repository is None:
                return
            content = repository.commits[commit].get(file)
            if content is None:
                self._fault(404, "EntryNotFound", "Entry not found", {"X-Repo-Commit": commit})
                return
            tag = hashlib.sha1(content).hexdigest()
            self._say(200, {"X-Repo-Commit": commit, "ETag": f'"{tag}"', "Accept-Ranges": "bytes"}, content)

        def _api(self, repository: Repository | None, name: str, what: str | None, revision: str, inside: str) -> None:
            commit = self._commit(repository, revision)
            if commit is None or repository is None:
                return
            files = repository.commits[commit]
            if what == "paths-info":
                wanted = json.loads(self.body).get("paths", [])
                found = [path for path in wanted if path in files]
                folders = [path for path in wanted if any(file.startswith(f"{path}/") for file in files)]
                self._json([*map(self._entry, found, [files[path] for path in found]), *map(_folder, folders)])
            elif what == "tree":
                below = f"{inside}/" if inside else ""
                paths = [path for path in files if path.startswith(below)]
                is_recursive = "recursive=true" in urlparse(self.path).query.lower()
                here = [path for path in paths if is_recursive or "/" not in path[len(below) :]]
                folders = sorted({path[: len(below)] + path[len(below) :].split("/")[0] for path in paths} - set(paths))
                self._json([*map(_folder, folders), *map(self._entry, here, [files[path] for path in here])])
            else:
                siblings = [{"rfilename": path} for path in files]
                self._json({"id": name, "sha": commit, "private": False, "gated": False, "siblings": siblings})

        @staticmethod
        def _entry(path: str, content: bytes) -> dict[str, Any]:
            return {"type": "file", "path": path, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}

        def _json(self, value: Any) -> None:
            self._say(200, {"Content-Type": "application/json"}, json.dumps(value).encode())

        def _fault(self, status: int, code: str, text: str, headers: Mapping[str, str] | None = None) -> None:
            said = {"X-Error-Code": code, "X-Error-Message": text, **(headers or {})}
            self._say(status, said, json.dumps({"error": text}).encode())

        def _say(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield Hub(f"http://127.0.0.1:{server.server_port}", asked)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _folder(path: str) -> dict[str, Any]:
    return {"type": "directory", "path": path, "size": 0, "oid": "0" * 40}


_ASKING = """
import contextlib, io, json, sys, traceback
from pathlib import Path
from icr_platform.core.errors import InputError

def answer(expression):
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            return eval(expression, names)
    except InputError as error:
        return f"InputError: {error}"
    except Exception:
        return traceback.format_exc()

names = {}
with contextlib.redirect_stdout(io.StringIO()):
    exec(sys.argv[1], names)
print(json.dumps([answer(expression) for expression in json.load(sys.stdin)]))
"""


def ask(environment: Mapping[str, str], prepare: str, expressions: Sequence[str]) -> list[Any]:
    """The values of Python expressions in a process with this environment, after `prepare` ran; an InputError as its text."""
    done = subprocess.run(
        [sys.executable, "-c", _ASKING, prepare],
        input=json.dumps(expressions),
        capture_output=True,
        text=True,
        env=dict(environment),
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    found: list[Any] = json.loads(done.stdout.splitlines()[-1])
    return found
