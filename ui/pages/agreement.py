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
from ui.review.verdict_summary import Accuracy, Judged
from ui.review.verdicts import Verdict


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
    found = counted(verdicts)
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
        ],
        gold=found.gold,
        labels=verdict_summary.SOURCES,
        reliability=verdict_summary.reliability(found.blind),
        reviewers=verdict_summary.by_reviewer(found),
        half_width=100 * verdict_summary.TARGET_HALF_WIDTH,
    )
    return Content(Markup(render("language_filter", view=focus.view, languages=languages)), Markup(main))


_TARGETED = (
    "These queues look for certain items, such as those with the smallest margin. What people say of them is not what they would say of the "
    "run's pairs in general."
)
_OPEN = (
    "Given in open mode, or changed after the reviewer had been told what the run thinks of the item: whoever knows that may follow it, "
    "so that these agree more than people do."
)


def _apart(title: str, why: str, verdicts: list[Verdict]) -> Apart:
    judged = verdict_summary.by_item(verdicts)
    return Apart(title, why, verdicts, judged, verdict_summary.accuracies(judged, {}))


def verdicts_shown(inspector: Inspector, focus: Focus) -> list[Verdict]:
    """The last word of each reviewer on each item, of the language that the page shows."""
    found = inspector.verdicts.current(focus.arm.run.run_id)
    return [verdict for verdict in found if focus.view.language in ("", verdict.language)]
