"""What people said of one item, for every page that shows it, and the link with which a reader judges it herself."""

from __future__ import annotations

from typing import NamedTuple

from markupsafe import Markup

from ui.html.rendering import render
from ui.pages.inspector import Inspector
from ui.review.items import Item
from ui.review.reviewers import left_out_in, reviewer_key
from ui.review.seeing import Sight, Viewer, sight_of
from ui.review.verdicts import ADJUDICATION, DECIDED, INSPECTOR, Verdict, preferred_name
from ui.tables.view import View


class Said(NamedTuple):
    """One verdict as a reader is shown it. answer: such as 'chosen', 'iteration 2' or 'both bad'. tags: what is special about it."""

    who: str
    answer: str
    verdict: Verdict
    tags: tuple[str, ...]


def section(inspector: Inspector, run_id: str, viewer: Viewer, item: Item, view: View) -> Markup:
    """Verdicts and notes on an item, as far as the viewer may see them, and the link 'Judge this'."""
    sight = sight_of(inspector.verdicts, inspector.links, run_id, viewer)
    return Markup(
        render(
            "said",
            rows=said_of(inspector, run_id, sight, item) if sight else [],
            judge=judge_link(view, run_id, item),
        )
    )


def said_of(inspector: Inspector, run_id: str, sight: Sight, item: Item, left_out: str = "") -> list[Said]:
    """The last word of each reviewer on an item, a lead's answer at the end; nothing where the viewer may not see them.

    left_out: reviewers whose verdicts are not counted, as an address has them; they are shown as such.
    """
    verdicts = inspector.verdicts.on_items(run_id, [item.key])
    judged_by = {
        reviewer_key(verdict.reviewer)
        for verdict in verdicts
        if verdict.source == INSPECTOR and verdict.queue != ADJUDICATION
    }
    if not sight.shows(item, judged_by):
        return []
    keys = left_out_in(left_out)
    return [
        Said(
            sight.names[reviewer_key(verdict.reviewer)],
            answer_of(verdict),
            verdict,
            _tags(verdict, reviewer_key(verdict.reviewer) in keys),
        )
        for verdict in sorted(verdicts, key=lambda verdict: verdict.queue == ADJUDICATION)
    ]


def answer_of(verdict: Verdict) -> str:
    """What a verdict says, by the names of the sides that its item has."""
    return named_answer(preferred_name(verdict) or verdict.choice, verdict.base, verdict.iteration)


def named_answer(answer: str, base: int | None, iteration: int) -> str:
    """An answer in words.

    >>> named_answer("before", 0, 2), named_answer("both-bad", None, 1), named_answer("chosen", None, 1)
    ('iteration 0', 'both bad', 'chosen')
    """
    named = {
        "before": f"iteration {base}",
        "after": f"iteration {iteration}",
        "both-bad": "both bad",
        "skip": "skipped",
    }
    return named.get(answer, answer)


def _tags(verdict: Verdict, is_left_out: bool) -> tuple[str, ...]:
    found = {
        "adjudicated": verdict.queue == ADJUDICATION,
        f"from {verdict.source}": verdict.source != INSPECTOR,
        "left out": is_left_out,
        "open": not verdict.blind and verdict.queue != ADJUDICATION,
        "changed after she was told": verdict.disclosed and verdict.queue != ADJUDICATION,
        "very fast": verdict.fast and verdict.choice in DECIDED,
    }
    return tuple(name for name, holds in found.items() if holds)


def judge_link(view: View, run_id: str, item: Item) -> str:
    """Address of Spot-check at an item."""
    asked = View(
        view.experiment,
        run_id,
        item.iteration,
        id=item.prompt_id,
        id_language=item.language,
        base=item.base,
        pair=item.pair_index or None,
    )
    return asked.link("spot-check")


def page_link(view: View, run_id: str, item: Item) -> str:
    """Address of the page that shows everything about an item."""
    asked = View(view.experiment, run_id, item.iteration, id=item.prompt_id, id_language=item.language, base=item.base)
    if item.kind == "pair":
        return asked.link("pairs", base=None, pair=item.pair_index or None)
    return asked.link("regressions")
