"""Recording a verdict: from what the page sends back to a row of the store, and what the reviewer learns then."""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from icr_platform.core.errors import InputError
from ui.review.inspector import Inspector
from ui.review.items import Facts, Item, facts_of, from_token, is_first_left, preferred, to_token
from ui.review.verdicts import Verdict

LONGEST_SECONDS = 3600.0
"""A pause longer than this was no reading."""


class Shown(NamedTuple):
    """An item as a reviewer sees it."""

    item: Item
    facts: Facts
    first_is_left: bool

    @property
    def sides(self) -> tuple[Any, Any]:
        """Left and right."""
        pair = (self.facts.first, self.facts.second)
        return pair if self.first_is_left else (pair[1], pair[0])


class Reveal(NamedTuple):
    """What the run thought of an item, after the verdict. run_prefers: 'left', 'right' or '' where it has no view."""

    verdict: Verdict
    run_prefers: str

    @property
    def is_agreed(self) -> bool | None:
        """None when either has no side."""
        if self.verdict.choice not in ("left", "right") or not self.run_prefers:
            return None
        return self.verdict.choice == self.run_prefers


def new_token(item: Item, run_id: str, queue: str, blind: bool) -> str:
    """What the page holds while an item is shown."""
    values = {"run": run_id, "queue": queue, "blind": blind, "shown_at": time.time(), "submission": uuid.uuid4().hex}
    return to_token(values, item)


def shown(inspector: Inspector, run_id: str, item: Item, reviewer: str, blind: bool) -> Shown:
    """The item with its sides in this reviewer's order."""
    facts = facts_of(inspector, inspector.catalogue.arm(run_id), item)
    return Shown(item, facts, is_first_left(reviewer, item, blind))


def record(inspector: Inspector, reviewer: str, choice: str, token: str, reasons: Sequence[str], note: str) -> Reveal:
    """Store a verdict. When this returns it is on disk; sending the same token again stores nothing twice.

    Raises:
        InputError: no name, an unknown choice or reason, a note that is too long, a page that is out of date.
        IcrError: the store does not answer; nothing was saved.
    """
    if not reviewer.strip():
        raise InputError("Write your name first, so that your verdicts are yours.")
    values, item = from_token(token)
    seen = shown(inspector, values["run"], item, reviewer, bool(values["blind"]))
    left, right = seen.sides
    verdict = Verdict(
        submission=str(values["submission"])[:64],
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
        seconds=min(max(time.time() - float(values["shown_at"]), 0.0), LONGEST_SECONDS),
        margin=seen.facts.margin,
        left_characters=len(left.text),
        right_characters=len(right.text),
        left_score=left.score,
        right_score=right.score,
    )
    return reveal(inspector.verdicts.append(verdict))


def reveal(verdict: Verdict) -> Reveal:
    return Reveal(verdict, preferred((verdict.left_score, verdict.right_score), ("left", "right")))


def undo(inspector: Inspector, reviewer: str, run_id: str) -> Item | None:
    """Withdraw this reviewer's last verdict on a run and return its item; None when there is none. The verdict stays in the history."""
    current = inspector.verdicts.current(run_id, reviewer)
    if not current:
        return None
    last = max(current, key=lambda verdict: verdict.created_at)
    inspector.verdicts.append(replace(last, submission=uuid.uuid4().hex, choice="withdrawn"))
    return Item(last.kind, last.iteration, last.base, last.language, last.prompt_id)
