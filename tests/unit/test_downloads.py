"""Inputs at an address: fetched as they are now, and not again while the store says that they are the same."""

from __future__ import annotations

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
