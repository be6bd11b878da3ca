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
from ui.review.items import GOLD, Facts, Item, Side, facts_of, from_token, is_first_left, to_token
from ui.review.link_store import LinkStore
from ui.review.links import ReviewLink, gold_facts
from ui.review.reading import is_faster_than_reading
from ui.review.reviewers import reviewer_key
from ui.review.secret import Secret
from ui.review.verdict_store import VerdictStore
from ui.review.verdict_summary import higher
from ui.review.verdicts import ADJUDICATION, DECIDED, INSPECTOR, Verdict
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


def new_token(
    secret: Secret,
    item: Item,
    run_id: str,
    queue: str,
    blind: bool,
    left: str,
    reviewer: str = "",
    link: str = "",
) -> str:
    """What the page holds while an item is shown, for the inspector's eyes only.

    Args:
        left: name of the side that stands left. link: id of the review link that shows it.
        reviewer: who it is shown to; without one, a script may send it under any name.
    """
    values = {"run": run_id, "queue": queue, "blind": blind, "left": left, "reviewer": reviewer, "link": link}
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
    adjudicates: bool = False,
) -> Reveal:
    """Store a verdict. When this returns it is on disk; sending the same token again stores nothing twice.

    Args:
        through_link: whether the page is a review link's. Each page takes its own tokens only: Spot-check would tell what a link keeps.
        adjudicates: whether a lead settles the item, whom the caller has checked.

    Raises:
        InputError: no name, or another than the item was shown to; an unknown choice or reason; a note that is too long; a page that is out of
            date; a link that has ended.
        IcrError: the store does not answer; nothing was saved.
    """
    if not reviewer_key(reviewer):
        raise InputError("Write your name first, so that your verdicts are yours.")
    values, item = from_token(links.secret, token)
    link = links.named(values["link"]) if values["link"] else None
    if (link is not None, values["queue"] == ADJUDICATION) != (through_link, adjudicates):
        raise InputError("The page is out of date; load it again.")
    if link is not None and link.has_ended(datetime.fromtimestamp(time.time() - LONGEST_SECONDS, UTC)):
        raise InputError(
            "This review link has ended, and the verdict was not saved. Ask the person who sent it for a new one."
        )
    if values["reviewer"] and reviewer_key(values["reviewer"]) != reviewer_key(reviewer):
        raise InputError(
            "The name has changed since this item was shown; press Enter in the name, and judge the item then."
        )
    # The texts are read again rather than taken from the page, which could have been changed.
    facts = facts_in(tables, link, item) if link else facts_of(tables, tables.catalogue.arm(values["run"]), item)
    _, left, right = in_order(facts, facts.first.name == values["left"])
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
        link=link.id if link else "",
        gold=facts.first.name if item.kind == GOLD else "",
        # Who skips an item, or says that there is no verdict, need not have read it.
        fast=choice in DECIDED and is_faster_than_reading(seconds, (left.text, right.text)),
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


def undo(
    verdicts: VerdictStore,
    secret: Secret,
    reviewer: str,
    run_id: str,
    token: str,
    link: str = "",
    adjudicates: bool = False,
) -> Verdict | None:
    """Withdraw this reviewer's last verdict on a run; the row that says so, with her reasons and note, or None when she has no verdict.

    Args:
        token: of the item that the page shows, '' without one; an undo that is sent twice from there withdraws one verdict.
        link: id of the review link that the verdict was given through; '' for one of Spot-check.
        adjudicates: withdraw her last adjudication, which Spot-check leaves alone.
    """
    current = [
        verdict
        for verdict in verdicts.current(run_id, reviewer)
        if (verdict.link, verdict.queue == ADJUDICATION, verdict.source) == (link, adjudicates, INSPECTOR)
    ]
    if not current:
        return None
    # Nothing is deleted: the latest row of an item counts, and this one says that there is none.
    submission = f"undo-{from_token(secret, token)[0]['submission'][:50]}" if token else uuid.uuid4().hex
    return verdicts.append(replace(current[-1], submission=submission, choice="withdrawn"))
