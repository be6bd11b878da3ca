"""Which verdicts count for what, and that no figure mixes them: each kind of verdict alone and all of them together."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from tests.unit.test_verdicts import verdict
from ui.review.counted import Counted, counted
from ui.review.queues import QUEUES
from ui.review.reading import is_faster_than_reading
from ui.review.recording import undo
from ui.review.secret import Secret
from ui.review.verdict_store import VerdictStore
from ui.review.verdict_summary import by_reviewer, verdict_metrics
from ui.review.verdicts import ADJUDICATION, CHOSEN_ITEM, Verdict

KINDS = ("blind", "targeted", "open", "gold", "adjudicated", "imported")


def kinds(found: Counted) -> dict[str, list[str]]:
    return {name: [v.submission for v in getattr(found, name)] for name in KINDS}


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({}, "blind"),
        ({"fast": True}, "blind"),
        ({"link": "abc"}, "blind"),
        ({"choice": "skip"}, "blind"),
        *(({"queue": queue}, "targeted") for queue in QUEUES if queue != "random"),
        ({"queue": "regressions", "kind": "outputs", "base": 0}, "targeted"),
        ({"queue": ""}, "targeted"),
        ({"queue": "one of a later version"}, "targeted"),
        ({"blind": False}, "open"),
        ({"disclosed": True}, "open"),
        ({"blind": False, "queue": "smallest-margin"}, "open"),
        ({"disclosed": True, "link": "abc"}, "open"),
        ({"gold": "chosen"}, "gold"),
        ({"gold": "chosen", "blind": False, "queue": "disagree"}, "gold"),
        ({"queue": CHOSEN_ITEM}, "targeted"),
        ({"queue": CHOSEN_ITEM, "blind": False}, "open"),
        ({"queue": ADJUDICATION, "blind": False}, "adjudicated"),
        ({"queue": ADJUDICATION}, "adjudicated"),
        ({"queue": ADJUDICATION, "blind": False, "disclosed": True}, "adjudicated"),
        ({"source": "arena"}, "imported"),
        ({"source": "arena", "blind": False}, "imported"),
        ({"source": "arena", "gold": "chosen"}, "imported"),
        ({"source": "verdicts", "queue": ADJUDICATION}, "imported"),
    ],
)
def test_each_verdict_counts_once(changes: dict[str, object], kind: str) -> None:
    found = kinds(counted([verdict("1", **changes)]))  # type: ignore[arg-type]
    assert {name: len(members) for name, members in found.items() if members} == {kind: 1}


def test_blind_figures_do_not_depend_on_anything_else() -> None:
    """Every combination of flags, on items of their own: the figures are those of the blind verdicts alone, to the last digit."""
    fair = [verdict(f"fair {n}", f"r{n % 3}", f"item {n % 5}", ("left", "right", "tie")[n % 3]) for n in range(12)]
    others: list[Verdict] = []
    for n, (blind, disclosed, queue, gold) in enumerate(
        itertools.product((True, False), (True, False), ("random", "disagree"), ("", "chosen"))
    ):
        if (blind, disclosed, queue, gold) != (True, False, "random", ""):
            flags = {"blind": blind, "disclosed": disclosed, "queue": queue, "gold": gold}
            others.append(verdict(f"other {n}", f"r{n % 3}", f"item {n % 5}", "left", **flags))
    alone, mixed = (verdict_metrics(counted(found)) for found in (fair, [*others[::2], *fair, *others[1::2]]))
    apart = {
        name: value
        for name, value in mixed.items()
        if "_open" in name or "_targeted" in name or name.startswith("human_verdicts/")
    }
    assert {name: value for name, value in mixed.items() if name not in apart} == {
        name: value for name, value in alone.items() if not name.startswith("human_verdicts/")
    }
    assert apart["human_verdicts/blind"] + apart["human_verdicts/open"] + apart["human_verdicts/targeted"] + apart[
        "human_verdicts/gold"
    ] == len(fair) + len(others)


def test_imported_votes_count_where_they_are_asked_for() -> None:
    votes = [verdict("1"), verdict("2", "ben", source="arena"), verdict("3", "eva", source="arena", queue="imported")]
    assert kinds(counted(votes, with_imported=True)) == {kind: [] for kind in KINDS} | {
        "blind": ["1", "2"],
        "targeted": ["3"],
    }


def test_adjudicating_and_importing_leave_a_reviewers_own_verdict_alone(tmp_path: Path) -> None:
    """One person reviews, adjudicates and voted elsewhere: each is a word of its own, and is withdrawn by itself."""
    store = VerdictStore(str(tmp_path / "verdicts.db"))
    for sent in (
        verdict("1"), verdict("2", queue=ADJUDICATION, choice="right", blind=False), verdict("3", source="arena", choice="tie"),
        verdict("4", queue=ADJUDICATION, choice="tie", blind=False),
    ):  # fmt: skip
        store.append(sent)
    assert kinds(counted(store.current())) == {kind: [] for kind in KINDS} | {
        "blind": ["1"], "adjudicated": ["4"], "imported": ["3"],
    }  # fmt: skip
    secret = Secret(bytes(32))
    withdrawn = undo(store, secret, "ana", "run", "", adjudicates=True)
    assert withdrawn is not None
    assert (withdrawn.queue, withdrawn.choice) == (ADJUDICATION, "withdrawn")
    assert undo(store, secret, "ana", "run", "", adjudicates=True) is None
    assert kinds(counted(store.current())) == {kind: [] for kind in KINDS} | {"blind": ["1"], "imported": ["3"]}
    undo(store, secret, "ana", "run", "")
    assert undo(store, secret, "ana", "run", "") is None, "what was given elsewhere is not withdrawn here"
    assert kinds(counted(store.current())) == {kind: [] for kind in KINDS} | {"imported": ["3"]}


def test_ten_open_verdicts_are_no_agreement_of_100_percent() -> None:
    metrics = verdict_metrics(counted([verdict(str(n), item=f"item {n}", blind=False) for n in range(10)]))
    assert "human_agreement/all" not in metrics
    assert metrics["human_agreement_n/all"] == 0
    assert (metrics["human_agreement_open/all"], metrics["human_agreement_open_n/all"]) == (100.0, 10.0)


def test_a_verdict_that_was_changed_after_disclosure_is_marked(tmp_path: Path) -> None:
    """Spot-check tells after each verdict, a link when its batch is done; other reviewers and other items are not affected."""
    store = VerdictStore(str(tmp_path / "verdicts.db"))
    told = {
        "first": store.append(verdict("1", "ana")),
        "sent twice": store.append(verdict("1", "ana")),
        "changed": store.append(verdict("2", "Ana ", choice="right")),
        "of another item": store.append(verdict("3", "ana", item="b")),
        "of another reviewer": store.append(verdict("4", "ben")),
        "of another run": store.append(verdict("5", "ana", run_id="other")),
        "link": store.append(verdict("6", "eva", link="L")),
        "changed before the batch is done": store.append(verdict("7", "eva", link="L", choice="tie")),
    }
    store.tell("L", "EVA")
    store.tell("L", "eva")
    told |= {
        "changed after the batch is done": store.append(verdict("8", "eva", link="L", choice="right")),
        "on Spot-check after the batch": store.append(verdict("9", "eva")),
        "the link's other reviewer": store.append(verdict("10", "ida", link="L")),
        "an item that she had not judged": store.append(verdict("11", "eva", item="c", link="L")),
        "imported": store.append(verdict("12", "zoe", source="arena")),
        "after an import": store.append(verdict("13", "zoe")),
    }
    assert [name for name, stored in told.items() if stored.disclosed] == [
        "changed", "changed after the batch is done", "on Spot-check after the batch",
    ]  # fmt: skip
    assert kinds(counted(store.current("run"))) == {
        "blind": ["3", "4", "10", "11", "13"], "targeted": [], "open": ["2", "9"], "gold": [], "adjudicated": [], "imported": ["12"],
    }  # fmt: skip


@pytest.mark.parametrize("name", ["Lucía", "LUCÍA", " lucía\u200b", "Luci\u0301a"])
def test_reviewers_are_left_out_however_they_are_spelled(name: str) -> None:
    verdicts = [verdict("1", "Lucía"), verdict("2", "lucía", item="b"), verdict("3", "ben", item="b", queue="disagree")]
    assert kinds(counted(verdicts, [name])) == {kind: [] for kind in KINDS} | {"targeted": ["3"]}
    assert [row.name for row in by_reviewer(counted(verdicts))] == ["Lucía", "ben"]


def test_the_table_of_reviewers_says_what_is_counted_apart() -> None:
    verdicts = [
        verdict("1", seconds=4.0), verdict("2", item="b", seconds=8.0, fast=True, choice="skip"),
        verdict("3", item="c", queue="disagree"), verdict("4", item="d", blind=False, fast=True),
        verdict("5", item="e", gold="chosen"), verdict("6", item="f", gold="rejected"), verdict("7", item="g", gold="chosen", choice="tie"),
    ]  # fmt: skip
    (row,) = by_reviewer(counted(verdicts))
    assert (row.verdicts, row.choices["left"], row.choices["skip"], row.seconds) == (2, 1, 1, 6.0)
    assert (row.fast, row.targeted, row.open, row.gold, row.gold_right) == (2, 1, 1, 3, 1)
    (shown,) = by_reviewer(counted([verdict("1", blind=False)]))
    assert shown.seconds is None


@pytest.mark.parametrize(
    ("seconds", "texts", "is_fast"),
    [
        (0.2, ["word " * 100, "other " * 100], True),
        (5.0, ["word " * 100, "other " * 100], False),
        (0.5, ["Yes.", "No."], False),
        (0.1, ["", ""], False),
        (4.0, ["字" * 400, "語" * 400], True),
        (12.0, ["字" * 400, "語" * 400], False),
        (5.0, ["word " * 2000, "other " * 2000], True),
        (0.0, ["a", "b"], True),
    ],
)
def test_what_nobody_can_have_read(seconds: float, texts: list[str], is_fast: bool) -> None:
    assert is_faster_than_reading(seconds, texts) is is_fast
