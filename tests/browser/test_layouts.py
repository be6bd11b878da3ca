"""Every page on a desk, a small laptop and a phone, in light and dark: nothing but wide tables scrolls sideways, and axe finds no fault."""

from __future__ import annotations

from collections.abc import Callable
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tests.browser.test_spot_check import sign_in
from tests.support import formatted_run
from tests.support.inspector import Server, go

pytestmark = pytest.mark.browser

SIZES = {"desk": (1440, 900), "laptop": (1366, 625), "phone": (390, 844)}
PAIR = {"iteration": 1, "id": "bread"}
PAGES: dict[str, tuple[str, str, dict[str, object]]] = {
    "overview": ("", "small", {}),
    "overview with evidence": ("", "evidence", {}),
    "pairs": ("pairs", "small", {"q": "dog"}),
    "a pair": ("pairs", "formatted", {**PAIR, "id_language": "es", "q": "harina"}),
    "an Arabic pair": ("pairs", "formatted", {**PAIR, "id_language": "ar"}),
    "margins": ("margins", "small", {}),
    "regressions": ("regressions", "small", {}),
    "two outputs": ("regressions", "formatted", {"iteration": 2, "base": 1, "id": "bread", "id_language": "en"}),
    "compare": ("compare", "small", {}),
    "spot-check": ("spot-check", "formatted", {"language": "es"}),
    "agreement": ("agreement", "small", {}),
}
_OUTSIDE = """() => [...document.querySelectorAll('.icr *, #verdict-bar *')].filter((element) => {
  const box = element.getBoundingClientRect();
  if (element.closest('.scroll, div.table, .skip, .unseen, figure') || !box.width) return false;
  return box.right > innerWidth + 1 || box.left < -1;
}).slice(0, 5).map((element) => `${element.tagName}.${element.className}`)"""


@pytest.mark.parametrize("name", PAGES)
def test_every_page_fits_its_screen_and_axe_finds_no_fault(
    server: Server, open_page: Callable[..., Any], screenshots: Path, name: str
) -> None:
    page, run, params = PAGES[name]
    tab = open_page(server.link(page, run, **params), fresh=page == "spot-check")
    if page == "spot-check":
        sign_in(tab, "Rosa")
    # axe-core comes with a package of the extra `browser`.
    has_axe = find_spec("axe_playwright_python") is not None
    if has_axe:
        tab.evaluate((files("axe_playwright_python") / "axe.min.js").read_text(encoding="utf-8"))
    for device, (width, height) in SIZES.items():
        tab.set_viewport_size({"width": width, "height": height})
        for is_dark in (False, True):
            tab.evaluate("dark => document.body.classList.toggle('dark', dark)", is_dark)
            tab.evaluate("document.getAnimations().forEach(one => one.finish())")  # colours that change are between two
            assert tab.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), (
                f"{device} scrolls sideways"
            )
            assert tab.evaluate(_OUTSIDE) == [], device
            if has_axe:
                found = tab.evaluate("axe.run(document, { resultTypes: ['violations'] })")["violations"]
                faults = [(fault["id"], fault["nodes"][0]["target"], fault["nodes"][0]["html"]) for fault in found]
                assert faults == [], (device, is_dark)
            shot = f"{name.replace(' ', '-')}-{device}-{'dark' if is_dark else 'light'}.png"
            tab.screenshot(path=screenshots / shot, full_page=device != "laptop")
    if not has_axe:
        pytest.skip("the layout holds; faults of accessibility need axe-core: pip install axe-playwright-python")


def test_texts_are_formatted_marked_and_shown_as_they_were_written_by_a_key(
    server: Server, open_page: Callable[..., Any]
) -> None:
    link = server.link("regressions", "formatted", iteration=2, base=1, id="bread", id_language="es")
    tab = open_page(link, fresh=True)
    before = tab.locator(".side .text").first
    assert before.locator(".formatted :is(ol, table, pre, blockquote)").count() == 4
    assert before.locator(".formatted .maths").count() == 3
    assert tab.locator(".text :is(a, img)").count() == 0
    assert tab.locator(".side .formatted mark.rejected").count() > 3
    assert tab.locator(".side .formatted mark.chosen").count() > 0
    assert "**cuatro cosas**" not in before.inner_text()
    tab.keyboard.press("x")
    assert before.inner_text().replace("\r", "") == formatted_run.SPANISH
    tab.keyboard.press("d")
    styles = "all => [...new Set(all.map(e => getComputedStyle(e).textDecorationLine))]"
    assert tab.eval_on_selector_all(".side .written mark", styles) == ["none"]
    go(tab, f"?run={server.runs['formatted']}&iteration=2&base=1&id=bread&id_language=ar")
    assert "## طريقة" in tab.locator(".side .text").first.inner_text(), "the choice stays"
    tab.keyboard.press("x")
    blocks = ".side .text >> nth=0 >> .formatted > *"
    directions = tab.eval_on_selector_all(blocks, "all => all.map(e => getComputedStyle(e).direction)")
    assert set(directions) == {"rtl", "ltr"}
    tab = open_page(server.link("pairs", "formatted", iteration=1, q="harina", language="es"))
    tab.click("td.id a")
    tab.wait_for_selector(".sample mark.hit")
    hits = tab.eval_on_selector_all(".card mark.hit", "all => all.map(e => e.textContent.toLowerCase())")
    assert set(hits) == {"harina"}
