"""Recording a verdict: from what the page sends back to a row of the store, and what the reviewer learns then."""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from icr_platform.core.errors import InputError
from ui.review.items import Facts, Item, Side, facts_of, from_token, is_first_left, to_token
from ui.review.reading import is_faster_than_reading
from ui.review.reviewers import reviewer_key
from ui.review.verdict_store import VerdictStore
from ui.review.verdict_summary import higher
from ui.review.verdicts import DECIDED, Verdict
from ui.tables.run_tables import RunTables

LONGEST_SECONDS = 3600.0
"""Whoever needs longer than this was not reading all the time."""


class Shown(NamedTuple):
    """An item as a reviewer sees it."""

    facts: Facts
    left: Side
    right: Side


class Reveal(NamedTuple):
    """What the run thought of an item, after the verdict. run_prefers: 'left', 'right' or '' where it has no view."""

    verdict: Verdict
    run_prefers: str

    @property
    def is_agreed(self) -> bool | None:
        """Whether both prefer the same side; None when either prefers none."""
        if self.verdict.choice not in ("left", "right") or not self.run_prefers:
            return None
        return self.verdict.choice == self.run_prefers


def new_token(item: Item, run_id: str, queue: str, blind: bool, reviewer: str = "") -> str:
    """What the page holds while an item is shown.

    reviewer: who it is shown to; without one, a script may send it under any name.
    """
    values = {
        "run": run_id, "queue": queue, "blind": blind, "shown_at": time.time(), "submission": uuid.uuid4().hex, "reviewer": reviewer,
    }  # fmt: skip
    return to_token(values, item)


def shown(tables: RunTables, run_id: str, item: Item, reviewer: str, blind: bool) -> Shown:
    """The item with its sides in this reviewer's order."""
    facts = facts_of(tables, tables.catalogue.arm(run_id), item)
    if is_first_left(reviewer, item, blind):
        return Shown(facts, facts.first, facts.second)
    return Shown(facts, facts.second, facts.first)


def record(
    tables: RunTables,
    verdicts: VerdictStore,
    reviewer: str,
    choice: str,
    token: str,
    reasons: Sequence[str] = (),
    note: str = "",
) -> Reveal:
    """Store a verdict. When this returns it is on disk; sending the same token again stores nothing twice.

    Raises:
        InputError: no name, or another than the item was shown to; an unknown choice or reason; a note that is too long; a page that is out of
            date.
        IcrError: the store does not answer; nothing was saved.
    """
    if not reviewer_key(reviewer):
        raise InputError("Write your name first, so that your verdicts are yours.")
    values, item = from_token(token)
    shown_to = str(values.get("reviewer", ""))
    if shown_to and reviewer_key(shown_to) != reviewer_key(reviewer):
        # The sides stand as they do for whom the item was shown to: under another name, left could be right.
        raise InputError(
            "The name has changed since this item was shown; press Enter in the name, and judge the item then."
        )
    # The texts are read again rather than taken from the page, which could have been changed.
    facts, left, right = shown(tables, values["run"], item, reviewer, bool(values["blind"]))
    seconds = min(max(time.time() - float(values["shown_at"]), 0.0), LONGEST_SECONDS)
    verdict = Verdict(
        submission=str(values["submission"])[:64],  # the same for a click that is sent twice
        reviewer=reviewer.strip(),
        run_id=values["run"],
        item=item.key,
        kind=item.kind,
        language=item.language,
        prompt_id=item.prompt_id,
        iteration=item.iteration,
        base=item.base,
        queue=str(values["queue"]),
        left=left.name,
        right=right.name,
        choice=choice,
        reasons=tuple(reasons),
        note=note,
        blind=bool(values["blind"]),
        seconds=seconds,
        margin=facts.margin,
        left_characters=len(left.text),
        right_characters=len(right.text),
        left_score=left.score,
        right_score=right.score,
        # Who skips an item, or says that there is no verdict, need not have read it.
        fast=choice in DECIDED and is_faster_than_reading(seconds, (left.text, right.text)),
    )
    stored = verdicts.append(verdict)
    if item.kind == "pair" and facts.margin is None:  # the pair says which one is better, and no reward does
        return Reveal(stored, "left" if left.name == "chosen" else "right")
    return Reveal(stored, higher((stored.left_score, stored.right_score), ("left", "right")))


def undo(verdicts: VerdictStore, reviewer: str, run_id: str, token: str = "") -> Verdict | None:
    """Withdraw this reviewer's last verdict on a run; the row that says so, with her reasons and note, or None when she has no verdict.

    token: of the item that the page shows; an undo that is sent twice from there withdraws one verdict.
    """
    current = verdicts.current(run_id, reviewer)
    if not current:
        return None
    # Nothing is deleted: the latest row of an item counts, and this one says that there is none.
    submission = f"undo-{from_token(token)[0]['submission'][:50]}" if token else uuid.uuid4().hex
    return verdicts.append(replace(current[-1], submission=submission, choice="withdrawn"))
