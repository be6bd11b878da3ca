"""The page behind a review link: Spot-check's buttons and fields, and a start. The server remembers nothing: the page holds item and link."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlencode

import gradio as gr

from ui.html.rendering import message, render
from ui.pages import review
from ui.pages.inspector import Inspector
from ui.pages.review import Asked
from ui.pages.shell import SignedIn
from ui.review import recording
from ui.review.items import Item, item_of
from ui.server.events import MOVES, QUIET, address_of, asked_of, guarded, parsed, reviewer_of
from ui.server.spot_check_controls import controls


def build_review(demo: gr.Blocks, bus: gr.HTML, inspector: Inspector, has_login: bool, leave: str) -> None:
    """The page and its events: open, move, begin, undo, and a verdict per choice. leave: as in `SignedIn`."""
    with gr.Column(elem_id="review"):
        ui = controls(has_login, folds=True)
        with gr.Row(elem_id="begin"):
            begin = gr.Button("Start", variant="primary", size="md", elem_id="start")
    rendered = [ui.body, ui.token, ui.query]

    def shown(params: Mapping[str, str], reviewer: str, wanted: Item | None = None, goes_on: bool = False) -> list[Any]:
        link, begins = params.get("link", ""), params.get("start") == "1" and not goes_on
        who = SignedIn(reviewer, leave) if has_login else None
        offered = review.offer(inspector, Asked(link, reviewer, who, begins, goes_on), wanted)
        # Whatever else the address says is dropped: nothing of a link is in parameters.
        return [offered.html, offered.token, urlencode({"link": link})]

    def opened(known: str, request: gr.Request) -> list[Any]:
        reviewer = reviewer_of(request, known)
        return [*shown(address_of(request), reviewer), reviewer]

    def moved(typed: str, event: gr.EventData, request: gr.Request) -> list[Any]:
        return shown(asked_of(event), reviewer_of(request, typed))

    def begun(typed: str, asked: str, request: gr.Request) -> list[Any]:
        def act() -> list[Any]:
            reviewer = reviewer_of(request, typed)
            said = "" if reviewer else str(message("Write your name first, so that your verdicts are yours."))
            return [said, *shown(parsed(asked), reviewer, goes_on=True), reviewer]

        return guarded(act, 5)

    def withdrawn(typed: str, token: str, asked: str, request: gr.Request) -> list[Any]:
        def act() -> list[Any]:
            params, reviewer = parsed(asked), reviewer_of(request, typed)
            link, secret = inspector.links.opened(params.get("link", "")), inspector.links.secret
            found = (
                recording.undo(inspector.verdicts, secret, reviewer, link.run_id, token, link.id) if reviewer else None
            )
            if found is None:
                return [str(message("There is nothing to undo.")), *(gr.skip() for _ in range(5))]
            said = str(message("Your last verdict was withdrawn; judge the question again."))
            return [said, *shown(params, reviewer, item_of(found), goes_on=True), list(found.reasons), found.note]

        return guarded(act, 6)

    demo.load(opened, ui.remembered, [*rendered, ui.name], **QUIET)
    bus.submit(moved, ui.name, rendered, **MOVES)
    # Public, as the choices are, so that scripts can go through a whole batch.
    opens = {**QUIET, "api_visibility": "public", "api_name": "review_begin"}
    gr.on([begin.click, ui.name.submit], begun, [ui.name, ui.query], [ui.status, *rendered, ui.remembered], **opens)
    sent, replaced = [ui.name, ui.token, ui.query, ui.reasons, ui.note], [ui.status, *rendered, ui.reasons, ui.note]
    ui.back.click(withdrawn, sent[:3], replaced, trigger_mode="once", **QUIET)
    for choice, button in ui.buttons.items():
        named_event = {**QUIET, "api_visibility": "public", "api_name": f"review_{choice.replace('-', '_')}"}
        button.click(_voter(inspector, choice, shown), sent, replaced, trigger_mode="once", **named_event)


def _voter(inspector: Inspector, choice: str, shown: Callable[..., list[Any]]) -> Callable[..., list[Any]]:
    """What a choice's button does: store, and show the next item without a word on this one."""

    def vote(typed: str, token: str, asked: str, reasons: list[str], note: str, request: gr.Request) -> list[Any]:
        def act() -> list[Any]:
            reviewer = reviewer_of(request, typed)
            found = recording.record(
                inspector, inspector.verdicts, inspector.links, reviewer, choice, token, reasons or [], note or "", True
            )
            saved = render("saved", submission=found.verdict.submission)
            return [saved, *shown(parsed(asked), reviewer, goes_on=True), [], ""]

        return guarded(act, 6)

    return vote
