"""Inputs at an address: fetched as they are now, and not again while the store says that they are the same."""

from __future__ import annotations

import base64
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import fsspec
import pytest

from icr_platform.core.errors import InputError
from icr_platform.pipeline.inputs import Resolver


def test_what_changed_at_an_address_is_fetched_again_and_nothing_else(tmp_path: Path) -> None:
    source = tmp_path / "source" / "prompts"
    source.mkdir(parents=True)
    (source / "en.jsonl").write_text("first")
    (source / "es.jsonl").write_text("primero")
    resolver = Resolver(tmp_path, tmp_path / ".icr", None)
    folder = Path(resolver.local(f"file://{source}", 1))
    assert folder.name == "prompts", "the name stays"
    (folder / "en.jsonl").write_text("a mark")
    assert resolver.local(f"file://{source}", 1) == str(folder)
    assert (folder / "en.jsonl").read_text() == "a mark", "the same files are not fetched twice"
    (source / "en.jsonl").write_text("other")
    (source / "es.jsonl").unlink()
    again = Path(resolver.local(f"file://{source}", 1))
    assert {path.name: path.read_text() for path in again.iterdir()} == {"en.jsonl": "other"}
    assert not folder.exists(), "one version of an address is kept"


def test_an_address_without_versions_is_fetched_every_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = fsspec.filesystem("memory")
    files.pipe("/fixed/es.jsonl", b"one")
    monkeypatch.setattr(type(files), "info", lambda self, path, **more: {"name": path, "size": 3, "type": "file"})
    resolver = Resolver(tmp_path, tmp_path / ".icr", None)
    assert Path(resolver.local("memory://fixed/es.jsonl", 1)).read_bytes() == b"one"
    files.pipe("/fixed/es.jsonl", b"two")
    assert Path(resolver.local("memory://fixed/es.jsonl", 1)).read_bytes() == b"two"
    with pytest.raises(InputError, match=r"memory://fixed/none.jsonl: could not be fetched"):
        resolver.local("memory://fixed/none.jsonl", 1)


SECRETS = ("pa55-word", "8f2a9c")


class _Store(BaseHTTPRequestHandler):
    """Gives a file to whom the path's first part asks for: `basic` for a user, `signed` for a signature; anything else is not there."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        path, _, query = self.path.partition("?")
        may = {
            "basic": self.headers.get("Authorization") == "Basic " + base64.b64encode(b"ann:pa55-word").decode(),
            "signed": "X-Amz-Signature=8f2a9c" in query and self.command == "GET",  # as S3: only what was signed
            "open": True,
        }.get(path.split("/")[1], False)
        body = b'{"id": 1, "instruction": "a"}\n' if may else b"no 8f2a9c"
        self.send_response(200 if may else 403)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", "v1")
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    do_HEAD = do_GET  # noqa: N815 - http.server's own name

    def log_message(self, format: str, *args: object) -> None: ...


@pytest.fixture(scope="module")
def store() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Store)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("http://ann:pa55-word@HOST/basic/es.jsonl", "es.jsonl"),
        ("HTTP://HOST/open/es.jsonl", "es.jsonl"),
        ("http://HOST/signed/sets/es.jsonl?X-Amz-Date=1&X-Amz-Signature=8f2a9c", "es.jsonl"),
        ("http://HOST/open/es%20one.jsonl?download=true#top", "es one.jsonl"),
        ("http://HOST/open/" + "x" * 300 + ".jsonl", "x" * 114 + ".jsonl"),
        ("http://HOST/open/..%2F..%2Fes.jsonl", "_.._es.jsonl"),
    ],
)
def test_an_address_with_a_secret_is_fetched_and_none_of_it_is_kept(
    tmp_path: Path, store: str, address: str, name: str
) -> None:
    found = Path(Resolver(tmp_path, tmp_path / ".icr", None).local(address.replace("HOST", store), 1))
    assert found.name == name
    assert found.read_bytes() == b'{"id": 1, "instruction": "a"}\n'
    for path in (tmp_path / ".icr").rglob("*"):
        assert not any(secret in str(path) for secret in SECRETS)


def test_a_link_that_was_signed_again_is_the_same_address(tmp_path: Path, store: str) -> None:
    resolver = Resolver(tmp_path, tmp_path / ".icr", None)
    places = {
        resolver.local(f"http://{store}/signed/a.jsonl?X-Amz-Date={day}&X-Amz-Signature=8f2a9c", 1) for day in "12"
    }
    assert len(places) == 1


@pytest.mark.parametrize(
    "address",
    [
        "http://ann:pa55-word@HOST/none/es.jsonl",
        "http://HOST/none/es.jsonl?X-Amz-Signature=8f2a9c",
        "http://HOST/open/{language}.jsonl?sig=8f2a9c",
        "nosuch://ann:pa55-word@HOST/es.jsonl",
        "http://ann:pa55-word@127.0.0.1:9/es.jsonl",
    ],
)
def test_an_address_that_cannot_be_fetched_is_told_without_its_secret(tmp_path: Path, store: str, address: str) -> None:
    with pytest.raises(InputError) as refused:
        Resolver(tmp_path, tmp_path / ".icr", None).local(address.replace("HOST", store), 1)
    assert not any(secret in str(refused.value) for secret in SECRETS)
    assert "es.jsonl" in str(refused.value) or "language" in str(refused.value)
    assert "\n" not in str(refused.value)
