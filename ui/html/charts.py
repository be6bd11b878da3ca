"""The inspector's own charts: histograms, heat maps, and intervals in table cells."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from markupsafe import Markup

from icr_platform.report.numbers import number
from icr_platform.report.svg import Frame, axes, linked, nice_ticks, svg, x_label


class Span(NamedTuple):
    """The values that a bin holds, [low, high); None: without a bound, as at the ends of a chart.

    >>> str(Span(None, 2)), str(Span(2, None)), str(Span(1, 2, digits=0))
    ('below 2.00', '2.00 or more', '1 to 2')
    """

    low: float | None
    high: float | None
    digits: int = 2

    def __str__(self) -> str:
        low, high = number(self.low, self.digits), number(self.high, self.digits)
        if self.low is None:
            return "all" if self.high is None else f"below {high}"
        return f"{low} or more" if self.high is None else f"{low} to {high}"


@dataclass(frozen=True)
class Bar:
    """A histogram's bin, drawn over [low, high): how many are in it, the address its bar opens, and what it holds."""

    low: float
    high: float
    count: int
    href: str
    span: Span


@dataclass(frozen=True)
class HeatCell:
    """A cell of a heat map: its bounds in data units, how many are in it, the address it opens, and the lengths and values it holds."""

    x0: float
    x1: float
    y0: float
    y1: float
    count: int
    href: str
    spans: tuple[Span, Span]


def histogram(title: str, bars: Sequence[Bar], x_name: str) -> Markup:
    """Counts per bin; a bar opens what is in it."""
    if not bars:
        return Markup("")
    top = max(bar.count for bar in bars) or 1
    frame = Frame(320, 170, 44, 40, (bars[0].low, bars[-1].high), (0.0, float(top)))
    whole = [tick for tick in nice_ticks(0, top, 3) if tick.is_integer()]  # nothing is counted in halves
    parts = [axes(frame, nice_ticks(*frame.x), whole, 2)]
    for bar in bars:
        x, y = frame.px(bar.low), frame.py(bar.count)
        told = f"{bar.span}: {bar.count:,}"
        shape = Markup('<rect class="bar" x="{}" y="{}" width="{}" height="{}"><title>{}</title></rect>').format(
            f"{x:.1f}", f"{y:.1f}", f"{max(frame.px(bar.high) - x - 1, 1):.1f}", f"{frame.py(0) - y:.1f}", told
        )
        parts.append(linked(shape, bar.href, told) if bar.count else shape)
    parts.append(x_label(frame, x_name))
    return svg(frame, title, parts)


def heat_map(title: str, cells: Sequence[HeatCell], x_name: str, y_name: str) -> Markup:
    """Counts over two dimensions; a cell opens what is in it."""
    if not cells:
        return Markup("")
    x = (min(cell.x0 for cell in cells), max(cell.x1 for cell in cells))
    y = (min(cell.y0 for cell in cells), max(cell.y1 for cell in cells))
    frame = Frame(640, 320, 56, 42, x, y)
    parts = [axes(frame, nice_ticks(*x), nice_ticks(*y), 1)]
    most = max(cell.count for cell in cells)
    for cell in cells:
        told = f"{x_name} {cell.spans[0]}, {y_name} {cell.spans[1]}: {cell.count:,}"
        left, top = frame.px(cell.x0), frame.py(cell.y1)
        # Logarithmic, or the few dense cells would hide all others; from 0.12, so that one sample alone can be seen.
        shade = 0.12 + 0.88 * math.log1p(cell.count) / math.log1p(most)
        shape = Markup('<rect class="heat" x="{}" y="{}" width="{}" height="{}" fill-opacity="{}"><title>{}</title></rect>').format(
            f"{left:.1f}", f"{top:.1f}", f"{max(frame.px(cell.x1) - left - 0.5, 1):.1f}",
            f"{max(frame.py(cell.y0) - top - 0.5, 1):.1f}", f"{shade:.2f}", told,
        )  # fmt: skip
        parts.append(linked(shape, cell.href, told))
    parts.append(x_label(frame, x_name))
    parts.append(
        Markup(
            '<text class="axis-label" text-anchor="middle" transform="translate(12 {}) rotate(-90)">{}</text>'
        ).format(frame.height // 2 - 16, y_name)
    )
    return svg(frame, title, parts)


def interval_bar(low: float, high: float, value: float, span: tuple[float, float], told: str) -> Markup:
    """A value with its interval on a line, with 0 marked; for table cells."""
    frame = Frame(150, 26, 4, 4, span, (0.0, 1.0))
    parts = [
        Markup('<line class="zero" x1="{0}" x2="{0}" y1="2" y2="24"/>').format(f"{frame.px(0):.1f}"),
        Markup('<line class="whisker" x1="{}" x2="{}" y1="13" y2="13"/>').format(
            f"{frame.px(low):.1f}", f"{frame.px(high):.1f}"
        ),
        Markup('<circle class="dot" cx="{}" cy="13" r="4"/>').format(f"{frame.px(value):.1f}"),
    ]
    return svg(frame, told, parts, "inline")
