"""Gradio's app with our layers around all of it, and the token for writing in each of its pages."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any
from urllib.parse import parse_qsl, urlencode

from gradio.routes import App, ORJSONResponse
from markupsafe import escape
from starlette.middleware import Middleware

from ui.server.asgi import AsgiApp, AsgiMessage, Receive, Scope, Send, answer
from ui.server.write_tokens import WriteTokens

_HEAD = b"<head>"


class GuardedApp(App):
    """Gradio adds its own layers outside those that it is given; `around` puts ours outside these, where nothing passes them by."""

    def __init__(self, around: Callable[[AsgiApp], AsgiApp], **settings: Any) -> None:
        self._around = around
        super().__init__(default_response_class=ORJSONResponse, docs_url=None, redoc_url=None, **settings)

    def build_middleware_stack(self) -> Any:
        """Starlette's stack, with ours around it."""
        return self._around(super().build_middleware_stack())


class HeadAtOnce:
    """Answers HEAD of the first page without rendering it.

    Gradio asks for it when it starts and gives up after three seconds, in which pages are not rendered where many ask for them already, as
    after a restart.
    """

    def __init__(self, app: AsgiApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or hand on."""
        if scope["type"] == "http" and scope["method"] == "HEAD" and scope["path"] == "/":
            await answer(send, 200, "", "text/html")
        else:
            await self.app(scope, receive, send)


class KnownPages:
    """Takes a page that there is not out of a query: Gradio, which reads `/?page=pairs` as `/pairs`, would fail on it."""

    def __init__(self, app: AsgiApp, pages: Collection[str]) -> None:
        self.app, self.pages = app, pages

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand on, with the query that is left."""
        if scope["type"] == "http" and scope["query_string"]:
            query = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
            known = [(name, value) for name, value in query if name != "page" or value in self.pages]
            if known != query:
                scope = {**scope, "query_string": urlencode(known).encode()}
        await self.app(scope, receive, send)


def token_in_pages(tokens: WriteTokens, bound_to: Callable[[Scope], str], script: str) -> Middleware:
    """The layer that writes into every page what its requests need: the token, and the script that sends it.

    Within Gradio's layers, where pages are not yet compressed.
    """
    return Middleware(_TokenInPages, tokens=tokens, bound_to=bound_to, script=script)


class _TokenInPages:
    def __init__(self, app: AsgiApp, tokens: WriteTokens, bound_to: Callable[[Scope], str], script: str) -> None:
        self.app, self.tokens, self.bound_to, self.script = app, tokens, bound_to, script

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start: AsgiMessage = {}
        body = b""

        async def send_with_token(message: AsgiMessage) -> None:
            nonlocal body
            if message["type"] == "http.response.start" and _is_html(message):
                start.update(message)
                return
            if not start:
                await send(message)
                return
            body += message.get("body", b"")
            if message.get("more_body"):
                return
            token = escape(self.tokens.issue(self.bound_to(scope)))
            added = f'<meta name="icr-token" content="{token}"><script>{self.script}</script>'.encode()
            whole = body.replace(_HEAD, _HEAD + added, 1)
            kept = [(k, v) for k, v in start["headers"] if k.lower() not in (b"content-length", b"cache-control")]
            own = [(b"content-length", str(len(whole)).encode()), (b"cache-control", b"private, no-cache")]
            await send({**start, "headers": [*kept, *own]})
            await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else whole})

        await self.app(scope, receive, send_with_token)


def _is_html(message: AsgiMessage) -> bool:
    return any(k.lower() == b"content-type" and v.startswith(b"text/html") for k, v in message.get("headers", ()))
