"""Agreement: do people prefer what the implicit reward and the judge prefer, and do they agree with each other."""

from __future__ import annotations

from markupsafe import Markup

from icr_platform.core.language_tags import english_first
from ui.html.rendering import render
from ui.pages import review_links
from ui.pages.inspector import Content, Focus, Inspector
from ui.review import verdict_summary
from ui.review.verdicts import Verdict


def show(inspector: Inspector, focus: Focus) -> Content:
    """Accuracy of reward, judge and length against people, and agreement between people."""
    verdicts = verdicts_shown(inspector, focus)
    judged = verdict_summary.by_item(verdicts)
    languages = english_first({*focus.arm.languages(), *(v.language for v in verdicts)})
    links = review_links.section(inspector, focus, inspector.verdicts.history(focus.arm.run.run_id))
    main = render(
        "agreement",
        links=links,
        view=focus.view,
        verdicts=verdicts,
        judged=judged,
        overall=verdict_summary.accuracies(judged, {}),
        tables=[
            ("By language", verdict_summary.accuracies([], verdict_summary.by_language(judged))),
            ("By margin", verdict_summary.accuracies([], verdict_summary.by_margin(judged))),
        ],
        labels=verdict_summary.SOURCES,
        reliability=verdict_summary.reliability(verdicts),
        reviewers=verdict_summary.by_reviewer(verdicts),
        half_width=100 * verdict_summary.TARGET_HALF_WIDTH,
    )
    return Content(Markup(render("language_filter", view=focus.view, languages=languages)), Markup(main))


def verdicts_shown(inspector: Inspector, focus: Focus) -> list[Verdict]:
    """The last word of each reviewer on each item, of the language that the page shows."""
    found = inspector.verdicts.current(focus.arm.run.run_id)
    return [verdict for verdict in found if focus.view.language in ("", verdict.language)]
