"""The frame of every page: navigation, the choice of run, iteration and language, and errors as one sentence."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple

from markupsafe import Markup

from icr_platform.core.errors import IcrError, InputError
from icr_platform.tracking.reader import RunRecord
from ui.html.rendering import message, render
from ui.pages import dead_ends
from ui.pages.inspector import Content, Focus, Inspector, Show
from ui.pages.keys import KEYS
from ui.pages.table_of_pages import PAGES, Page
from ui.review.seeing import NOBODY, Viewer
from ui.tables.runs import UnknownRunError
from ui.tables.view import parse_view

ASKS_AGAIN = "This page asks again by itself until it answers."
NO_RUNS = "There are no runs here yet. To make one, run"


class SignedIn(NamedTuple):
    """Who has logged in. leave: address that ends the login; '' where a proxy in front of the inspector knows who she is."""

    name: str
    leave: str


def render_page(
    inspector: Inspector,
    page: Page,
    params: Mapping[str, str],
    show: Show | None = None,
    signed_in: SignedIn | None = None,
    viewer: Viewer = NOBODY,
) -> str:
    """HTML of a whole page for the parameters of its URL. Never raises: what goes wrong is said in the page.

    Args:
        show: replaces the page's own, for a page that depends on more than its address (who is reviewing).
        viewer: who looks at it, and sees what she may see of others' verdicts.
    """
    view, problems = parse_view(params)
    content = Content(Markup(""), Markup(""))
    frame: dict[str, Any] = {"arms": [], "experiments": [], "offered": [], "asks_again": False}
    messages = [message(problem) for problem in problems]
    try:
        show = show or page.show
        if page.show_sides is not None:
            content = page.show_sides(inspector, view, viewer)
        elif show is not None:
            view, left_out = dead_ends.in_experiment(inspector, view)
            messages += [message(sentence) for sentence in left_out]
            frame["experiments"] = sorted(inspector.catalogue.experiments().values())
            frame["arms"] = [_arm_choice(run) for run in inspector.catalogue.arms(view.experiment)]
            focus = inspector.focus(view)
            if focus is None:
                messages.append(message(NO_RUNS, "icr iterate --config demo"))
            else:
                view, left_out = dead_ends.settled(inspector, focus)
                messages += [message(sentence) for sentence in left_out]
                focus = Focus(focus.arm, view, viewer)
                frame["current"] = _arm_choice(focus.arm.run)  # an older run than those listed is a choice, too
                if focus.arm.run.status != "FINISHED":
                    messages.append(
                        message(f"This run is {focus.arm.run.status.lower()}: the page shows what has finished.")
                    )
                content = show(inspector, focus)
        view = content.view or view
        messages += [message(sentence) for sentence in content.said]
    except UnknownRunError as error:
        messages.append(message(str(error), kind="error"))
        view = dead_ends.without_dead_run(view)
        frame["offered"] = [_arm_choice(run) for run in dead_ends.offered(inspector, error)]
    except InputError as error:
        messages.append(message(str(error), kind="error"))
    except IcrError as error:  # a store went away; what it holds is not lost
        messages.append(message(f"{error} {ASKS_AGAIN}".replace(".. ", ". "), kind="error"))
        frame["asks_again"] = True
    except Exception:  # noqa: BLE001 - a person gets a sentence, the terminal the traceback
        traceback.print_exc(file=sys.stderr)
        said = "Something went wrong in the inspector; the terminal that runs it says what. Nothing was lost."
        messages.append(message(said, kind="error"))
    frame |= {"keys": KEYS, "signed_in": signed_in}
    return render("shell", page=page.address, pages=PAGES, view=view, content=content, problems=messages, **frame)


def _arm_choice(run: RunRecord) -> tuple[str, str]:
    started = datetime.fromtimestamp(run.started, UTC).strftime("%Y-%m-%d %H:%M") if run.started else "?"
    status = "" if run.status == "FINISHED" else f" · {run.status.lower()}"
    return run.run_id, f"{run.tags.get('icr.arm', run.name)} · {started} UTC{status}"
