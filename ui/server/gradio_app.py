"""The pages as one Gradio app, and serving it. Pages render themselves; Gradio only carries requests to them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import gradio as gr

from icr_platform.core.artifacts import text_digest
from ui.pages.inspector import Inspector
from ui.pages.shell import render_page
from ui.pages.table_of_pages import PAGES, Page
from ui.review.seeing import Viewer
from ui.server import auth, theme
from ui.server.agreement_controls import build_agreement_controls
from ui.server.asgi import AsgiApp, Scope, cookie, header
from ui.server.attempts import Attempts
from ui.server.disagreement_controls import build_disagreements
from ui.server.events import LOADING, MOVES, QUIET, REQUESTS, SIGN_OUT, address_of, asked_of, signed_in
from ui.server.guarded_app import GuardedApp, HeadAtOnce, KnownPages, token_in_pages
from ui.server.login import Login, PasswordChecks, Sessions
from ui.server.options import InspectOptions
from ui.server.review_controls import build_review
from ui.server.roles import Leads, leads_of
from ui.server.safe_headers import SafeHeaders
from ui.server.same_origin import SameOrigin, Sites
from ui.server.spot_check_controls import build_spot_check
from ui.server.write_tokens import WriteTokens

_BUS = "window.icrGo = (query) => trigger('submit', { query });"


def build(inspector: Inspector, options: InspectOptions, leads: Leads) -> gr.Blocks:
    """A route per page."""
    demo = gr.Blocks(title="ICR inspector", analytics_enabled=False, fill_width=True)
    has_login = bool(options.auth_file or options.user_header)
    leave = SIGN_OUT if options.auth_file else ""  # only the proxy can sign out whom it let in
    for page in PAGES:
        # Gradio's own main page stands for the first one.
        with demo if page.address == "" else demo.route(page.title, f"/{page.address}"):
            bus = gr.HTML("", elem_id="bus", js_on_load=_BUS, visible=True)
            if page.address == "spot-check":
                build_spot_check(demo, bus, inspector, page, has_login, leave)
            elif page.address == "disagreements":
                build_disagreements(demo, bus, inspector, page, has_login, leave, leads)
            else:
                _build_reading_page(demo, bus, inspector, page, leave, leads)
            if page.address == "agreement":
                build_agreement_controls(inspector, leads)
    with demo.route("Review", "/review", show_in_navbar=False):  # which only its links lead to
        bus = gr.HTML("", elem_id="bus", js_on_load=_BUS, visible=True)
        build_review(demo, bus, inspector, has_login, leave)
    demo.queue(default_concurrency_limit=REQUESTS)
    return demo


def _build_reading_page(
    demo: gr.Blocks, bus: gr.HTML, inspector: Inspector, page: Page, leave: str, leads: Leads
) -> None:
    """A page that only shows: rendered from its URL when it opens, and again whenever a link or a filter changes it."""
    body = gr.HTML(LOADING, js_on_load=None)

    def rendered(params: dict[str, str], request: gr.Request) -> str:
        viewer = Viewer(str(request.username or ""), leads.is_lead(request.username))
        return render_page(inspector, page, params, signed_in=signed_in(request, leave), viewer=viewer)

    def opened(request: gr.Request) -> str:
        return rendered(address_of(request), request)

    def moved(event: gr.EventData, request: gr.Request) -> str:
        return rendered(asked_of(event), request)

    demo.load(opened, None, body, **QUIET)
    bus.submit(moved, None, body, **MOVES)


def serve(inspector: Inspector, options: InspectOptions, block: bool = True) -> Any:
    """Serve until interrupted, or, not blocking, return Gradio's app, local address and None. Binds to 127.0.0.1 only.

    Raises:
        InputError: an option names no host, no user, or no file of users.
    """
    sites = Sites.of(options.public_host)
    is_proxied = bool(options.public_host or options.user_header)
    # Without a proxy nobody may say that another address is asking; uvicorn reads this when it is set up.
    os.environ["FORWARDED_ALLOW_IPS"] = "127.0.0.1" if is_proxied else ""
    demo = build(inspector, options, leads_of(options))
    pages = {f"/{address}" for address, *_ in demo.pages}
    tokens = WriteTokens()
    sessions = Sessions(f"icr-session-{text_digest(str(Path(options.auth_file).absolute()))[:8]}")

    def user_of(scope: Scope) -> str:
        if options.auth_file:
            return sessions.user(cookie(scope, sessions.name)) or ""
        # The proxy must set this header itself and drop what a browser sends.
        return next(iter(header(scope, options.user_header)), "") if options.user_header else ""

    checks = (
        PasswordChecks(auth.checker(auth.load_users(Path(options.auth_file))), Attempts())
        if options.auth_file
        else None
    )

    def around(app: AsgiApp) -> AsgiApp:
        known = KnownPages(app, {page.removeprefix("/") for page in pages})
        within = HeadAtOnce(Login(known, sessions, checks, pages) if checks else known)
        has_login = bool(options.auth_file or options.user_header)
        return SafeHeaders(SameOrigin(within, sites, tokens, {*pages, "/login"}, has_login, user_of))

    guarded = GuardedApp(
        around,
        auth_dependency=(lambda request: user_of(request.scope) or None) if checks or options.user_header else None,
        middleware=[token_in_pages(tokens, user_of, theme.asset("network.js"))],
    )
    return demo.launch(
        server_name="127.0.0.1",  # a proxy on this machine brings others in, with TLS
        server_port=options.port or None,
        _app=guarded,
        theme=theme.theme(),
        css=theme.style(),
        head=theme.head(),
        footer_links=[],
        share=False,  # no tunnel to Gradio's servers, whatever the environment says
        run_history=False,
        enable_monitoring=False,
        ssr_mode=False,  # would start Node
        quiet=True,
        show_error=False,
        max_file_size="1kb",  # nothing is uploaded here
        prevent_thread_lock=not block,
    )
