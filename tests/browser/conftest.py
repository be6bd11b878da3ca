"""A served inspector over synthetic runs, and Chromium. Without Playwright or Chromium the tests skip, saying so."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import synthetic

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
ARGUMENTS = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
READY = ".icr[data-serial]"


@dataclass
class Server:
    """A served inspector. runs: arm run ids by a short name."""

    address: str
    process: subprocess.Popen[str]
    folder: Path
    runs: dict[str, str] = field(default_factory=dict)

    def link(self, page: str, run: str, **params: object) -> str:
        from urllib.parse import urlencode

        return f"{self.address}/{page}?{urlencode({'run': self.runs[run], **params})}"


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def start_server(store: Path, port: int, **options: object) -> subprocess.Popen[str]:
    """`icr inspect` in a process of its own, ready to answer."""
    named = {
        "tracking_uri": f"sqlite:///{store / 'mlflow.db'}",
        "port": port,
        "verdicts": str(store / "verdicts.db"),
        **options,
    }
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in named.items()]
    code = "from icr_platform.cli import main; main()"
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MLFLOW_DISABLE_TELEMETRY": "true"}
    with terminal(store, port).open("a") as out:
        process = subprocess.Popen(
            [sys.executable, "-c", code, "inspect", *flags], env=environment, stdout=out, stderr=out, text=True
        )
    for _ in range(240):
        if process.poll() is not None:
            raise RuntimeError(
                f"the inspector ended with {process.returncode}: {terminal(store, port).read_text()[-1000:]}"
            )
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5).read(1)
            return process
        except urllib.error.HTTPError:
            return process  # it answers, if only with a refusal
        except OSError:
            time.sleep(0.25)
    process.kill()
    raise RuntimeError("the inspector did not answer within a minute")


def terminal(store: Path, port: int) -> Path:
    """What the inspector on `port` printed."""
    return store / f"terminal-{port}.txt"


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, dict[str, str]]]:
    """A tracking store with the small run and the hostile one, and broken ones."""
    folder = tmp_path_factory.mktemp("inspector")
    before = os.environ.get("MLFLOW_TRACKING_URI")
    tracker = synthetic.open_tracker(folder)
    runs = {
        "small": synthetic.small_run(tracker, folder / "artifacts").run_id,
        "payload": synthetic.payload_run(tracker, folder / "artifacts").run_id,
        "long": synthetic.long_run(tracker, folder / "artifacts").run_id,
        **synthetic.broken_runs(tracker, folder / "artifacts"),
    }
    yield folder, runs
    if before is None:
        os.environ.pop("MLFLOW_TRACKING_URI", None)
    else:
        os.environ["MLFLOW_TRACKING_URI"] = before


@pytest.fixture(scope="session")
def server(store: tuple[Path, dict[str, str]]) -> Iterator[Server]:
    folder, runs = store
    port = free_port()
    process = start_server(folder, port)
    yield Server(f"http://127.0.0.1:{port}", process, folder, runs)
    process.kill()
    process.wait()


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs Playwright: pip install playwright")
    if CHROMIUM is None:
        pytest.skip("needs Chromium: apt-get install chromium")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def shared_context(browser: Any) -> Iterator[Any]:
    """For tabs that record nothing: Gradio's scripts are loaded once."""
    context = browser.new_context()
    yield context
    context.close()


@pytest.fixture
def open_page(browser: Any, shared_context: Any) -> Iterator[Callable[..., Any]]:
    """`open_page(url, width=1440, dark=False, fresh=False)`: a tab, of a fresh reviewer if asked.

    Afterwards no request may have left 127.0.0.1, and no script may have failed.
    """
    contexts: list[Any] = []
    tabs: list[Any] = []
    foreign: list[str] = []
    errors: list[str] = []

    def opened(url: str, width: int = 1440, dark: bool = False, fresh: bool = False) -> Any:
        if fresh:
            contexts.append(browser.new_context())
        page = (contexts[-1] if fresh else shared_context).new_page()
        tabs.append(page)
        page.set_viewport_size({"width": width, "height": 900})
        page.emulate_media(color_scheme="dark" if dark else "light")
        page.on("request", lambda request: foreign.append(request.url) if not is_local(request.url) else None)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(url)
        page.wait_for_selector(READY, timeout=60_000)
        return page

    yield opened
    for tab in tabs:
        tab.close()
    for context in contexts:
        context.close()
    assert not foreign, f"requests left 127.0.0.1: {foreign[:3]}"
    assert not errors, errors[:3]


def is_local(url: str) -> bool:
    from urllib.parse import urlsplit

    return urlsplit(url).scheme in ("data", "blob", "about") or urlsplit(url).hostname == "127.0.0.1"


@pytest.fixture(scope="session")
def screenshots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where screenshots are kept: ICR_SCREENSHOTS, or a temporary folder."""
    folder = Path(os.environ.get("ICR_SCREENSHOTS") or tmp_path_factory.mktemp("screenshots"))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def serial(page: Any) -> str:
    return str(page.get_attribute(READY, "data-serial"))


def wait_change(page: Any, before: str) -> None:
    """Wait until the page was rendered again."""
    page.wait_for_function(
        "before => document.querySelector('.icr')?.dataset.serial !== before", arg=before, timeout=30_000
    )


def go(page: Any, query: str) -> None:
    """Move within a page, as its links do."""
    before = serial(page)
    page.evaluate("query => window.icrGo(query)", query)
    wait_change(page, before)


_WALK = """(queries) => {
  const changed = (before) => new Promise((resolve, reject) => {
    const look = () => document.querySelector(".icr")?.dataset.serial !== before && (watcher.disconnect(), resolve());
    const watcher = new MutationObserver(look);
    watcher.observe(document.documentElement, { childList: true, subtree: true, attributes: true });
    setTimeout(() => reject(new Error("the page was not rendered again")), 60000);
  });
  const walk = async () => {
    const found = [];
    for (const query of queries) {
      const change = changed(document.querySelector(".icr").dataset.serial);
      window.icrGo(query);
      await change;
      found.push((LOOK)());
    }
    return found;
  };
  window.icrWalk = walk();
}"""


def walk(page: Any, queries: list[str], look: str) -> Callable[[], list[Any]]:
    """Move through many addresses without a round trip to Python each; the result gives what `look` found at each."""
    page.evaluate(_WALK.replace("LOOK", look), queries)
    return lambda: list(page.evaluate("() => window.icrWalk"))
