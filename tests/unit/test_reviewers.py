"""Names of reviewers: which spellings are one person's, in the key itself and in everything that goes by it."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from tests.unit.test_verdicts import verdict
from ui.review.reviewers import first_typed, reviewer_key
from ui.review.verdict_store import VerdictStore

SAME = [
    ("Lucía", "lucía", "LUCÍA", " Lucía ", "Luci\u0301a", "Lu\u200bcía", "\ufeffLucía", "Lucía\u200e", "Ｌｕｃíａ", "Luc\u00adía"),
    ("Ana María", "ana  maría", "Ana\u00a0María", "ANA\u2003MARÍA", "Ana\tMaría", "Ana María\n"),
    ("Straße", "STRASSE", "strasse"),
    ("Σίσυφος", "ΣΊΣΥΦΟΣ", "σίσυφος"),
    ("İnci", "inci", "INCI", "ınci"),
    ("محمد", "مـحمد".replace("ـ", ""), "محمد\u200f", "\u202bمحمد\u202c", "ﻣﺤﻤﺪ"),
    ("नेहा", "नेहा\u200d", "ने\u200cहा"),
    ("ユキ", "ﾕｷ"),
    ("O'Brien", "O’Brien", "o'brien"),
    ("Ann-Lee", "Ann\u2011Lee"),
    ("👩‍🔬", "👩🔬", "👩\u200d🔬\ufe0f"),
    ("김", "김", "\u3164김"),
    ("ﬁona", "Fiona"),
    ("x" * 200, "X" * 200),
    ("\ufdfa" * 40, "\ufdfa" * 40),
]  # fmt: skip
NOBODY = ["", " ", "\u200b", "\u3164", "\u2800", "\u202e\u202c", "\ufeff\u00ad", "\t\n", "\ufe0f", "\U000e0041"]


@pytest.mark.parametrize("names", SAME)
def test_one_person(names: tuple[str, ...]) -> None:
    assert len({reviewer_key(name) for name in names}) == 1
    assert 0 < len(reviewer_key(names[0])) <= 200
    assert set(first_typed(names).values()) == {names[0]}


def test_different_persons() -> None:
    firsts = [names[0] for names in SAME] + ["Lucia", "Ana", "Ana Maria", "Lucía1", "ユ", "محمود"]
    for a, b in itertools.combinations(firsts, 2):
        assert reviewer_key(a) != reviewer_key(b), (a, b)


@pytest.mark.parametrize("name", NOBODY)
def test_a_name_of_which_nothing_is_seen_is_none(name: str) -> None:
    assert reviewer_key(name) == ""


def test_the_store_knows_her_however_she_types_and_shows_what_she_typed_first(tmp_path: Path) -> None:
    store = VerdictStore(str(tmp_path / "verdicts.db"))
    store.append(verdict("1", "Lucía", item="a"))
    store.append(verdict("2", "LUCÍA\u200b", item="b"))
    store.append(verdict("3", "ben", item="a"))
    store.append(verdict("4", "lucía", item="a", choice="right"))
    assert [v.submission for v in store.history(reviewer="LUCÍA")] == ["1", "2", "4"]
    assert [(v.reviewer, v.item, v.choice) for v in store.current()] == [
        ("Lucía", "b", "left"), ("ben", "a", "left"), ("Lucía", "a", "right"),
    ]  # fmt: skip
    assert store.history(reviewer="nobody") == []
    assert store.claim("run", [("c", False)], "Lucía") == 0
    assert store.claim("run", [("c", False)], "lucía") == 0, "her own item, in her other spelling"
    assert store.claim("run", [("c", False)], "ben") is None
