"""How much of the two responses a reviewer reads without scrolling, over real outputs in several languages.

    ICR_SHARED=DIR python tests/benchmarks/bench_readable_share.py [--page spot-check|review] [--pairs N] [--languages es,th] [--pictures DIR]

ICR_SHARED contains data/outputs and data/prompts. Of every pair, the share is the area of the lines of both responses that lies within the
window, above the buttons and within what scrolls, over the area of all their lines. Instructions, headings and folded thoughts do not count.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path
from typing import Any

from playwright.sync_api import sync_playwright

from tests.browser.conftest import ARGUMENTS, CHROMIUM
from tests.support import synthetic_runs
from tests.support.inspector import READY, Server, serial, start_server, wait_change
from tests.support.ports import free_port
from tests.support.real_data import shared_folder
from ui.review.links import address_of
from ui.review.making_links import AskedLink, make_link
from ui.server.app import open_inspector
from ui.server.options import InspectOptions

SIZES = ((1440, 900), (1366, 768), (1366, 625), (390, 844))
LANGUAGES = ("es", "de", "ru", "fr", "en", "bn", "sw", "th", "zh")
SHARE = """() => {
  const bar = document.querySelector("#verdict-bar").getBoundingClientRect();
  const area = (box) => Math.max(0, box.right - box.left) * Math.max(0, box.bottom - box.top);
  const within = (a, b) => ({ left: Math.max(a.left, b.left), right: Math.min(a.right, b.right),
                              top: Math.max(a.top, b.top), bottom: Math.min(a.bottom, b.bottom) });
  let seen = 0, all = 0;
  for (const side of document.querySelectorAll("#main section[aria-label=Left], #main section[aria-label=Right]")) {
    for (const part of side.querySelectorAll(":scope .text")) {
      if (part.closest(".thought")) continue;
      let window_ = { left: 0, right: innerWidth, top: 0, bottom: Math.min(innerHeight, bar.top) };
      for (let place = part; place; place = place.parentElement)
        if (getComputedStyle(place).overflow !== "visible") window_ = within(window_, place.getBoundingClientRect());
      const range = document.createRange();
      range.selectNodeContents(part);
      for (const line of range.getClientRects()) { all += area(line); seen += area(within(line, window_)); }
    }
  }
  return seen / all;
}"""


def begin(page: Any, name: str) -> None:
    before = serial(page)
    page.fill("#reviewer input, #reviewer textarea", name)
    page.press("#reviewer input, #reviewer textarea", "Enter")
    wait_change(page, before)
    page.wait_for_selector("[data-item]")


def address(server: Server, page: str, language: str, pairs: int) -> str:
    """Of the page on which a reviewer judges pairs of a language."""
    if page == "spot-check":
        return server.link("spot-check", "real", language=language, overlap=100)
    uri = f"sqlite:///{server.folder / 'mlflow.db'}"
    inspector = open_inspector(InspectOptions(tracking_uri=uri, verdicts=str(server.folder / "verdicts.db")))
    asked = AskedLink(language, items=pairs + 1, overlap=100, guidelines="Choose the answer that you would rather get.")
    link = make_link(inspector, inspector.links, inspector.catalogue.arm(server.runs["real"]), asked).link
    return server.address + address_of(link, inspector.links.secret)


def shares(browser: Any, url: str, name: str, pairs: int, pictures: Path | None) -> dict[tuple[int, int], list[float]]:
    """By size of the window: the share of each pair that can be read."""
    page = browser.new_context().new_page()
    page.goto(url)
    page.wait_for_selector(READY, timeout=60_000)
    begin(page, name)
    found: dict[tuple[int, int], list[float]] = {size: [] for size in SIZES}
    for place in range(pairs):
        for width, height in SIZES:
            page.set_viewport_size({"width": width, "height": height})
            page.wait_for_timeout(120)  # the layout settles
            page.evaluate("window.scrollTo(0, 0)")
            found[width, height].append(page.evaluate(SHARE))
            if pictures and not place:
                page.screenshot(path=pictures / f"{name}-{width}x{height}.png")
        before = serial(page)
        page.evaluate("document.activeElement.blur()")
        page.wait_for_timeout(500)  # a verdict is not taken in the first moments of an item
        page.keyboard.press("s")
        wait_change(page, before)
    page.context.close()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--page", default="review", choices=["spot-check", "review"])
    parser.add_argument("--pairs", type=int, default=12)
    parser.add_argument("--languages", default=",".join(LANGUAGES))
    parser.add_argument("--pictures", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="icr-readable-") as temporary, sync_playwright() as playwright:
        folder, port = Path(temporary), free_port()
        tracker = synthetic_runs.open_tracker(folder)
        run = synthetic_runs.real_outputs_run(tracker, folder / "artifacts", shared_folder(), limit=4 * given.pairs)
        server = Server(f"http://127.0.0.1:{port}", start_server(folder, port), folder, {"real": run.run_id})
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        if given.pictures:
            given.pictures.mkdir(parents=True, exist_ok=True)
        everything: dict[tuple[int, int], list[float]] = {size: [] for size in SIZES}
        print("language  " + "  ".join(f"{width}x{height}" for width, height in SIZES))
        try:
            for language in given.languages.split(","):
                url = address(server, given.page, language, given.pairs)
                found = shares(browser, url, f"{given.page}-{language}", given.pairs, given.pictures)
                for size, values in found.items():
                    everything[size] += values
                print(
                    f"{language:8}  " + "  ".join(f"{100 * statistics.median(v):7.0f}%" for v in found.values()),
                    flush=True,
                )
            print("all       " + "  ".join(f"{100 * statistics.median(v):7.0f}%" for v in everything.values()))
        finally:
            browser.close()
            server.process.kill()
            server.process.wait()


if __name__ == "__main__":
    main()
