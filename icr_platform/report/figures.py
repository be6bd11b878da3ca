"""The figures of finished runs: learning curves, for the report and the inspector's overview, and MT-Bench's radar.

The only import of plotly.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from markupsafe import Markup

from icr_platform.core.languages import language_label
from icr_platform.report.evidence import Evidence
from icr_platform.report.iteration_metrics import IterationMetrics, interval_of, languages_of, row_name
from icr_platform.report.numbers import number
from icr_platform.report.svg import Frame, axes, nice_ticks, path, svg

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

_LEAST_PERCENT = 10.0  # no axis of percents ends below this: the noise of rates near 0 would look like a trend


class LearningCurve(NamedTuple):
    """The chart of one language, or of a mean."""

    code: str
    name: str
    chart: Markup


class _Point(NamedTuple):
    x: int
    y: float
    ends: tuple[float, float] | None = None
    """Of the 95% interval; None where there is none."""


def learning_curves(
    iterations: Sequence[IterationMetrics],
    prefix: str,
    unit: str,
    published: Mapping[tuple[int, str], float] | None = None,
    codes: Sequence[str] | None = None,
) -> list[LearningCurve]:
    """A small chart per language of the metric `prefix/LANG`, all on one scale, so that heights and slopes compare by eye.

    Args:
        unit: '%' or ''.
        published: values of a paper by (iteration, language), drawn as open diamonds.
        codes: languages and means to draw; all that were measured without it.
    """
    curves = {}
    for code in languages_of(iterations, prefix) if codes is None else codes:
        curve = [
            _Point(t.iteration, t.metrics[f"{prefix}/{code}"], interval_of(t.metrics, prefix, code))
            for t in iterations
            if f"{prefix}/{code}" in t.metrics
        ]
        if curve:
            curves[code] = curve
    if not curves:
        return []
    numbers = [t.iteration for t in iterations]
    theirs = {
        code: [_Point(t, value) for (t, c), value in sorted((published or {}).items()) if c == code and t in numbers]
        for code in curves
    }
    # From 0: an axis cut to the data would make every change look large.
    tops = [
        point.ends[1] if point.ends else point.y for curve in (*curves.values(), *theirs.values()) for point in curve
    ]
    top = max(*tops, _LEAST_PERCENT if unit == "%" else 0.0) * 1.05 or 1.0
    frame = Frame(260, 168, 38, 26, (min(numbers) - 0.2, max(numbers) + 0.2), (0.0, top))
    return [
        LearningCurve(code, row_name(code), _learning_curve(frame, row_name(code), curve, theirs[code], numbers, unit))
        for code, curve in curves.items()
    ]


def evidence_curves(
    iterations: Sequence[IterationMetrics], evidence: Evidence, codes: Sequence[str] | None = None
) -> list[LearningCurve]:
    """Charts of the first variant of one of the main kinds; none of a single iteration, which makes no curve."""
    kind = evidence.kind
    if not kind.is_main or len(iterations) < 2:
        return []
    prefix = f"{kind.metric}/{evidence.variants[0]}" if kind.named else kind.metric
    return learning_curves(iterations, prefix, "%", codes=codes)


def _learning_curve(
    frame: Frame, name: str, curve: Sequence[_Point], theirs: Sequence[_Point], numbers: Sequence[int], unit: str
) -> Markup:
    """Value by iteration over its 95% band, with the level of the first iteration dotted."""
    digits = 1 if unit else 2
    parts = [axes(frame, [float(x) for x in range(min(numbers), max(numbers) + 1)], nice_ticks(*frame.y), 0)]
    line = [(frame.px(point.x), frame.py(point.y)) for point in curve]
    # An upper bound to the right and a lower one back to the left enclose the band.
    banded = [(frame.px(point.x), *map(frame.py, point.ends)) for point in curve if point.ends]
    if len(banded) > 1:
        upper = [(x, high) for x, _, high in banded]
        lower = [(x, low) for x, low, _ in reversed(banded)]
        parts.append(Markup('<polygon class="band" points="{}"/>').format(path(upper + lower)))
    if len(line) > 1:
        start = Markup('<line class="start" x1="{}" x2="{}" y1="{y}" y2="{y}"/>')
        parts.append(start.format(f"{line[0][0]:.1f}", f"{line[-1][0]:.1f}", y=f"{line[0][1]:.1f}"))
    parts.append(Markup('<polyline class="line" points="{}"/>').format(path(line)))
    for point, (x, y) in zip(curve, line, strict=True):
        told = f"iteration {point.x}: {number(point.y, digits)}{unit}"
        if point.ends:
            low, high = point.ends
            told += f", 95% interval {number(low, digits)} to {number(high, digits)}"
            parts.append(
                Markup('<line class="whisker" x1="{x}" x2="{x}" y1="{}" y2="{}"/>').format(
                    f"{frame.py(low):.1f}", f"{frame.py(high):.1f}", x=f"{x:.1f}"
                )
            )
        dot = Markup('<circle class="dot" cx="{}" cy="{}" r="4"><title>{}</title></circle>')
        parts.append(dot.format(f"{x:.1f}", f"{y:.1f}", told))
    for point in theirs:
        diamond = Markup('<path class="published" d="M{} {}l5 5l-5 5l-5 -5z"><title>{}</title></path>')
        told = f"published, iteration {point.x}: {number(point.y, 1)}{unit}"
        parts.append(diamond.format(f"{frame.px(point.x):.1f}", f"{frame.py(point.y) - 5:.1f}", told))
    read_aloud = ", ".join(f"iteration {point.x} {number(point.y, digits)}{unit}" for point in curve)
    return svg(frame, f"{name}: {read_aloud}", parts)


def radar(table: pd.DataFrame) -> go.Figure:
    """MT-Bench's mean ratings by category, one line per language.

    Args:
        table: a column `category` and one per language, as `evaluation.mt_bench.category_table` gives it.
    """
    import plotly.graph_objects as go

    spokes = [*table["category"], table["category"].iloc[0]]  # the first once more closes the line
    figure = go.Figure()
    for code in (name for name in table.columns if name != "category"):
        values = [*table[code], table[code].iloc[0]]
        figure.add_trace(go.Scatterpolar(r=values, theta=spokes, name=language_label(code)))
    figure.update_layout(polar={"radialaxis": {"range": [0, 10]}}, title="MT-Bench by category", height=560)
    return figure
