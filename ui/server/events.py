"""What Gradio's events bring from the browser, and what a handler answers when it fails."""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import parse_qsl

import gradio as gr

from icr_platform.core.errors import IcrError
from ui.html.rendering import message
from ui.pages.shell import SignedIn

LOADING = '<div class="icr"><p class="message loading" role="status">Loading …</p></div>'
REQUESTS = 16
"""Handled at once, per kind of event."""
QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private", "concurrency_limit": REQUESTS}
MOVES: dict[str, Any] = {**QUIET, "trigger_mode": "multiple"}
"""For events that show another view; the page sends one at a time, see inspector.js."""
SIGN_OUT = "/logout"
"""Gradio's address that ends a login."""


def address_of(request: gr.Request) -> dict[str, str]:
    """Parameters of the address that was opened."""
    return {str(key): str(value) for key, value in dict(request.query_params).items()}


def asked_of(event: gr.EventData) -> dict[str, str]:
    """Parameters of the address that a link or a filter on the page asks for."""
    query = getattr(event, "query", "")  # whatever a browser sent: it need not be text
    return parsed(query) if isinstance(query, str) else {}


def fields_of(event: gr.EventData) -> dict[str, str]:
    """Fields of the form that was sent."""
    try:
        sent = json.loads(getattr(event, "fields", ""))
        return {str(name): str(value) for name, value in sent.items()}
    except (ValueError, TypeError, AttributeError):  # whatever a browser sent
        return {}


def parsed(query: str | None) -> dict[str, str]:
    """Parameters of a query string, with or without its question mark."""
    return dict(parse_qsl((query or "").lstrip("?"), keep_blank_values=True))


def reviewer_of(request: gr.Request, typed: str | None) -> str:
    """The logged-in user; without a login, the name that she typed."""
    return str(request.username or typed or "").strip()


def signed_in(request: gr.Request, leave: str) -> SignedIn | None:
    """Who has logged in; None without a login. leave: as in `SignedIn`."""
    return SignedIn(str(request.username), leave) if request.username else None


def guarded(act: Callable[[], list[Any]], outputs: int) -> list[Any]:
    """The handler's outputs, or, when it fails, a sentence in the first one and all others left as they are."""
    try:
        return act()
    except Exception as error:  # noqa: BLE001 - a person gets a sentence, the terminal the traceback
        return _failed(error, outputs)


def guarded_steps(steps: Callable[[], Iterator[list[Any]]], outputs: int) -> Iterator[list[Any]]:
    """As `guarded`, of a handler that answers several times, as it goes on."""
    try:
        yield from steps()
    except Exception as error:  # noqa: BLE001 - as above
        yield _failed(error, outputs)


def _failed(error: Exception, outputs: int) -> list[Any]:
    said = str(error)
    if not isinstance(error, IcrError):
        traceback.print_exception(error, file=sys.stderr)
        said = "Something went wrong in the inspector; the terminal that runs it says what. Your verdict may not be saved: try again."
    return [str(message(said, kind="error")), *(gr.skip() for _ in range(outputs - 1))]
