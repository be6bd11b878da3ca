"""The report: self-contained, escaped, and right about changes."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from rich.console import Console

from icr_platform.report.arm_report import ExamplePair, Report, write_report
from icr_platform.report.iteration_metrics import IterationMetrics, languages_of, measured_of
from icr_platform.report.leaderboard import leaderboard, published, published_table
from icr_platform.report.terminal_tables import eval_terminal_table, leaderboard_terminal_table, terminal_table

HOSTILE = '</script><img src="https://evil.example/x.png"><script>alert(1)</script> & "quoted"'
ITERATIONS = [
    IterationMetrics(i, {"win_rate/es": 40.0 + i, "win_rate_se/es": 2.0, "win_rate/en": 50.0, "win_rate/mean": 45.0,
                         "fidelity/es": 99.0, "margin/median/es": 0.5 * i, "train/loss": 0.6})
    for i in range(3)
]  # fmt: skip


class Links(HTMLParser):
    """Everything in the page that could load something, scripts' own text aside."""

    def __init__(self) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.loaded += [str(value) for name, value in attrs if name in ("src", "href", "srcset", "action", "data")]

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def test_the_file_loads_nothing_and_shows_hostile_text_as_text(tmp_path: Path) -> None:
    example = ExamplePair(1, "ar", "p1", HOSTILE, HOSTILE, HOSTILE, HOSTILE, 0.5)
    report = Report(HOSTILE, HOSTILE, ITERATIONS, HOSTILE, "abc", {HOSTILE: HOSTILE}, [example], [HOSTILE])
    write_report(tmp_path / "report.html", report)
    page = Links()
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    page.feed(html)
    assert page.loaded == []
    assert "".join(page.text).count(HOSTILE) >= 10
    assert "default-src 'none'" in html
    assert not re.search(r"@import|url\(", html)
    assert "<script" not in html
    assert 'dir="rtl"' in html


def test_what_was_not_measured_is_left_out(tmp_path: Path) -> None:
    write_report(tmp_path / "report.html", Report("t", "a", [IterationMetrics(0, {})]))
    write_report(tmp_path / "one.html", Report("t", "a", [IterationMetrics(0, {"win_rate/es": 40.0})], published=False))
    assert "Published" not in (tmp_path / "one.html").read_text(encoding="utf-8")


def test_changes_are_against_the_iteration_before() -> None:
    gap = [ITERATIONS[0], IterationMetrics(1, {}), ITERATIONS[2]]
    assert [found.change for found in measured_of(ITERATIONS, "win_rate", "es")] == [None, 1.0, 1.0]
    assert [found.change for found in measured_of(gap, "win_rate", "es")] == [None, None, None]
    assert languages_of(ITERATIONS, "win_rate") == ["en", "es", "mean"]


def test_the_terminal_table_states_value_error_and_change() -> None:
    console = Console(width=120, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(terminal_table(ITERATIONS))
    text = console.export_text()
    assert "42.0 ± 2.0 +1.0" in text
    assert "pi_2" in text


def test_published_means_match_the_published_cells() -> None:
    for column in ("win_rate", "lc_win_rate"):
        frame = published_table(column).dropna(subset=["mean"])
        means = frame[["en", "es", "ru", "de", "fr"]].mean(axis=1)
        assert means.to_numpy() == pytest.approx(frame["mean"].to_numpy(), abs=0.011)
    assert all(cell.source.startswith("arXiv 2503.04647") for cell in published())


def test_own_policies_stand_above_the_published_ones_in_their_languages() -> None:
    own = {"mine": {"win_rate/es": 40.0, "win_rate_se/es": 1.5, "win_rate/sw": 12.34, "win_rate/mean": 26.2,
                    "fidelity/es": 99.0, "fidelity/sw": 98.0}}  # fmt: skip
    table = leaderboard(own)
    assert list(table.columns) == ["model", "source", "es", "sw"], "the published mean is over other languages"
    assert table.iloc[0].tolist() == ["mine", "this run", 40.0, 12.34]
    paper = table[table["model"] == "Llama-3-8B-SFT"].iloc[0]
    assert (paper["es"], paper["source"]) == (3.77, "arXiv 2503.04647, Table 2")
    five = {f"win_rate/{code}": 50.0 for code in ("en", "es", "ru", "de", "fr", "mean")}
    assert "mean" in leaderboard({"mine": five}).columns
    assert leaderboard({"mine": {"fidelity/es": 99.0}}).empty
    own["mine"]["win_rate/sd"] = 33.25  # a language that the identifier does not know
    console = Console(width=120, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(leaderboard_terminal_table(table))
    console.print(eval_terminal_table(own["mine"], "mine"))
    text = console.export_text()
    assert "3.77" in text
    assert "40.0 ± 1.5" in text
    assert [line for line in text.splitlines() if "Sindhi" in line and "33.2" in line and "-" in line]
