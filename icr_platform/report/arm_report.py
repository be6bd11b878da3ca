"""The report of a finished arm: one HTML file that loads nothing and runs nothing.

Everything in it comes from the MLflow metrics of each iteration; what an arm did not measure is left out. Model output is untrusted
text and is escaped.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
from markupsafe import Markup

from icr_platform.core.artifacts import atomic_path
from icr_platform.core.language_tags import html_lang, is_english, is_right_to_left
from icr_platform.core.languages import language_in
from icr_platform.report.comparison import Answer, ends_text, report_style, tone
from icr_platform.report.cost_table import cost_rows, cost_until, is_cost
from icr_platform.report.evidence import evidence_of, is_evidence
from icr_platform.report.figures import LearningCurve, evidence_curves, learning_curves
from icr_platform.report.iteration_metrics import (
    MEANS,
    IterationMetrics,
    Measured,
    languages_of,
    measured_of,
    row_name,
)
from icr_platform.report.leaderboard import COST_COLUMN, OWN, leaderboard, published_curve, published_table
from icr_platform.report.numbers import number, signed
from icr_platform.report.svg import chart_style


@dataclass(frozen=True)
class ExamplePair:
    """A preference pair shown as an example. margin: length-controlled reward of chosen minus that of rejected; None without rewards."""

    iteration: int
    language: str
    prompt_id: str
    instruction: str
    english_instruction: str
    chosen: str
    rejected: str
    margin: float | None


@dataclass(frozen=True)
class Report:
    """What the report shows.

    title, description: what was run, in words; the description says so when it is the toy world.
    runs: MLflow run ids by a label, such as 'arm' or 'iteration 1'.
    iterations: in order, 0 is pi_0.
    devices: what it ran on, in words.
    published: whether the paper's X-AlpacaEval figures are shown too (they mean nothing for other evaluation sets).
    answer, comparison: of pi_T against pi_0, None where there is none: what to say first, and all tables, as `report.comparison.answer_of`
        and `comparison_html` make them.
    """

    title: str
    arm: str
    iterations: Sequence[IterationMetrics]
    description: str = ""
    config_digest: str = ""
    runs: Mapping[str, str] = field(default_factory=dict)
    examples: Sequence[ExamplePair] = ()
    notes: Sequence[str] = ()
    published: bool = True
    devices: str = ""
    answer: Answer | None = None
    comparison: Markup | None = None


_EXAMPLE_CHARACTERS, _SHORTEST_TEXT = 250_000, 200  # of all texts of examples together; of one that is cut


class _Kind(NamedTuple):
    """A kind of metric that has a table of its own, and a chart where `chart` says so."""

    prefix: str
    title: str
    about: str
    digits: int
    chart: bool = False
    unit: str = ""
    more_is_better: bool = False


_KINDS = (
    _Kind(
        "win_rate", "Win rate", "Percent of comparisons with the reference outputs that the policy wins; a tie counts half.",
        1, True, "%", True,
    ),
    _Kind(
        "lc_win_rate", "Length-controlled win rate", "Percent, as if policy and reference wrote equally long outputs.",
        1, True, "%", True,
    ),
    _Kind("fidelity", "Language fidelity", "Percent of outputs in the language of the prompt.", 1, True, "%"),
    _Kind("truncated", "Truncated", "Percent of outputs that reached the token limit.", 1),
    _Kind("repetition", "Looping", "Percent of outputs that mostly repeat themselves.", 1),
    _Kind("length/characters", "Length", "Mean number of characters of an output.", 0),
    _Kind("length/ratio", "Length ratio", "Mean length of the outputs over that of the reference outputs.", 2, True),
    _Kind("thought_tokens/mean", "Length of thoughts", "Mean number of tokens before the answer, where something was thought.", 0),
    _Kind("thought_language_share", "Language of thoughts", "Percent of thoughts in the language of the prompt.", 1),
    _Kind("thought_cut", "Cut thoughts", "Percent of outputs that ended within their thought, so that there is no answer.", 1),
)  # fmt: skip


def write_report(path: Path, report: Report) -> None:
    """Write the report as one HTML file, atomically."""
    iterations = report.iterations
    tables = [
        (kind, {code: measured_of(iterations, kind.prefix, code) for code in languages_of(iterations, kind.prefix)})
        for kind in _KINDS
    ]
    # The policy of no scripts and no requests stands in the template's head.
    source = (files("icr_platform.report") / "arm_report.html.j2").read_text(encoding="utf-8")
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    environment.filters |= {"number": number, "signed": signed, "row_name": row_name}
    html = environment.from_string(source).render(
        report=report,
        style=report_style(),
        chart_style=chart_style(),
        headline=[] if report.answer else _headline(iterations),
        ends_text=ends_text,
        tone=tone,
        curves=[(kind, curves) for kind in _KINDS if kind.chart and (curves := _curves(report, kind))],
        tables=[(kind, rows) for kind, rows in tables if rows],
        evidence=[
            (group, [(one, evidence_curves(iterations, one)) for one in found])
            for group, found in evidence_of(iterations)
        ],
        costs=cost_rows(iterations),
        other_metrics=_other_metrics(iterations),
        leaderboard=_leaderboard(report) if report.published else None,
        direction=lambda code: "rtl" if is_right_to_left(code) else "auto",
        html_lang=html_lang,
        is_english=is_english,
        means=MEANS,
        short=_shortener(report.examples),
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        temporary.write_text(html, encoding="utf-8")


def _shortener(examples: Sequence[ExamplePair]) -> Callable[[str], str]:
    """Cuts the texts of examples so that all of them together are of a size that a mail takes."""
    longest = max(_SHORTEST_TEXT, _EXAMPLE_CHARACTERS // max(1, 4 * len(examples)))
    return lambda text: text if len(text) <= longest else f"{text[:longest]} … ({len(text):,} characters in all)"


def _curves(report: Report, kind: _Kind) -> list[LearningCurve]:
    """Charts of one kind of metric; one iteration alone makes no curve."""
    if len(report.iterations) < 2:
        return []
    published = published_curve(kind.prefix) if report.published else {}
    return learning_curves(report.iterations, kind.prefix, kind.unit, published)


def _headline(iterations: Sequence[IterationMetrics]) -> list[tuple[str, Measured, Measured]]:
    """(label, first, last) of the mean win rates, where no comparison says more; the change of the last is against the first."""
    found = []
    for code in languages_of(iterations, "win_rate"):
        measured = [one for one in measured_of(iterations, "win_rate", code) if one.value is not None]
        if code in MEANS and measured:
            first, last = measured[0], measured[-1]
            change = last.value - first.value if last.value is not None and first.value is not None else None
            found.append((row_name(code), first, Measured(last.value, last.standard_error, change)))
    return found


def _other_metrics(iterations: Sequence[IterationMetrics]) -> dict[str, dict[str, list[float | None]]]:
    """Metrics without a table of their own (margins, alpha, pairs, drops, losses): name -> language or '' -> value per iteration."""
    grouped: dict[str, dict[str, list[float | None]]] = {}
    for name in sorted({name for measured in iterations for name in measured.metrics}):
        prefix, _, code = name.rpartition("/")
        key, column = (prefix, code) if prefix and (code in MEANS or language_in(name)) else (name, "")
        # Standard errors and numbers of prompts stand in the tables of what they belong to.
        if (
            key.removesuffix("_se") in {kind.prefix for kind in _KINDS}
            or key == "win_rate_n"
            or is_evidence(name)
            or is_cost(name)
        ):
            continue
        grouped.setdefault(key, {})[column] = [measured.metrics.get(name) for measured in iterations]
    return grouped


def policies_of(report: Report) -> dict[str, Mapping[str, float]]:
    """Metrics of the arm's policies by their names on a leaderboard."""
    return {_policy(report, measured.iteration): measured.metrics for measured in report.iterations}


def costs_of(report: Report) -> dict[str, str]:
    """What it took to make each of the arm's policies, by their names on a leaderboard."""
    return {_policy(report, iteration): cost for iteration, cost in cost_until(report.iterations).items()}


def _policy(report: Report, iteration: int) -> str:
    return f"{report.arm} pi_{iteration}"


def _leaderboard(report: Report) -> dict[str, Any]:
    """Languages, and per model its (win rate, length-controlled win rate) in each: the arm's policies, then the paper's."""
    # An arm without win rates is shown the paper's all the same: that is what there is to compare with.
    policies, costs = policies_of(report), costs_of(report)
    rates, controlled = (
        own if len(own := leaderboard(policies, column, costs)) else published_table(column)
        for column in ("win_rate", "lc_win_rate")
    )
    controlled = controlled.set_index("model")
    codes = [name for name in rates.columns if name not in ("model", "source", COST_COLUMN)]
    rows = []
    for row in rates.to_dict("records"):
        lc = {code: controlled[code].get(row["model"]) if code in controlled.columns else None for code in codes}
        cells = [(row[code], lc[code]) for code in codes]
        rows.append((row["model"], row["source"], cells, row["source"] == OWN, row.get(COST_COLUMN, "")))
    return {"languages": codes, "rows": rows, "has_costs": COST_COLUMN in rates.columns}
