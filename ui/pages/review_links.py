"""The review links into a run, who works through them, and the form that makes one: a part of Agreement."""

from __future__ import annotations

from typing import NamedTuple

from markupsafe import Markup

from ui.html.rendering import render
from ui.pages.inspector import Focus, Inspector
from ui.review.links import ReviewLink, address_of, given_through
from ui.review.making_links import AskedLink
from ui.review.queues import QUEUES
from ui.review.verdicts import Verdict


class _Row(NamedTuple):
    """address: path and query. reviewers: name and how many items she has judged."""

    link: ReviewLink
    address: str
    queue: str
    until: str
    has_ended: bool
    reviewers: list[tuple[str, int]]


def section(inspector: Inspector, focus: Focus, history: list[Verdict]) -> Markup:
    """HTML of the links of the run that is shown, in the language that is shown.

    history: all verdicts on the run, withdrawn ones included.
    """
    rows = [
        _row(inspector, link, history)
        for link in inspector.links.of_run(focus.arm.run.run_id)
        if focus.view.language in ("", link.language)
    ]
    return Markup(
        render(
            "review_links",
            view=focus.view,
            rows=rows,
            languages=focus.arm.languages(),
            iterations=[t.number for t in focus.arm.iterations],
            queues=list(QUEUES.items()),
            defaults=AskedLink(),
        )
    )


def _row(inspector: Inspector, link: ReviewLink, history: list[Verdict]) -> _Row:
    names = sorted({verdict.reviewer for verdict in history if verdict.link == link.id})
    own = {name: [verdict for verdict in history if verdict.reviewer == name] for name in names}
    return _Row(
        link,
        address_of(link, inspector.links.secret),
        QUEUES[link.queue],
        link.expires_at[:16].replace("T", " ") + " UTC",
        link.has_ended(),
        [(name, len(given_through(verdicts, link))) for name, verdicts in own.items()],
    )
