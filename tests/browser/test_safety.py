"""More than 300 hostile texts in every field: none runs, loads, restyles or reorders anything; other hosts and users are refused."""

from __future__ import annotations

import html
import signal
import subprocess
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from tests.browser.test_spot_check import press, sign_in
from tests.support import synthetic_runs
from tests.support.inspector import READY, Server, go, start_server, terminal, walk
from tests.support.ports import free_port
from ui.server.auth import add_user

pytestmark = pytest.mark.browser

_SOUND = """() => ({
  hit: window.__hit === undefined,
  sideways: document.documentElement.scrollWidth <= window.innerWidth,
  nav: [...document.querySelectorAll('.icr .top nav a')].map(a => a.innerText).join(),
  navSeen: document.querySelector('.icr .top nav a').getBoundingClientRect().height > 10,
  foreign: document.querySelectorAll('.icr #main :is(script, img, iframe, object, embed, video, audio, link, style, meta, base, form)').length,
  broken: document.querySelectorAll('#broken').length,
})"""
_PAGES = "Overview,Pairs,Margins,Regressions,Compare,Spot-check,Agreement"
_WANTED = {"hit": True, "sideways": True, "nav": _PAGES, "navSeen": True,
           "foreign": 0, "broken": 0}  # fmt: skip


# What such texts begin with does something as soon as it is there; links and much else wait for a click.
_HARMFUL = (
    "<script>", "<img src", "<img/src", "<svg onload", "<svg><script>", "<iframe", "<link", "<style>", "<object", "<embed", "<video", "<audio",
    "<form", "<meta", "<base", "<body onload", "<details", "</div></div>", "</script><script>",
)  # fmt: skip


def test_payloads_do_harm_where_they_are_markup(browser: Any) -> None:
    """Else a page that shows them unescaped would look sound. The frame is a page's; escaped, the same texts are sound in it."""
    frame = (
        '<!doctype html><html><body><div class="icr"><div class="top"><nav>'
        + "".join(f"<a>{name}</a> " for name in _PAGES.split(","))
        + '</nav></div><div id="main">TEXT</div></div></body></html>'
    )
    playwright_error = pytest.importorskip("playwright.sync_api").Error
    context = browser.new_context()
    fetched: list[str] = []
    context.route("**/*", lambda route: (fetched.append(route.request.url), route.abort()))

    def does_harm(text: str) -> bool:
        fetched.clear()
        page = context.new_page()
        page.set_content(frame.replace("TEXT", text), wait_until="commit")
        page.wait_for_timeout(30)  # an image fails, and its handler runs, after the page is there
        try:
            return bool(page.evaluate(_SOUND) != _WANTED or fetched)
        except playwright_error:  # the frame is gone: the text led the browser to another page
            return True
        finally:
            page.close()

    texts = synthetic_runs.payloads()
    assert len(set(texts)) == len(texts) == 200
    dangerous = [text for text in texts if text.startswith(_HARMFUL)]
    assert len(dangerous) >= 20
    assert [text for text in dangerous if not does_harm(text)] == []
    assert [text for text in dangerous[:10] if does_harm(html.escape(text))] == []
    context.close()


@pytest.mark.parametrize("page", ["", "pairs", "margins", "regressions", "compare", "agreement"])
def test_payloads_on_pages(server: Server, open_page: Callable[..., Any], page: str) -> None:
    tab = open_page(server.link(page, "payload"))
    assert tab.evaluate(_SOUND) == _WANTED
    for start in (50, 100, 150) if page in ("pairs", "regressions", "compare") else ():
        go(tab, f"?run={server.runs['payload']}&iteration=1&start={start}")
        assert tab.evaluate(_SOUND) == _WANTED


@pytest.mark.timeout(900)
def test_every_payload_is_shown_as_it_is(server: Server, open_page: Callable[..., Any]) -> None:
    """Each in instruction, English instruction, response, id, language, source and drop, in its own pair and regression."""
    keys = [
        {"id": f"{number}:{text}"[:2000], "id_language": "es" if number % 4 else text[:300]}
        for number, text in enumerate(synthetic_runs.payloads())
    ]
    queries = ["?" + urlencode({"run": server.runs["payload"], "iteration": 1, **key}) for key in keys]
    look = (
        "() => ({ sound: ("
        + _SOUND
        + """)(),
        shown: [...document.querySelectorAll(".icr #main .card .text")].map(e => e.textContent),
        thoughts: [...document.querySelectorAll(".icr #main .card .thought .text")].map(e => e.textContent) })"""
    )
    results = {
        page: walk(open_page(server.link(page, "payload")), queries, look)
        for page in ("pairs", "regressions", "compare")
    }
    for page, result in results.items():
        found = result()
        assert len(found) == 200
        for text, seen in zip(synthetic_runs.payloads(), found, strict=True):
            assert seen["sound"] == _WANTED, text
            # Browsers turn CR into LF in markup; nothing else may change.
            expected = text.replace("\r\n", "\n").replace("\r", "\n").replace("\x00", "")
            assert seen["thoughts"] == [expected] * 2, text
            if page == "pairs":
                assert seen["shown"], text
                assert seen["shown"][0] == expected, text


def test_payloads_in_notes_names_and_queries(server: Server, open_page: Callable[..., Any]) -> None:
    tab = open_page(server.link("spot-check", "payload", language="es", overlap=100), fresh=True)
    sign_in(tab, "<img src=x onerror=window.__hit=1>\u202e")
    for text in synthetic_runs.payloads()[:12]:
        tab.fill("#key-n textarea, #key-n input", text)
        tab.keyboard.press("Escape")
        press(tab, "1")
        assert tab.evaluate(_SOUND) == _WANTED
    tab = open_page(server.link("agreement", "payload"))
    assert tab.evaluate(_SOUND) == _WANTED
    tab = open_page(server.link("pairs", "payload"))
    names = ("q", "language", "dropped", "id", "id_language", "sort", "iteration", "margin_min")
    texts = synthetic_runs.payloads()[:40]
    known = ["?" + urlencode({"run": server.runs["payload"], **dict.fromkeys(names[:3], text)}) for text in texts]
    for text, sound in zip(texts, walk(tab, known, _SOUND)(), strict=True):
        assert sound == _WANTED, text
    unknown = ["?" + urlencode({"run": text[:200], **dict.fromkeys(names[3:], text)}) for text in texts]
    assert all(sound["hit"] for sound in walk(tab, unknown, _SOUND)())


def test_policy_and_hosts(server: Server) -> None:
    with urllib.request.urlopen(server.address) as answer:
        assert "default-src 'self'" in answer.headers["content-security-policy"]
    with pytest.raises(urllib.error.HTTPError, match="400"):
        urllib.request.urlopen(urllib.request.Request(server.address, headers={"Host": "evil.test"}))
    with pytest.raises(urllib.error.HTTPError):
        urllib.request.urlopen(f"{server.address}/gradio_api/file={server.folder / 'mlflow.db'}")


def test_login_and_proxy_header(
    store: tuple[Path, dict[str, str]], open_page: Callable[..., Any], browser: Any, tmp_path: Path
) -> None:
    folder, runs = store
    add_user(tmp_path / "users", "mira", "correct horse")
    assert "correct horse" not in (tmp_path / "users").read_text()
    port = free_port()
    process = start_server(folder, port, auth_file=str(tmp_path / "users"))
    try:
        page = browser.new_page()
        page.goto(f"http://127.0.0.1:{port}/spot-check?run={runs['small']}")
        page.wait_for_selector("input[type=password]")
        with pytest.raises(urllib.error.HTTPError, match="401"):
            urllib.request.urlopen(f"http://127.0.0.1:{port}/config")
        page.locator("input").nth(0).fill("mira")
        page.locator("input[type=password]").fill("correct horse")
        page.keyboard.press("Enter")
        page.wait_for_selector(f"{READY} [data-item]", timeout=60_000)
        assert "Signed in as mira" in page.inner_text(".who")
        page.click("text=Sign out")
        page.wait_for_selector("input[type=password]")
        page.goto(f"http://127.0.0.1:{port}/spot-check?run={runs['small']}")
        page.wait_for_selector("input[type=password]")
        page.close()
    finally:
        end(process, signal.SIGINT, terminal(folder, port))
    port = free_port()
    process = start_server(folder, port, user_header="X-User")
    try:
        with pytest.raises(urllib.error.HTTPError, match="401"):
            urllib.request.urlopen(f"http://127.0.0.1:{port}/config")
        context = browser.new_context(extra_http_headers={"X-User": "nele"})
        page = context.new_page()
        page.goto(f"http://127.0.0.1:{port}/spot-check?run={runs['small']}")
        page.wait_for_selector(f"{READY} [data-item]", timeout=60_000)
        assert page.inner_text(".who") == "You are nele", "only the proxy can sign her out"
        context.close()
    finally:
        end(process, signal.SIGTERM, terminal(folder, port))


def end(process: subprocess.Popen[str], number: signal.Signals, printed: Path) -> None:
    """Ctrl-C and SIGTERM are how an inspector ends: quietly, soon, and with status 0."""
    process.send_signal(number)
    assert process.wait(timeout=60) == 0
    lines = [line for line in printed.read_text().splitlines() if line]
    assert len(lines) == 2, lines
    assert lines[0].startswith("The inspector is at http://127.0.0.1:")
    assert lines[1] == "The inspector has ended; every verdict it acknowledged is stored."
