"""What Agreement does: export the verdicts, publish them to their run, make review links."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import urlencode

import gradio as gr

from icr_platform.core.errors import InputError
from ui.html.rendering import message
from ui.pages.agreement import verdicts_shown
from ui.pages.inspector import Focus, Inspector
from ui.review import exports
from ui.review.making_links import asked_link, make_link
from ui.server.events import MOVES, QUIET, asked_of, fields_of, guarded, parsed
from ui.server.publish_controls import build_publish_controls
from ui.server.roles import Leads
from ui.tables.view import parse_view

_MAKER = "window.icrMakeLink = (fields) => trigger('submit', { fields, query: window.location.search });"


def build_agreement_controls(inspector: Inspector, leads: Leads) -> None:
    """The buttons and what they do, publishing only for leads. The run is the one in the address, which the browser reads when a button is pressed."""
    place = gr.Textbox(visible="hidden", elem_id="place")
    with gr.Row(elem_id="agreement-bar"):
        export = gr.Button("Export verdicts (CSV, Parquet, TRL, labelled pairs)", elem_id="export")
        publish = gr.Button("Publish to the MLflow run ...", elem_id="publish")
    maker = gr.HTML("", elem_id="maker", js_on_load=_MAKER, visible=True)
    status = gr.HTML("", js_on_load=None, elem_id="agreement-status")
    files = gr.File(label="Exported files", file_count="multiple", visible=False, interactive=False, elem_id="exported")

    def focus_at(asked: str) -> Focus:
        focus = inspector.focus(parse_view(parsed(asked)).view)
        if focus is None:
            raise InputError("There are no runs here yet, so there are no verdicts.")
        return focus

    def exported(asked: str) -> list[Any]:
        def act() -> list[Any]:
            focus = focus_at(asked)
            found = exports.export(inspector, focus.arm, verdicts_shown(inspector, focus))
            return [str(message("The files are ready below.")), gr.update(value=found, visible=True)]

        return guarded(act, 2)

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

    def wire(button: gr.Button, handler: Callable[..., list[Any]], outputs: list[Any]) -> None:
        read_address = button.click(None, None, place, js="() => window.location.search", show_progress="hidden")
        read_address.then(handler, place, outputs, **QUIET)

    # The page is shown again, with the new link in its list.
    maker.submit(made, None, [status], **MOVES).then(None, None, None, js="() => window.icrGo(window.location.search)")
    wire(export, exported, [status, files])
    build_publish_controls(inspector, leads, publish, place)
