"""Exporting on Agreement: what to write, a button that writes it and says how far it is, and the files to take away. For leads alone."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import gradio as gr

from icr_platform.core.errors import InputError
from icr_platform.core.own_folders import own_folder
from ui.html.rendering import message
from ui.pages.inspector import Inspector
from ui.review.exported_votes import Step
from ui.review.exports import DEFAULT_FORMATS, Exported, ExportRequest, exporting
from ui.review.item_files import private
from ui.review.item_rows import RULES
from ui.review.reviewers import left_out_in, reviewer_key
from ui.server.events import QUIET, guarded_steps, parsed
from ui.server.roles import Leads
from ui.tables.view import View, parse_view

_FORMATS = [
    ("Items with texts (CSV, for spreadsheets)", "items"),
    ("All verdicts (CSV)", "csv"),
    ("All verdicts (Parquet)", "parquet"),
    ("Preferences for TRL", "trl"),
    ("Labelled pairs", "pairs"),
    ("Data set for Python (zip)", "datasets"),
    ("LLM Comparator", "llm-comparator"),
]
_RULES = [
    ("What most reviewers say", RULES[0]),
    ("A lead's answer where there is one, else what most say", RULES[1]),
    ("A row for each vote", RULES[2]),
]
_SAY_EVERY = 0.4


def build_export_controls(inspector: Inspector, leads: Leads, opens: gr.Button, place: gr.Textbox) -> None:
    """What stands below the page once `opens` is pressed. place: receives the address, from which the run and the language are read."""
    with gr.Column(visible=False, elem_id="export-form") as form:
        formats = gr.CheckboxGroup(_FORMATS, value=list(DEFAULT_FORMATS), label="Files", elem_id="export-formats")
        rule = gr.Radio(_RULES, value=RULES[0], label="Several votes on one item become", elem_id="export-rule")
        left_out = gr.Dropdown([], multiselect=True, label="Leave out reviewers", elem_id="export-left-out")
        names = gr.Checkbox(label="Write reviewers' own names instead of numbers", elem_id="export-names")
        with gr.Row():
            now = gr.Button("Export", variant="primary", elem_id="export-now")
            close = gr.Button("Close", elem_id="export-close")
    status = gr.HTML("", js_on_load=None, elem_id="export-status")
    files = gr.File(label="Exported files", file_count="multiple", visible=False, interactive=False, elem_id="exported")

    def opened(asked: str, request: gr.Request) -> Iterator[list[Any]]:
        def act() -> Iterator[list[Any]]:
            # Everyone's answers and what the run thinks: more than a reviewer may see of items that she has not judged.
            leads.refuse_others(request.username, "Exporting")
            run_id, view = _asked_at(inspector, asked)
            there, hidden = inspector.verdicts.reviewers(run_id), left_out_in(view.leave_out)
            without = [name for name in there if reviewer_key(name) in hidden]
            yield ["", gr.update(visible=True), gr.update(choices=there, value=without)]

        yield from guarded_steps(act, 3)

    def exported(
        asked: str, kinds: list[str], how: str, without: list[str], own: bool, request: gr.Request
    ) -> Iterator[list[Any]]:
        def act() -> Iterator[list[Any]]:
            leads.refuse_others(request.username, "Exporting")
            run_id, view = _asked_at(inspector, asked)
            chosen = ExportRequest(tuple(kinds), how, tuple(without), own, view.language)
            folder = Path(tempfile.mkdtemp(dir=own_folder("exports")))
            yield [str(message("The export begins …")), gr.update(visible=False)]
            found = yield from _said(exporting(inspector, inspector.verdicts, run_id, folder, chosen))
            said = " ".join(["The files are ready below.", *found.notes])
            yield [str(message(said)), gr.update(value=[_as_file(path) for path in found.files], visible=True)]

        yield from guarded_steps(act, 2)

    read_address = opens.click(None, None, place, js="() => window.location.search", show_progress="hidden")
    read_address.then(opened, place, [status, form, left_out], **QUIET)
    # The language may have been chosen since the form was opened.
    again = now.click(None, None, place, js="() => window.location.search", show_progress="hidden", trigger_mode="once")
    again.then(exported, [place, formats, rule, left_out, names], [status, files], **QUIET)
    close.click(lambda: [gr.update(visible=False), ""], None, [form, status], **QUIET)


def _asked_at(inspector: Inspector, asked: str) -> tuple[str, View]:
    """The run of an address, and all that it says."""
    focus = inspector.focus(parse_view(parsed(asked)).view)
    if focus is None:
        raise InputError("There are no runs here yet, so there are no verdicts.")
    return focus.arm.run.run_id, focus.view


def _said(steps: Generator[Step, None, Exported]) -> Generator[list[Any], None, Exported]:
    """Answers that say how far an export is; its result."""
    last = time.monotonic()
    while True:
        try:
            step = next(steps)
        except StopIteration as end:
            found: Exported = end.value
            return found
        if time.monotonic() - last > _SAY_EVERY:
            last = time.monotonic()
            yield [str(message(f"{step.label.capitalize()}: {step.done:,} of {step.total:,} …")), gr.skip()]


def _as_file(path: Path) -> str:
    """A file to take away: of a folder, the archive."""
    if not path.is_dir():
        return str(path)
    private(path.with_suffix(".zip"))
    return shutil.make_archive(str(path), "zip", path.parent, path.name)
