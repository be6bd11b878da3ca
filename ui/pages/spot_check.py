"""Spot-check: a reviewer judges one item after the other, blind, by mouse or by keyboard."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

from markupsafe import Markup

from icr_platform.core.errors import InputError
from ui.html.rendering import message, render
from ui.pages.inspector import Content, Focus, Inspector
from ui.pages.item_verdicts import page_link
from ui.review import queues, recording
from ui.review.items import Item
from ui.review.queues import QUEUES, Assignment, Progress
from ui.review.recording import Reveal
from ui.review.reviewers import reviewer_key
from ui.review.verdicts import CHOSEN_ITEM, is_own_word

OVERLAPS = (0, 10, 20, 50, 100)
OVERLAP = 20
"""Percent of items that all reviewers share unless the page says otherwise: enough to measure whether they agree."""
_WHY_EMPTY: Mapping[str, str] = {
    "disagree": "This queue is empty. The judge saw the evaluation prompts and the reward saw the training prompts; either this run has "
    "no prompt in common, or they agree on all of those. Choose another queue.",
    "regressions": "The judge saw no loss here. Choose another language or iteration.",
}


class Queue(NamedTuple):
    """What the reviewer works through. overlap: percent of items that every reviewer gets."""

    name: str
    overlap: int
    blind: bool


class Offer(NamedTuple):
    """What the page shows next, and the token that comes back with the verdict ('' when there is nothing to judge)."""

    content: Content
    token: str


def show(inspector: Inspector, focus: Focus) -> Content:
    """The page of someone who has not given her name yet."""
    return offer(inspector, focus, reviewer="").content


def offer(inspector: Inspector, focus: Focus, reviewer: str, wanted: Item | None = None) -> Offer:
    """The next item of the queue, or `wanted`, for a reviewer; a sentence where there is none."""
    languages = focus.arm.languages()
    if len(languages) == 1 and not focus.view.language:
        focus = focus._replace(view=replace(focus.view, language=languages[0]))
    view, run_id = focus.view, focus.arm.run.run_id
    overlap = OVERLAP if view.overlap is None else min(view.overlap, 100)
    queue = Queue(view.queue or "random", overlap, view.open != "1")
    filters = Markup(
        render(
            "spot_check_filters",
            view=view,
            queue=queue,
            queues=list(QUEUES.items()),
            overlaps=sorted({*OVERLAPS, queue.overlap}),
            iterations=[t.number for t in focus.arm.iterations],
            languages=languages,
        )
    )

    def said(text: str, kind: str = "info") -> Offer:
        return Offer(Content(filters, message(text, kind=kind)), "")

    if not reviewer_key(reviewer):
        return said(
            "Write your name below and press Enter. Your verdicts are stored under it, and it fixes which side stands left for you."
        )
    try:
        if view.id:
            return _chosen(inspector, focus, reviewer, queue, filters)
        work = queues.assignment(focus.arm, queue.name, view.iteration, view.base, view.language, queue.overlap)
        item, progress = queues.next_item(inspector, inspector.verdicts, focus.arm, work, reviewer)
        # A verdict that was undone brings its item back; the progress is the queue's all the same.
        item = wanted or item
        if item is None:
            return said(_why_empty(work, progress))
        return _asked(inspector, run_id, item, reviewer, queue, filters, progress)
    except InputError as error:
        return said(str(error), "error")


def _asked(
    inspector: Inspector,
    run_id: str,
    item: Item,
    reviewer: str,
    queue: Queue,
    filters: Markup,
    progress: Progress | None,
) -> Offer:
    """An item to judge. progress: of its queue; None for an item that was chosen."""
    secret = inspector.links.secret
    facts, left, right = recording.shown(inspector, secret, run_id, item, reviewer, queue.blind)
    name, title = (queue.name, QUEUES[queue.name]) if progress else (CHOSEN_ITEM, "Chosen item")
    main = render(
        "spot_check",
        item=item,
        alias=secret.alias(item.key),
        facts=facts,
        left=left,
        right=right,
        blind=queue.blind,
        progress=progress,
        queue=title,
    )
    token = recording.new_token(secret, item, run_id, name, queue.blind, left.name, reviewer)
    return Offer(Content(filters, Markup(main)), token)


def _chosen(inspector: Inspector, focus: Focus, reviewer: str, queue: Queue, filters: Markup) -> Offer:
    """The item that the address names, as its page links to it; once it is judged, where to go on."""
    view, run_id = focus.view, focus.arm.run.run_id
    if view.iteration is None or not view.id_language:
        raise InputError("The address names a prompt but no iteration or language; open the item from its page.")
    kind = "pair" if view.base is None else "outputs"
    item = Item(kind, view.iteration, view.base, view.id_language, view.id, view.pair or 0)
    own = [verdict for verdict in inspector.verdicts.on_items(run_id, [item.key]) if is_own_word(verdict, reviewer)]
    if own:
        main = render(
            "judged_already",
            back=page_link(view, run_id, item),
            queue=view.without_filters().link("spot-check"),
            verdict=own[-1],
        )
        return Offer(Content(filters, Markup(main)), "")
    return _asked(inspector, run_id, item, reviewer, queue, filters, None)


def _why_empty(work: Assignment, progress: Progress) -> str:
    if progress.total and progress.done >= progress.total:
        return (
            f"You have judged all {progress.total:,} items of this queue. Thank you! Choose another queue or language."
        )
    if progress.total:
        return "Other reviewers have all the items that are left. Raise the overlap, or come back in half an hour."
    return _WHY_EMPTY.get(
        work.queue, "This language has no pairs in this iteration. Choose another language or iteration."
    )


def revealed(found: Reveal) -> str:
    """The line that says what was stored and what the run thought."""
    return render("reveal", found=found)
