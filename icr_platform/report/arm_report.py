"""What a finished arm looks like: a table for the terminal and one self-contained HTML file.

Figures come as the MLflow metrics of each iteration (`win_rate/es`, `win_rate_se/es`, `margin/median/es`, ...); what an arm did
not measure is left out. Model output is untrusted text and is escaped; the file loads nothing from anywhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from rich.table import Table
from rich.text import Text

from icr_platform.core.artifacts import atomic_path, text_digest
from icr_platform.core.intervals import Z95
from icr_platform.core.languages import NAMES, RIGHT_TO_LEFT
from icr_platform.report.leaderboard import MEAN_LANGUAGES, beside_published, published_table

if TYPE_CHECKING:
    import plotly.graph_objects as go

MEANS = ("mean", "mean_non_english")
OWN = "this run"
_ACCENT, _SECOND = "#4c83d3", "#cf7f2e"
_BAND = "rgba(76,131,211,0.18)"


@dataclass(frozen=True)
class IterationFigures:
    """Everything measured at one iteration; metrics are named as in MLflow."""

    iteration: int
    metrics: Mapping[str, float]


@dataclass(frozen=True)
class ExamplePair:
    """A preference pair shown as an example. margin: length-controlled reward of chosen minus that of rejected."""

    iteration: int
    language: str
    prompt_id: str
    instruction: str
    english_instruction: str
    chosen: str
    rejected: str
    margin: float


@dataclass(frozen=True)
class Report:
    """What the report shows.

    title, description: what was run, in words; the description says so when it is the toy world.
    runs: MLflow run ids by a label, such as 'arm' or 'iteration 1'.
    iterations: in order, 0 is pi_0.
    published: whether the paper's X-AlpacaEval table stands beside (it does not for other evaluation sets).
    """

    title: str
    arm: str
    iterations: Sequence[IterationFigures]
    description: str = ""
    config_digest: str = ""
    runs: Mapping[str, str] = field(default_factory=dict)
    examples: Sequence[ExamplePair] = ()
    notes: Sequence[str] = ()
    published: bool = True


@dataclass(frozen=True)
class Cell:
    """A figure of a table: value, standard error and change against the iteration before; None where there is none."""

    value: float | None
    standard_error: float | None = None
    change: float | None = None


@dataclass(frozen=True)
class Grid:
    """A table of the report: one row a language, one column an iteration."""

    title: str
    about: str
    digits: int
    rows: Mapping[str, Sequence[Cell]]


_GRIDS = (
    ("win_rate", "Win rate", "Percent of comparisons with the reference outputs that the policy wins, ties half.", 1),
    ("lc_win_rate", "Length-controlled win rate", "Percent, as if policy and reference wrote equally long outputs.", 1),
    (
        "fidelity",
        "Language fidelity",
        "Percent of outputs in the asked language.",
        1,
    ),
    ("truncated", "Truncated", "Percent of outputs that reached the token limit.", 1),
    ("repetition", "Looping", "Percent of outputs that mostly repeat themselves.", 1),
    ("length/characters", "Length", "Mean characters of an output.", 0),
    ("length/ratio", "Length ratio", "Mean length of the outputs over that of the reference outputs.", 2),
)
_SHOWN = {prefix for prefix, *_ in _GRIDS}


def language_label(code: str) -> str:
    """'es' -> 'Spanish'; the means by their names."""
    return {"mean": "Mean", "mean_non_english": "Mean, non-English"}.get(code, NAMES.get(code, code))


def languages_of(iterations: Iterable[IterationFigures], *prefixes: str) -> list[str]:
    """Languages with a metric `prefix/LANG` of any of the prefixes: English, the others by code, then the means."""
    found = {
        name.removeprefix(f"{prefix}/")
        for figures in iterations
        for name in figures.metrics
        for prefix in prefixes
        if name.startswith(f"{prefix}/")
    }
    codes = sorted((code for code in found if code in NAMES), key=lambda code: (code != "en", code))
    return codes + [mean for mean in MEANS if mean in found]


def cells_of(iterations: Sequence[IterationFigures], prefix: str, code: str) -> list[Cell]:
    """The metric `prefix/code` over the iterations, with `prefix_se/code` and the change against the iteration before."""
    cells: list[Cell] = []
    before: float | None = None
    for figures in iterations:
        value = figures.metrics.get(f"{prefix}/{code}")
        change = value - before if value is not None and before is not None else None
        cells.append(Cell(value, figures.metrics.get(f"{prefix}_se/{code}"), change))
        before = value
    return cells


def terminal_table(
    iterations: Sequence[IterationFigures], prefix: str = "win_rate", title: str = "Win rate, %"
) -> Table:
    """Languages x iterations for a terminal: value, standard error, change against the iteration before."""
    table = Table(title=f"{title} (± standard error, change against the iteration before)", title_justify="left")
    table.add_column("Language")
    for figures in iterations:
        table.add_column(f"pi_{figures.iteration}", justify="right")
    for code in languages_of(iterations, prefix):
        style = "bold" if code in MEANS else ""
        table.add_row(
            Text(language_label(code), style), *(_terminal_cell(cell) for cell in cells_of(iterations, prefix, code))
        )
    return table


def _terminal_cell(cell: Cell, digits: int = 1) -> Text:
    if cell.value is None:
        return Text("-")
    text = Text(f"{cell.value:.{digits}f}")
    if cell.standard_error is not None:
        text.append(f" ± {cell.standard_error:.1f}", "dim")
    if cell.change is not None:
        text.append(f" {cell.change:+.1f}", "green" if cell.change > 0 else "red" if cell.change < 0 else "")
    return text


def eval_terminal_table(metrics: Mapping[str, float], title: str) -> Table:
    """One policy's figures for a terminal: a row a language, with standard errors and the prompts they rest on."""
    columns = (("win_rate", "Win rate, %", 1), ("lc_win_rate", "Length-controlled, %", 1), ("win_rate_n", "n", 0),
               ("fidelity", "In its language, %", 1), ("truncated", "Truncated, %", 1), ("length/ratio", "Length ratio", 2))  # fmt: skip
    figures = [IterationFigures(0, metrics)]
    measured = [column for column in columns if languages_of(figures, column[0])]
    table = Table(title=f"{title} (± standard error)", title_justify="left")
    table.add_column("Language")
    for _, heading, _ in measured:
        table.add_column(heading, justify="right")
    for code in languages_of(figures, *(prefix for prefix, _, _ in measured)):
        cells = [cells_of(figures, prefix, code)[0] for prefix, _, _ in measured]
        texts = [_terminal_cell(cell, digits) for cell, (_, _, digits) in zip(cells, measured, strict=True)]
        table.add_row(Text(language_label(code), "bold" if code in MEANS else ""), *texts)
    return table


def head_to_head_terminal_table(table: pd.DataFrame) -> Table:
    """`head_to_head_table` for a terminal."""
    shown = Table(title="Head to head: does it beat the reference policy (50% is even)?", title_justify="left")
    for heading in ("Language", "Win rate, %", "95% interval", "p", "p, Holm", "n"):
        shown.add_column(heading, justify="left" if heading == "Language" else "right")
    for row in table.to_dict("records"):
        interval = "-" if row["low"] != row["low"] else f"{row['low']:.1f} to {row['high']:.1f}"
        chances = ("-" if p != p else f"{p:.4f}" for p in (row["p_value"], row["adjusted_p_value"]))
        shown.add_row(language_label(row["language"]), f"{row['win_rate']:.1f}", interval, *chances, str(row["n"]))
    return shown


def leaderboard(policies: Mapping[str, Mapping[str, float]], prefix: str = "win_rate") -> pd.DataFrame:
    """Policies (name -> metrics) above the published X-AlpacaEval rows: model, source and a column per language, percent.

    prefix: `win_rate` or `lc_win_rate`. Empty when no policy has such a figure. The mean stands there only where it is over
    the languages of the published mean.
    """
    codes = languages_of([IterationFigures(0, metrics) for metrics in policies.values()], prefix)
    languages = [code for code in codes if code not in MEANS]
    codes = [*languages, "mean"] if set(languages) == set(MEAN_LANGUAGES) else languages
    rows = [
        {"model": name, "source": OWN}
        | {code: round(metrics[f"{prefix}/{code}"], 2) for code in codes if f"{prefix}/{code}" in metrics}
        for name, metrics in policies.items()
    ]
    own = pd.DataFrame(rows, columns=["model", "source", *codes]).dropna(how="all", subset=codes)
    return beside_published(own, prefix) if codes else own.head(0)


def leaderboard_terminal_table(table: pd.DataFrame) -> Table:
    """A leaderboard of win rates for a terminal; published rows are set apart and say so."""
    codes = [name for name in table.columns if name not in ("model", "source")]
    title = "Win rate, %, beside published X-AlpacaEval figures (of other models and judge runs)"
    shown = Table(title=title, title_justify="left")
    for name in ("Model", *map(language_label, codes), "Source"):
        shown.add_column(name, justify="left" if name in ("Model", "Source") else "right")
    for row in table.to_dict("records"):
        cells = ["-" if row[code] != row[code] else f"{row[code]:.2f}" for code in codes]
        shown.add_row(str(row["model"]), *cells, str(row["source"]), style="bold" if row["source"] == OWN else "")
    return shown


def write_report(path: Path, report: Report) -> None:
    """Write the report as one HTML file, atomically."""
    import jinja2
    from plotly.offline import get_plotlyjs

    source = (files("icr_platform.report") / "arm_report.html.j2").read_text(encoding="utf-8")
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    html = environment.from_string(source).render(
        report=report,
        headline=_headline(report.iterations),
        grids=_grids(report.iterations),
        figures=[(title, _embed(figure)) for title, figure in _figures(report.iterations)],
        preferences=_other_metrics(report.iterations),
        published=_published(report) if report.published else None,
        label=language_label,
        direction=lambda code: "rtl" if code in RIGHT_TO_LEFT else "auto",
        means=MEANS,
        plotlyjs=get_plotlyjs(),
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        temporary.write_text(html, encoding="utf-8")


def _grids(iterations: Sequence[IterationFigures]) -> list[Grid]:
    grids = []
    for prefix, title, about, digits in _GRIDS:
        codes = languages_of(iterations, prefix)
        if codes:
            grids.append(Grid(title, about, digits, {code: cells_of(iterations, prefix, code) for code in codes}))
    return grids


def _headline(iterations: Sequence[IterationFigures]) -> list[tuple[str, Cell, Cell]]:
    """(label, first, last) of the means; the last cell's change is against the first."""
    found = []
    for code in languages_of(iterations, "win_rate"):
        cells = [cell for cell in cells_of(iterations, "win_rate", code) if cell.value is not None]
        if code in MEANS and cells:
            first, last = cells[0], cells[-1]
            change = last.value - first.value if last.value is not None and first.value is not None else None
            found.append((language_label(code), first, Cell(last.value, last.standard_error, change)))
    return found


def _other_metrics(iterations: Sequence[IterationFigures]) -> dict[str, dict[str, list[float | None]]]:
    """Metrics no grid shows (margins, alpha, pairs, drops, losses): name -> language or '' -> one value an iteration."""
    names = sorted({name for figures in iterations for name in figures.metrics})
    grouped: dict[str, dict[str, list[float | None]]] = {}
    for name in names:
        prefix, _, code = name.rpartition("/")
        is_language = code in NAMES or code in MEANS
        key, column = (prefix, code) if is_language and prefix else (name, "")
        if key in _SHOWN or key.removesuffix("_se") in _SHOWN or key == "win_rate_n":
            continue
        grouped.setdefault(key, {})[column] = [figures.metrics.get(name) for figures in iterations]
    return grouped


def policies_of(report: Report) -> dict[str, Mapping[str, float]]:
    """Metrics of the arm's policies by their names on a leaderboard."""
    return {f"{report.arm} pi_{figures.iteration}": figures.metrics for figures in report.iterations}


def _published(report: Report) -> dict[str, Any] | None:
    """Languages, and per model its (win rate, length-controlled win rate) in each: the arm's policies, then the paper's."""
    policies = policies_of(report)
    rates = leaderboard(policies)
    if not len(rates):
        rates = published_table()
    controlled = leaderboard(policies, "lc_win_rate")
    if not len(controlled):
        controlled = published_table("lc_win_rate")
    controlled = controlled.set_index("model")
    codes = [name for name in rates.columns if name not in ("model", "source")]
    rows = []
    for row in rates.to_dict("records"):
        lc = {code: controlled[code].get(row["model"]) if code in controlled.columns else None for code in codes}
        cells = [(_number(row[code]), _number(lc[code])) for code in codes]
        rows.append((row["model"], row["source"], cells, row["source"] == OWN))
    return {"languages": codes, "rows": rows}


def _number(value: Any) -> float | None:
    return None if value is None or value != value else float(value)


def _embed(figure: go.Figure) -> str:
    from plotly.io import to_html

    settings = {"displayModeBar": False, "responsive": True}
    # Named by its content: plotly's own random name would give the same figures another file each time.
    name = f"chart-{text_digest(figure.to_json())[:12]}"
    html: str = to_html(figure, full_html=False, include_plotlyjs=False, config=settings, div_id=name)
    return html


def _figures(iterations: Sequence[IterationFigures]) -> list[tuple[str, go.Figure]]:
    """The charts an arm has figures for."""
    charts = [
        ("win_rate", "Win rate by language, % (band: 95% interval, dotted: π₀)", None),
        ("lc_win_rate", "Length-controlled win rate by language, % (band: 95% interval, dotted: π₀)", None),
        ("fidelity", "Language fidelity, % of outputs in the asked language", (0.0, 103.0)),
        ("length/ratio", "Length ratio to the reference outputs", None),
    ]
    return [
        (title, _small_multiples(iterations, prefix, bounds))
        for prefix, title, bounds in charts
        if len(iterations) > 1 and languages_of(iterations, prefix)
    ]


def _small_multiples(
    iterations: Sequence[IterationFigures], prefix: str, bounds: tuple[float, float] | None
) -> go.Figure:
    """One small chart a language on one scale, so that slopes compare by eye."""
    from plotly.subplots import make_subplots

    codes = languages_of(iterations, prefix)
    lines = -(-len(codes) // 5)
    columns = -(-len(codes) // lines)
    figure = make_subplots(
        lines, columns, shared_xaxes=False, shared_yaxes="all", subplot_titles=[language_label(code) for code in codes],
        horizontal_spacing=0.025, vertical_spacing=0.3 / lines if lines > 1 else 0.0,
    )  # fmt: skip
    for place, code in enumerate(codes):
        for trace in _curve(iterations, prefix, code):
            figure.add_trace(trace, row=place // columns + 1, col=place % columns + 1)
    figure.update_xaxes(
        tickvals=[figures.iteration for figures in iterations],
        ticktext=[f"π<sub>{figures.iteration}</sub>" for figures in iterations],
        range=[iterations[0].iteration - 0.25, iterations[-1].iteration + 0.25],
        showgrid=False,
        zeroline=False,
    )
    figure.update_yaxes(range=bounds, zeroline=False, nticks=5)
    figure.update_annotations(font_size=13, yshift=2)
    figure.update_layout(
        height=70 + 190 * lines, showlegend=False, margin={"l": 40, "r": 8, "t": 34, "b": 30},
        paper_bgcolor="rgba(0,0,0,0)", plot_bgcolor="rgba(0,0,0,0)", hovermode="x",
        font={"family": "system-ui, 'Noto Sans', sans-serif", "size": 12},
    )  # fmt: skip
    return figure


def _curve(iterations: Sequence[IterationFigures], prefix: str, code: str) -> list[Any]:
    import plotly.graph_objects as go

    points = [
        (figures.iteration, cell.value, Z95 * (cell.standard_error or 0.0))
        for figures, cell in zip(iterations, cells_of(iterations, prefix, code), strict=True)
        if cell.value is not None
    ]
    steps, values, bands = [p[0] for p in points], [p[1] for p in points], [p[2] for p in points]
    line = go.Scatter(
        x=steps, y=values, mode="lines+markers", line={"color": _SECOND if code in MEANS else _ACCENT, "width": 2.5},
        marker={"size": 7}, name=language_label(code), hovertemplate="%{y:.2f}",
    )  # fmt: skip
    if not any(bands):
        return [line]
    outline = [value + band for value, band in zip(values, bands, strict=True)]
    outline += [value - band for value, band in reversed(list(zip(values, bands, strict=True)))]
    band = go.Scatter(
        x=steps + steps[::-1],
        y=outline,
        fill="toself",
        fillcolor=_BAND,
        line={"width": 0},
        mode="lines",
        hoverinfo="skip",
    )
    start = go.Scatter(
        x=[steps[0], steps[-1]], y=[values[0]] * 2, mode="lines", hoverinfo="skip",
        line={"color": "rgba(128,128,128,0.7)", "dash": "dot", "width": 1},
    )  # fmt: skip
    return [band, start, line]
