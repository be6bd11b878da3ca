"""Disagreements: DuckDB's query against pandas, what each reader may see, and where an item stands in the list."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from icr_platform.core.errors import InputError
from tests.unit.test_verdicts import verdict
from ui.review import disagreements
from ui.review.counted import counted
from ui.review.disagreements import PAGE_ITEMS, Disagreement, Wanted
from ui.review.items import Item
from ui.review.link_store import LinkStore
from ui.review.links import new_link
from ui.review.reviewers import as_left_out, left_out_in, reviewer_key
from ui.review.seeing import Sight, Viewer, sight_of
from ui.review.verdict_store import VerdictStore
from ui.review.verdict_summary import by_item, source_name
from ui.review.verdicts import ADJUDICATION, DECIDED, INSPECTOR, Verdict, preferred_name
from ui.tables.queries import QueryEngine

EVERYTHING = Sight("", (), {})
PEOPLE = ("Lucía", "ben", "Eva O, MD", "LUCÍA", "zoe")


@pytest.fixture(scope="module")
def engine() -> QueryEngine:
    return QueryEngine(memory_limit="200MB", threads=1)


def sent(number: int, item: Item, reviewer: str, choice: str, **changes: Any) -> Verdict:
    names = ("chosen", "rejected") if item.kind == "pair" else ("after", "before")
    place = {
        "kind": item.kind,
        "language": item.language,
        "prompt_id": item.prompt_id,
        "iteration": item.iteration,
        "base": item.base,
    }
    left, right = names if number % 3 else names[::-1]
    return verdict(str(number), reviewer, item.key, choice, **{**place, "left": left, "right": right, **changes})


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> VerdictStore:
    """A thousand verdicts of every kind on a hundred items: edits, undo, gold, links, adjudications, imports, no scores, equal ones."""
    store = VerdictStore(str(tmp_path_factory.mktemp("verdicts") / "verdicts.db"))
    rng = random.Random(5)
    items = [
        *(Item("pair", t, None, language, f"p:{n}", n % 3) for t in (1, 2) for language in ("es", "bn") for n in range(15)),
        *(Item("outputs", 2, 0, language, f"q{n}") for language in ("es", "ar") for n in range(20)),
    ]  # fmt: skip
    scores = {item.key: rng.choice([(1.0, 0.5), (0.25, 0.75), (0.5, 0.5), (None, None), (1.0, 0.5)]) for item in items}
    for number in range(1000):
        item = rng.choice(items)
        kind = rng.choice(["own"] * 6 + ["adjudication", "imported", "gold", "open"])
        kinds: dict[str, dict[str, Any]] = {
            "own": {"queue": rng.choice(["random", "smallest-margin", ""])},
            "adjudication": {"queue": ADJUDICATION, "blind": False},
            "imported": {"source": "arena", "queue": "imported"},
            "gold": {"gold": "chosen"},
            "open": {"blind": False},
        }
        changes = kinds[kind]
        choice = rng.choice(["left", "left", "right", "right", "tie", "both-bad", "skip", "withdrawn"])
        found = sent(number, item, rng.choice(PEOPLE), choice, **changes)
        first, second = scores[item.key]
        is_first_left = found.left in ("chosen", "after")
        left, right = (first, second) if is_first_left else (second, first)
        store.append(sent(number, item, found.reviewer, choice, left_score=left, right_score=right, **changes))
    store.append(sent(2000, items[0], "ana", "left", run_id="another run"))
    return store


def naive(verdicts: list[Verdict], wanted: Wanted) -> list[Disagreement]:
    """The list by `counted`, `verdict_summary` and pandas: every kind of blind, targeted and open verdict of people, item by item."""
    found = counted(verdicts, wanted.left_out, wanted.with_imported)
    people = [one for one in (*found.blind, *found.targeted, *found.open) if one.choice in DECIDED]
    order = {one.submission: place for place, one in enumerate(verdicts)}
    if not people:
        return []
    table = pd.DataFrame(
        {
            "key": one.item,
            "answer": preferred_name(one) or one.choice,
            "who": reviewer_key(one.reviewer),
            "verdict": one,
        }
        for one in people
    )
    rows = []
    for key, group in table.groupby("key"):
        members = sorted(group["verdict"], key=lambda one: order[one.submission])
        (judged,) = by_item(members)
        theirs = source_name(members[0], "reward" if members[0].kind == "pair" else "judge")
        counts = group["answer"].value_counts()
        differs = bool(judged.preferred and theirs and judged.preferred != theirs)
        between = {
            "reviewers": len(counts) > 1, "reward": differs and members[0].kind == "pair", "judge": differs and members[0].kind == "outputs",
        }  # fmt: skip
        leads = [one for one in found.adjudicated if one.item == key and one.choice in DECIDED]
        answer = (preferred_name(leads[-1]) or leads[-1].choice) if leads else ""
        names = tuple(name for name, holds in between.items() if holds)
        said = tuple(sorted(((str(k), int(v)) for k, v in counts.items()), key=lambda entry: (-entry[1], entry[0])))
        row = Disagreement(Item.from_key(str(key)), str(key), len(group), said, judged.preferred, theirs, names, answer)
        is_asked_for = (
            wanted.language in ("", row.item.language)
            and (wanted.between in names if wanted.between else bool(names))
            and (not wanted.reviewer or wanted.reviewer in set(group["who"]))
            and wanted.settled in ("", "settled" if answer else "open")
        )
        rows += [row] if is_asked_for else []
    return sorted(rows, key=lambda row: (-row.people, row.item.language, row.item.iteration, row.key))


WANTED = [
    Wanted(),
    Wanted(language="es"),
    Wanted(language="ar"),
    Wanted(language="th"),
    *(Wanted(between=name) for name in disagreements.BETWEEN),
    *(Wanted(settled=name) for name in ("open", "settled")),
    *(Wanted(reviewer=reviewer_key(name)) for name in PEOPLE),
    Wanted(reviewer="nobody"),
    Wanted(with_imported=True),
    Wanted(left_out=[reviewer_key("lucía")]),
    Wanted(left_out=["ben", "zoe"], with_imported=True, settled="open"),
    Wanted(left_out=["ben", "zoe", "lucía", "eva o, md"]),
    Wanted("bn", "reviewers", "ben", "open", ("zoe",), True),
    Wanted("es", "judge", "", "settled"),
]


@pytest.mark.parametrize("wanted", WANTED, ids=str)
def test_the_list_equals_pandas(store: VerdictStore, engine: QueryEngine, wanted: Wanted) -> None:
    expected = naive(store.current("run"), wanted)
    votes, found = store.votes("run"), list[Disagreement]()
    for start in range(0, len(expected) + PAGE_ITEMS, PAGE_ITEMS):
        page = disagreements.page_of(engine, votes, EVERYTHING, wanted, start)
        assert (page.total, len(page.rows)) == (len(expected), min(PAGE_ITEMS, max(len(expected) - start, 0)))
        found += page.rows
    assert found == expected
    assert wanted != WANTED[0] or len(found) > 2 * PAGE_ITEMS, "several pages are looked at"


def test_neighbours_follow_the_list(store: VerdictStore, engine: QueryEngine) -> None:
    votes, wanted = store.votes("run"), Wanted(between="reviewers")
    keys = [row.key for row in naive(store.current("run"), wanted)]
    for place in (0, 1, len(keys) // 2, len(keys) - 1):
        near = disagreements.near(engine, votes, EVERYTHING, wanted, keys[place])
        assert near is not None
        assert (near.place, near.total) == (place + 1, len(keys))
        assert near.before == (keys[place - 1] if place else "")
        assert near.after == (keys[place + 1] if place + 1 < len(keys) else "")
    assert disagreements.near(engine, votes, EVERYTHING, wanted, "pair:9::es:none") is None


def test_votes_are_what_the_store_has(store: VerdictStore) -> None:
    rows, history = store.votes("run").to_pylist(), store.history("run")
    assert [(row["item"], row["choice"], row["reviewer"], row["left_score"]) for row in rows] == [
        (one.item, one.choice, reviewer_key(one.reviewer), one.left_score) for one in history
    ]
    assert VerdictStore.votes(store, "no such run").num_rows == 0
    some = {"pair:1::es:p:0", "outputs:2:0:ar:q1"}
    assert store.on_items("run", some) == [one for one in store.current("run") if one.item in some]
    assert store.reviewers("run") == list(dict.fromkeys(one.reviewer for one in history))


def test_a_reviewer_sees_what_she_judged_and_nothing_of_an_unfinished_link(
    store: VerdictStore, engine: QueryEngine, tmp_path: Path
) -> None:
    links = LinkStore(store.database)
    assert sight_of(store, links, "run", Viewer()) is None, "nobody knows who she is"
    lead = sight_of(store, links, "run", Viewer("chef", is_lead=True))
    local = sight_of(store, links, "run", Viewer(is_lead=True))
    assert lead is not None
    assert lead == local
    assert list(lead.names.values()) == store.reviewers("run")
    ben = sight_of(store, links, "run", Viewer(" BEN "))
    assert ben is not None
    assert ben.names["ben"] == "you"
    assert {name for key, name in ben.names.items() if key != "ben"} <= {f"reviewer {n}" for n in range(1, 6)}
    hers = {one.item for one in store.current("run", "ben") if one.source == INSPECTOR and one.queue != ADJUDICATION}
    votes, everything = store.votes("run"), {row.key for row in naive(store.current("run"), Wanted())}

    def seen(sight: Sight) -> set[str]:
        starts = range(0, 200, PAGE_ITEMS)
        return {
            row.key for start in starts for row in disagreements.page_of(engine, votes, sight, Wanted(), start).rows
        }

    assert seen(lead) == everything
    assert seen(ben) == everything & hers
    link = links.add(new_link("run", "es", "random", 1, None))
    store.append(sent(3000, Item("pair", 1, None, "es", "p:1", 1), "ben", "left", link=link.id))
    within = sight_of(store, links, "run", Viewer("ben"))
    chef = sight_of(store, links, "run", Viewer("ben", is_lead=True))
    assert within is not None
    assert chef is not None
    votes = store.votes("run")
    hidden = {
        key
        for key in everything
        if (item := Item.from_key(key)).kind == "pair" and (item.iteration, item.language) == (1, "es")
    }
    assert hidden
    assert seen(within) == (everything & hers) - hidden
    assert seen(chef) == everything - hidden, "a lead who reviews is blind, too"
    for key in everything:
        item = Item.from_key(key)
        assert within.shows(item, {"ben"}) is (key not in hidden)
        assert not within.shows(item, {"zoe"})
    store.tell(link.id, "ben")
    told = sight_of(store, links, "run", Viewer("ben"))
    assert told is not None
    assert told.hidden == ()


@pytest.mark.parametrize(
    "key",
    ["pair:1::es:p", "pair.3:12::zh-Hant:a:b:c", "outputs:2:0:es:", "outputs:2:1:es:‮'\"\\", "gold.7:1::es:link/x"],
)
def test_an_identity_is_read_as_it_was_written(key: str) -> None:
    assert Item.from_key(key).key == key


@pytest.mark.parametrize(
    "key",
    [
        "",
        "pair",
        "pair:x::es:p",
        "pair:1:-1:es:p",
        "pair:1::es",
        "PAIR:1::es:p",
        "pair.x:1::es:p",
        "pair:٣::es:p",
        "a" * 9000,
    ],
)
def test_what_is_no_identity_is_said(key: str) -> None:
    with pytest.raises(InputError, match="There is no item"):
        Item.from_key(key)


@pytest.mark.parametrize(
    "names",
    [["ana"], ["Eva O, MD"], ["50%"], ["a%2Cb", "a,b"], ["Lucía", "LUCÍA\u200b"], ["", "\u200b"], ["王,小明", "ben"]],
)
def test_reviewers_who_are_left_out_stand_in_the_address(names: list[str]) -> None:
    keys = {key for name in names if (key := reviewer_key(name))}
    assert left_out_in(as_left_out(keys)) == keys
