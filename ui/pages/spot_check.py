"""Spot-check: a reviewer judges one item after the other, blind, by mouse or by keyboard."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

from markupsafe import Markup

from icr_platform.core.errors import IcrError, InputError
from ui.html.rendering import message, render
from ui.pages.shell import Show
from ui.review import items, recording
from ui.review.inspector import Content, Focus, Inspector
from ui.review.items import QUEUES, Item, Progress, Settings
from ui.review.recording import Reveal
from ui.tables.view import View

CHOICE_KEYS = (
    ("left", "Left is better", "1"),
    ("right", "Right is better", "2"),
    ("tie", "Tie", "3"),
    ("both-bad", "Both bad", "4"),
    ("skip", "Skip", "s"),
)
OVERLAPS = (0, 10, 20, 50, 100)
OVERLAP = 20
"""Percent that reviewers share unless the page says otherwise: enough to measure their agreement."""


class Queue(NamedTuple):
    """What the reviewer works through."""

    name: str
    overlap: int
    blind: bool


@dataclass(frozen=True)
class Turn:
    """What the page shows next, and the token that comes back with the verdict ('' when there is nothing to judge)."""

    content: Content
    token: str


def queue_of(view: View) -> Queue:
    """Queue, overlap and blindness a view asks for."""
    overlap = OVERLAP if view.overlap is None else min(view.overlap, 100)
    return Queue(view.queue or "random", overlap, view.open != "1")


def turn(inspector: Inspector, focus: Focus, reviewer: str, wanted: Item | None = None) -> Turn:
    """The next item of the queue, or `wanted`."""
    queue = queue_of(focus.view)
    filters = Markup(_filters(focus, queue))
    if not reviewer.strip():
        return Turn(
            Content(
                filters,
                message(
                    "Write your name below and press Enter: your verdicts, your place in the queue and your order of sides go by it."
                ),
            ),
            "",
        )
    try:
        settings = _settings(inspector, focus, queue)
        item, progress = items.next_item(inspector, focus.arm, settings, reviewer)
        item = wanted or item
        if item is None:
            return Turn(Content(filters, _empty(settings, progress)), "")
        shown = recording.shown(inspector, focus.arm.run.run_id, item, reviewer, queue.blind)
    except IcrError as error:
        return Turn(Content(filters, message(str(error), kind="error")), "")
    left, right = shown.sides
    main = render(
        "spot_check",
        item=item,
        facts=shown.facts,
        left=left,
        right=right,
        blind=queue.blind,
        progress=progress,
        queue=QUEUES[queue.name],
    )
    return Turn(
        Content(filters, Markup(main)), recording.new_token(item, focus.arm.run.run_id, queue.name, queue.blind)
    )


def _settings(inspector: Inspector, focus: Focus, queue: Queue) -> Settings:
    view = focus.view
    stage = "eval" if queue.name in ("regressions", "disagree") else "annotate"
    iteration = view.iteration if view.iteration is not None else inspector.latest(focus.arm, stage)
    base = None
    if stage == "eval":
        earlier = [t.number for t in focus.arm.iterations if "eval" in t.stages and t.number < iteration]
        base = view.base if view.base is not None else earlier[-1] if earlier else None
        if base is None:
            raise InputError(
                "This queue compares two iterations, and there is none before this one; choose a later iteration or another queue."
            )
    return Settings(iteration, base, view.language, queue.name, queue.overlap, queue.blind)


def _empty(settings: Settings, progress: Progress) -> Markup:
    if progress.total and progress.done >= progress.total:
        return message(
            f"You have judged all {progress.total:,} items of this queue. Thank you; choose another queue or language."
        )
    if progress.total:
        return message("Other reviewers hold all items that are left; raise the overlap, or come back in half an hour.")
    if settings.queue == "disagree":
        return message(
            "The judge saw evaluation prompts and the reward training prompts; where a run has none in common, or they never differ, this queue is empty. Choose another queue."
        )
    if settings.queue == "regressions":
        return message("The judge saw no loss here. Choose another language or iteration.")
    return message("This language has no pairs in this iteration. Choose another language or iteration.")


def _filters(focus: Focus, queue: Queue) -> str:
    return render(
        "spot_check_filters",
        view=focus.view,
        queue=queue,
        queues=list(QUEUES.items()),
        overlaps=sorted({*OVERLAPS, queue.overlap}),
        iterations=[t.number for t in focus.arm.iterations],
        languages=focus.arm.languages(),
    )


def revealed(found: Reveal) -> str:
    """The line that says what was stored and what the run thought."""
    return render("reveal", found=found, verdict=found.verdict)


def show_with(reviewer: str, wanted: Item | None = None) -> tuple[Show, list[str]]:
    """A `show` for the shell, and the list that will hold the token."""
    tokens: list[str] = []

    def show(inspector: Inspector, focus: Focus) -> Content:
        found = turn(inspector, replace_view(focus), reviewer, wanted)
        tokens.append(found.token)
        return found.content

    return show, tokens


def replace_view(focus: Focus) -> Focus:
    """Spot-check works on one language when none is chosen only if the arm has just one."""
    languages = focus.arm.languages()
    return (
        focus._replace(view=replace(focus.view, language=languages[0]))
        if len(languages) == 1 and not focus.view.language
        else focus
    )
