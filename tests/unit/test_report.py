"""The report: self-contained, escaped, and right about changes."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest
from rich.console import Console

from icr_platform.report.arm_report import ExamplePair, Report, write_report
from icr_platform.report.iteration_metrics import IterationMetrics, languages_of, measured_of
from icr_platform.report.leaderboard import OWN, leaderboard, published, published_table
from icr_platform.report.terminal_tables import (
    eval_terminal_table,
    evidence_terminal_tables,
    leaderboard_terminal_table,
    reward_accuracy_terminal_tables,
    terminal_table,
)

HOSTILE = '</script><img src="https://evil.example/x.png"><script>alert(1)</script> & "quoted"'
ITERATIONS = [
    IterationMetrics(i, {"win_rate/es": 40.0 + i, "win_rate_se/es": 2.0, "win_rate/en": 50.0, "win_rate/mean": 45.0 + i / 2,
                         "fidelity/es": 99.0, "margin/median/es": 0.5 * i, "train/loss": 0.6})
    for i in range(3)
]  # fmt: skip


class Page(HTMLParser):
    """What a page shows and loads.

    loaded: addresses of everything that could load something. headings: of all levels. rows: texts of the cells of every table
    row. dots: (text, height in pixels) of every mark of a chart.
    """

    def __init__(self, html: str) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.text: list[str] = []
        self.headings: list[str] = []
        self.rows: list[list[str]] = []
        self.dots: list[tuple[str, float]] = []
        self._into: list[str] | None = None
        self._height = 0.0
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.loaded += [str(value) for name, value in attrs if name in ("src", "href", "srcset", "action", "data")]
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th") or tag in ("h2", "h3"):
            self._into = self.headings if tag.startswith("h") else self.rows[-1]
            self._into.append("")
        elif tag == "circle":
            self._height = float(dict(attrs)["cy"] or "nan")
        elif tag == "title" and self._height:
            self.dots.append(("", self._height))

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th", "h2", "h3") and self._into is not None:
            self._into[-1] = " ".join(self._into[-1].split())
            self._into = None
        elif tag == "circle":
            self._height = 0.0

    def handle_data(self, data: str) -> None:
        self.text.append(data)
        if self._into is not None:
            self._into[-1] += data
        elif self._height:
            self.dots[-1] = (self.dots[-1][0] + data, self._height)


def page_of(path: Path, report: Report) -> Page:
    write_report(path, report)
    return Page(path.read_text(encoding="utf-8"))


def test_the_file_loads_nothing_and_shows_hostile_text_as_text(tmp_path: Path) -> None:
    example = ExamplePair(1, "ar", "p1", HOSTILE, HOSTILE, HOSTILE, HOSTILE, 0.5)
    report = Report(HOSTILE, HOSTILE, ITERATIONS, HOSTILE, "abc", {HOSTILE: HOSTILE}, [example], [HOSTILE])
    write_report(tmp_path / "report.html", report)
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    page = Page(html)
    assert page.loaded == []
    assert "".join(page.text).count(HOSTILE) >= 10
    assert "default-src 'none'" in html
    assert not re.search(r"@import|url\(", html)
    assert "<script" not in html
    assert 'dir="rtl"' in html


def test_what_was_not_measured_is_left_out(tmp_path: Path) -> None:
    own = Report("t", "a", [IterationMetrics(0, {"win_rate/es": 40.0})], published=False)
    assert page_of(tmp_path / "one.html", own).headings == ["Tables", "Win rate"], "one iteration makes no curve"
    assert page_of(tmp_path / "nothing.html", replace(own, iterations=[IterationMetrics(0, {})])).headings == []
    two = [IterationMetrics(t, {"fidelity/es": 99.0, "train/loss": 0.6}) for t in range(2)]
    page = page_of(tmp_path / "two.html", replace(own, iterations=two, notes=["es: read this"]))
    assert page.headings == [
        "Learning curves", "Language fidelity, %", "Tables", "Language fidelity", "Notes",
    ]  # fmt: skip
    assert "es: read this" in page.text
    assert "Appendix: all other metrics of each iteration under their MLflow names" in page.text
    assert "Published win rates" in page_of(tmp_path / "paper.html", replace(own, published=True)).headings


def test_the_tables_show_each_figure_with_its_error_and_its_change(tmp_path: Path) -> None:
    page = page_of(tmp_path / "report.html", Report("t", "a", ITERATIONS, published=False))
    assert page.rows == [
        ["Language", "π0", "π1", "π2"],
        ["English", "50.0", "50.0 0.0", "50.0 0.0"],
        ["Spanish", "40.0 ± 2.0", "41.0 ± 2.0 +1.0", "42.0 ± 2.0 +1.0"],
        ["Mean", "45.0", "45.5 +0.5", "46.0 +0.5"],
        ["Language", "π0", "π1", "π2"],
        ["Spanish", "99.0", "99.0 0.0", "99.0 0.0"],
        ["Metric", "Language", "π0", "π1", "π2"],
        ["margin/median", "Spanish", "0", "0.5", "1"],
        ["train/loss", "", "0.6", "0.6", "0.6"],
    ]
    told = " ".join("".join(page.text).split())
    assert "Win rate · Mean 45.0 → 46.0 % +1.0 points over 2 iterations" in told


def evidence(t: int) -> IterationMetrics:
    """Two languages: the reward on labelled pairs and on its own samples, instructions, lines."""
    found = {f"reward_accuracy/length/{code}": 55.0 for code in ("en", "es", "mean")}
    for code, value in (("en", 80.0), ("es", 70.0), ("mean", 75.0)):
        found[f"reward_accuracy/cross-lingual/{code}"] = value + t
    found |= {"reward_accuracy_low/cross-lingual/es": 60.0 + t, "reward_accuracy_high/cross-lingual/es": 78.0 + t}
    found |= {"line_pass_rate/es": 90.0, "line_pass_rate_low/es": 85.0, "line_pass_rate_high/es": 94.0}
    found |= {"instruction_accuracy/strict/es": 50.0 + t, "instruction_accuracy/loose/es": 52.0 + t}
    if t:
        found["own_reward_accuracy/cross-lingual/es"] = 64.0
        found |= {
            f"instruction_accuracy_change{end}/strict/es": v for end, v in (("", 3.0), ("_low", 1.0), ("_high", 5.0))
        }
        found |= {
            f"instruction_accuracy_change{end}/loose/es": v for end, v in (("", 2.0), ("_low", -1.0), ("_high", 5.0))
        }
    return IterationMetrics(t, found)


def test_what_was_seen_without_a_judge_has_tables_with_intervals(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    page = page_of(path, Report("t", "a", [evidence(0), evidence(1)], published=False))
    tables = [row for row in page.rows if row[0] != "Language"]
    assert tables == [
        ["English", "cross-lingual", "80.0", "81.0 +1.0"],
        ["", "length", "55.0", "55.0 0.0"],
        ["Spanish", "cross-lingual", "70.0 (60–78)", "71.0 (61–79) +1.0"],
        ["", "length", "55.0", "55.0 0.0"],
        ["Mean", "cross-lingual", "75.0", "76.0 +1.0"],
        ["", "length", "55.0", "55.0 0.0"],
        ["Spanish", "cross-lingual", "–", "64.0"],
        ["Spanish", "strict", "50.0", "51.0 +3.0"],
        ["", "loose", "52.0", "53.0 +2.0"],
        ["Spanish", "90.0 (85–94)", "90.0 (85–94) 0.0"],
    ]
    html = path.read_text(encoding="utf-8")
    assert '<small class="up">+3.0</small>' in html, "an interval without 0"
    assert '<small class="">+2.0</small>' in html, "an interval with 0"
    assert not any("Appendix" in text for text in page.text), "nothing is listed twice"
    assert [told for told, _ in page.dots if "71.0%" in told] == ["iteration 1: 71.0%, 95% interval 61.0 to 79.0"]


def test_the_terminal_says_what_was_seen_without_a_judge() -> None:
    console = Console(width=120, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    for table in evidence_terminal_tables([evidence(0), evidence(1)]):
        console.print(table)
    lines = [" ".join(line.replace("│", " ").split()) for line in console.export_text().splitlines()]
    assert [line for line in lines if line.startswith("Spanish")] == [
        "Spanish 70.0 > 71.0 (61-79) 55.0 > 55.0",
        "Spanish 64.0",
        "Spanish 50.0 > 51.0 52.0 > 53.0",
        "Spanish 90.0 > 90.0 (85-94)",
    ]
    assert evidence_terminal_tables([IterationMetrics(0, {"win_rate/es": 1.0})]) == []


def test_the_curves_show_each_value_on_one_scale(tmp_path: Path) -> None:
    page = page_of(tmp_path / "report.html", Report("t", "a", ITERATIONS, published=False))
    told = [text for text, _ in page.dots]
    assert told[3:6] == [
        f"iteration {t}: {40 + t}.0%, 95% interval {v - 3.92:.1f} to {v + 3.92:.1f}" for t, v in enumerate((40, 41, 42))
    ]
    height = {text.split(",")[0]: y for text, y in page.dots[:9]}  # English, Spanish and the mean, of the win rate
    per_point = height["iteration 0: 40.0%"] - height["iteration 1: 41.0%"]
    assert per_point > 0, "more is higher"
    assert height["iteration 0: 40.0%"] - height["iteration 0: 50.0%"] == pytest.approx(10 * per_point, abs=1.0)


def test_the_papers_figures_stand_below_the_runs_own(tmp_path: Path) -> None:
    page = page_of(tmp_path / "report.html", Report("t", "mine", ITERATIONS[:2]))
    models = [row for row in page.rows if row[-1] == OWN or row[-1].startswith("arXiv")]
    assert [row[:2] for row in models[:2]] == [["mine pi_0", "50.00"], ["mine pi_1", "50.00"]]
    assert len(models) == 2 + len(published_table("win_rate"))
    assert ["Llama-3-8B-SFT", "arXiv 2503.04647, Table 2"] in [[row[0], row[-1]] for row in models[2:]]


def test_changes_are_against_the_iteration_before() -> None:
    gap = [ITERATIONS[0], IterationMetrics(1, {}), ITERATIONS[2]]
    assert [found.change for found in measured_of(ITERATIONS, "win_rate", "es")] == [None, 1.0, 1.0]
    assert [found.change for found in measured_of(gap, "win_rate", "es")] == [None, None, None]
    assert languages_of(ITERATIONS, "win_rate") == ["en", "es", "mean"]
    assert languages_of([IterationMetrics(0, {"win_rate/mean": 1.0, "win_rate/de": 1.0, "win_rate/en": 1.0})], "win_rate") == [
        "en", "de", "mean",
    ]  # fmt: skip


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


def test_categories_are_not_languages_and_sources_are_told_apart() -> None:
    """`cut` is a corruption, and the code of Teutila Cuicatec."""
    numbers = {"accuracy": 75.0, "low": 50.0, "high": 90.0, "n": 4}
    accuracy = pd.DataFrame(
        {"language": language, "category": category, "kind": "cross-lingual", "source": source, **numbers}
        for source, category in (("pairs", ""), ("corruptions", ""), ("corruptions", "cut"))
        for language in ("de", "mean")
    )
    tested = {"difference": 5.0, "first_only": 3, "second_only": 1, "p_value": 0.625, "p_holm": 1.0, "n": 4}
    comparison = pd.DataFrame(
        {"language": "all", "first": "cross-lingual", "second": "length", "source": source, **tested}
        for source in ("pairs", "corruptions")
    )
    console = Console(width=150, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    for table in reward_accuracy_terminal_tables(accuracy, comparison):
        console.print(table)
    text = console.export_text()
    assert "Cuicatec" not in text
    assert [line.split()[1] for line in text.splitlines() if "│ cut" in line] == ["cut"]
    assert [line.split()[1] for line in text.splitlines() if "length" in line] == ["pairs", "corruptions"]


def test_a_change_is_paired_where_that_was_measured() -> None:
    before = {"win_rate/en": 50.0, "win_rate/es": 40.0, "win_rate/mean": 45.0, "win_rate/mean_non_english": 40.0}
    paired = {"win_rate_change/es": 11.3, "win_rate_change_n/es": 27.0}
    after = {name: value + 11.5 for name, value in before.items()} | paired
    iterations = [IterationMetrics(0, before), IterationMetrics(1, after)]

    def changes(code: str) -> tuple[float | None, int | None]:
        last = measured_of(iterations, "win_rate", code)[1]
        assert last.is_paired == (last.prompts is not None)
        return last.change, last.prompts

    assert changes("es") == (11.3, 27)
    assert changes("mean_non_english") == (11.3, 27)
    assert changes("en") == (11.5, None)
    assert changes("mean") == (11.5, None), "English has no paired change"
    after |= {"win_rate_change/en": 1.3, "win_rate_change_n/en": 30.0}
    del after["win_rate_change_n/es"]
    es = measured_of(iterations, "win_rate", "es")[1]
    assert (es.change, es.is_paired, es.prompts) == (11.3, True, None), "as runs of earlier versions have it"
    after |= paired
    change, number = changes("mean")
    assert change == pytest.approx(6.3)
    assert number == 57


def test_the_report_of_a_large_arm_weighs_little(tmp_path: Path) -> None:
    languages = [
        "en",
        "es",
        "de",
        "fr",
        "ru",
        "ar",
        "bn",
        "hi",
        "ja",
        "ko",
        "th",
        "vi",
        "zh",
        "sw",
        "yo",
        "te",
        "ta",
        "ur",
        "fa",
        "he",
        "tr",
        "pl",
        "uk",
        "cs",
        "el",
        "it",
    ]
    kinds = ("win_rate", "lc_win_rate", "fidelity", "length/ratio", "margin/median", "line_pass_rate", "alpha", "pairs")
    metrics = {f"{kind}/{code}": 1 / 3 + 40 for kind in kinds for code in languages}
    metrics |= {f"reward_accuracy/{kind}/{code}": 200 / 3 for kind in ("cross-lingual", "length") for code in languages}
    text = "長い応答 " * 20_000
    examples = [ExamplePair(t, code, "p", text, text, text, text, 0.5) for t in range(1, 6) for code in languages]
    iterations = [IterationMetrics(t, metrics) for t in range(6)]
    write_report(tmp_path / "report.html", Report("t", "a", iterations, examples=examples))
    assert (tmp_path / "report.html").stat().st_size < 2_000_000
