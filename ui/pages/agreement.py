"""Agreement: do people prefer what the implicit reward and the judge prefer, and do they agree with each other."""

from __future__ import annotations

from typing import NamedTuple

from markupsafe import Markup

from icr_platform.core.language_tags import english_first
from ui.html.rendering import render
from ui.pages import review_links
from ui.pages.inspector import Content, Focus, Inspector
from ui.review import verdict_summary
from ui.review.counted import counted
from ui.review.reviewers import as_left_out, left_out_in, reviewer_key
from ui.review.verdict_summary import Accuracy, Judged, ReviewerRow
from ui.review.verdicts import Verdict
from ui.tables.view import View

_FORM = {"experiment", "run", "language"}


class Apart(NamedTuple):
    """Verdicts that are not counted with the others, and what they say by themselves."""

    title: str
    why: str
    verdicts: list[Verdict]
    judged: list[Judged]
    accuracies: list[Accuracy]


def show(inspector: Inspector, focus: Focus) -> Content:
    """Accuracy of reward, judge and length against people, and agreement between people: by blind verdicts of random queues."""
    verdicts = verdicts_shown(inspector, focus)
    left_out = left_out_in(focus.view.leave_out)
    found = counted(verdicts, left_out, with_imported=focus.view.votes == "all")
    judged = verdict_summary.by_item(found.blind)
    languages = english_first({*focus.arm.languages(), *(v.language for v in verdicts)})
    links = review_links.section(inspector, focus, inspector.verdicts.history(focus.arm.run.run_id))
    main = render(
        "agreement",
        links=links,
        view=focus.view,
        verdicts=verdicts,
        blind=found.blind,
        judged=judged,
        overall=verdict_summary.accuracies(judged, {}),
        tables=[
            ("By language", verdict_summary.accuracies([], verdict_summary.by_language(judged))),
            ("By margin", verdict_summary.accuracies([], verdict_summary.by_margin(judged))),
        ],
        apart=[
            _apart("Targeted queues", _TARGETED, found.targeted),
            _apart("Open verdicts", _OPEN, found.open),
            _apart("Imported votes", _IMPORTED, found.imported),
        ],
        gold=found.gold,
        labels=verdict_summary.SOURCES,
        reliability=verdict_summary.reliability(found.blind),
        reviewers=[_Choice(row, _toggled(focus.view, row.name)) for row in verdict_summary.by_reviewer(found)],
        left_out=[
            (name, _toggled(focus.view, name))
            for name in dict.fromkeys(verdict.reviewer for verdict in verdicts)
            if reviewer_key(name) in left_out
        ],
        half_width=100 * verdict_summary.TARGET_HALF_WIDTH,
    )
    return Content(
        Markup(render("language_filter", view=focus.view, languages=languages, kept=focus.view.carried_on(_FORM))),
        Markup(main),
    )


_TARGETED = (
    "These queues look for certain items, such as those with the smallest margin. What people say of them is not what they would say of the "
    "run's pairs in general."
)
_OPEN = (
    "Given in open mode, or changed after the reviewer had been told what the run thinks of the item: whoever knows that may follow it, "
    "so that these agree more than people do."
)


_IMPORTED = "Given somewhere else, and added with `icr verdicts import`: nobody knows here how they were given."


class _Choice(NamedTuple):
    """A row of the table of reviewers, and the address that leaves her out of every figure."""

    row: ReviewerRow
    without: str


def _toggled(view: View, name: str) -> str:
    """Address of the page with a reviewer left out, or counted again."""
    keys = left_out_in(view.leave_out) ^ {reviewer_key(name)}
    return view.link("agreement", leave_out=as_left_out(keys))


def _apart(title: str, why: str, verdicts: list[Verdict]) -> Apart:
    judged = verdict_summary.by_item(verdicts)
    return Apart(title, why, verdicts, judged, verdict_summary.accuracies(judged, {}))


def verdicts_shown(inspector: Inspector, focus: Focus) -> list[Verdict]:
    """The last word of each reviewer on each item, of the language that the page shows."""
    found = inspector.verdicts.current(focus.arm.run.run_id)
    return [verdict for verdict in found if focus.view.language in ("", verdict.language)]
