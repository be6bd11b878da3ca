"""The types of ASGI, the headers of a request, and a short answer; what every layer around the pages needs."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any

Scope = MutableMapping[str, Any]
AsgiMessage = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[AsgiMessage]]
Send = Callable[[AsgiMessage], Awaitable[None]]
AsgiApp = Callable[[Scope, Receive, Send], Awaitable[None]]
RawHeaders = Iterable[tuple[bytes, bytes]]


def header(scope: Scope, name: str) -> list[str]:
    """Every value that a request has for a header; most headers are sound with one only."""
    wanted = name.lower().encode()
    return [value.decode("latin-1").strip() for key, value in scope.get("headers", ()) if key.lower() == wanted]


def cookie(scope: Scope, name: str) -> str:
    """A cookie of the request, '' without it."""
    for line in header(scope, "cookie"):
        for part in line.split(";"):
            key, _, value = part.strip().partition("=")
            if key == name:
                return value
    return ""


async def answer(send: Send, status: int, body: str, kind: str = "text/plain", headers: RawHeaders = ()) -> None:
    """Answer with a short text that no cache keeps."""
    fixed = [(b"content-type", f"{kind}; charset=utf-8".encode()), (b"cache-control", b"no-store")]
    text = body.encode()
    length = (b"content-length", str(len(text)).encode())
    await send({"type": "http.response.start", "status": status, "headers": [*fixed, length, *headers]})
    await send({"type": "http.response.body", "body": text})
