"""More than 300 hostile texts in every field: none runs, loads, restyles or reorders anything; other hosts and users are refused."""

from __future__ import annotations

import html
import inspect
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
from tests.support.hostile_texts import payloads
from tests.support.inspector import READY, Server, start_server, terminal, walk
from tests.support.ports import free_port
from ui.html import texts
from ui.server.auth import add_user

pytestmark = pytest.mark.browser

_SOUND = """() => ({
  hit: window.__hit === undefined,
  sideways: document.documentElement.scrollWidth <= window.innerWidth,
  nav: [...document.querySelectorAll('.icr .top nav a')].map(a => a.innerText).join(),
  navSeen: document.querySelector('.icr .top nav a').getBoundingClientRect().height > 10,
  foreign: document.querySelectorAll('.icr #main :is(script, img, iframe, object, embed, video, audio, link, style, meta, base, form:not([data-make-link]))').length,
  broken: document.querySelectorAll('#broken').length,
  active: document.querySelectorAll('.icr #main .text :is(a, button, input, select, textarea, [style], [id], [href], [src], [onclick])').length,
  clipped: [...document.querySelectorAll('.icr #main .text')].filter(
    e => e.scrollWidth > e.clientWidth + 1 && !/\\p{M}{100}/u.test(e.textContent)).length, // a letter with 100 marks cannot be broken
})"""
_PAGES = "Overview,Pairs,Margins,Regressions,Compare,Spot-check,Disagreements,Agreement"
_WANTED = {"hit": True, "sideways": True, "nav": _PAGES, "navSeen": True,
           "foreign": 0, "broken": 0, "active": 0, "clipped": 0}  # fmt: skip


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

    assert len(set(payloads())) == len(payloads()) >= 300
    dangerous = [text for text in payloads() if text.startswith(_HARMFUL)]
    assert len(dangerous) >= 20
    assert [text for text in dangerous if not does_harm(text)] == []
    assert [text for text in dangerous[:10] if does_harm(html.escape(text))] == []
    context.close()


@pytest.mark.parametrize("page", ["", "pairs", "margins", "regressions", "compare", "agreement"])
def test_payloads_on_pages(server: Server, open_page: Callable[..., Any], page: str) -> None:
    tab = open_page(server.link(page, "payload"))
    assert tab.evaluate(_SOUND) == _WANTED
    rows = len(payloads()) + len(synthetic_runs.payload_groups())
    queries = [f"?run={server.runs['payload']}&iteration=1&start={start}" for start in range(50, rows, 50)]
    for query, sound in zip(queries, walk(tab, queries, _SOUND)() if page in _LISTS else (), strict=page in _LISTS):
        assert sound == _WANTED, query


_LISTS = ("pairs", "regressions", "compare")


@pytest.mark.parametrize("width", [1440, 390])
def test_no_payload_does_anything_in_its_box(browser: Any, width: int) -> None:
    """Each alone, formatted and as it was written, in one page that has the inspector's style and none of its policies."""
    assets = Path(inspect.getfile(texts)).parent / "assets"
    style = "".join(path.read_text() for path in sorted(assets.glob("*.css")))
    boxes = "".join(
        f'<section class="card"><div class="text" dir="auto" data-number="{number}">{texts.shown_text(text)}</div></section>'
        for number, text in enumerate(payloads())
    )
    nav = "".join(f"<a>{name}</a> " for name in _PAGES.split(","))
    context = browser.new_context(viewport={"width": width, "height": 900})
    fetched: list[str] = []
    context.route("**/*", lambda route: (fetched.append(route.request.url), route.abort()))
    page = context.new_page()
    page.set_content(
        f'<!doctype html><html><head><style>{style}</style></head><body><div class="icr"><div class="top"><nav>{nav}</nav></div>'
        f'<div id="main"><div class="columns">{boxes}</div></div></div></body></html>'
    )
    page.wait_for_timeout(200)  # an image fails, and its handler runs, after the page is there
    for form in ("formatted", "written"):
        assert page.evaluate(_SOUND) == _WANTED, form
        numbers = page.eval_on_selector_all("[data-number]", "all => all.map(e => Number(e.dataset.number))")
        assert numbers == list(range(len(payloads()))), "each box is where it was"
        escaped = page.eval_on_selector_all(
            ".text *:not(.table, .table *)",
            """all => all.filter(e => {
              const box = e.closest('.text').getBoundingClientRect(), own = e.getBoundingClientRect();
              return own.width && (own.left < box.left - 1 || own.right > box.right + 1);
            }).map(e => e.closest('.text').dataset.number)""",
        )
        assert escaped == [], [payloads()[int(number)] for number in escaped[:3]]
        page.evaluate("document.body.classList.add('icr-written')")
    assert fetched == []
    context.close()


@pytest.mark.timeout(900)
def test_every_payload_is_shown_as_it_is(server: Server, open_page: Callable[..., Any]) -> None:
    """Each in instruction, English instruction, response and thought, eight at a time, on the pages of a pair and of two outputs."""
    groups = synthetic_runs.payload_groups()
    queries = ["?" + urlencode({"run": server.runs["payload"], "iteration": 1, **key}) for key, _ in groups]
    written = "[...document.querySelectorAll('.icr #main .card SELECTOR > .written')].map(e => e.textContent)"
    look = f"""() => ({{ sound: ({_SOUND})(), shown: {written.replace("SELECTOR", ".text")},
        thoughts: {written.replace("SELECTOR", ".thought .text")} }})"""
    results = {page: walk(open_page(server.link(page, "payload")), queries, look) for page in _LISTS}
    for page, result in results.items():
        found = result()
        for (_, text), seen in zip(groups, found, strict=True):
            assert seen["sound"] == _WANTED, text
            # Browsers turn CR into LF in markup, and no page can hold a NUL; nothing else may change.
            expected = text.replace("\r\n", "\n").replace("\r", "\n").replace("\x00", "\ufffd")
            assert seen["thoughts"] == [expected] * 2, text
            if page == "pairs":
                assert seen["shown"], text
                assert expected in seen["shown"], text


def test_payloads_in_notes_names_and_queries(server: Server, open_page: Callable[..., Any]) -> None:
    tab = open_page(server.link("spot-check", "payload", language="es", overlap=100), fresh=True)
    sign_in(tab, "<img src=x onerror=window.__hit=1>\u202e")
    for text in payloads()[:12]:
        tab.fill("#key-n textarea, #key-n input", text)
        tab.keyboard.press("Escape")
        press(tab, "1")
        assert tab.evaluate(_SOUND) == _WANTED
    tab = open_page(server.link("agreement", "payload"))
    assert tab.evaluate(_SOUND) == _WANTED
    tab = open_page(server.link("pairs", "payload"))
    names = ("q", "language", "dropped", "id", "id_language", "sort", "iteration", "margin_min")
    asked = [*payloads()[:40], *payloads()[-100::5]]
    known = ["?" + urlencode({"run": server.runs["payload"], **dict.fromkeys(names[:3], text)}) for text in asked]
    for text, sound in zip(asked, walk(tab, known, _SOUND)(), strict=True):
        assert sound == _WANTED, text
    unknown = ["?" + urlencode({"run": text[:200], **dict.fromkeys(names[3:], text)}) for text in asked]
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
