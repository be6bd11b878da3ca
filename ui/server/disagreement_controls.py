"""Disagreements' buttons and fields, with which a lead adjudicates: those of Spot-check, whose verdicts are of a queue of their own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlencode

import gradio as gr

from ui.html.rendering import message
from ui.pages import disagreements, spot_check
from ui.pages.inspector import Content, Focus, Inspector
from ui.pages.shell import render_page
from ui.pages.table_of_pages import Page
from ui.review import recording
from ui.review.seeing import Viewer
from ui.server.events import MOVES, QUIET, address_of, asked_of, guarded, parsed, reviewer_of, signed_in
from ui.server.roles import Leads
from ui.server.spot_check_controls import controls
from ui.tables.view import parse_view

WHAT = "Adjudicating"


def build_disagreements(
    demo: gr.Blocks, bus: gr.HTML, inspector: Inspector, page: Page, has_login: bool, leave: str, leads: Leads
) -> None:
    """The page and its events: open, move, undo, and an answer per choice. leave: as in `SignedIn`."""
    with gr.Column(elem_id="disagreements"):
        ui = controls(has_login)
    rendered = [ui.body, ui.token, ui.query]

    def shown(params: Mapping[str, str], request: gr.Request) -> list[Any]:
        tokens: list[str] = []

        def show(inspector: Inspector, focus: Focus) -> Content:
            offered = disagreements.offer(inspector, focus)
            tokens.append(offered.token)
            return offered.content

        viewer = Viewer(str(request.username or ""), leads.is_lead(request.username))
        html = render_page(inspector, page, params, show, signed_in(request, leave), viewer)
        return [html, tokens[0] if tokens else "", urlencode(params)]

    def opened(known: str, request: gr.Request) -> list[Any]:
        return [*shown(address_of(request), request), reviewer_of(request, known)]

    def moved(event: gr.EventData, request: gr.Request) -> list[Any]:
        return ["", *shown(asked_of(event), request), [], ""]

    def withdrawn(typed: str, token: str, asked: str, request: gr.Request) -> list[Any]:
        def act() -> list[Any]:
            leads.refuse_others(request.username, WHAT)
            params, reviewer = parsed(asked), reviewer_of(request, typed)
            focus = inspector.focus(parse_view(params).view)
            secret, run = inspector.links.secret, focus.arm.run.run_id if focus else ""
            found = (
                recording.undo(inspector.verdicts, secret, reviewer, run, token, adjudicates=True)
                if run and reviewer
                else None
            )
            if found is None:
                return [
                    str(message("You have adjudicated nothing that could be undone.")),
                    *(gr.skip() for _ in range(5)),
                ]
            said = str(message("Your last answer was withdrawn; here is its item again."))
            return [said, *shown({**params, "item": found.item}, request), list(found.reasons), found.note]

        return guarded(act, 6)

    demo.load(opened, ui.remembered, [*rendered, ui.name], **QUIET)
    sent, replaced = [ui.name, ui.token, ui.query, ui.reasons, ui.note], [ui.status, *rendered, ui.reasons, ui.note]
    bus.submit(moved, None, replaced, **MOVES)
    gr.on([ui.name.submit, ui.name.blur], lambda typed: typed.strip(), ui.name, ui.remembered, **QUIET)
    ui.back.click(withdrawn, sent[:3], replaced, trigger_mode="once", **QUIET)
    for choice, button in ui.buttons.items():
        button.click(_answered(inspector, choice, shown, leads), sent, replaced, trigger_mode="once", **QUIET)


def _answered(
    inspector: Inspector, choice: str, shown: Callable[[Mapping[str, str], gr.Request], list[Any]], leads: Leads
) -> Callable[..., list[Any]]:
    """What a choice's button does: store the lead's answer, and show the item with it. On an error everything stays as it is."""

    def answer(typed: str, token: str, asked: str, reasons: list[str], note: str, request: gr.Request) -> list[Any]:
        def act() -> list[Any]:
            leads.refuse_others(request.username, WHAT)
            found = recording.record(
                inspector, inspector.verdicts, inspector.links, reviewer_of(request, typed), choice, token, reasons or [], note or "",
                adjudicates=True,
            )  # fmt: skip
            return [spot_check.revealed(found), *shown(parsed(asked), request), [], ""]

        return guarded(act, 6)

    return answer
