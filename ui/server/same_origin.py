"""Who is answered at all: the inspector's own pages and scripts without a browser, and no page of another site or port.

A browser says with every request where it comes from: Sec-Fetch-Site (over TLS and on this machine) and Origin (with whatever writes or
wants to read the answer across sites). Cookies do not help here: they are sent to every port of a host. What may come from elsewhere is a
link that a person follows to a page, because opening a page changes nothing and shows nothing to the page with the link.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass
from typing import NamedTuple
from urllib.parse import urlsplit

from icr_platform.core.errors import InputError
from ui.server.asgi import AsgiApp, Receive, Scope, Send, answer, header
from ui.server.write_tokens import TOKEN_ADDRESS, TOKEN_HEADER, WriteTokens

LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
"""Names of this machine. Their port may differ from the server's: an SSH tunnel has one of its own."""
SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
FORMS = ("/login", "/logout")
"""Plain forms, whose reader may have no token yet; the browser says with each where it comes from."""
_HOST = re.compile(r"(?P<name>\[[0-9a-f:.]+\]|[a-z0-9_.-]+)(?::(?P<port>[0-9]{1,5}))?", re.ASCII)
_PORTS = {"http": "80", "https": "443"}


class Refusal(NamedTuple):
    """status: of HTTP. why: one sentence with the fix."""

    status: int
    why: str


class _Place(NamedTuple):
    """scheme: '' in a Host header. port: '' for the scheme's own."""

    scheme: str
    name: str
    port: str


@dataclass(frozen=True)
class Sites:
    """The names under which the inspector is reached. public: host of the reverse proxy, with its port where that is not 443 or 80."""

    public: str = ""

    @classmethod
    def of(cls, public_host: str) -> Sites:
        """Sites of `--public-host`.

        Raises:
            InputError: it is not a host's name.
        """
        text = public_host.strip().lower()
        with suppress(UnicodeError):
            text = text.encode("idna").decode()  # as browsers write it
        if text and _place("", text) is None:
            raise InputError(
                f"icr inspect: --public-host {public_host!r} is not a host name; give the name that reviewers type, such as "
                "inspector.example.org or inspector.example.org:8443, without https:// and path"
            )
        return cls(text)

    def is_known(self, host: str) -> bool:
        """Whether a Host header names the inspector; any other is a name that someone else pointed at our port (DNS rebinding)."""
        place = _place("", host.lower())
        if place is None:
            return False
        public = _place("", self.public)
        if public is not None and place.name == public.name:
            return public.port in ("", place.port) or place.port in ("", *_PORTS.values())
        return place.name in LOOPBACK

    def is_own(self, origin: str, host: str, said_by_browser: bool) -> bool:
        """Whether a page of `origin` is the inspector's own, as it is reached under `host`.

        said_by_browser: Sec-Fetch-Site says that both are the same; then a proxy may have left the port out of Host, or replaced it.
        """
        page, here, public = _origin(origin), _place("", host.lower()), _place("", self.public)
        if page is None or here is None:
            return False
        if said_by_browser:
            return page.name in LOOPBACK or (public is not None and page.name == public.name)
        if public is not None and page.name == public.name:
            # The proxy may hand on a Host of its own: then it is the name it was told that counts.
            port = public.port or (here.port if here.name == public.name else "")
            return page.port == _without_default(page.scheme, port)
        return page.name == here.name and page.port == _without_default(page.scheme, here.port)


class SameOrigin:
    """ASGI middleware that lets the inspector's own pages, links to them, and scripts without a browser through.

    pages: paths that a link from elsewhere may open. has_login: whether the layers within ask who it is. bound_to: what a request's
    token for writing is bound to.
    """

    def __init__(
        self,
        app: AsgiApp,
        sites: Sites,
        tokens: WriteTokens,
        pages: Collection[str],
        has_login: bool,
        bound_to: Callable[[Scope], str],
    ) -> None:
        self.app, self.sites, self.tokens, self.pages = app, sites, tokens, frozenset(pages)
        self.has_login, self.bound_to = has_login, bound_to

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        refusal = self.refusal(scope)
        if refusal is None and scope["type"] == "http" and scope["path"] == TOKEN_ADDRESS:
            await answer(send, 200, self.tokens.as_json(self.bound_to(scope)), "application/json")
        elif refusal is None:
            # Gradio's own layer would let origins read that are not ours; without the header it adds nothing.
            headers = [(key, value) for key, value in scope["headers"] if key.lower() != b"origin"]
            # Not every proxy says that it speaks TLS; the browser does.
            is_tls = any(origin.lower().startswith("https:") for origin in header(scope, "origin"))
            scheme = {"scheme": "https"} if is_tls and scope["type"] == "http" else {}
            await self.app({**scope, "headers": headers, **scheme}, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008, "reason": refusal.why[:100]})
        else:
            needs = [(TOKEN_HEADER.encode(), b"needed")] if refusal is TOKEN_NEEDED else []
            await answer(send, refusal.status, refusal.why + "\n", headers=needs)

    def refusal(self, scope: Scope) -> Refusal | None:
        """Why a request is refused, None when it is not."""
        hosts, origins = header(scope, "host"), header(scope, "origin")
        fetch_sites = [value.lower() for value in header(scope, "sec-fetch-site")]
        if len(hosts) != 1 or not self.sites.is_known(hosts[0]):
            return Refusal(400, _unknown_host(hosts))
        if len(origins) > 1 or len(fetch_sites) > 1:
            return Refusal(400, "The request names several origins; a browser names one.")
        method = "GET" if scope["type"] == "websocket" else scope["method"]
        is_said_own = fetch_sites == ["same-origin"]
        is_own = not origins or self.sites.is_own(origins[0], hosts[0], is_said_own)
        # 'none' is what a person typed or has bookmarked.
        if (fetch_sites and fetch_sites[0] not in ("same-origin", "none")) or not is_own:
            is_link = scope["type"] == "http" and not origins and self._opens_page(scope, method)
            return None if is_link else Refusal(403, _elsewhere(origins))
        if method in SAFE_METHODS or scope["path"].rstrip("/") in FORMS:
            return None
        is_browser = bool(origins or fetch_sites or header(scope, "sec-fetch-mode"))
        if self.has_login and not is_browser:
            return None  # the login is asked for within, and no browser can leave out where it comes from
        sent = header(scope, TOKEN_HEADER)
        return None if len(sent) == 1 and self.tokens.is_valid(sent[0], self.bound_to(scope)) else TOKEN_NEEDED

    def _opens_page(self, scope: Scope, method: str) -> bool:
        modes, places = header(scope, "sec-fetch-mode"), header(scope, "sec-fetch-dest")
        is_whole_tab = modes in ([], ["navigate"]) and places in ([], ["document"])
        return method in ("GET", "HEAD") and is_whole_tab and (scope["path"].rstrip("/") or "/") in self.pages


TOKEN_NEEDED = Refusal(
    403,
    f"Nothing was changed: the request lacks a valid {TOKEN_HEADER}; load the page again, and in a script send the token that "
    f"{TOKEN_ADDRESS} answers as the header {TOKEN_HEADER}, or start the inspector with --auth-file and log in.",
)


def _place(scheme: str, text: str) -> _Place | None:
    match = _HOST.fullmatch(text)
    if match is None:
        return None
    return _Place(scheme, match["name"], _without_default(scheme, match["port"] or ""))


def _origin(text: str) -> _Place | None:
    """The place of an Origin header; None for 'null', which is what frames in a sandbox and local files say."""
    scheme, separator, rest = text.lower().partition("://")
    return _place(scheme, rest) if separator and scheme in _PORTS else None


def _without_default(scheme: str, port: str) -> str:
    return "" if port == _PORTS.get(scheme) else port


def _unknown_host(hosts: list[str]) -> str:
    named = _shown(hosts[0]) if len(hosts) == 1 else "none or several"
    return (
        f"This inspector is not known as host {named}; if a proxy serves it under that name, start it with "
        f"--public-host {named if len(hosts) == 1 else 'NAME'}."
    )


def _elsewhere(origins: list[str]) -> str:
    if not origins:
        return "The request comes from a page of another site, which may link to the inspector's pages and do nothing else."
    name = _shown(urlsplit(origins[0]).netloc if _origin(origins[0]) else origins[0])
    return (
        f"The request comes from a page of {name}, and this is another site; if reviewers open the inspector under that name, start it "
        f"with --public-host {name}."
    )


def _shown(text: str) -> str:
    """What a stranger sent, short and in plain characters."""
    return "".join(character if "!" <= character <= "~" else "?" for character in text[:100])
