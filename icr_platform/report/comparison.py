"""A comparison of sides as people take it: tables for the terminal, LaTeX, CSV, and HTML.

Its table is that of `pipeline.compare.Comparison`: a row for each metric, language or kind of mean, and other side.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import pandas as pd
from markupsafe import Markup
from rich.table import Table
from rich.text import Text

from icr_platform.core.artifacts import atomic_path
from icr_platform.core.language_tags import html_lang, is_right_to_left
from icr_platform.report.iteration_metrics import MEANS, row_name
from icr_platform.report.numbers import number, signed

Row = Mapping[str, Any]
_SHOWN = 5  # prompts of each kind of flip
_TITLES = {
    "head_to_head": "Head to head, % won against the other side",
    "win_rate": "Win rate, %",
    "lc_win_rate": "Length-controlled win rate, %",
    "fidelity": "In its language, %",
    "line_pass_rate": "Lines in the language, %",
    "word_pass_rate": "Words in the language, %",
    "truncated": "Truncated, %",
    "length/characters": "Length, characters",
    "mt_bench": "MT-Bench, rating from 1 to 10",
}
_PREFIXES = {
    "instruction_accuracy": "Instructions followed, %",
    "prompt_accuracy": "Prompts of which all instructions are followed, %",
    "reward_accuracy": "Reward right on labelled pairs, %",
    "corruption_accuracy": "Reward right on corruptions, %",
    "benchmark": "Benchmark, %",
}
_COLOURS = {"up": "green", "down": "red", "": ""}
_LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}",
}  # fmt: skip
_CSV = (
    "metric", "language", "arm", "compared_with", "value", "compared_with_value", "difference", "standard_error", "low", "high", "p_value",
    "adjusted_p_value", "equivalence", "adjusted_equivalence", "df", "n", "only_arm", "only_compared_with", "better", "worse", "runs",
    "compared_with_runs", "by_seed", "verdict",
)  # fmt: skip


def title_of(metric: str) -> str:
    """A metric in words.

    >>> title_of("win_rate"), title_of("reward_accuracy/cross-lingual"), title_of("new/es")
    ('Win rate, %', 'Reward right on labelled pairs, %: cross-lingual', 'new/es')
    """
    if metric in _TITLES:
        return _TITLES[metric]
    prefix, _, variant = metric.partition("/")
    return f"{_PREFIXES[prefix]}: {variant}" if prefix in _PREFIXES else metric


class MetricTable(NamedTuple):
    """Rows of one metric. has_margin: whether equivalence was tested; has_sides: whether there are several other sides."""

    metric: str
    title: str
    rows: list[Row]
    has_margin: bool
    has_sides: bool


def metric_tables(table: pd.DataFrame) -> Iterator[MetricTable]:
    """By metric, languages together where there are several sides: its rows in the order in which they are read."""
    has_sides = table["second_side"].nunique() > 1
    for metric, of in table.groupby("metric", sort=False):
        order = list(dict.fromkeys(of["language"]))
        rows = sorted(_records(of), key=lambda row: order.index(row["language"]))
        yield MetricTable(str(metric), title_of(str(metric)), rows, bool(of["equivalence"].notna().any()), has_sides)


def _records(table: pd.DataFrame) -> list[Row]:
    return [{str(name): value for name, value in row.items()} for row in table.to_dict("records")]


def digits_of(table: MetricTable) -> int:
    """Digits behind the point that mean something."""
    return 0 if "characters" in table.metric else 2 if table.metric == "mt_bench" else 1


def p_text(p: float) -> str:
    """
    >>> p_text(0.03214), p_text(0.00004), p_text(float("nan"))
    ('0.032', '<0.001', '–')
    """
    return "–" if math.isnan(p) else "<0.001" if p < 0.001 else f"{p:.3f}"


def ends_text(row: Row, digits: int) -> str:
    """The interval of a difference; a dash where there is none, or it has no end."""
    if not (math.isfinite(row["low"]) and math.isfinite(row["high"])):
        return "–"
    return f"{signed(row['low'], digits)} to {signed(row['high'], digits)}"


def comparison_terminal_tables(table: pd.DataFrame, margin: float | None = None) -> list[Table]:
    """A table for each metric: both sides, the difference with its 95% interval, Holm's p, and prompts compared."""
    found = []
    for part in metric_tables(table):
        digits, first = digits_of(part), part.rows[0]["first_side"]
        shown = Table(title=part.title, title_justify="left")
        shown.add_column("Language")
        if part.has_sides:
            shown.add_column("Side")
        headings = [first, "side" if part.has_sides else part.rows[0]["second_side"], "difference (95%)", "p, Holm"]
        for heading in [*headings, *([f"p of ±{margin:g}, Holm"] if part.has_margin else []), "n", ""]:
            shown.add_column(Text(heading), justify="right")
        before = ""
        for row in part.rows:
            name = Text(
                row_name(row["language"]) if row["language"] != before else "",
                "bold" if row["language"] in MEANS else "",
            )
            before = row["language"]
            change = Text(signed(row["difference"], digits), _COLOURS[tone(row)])
            change.append(f" ({ends_text(row, digits)})", "dim")
            cells = [Text(row["second_side"])] if part.has_sides else []
            cells += [Text(number(row[side], digits)) for side in ("first", "second")]
            cells += [change, Text(p_text(row["adjusted_p_value"]))]
            cells += [Text(p_text(row["adjusted_equivalence"]))] if part.has_margin else []
            shown.add_row(name, *cells, Text(str(row["n"])), Text(row["verdict"], _COLOURS[tone(row)]))
        found.append(shown)
    return found


class Answer(NamedTuple):
    """What a comparison of two sides says first: of which metric, in words, and the rows of its means (of the languages without means)."""

    title: str
    summary: str
    rows: list[Row]
    digits: int


def answer_of(table: pd.DataFrame) -> Answer | None:
    """The answer of the first metric that was compared; None where nothing was.

    >>> row = {"metric": "win_rate", "second_side": "b", "equivalence": float("nan"), "verdict": "higher"}
    >>> rows = [row | {"language": "es"}, row | {"language": "de", "verdict": ""}, row | {"language": "mean"}]
    >>> answer_of(pd.DataFrame(rows)).summary
    'higher in Spanish; no clear difference in German'
    """
    first = next(metric_tables(table), None)
    if first is None:
        return None
    languages = [row for row in first.rows if row["language"] not in MEANS]
    means = [row for row in first.rows if row["language"] in MEANS]
    by_verdict: dict[str, list[str]] = {}
    for row in sorted(
        languages, key=lambda row: ("higher", "lower", "equivalent", "").index(row["verdict"].partition(",")[0])
    ):
        by_verdict.setdefault(row["verdict"] or "no clear difference", []).append(row_name(row["language"]))
    summary = "; ".join(f"{verdict} in {', '.join(names)}" for verdict, names in by_verdict.items())
    return Answer(first.title, summary, means or languages, digits_of(first))


def tone(row: Row) -> str:
    """'up' or 'down' for a clear difference of what is better the higher it is, or the lower; '' for others, such as lengths."""
    if not row["verdict"].startswith(("higher", "lower")) or row["metric"] == "length/characters":
        return ""
    is_good = row["verdict"].startswith("lower") == (row["metric"] == "truncated")
    return "up" if is_good else "down"


def costs_terminal_table(costs: pd.DataFrame) -> Table:
    """What each side cost, as a mean over its runs."""
    shown = Table(title="Cost (mean over runs)", title_justify="left")
    for name in costs.columns:
        shown.add_column(Text(str(name)), justify="left" if name == "side" else "right")
    for row in costs.to_dict("records"):
        values = (number(value, 2) for name, value in row.items() if name != "side")
        shown.add_row(Text(str(row["side"])), *(Text(value) for value in values))
    return shown


def comparison_csv(table: pd.DataFrame, costs: pd.DataFrame | None = None) -> str:
    """A row for each metric, language and side beside the first, every number in full; costs as metrics `cost/NAME` without a language."""
    names = {
        "second_side": "arm", "first_side": "compared_with", "second": "value", "first": "compared_with_value", "second_only": "only_arm",
        "first_only": "only_compared_with", "second_runs": "runs", "first_runs": "compared_with_runs",
    }  # fmt: skip
    rows = table.rename(columns=names)
    if costs is not None and len(costs):
        long = (
            costs.melt(id_vars="side", var_name="metric", value_name="value")
            .rename(columns={"side": "arm"})
            .dropna(subset="value")
        )
        rows = pd.concat([rows, long.assign(metric="cost/" + long["metric"], language="")], ignore_index=True)
    for name in ("n", "only_arm", "only_compared_with", "better", "worse", "runs", "compared_with_runs"):
        rows[name] = rows[name].astype("Int64")
    return str(rows[list(_CSV)].to_csv(index=False))


def escaped(text: str) -> str:
    r"""Text as LaTeX prints it.

    >>> escaped("a_b & 5% {x}")
    'a\\_b \\& 5\\% \\{x\\}'
    """
    return "".join(_LATEX.get(character, character) for character in " ".join(text.split()))


def comparison_latex(table: pd.DataFrame, margin: float | None = None, notes: Sequence[str] = ()) -> str:
    """A table with booktabs for each metric; differences that Holm's p leaves clear at 5% are bold. Notes are comments."""
    lines = [r"% \usepackage{booktabs}", *(f"% {' '.join(note.split())}" for note in notes)]
    for part in metric_tables(table):
        digits, first = digits_of(part), part.rows[0]["first_side"]
        headings = ["Language", *(["Side"] if part.has_sides else []), first]
        headings += ["side" if part.has_sides else part.rows[0]["second_side"], "Difference", "95% interval", "p"]
        headings += ([f"p of ±{margin:g}"] if part.has_margin else []) + ["n"]
        left = 2 if part.has_sides else 1
        lines += [
            "",
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{escaped(part.title)}. {_caption(margin if part.has_margin else None)}}}",
        ]
        lines += [rf"\begin{{tabular}}{{{'l' * left}{'r' * (len(headings) - left)}}}", r"\toprule"]
        lines += [" & ".join(_latex_heading(heading) for heading in headings) + r" \\", r"\midrule"]
        before = part.rows[0]["language"]
        for row in part.rows:
            if row["language"] in MEANS and before not in MEANS:
                lines.append(r"\midrule")
            before = row["language"]
            cells = [escaped(row_name(row["language"])), *([escaped(row["second_side"])] if part.has_sides else [])]
            change = _latex_number(signed(row["difference"], digits))
            is_clear = row["verdict"].startswith(("higher", "lower"))
            cells += [_latex_number(number(row[side], digits)) for side in ("first", "second")]
            cells += [rf"\textbf{{{change}}}" if is_clear else change, _latex_number(ends_text(row, digits))]
            cells += [escaped(p_text(row["adjusted_p_value"]).replace("–", "--"))]
            cells += [escaped(p_text(row["adjusted_equivalence"]).replace("–", "--"))] if part.has_margin else []
            lines.append(" & ".join([*cells, str(row["n"])]) + r" \\")
        lines += [r"\bottomrule", r"\end{tabular}", r"\end{table}"]
    return "\n".join(lines) + "\n"


def _caption(margin: float | None) -> str:
    said = "Differences are paired by prompt, p-values adjusted (Holm); bold: below 0.05."
    return said if margin is None else rf"{said} $\pm${margin:g}: two one-sided tests of equivalence."


def _latex_heading(text: str) -> str:
    return rf"{escaped(text)}".replace("±", r"$\pm$") if text not in ("p", "n") else f"${text}$"


def _latex_number(text: str) -> str:
    return text.replace("−", "$-$").replace("–", "--")


def comparison_html(table: pd.DataFrame, margin: float | None = None, costs: pd.DataFrame | None = None) -> Markup:
    """Tables for a page of the report: everything that comes from names is escaped."""
    environment = _environment()
    source = (files("icr_platform.report") / "comparison.html.j2").read_text(encoding="utf-8")
    parts = [(part, digits_of(part)) for part in metric_tables(table)]
    rendered = environment.from_string(source).render(
        parts=parts,
        margin=margin,
        means=MEANS,
        costs=costs.to_dict("records") if costs is not None else [],
        ends_text=ends_text,
        tone=tone,
        p_text=p_text,
    )
    return Markup(rendered)


class Examples(NamedTuple):
    """What two sides answered. rows: of `evaluation.prompt_values.example_rows`; slices: of `slice_table`, by what they cut."""

    first: str
    second: str
    rows: pd.DataFrame
    slices: Mapping[str, pd.DataFrame]


def write_comparison(
    path: Path, title: str, tables: Markup, sides: Mapping[str, str], examples: Sequence[Examples], notes: Sequence[str]
) -> None:
    """One HTML file that loads nothing and runs nothing, written atomically. sides: what stands behind each name."""
    source = (files("icr_platform.report") / "comparison_page.html.j2").read_text(encoding="utf-8")
    html = (
        _environment()
        .from_string(source)
        .render(
            title=title, style=report_style(), tables=tables, sides=sides, notes=notes, p_text=p_text, ends_text=ends_text,
            examples=[(one, _flips(one.rows), {by: table.to_dict("records") for by, table in one.slices.items()}) for one in examples],
            row_name=row_name, direction=lambda code: "rtl" if is_right_to_left(code) else "auto", html_lang=html_lang,
        )
    )  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        temporary.write_text(html, encoding="utf-8")


def _flips(rows: pd.DataFrame) -> list[Row]:
    """The greatest changes of either kind."""
    kinds = ("regression", "improvement")
    return [row for kind in kinds for row in _records(rows[rows["flip"] == kind].head(_SHOWN))]


def report_style() -> str:
    """The style sheet of the reports."""
    return (files("icr_platform.report") / "report.css").read_text(encoding="utf-8")


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    environment.filters |= {"number": number, "signed": signed, "row_name": row_name}
    return environment
