"""A page of another port, of another host and of the same host's other port tries to read, vote and publish: a real browser is refused."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from gradio_client import Client

from icr_platform.tracking.reader import TrackingReader
from tests.support.inspector import READY, start_server
from tests.support.ports import free_port
from ui.review.items import Item
from ui.review.link_store import LinkStore
from ui.review.recording import new_token
from ui.review.verdict_store import VerdictStore
from ui.server.auth import add_user

pytestmark = pytest.mark.browser

PUBLIC = "icr.test"
RULES = f"--host-resolver-rules=MAP {PUBLIC} 127.0.0.1, MAP elsewhere.test 127.0.0.1"

# Each way gives what the page learned, or 'refused'. `there` is the inspector's address, `vote` the body of a verdict.
ATTACKS = """async ({ there, vote }) => {
  const refused = () => "refused";
  const read = (path, options) => fetch(there + path, { credentials: "include", ...options }).then((a) => a.text().then((t) => a.status + t.slice(0, 40)), refused);
  const post = (path, options) => fetch(there + path, { method: "POST", credentials: "include", body: vote, ...options }).then((a) => a.type === "opaque" ? "refused" : String(a.status), refused);
  const loaded = (tag, path, more = {}) => new Promise((done) => {
    const element = Object.assign(document.createElement(tag), more, { onload: () => done("loaded"), onerror: () => done("refused") });
    element[tag === "link" ? "href" : "src"] = there + path;
    document.head.append(element);
  });
  const form = (path, enctype) => new Promise((done) => {
    const name = "f" + Math.random(), frame = document.createElement("iframe");
    frame.name = name;
    document.body.append(frame);
    const made = Object.assign(document.createElement("form"), { method: "post", action: there + path, target: name, enctype });
    made.append(Object.assign(document.createElement("input"), { name: vote.slice(0, -1) + ',"x":"', value: '"}' }));
    document.body.append(made);
    frame.onload = () => { try { done(frame.contentDocument.title !== undefined && frame.contentDocument.URL === "about:blank" ? null : "read"); } catch (error) { done("refused"); } };
    made.submit();
    setTimeout(() => done("refused"), 4000);
  });
  const framed = (path) => new Promise((done) => {
    const frame = Object.assign(document.createElement("iframe"), { src: there + path });
    frame.onload = () => { try { done(frame.contentDocument ? "read" : "refused"); } catch (error) { done("refused"); } };
    document.body.append(frame);
    setTimeout(() => done("refused"), 4000);
  });
  const socket = (path) => new Promise((done) => {
    const made = new WebSocket(there.replace("http", "ws") + path);
    made.onopen = () => done("open");
    made.onerror = () => done("refused");
  });
  const stream = (path) => new Promise((done) => {
    const made = new EventSource(there + path, { withCredentials: true });
    made.onopen = () => { made.close(); done("open"); };
    made.onerror = () => { made.close(); done("refused"); };
  });
  const call = "/gradio_api/call/verdict_left", join = "/gradio_api/queue/join";
  const json = { headers: { "Content-Type": "application/json" } }, text = { mode: "no-cors", headers: { "Content-Type": "text/plain" } };
  return {
    config: await read("/config"), page: await read("/pairs"), token: await read("/icr/token"), info: await read("/gradio_api/info"),
    file: await read("/gradio_api/file=/etc/hostname"), opaque: await loaded("script", "/config"), style: await loaded("link", "/theme.css", { rel: "stylesheet" }),
    image: await loaded("img", "/favicon.ico"), vote: await post(call, json), "vote as text": await post(call, text), "vote at once": await post("/gradio_api/run/verdict_left", text),
    queue: await post(join, json), "queue as text": await post(join, text), upload: await post("/gradio_api/upload", text), logout: await post("/logout", text),
    form: await form(call, "text/plain"), "form of fields": await form(join, "application/x-www-form-urlencoded"),
    beacon: navigator.sendBeacon(there + call, new Blob([vote], { type: "text/plain" })) ? "refused" : "refused",
    frame: await framed("/pairs"), "frame of a file": await framed("/gradio_api/file=/etc/hostname"),
    socket: await socket(join), stream: await stream("/gradio_api/heartbeat/x"), data: await stream("/gradio_api/queue/data?session_hash=x"),
  };
}"""


class _Elsewhere(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        page = b"<!doctype html><html><head></head><body>elsewhere</body></html>"
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(page)))
        self.end_headers()
        self.wfile.write(page)

    def log_message(self, format: str, *arguments: object) -> None:
        """Nothing is printed."""


@pytest.fixture
def elsewhere() -> Iterator[int]:
    """The port of a server of somebody else's page."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Elsewhere)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_address[1]
    server.shutdown()


@pytest.fixture
def mapped(chromium: Callable[..., Any]) -> Iterator[Any]:
    """Chromium that finds the inspector's public name, and another host, on this machine."""
    browser = chromium(RULES)
    yield browser
    browser.close()


@pytest.mark.timeout(600)
def test_pages_of_other_origins_are_refused(
    store: tuple[Path, dict[str, str]], mapped: Any, elsewhere: int, tmp_path: Path
) -> None:
    folder, runs = store
    add_user(tmp_path / "users", "mira", "correct horse", is_lead=True)
    port = free_port()
    verdicts = tmp_path / "verdicts.db"
    process = start_server(folder, port, auth_file=str(tmp_path / "users"), public_host=PUBLIC, verdicts=str(verdicts))
    try:
        context = mapped.new_context()
        secret = LinkStore(VerdictStore(str(verdicts)).database).secret

        def vote() -> str:
            """The body of a sound verdict, which the inspector's own page may send."""
            item = Item("pair", 2, None, "es", "p1")
            token = new_token(secret, item, runs["small"], "random", True, "chosen", "mira")
            return json.dumps({"data": ["mira", token, f"run={runs['small']}", [], ""]})

        for name in ("127.0.0.1", PUBLIC):
            there = f"http://{name}:{port}"
            own = context.new_page()
            own.goto(f"{there}/agreement?run={runs['small']}")
            own.fill("input[name=username]", "mira")
            own.fill("input[type=password]", "correct horse")
            own.keyboard.press("Enter")
            own.wait_for_selector(READY, timeout=60_000)
            cookies = [cookie for cookie in context.cookies(there) if cookie["name"].startswith("icr-session")]
            assert [(cookie["sameSite"], cookie["httpOnly"]) for cookie in cookies] == [("Lax", True)]
            before = len(VerdictStore(str(verdicts)).history())
            for host in ("127.0.0.1", "localhost", "elsewhere.test", PUBLIC):
                page = context.new_page()
                statuses: dict[str, int] = {}
                page.on(
                    "response",
                    lambda answer, seen=statuses, at=there: seen.update(
                        {answer.url: answer.status} if answer.url.startswith(at) else {}
                    ),
                )
                page.goto(f"http://{host}:{elsewhere}/")
                found = page.evaluate(ATTACKS, {"there": there, "vote": vote()})
                assert {way for way, learned in found.items() if learned != "refused"} == set(), (host, name, found)
                page.wait_for_timeout(500)  # a beacon is sent when nobody waits
                # Without TLS a browser does not say of images, scripts and frames where they come from; it must not show what it got.
                wrote = {
                    url: status
                    for url, status in statuses.items()
                    if "call" in url or "queue/join" in url or "run/" in url
                }
                assert wrote
                assert set(wrote.values()) <= {400, 403}, wrote
                page.close()
            assert len(VerdictStore(str(verdicts)).history()) == before
            # The same from the inspector's own page works, or nothing above would prove anything.
            sent = own.evaluate(
                "([body]) => fetch('/gradio_api/call/verdict_left', { method: 'POST', body, headers: { 'Content-Type': 'application/json' } })"
                ".then(a => a.json()).then(e => fetch('/gradio_api/call/verdict_left/' + e.event_id)).then(a => a.text())",
                [vote()],
            )
            assert "data-verdict" in sent
            assert len(VerdictStore(str(verdicts)).history()) == before + 1
            assert own.evaluate("fetch('/config').then(a => a.status)") == 200
            assert own.evaluate("fetch('/logout').then(a => a.status)") == 200
            own.goto(there)
            assert own.locator("input[type=password]").count() == 0, "no other page has logged her out"
        # A script that logs in needs no token: no page can make it send anything.
        script = Client(
            f"http://127.0.0.1:{port}", auth=("mira", "correct horse"), verbose=False, analytics_enabled=False
        )
        script.predict(*json.loads(vote())["data"], api_name="/verdict_left")
        assert len(VerdictStore(str(verdicts)).history()) == 3
        metrics = TrackingReader(f"sqlite:///{folder / 'mlflow.db'}").run(runs["small"]).metrics
        assert "human_verdicts/blind" not in metrics, "nothing was published"
    finally:
        process.kill()
        process.wait()
