"""Recording a verdict: from what the page sends back to a row of the store, and what the reviewer learns then."""

from __future__ import annotations

import sys
import time
import uuid
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import NamedTuple

from icr_platform.core.errors import InputError
from ui.review.items import GOLD, Facts, Item, Side, facts_of, from_token, is_first_left, item_of, to_token
from ui.review.link_store import LinkStore
from ui.review.links import ReviewLink, gold_facts
from ui.review.secret import Secret
from ui.review.verdict_store import VerdictStore
from ui.review.verdict_summary import higher
from ui.review.verdicts import Verdict
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

    @property
    def about(self) -> str:
        """Who of the run it was that preferred a side."""
        if self.verdict.kind != "pair":
            return "judge"
        return "implicit reward" if self.verdict.margin is not None else "rule of the pairs"


def new_token(secret: Secret, item: Item, run_id: str, queue: str, blind: bool, left: str, link: str = "") -> str:
    """What the page holds while an item is shown, for the inspector's eyes only.

    Args:
        left: name of the side that stands left. link: id of the review link that shows it.
    """
    values = {"run": run_id, "queue": queue, "blind": blind, "left": left, "link": link}
    return to_token(secret, {**values, "shown_at": time.time(), "submission": uuid.uuid4().hex}, item)


def shown(tables: RunTables, secret: Secret, run_id: str, item: Item, reviewer: str, blind: bool) -> Shown:
    """The item with its sides in this reviewer's order."""
    return in_order(facts_of(tables, tables.catalogue.arm(run_id), item), is_first_left(secret, reviewer, item, blind))


def in_order(facts: Facts, first_left: bool) -> Shown:
    """Facts as they stand on a page."""
    left, right = (facts.first, facts.second) if first_left else (facts.second, facts.first)
    return Shown(facts, left, right)


def record(
    tables: RunTables,
    verdicts: VerdictStore,
    links: LinkStore,
    reviewer: str,
    choice: str,
    token: str,
    reasons: Sequence[str] = (),
    note: str = "",
    through_link: bool = False,
) -> Reveal:
    """Store a verdict. When this returns it is on disk; sending the same token again stores nothing twice.

    Args:
        through_link: whether the page is a review link's. Each page takes its own tokens only: Spot-check would tell what a link keeps.

    Raises:
        InputError: no name, an unknown choice or reason, a note that is too long, a page that is out of date, a link that has ended.
        IcrError: the store does not answer; nothing was saved.
    """
    if not reviewer.strip():
        raise InputError("Write your name first, so that your verdicts are yours.")
    values, item = from_token(links.secret, token)
    link = links.named(values["link"]) if values["link"] else None
    if (link is not None) != through_link:
        raise InputError("The page is out of date; load it again.")
    if link is not None and link.has_ended(datetime.fromtimestamp(time.time() - LONGEST_SECONDS, UTC)):
        raise InputError(
            "This review link has ended, and the verdict was not saved. Ask the person who sent it for a new one."
        )
    # The texts are read again rather than taken from the page, which could have been changed.
    facts = facts_in(tables, link, item) if link else facts_of(tables, tables.catalogue.arm(values["run"]), item)
    _, left, right = in_order(facts, facts.first.name == values["left"])
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
        seconds=min(max(time.time() - float(values["shown_at"]), 0.0), LONGEST_SECONDS),
        margin=facts.margin,
        left_characters=len(left.text),
        right_characters=len(right.text),
        left_score=left.score,
        right_score=right.score,
        link=link.id if link else "",
        gold=("left" if left.name == "chosen" else "right") if item.kind == GOLD else "",
    )
    return reveal_of(verdicts.append(verdict))


def reveal_of(verdict: Verdict) -> Reveal:
    """What the run thought of the item of a stored verdict."""
    if verdict.kind == "pair" and verdict.margin is None:  # the pair says which one is better, and no reward does
        return Reveal(verdict, "left" if verdict.left == "chosen" else "right")
    return Reveal(verdict, higher((verdict.left_score, verdict.right_score), ("left", "right")))


def facts_in(tables: RunTables, link: ReviewLink, item: Item) -> Facts:
    """Texts of an item that a link shows.

    Raises:
        InputError: they cannot be read; what is wrong, which may name what a reviewer must not know, is said in the terminal.
    """
    if item.kind == GOLD:
        return gold_facts(link, item)
    try:
        return facts_of(tables, tables.catalogue.arm(link.run_id), item)
    except InputError as error:
        print(f"review link {link.id}: {error}", file=sys.stderr)
        raise InputError(
            "The texts of this question cannot be read at the moment. Load the page again; if that does not help, tell the person who sent "
            "you the link. What you judged before is stored."
        ) from error


def undo(verdicts: VerdictStore, reviewer: str, run_id: str, link: str = "") -> Item | None:
    """Withdraw this reviewer's last verdict on a run and return its item; None when there is none. The history keeps it.

    Args:
        link: id of the review link that it was given through; '' for the last one on Spot-check.
    """
    current = [verdict for verdict in verdicts.current(run_id, reviewer) if verdict.link == link]
    if not current:
        return None
    last = max(current, key=lambda verdict: verdict.created_at)
    # Nothing is deleted: the latest row of an item counts, and this one says that there is none.
    verdicts.append(replace(last, submission=uuid.uuid4().hex, choice="withdrawn"))
    return item_of(last)
