"""The verdict store, on SQLite and, where ICR_TEST_POSTGRES names one, on PostgreSQL: append-only, once each, claims exclusive, several writers at once, locked databases said so."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from icr_platform.core.errors import IcrError, InputError
from tests.support.postgres import empty_schema
from ui.review import database, verdict_store
from ui.review.counted import counted
from ui.review.verdict_store import LONGEST_NOTE, VerdictStore
from ui.review.verdict_summary import by_item, verdict_metrics
from ui.review.verdicts import Verdict, verdicts_table


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """An empty verdict database: an SQLite file, or a PostgreSQL schema of its own."""
    if request.param == "sqlite":
        yield str(tmp_path / "verdicts.db")
        return
    with empty_schema() as url:
        yield url


@pytest.fixture
def store(url: str) -> VerdictStore:
    return VerdictStore(url)


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


def test_eight_writers_at_once(url: str) -> None:
    """Eight servers open the empty database at once, then write 250 verdicts each, every tenth one sent twice."""
    each = 250 if url.startswith("postgres") else 25  # of SQLite, tests/browser/test_killed.py writes more
    with ThreadPoolExecutor(8) as pool:
        stores = list(pool.map(lambda _: VerdictStore(url), range(8)))

    def write(number: int) -> None:
        for place in range(each):
            sent = verdict(f"{number}/{place}", reviewer=f"r{number}", item=f"item {place}")
            for _ in range(1 + (place % 10 == 0)):
                stores[number].append(sent)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(8)))
    found = stores[0].history()
    assert len(found) == len({v.submission for v in found}) == 8 * each
    assert len(stores[5].current(reviewer="r3")) == each
    assert [v.item for v in stores[1].history(reviewer="r2")] == [f"item {place}" for place in range(each)]


def test_a_new_database_that_another_server_prepares_is_waited_for(tmp_path: Path) -> None:
    """SQLite refuses the switch to WAL at once, whatever its busy timeout, while another connection is about to write."""
    path = tmp_path / "verdicts.db"
    other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    other.execute("CREATE TABLE other (x)")
    other.execute("BEGIN IMMEDIATE")
    release = threading.Timer(0.5, other.execute, ["ROLLBACK"])
    release.start()
    store = VerdictStore(str(path))
    store.append(verdict("1"))
    release.join()
    other.close()
    assert [v.reviewer for v in store.history()] == [verdict("1").reviewer]
    assert sqlite3.connect(path).execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_claims_are_exclusive_and_end(store: VerdictStore, monkeypatch: pytest.MonkeyPatch) -> None:
    offers = [("a", False), ("b", False)]
    assert store.claim("run", offers, "ana") == 0
    assert store.claim("run", offers, "bea") == 1
    assert store.claim("run", offers, "ana") == 0, "she gets her own item again"
    assert store.claim("run", offers, "cleo") is None
    assert store.claim("run", [("a", True)], "cleo") == 0, "a shared item goes to everyone"
    store.append(verdict("1", reviewer="ana", item="a"))
    monkeypatch.setattr(verdict_store, "CLAIM_MINUTES", -1)
    assert store.claim("run", offers, "cleo") == 1, "an old claim without a verdict is free, a judged item is not"


def test_claims_of_eight_at_once_never_collide(url: str) -> None:
    offers = [(f"item {i}", False) for i in range(40)]
    stores = [VerdictStore(url) for _ in range(8)]
    with ThreadPoolExecutor(8) as pool:
        places = list(pool.map(lambda n: stores[n].claim("run", offers, f"r{n}"), range(8)))
    assert len(set(places)) == 8
    assert None not in places


def test_an_old_claim_goes_to_one_of_eight(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    stores = [VerdictStore(url) for _ in range(8)]
    with monkeypatch.context() as long_ago:
        long_ago.setattr(verdict_store, "_now", lambda: "2020-01-01T00:00:00+00:00")
        assert stores[0].claim("run", [("a", False)], "gone") == 0
    with ThreadPoolExecutor(8) as pool:
        places = list(pool.map(lambda n: stores[n].claim("run", [("a", False)], f"r{n}"), range(8)))
    assert sorted(places, key=str) == [0] + [None] * 7


def test_bad_verdicts_are_refused(store: VerdictStore) -> None:
    for bad in (
        verdict("1", choice="maybe"),
        verdict("1", reasons=("dull",)),
        verdict("1", note="n" * (LONGEST_NOTE + 1)),
        verdict("1", reviewer=" "),
        verdict("1" * 65),
    ):
        with pytest.raises(InputError):
            store.append(bad)
    assert store.history() == []


def test_hostile_text_is_kept(store: VerdictStore) -> None:
    notes = ("a\x00b\ud800", "👩‍👩‍👧‍👦\u202e%s{}'; DROP TABLE icr_verdicts; --", "n" * LONGEST_NOTE)
    for place, note in enumerate(notes):
        store.append(verdict(str(place), note=note, item=f"item {place}", prompt_id="‮'\"\\"))
    assert [v.note for v in store.history()] == ["ab?", *notes[1:]]


def test_a_locked_database_is_said_so(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "_BUSY_SECONDS", 1)
    impatient = VerdictStore(url)
    with locked(url), pytest.raises(IcrError, match=r"does not answer.*lock.*nothing was saved"):
        impatient.append(verdict("1"))
    impatient.append(verdict("1"))
    assert len(impatient.history()) == 1


@contextmanager
def locked(url: str) -> Iterator[None]:
    """Another program holds the verdicts."""
    if not url.startswith("postgres"):
        blocker = sqlite3.connect(url, isolation_level=None)
        blocker.execute("BEGIN EXCLUSIVE")
        yield
        blocker.execute("ROLLBACK")
        return
    import psycopg

    with psycopg.connect(url) as connection:
        connection.execute("LOCK TABLE icr_verdicts IN ACCESS EXCLUSIVE MODE")
        yield
        connection.rollback()


def test_databases_that_cannot_be_opened_are_named(tmp_path: Path) -> None:
    for bad, said in (
        (str(tmp_path / "no" / "verdicts.db"), "no such folder"),
        ("nothing://host/name", "not a database URL"),
        ("mysql+nothing://host/name", "not a database URL"),
    ):
        with pytest.raises(InputError, match=said):
            VerdictStore(bad)
    pytest.importorskip("psycopg", reason="needs psycopg: pip install 'icr-platform[postgres]'")
    with pytest.raises(IcrError, match="does not answer"):
        VerdictStore("postgresql://nobody@127.0.0.1:1/none")


def test_exports_and_metrics(store: VerdictStore) -> None:
    store.append(verdict("1", note="=HYPERLINK(1)"))
    store.append(verdict("2", reviewer="bea"))
    store.append(verdict("3", reviewer="ana", item="other", choice="right"))
    current = store.current()
    assert verdicts_table(current).num_rows == 3
    assert len(by_item(current)) == 2, "two reviewers of one item are one observation"
    metrics = verdict_metrics(counted(current))
    assert metrics["human_agreement/es"] == 50.0
    assert metrics["human_agreement_n/es"] == 2.0
