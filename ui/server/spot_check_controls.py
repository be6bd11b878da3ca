"""Spot-check's buttons and fields, and what they do. The server remembers nothing: the page holds the item and the address."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple
from urllib.parse import urlencode

import gradio as gr

from ui.html.rendering import message
from ui.pages import spot_check
from ui.pages.inspector import Content, Focus, Inspector
from ui.pages.keys import CHOICE_KEYS, REASON_KEYS
from ui.pages.shell import SignedIn, render_page
from ui.pages.table_of_pages import Page
from ui.review import recording
from ui.review.items import Item, item_of
from ui.server.events import LOADING, MOVES, QUIET, address_of, asked_of, guarded, parsed, reviewer_of
from ui.tables.view import parse_view


class Controls(NamedTuple):
    """The page's components. token holds the item that is shown, query the address."""

    remembered: gr.BrowserState
    body: gr.HTML
    status: gr.HTML
    buttons: dict[str, gr.Button]
    back: gr.Button
    reasons: gr.CheckboxGroup
    note: gr.Textbox
    name: gr.Textbox
    token: gr.Textbox
    query: gr.Textbox


def controls(has_login: bool, folds: bool = False) -> Controls:
    """Item, five choices, undo, reasons, note and, without a login, a name. The table of keys finds them by their ids.

    folds: whether reasons and note are folded, with a button that shows them, see review.js.
    """
    remembered = gr.BrowserState("", storage_key="icr-reviewer", secret="icr")  # a name, no secret
    body = gr.HTML(LOADING, js_on_load=None)
    with gr.Column(elem_id="verdict-bar"):
        status = gr.HTML("", js_on_load=None, elem_id="verdict-status")
        with gr.Row(elem_id="choices"):
            buttons = {
                choice: gr.Button(
                    f"{title}  [{key}]",
                    elem_id=f"key-{key}",
                    variant="primary" if choice in ("left", "right") else "secondary",
                    size="md",
                )
                for choice, title, key in CHOICE_KEYS
            }
            back = gr.Button("Undo  [z]", elem_id="key-z", size="md")
            if folds:
                gr.Button("Reasons  [m]", elem_id="key-m", size="md")
        with gr.Row(elem_id="remarks"):
            named = [(f"{reason} [{key}]", reason) for reason, key in REASON_KEYS.items()]
            reasons = gr.CheckboxGroup(named, label="Reasons, if any", elem_id="reasons", scale=6)
            note = gr.Textbox(label="Note [n]", elem_id="key-n", lines=1, max_lines=4, scale=3)
            name = gr.Textbox(label="Your name", max_length=200, elem_id="reviewer", visible=not has_login, scale=2)
    token = gr.Textbox(visible="hidden", elem_id="token")
    query = gr.Textbox(visible="hidden", elem_id="query")
    return Controls(remembered, body, status, buttons, back, reasons, note, name, token, query)


def build_spot_check(
    demo: gr.Blocks, bus: gr.HTML, inspector: Inspector, page: Page, has_login: bool, leave: str
) -> None:
    """The page and its events: open, move, name, undo, and a verdict per choice. leave: as in `SignedIn`."""
    ui = controls(has_login)
    rendered = [ui.body, ui.token, ui.query]

    def shown(params: Mapping[str, str], reviewer: str, wanted: Item | None = None) -> list[Any]:
        tokens: list[str] = []

        def show(inspector: Inspector, focus: Focus) -> Content:
            offered = spot_check.offer(inspector, focus, reviewer, wanted)
            tokens.append(offered.token)
            return offered.content

        who = SignedIn(reviewer, leave) if has_login else None
        html = render_page(inspector, page, params, show, who)  # no token where the page shows an error instead
        return [html, tokens[0] if tokens else "", urlencode(params)]

    def opened(known: str, request: gr.Request) -> list[Any]:
        reviewer = reviewer_of(request, known)
        return [*shown(address_of(request), reviewer), reviewer]

    def moved(typed: str, event: gr.EventData, request: gr.Request) -> list[Any]:
        return shown(asked_of(event), reviewer_of(request, typed))

    def named(typed: str, known: str, asked: str, request: gr.Request) -> list[Any]:
        if typed.strip() == known:  # leaving the field: a rendering could overtake a verdict and show its item again
            return [gr.skip() for _ in range(4)]
        return [*shown(parsed(asked), reviewer_of(request, typed)), typed.strip()]

    def withdrawn(typed: str, token: str, asked: str, request: gr.Request) -> list[Any]:
        def act() -> list[Any]:
            params, reviewer = parsed(asked), reviewer_of(request, typed)
            focus = inspector.focus(parse_view(params).view)
            secret, run = inspector.links.secret, focus.arm.run.run_id if focus else ""
            found = recording.undo(inspector.verdicts, secret, reviewer, run, token) if run and reviewer else None
            if found is None:
                return [str(message("You have no verdict to undo.")), *(gr.skip() for _ in range(5))]
            said = str(message("Your last verdict was withdrawn; judge the item again."))
            return [said, *shown(params, reviewer, item_of(found)), list(found.reasons), found.note]

        return guarded(act, 6)

    demo.load(opened, ui.remembered, [*rendered, ui.name], **QUIET)
    bus.submit(moved, ui.name, rendered, **MOVES)
    gr.on(
        [ui.name.submit, ui.name.blur], named, [ui.name, ui.remembered, ui.query], [*rendered, ui.remembered], **QUIET
    )
    sent, replaced = [ui.name, ui.token, ui.query, ui.reasons, ui.note], [ui.status, *rendered, ui.reasons, ui.note]
    ui.back.click(withdrawn, sent[:3], replaced, trigger_mode="once", **QUIET)
    for choice, button in ui.buttons.items():
        # Public, so that the page's API can be driven by scripts; all other events belong to the page.
        named_event = {**QUIET, "api_visibility": "public", "api_name": f"verdict_{choice.replace('-', '_')}"}
        button.click(_voter(inspector, choice, shown), sent, replaced, trigger_mode="once", **named_event)


def _voter(inspector: Inspector, choice: str, shown: Callable[..., list[Any]]) -> Callable[..., list[Any]]:
    """What a choice's button does: store, then show the next item. On an error the item, reasons and note stay as they are."""

    def vote(typed: str, token: str, asked: str, reasons: list[str], note: str, request: gr.Request) -> list[Any]:
        def act() -> list[Any]:
            reviewer = reviewer_of(request, typed)
            found = recording.record(
                inspector, inspector.verdicts, inspector.links, reviewer, choice, token, reasons or [], note or ""
            )
            return [spot_check.revealed(found), *shown(parsed(asked), reviewer), [], ""]

        return guarded(act, 6)

    return vote
