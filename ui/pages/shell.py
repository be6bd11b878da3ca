"""The frame of every page: navigation, the choice of run, iteration and language, and errors as one sentence."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from markupsafe import Markup

from icr_platform.core.errors import IcrError
from icr_platform.tracking.reader import RunRecord
from ui.html.rendering import message, render
from ui.review.inspector import Content, Focus, Inspector
from ui.tables.view import View, parse_view

PAGES = {
    "": "Overview",
    "pairs": "Pairs",
    "margins": "Margins",
    "regressions": "Regressions",
    "spot-check": "Spot-check",
    "agreement": "Agreement",
}
Show = Callable[[Inspector, Focus], Content]
NO_RUNS = "There are no runs here yet."


def render_page(inspector: Inspector, page: str, show: Show, params: Mapping[str, str]) -> str:
    """HTML of a whole page for the parameters of its URL. Never raises: what goes wrong is said in the page."""
    view, problems = parse_view(params)
    content = Content(Markup(""), Markup(""))
    frame: dict[str, Any] = {"arms": [], "experiments": [], "iterations": [], "languages": []}
    errors: list[Markup] = []
    try:
        frame["experiments"] = sorted(inspector.catalogue.experiments().values())
        frame["arms"] = [_arm_choice(run) for run in inspector.catalogue.arms(view.experiment)]
        focus = inspector.focus(view)
        if focus is None:
            errors.append(message(NO_RUNS, "icr iterate --config demo"))
        else:
            view = focus.view
            frame |= _choices(focus)
            if focus.arm.run.status != "FINISHED":
                errors.append(message(f"This run is {focus.arm.run.status.lower()}: what has finished is shown."))
            content = show(inspector, focus)
    except IcrError as error:
        errors.append(message(str(error), kind="error"))
    except Exception:  # noqa: BLE001 - a person gets a sentence, the terminal the traceback
        traceback.print_exc(file=sys.stderr)
        errors.append(
            message(
                "Something went wrong in the inspector; the terminal that runs it says what. Nothing was lost.",
                kind="error",
            )
        )
    problems_shown = [message(problem) for problem in problems]
    return render(
        "shell", page=page, pages=PAGES, view=view, content=content, problems=problems_shown + errors, **frame
    )


def _choices(focus: Focus) -> dict[str, Any]:
    languages = focus.arm.languages()
    if focus.view.language and focus.view.language not in languages:
        languages.append(focus.view.language)
    arms = {"current": _arm_choice(focus.arm.run)}
    return {"iterations": [t.number for t in focus.arm.iterations], "languages": languages, **arms}


def _arm_choice(run: RunRecord) -> tuple[str, str]:
    started = datetime.fromtimestamp(run.started, UTC).strftime("%Y-%m-%d %H:%M") if run.started else "?"
    status = "" if run.status == "FINISHED" else f" · {run.status.lower()}"
    return run.run_id, f"{run.tags.get('icr.arm', run.name)} · {started} UTC{status}"


def kept_fields(view: View, shown: set[str]) -> list[tuple[str, str]]:
    """Fields of the view that the filter form does not show and must carry on: none of them is a place in a list."""
    return [
        (name, str(value))
        for name, value in vars(view).items()
        if name not in shown | {"id", "id_language", "start"} and value not in ("", None)
    ]
