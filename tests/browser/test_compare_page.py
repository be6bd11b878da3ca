"""Compare in a real browser: any two sides, what flipped first, slices, both texts, and one line for whatever cannot be compared."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from tests.browser.test_evidence_pages import marked
from tests.support import synthetic_runs
from tests.support.evidence_run import ENGLISH_LINE
from tests.support.inspector import READY, Server, go, serial, wait_change
from ui.tables.runs import FRESH_SECONDS

pytestmark = pytest.mark.browser

FIRST, SECOND = "runs-of:synthetic-first", "runs-of:synthetic-second"


def address(server: Server, left: str, right: str, **params: object) -> str:
    """Of Compare. left, right: a run's short name, `runs-of:ARM`, or `file:` with a file's short name."""
    named = {"left": left, "right": right}
    for side, value in named.items():
        kind, _, name = value.partition(":")
        if kind == "file":
            place = {"no-ids": "no-ids.json", "no-outputs": "no-outputs.json"}.get(name, f"outputs-{name}")
            named[side] = f"file:{server.folder / place}"
        elif value in server.runs:
            named[side] = server.runs[value]
    return f"{server.address}/compare?{urlencode({**named, **params})}"


def told(tab: Any) -> str:
    """What the page says, on one line."""
    text = " ".join(str(tab.inner_text(READY)).split())
    assert "Something went wrong" not in text
    assert "Traceback" not in text
    return text


@pytest.mark.parametrize(("width", "dark"), [(1440, False), (390, True)])
def test_two_arms_of_two_seeds(
    server: Server, open_page: Callable[..., Any], screenshots: Path, width: int, dark: bool
) -> None:
    tab = open_page(address(server, FIRST, SECOND), width, dark)
    text = told(tab)
    assert "14 prompts on both sides: win rate" in text, "the judge failed on the others"
    assert "Languages, paired by prompt and seed" in text
    assert "2 and 2 runs, whose seeds are drawn as prompts are" in text
    assert [cell.inner_text() for cell in tab.query_selector_all('[aria-label="Languages, paired by prompt"] tbody th')] == [
        "English", "Arabic", "Spanish", "Mean", "Mean, non-English",
    ]  # fmt: skip
    assert tab.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), "the page scrolls sideways"
    assert tab.eval_on_selector_all(".icr select", "all => all.every(e => e.labels.length)")
    tab.screenshot(path=screenshots / f"compare-{width}-{'dark' if dark else 'light'}.png", full_page=True)


@pytest.mark.parametrize("width", [1440, 390])
def test_one_prompt_of_both_sides(server: Server, open_page: Callable[..., Any], screenshots: Path, width: int) -> None:
    tab = open_page(address(server, FIRST, SECOND, id="p0", id_language="ar"), width)
    text = told(tab)
    assert "Output 2 of 2" in text, "of both seeds"
    assert "A: synthetic-first, iteration 1, 2 runs" in text
    assert text.count("P(policy better)") + text.count("no verdict") == 8
    assert marked(tab) == [ENGLISH_LINE] * 2, "of the first side alone, in both seeds"
    assert set(tab.eval_on_selector_all(".side .text", "all => all.map(e => getComputedStyle(e).direction)")) == {"rtl"}
    assert tab.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), "the page scrolls sideways"
    tab.screenshot(path=screenshots / f"compare-prompt-{width}.png", full_page=True)
    before = serial(tab)
    tab.keyboard.press("Escape")
    wait_change(tab, before)
    assert "Prompts, what flipped first" in told(tab)


def test_what_flipped_comes_first_and_can_be_listed_alone(server: Server, open_page: Callable[..., Any]) -> None:
    tab = open_page(address(server, "first-1", "second-1", measure="lines"))
    rows = [row.inner_text().split("\t") for row in tab.query_selector_all("table.list tbody tr")]
    changes = [row[-1].strip() for row in rows]
    assert changes == ["+1.000"] * 4 + ["0.000"] * 14
    assert {(row[0], row[1]) for row in rows[:4]} == {
        (name, key) for name in ("Arabic", "Spanish") for key in ("p0", "p1")
    }
    before = serial(tab)
    tab.click("text=flips alone")
    wait_change(tab, before)
    assert tab.locator("table.list tbody tr").count() == 4
    assert "flow=flips" in tab.url
    before = serial(tab)
    tab.click('table.flow a:text-is("14")')
    wait_change(tab, before)
    assert tab.locator("table.list tbody tr").count() == 14


def test_slices_narrow_everything(server: Server, open_page: Callable[..., Any]) -> None:
    tab = open_page(address(server, "first-1", "second-1", measure="length"))
    assert "longer by over 10%" not in tab.inner_text("#main"), "one slice alone is no table"
    assert "18 prompts on both sides: mean length" in told(tab)
    assert "Data sets" in told(tab)
    before = serial(tab)
    tab.click("#main a:has-text('vicuna')")
    wait_change(tab, before)
    assert "source=vicuna" in tab.url
    assert tab.locator("table.list tbody tr").count() == 9
    assert "the prompts that the filters leave" in told(tab)
    before = serial(tab)
    tab.select_option("select[name=relative]", "shorter")
    wait_change(tab, before)
    assert "No prompt passes the filters" in told(tab)


def test_kinds_of_instructions(server: Server, open_page: Callable[..., Any], screenshots: Path) -> None:
    run = server.runs["evidence"]
    tab = open_page(address(server, run, run, left_at=1, right_at=2, measure="instructions"))
    assert "9 prompts on both sides: all instructions followed 0.0% → 33.3%" in told(tab)
    before = serial(tab)
    tab.click("a:has-text('length_constraints')")
    wait_change(tab, before)
    assert "kind=length_constraints" in tab.url
    assert "all instructions followed 0.0% → 100.0%, +100.0 points" in told(tab)
    tab = open_page(
        address(server, run, run, left_at=1, right_at=2, measure="instructions", id="p0", id_language="ar"), 390
    )
    assert tab.locator(".checks").count() == 2
    assert not tab.evaluate("window.__hit")
    tab.screenshot(path=screenshots / "compare-instructions-390.png", full_page=True)


def test_two_files_of_outputs(server: Server, open_page: Callable[..., Any], screenshots: Path) -> None:
    tab = open_page(address(server, "file:first", "file:second"), 390)
    assert "18 prompts on both sides: mean length" in told(tab)
    tab.screenshot(path=screenshots / "compare-files-390.png", full_page=True)
    go(tab, f"?{tab.url.partition('?')[2]}&id=p1&id_language=es")
    assert marked(tab) == [ENGLISH_LINE]
    assert "language cannot be told" not in told(tab), "nothing identified the outputs of a file"


def test_a_file_beside_a_run_and_one_that_names_neither_prompts_nor_language(
    server: Server, open_page: Callable[..., Any]
) -> None:
    tab = open_page(address(server, "second-1", "file:first"))
    assert "18 prompts on both sides: mean length" in told(tab)
    tab = open_page(address(server, "second-1", "file:no-ids"))
    text = told(tab)
    assert "6 prompts on both sides" in text
    assert "12 prompts of A alone" in text


def test_an_evaluation_of_its_own_shares_some_prompts(server: Server, open_page: Callable[..., Any]) -> None:
    tab = open_page(address(server, "first-1", "evaluation"))
    text = told(tab)
    assert "3 prompts on both sides: win rate" in text
    assert "Not compared: 13 prompts of A alone" in text


CANNOT: list[tuple[str, str, dict[str, object], str]] = [
    ("first-1", "words", {"measure": "length"}, "The two have 18 prompt ids in common, but other instructions under them: they answered other prompts."),
    ("first-1", "german", {}, "The two have no language in common: A has Arabic, English, Spanish, B has German."),
    ("first-1", "judge", {"measure": "judge"}, "A was judged by synthetic-pseudo-judge, B by another-judge: win rates of two judges do not compare"),
    ("first-1", "running", {}, "No iteration of synthetic-running has finished anything to compare (it is "),
    ("first-1", "first-1", {"right_at": 7}, "This run has no iteration 7; it has: 1."),
    ("first-1", "0" * 32, {}, "There is no run '00000000000000000000000000000000' here"),
    ("first-1", "old", {"measure": "reward"}, "has no reward to compare: it has no annotate run with them"),
    ("file:first", "file:no-outputs", {}, "no-outputs.json: row 1: field 'output' is missing"),
    ("file:first", "file:../../etc/passwd", {}, "is none of the files that the inspector was started with"),
    ("second-1", "file:first", {"measure": "judge"}, "B is a file, and no judge has seen its outputs"),
    ("first-1", "runs-of:nobody", {}, "There is no run of an arm 'nobody'"),
    ("first-1", "", {}, "Choose two sides"),
    ("first-1", "second-1", {"id": "nothing", "id_language": "es"}, "Neither side has an output for this prompt"),
    ("first-1", "second-1", {"measure": "beauty"}, "measure='beauty'"),
]  # fmt: skip


def test_what_cannot_be_compared_is_said_in_one_line(server: Server, open_page: Callable[..., Any]) -> None:
    tab = open_page(address(server, FIRST, SECOND), 390)
    for left, right, params, sentence in CANNOT:
        go(tab, "?" + address(server, left, right, **params).partition("?")[2])
        assert sentence in told(tab)
        assert tab.locator("select[name=left]").count() == 1, "another side can be chosen"
        assert tab.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), "the page scrolls sideways"


def test_a_run_that_was_deleted_is_said(server: Server, open_page: Callable[..., Any]) -> None:
    import mlflow

    run = server.runs["german"]
    tab = open_page(address(server, "first-1", "second-1"))
    mlflow.MlflowClient(f"sqlite:///{server.folder / 'mlflow.db'}").delete_run(run)
    time.sleep(FRESH_SECONDS)
    go(tab, "?" + address(server, "first-1", "german").partition("?")[2])
    assert f"Run {run} was deleted from MLflow; restore it there" in told(tab)


def test_another_judge_leaves_what_needs_none(server: Server, open_page: Callable[..., Any]) -> None:
    tab = open_page(address(server, "first-1", "judge"))
    text = told(tab)
    assert "win rates of two judges do not compare" in text
    assert "all lines in the language" in text


def test_a_side_that_is_chosen_forgets_the_iteration_of_the_last(server: Server, open_page: Callable[..., Any]) -> None:
    run = server.runs["small"]
    tab = open_page(address(server, run, run, left_at=1, right_at=2, measure="judge"))
    before = serial(tab)
    tab.select_option("select[name=right]", server.runs["evidence"])
    wait_change(tab, before)
    assert f"right={server.runs['evidence']}" in tab.url
    assert "right_at=2" in tab.url, "its last iteration, which the page filled in"
    tab = open_page(f"{server.address}/compare?run={run}")
    assert f"left={run}&left_at=1&right={run}&right_at=2&measure=judge" in tab.url, (
        "the address says what the page chose"
    )


@pytest.mark.parametrize(
    "query", ["measure=lines&flow=loss-win&language=ar", "measure=length&source=koala&rank=better", "id=p4&id_language=ar"]
)  # fmt: skip
def test_a_pasted_link_opens_the_same_comparison(server: Server, open_page: Callable[..., Any], query: str) -> None:
    moved = open_page(f"{address(server, FIRST, SECOND)}&{query}")
    pasted = open_page(moved.url)
    assert pasted.url == moved.url
    assert pasted.inner_text("#main") == moved.inner_text("#main")
    assert pasted.locator("p.message.error").count() == 0


def test_thoughts_and_conversations(server: Server, open_page: Callable[..., Any]) -> None:
    run = server.runs["thinking"]
    tab = open_page(address(server, run, run, left_at=1, right_at=2, id="p1", id_language="ar"), 390)
    folds = tab.locator(".card details.thought")
    assert folds.count() == 1
    assert folds.nth(0).get_attribute("open") is None
    assert "Nothing was thought here." in told(tab)
    run = server.runs["conversations"]
    tab = open_page(address(server, run, run, left_at=1, right_at=2, id="p1", id_language="ar"), 390)
    assert tab.locator(".card details.earlier").count() == 2, "in English and in the prompt's language"
    assert synthetic_runs.WORDS["ar"][2] not in tab.locator(".card details.earlier").nth(1).inner_text()
