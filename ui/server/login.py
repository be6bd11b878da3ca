"""Logging in: a page with a form, sessions in a signed cookie, passwords checked off the event loop and not too often.

Gradio's own login checks passwords on the event loop, where thirty of them keep everyone waiting for seconds, and its cookie is one that
other sites' requests carry.
"""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple
from urllib.parse import quote

from itsdangerous import BadSignature, URLSafeTimedSerializer
from starlette.requests import Request

from ui.html.rendering import render
from ui.server.asgi import AsgiApp, AsgiMessage, RawHeaders, Receive, Scope, Send, answer, cookie, header
from ui.server.attempts import Attempts, wait_sentence

_SESSION_SECONDS = 30 * 24 * 3600
_LONGEST_FORM = 16_384
_LONGEST_NAME = 200
_MOST_WAITING = 40
"""Passwords that wait for their check; each takes a tenth of a second."""
WRONG = "Name or password is wrong."
_BUSY = "Too many people are logging in at this moment: try again in a minute."


class Sessions:
    """Who is logged in, by cookie. name: of the cookie, which other inspectors on this host do not share."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._signer = URLSafeTimedSerializer(secrets.token_bytes(32), salt="icr-session")
        self._ended: set[str] = set()

    def begin(self, user: str) -> str:
        """Value of a new session's cookie."""
        return str(self._signer.dumps([user, secrets.token_urlsafe(12)]))

    def end(self, value: str) -> None:
        """From now on the cookie is worth nothing, wherever there is a copy of it."""
        if found := self._read(value):
            self._ended.add(found[1])

    def user(self, value: str) -> str | None:
        """Whose session a cookie is, None when it is nobody's."""
        found = self._read(value)
        return None if found is None or found[1] in self._ended else found[0]

    def _read(self, value: str) -> tuple[str, str] | None:
        try:
            user, number = self._signer.loads(value, max_age=_SESSION_SECONDS)
            return str(user), str(number)
        except (BadSignature, ValueError, TypeError):
            return None


class Tried(NamedTuple):
    """What became of a login. status: of HTTP."""

    status: int
    said: str


class PasswordChecks:
    """Checks passwords one at a time in a thread of its own, so that pages are served meanwhile."""

    def __init__(self, is_welcome: Callable[[str, str], bool], attempts: Attempts) -> None:
        self._is_welcome, self._attempts = is_welcome, attempts
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="icr-passwords")
        self._waiting = 0

    async def check(self, name: str, password: str, address: str) -> Tried:
        """200, or why not: 400 for a wrong password, 429 after too many, 503 when too many wait."""
        if not name or len(name) > _LONGEST_NAME:
            return Tried(400, WRONG)
        attempt = self._attempts.begin(name, address)
        if attempt.wait:
            return Tried(429, wait_sentence(attempt.wait))
        if self._waiting >= _MOST_WAITING:
            return Tried(503, _BUSY)
        self._waiting += 1
        try:
            is_right = await asyncio.get_running_loop().run_in_executor(self._thread, self._is_welcome, name, password)
        finally:
            self._waiting -= 1
        if not is_right:
            return Tried(400, WRONG)
        self._attempts.succeeded(attempt)
        return Tried(200, "")


class Login:
    """ASGI middleware: /login and /logout, both by POST, and the login page in place of a page whose reader has not logged in."""

    def __init__(self, app: AsgiApp, sessions: Sessions, checks: PasswordChecks, pages: Collection[str]) -> None:
        self.app, self.sessions, self.checks, self.pages = app, sessions, checks, frozenset(pages)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = (scope["path"].rstrip("/") or "/") if scope["type"] == "http" else None
        value = cookie(scope, self.sessions.name) if path else ""
        if path == "/login" and scope["method"] == "POST":
            await self._log_in(scope, receive, send)
        elif path == "/logout" and scope["method"] == "POST":  # a link of another site must not do it
            self.sessions.end(value)
            await answer(send, 303, "", headers=[(b"location", b"/login"), self._cookie(scope, "", "; Max-Age=0")])
        elif path == "/login":
            await answer(send, 200, login_page("/", ""), "text/html")
        elif path == "/logout":
            await answer(send, 200, render("logout", user=self.sessions.user(value) or ""), "text/html")
        elif path in self.pages and self.sessions.user(value) is None:
            query = scope["query_string"].decode("latin-1")
            await answer(send, 200, login_page(f"{quote(scope['path'])}{'?' if query else ''}{query}", ""), "text/html")
        else:
            await self.app(scope, receive, send)

    async def _log_in(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = await _form(receive)
        if body is None:
            await answer(send, 413, "A login is short.\n")
            return

        async def replay() -> AsgiMessage:
            return {"type": "http.request", "body": body}

        async with Request(scope, replay).form(max_files=0) as form:
            name, password, wanted = (str(form.get(key, "")) for key in ("username", "password", "next"))
        name, place = name.strip(), _own_address(wanted)
        client = scope.get("client")
        tried = await self.checks.check(name, password, client[0] if client else "")
        is_person = any("text/html" in accepted for accepted in header(scope, "accept"))
        headers: RawHeaders = [self._cookie(scope, self.sessions.begin(name))] if tried.status == 200 else []
        if not is_person:
            told = {"success": True} if tried.status == 200 else {"detail": tried.said}
            await answer(send, tried.status, json.dumps(told), "application/json", headers)
        elif tried.status == 200:
            await answer(send, 303, "", headers=[(b"location", place.encode()), *headers])
        else:
            await answer(send, tried.status, login_page(place, tried.said, name), "text/html")

    def _cookie(self, scope: Scope, value: str, more: str = "") -> tuple[bytes, bytes]:
        secure = "; Secure" if scope.get("scheme") == "https" else ""
        return b"set-cookie", f"{self.sessions.name}={value}; Path=/; HttpOnly; SameSite=Lax{secure}{more}".encode()


def login_page(place: str, problem: str, name: str = "") -> str:
    """HTML of the form. place: address that opens after it."""
    return render("login", place=place, problem=problem, name=name)


async def _form(receive: Receive) -> bytes | None:
    """The body of a request, None when it is longer than any login."""
    body, more = b"", True
    while more:
        message = await receive()
        if message["type"] != "http.request":
            return None
        body += message.get("body", b"")
        more = message.get("more_body", False)
        if len(body) > _LONGEST_FORM:
            return None
    return body


def _own_address(wanted: str) -> str:
    """The address to go on to: one of the inspector's, whatever the form said.

    >>> _own_address("/pairs?language=es"), _own_address("//elsewhere.example"), _own_address("/\\\\elsewhere.example")
    ('/pairs?language=es', '/', '/')
    """
    path, _, query = wanted.partition("?")
    is_own = path.startswith("/") and not path.startswith(("//", "/\\")) and path.isprintable()
    return quote(path, safe="/%") + (f"?{quote(query, safe='=&%+/:,*!@-._~')}" if query else "") if is_own else "/"
