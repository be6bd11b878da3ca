"""The verdict store: append-only, once each, claims exclusive, several writers at once, locked databases said so."""

from __future__ import annotations

import sqlite3
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from icr_platform.errors import IcrError, InputError
from ui import verdicts
from ui.human_data import by_item, metrics_of, to_csv
from ui.verdicts import LONGEST_NOTE, Verdict, VerdictStore, verdicts_table


@pytest.fixture
def store(tmp_path: Path) -> VerdictStore:
    return VerdictStore(str(tmp_path / "verdicts.db"))


def verdict(
    submission: str, reviewer: str = "ana", item: str = "pair:1::es:p1", choice: str = "left", **changes: object
) -> Verdict:
    base = Verdict(
        submission=submission, reviewer=reviewer, run_id="run", item=item, kind="pair", language="es", prompt_id="p1", iteration=1,
        base=None, queue="random", left="chosen", right="rejected", choice=choice, reasons=("untrue",), note="", blind=True,
        seconds=1.5, margin=0.5, left_characters=10, right_characters=12, left_score=1.0, right_score=0.5,
    )  # fmt: skip
    return replace(base, **changes)  # type: ignore[arg-type]


def test_a_verdict_sent_twice_is_stored_once(store: VerdictStore) -> None:
    first = store.append(verdict("1", note="n"))
    again = store.append(verdict("1", choice="right"))
    assert first == again == store.history()[0]
    assert len(store.history()) == 1


def test_edits_and_undo_keep_history(store: VerdictStore) -> None:
    store.append(verdict("1"))
    store.append(verdict("2", choice="tie"))
    assert [v.choice for v in store.current("run", "ana")] == ["tie"]
    store.append(verdict("3", choice="withdrawn"))
    assert store.current("run") == []
    assert [v.choice for v in store.history("run")] == ["left", "tie", "withdrawn"]


def test_eight_writers_at_once(store: VerdictStore, tmp_path: Path) -> None:
    stores = [VerdictStore(str(tmp_path / "verdicts.db")) for _ in range(8)]

    def write(number: int) -> None:
        for place in range(25):
            stores[number].append(verdict(f"{number}/{place}", reviewer=f"r{number}", item=f"item {place}"))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(8)))
    assert len(store.history()) == 200
    assert len(store.current(reviewer="r3")) == 25


def test_claims_are_exclusive_and_end(store: VerdictStore, monkeypatch: pytest.MonkeyPatch) -> None:
    offers = [("a", False), ("b", False)]
    assert store.claim("run", offers, "ana") == 0
    assert store.claim("run", offers, "bea") == 1
    assert store.claim("run", offers, "ana") == 0, "she gets her own item again"
    assert store.claim("run", offers, "cleo") is None
    assert store.claim("run", [("a", True)], "cleo") == 0, "a shared item goes to everyone"
    store.append(verdict("1", reviewer="ana", item="a"))
    monkeypatch.setattr(verdicts, "CLAIM_MINUTES", -1)
    assert store.claim("run", offers, "cleo") == 1, "an old claim without a verdict is free, a judged item is not"


def test_claims_of_eight_at_once_never_collide(store: VerdictStore) -> None:
    offers = [(f"item {i}", False) for i in range(40)]
    with ThreadPoolExecutor(8) as pool:
        places = list(pool.map(lambda n: store.claim("run", offers, f"r{n}"), range(8)))
    assert sorted(places) == list(range(8))


def test_bad_verdicts_are_refused(store: VerdictStore) -> None:
    for bad in (
        verdict("1", choice="maybe"),
        verdict("1", reasons=("dull",)),
        verdict("1", note="n" * (LONGEST_NOTE + 1)),
        verdict("1", reviewer=" "),
    ):
        with pytest.raises(InputError):
            store.append(bad)
    assert store.history() == []


def test_a_locked_database_is_said_so(store: VerdictStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verdicts, "_BUSY_SECONDS", 0.2)
    impatient = VerdictStore(str(tmp_path / "verdicts.db"))
    blocker = sqlite3.connect(tmp_path / "verdicts.db", isolation_level=None)
    blocker.execute("BEGIN EXCLUSIVE")
    with pytest.raises(IcrError, match=r"does not answer.*locked.*nothing was saved"):
        impatient.append(verdict("1"))
    blocker.execute("ROLLBACK")
    impatient.append(verdict("1"))
    assert len(store.history()) == 1


def test_exports_and_metrics(store: VerdictStore) -> None:
    store.append(verdict("1", note="=HYPERLINK(1)"))
    store.append(verdict("2", reviewer="bea"))
    store.append(verdict("3", reviewer="ana", item="other", choice="right"))
    current = store.current()
    assert verdicts_table(current).num_rows == 3
    assert "'=HYPERLINK(1)" in to_csv(current), "no spreadsheet runs a note"
    assert len(by_item(current)) == 2, "two reviewers of one item are one observation"
    metrics = metrics_of(current)
    assert metrics["human_agreement/es"] == 50.0
    assert metrics["human_agreement_n/es"] == 2.0
