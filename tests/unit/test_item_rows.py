"""Several votes on one item become one row, by each rule."""

from __future__ import annotations

from dataclasses import replace

import pytest

from icr_platform.core.errors import InputError
from ui.review.item_rows import RULES, item_rows
from ui.review.verdict_summary import by_item
from ui.review.verdicts import Verdict

PAIR = Verdict(
    submission="1", reviewer="ana", run_id="run", item="pair:1::es:p1", kind="pair", language="es", prompt_id="p1", iteration=1, base=None,
    queue="random", left="rejected", right="chosen", choice="left", reasons=(), note="", blind=True, seconds=9.0, margin=0.5,
    left_characters=10, right_characters=12, left_score=0.5, right_score=1.0,
)  # fmt: skip
SIGNS = {"c": "right", "r": "left", "t": "tie", "b": "both-bad", "s": "skip"}


def votes_of(text: str) -> list[Verdict]:
    """A vote a letter: c and r prefer chosen and rejected, t and b neither, s skips; a capital is a lead's adjudication."""
    return [
        replace(
            PAIR,
            submission=f"{number}",
            reviewer=f"{number}",
            choice=SIGNS[sign.lower()],
            queue="adjudication" if sign.isupper() else "random",
        )
        for number, sign in enumerate(text)
    ]


# votes: answer by the majority's rule, by the adjudicated one, rows of the rule for all. '' where there is no row.
CASES = {
    "c": ("chosen", "chosen", 1),
    "r": ("rejected", "rejected", 1),
    "ccr": ("chosen", "chosen", 3),
    "crr": ("rejected", "rejected", 3),
    "cr": ("draw", "draw", 2),
    "crt": ("draw", "draw", 3),
    "ccrr": ("draw", "draw", 4),
    "ct": ("draw", "draw", 2),
    "ctb": ("tie", "tie", 3),
    "cbb": ("both-bad", "both-bad", 3),
    "t": ("tie", "tie", 1),
    "b": ("both-bad", "both-bad", 1),
    "tb": ("tie", "tie", 2),
    "tbb": ("both-bad", "both-bad", 3),
    "cctb": ("draw", "draw", 4),
    "s": ("", "", 0),
    "sc": ("chosen", "chosen", 1),
    "ssr": ("rejected", "rejected", 1),
    "crC": ("draw", "chosen", 2),
    "ccR": ("chosen", "rejected", 2),
    "cT": ("chosen", "tie", 1),
    "cB": ("chosen", "both-bad", 1),
    "cCR": ("chosen", "rejected", 1),
    "cS": ("chosen", "chosen", 1),
    "C": ("", "chosen", 0),
    "S": ("", "", 0),
    "": ("", "", 0),
}


@pytest.mark.parametrize("votes", CASES)
def test_rules(votes: str) -> None:
    majority, adjudicated, all_rows = CASES[votes]
    given = votes_of(votes)
    assert [row.answer for row in item_rows(given, "majority")] == ([majority] if majority else [])
    assert [row.answer for row in item_rows(given, "adjudicated")] == ([adjudicated] if adjudicated else [])
    rows = item_rows(given, "all")
    assert len(rows) == all_rows
    assert [row.answer for row in rows] == [
        {"c": "chosen", "r": "rejected", "t": "tie", "b": "both-bad"}[sign] for sign in votes if sign in "crtb"
    ]
    for row in item_rows(given, "adjudicated"):
        assert (row.decided_by == "adjudication") == any(sign in "CRTB" for sign in votes)
        assert [vote.submission for vote in row.votes] == [str(n) for n, sign in enumerate(votes) if sign in "crtb"]
    assert [judged.preferred for judged in by_item(given)] == [row.preferred for row in item_rows(given, "majority")]


def test_items_stand_in_the_order_of_their_first_votes() -> None:
    def on(prompt_id: str, choice: str, run_id: str = "run") -> Verdict:
        return replace(PAIR, item=f"pair:1::es:{prompt_id}", prompt_id=prompt_id, choice=choice, run_id=run_id)

    given = [on("b", "left"), on("a", "right"), on("b", "left"), on("a", "left", "other")]
    assert [(row.verdict.prompt_id, row.verdict.run_id, len(row.votes)) for row in item_rows(given, RULES[0])] == [
        ("b", "run", 2), ("a", "run", 1), ("a", "other", 1),
    ]  # fmt: skip


def test_outputs_have_names_of_their_own() -> None:
    outputs = replace(PAIR, kind="outputs", left="after", right="before", choice="right")
    (row,) = item_rows([outputs], "majority")
    assert (row.answer, row.preferred) == ("before", "before")


def test_an_unknown_rule_names_those_there_are() -> None:
    with pytest.raises(InputError, match=r"no rule 'median'.*majority, adjudicated, all"):
        item_rows([], "median")
