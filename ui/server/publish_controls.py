"""Publishing on Agreement: a preview of what will be published, then a second button that publishes exactly that. For leads alone."""

from __future__ import annotations

from typing import Any

import gradio as gr

from ui.html.rendering import message, render
from ui.pages.inspector import Inspector
from ui.review.publishing import Publication, publication, publish
from ui.review.reviewers import left_out_in, reviewer_key
from ui.server.events import QUIET, guarded, parsed
from ui.server.roles import Leads
from ui.tables.view import parse_view

NO_RUN = "There are no runs here yet, so there are no verdicts."


def build_publish_controls(inspector: Inspector, leads: Leads, opens: gr.Button, place: gr.Textbox) -> None:
    """What stands below the page once `opens` is pressed. place: receives the address, from which the run is read."""
    status = gr.HTML("", js_on_load=None, elem_id="publish-status")
    preview = gr.HTML("", js_on_load=None, visible=False, elem_id="publish-preview")
    names = gr.Checkbox(label="Publish reviewers' own names instead of numbers", visible=False, elem_id="publish-names")
    with gr.Row(visible=False, elem_id="publish-bar") as bar:
        now = gr.Button("Publish this", variant="primary", elem_id="publish-now")
        cancel = gr.Button("Do not publish", elem_id="publish-cancel")
    version = gr.Textbox(visible="hidden", elem_id="publish-version")
    parts = [status, preview, names, bar, version]

    def found_at(asked: str, has_names: bool, request: gr.Request) -> Publication | None:
        leads.refuse_others(request.username, "Publishing")
        view = parse_view(parsed(asked)).view
        focus = inspector.focus(view)
        if focus is None:
            return None
        run_id, left_out = focus.arm.run.run_id, left_out_in(view.leave_out)
        there = {reviewer_key(name) for name in inspector.verdicts.reviewers(run_id)}  # an address may outlive its run
        return publication(inspector, inspector.verdicts, run_id, has_names, left_out & there)

    def shown(found: Publication | None, is_changed: bool = False) -> list[Any]:
        if found is None:
            return [str(message(NO_RUN)), *closed()]
        html = render("publication", found=found, is_changed=is_changed)
        is_there = gr.update(visible=True)
        return ["", gr.update(value=html, visible=True), is_there, is_there, found.version]

    def closed() -> list[Any]:
        gone = gr.update(visible=False)
        return [gone, gone, gone, ""]

    def previewed(asked: str, has_names: bool, request: gr.Request) -> list[Any]:
        return guarded(lambda: shown(found_at(asked, has_names, request)), len(parts))

    def published(asked: str, has_names: bool, seen: str, request: gr.Request) -> list[Any]:
        def act() -> list[Any]:
            found = found_at(asked, has_names, request)
            if found is None or found.version != seen:
                return shown(found, is_changed=True)
            rows = publish(inspector, found)
            said = f"{rows} verdicts are published to the run as table 'verdicts', with their agreement as metrics."
            return [str(message(said)), *closed()]

        return guarded(act, len(parts))

    read_address = opens.click(None, None, place, js="() => window.location.search", show_progress="hidden")
    read_address.then(previewed, [place, names], parts, **QUIET)
    names.input(previewed, [place, names], parts, **QUIET)
    now.click(published, [place, names, version], parts, trigger_mode="once", **QUIET)
    cancel.click(lambda: ["", *closed()], None, parts, **QUIET)
