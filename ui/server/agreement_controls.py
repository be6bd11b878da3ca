"""What Agreement does: export the verdicts, publish them to their run, make review links."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

import gradio as gr

from icr_platform.core.errors import InputError
from ui.html.rendering import message
from ui.pages.inspector import Focus, Inspector
from ui.review.making_links import asked_link, make_link
from ui.server.events import MOVES, asked_of, fields_of, guarded, parsed
from ui.server.export_controls import build_export_controls
from ui.server.publish_controls import build_publish_controls
from ui.server.roles import Leads
from ui.tables.view import parse_view

_MAKER = "window.icrMakeLink = (fields) => trigger('submit', { fields, query: window.location.search });"


def build_agreement_controls(inspector: Inspector, leads: Leads) -> None:
    """The buttons and what they do, publishing only for leads. The run is the one in the address, which the browser reads when a button is pressed."""
    place = gr.Textbox(visible="hidden", elem_id="place")
    with gr.Row(elem_id="agreement-bar"):
        export = gr.Button("Export verdicts ...", elem_id="export")
        publish = gr.Button("Publish to the MLflow run ...", elem_id="publish")
    maker = gr.HTML("", elem_id="maker", js_on_load=_MAKER, visible=True)
    status = gr.HTML("", js_on_load=None, elem_id="agreement-status")

    def focus_at(asked: str) -> Focus:
        focus = inspector.focus(parse_view(parsed(asked)).view)
        if focus is None:
            raise InputError("There are no runs here yet, so there are no verdicts.")
        return focus

    def made(event: gr.EventData, request: gr.Request) -> list[Any]:
        def act() -> list[Any]:
            leads.refuse_others(request.username, "Making review links")
            fields = fields_of(event)
            if not fields.get("gold", "").isdigit():  # no browser names files of this machine
                raise InputError(
                    "Gold pairs are a number here; `icr verdicts link --gold FILE` takes them from a file."
                )
            arm = focus_at(urlencode(asked_of(event))).arm
            link, notes = make_link(inspector, inspector.links, arm, asked_link(fields))
            said = [
                f"The link {link.id} is made; its address is in the list above.",
                *(f"Note: {note}." for note in notes),
            ]
            return [str(message(" ".join(said)))]

        return guarded(act, 1)

    # The page is shown again, with the new link in its list.
    maker.submit(made, None, [status], **MOVES).then(None, None, None, js="() => window.icrGo(window.location.search)")
    build_export_controls(inspector, leads, export, place)
    build_publish_controls(inspector, leads, publish, place)
