"""Gradio: routes, controls, events, login. Pages render themselves; this module only carries requests to them."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, urlencode

import gradio as gr
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware

from icr_platform.core.errors import IcrError
from ui.html.rendering import message
from ui.pages import agreement, margins, overview, pairs, regressions, spot_check
from ui.pages.shell import PAGES, Show, render_page
from ui.review import recording
from ui.review.inspector import Focus, Inspector
from ui.review.items import Item
from ui.review.verdicts import REASONS
from ui.server import auth, theme
from ui.server.options import InspectOptions
from ui.server.safe_headers import SafeHeaders, allowed_hosts
from ui.tables.view import parse_view

READING = {
    "": overview.show,
    "pairs": pairs.show,
    "margins": margins.show,
    "regressions": regressions.show,
    "agreement": agreement.show,
}
_REQUESTS = 16  # at once, per kind of event
_QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private", "concurrency_limit": _REQUESTS}
_MOVES: dict[str, Any] = {**_QUIET, "trigger_mode": "multiple"}  # the page sends one at a time; see inspector.js
_BUS = "window.icrGo = (query) => trigger('submit', { query });"
_LOADING = '<div class="icr"><p class="message loading" role="status">Loading …</p></div>'
_UNEXPECTED = "Something went wrong in the inspector; the terminal that runs it says what. Your verdict may not be saved: try again."


def build(inspector: Inspector, options: InspectOptions) -> gr.Blocks:
    """All pages as one Gradio app."""
    demo = gr.Blocks(title="ICR inspector", analytics_enabled=False, fill_width=True)
    for name, title in PAGES.items():
        with demo if name == "" else demo.route(title, f"/{name}"):
            bus = gr.HTML("", elem_id="bus", js_on_load=_BUS, visible=True)
            if name == "spot-check":
                _spot_check(demo, bus, inspector, options)
            else:
                body = _reading(demo, bus, inspector, name, READING[name])
                if name == "agreement":
                    _agreement_controls(inspector, body)
    demo.queue(default_concurrency_limit=_REQUESTS)
    return demo


def _reading(demo: gr.Blocks, bus: gr.HTML, inspector: Inspector, name: str, show: Show) -> gr.HTML:
    """A page that only shows: rendered from its URL when it opens, and again whenever a link or a filter changes it."""
    body = gr.HTML(_LOADING, js_on_load=None)

    def opened(request: gr.Request) -> str:
        return render_page(inspector, name, show, _params(request))

    def moved(event: gr.EventData) -> str:
        return render_page(inspector, name, show, _query(event))

    demo.load(opened, None, body, **_QUIET)
    bus.submit(moved, None, body, **_MOVES)
    return body


def _params(request: gr.Request) -> dict[str, str]:
    return {str(key): str(value) for key, value in dict(request.query_params).items()}


def _query(event: gr.EventData) -> dict[str, str]:
    query = getattr(event, "query", "")
    return dict(parse_qsl(str(query).lstrip("?"), keep_blank_values=True)) if isinstance(query, str) else {}


class _Controls(NamedTuple):
    """Spot-check's components. token holds the item shown, query the address: the server keeps nothing between requests."""

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

    @property
    def page(self) -> list[Any]:
        """What every rendering replaces."""
        return [self.body, self.token, self.query]


def _controls(has_login: bool) -> _Controls:
    """Item, five choices, undo, reasons, note and, without a login, a name."""
    remembered = gr.BrowserState("", storage_key="icr-reviewer", secret="icr")  # a name, no secret
    body = gr.HTML(_LOADING, js_on_load=None)
    with gr.Column(elem_id="verdict-bar"):
        status = gr.HTML("", js_on_load=None)
        with gr.Row(elem_id="choices"):
            buttons = {choice: _choice_button(title, key) for choice, title, key in spot_check.CHOICE_KEYS}
            back = gr.Button("Undo  [z]", elem_id="key-z", size="md")
        with gr.Row(elem_id="remarks"):
            keys = "Reasons, if any [q w e r t y u i]"
            reasons = gr.CheckboxGroup(list(REASONS), label=keys, elem_id="reasons", scale=6)
            note = gr.Textbox(label="Note [n]", elem_id="key-n", lines=1, max_lines=4, scale=3)
            name = gr.Textbox(label="Your name", max_length=200, elem_id="reviewer", visible=not has_login, scale=2)
    token = gr.Textbox(visible="hidden", elem_id="token")
    query = gr.Textbox(visible="hidden", elem_id="query")
    return _Controls(remembered, body, status, buttons, back, reasons, note, name, token, query)


def _choice_button(title: str, key: str) -> gr.Button:
    is_main = key in "12"
    return gr.Button(
        f"{title}  [{key}]", elem_id=f"key-{key}", variant="primary" if is_main else "secondary", size="md"
    )


def _spot_check(demo: gr.Blocks, bus: gr.HTML, inspector: Inspector, options: InspectOptions) -> None:
    """The events of Spot-check."""
    ui = _controls(has_login=bool(options.auth_file or options.user_header))

    def shown(params: Mapping[str, str], reviewer: str, wanted: Item | None = None) -> list[Any]:
        show, tokens = spot_check.show_with(reviewer, wanted)
        html = render_page(inspector, "spot-check", show, params)
        return [html, tokens[0] if tokens else "", urlencode(params)]

    def opened(known: str, request: gr.Request) -> list[Any]:
        reviewer = _reviewer(request, known)
        return [*shown(_params(request), reviewer), reviewer]

    def moved(typed: str, event: gr.EventData, request: gr.Request) -> list[Any]:
        return shown(_query(event), _reviewer(request, typed))

    def named(typed: str, known: str, asked: str, request: gr.Request) -> list[Any]:
        if typed.strip() == known:  # leaving the field: a rendering could overtake a verdict and show its item again
            return [gr.skip() for _ in range(4)]
        return [*shown(_split(asked), _reviewer(request, typed)), typed.strip()]

    def withdrawn(typed: str, asked: str, request: gr.Request) -> list[Any]:
        return _guarded(lambda: _undone(inspector, _reviewer(request, typed), asked, shown), 4)

    demo.load(opened, ui.remembered, [*ui.page, ui.name], **_QUIET)
    bus.submit(moved, ui.name, ui.page, **_MOVES)
    gr.on(
        [ui.name.submit, ui.name.blur], named, [ui.name, ui.remembered, ui.query], [*ui.page, ui.remembered], **_QUIET
    )
    ui.back.click(withdrawn, [ui.name, ui.query], [ui.status, *ui.page], **_QUIET)
    sent, replaced = [ui.name, ui.token, ui.query, ui.reasons, ui.note], [ui.status, *ui.page, ui.reasons, ui.note]
    for choice, button in ui.buttons.items():
        named_event = {**_QUIET, "api_visibility": "public", "api_name": f"verdict_{choice.replace('-', '_')}"}
        button.click(_voter(inspector, choice, shown), sent, replaced, trigger_mode="once", **named_event)


def _voter(inspector: Inspector, choice: str, shown: Callable[..., list[Any]]) -> Callable[..., list[Any]]:
    """What a choice's button does: store, then show the next item. On an error the item, reasons and note stay as they are."""

    def vote(typed: str, token: str, asked: str, reasons: list[str], note: str, request: gr.Request) -> list[Any]:
        def act() -> list[Any]:
            reviewer = _reviewer(request, typed)
            found = recording.record(inspector, reviewer, choice, token, reasons or [], note or "")
            return [spot_check.revealed(found), *shown(_split(asked), reviewer), [], ""]

        return _guarded(act, 6)

    return vote


def _undone(inspector: Inspector, reviewer: str, asked: str, shown: Callable[..., list[Any]]) -> list[Any]:
    params = _split(asked)
    focus = _focus(inspector, params)
    item = recording.undo(inspector, reviewer, focus.arm.run.run_id) if focus and reviewer.strip() else None
    said = "Your last verdict is withdrawn; judge it again." if item else "There is no verdict of yours to undo."
    return [str(message(said)), *shown(params, reviewer, item)]


def _focus(inspector: Inspector, params: Mapping[str, str]) -> Focus | None:
    return inspector.focus(parse_view(params).view)


def _guarded(act: Callable[[], list[Any]], outputs: int) -> list[Any]:
    """The handler's outputs, or a sentence in the first one and all others left as they are."""
    try:
        return act()
    except IcrError as error:
        said = str(error)
    except Exception:  # noqa: BLE001 - a person gets a sentence, the terminal the traceback
        traceback.print_exc(file=sys.stderr)
        said = _UNEXPECTED
    return [str(message(said, kind="error")), *(gr.skip() for _ in range(outputs - 1))]


def _reviewer(request: gr.Request, typed: str | None) -> str:
    """The logged-in user; without a login, the name she typed."""
    return str(request.username or typed or "").strip()


def _split(query: str | None) -> dict[str, str]:
    return dict(parse_qsl(query or "", keep_blank_values=True))


def _agreement_controls(inspector: Inspector, body: gr.HTML) -> None:
    """Export and publish, below the page. The run is the one in the address."""
    place = gr.Textbox(visible="hidden", elem_id="place")
    with gr.Row(elem_id="agreement-bar"):
        export = gr.Button("Export verdicts (CSV, Parquet, TRL)", elem_id="export")
        publish = gr.Button("Publish to the MLflow run", elem_id="publish")
    status = gr.HTML("", js_on_load=None, elem_id="agreement-status")
    files = gr.File(label="Exported files", file_count="multiple", visible=False, interactive=False, elem_id="exported")
    read_address = "() => window.location.search"

    def exported(asked: str) -> list[Any]:
        def act() -> list[Any]:
            focus = _focus(inspector, _split(asked.lstrip("?")))
            found = agreement.export(inspector, focus) if focus else []
            return [str(message("The files are ready below.")), gr.update(value=found, visible=True)]

        return _guarded(act, 2)

    def published(asked: str) -> list[Any]:
        def act() -> list[Any]:
            focus = _focus(inspector, _split(asked.lstrip("?")))
            count = agreement.publish(inspector, focus.arm.run.run_id) if focus else 0
            return [
                str(
                    message(
                        f"{count} verdicts are published to the run as table 'verdicts', with their agreement as metrics."
                    )
                )
            ]

        return _guarded(act, 1)

    export.click(None, None, place, js=read_address, show_progress="hidden").then(
        exported, place, [status, files], **_QUIET
    )
    publish.click(None, None, place, js=read_address, show_progress="hidden").then(published, place, [status], **_QUIET)


def serve(inspector: Inspector, options: InspectOptions, block: bool = True) -> Any:
    """Serve until interrupted, or, not blocking, return Gradio's app, local address and None. Binds to 127.0.0.1 only."""
    demo = build(inspector, options)
    is_proxied = bool(options.user_header)
    return demo.launch(
        server_name="127.0.0.1",
        server_port=options.port or None,
        auth=auth.checker(Path(options.auth_file)) if options.auth_file else None,
        auth_dependency=(lambda request: request.headers.get(options.user_header) or None) if is_proxied else None,
        app_kwargs={
            "middleware": [
                Middleware(TrustedHostMiddleware, allowed_hosts=allowed_hosts(options.public_host)),
                Middleware(SafeHeaders),
            ],
            "docs_url": None,
            "redoc_url": None,
        },
        theme=theme.theme(),
        css=theme.style(),
        head=theme.head(),
        footer_links=[],
        share=False,
        run_history=False,
        enable_monitoring=False,
        ssr_mode=False,
        quiet=True,
        show_error=False,
        max_file_size="1kb",
        prevent_thread_lock=not block,
    )
