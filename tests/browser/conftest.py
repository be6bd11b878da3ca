"""A served inspector over synthetic runs, and Chromium. Without Playwright or Chromium the tests skip, saying so."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import compared_runs, evidence_run, formatted_run, synthetic_runs
from tests.support.inspector import READY, Server, start_server
from tests.support.ports import free_port

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
ARGUMENTS = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, dict[str, str]]]:
    """A tracking store with the small run and the hostile one, and broken ones."""
    folder = tmp_path_factory.mktemp("inspector")
    before = os.environ.get("MLFLOW_TRACKING_URI")
    tracker = synthetic_runs.open_tracker(folder)
    runs = {
        "small": synthetic_runs.small_run(tracker, folder / "artifacts").run_id,
        "payload": synthetic_runs.payload_run(tracker, folder / "artifacts").run_id,
        "thinking": synthetic_runs.thinking_run(tracker, folder / "artifacts").run_id,
        "conversations": synthetic_runs.conversations_run(tracker, folder / "artifacts").run_id,
        "evidence": evidence_run.evidence_run(tracker, folder / "artifacts").run_id,
        "formatted": formatted_run.formatted_run(tracker, folder / "artifacts").run_id,
        "long": synthetic_runs.long_run(tracker, folder / "artifacts").run_id,
        **compared_runs.compared_runs(tracker, folder / "artifacts"),
        **synthetic_runs.broken_runs(tracker, folder / "artifacts"),
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
    process = start_server(folder, port, outputs=",".join(compared_runs.write_files(folder).values()))
    yield Server(f"http://127.0.0.1:{port}", process, folder, runs)
    process.kill()
    process.wait()


@pytest.fixture(scope="session")
def chromium() -> Iterator[Callable[..., Any]]:
    """Starts Chromium, with more arguments if given: Playwright itself can be started once in a process."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs Playwright: pip install playwright")
    if CHROMIUM is None:
        pytest.skip("needs Chromium: apt-get install chromium")
    with sync_api.sync_playwright() as playwright:
        yield lambda *more: playwright.chromium.launch(executable_path=CHROMIUM, args=[*ARGUMENTS, *more])


@pytest.fixture(scope="session")
def browser(chromium: Callable[..., Any]) -> Iterator[Any]:
    browser = chromium()
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
