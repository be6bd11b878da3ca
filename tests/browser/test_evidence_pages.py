"""What was seen without a judge, in a real browser: marked lines, verdicts on instructions, figures with intervals."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.evidence_run import ENGLISH_LINE, HOSTILE
from tests.support.inspector import READY, Server

pytestmark = pytest.mark.browser


def marked(tab: Any) -> list[str]:
    """The lines that are marked in the cards of both sides."""
    return [text.strip() for text in tab.eval_on_selector_all(".side .foreign", "all => all.map(e => e.textContent)")]


@pytest.mark.parametrize("language", ["es", "ar"])
@pytest.mark.parametrize(
    ("page", "measure"), [("regressions", "judge"), ("regressions", "instructions"), ("pairs", "")]
)
def test_lines_in_another_language_are_marked_and_named(
    server: Server, open_page: Callable[..., Any], screenshots: Path, page: str, measure: str, language: str
) -> None:
    place = {"measure": measure, "base": 1, "iteration": 2} if measure else {"iteration": 1}
    tab = open_page(server.link(page, "evidence", id="p0", id_language=language, **place))
    if page == "regressions":
        assert marked(tab) == [ENGLISH_LINE], "of iteration 1 alone"
        assert tab.inner_text(".side .foreign-lines") == "another language line 2: English"
    else:
        samples = tab.eval_on_selector_all(".sample .foreign", "all => all.map(e => e.textContent)")
        assert [line.strip() for line in samples] == [ENGLISH_LINE], "one of three samples"
    marks = tab.eval_on_selector_all(".foreign", "all => all.map(e => e.title)")
    assert set(marks) == {"This line is taken for English"}
    if language == "ar":
        texts = tab.query_selector_all(".foreign")
        assert all(text.evaluate("e => getComputedStyle(e.closest('.text')).direction") == "rtl" for text in texts)
        assert all(text.evaluate("e => getComputedStyle(e).direction") == "ltr" for text in texts), (
            "English has its own"
        )
    tab.screenshot(path=screenshots / f"foreign-{page}-{measure or 'pair'}-{language}.png", full_page=True)


def test_verdicts_on_instructions_stand_beside_the_output(
    server: Server, open_page: Callable[..., Any], screenshots: Path
) -> None:
    link = server.link(
        "regressions", "evidence", measure="instructions", iteration=2, base=1, id="p0", id_language="ar"
    )
    tab = open_page(link, width=1024)
    lists = [block.inner_text().split("\n") for block in tab.query_selector_all(".checks")]
    before, after = ([" ".join(line.split()) for line in lines if line.strip()] for lines in lists)
    assert before[0] == "✓ followed punctuation:no_comma"
    assert before[1].startswith("✗ not followed length_constraints:number_words")
    assert after[1].startswith("✓ followed length_constraints:number_words")
    assert before[2] == "≈ only loosely startend:quotation"
    assert before[3].startswith("? unverified change_case:english_capital")
    assert "Arabic has no case" in before[3]
    assert "<script>" in before[3], "text, and nothing that runs"
    assert HOSTILE not in tab.inner_text(READY), "what reorders a line is written out or cut"
    assert not tab.evaluate("window.__hit")
    tab.screenshot(path=screenshots / "instructions-1024.png", full_page=True)


def test_prompts_are_ranked_by_the_instructions_they_follow(server: Server, open_page: Callable[..., Any]) -> None:
    tab = open_page(server.link("regressions", "evidence", measure="instructions", rank="better", iteration=2, base=1))
    told = " ".join(tab.inner_text(READY).split())
    assert "9 prompts under both policies: all instructions followed 0.0% → 33.3%" in told
    first = tab.inner_text("table.list tbody tr:first-child").split("\t")
    assert [cell.strip() for cell in first][-3:] == ["0.000", "1.000", "+1.000"]


@pytest.mark.parametrize(("width", "dark"), [(1440, False), (1024, True)])
def test_the_overview_shows_what_was_seen_without_a_judge(
    server: Server, open_page: Callable[..., Any], screenshots: Path, width: int, dark: bool
) -> None:
    tab = open_page(server.link("", "evidence"), width, dark)
    headings = [heading.inner_text() for heading in tab.query_selector_all("h2")]
    wanted = ["Is the reward right?", "Are instructions followed?", "Is the language right?"]
    assert [heading for heading in headings if heading.endswith("?")] == wanted
    table = tab.inner_text('[aria-label="On labelled pairs"]')
    rows = [" ".join(line.split()) for line in table.split("\n")]
    assert "English cross-lingual 71.0 (67–75) 72.0 (68–76) +1.0" in " | ".join(rows).replace(" | ", " ")
    assert tab.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), "the page scrolls sideways"
    tab.screenshot(path=screenshots / f"overview-evidence-{width}.png", full_page=True)
    spanish = open_page(server.link("", "evidence", language="es"), width, dark).inner_text(
        '[aria-label="On labelled pairs"]'
    )
    assert "Arabic" not in spanish
    assert "Mean" in spanish
