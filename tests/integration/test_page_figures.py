"""Figures that stand on the inspector's pages, recomputed by DuckDB from the artifacts: what a person reads is what the tables say."""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from typing import Any

import duckdb
import pandas as pd
import pytest

from icr_platform.core.languages import language_label
from tests.support import synthetic_runs
from ui.pages.inspector import Inspector
from ui.pages.shell import render_page
from ui.pages.table_of_pages import PAGES
from ui.review.verdicts import Verdict
from ui.server.app import open_inspector
from ui.server.options import InspectOptions

LANGUAGES = ("en", "ar", "bn", "es", "th", "zh")
# A prompt's orders and samples count once, and one that lacks a judgment not at all.
PROMPTS = """SELECT language, prompt_id, 100 * avg(preference) AS value FROM judgments_{t}
             GROUP BY language, prompt_id HAVING count(preference) = count(*)"""
BOTH = f"""SELECT language, prompt_id, b.value AS before, a.value AS after, a.value - b.value AS change
           FROM ({PROMPTS.format(t=1)}) AS b JOIN ({PROMPTS.format(t=2)}) AS a USING (language, prompt_id)"""


class Tables(HTMLParser):
    """The tables of a page by the heading of their first columns: rows of texts."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self._all: list[list[list[str]]] = []
        self._in_cell = False
        self._words: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        if tag == "table":
            self._all.append([])
        elif tag == "tr" and self._all:
            self._all[-1].append([])
        elif tag in ("td", "th") and self._all and self._all[-1]:
            self._all[-1][-1].append("")
            self._in_cell = True
        elif self._in_cell:
            self._all[-1][-1][-1] += " "

    def handle_endtag(self, tag: str) -> None:
        self._in_cell = self._in_cell and tag not in ("td", "th")

    def handle_data(self, data: str) -> None:
        self._words.append(data)
        if self._in_cell:
            self._all[-1][-1][-1] += data

    @property
    def text(self) -> str:
        return re.sub(r" ([,;])", r"\1", " ".join(" ".join(self._words).split()))

    def rows(self, *heading: str) -> list[list[str]]:
        """Those of the first table whose heading begins so."""
        tables = [[[" ".join(cell.split()) for cell in row] for row in table] for table in self._all]
        return next(table for table in tables if table and table[0][: len(heading)] == list(heading))[1:]


class Page:
    """A page of the run, and DuckDB over the run's artifacts."""

    def __init__(self, inspector: Inspector, run_id: str) -> None:
        self.inspector, self.run_id = inspector, run_id
        self._database = duckdb.connect()
        arm = inspector.catalogue.arm(run_id)
        for t, names in ((1, ("outputs", "judgments", "preferences", "rewards", "responses", "drops")), (2, ())):
            for name in names or ("outputs", "judgments", "preferences", "rewards", "responses", "drops"):
                parts = [str(part) for part in inspector.catalogue.artifact(arm.iteration(t), name).parts]
                self._database.execute(f"CREATE VIEW {name}_{t} AS SELECT * FROM read_parquet({parts!r})")

    def read(self, address: str, **params: object) -> Tables:
        (page,) = [page for page in PAGES if page.address == address]
        return Tables(render_page(self.inspector, page, {"run": self.run_id, **{k: str(v) for k, v in params.items()}}))

    def sql(self, query: str) -> list[tuple[Any, ...]]:
        return self._database.execute(query).fetchall()

    def view(self, name: str, frame: pd.DataFrame) -> None:
        self._database.register(name, frame)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    folder = tmp_path_factory.mktemp("figures")
    run = synthetic_runs.small_run(synthetic_runs.open_tracker(folder), folder / "artifacts", per_language=40)
    store = f"sqlite:///{folder / 'mlflow.db'}"
    inspector = open_inspector(InspectOptions(tracking_uri=store, verdicts=str(folder / "verdicts.db")))
    yield Page(inspector, run.run_id)
    inspector.catalogue.close()


def shown(value: float, digits: int = 1, sign: bool = False) -> str:
    text = f"{value:+.{digits}f}" if sign else f"{value:.{digits}f}"
    return text.replace("-", "−")


def test_win_rates_and_their_changes(page: Page) -> None:
    """One change of each language on Overview's list and table, on Regressions and on Compare, with the prompts it is over."""
    overview, regressions, compare = page.read(""), page.read("regressions"), page.read("compare")
    by_slice = f"SELECT language, count(*), avg(before), avg(after), avg(change) FROM ({BOTH}) GROUP BY language"
    expected = {row[0]: row[1:] for row in page.sql(by_slice)}
    table = {(row[0], row[1]): row for row in overview.rows("Language", "Iteration", "Win rate")}
    pages = [regressions.rows("Language", "Prompts", "Before → after"), compare.rows("Language", "Prompts", "A → B")]
    for code in LANGUAGES:
        n, before, after, change = expected[code]
        name = language_label(code)
        said = f"{shown(before)}% → {shown(after)}%, {shown(change, sign=True)} points"
        assert f"{said} (95% interval" in overview.text
        assert f"{n} prompts" in overview.text
        cell = table[name, "2"][2].split()
        assert shown(change, sign=True) in cell, f"{name}: the table has another change than the list"
        for rows in pages:
            (row,) = [row for row in rows if row[0] == name]
            assert row[1:4] == [str(n), f"{shown(before)} → {shown(after)}", shown(change, sign=True)]


def test_levels_of_an_iteration(page: Page) -> None:
    table = {(row[0], row[1]): row for row in page.read("").rows("Language", "Iteration", "Win rate")}
    for t, code in itertools.product((1, 2), LANGUAGES):
        ((rate, n),) = page.sql(f"SELECT avg(value), count(*) FROM ({PROMPTS.format(t=t)}) WHERE language = '{code}'")
        ((length,),) = page.sql(f"SELECT avg(character_count) FROM outputs_{t} WHERE language = '{code}'")
        ((margin,),) = page.sql(f"SELECT median(margin) FROM preferences_{t} WHERE language = '{code}'")
        row = table[language_label(code), str(t)]
        assert row[2].split()[0] == shown(rate)
        assert row[5].split()[0] == shown(margin, 2)
        assert row[6].split()[0] == shown(length, 0)
        assert row[7] == str(n)


def test_who_got_worse(page: Page) -> None:
    found = page.read("regressions")
    ((n, worse, better, before, after, change),) = page.sql(
        f"SELECT count(*), count(*) FILTER (change < 0), count(*) FILTER (change > 0), avg(before), avg(after), avg(change) FROM ({BOTH})"
    )
    assert f"{n} prompts under both policies" in found.text
    assert f"win rate {shown(before)}% → {shown(after)}%, {shown(change, sign=True)} points" in found.text
    assert f"worse on {worse}, better on {better}" in found.text
    (worst,) = page.sql(f"SELECT language, prompt_id, before, after, change FROM ({BOTH}) ORDER BY change LIMIT 1")
    row = found.rows("Language", "Prompt", "Instruction", "Data set")[0]
    assert row[:2] == [language_label(worst[0]), worst[1]]
    assert row[4:] == [
        shown(value / 100, 3, sign) for value, sign in ((worst[2], False), (worst[3], False), (worst[4], True))
    ]
    # A preference within 0.05 of a half is a tie: the judge could not tell.
    outcome = "CASE WHEN {0} > 55 THEN 'win' WHEN {0} < 45 THEN 'loss' ELSE 'tie' END"
    flow = f"SELECT {outcome.format('before')}, {outcome.format('after')}, count(*) FROM ({BOTH}) GROUP BY ALL"
    counts = {(was, now): count for was, now, count in page.sql(flow)}
    for was, row in zip(("win", "tie", "loss"), found.rows("", "win after"), strict=True):
        assert row[1:] == [str(counts.get((was, now), 0)) for now in ("win", "tie", "loss")]


def test_margins(page: Page) -> None:
    found = page.read("margins", iteration=2)
    rows = {(row[0], row[1]): row for row in found.rows("Language", "Iteration", "Pairs")}
    quantiles = ", ".join(f"quantile_cont(margin, {share})" for share in (0.05, 0.25, 0.5, 0.75, 0.95))
    for t, code in itertools.product((1, 2), LANGUAGES):
        (expected,) = page.sql(
            f"SELECT count(*), {quantiles}, any_value(length_penalty_alpha) FROM preferences_{t} WHERE language = '{code}'"
        )
        row = rows[language_label(code), str(t)]
        assert row[2] == str(expected[0])
        assert row[3:8] == [shown(value, 2) for value in expected[1:6]]
        assert row[8] == shown(expected[6], 5)
    for title, order in (("largest", "DESC"), ("smallest", "ASC")):
        (end,) = page.sql(f"SELECT language, prompt_id, margin FROM preferences_2 ORDER BY margin {order} LIMIT 1")
        assert f"{language_label(end[0])} {end[1]} {shown(end[2], 3)}" in found.text, title


def test_pairs(page: Page) -> None:
    found = page.read("pairs", iteration=2, sort="margin", order="desc", language="es")
    ((total,),) = page.sql("SELECT count(*) FROM preferences_2 WHERE language = 'es'")
    assert f"of {total} " in found.text
    expected = page.sql(
        """SELECT prompt_id, margin, chosen_reward, rejected_reward, chosen_characters, rejected_characters FROM preferences_2
           WHERE language = 'es' ORDER BY margin DESC LIMIT 5"""
    )
    for row, values in zip(found.rows("Language", "Prompt", "Instruction"), expected, strict=False):
        assert [row[1], *row[3:]] == [values[0], *(shown(v, 2) for v in values[1:4]), *(str(v) for v in values[4:])]


def test_agreement(page: Page) -> None:
    """Blind verdicts of the random queue alone; skipped items are not judged."""
    rng, rows = random.Random(3), []
    queues = ("random", "random", "random", "smallest-margin")
    for number, (name, prompt) in enumerate(itertools.product(("Ana", "Bo", "Cleo"), range(25))):
        side, is_blind = rng.random() < 0.5, rng.random() < 0.8
        verdict = Verdict(
            submission=f"v{number}", reviewer=name, run_id=page.run_id, item=f"pair/2//es/p{prompt}", kind="pair", language="es",
            prompt_id=f"p{prompt}", iteration=2, base=None, queue=queues[number % 4], left="chosen" if side else "rejected",
            right="rejected" if side else "chosen", choice=rng.choice(["left", "left", "right", "tie", "skip"]), reasons=(), note="",
            blind=is_blind, seconds=9.0, margin=1.0, left_characters=80, right_characters=60,
            left_score=1.0 if side else 0.0, right_score=0.0 if side else 1.0,
        )  # fmt: skip
        page.inspector.verdicts.append(verdict)
        rows.append({**vars(verdict), "reasons": ""} if hasattr(verdict, "__dict__") else {})
    page.view("verdicts", pd.DataFrame(rows))
    counted = "(SELECT * FROM verdicts WHERE blind AND queue = 'random')"
    found = page.read("agreement")
    ((n, items, reviewers),) = page.sql(
        f"SELECT count(*), count(DISTINCT item) FILTER (choice <> 'skip'), count(DISTINCT reviewer) FROM {counted}"
    )
    assert f"{n} blind verdicts of the random queue on {items} items by {reviewers} reviewers" in found.text
    for name, verdicts, left, skipped in page.sql(
        f"SELECT reviewer, count(*), count(*) FILTER (choice = 'left'), count(*) FILTER (choice = 'skip') FROM {counted} GROUP BY reviewer"
    ):
        (row,) = [row for row in found.rows("Reviewer", "Blind") if row[0] == name]
        assert [row[1], row[2], row[6]] == [str(verdicts), str(left), str(skipped)]
    preferred = "CASE choice WHEN 'left' THEN \"left\" WHEN 'right' THEN \"right\" END"
    votes = f"""SELECT item, count(*) FILTER ({preferred} = 'chosen') AS chosen, count(*) FILTER ({preferred} = 'rejected') AS rejected,
                       count(*) FILTER (choice = 'tie') AS tie FROM {counted} WHERE choice <> 'skip' GROUP BY item"""
    ((agreed, decided),) = page.sql(
        f"""SELECT count(*) FILTER (chosen > greatest(rejected, tie)),
                   count(*) FILTER (chosen > greatest(rejected, tie) OR rejected > greatest(chosen, tie)) FROM ({votes})"""
    )
    rows_of = found.rows("Compared with", "Agree")
    assert rows_of[0][1] == f"{shown(100 * agreed / decided)}%"
    assert rows_of[0][3] == str(decided)
