"""Who is answered: requests as browsers, proxies and scripts send them, against a table of what each may do."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from icr_platform.core.errors import InputError
from ui.server.asgi import AsgiMessage, Receive, Scope, Send, answer
from ui.server.guarded_app import HeadAtOnce, KnownPages
from ui.server.safe_headers import SafeHeaders
from ui.server.same_origin import SameOrigin, Sites
from ui.server.write_tokens import TOKEN_ADDRESS, TOKEN_HEADER, WriteTokens

HERE = "127.0.0.1:7860"
OWN = f"http://{HERE}"
PUBLIC = "inspector.example.org"
PAGES = ("/", "/pairs", "/spot-check", "/login")
JOIN, FILE = "/gradio_api/queue/join", "/gradio_api/file=/tmp/verdicts.csv"
PASSED = 0


async def _within(scope: Scope, receive: Receive, send: Send) -> None:
    """Stands for Gradio: says whether it was told the origin, which its own layer would let read."""
    if scope["type"] == "websocket":
        await send({"type": "websocket.accept"})
        return
    has_origin = any(key == b"origin" for key, _ in scope["headers"])
    await answer(send, 200, "origin" if has_origin else "served")


TOKENS = WriteTokens()


def asked(
    headers: dict[str, Any],
    path: str = "/",
    method: str = "GET",
    public: str = "",
    has_login: bool = False,
    kind: str = "http",
) -> tuple[int, dict[str, str], str]:
    """Status (0 for what got through), headers and text of the answer. A header may have a list of values."""
    pairs = [
        (name.lower().encode(), value.encode("latin-1"))
        for name, values in headers.items()
        for value in (values if isinstance(values, list) else [values])
    ]
    scope: Scope = {
        "type": kind,
        "method": method,
        "path": path,
        "query_string": b"",
        "headers": pairs,
        "scheme": "http",
    }
    sent: list[AsgiMessage] = []

    async def receive() -> AsgiMessage:
        return {"type": "http.request", "body": b""}

    async def send(message: AsgiMessage) -> None:
        sent.append(message)

    app = SafeHeaders(SameOrigin(_within, Sites.of(public), TOKENS, PAGES, has_login, lambda scope: "mira"))
    asyncio.run(app(scope, receive, send))
    if kind == "websocket":
        return (PASSED if sent[0]["type"] == "websocket.accept" else 403), {}, ""
    found = {key.decode(): value.decode() for key, value in sent[0]["headers"]}
    text = b"".join(message.get("body", b"") for message in sent[1:]).decode()
    return (PASSED if text in ("served", "origin") else sent[0]["status"]), found, text


def browser(site: str, mode: str = "cors", dest: str = "empty", origin: str = "", host: str = HERE) -> dict[str, str]:
    found = {"Host": host, "Sec-Fetch-Site": site, "Sec-Fetch-Mode": mode, "Sec-Fetch-Dest": dest}
    return {**found, "Origin": origin} if origin else found


EVIL, PORT = "https://evil.test", "http://127.0.0.1:8000"
# What a page of another site or port can make a browser send. Wherever TLS is missing browsers leave Sec-Fetch-* out.
ELSEWHERE: dict[str, tuple[dict[str, Any], str, str]] = {
    "fetch with credentials": (browser("cross-site", origin=EVIL), "/config", "GET"),
    "fetch, another port of this machine": (browser("same-site", origin=PORT), "/config", "GET"),
    "fetch, localhost to 127.0.0.1": (browser("cross-site", origin="http://localhost:7860"), "/config", "GET"),
    "fetch without cors": (browser("cross-site", "no-cors"), FILE, "GET"),
    "fetch of a page": (browser("cross-site", "no-cors"), "/pairs", "GET"),
    "fetch of a page, readable": (browser("cross-site", origin=EVIL), "/pairs", "GET"),
    "preflight": ({**browser("cross-site", origin=EVIL), "Access-Control-Request-Method": "POST"}, JOIN, "OPTIONS"),
    "preflight without Sec-Fetch": ({"Host": HERE, "Origin": PORT, "Access-Control-Request-Method": "POST"}, JOIN, "OPTIONS"),
    "script element": (browser("cross-site", "no-cors", "script"), "/config", "GET"),
    "image of a file": (browser("same-site", "no-cors", "image"), FILE, "GET"),
    "image that logs out": (browser("same-site", "no-cors", "image"), "/logout", "GET"),
    "style sheet": (browser("cross-site", "no-cors", "style"), "/theme.css", "GET"),
    "frame": (browser("cross-site", "navigate", "iframe"), "/pairs", "GET"),
    "frame of another port": (browser("same-site", "navigate", "iframe"), "/", "GET"),
    "object element": (browser("cross-site", "navigate", "object"), "/", "GET"),
    "form": (browser("cross-site", "navigate", "document", EVIL), JOIN, "POST"),
    "form of another port": (browser("same-site", "navigate", "document", PORT), "/gradio_api/call/verdict_left", "POST"),
    "form to a page": (browser("cross-site", "navigate", "document", EVIL), "/", "POST"),
    "form that logs in": (browser("cross-site", "navigate", "document", EVIL), "/login", "POST"),
    "form that logs out": (browser("same-site", "navigate", "document", PORT), "/logout", "POST"),
    "form of a sandbox": (browser("cross-site", "navigate", "document", "null"), JOIN, "POST"),
    "link to a file": (browser("cross-site", "navigate", "document"), FILE, "GET"),
    "link that logs out": (browser("cross-site", "navigate", "document"), "/logout", "GET"),
    "link to the configuration": (browser("same-site", "navigate", "document"), "/config", "GET"),
    "event stream": (browser("same-site", "cors", "empty", PORT), "/gradio_api/queue/data", "GET"),
    "event stream without cors": (browser("same-site", "no-cors"), "/gradio_api/heartbeat/x", "GET"),
    "token": (browser("same-site", origin=PORT), TOKEN_ADDRESS, "GET"),
    "upload": (browser("cross-site", "no-cors", origin=EVIL), "/gradio_api/upload", "POST"),
    "beacon": (browser("cross-site", "no-cors", origin=EVIL), "/gradio_api/run/verdict_left", "POST"),
    "ping of a link": (browser("cross-site", "no-cors", origin=EVIL), JOIN, "POST"),
    "delete": (browser("same-site", origin=PORT), JOIN, "DELETE"),
    "no Sec-Fetch: read": ({"Host": HERE, "Origin": PORT}, "/config", "GET"),
    "no Sec-Fetch: write": ({"Host": HERE, "Origin": PORT}, JOIN, "POST"),
    "no Sec-Fetch: a page, readable": ({"Host": HERE, "Origin": PORT}, "/pairs", "GET"),
    "origin null": ({"Host": HERE, "Origin": "null"}, JOIN, "POST"),
    "origin empty": ({"Host": HERE, "Origin": ""}, JOIN, "POST"),
    "origin without port": ({"Host": HERE, "Origin": "http://127.0.0.1"}, JOIN, "POST"),
    "origin with more digits": ({"Host": HERE, "Origin": f"{OWN}0"}, JOIN, "POST"),
    "origin continued": ({"Host": HERE, "Origin": f"{OWN}.evil.test"}, JOIN, "POST"),
    "origin with a user": ({"Host": HERE, "Origin": f"http://{HERE}@evil.test"}, JOIN, "POST"),
    "origin with a fragment": ({"Host": HERE, "Origin": f"http://evil.test#{HERE}"}, JOIN, "POST"),
    "origin of an extension": ({"Host": HERE, "Origin": "chrome-extension://abc"}, JOIN, "POST"),
    "origin of a file": ({"Host": HERE, "Origin": "file://"}, JOIN, "POST"),
    "two origins": ({"Host": HERE, "Origin": [OWN, EVIL]}, JOIN, "POST"),
    "own origin, said to be elsewhere": (browser("cross-site", origin=OWN), JOIN, "POST"),
    "said to be own, with another's origin": (browser("same-origin", origin=EVIL), JOIN, "POST"),
    "unknown word": (browser("same-planet"), "/config", "GET"),
    "two words": ({"Host": HERE, "Sec-Fetch-Site": ["same-origin", "cross-site"]}, "/config", "GET"),
}  # fmt: skip


@pytest.mark.parametrize("has_login", [False, True])
@pytest.mark.parametrize("case", ELSEWHERE)
def test_other_sites_are_refused(case: str, has_login: bool) -> None:
    headers, path, method = ELSEWHERE[case]
    # Even with a token: it may have leaked.
    headers = {**headers, TOKEN_HEADER: TOKENS.issue("mira")}
    status, answered, text = asked(headers, path, method, has_login=has_login)
    assert status in (400, 403), text
    assert not [name for name in answered if name.startswith("access-control")]
    assert answered["cross-origin-resource-policy"] == "same-origin"
    assert len(text.splitlines()) == 1


@pytest.mark.parametrize(
    "headers",
    [browser("same-site", origin=PORT), browser("cross-site", origin=EVIL), {"Host": HERE, "Origin": PORT},
     {"Host": HERE, "Origin": "null"}, {"Host": "evil.test:7860", "Origin": "http://evil.test:7860"}],
)  # fmt: skip
def test_sockets_of_other_sites_are_refused(headers: dict[str, str]) -> None:
    for path in ("/", JOIN, "/gradio_api/queue/data"):
        assert asked(headers, path, kind="websocket")[0] == 403


def test_own_sockets_pass() -> None:
    assert asked({"Host": HERE, "Origin": OWN}, JOIN, kind="websocket")[0] == PASSED
    assert asked({"Host": HERE}, JOIN, kind="websocket")[0] == PASSED


OWN_REQUESTS: dict[str, tuple[dict[str, Any], str, str]] = {
    "typed or bookmarked": (browser("none", "navigate", "document"), "/pairs", "GET"),
    "typed address of a file": (browser("none", "navigate", "document"), FILE, "GET"),
    "link from another site": (browser("cross-site", "navigate", "document"), "/pairs", "GET"),
    "link from MLflow's port": (browser("same-site", "navigate", "document"), "/spot-check/", "GET"),
    "link without Sec-Fetch": ({"Host": HERE}, "/", "GET"),
    "own fetch": (browser("same-origin"), "/config", "GET"),
    "own script": (browser("same-origin", "no-cors", "script"), "/assets/index.js", "GET"),
    "own event stream": (browser("same-origin"), "/gradio_api/queue/data", "GET"),
    "own download": (browser("same-origin", "navigate", "document"), FILE, "GET"),
    "own fetch without Sec-Fetch": ({"Host": HERE, "Origin": OWN}, "/config", "GET"),
    "capital letters": ({"Host": "LOCALHOST:7860", "Origin": "HTTP://LocalHost:7860"}, "/config", "GET"),
    "port 80": ({"Host": "localhost", "Origin": "http://localhost:80"}, "/config", "GET"),
    "through a tunnel": (browser("same-origin", origin="http://localhost:9000", host="localhost:9000"), "/config", "GET"),
    "through a tunnel on IPv6": ({"Host": "[::1]:9000", "Origin": "http://[::1]:9000"}, "/config", "GET"),
    "script": ({"Host": HERE}, "/config", "GET"),
    "login": (browser("same-origin", "navigate", "document", OWN), "/login", "POST"),
    "logout": (browser("same-origin", "navigate", "document", OWN), "/logout", "POST"),
    "logout, typed": (browser("none", "navigate", "document"), "/logout", "GET"),
}  # fmt: skip


@pytest.mark.parametrize("case", OWN_REQUESTS)
def test_own_requests_pass(case: str) -> None:
    headers, path, method = OWN_REQUESTS[case]
    status, _, text = asked(headers, path, method)
    assert (status, text) == (PASSED, "served"), text  # and Gradio was not told an origin


@pytest.mark.parametrize(
    ("public", "host", "origin", "site", "passes"),
    [
        (PUBLIC, PUBLIC, f"https://{PUBLIC}", "same-origin", True),
        (PUBLIC, PUBLIC, f"https://{PUBLIC}", "", True),
        (PUBLIC, PUBLIC, f"http://{PUBLIC}", "", True),  # a proxy without TLS
        (PUBLIC, f"{PUBLIC}:443", f"https://{PUBLIC}", "", True),
        (PUBLIC.upper(), PUBLIC, f"https://{PUBLIC}", "", True),
        (f"{PUBLIC}:8443", f"{PUBLIC}:8443", f"https://{PUBLIC}:8443", "", True),
        (f"{PUBLIC}:8443", PUBLIC, f"https://{PUBLIC}:8443", "", True),  # a proxy that leaves the port out
        (f"{PUBLIC}:8443", HERE, f"https://{PUBLIC}:8443", "", True),  # or writes its own Host
        (PUBLIC, HERE, f"https://{PUBLIC}", "", True),
        (PUBLIC, PUBLIC, f"https://{PUBLIC}:8443", "same-origin", True),  # the browser says so
        (PUBLIC, HERE, OWN, "", True),
        (PUBLIC, PUBLIC, f"https://{PUBLIC}:9000", "", False),  # another service of that host
        (PUBLIC, PUBLIC, f"https://{PUBLIC}:9000", "same-site", False),
        (f"{PUBLIC}:8443", f"{PUBLIC}:8443", f"https://{PUBLIC}", "", False),
        (f"{PUBLIC}:8443", f"{PUBLIC}:9000", f"https://{PUBLIC}:9000", "", False),
        (PUBLIC, PUBLIC, f"https://sub.{PUBLIC}", "", False),
        (PUBLIC, PUBLIC, "https://example.org", "", False),
        (PUBLIC, PUBLIC, OWN, "", False),
        (PUBLIC, f"{PUBLIC}.evil.test", f"https://{PUBLIC}.evil.test", "same-origin", False),
        (PUBLIC, "evil.test", f"https://{PUBLIC}", "same-origin", False),
        (PUBLIC, f"{PUBLIC}@evil.test", f"https://{PUBLIC}", "", False),
        ("", PUBLIC, f"https://{PUBLIC}", "same-origin", False),
        ("", HERE, f"https://{PUBLIC}", "same-origin", False),  # a proxy that --public-host does not name
        ("", "evil.test:7860", "http://evil.test:7860", "same-origin", False),  # DNS rebinding
        ("", "127.0.0.1.evil.test", "", "", False),
        ("", "", "", "", False),
        ("bücher.example", "xn--bcher-kva.example", "https://xn--bcher-kva.example", "", True),
    ],
)
def test_names_of_the_inspector(public: str, host: str, origin: str, site: str, passes: bool) -> None:
    headers = {"Host": host, "Origin": origin, "Sec-Fetch-Site": site, TOKEN_HEADER: TOKENS.issue("mira")}
    status, _, text = asked({key: value for key, value in headers.items() if value}, JOIN, "POST", public)
    assert (status == PASSED) is passes, text


def test_a_refusal_says_the_fix() -> None:
    assert f"--public-host {PUBLIC}" in asked(browser("same-origin", origin=f"https://{PUBLIC}"), JOIN, "POST")[2]
    assert f"--public-host {PUBLIC}" in asked({"Host": PUBLIC})[2]
    nasty = asked({"Host": HERE, "Origin": "http://\x1b[2J<script>\r\nx"}, JOIN, "POST")[2]
    assert "\x1b" not in nasty
    assert len(nasty.splitlines()) == 1


@pytest.mark.parametrize(
    "public", ["https://inspector.example.org", "a b", "name/path", "name:port", "*.example.org", "u@h"]
)
def test_a_public_host_is_a_name(public: str) -> None:
    with pytest.raises(InputError, match="--public-host"):
        Sites.of(public)


def test_hosts_are_named_once() -> None:
    assert asked({"Host": [HERE, "evil.test"]})[0] == 400
    assert asked({})[0] == 400


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
@pytest.mark.parametrize(
    "path", [JOIN, "/gradio_api/call/verdict_left", "/gradio_api/upload", "/gradio_api/cancel", "/"]
)
def test_writes_need_the_token(method: str, path: str) -> None:
    own, script = browser("same-origin", origin=OWN), {"Host": HERE}
    good = {TOKEN_HEADER: TOKENS.issue("mira")}
    for wrong in ("", "x", TOKENS.issue("nele"), WriteTokens().issue("mira"), [TOKENS.issue("mira")] * 2):
        for who, has_login in ((own, False), (own, True), (script, False)):
            status, answered, text = asked({**who, TOKEN_HEADER: wrong}, path, method, has_login=has_login)
            assert status == 403
            assert TOKEN_HEADER in answered, "the page asks for a new one by this"
            assert "Nothing was changed" in text
    for who in (own, script):
        for has_login in (False, True):
            assert asked({**who, **good}, path, method, has_login=has_login)[0] == PASSED
    # A script that logs in has its session, and no other page can make it send anything.
    assert asked(script, path, method, has_login=True)[0] == PASSED
    # A browser says more than a script, so it cannot pass for one.
    for said in ("Origin", "Sec-Fetch-Site", "Sec-Fetch-Mode"):
        assert asked({"Host": HERE, said: own[said]}, path, method, has_login=True)[0] == 403


def test_pages_and_scripts_can_ask_for_a_token() -> None:
    for headers in (browser("same-origin"), {"Host": HERE}):
        _, answered, text = asked(headers, TOKEN_ADDRESS)
        assert answered["cache-control"] == "no-store"
        assert TOKENS.is_valid(json.loads(text)["token"], "mira")


@pytest.mark.parametrize(
    ("method", "path", "body"), [("HEAD", "/", ""), ("GET", "/", "served"), ("HEAD", "/pairs", "served")]
)
def test_the_first_page_answers_head_without_being_rendered(method: str, path: str, body: str) -> None:
    sent: list[AsgiMessage] = []

    async def send(message: AsgiMessage) -> None:
        sent.append(message)

    async def receive() -> AsgiMessage:
        return {"type": "http.request"}

    scope: Scope = {"type": "http", "method": method, "path": path, "headers": []}
    asyncio.run(HeadAtOnce(_within)(scope, receive, send))
    assert sent[0]["status"] == 200
    assert sent[1]["body"] == body.encode()


@pytest.mark.parametrize(
    ("query", "left"),
    [
        ("run=a%26b&page=pairs", "run=a%26b&page=pairs"),
        ("run=a%26b&page=x&t=1&empty=", "run=a%26b&t=1&empty="),
        ("page=..%2Fpairs&page=pairs", "page=pairs"),
        ("homepage=x", "homepage=x"),
        ("p%61ge=x", ""),
        ("page=", "page="),
        ("", ""),
    ],
)
def test_a_page_that_there_is_not_is_taken_out_of_the_query(query: str, left: str) -> None:
    seen: list[bytes] = []

    async def within(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope["query_string"])

    async def nothing(*_: Any) -> Any:
        raise AssertionError

    scope: Scope = {"type": "http", "method": "GET", "path": "/", "query_string": query.encode()}
    asyncio.run(KnownPages(within, {"", "pairs"})(scope, nothing, nothing))
    assert seen == [left.encode()]
