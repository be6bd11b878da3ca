"""What is published of a run: who stands in it under which name, which figures, and that a preview is what is published."""

from __future__ import annotations

import uuid
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from icr_platform.core.artifacts import open_artifact
from icr_platform.core.errors import InputError
from ui.review.counted import counted
from ui.review.exports import VERDICTS
from ui.review.publishing import preview_lines, publication, publish
from ui.review.verdict_store import VerdictStore
from ui.review.verdict_summary import verdict_metrics
from ui.review.verdicts import Verdict


def verdict(number: int, reviewer: str, run_id: str = "r" * 32, **more: Any) -> Verdict:
    fixed: dict[str, Any] = {
        "item": f"pair:1::es:p{number}", "kind": "pair", "language": "es", "prompt_id": f"p{number}", "iteration": 1, "base": None,
        "queue": "random", "left": "chosen", "right": "rejected", "choice": "left", "reasons": (), "note": "", "blind": True,
        "seconds": 9.0, "margin": 1.0, "left_characters": 10, "right_characters": 20, "left_score": 1.0, "right_score": 0.0,
    }  # fmt: skip
    return Verdict(submission=uuid.uuid4().hex, reviewer=reviewer, run_id=run_id, **{**fixed, **more})


class Reader:
    """Stands for the tracking store: keeps what is attached to a run."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []
        self.metrics: dict[str, float] = {}

    def attach(self, run_id: str, folder: Path, name: str, metrics: dict[str, float]) -> None:
        self.rows, self.metrics = open_artifact(folder, VERDICTS).read().to_pylist(), dict(metrics)


def tables_of(reader: Reader) -> Any:
    catalogue = SimpleNamespace(reader=reader, arm=lambda run_id: SimpleNamespace(run=SimpleNamespace(run_id=run_id)))
    return SimpleNamespace(catalogue=catalogue)


@pytest.fixture
def store(tmp_path: Path) -> VerdictStore:
    found = VerdictStore(str(tmp_path / "verdicts.db"))
    for number, name in enumerate(["nele", "ana", "nele", "Ana ", "ＡＮＡ", "দিয়া", "reviewer 1"]):
        found.append(verdict(number, name, note="mine" if number == 2 else ""))
    found.append(verdict(0, "nele", choice="withdrawn"))
    found.append(verdict(0, "ana", "s" * 32))
    return found


def test_reviewers_are_numbered(store: VerdictStore) -> None:
    """By their first verdict on the run, one number a person, however the name was typed; a name like a number is one as well."""
    found = publication(tables_of(Reader()), store, "r" * 32)
    numbers = [
        "reviewer 1",
        "reviewer 2",
        "reviewer 1",
        "reviewer 2",
        "reviewer 2",
        "reviewer 3",
        "reviewer 4",
        "reviewer 1",
    ]
    assert [row.reviewer for row in found.history] == numbers
    assert publication(tables_of(Reader()), store, "s" * 32).history[0].reviewer == "reviewer 1"
    store.append(verdict(9, "aaa"))
    later = publication(tables_of(Reader()), store, "r" * 32)
    assert [row.reviewer for row in later.history] == [*numbers, "reviewer 5"], "those who have a number keep it"
    assert later.version != found.version


def test_names_are_published_when_asked_for(store: VerdictStore) -> None:
    found = publication(tables_of(Reader()), store, "r" * 32, names=True)
    assert {row.reviewer for row in found.history} == {"nele", "ana", "দিয়া", "reviewer 1"}
    assert found.version != publication(tables_of(Reader()), store, "r" * 32).version


@pytest.mark.parametrize("names", [False, True])
def test_what_was_shown_is_published(store: VerdictStore, names: bool) -> None:
    reader = Reader()
    found = publication(tables_of(reader), store, "r" * 32, names)
    assert publish(tables_of(reader), found) == 8
    assert [row["reviewer"] for row in reader.rows] == [row.reviewer for row in found.history]
    assert reader.metrics == verdict_metrics(counted(store.current("r" * 32)))
    lines = preview_lines(found)
    assert "table 'verdicts' of 8 rows" in lines[1]
    assert ", 1 with a note" in lines[1]
    for name, value in reader.metrics.items():
        assert f"  {name} = {value:.6g}" in lines
    assert any("দিয়া" in line for line in lines)
    # No name is in what is published, only in what its publisher is shown.
    published = str(reader.rows)
    assert ("দিয়া" in published) is names
    assert ("nele" in published) is names


def test_nothing_to_publish(store: VerdictStore) -> None:
    with pytest.raises(InputError, match="has no verdicts yet"):
        publication(tables_of(Reader()), store, "t" * 32)
