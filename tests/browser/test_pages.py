"""Each page answers its question in a real browser, at two widths, in light and dark, and its address opens it again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tests.support import synthetic_runs
from tests.support.inspector import READY, Server, go, serial, wait_change

pytestmark = pytest.mark.browser

PAGES = {
    "": "Is iteration 2 better than iteration 1?",
    "pairs": "Margin",
    "margins": "How far apart are chosen and rejected?",
    "regressions": "Where did iteration 2 get worse than iteration 1?",
    "spot-check": "Write your name",
    "agreement": "Do people prefer what the run prefers?",
}


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.parametrize(("width", "dark"), [(1440, False), (1024, True), (1440, True), (1024, False)])
def test_page_renders(
    server: Server, open_page: Callable[..., Any], screenshots: Path, page: str, width: int, dark: bool
) -> None:
    tab = open_page(server.link(page, "small"), width, dark)
    assert PAGES[page] in tab.inner_text(READY)
    assert tab.evaluate("document.body.classList.contains('dark')") is dark
    assert tab.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), "the page scrolls sideways"
    assert tab.eval_on_selector_all(
        ".icr select, .icr input:not([type=hidden])", "all => all.every(e => e.labels.length || e.ariaLabel)"
    )
    tab.screenshot(path=screenshots / f"{page or 'overview'}-{width}-{'dark' if dark else 'light'}.png", full_page=True)


def preferences(server: Server, iteration: int = 2) -> Any:
    folder = server.folder / "artifacts" / "synthetic-scripts" / str(iteration) / "annotate" / "preferences"
    return pq.read_table(folder / "part-00000.parquet").to_pandas()


def listed(tab: Any) -> list[tuple[str, str]]:
    """(language, prompt id) of the rows shown."""
    return [
        tuple(row)
        for row in tab.eval_on_selector_all(
            "table.list tbody tr", "rows => rows.map(r => [...r.cells].slice(0, 2).map(c => c.innerText))"
        )
    ]


NAMES = {"en": "English", "es": "Spanish", "ar": "Arabic", "bn": "Bengali", "th": "Thai", "zh": "Chinese"}


def test_filters_and_sorts_of_pairs(server: Server, open_page: Callable[..., Any]) -> None:
    rows = preferences(server)
    rows["name"] = rows["language"].map(NAMES)
    tab = open_page(server.link("pairs", "small", iteration=2))

    def shows(query: str, expected: Any) -> None:
        go(tab, f"?run={server.runs['small']}&iteration=2&{query}")
        wanted = [(row["name"], row["prompt_id"]) for _, row in expected.iterrows()]
        assert set(listed(tab)) == set(wanted[:50]) if "sort" not in query else listed(tab) == wanted[:50], query

    shows("language=bn", rows[rows.language == "bn"])
    shows("margin_min=2&margin_max=3", rows[rows.margin.between(2, 3)])
    shows("length_min=90", rows[(rows.chosen_characters >= 90) | (rows.rejected_characters >= 90)])
    shows("q=p7&language=th", rows[(rows.prompt_id == "p7") & (rows.language == "th")])
    for column in ("margin", "chosen_reward", "rejected_reward", "chosen_characters", "rejected_characters"):
        for order in ("asc", "desc"):
            ordered = rows.sort_values(column, ascending=order == "asc", kind="stable")
            shows(f"sort={column}&order={order}", ordered)


def test_filter_form_dropped_and_search(server: Server, open_page: Callable[..., Any]) -> None:
    tab = open_page(server.link("pairs", "small", iteration=2))
    before = serial(tab)
    tab.select_option("select[name=language]", "ar")
    wait_change(tab, before)
    assert {language for language, _ in listed(tab)} == {"Arabic"}
    assert "language=ar" in tab.url
    before = serial(tab)
    tab.fill("input[name=q]", "النهر")
    tab.press("input[name=q]", "Enter")
    wait_change(tab, before)
    assert listed(tab)
    assert tab.evaluate("document.activeElement.name") == "q", "the search field keeps the focus"
    go(tab, f"?run={server.runs['small']}&iteration=2&dropped=truncated")
    folder = server.folder / "artifacts" / "synthetic-scripts" / "2" / "annotate" / "drops"
    drops = pq.read_table(folder / "part-00000.parquet").to_pandas()
    wanted = {(NAMES[r.language], r.prompt_id) for r in drops[drops.reason == "truncated"].itertuples()}
    assert set(listed(tab)) == wanted


def test_next_and_previous_by_keyboard(server: Server, open_page: Callable[..., Any]) -> None:
    rows = preferences(server).sort_values("margin", ascending=False)
    first, second = [(r.language, r.prompt_id) for r in rows.head(2).itertuples()]
    tab = open_page(server.link("pairs", "small", iteration=2, sort="margin", id=first[1], id_language=first[0]))
    assert "1 of 72" in tab.inner_text(READY)
    for key, expected in (("ArrowRight", second), ("ArrowLeft", first)):
        before = serial(tab)
        tab.keyboard.press(key)
        wait_change(tab, before)
        assert f"id={expected[1]}" in tab.url
        assert NAMES[expected[0]] in tab.inner_text("h1")
    before = serial(tab)
    tab.keyboard.press("Escape")
    wait_change(tab, before)
    assert len(listed(tab)) == 50


def test_pair_shows_everything(server: Server, open_page: Callable[..., Any]) -> None:
    row = preferences(server).query("language == 'ar'").iloc[0]
    tab = open_page(server.link("pairs", "small", iteration=2, id=row.prompt_id, id_language="ar"))
    texts = tab.eval_on_selector_all(".card .text", "all => all.map(e => e.textContent)")
    assert texts == [row.english_instruction, row.instruction, row.chosen, row.rejected]
    assert tab.eval_on_selector_all(".side .text", "all => all.map(e => getComputedStyle(e).direction)") == [
        "rtl",
        "rtl",
    ]
    assert tab.locator("details.sample").count() == 4
    rewards = [
        float(text.replace("−", "-"))
        for text in tab.eval_on_selector_all(
            "details.sample .figures > span:first-child", "all => all.map(e => e.lastChild.textContent.trim())"
        )
    ]
    assert rewards == sorted(rewards, reverse=True)


@pytest.mark.parametrize(
    "query",
    ["pairs?iteration=1&language=th&margin_min=1.5&sort=margin&order=asc", "pairs?iteration=2&id=p3&id_language=bn",
     "margins?iteration=1&language=zh", "regressions?iteration=2&base=0&flow=loss-win&rank=better",
     "regressions?iteration=2&base=1&measure=reward&language=es", "regressions?iteration=2&base=1&id=p4&id_language=ar",
     "agreement?language=es"],
)  # fmt: skip
def test_a_pasted_link_opens_the_same_view(server: Server, open_page: Callable[..., Any], query: str) -> None:
    page, _, params = query.partition("?")
    moved = open_page(server.link(page, "small"))
    go(moved, f"?run={server.runs['small']}&{params}")
    pasted = open_page(moved.url)
    assert pasted.url == moved.url
    assert pasted.inner_text("#main") == moved.inner_text("#main")
    assert pasted.locator("p.message.error").count() == 0


def test_back_button_and_margin_bars(server: Server, open_page: Callable[..., Any]) -> None:
    tab = open_page(server.link("margins", "small", iteration=2, language="en"))
    href = tab.get_attribute("svg a:has(.bar)", "href")
    tab.goto(server.address + href)
    tab.wait_for_selector("table.list")
    assert {language for language, _ in listed(tab)} == {"English"}
    before = serial(tab)
    tab.click("table.list tbody tr >> nth=0 >> td.snippet")
    wait_change(tab, before)
    assert tab.locator(".side.chosen").count() == 1
    before = serial(tab)
    tab.go_back()
    wait_change(tab, before)
    assert listed(tab)
    tab.goto(server.link("margins", "small", iteration=2, language="en"))
    tab.wait_for_selector("svg a:has(.heat)")
    tab.goto(server.address + str(tab.get_attribute("svg a:has(.heat)", "href")))
    tab.wait_for_selector("table.list, p.message")
    assert "Prompts with a sample of" in tab.inner_text(READY)


def test_regressions_show_both_outputs_and_the_reference(server: Server, open_page: Callable[..., Any]) -> None:
    tab = open_page(server.link("regressions", "small", iteration=2, base=1, id="p1", id_language="es"))
    text = tab.inner_text(READY)
    assert text.count("P(policy better)") + text.count("no verdict") == 4
    assert "Reference output" in text
    assert "Un perro pequeño duerme. (1)" in text
    assert "A small dog sleeps. (1)" in text


def test_references_in_another_run(server: Server, open_page: Callable[..., Any]) -> None:
    tab = open_page(server.link("regressions", "long", iteration=2, base=1, id="p1", id_language="en"))
    text = tab.inner_text(READY)
    assert "A small dog sleeps. 0" in text, "the reference output, from runs:/"
    assert "cannot be read" not in text
    go(tab, f"?run={server.runs['long']}&iteration=2&base=1")
    assert "The evaluation prompts cannot be read: run no-such-run: not found" in tab.inner_text(READY)
    assert "A small dog sleeps." in tab.inner_text(READY), "instructions come from the outputs then"


def test_quick_moves_end_where_the_last_one_went(server: Server, open_page: Callable[..., Any]) -> None:
    tab = open_page(server.link("pairs", "small", iteration=2))
    for code in ("es", "ar", "bn", "th"):
        tab.select_option("select[name=language]", code)
    tab.wait_for_function("document.querySelector('.icr').dataset.url.includes('language=th')")
    assert {language for language, _ in listed(tab)} == {"Thai"}
    tab.wait_for_function("!document.body.classList.contains('icr-busy')")


def test_why_a_pair_was_chosen_is_said(server: Server, open_page: Callable[..., Any]) -> None:
    row = preferences(server).query("language == 'es' and prompt_id == 'p1'").iloc[0]
    tab = open_page(server.link("pairs", "small", iteration=2, id=row.prompt_id, id_language="es"))
    assert (
        f"sample {row.chosen_index} has the highest reward after length is taken off, sample {row.rejected_index} the lowest"
        in (tab.inner_text(READY))
    )


@pytest.mark.parametrize(
    ("page", "params", "said"),
    [
        ("pairs", {"id": "p1", "id_language": "ar"}, 2),
        ("regressions", {"id": "p1", "id_language": "ar", "base": 1}, 1),
        ("regressions", {"id": "p1", "id_language": "ar", "base": 1, "measure": "reward"}, 1),
        ("regressions", {"id": "p0", "id_language": "en", "base": 1}, 1),
    ],
)
@pytest.mark.parametrize("width", [1440, 390])
def test_thoughts_stand_folded_beside_answers(
    server: Server, open_page: Callable[..., Any], screenshots: Path, page: str, params: dict[str, Any], said: int, width: int
) -> None:  # fmt: skip
    tab = open_page(server.link(page, "thinking", iteration=2, **params), width)
    folds = tab.locator(".card details.thought")
    assert folds.count() == said
    assert folds.nth(0).get_attribute("open") is None, "closed until somebody opens it"
    assert "the user wants" not in tab.inner_text("#main")
    summary = folds.nth(said - 1).locator("summary")
    assert "English" in summary.inner_text()
    assert "tokens" in summary.inner_text()
    tab.screenshot(path=screenshots / f"thoughts-{page}-{params['id']}-{width}.png", full_page=True)
    summary.focus()  # as Tab gets there
    tab.keyboard.press("Enter")
    assert f"I should answer in {params['id_language']}." in folds.nth(said - 1).inner_text()
    assert "<b>wide</b>" in tab.inner_text("#main"), "markup is text"
    tab.screenshot(path=screenshots / f"thoughts-{page}-{params['id']}-{width}-open.png", full_page=True)
    assert tab.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), "the page scrolls sideways"
    marked = tab.eval_on_selector_all(".card mark", "all => all.map(e => e.textContent).join()")
    assert "Hmm" not in marked, "only answers are compared"
    if params["id"] == "p0":
        assert "hit the token limit within its thought" in tab.inner_text("#main")
    if page == "regressions":
        assert tab.inner_text("#main").count("Nothing was thought here.") == 1


def test_without_thoughts_pages_say_nothing_of_them(server: Server, open_page: Callable[..., Any]) -> None:
    for page in ("pairs", "regressions"):
        tab = open_page(server.link(page, "small", iteration=2, id="p1", id_language="ar"))
        assert tab.locator(".thought").count() == 0
        assert "hought" not in tab.inner_text("#main")


@pytest.mark.parametrize(
    ("page", "params"),
    [
        ("pairs", {"id_language": "ar"}),
        ("regressions", {"id_language": "ar", "base": 1}),
        ("regressions", {"id_language": "ar", "base": 1, "measure": "reward"}),
    ],
)
@pytest.mark.parametrize("width", [1440, 390])
def test_a_conversation_stands_folded_above_its_last_turn(
    server: Server, open_page: Callable[..., Any], screenshots: Path, page: str, params: dict[str, Any], width: int
) -> None:
    tab = open_page(server.link(page, "conversations", iteration=2, id="p1", **params), width)
    folds = tab.locator(".card details.earlier")
    assert folds.count() == 2, "in English and in the prompt's language"
    assert folds.nth(0).get_attribute("open") is None, "closed until somebody opens it"
    assert "No lists." not in tab.inner_text("#main")
    for number in range(2):
        folds.nth(number).locator("summary").focus()
        tab.keyboard.press("Enter")
        assert "5 earlier messages" in folds.nth(number).inner_text()
    roles = folds.nth(1).locator("h3").all_inner_texts()
    assert roles == ["System", "User", "Assistant", "User", "Assistant"]
    words = synthetic_runs.WORDS
    for fold, language, direction in zip((folds.nth(0), folds.nth(1)), ("en", "ar"), ("ltr", "rtl"), strict=True):
        texts = fold.locator(".text")
        assert texts.nth(0).inner_text() == "Answer in one sentence. <b>No lists.</b>", "markup is text"
        assert texts.nth(1).inner_text() == f"{words[language][2]}?"
        assert texts.nth(1).evaluate("element => getComputedStyle(element).direction") == direction
    tab.screenshot(
        path=screenshots / f"conversation-{page}-{params.get('measure', 'judge')}-{width}.png", full_page=True
    )
    assert tab.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), "the page scrolls sideways"
    tab = open_page(server.link(page, "conversations", iteration=2, id="p0", **params), width)
    assert tab.locator("details.earlier").count() == 0


def test_pairs_are_found_by_earlier_turns_and_listed_by_the_last(server: Server, open_page: Callable[..., Any]) -> None:
    spanish = synthetic_runs.WORDS["es"]
    tab = open_page(server.link("pairs", "conversations", iteration=2, language="es", q=f"{spanish[2]}?"))
    rows = tab.locator("table.list tbody tr")
    assert {text.split()[0] for text in rows.locator("td.id").all_inner_texts()} <= {"p1", "p3"}
    assert all(spanish[2] + "?" not in text for text in rows.locator("td.snippet").all_inner_texts())
    tab = open_page(server.link("pairs", "conversations", iteration=2, language="es", q="assistant"))
    assert "There is nothing to show" in tab.inner_text("#main"), "the names of roles are no text"
