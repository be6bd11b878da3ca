"""Disagreements: items on which people differ with each other, with the reward or with the judge, and a lead's answer to each."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from markupsafe import Markup

from icr_platform.core.errors import InputError
from icr_platform.core.language_tags import english_first
from ui.html.rendering import message, render
from ui.pages import item_verdicts
from ui.pages.inspector import Content, Focus, Inspector
from ui.review import disagreements, recording
from ui.review.disagreements import BETWEEN, PAGE_ITEMS, Wanted
from ui.review.item_heads import heads_of
from ui.review.items import Item, facts_of
from ui.review.reviewers import left_out_in, reviewer_key
from ui.review.seeing import Sight, sight_of
from ui.review.verdicts import ADJUDICATION, INSPECTOR

_FORM = {"experiment", "run", "language", "between", "reviewer", "settled", "votes"}
_LOG_IN = "Verdicts of others are shown to those who log in: to leads all of them, to reviewers those on items that they have judged."


class Offer(NamedTuple):
    """The page, and the token that comes back with a lead's answer; '' where there is nothing to answer."""

    content: Content
    token: str


def show(inspector: Inspector, focus: Focus) -> Content:
    """The list of disagreements, or one item when the view names it."""
    return offer(inspector, focus).content


def offer(inspector: Inspector, focus: Focus) -> Offer:
    """As `show`, and what a lead needs to answer."""
    run_id = focus.arm.run.run_id
    # The list is of the whole run: an iteration that another page's address brings would hide most of it without a word.
    focus = focus._replace(view=replace(focus.view, iteration=None))
    sight = sight_of(inspector.verdicts, inspector.links, run_id, focus.viewer)
    if sight is None:
        return Offer(Content(Markup(""), message(_LOG_IN), focus.view), "")
    # Imported votes may have thousands of voters; their items are found by the filter of votes.
    here = [reviewer_key(name) for name in inspector.verdicts.reviewers(run_id, INSPECTOR)]
    reviewers = [(key, sight.names[key]) for key in here]
    number = focus.view.reviewer
    if number is not None and not 1 <= number <= len(reviewers):
        focus = focus._replace(view=replace(focus.view, reviewer=None))
    view = focus.view
    languages = english_first({*focus.arm.languages(), *([view.language] if view.language else [])})
    filters = render(
        "disagreements_filters",
        view=view,
        languages=languages,
        between=list(BETWEEN.items()),
        reviewers=[(place, name) for place, (_, name) in enumerate(reviewers, start=1)],
        kept=view.carried_on(_FORM),
    )
    wanted = Wanted(
        view.language, view.between, reviewers[view.reviewer - 1][0] if view.reviewer else "", view.settled,
        left_out_in(view.leave_out), view.votes == "all",
    )  # fmt: skip
    main, token = (_detail if view.item else _list)(inspector, focus, sight, wanted)
    return Offer(Content(Markup(filters), Markup(main), view), token)


def _list(inspector: Inspector, focus: Focus, sight: Sight, wanted: Wanted) -> tuple[str, str]:
    votes = inspector.verdicts.votes(focus.arm.run.run_id)
    page = disagreements.page_of(inspector.engine, votes, sight, wanted, focus.view.start)
    heads = heads_of(inspector, focus.arm, [row.item for row in page.rows])
    main = render(
        "disagreements",
        view=focus.view,
        rows=[(row, heads.get(row.key)) for row in page.rows],
        total=page.total,
        size=PAGE_ITEMS,
        has_votes=votes.num_rows > 0,
        named=item_verdicts.named_answer,
        between=BETWEEN,
    )
    return main, ""


def _detail(inspector: Inspector, focus: Focus, sight: Sight, wanted: Wanted) -> tuple[str, str]:
    """One item: its texts, who said what, and where it stands in the list; the token is a lead's."""
    view, run_id = focus.view, focus.arm.run.run_id
    item = Item.from_key(view.item)
    rows = item_verdicts.said_of(inspector, run_id, sight, item, view.leave_out)
    if not rows:
        raise InputError("There are no verdicts here that you can see; open an item from the list.")
    facts = facts_of(inspector, focus.arm, item)
    near = disagreements.near(inspector.engine, inspector.verdicts.votes(run_id), sight, wanted, item.key)
    main = render(
        "disagreement",
        view=view,
        item=item,
        alias=inspector.links.secret.alias(item.key),
        facts=facts,
        sides=recording.in_order(facts, first_left=True),
        rows=rows,
        near=near,
        list_start=(near.place - 1) // PAGE_ITEMS * PAGE_ITEMS if near else 0,
        is_lead=focus.viewer.is_lead,
        run_prefers=_run_prefers(facts.first.score, facts.second.score, item),
        judge=item_verdicts.judge_link(view, run_id, item),
        opened=item_verdicts.page_link(view, run_id, item),
        named=item_verdicts.named_answer,
    )
    if not focus.viewer.is_lead:
        return main, ""
    token = recording.new_token(inspector.links.secret, item, run_id, ADJUDICATION, blind=False, left=facts.first.name)
    return main, token


def _run_prefers(first: float | None, second: float | None, item: Item) -> str:
    """In a sentence, which side the run prefers."""
    about = "implicit reward" if item.kind == "pair" else "judge"
    if first is None or second is None:
        return f"The {about} says nothing of this item."
    if first == second:
        return f"The {about} prefers neither."
    names = ("chosen", "rejected") if item.kind == "pair" else ("after", "before")
    name = item_verdicts.named_answer(names[0] if first > second else names[1], item.base, item.iteration)
    return f"The {about} prefers: {name} ({first:.3f} against {second:.3f})."
