"""Small charts as inline SVG: they follow the theme, load nothing, can be read aloud, and their marks are links."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from markupsafe import Markup

from icr_platform.core.intervals import Z95
from ui.html.rendering import number


class Point(NamedTuple):
    """x: iteration; error: standard error in the unit of y, None where there is none."""

    x: int
    y: float
    error: float | None = None


@dataclass(frozen=True)
class Bar:
    """A histogram's bin [low, high), how many are in it, and the address its bar opens."""

    low: float
    high: float
    count: int
    href: str = ""


@dataclass(frozen=True)
class Cell:
    """A cell of a heat map; bounds in data units."""

    x0: float
    x1: float
    y0: float
    y1: float
    count: int
    href: str = ""


class Frame(NamedTuple):
    """Plot area in pixels and the data range it shows."""

    width: int
    height: int
    left: int
    bottom: int
    x: tuple[float, float]
    y: tuple[float, float]

    def px(self, value: float) -> float:
        low, high = self.x
        return self.left + (value - low) / ((high - low) or 1.0) * (self.width - self.left - 10)

    def py(self, value: float) -> float:
        low, high = self.y
        return (self.height - self.bottom) - (value - low) / ((high - low) or 1.0) * (self.height - self.bottom - 10)


def nice_ticks(low: float, high: float, wanted: int = 4) -> list[float]:
    """Round values within [low, high].

    >>> nice_ticks(0, 10, 5)
    [0.0, 2.0, 4.0, 6.0, 8.0, 10.0]
    """
    if not (math.isfinite(low) and math.isfinite(high)) or high <= low:
        return [low] if math.isfinite(low) else []
    rough = (high - low) / wanted
    magnitude = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * magnitude for factor in (1, 2, 2.5, 5, 10) if factor * magnitude >= rough)
    first = math.ceil(low / step - 1e-9)
    return [round(index * step, 12) for index in range(first, math.floor(high / step + 1e-9) + 1)]


def learning_curve(
    title: str,
    points: Sequence[Point],
    published: Sequence[Point],
    span: tuple[float, float],
    iterations: tuple[int, int],
    unit: str,
) -> Markup:
    """Value by iteration with its 95% band, and the published values as open diamonds."""
    frame = Frame(260, 168, 38, 26, (iterations[0] - 0.2, iterations[1] + 0.2), span)
    parts = [_axes(frame, [float(x) for x in range(iterations[0], iterations[1] + 1)], nice_ticks(*span), 0)]
    banded = [point for point in points if point.error is not None]
    if len(banded) > 1:
        upper = [(frame.px(p.x), frame.py(p.y + Z95 * (p.error or 0))) for p in banded]
        lower = [(frame.px(p.x), frame.py(p.y - Z95 * (p.error or 0))) for p in reversed(banded)]
        parts.append(Markup('<polygon class="band" points="{}"/>').format(_path(upper + lower)))
    parts.append(
        Markup('<polyline class="line" points="{}"/>').format(_path([(frame.px(p.x), frame.py(p.y)) for p in points]))
    )
    for point in points:
        parts.append(_curve_point(frame, point, unit))
    for point in published:
        x, y = frame.px(point.x), frame.py(point.y)
        parts.append(
            Markup('<path class="published" d="M{} {}l5 5l-5 5l-5 -5z"><title>{}</title></path>').format(
                f"{x:.1f}", f"{y - 5:.1f}", f"published, iteration {point.x}: {number(point.y, 1)}{unit}"
            )
        )
    told = ", ".join(f"iteration {p.x} {number(p.y, 1)}{unit}" for p in points)
    return _svg(frame, f"{title}: {told}", parts)


def _curve_point(frame: Frame, point: Point, unit: str) -> Markup:
    x, y = frame.px(point.x), frame.py(point.y)
    told = f"iteration {point.x}: {number(point.y, 1)}{unit}"
    bar = Markup("")
    if point.error is not None:
        reach = Z95 * point.error
        told += f", 95% interval {number(point.y - reach, 1)} to {number(point.y + reach, 1)}"
        bar = Markup('<line class="whisker" x1="{0}" x2="{0}" y1="{1}" y2="{2}"/>').format(
            f"{x:.1f}", f"{frame.py(point.y - reach):.1f}", f"{frame.py(point.y + reach):.1f}"
        )
    return bar + Markup('<circle class="dot" cx="{}" cy="{}" r="4"><title>{}</title></circle>').format(
        f"{x:.1f}", f"{y:.1f}", told
    )


def histogram(title: str, bars: Sequence[Bar], x_label: str) -> Markup:
    """Counts per bin; a bar opens what is in it."""
    if not bars:
        return Markup("")
    top = max(bar.count for bar in bars) or 1
    frame = Frame(320, 170, 44, 40, (bars[0].low, bars[-1].high), (0.0, float(top)))
    parts = [_axes(frame, nice_ticks(*frame.x), nice_ticks(0, top, 3), 2)]
    for bar in bars:
        x, y = frame.px(bar.low), frame.py(bar.count)
        told = f"{number(bar.low)} to {number(bar.high)}: {bar.count:,}"
        shape = Markup('<rect class="bar" x="{}" y="{}" width="{}" height="{}"><title>{}</title></rect>').format(
            f"{x:.1f}", f"{y:.1f}", f"{max(frame.px(bar.high) - x - 1, 1):.1f}", f"{frame.py(0) - y:.1f}", told
        )
        parts.append(_linked(shape, bar.href, told) if bar.count else shape)
    parts.append(_x_label(frame, x_label))
    return _svg(frame, title, parts)


def heat_map(title: str, cells: Sequence[Cell], x_label: str, y_label: str) -> Markup:
    """Counts over two dimensions; a cell opens what is in it."""
    if not cells:
        return Markup("")
    x = (min(cell.x0 for cell in cells), max(cell.x1 for cell in cells))
    y = (min(cell.y0 for cell in cells), max(cell.y1 for cell in cells))
    frame = Frame(480, 280, 56, 42, x, y)
    parts = [_axes(frame, nice_ticks(*x), nice_ticks(*y), 1)]
    most = max(cell.count for cell in cells)
    for cell in cells:
        told = f"{x_label} {number(cell.x0, 0)} to {number(cell.x1, 0)}, {y_label} {number(cell.y0)} to {number(cell.y1)}: {cell.count:,}"
        left, top = frame.px(cell.x0), frame.py(cell.y1)
        # Logarithmic, or the few dense cells would hide all others.
        shade = 0.12 + 0.88 * math.log1p(cell.count) / math.log1p(most)
        shape = Markup('<rect class="cell" x="{}" y="{}" width="{}" height="{}" fill-opacity="{}"><title>{}</title></rect>').format(
            f"{left:.1f}", f"{top:.1f}", f"{max(frame.px(cell.x1) - left - 0.5, 1):.1f}",
            f"{max(frame.py(cell.y0) - top - 0.5, 1):.1f}", f"{shade:.2f}", told,
        )  # fmt: skip
        parts.append(_linked(shape, cell.href, told))
    parts.append(_x_label(frame, x_label))
    parts.append(
        Markup(
            '<text class="axis-label" text-anchor="middle" transform="translate(12 {}) rotate(-90)">{}</text>'
        ).format(frame.height // 2 - 16, y_label)
    )
    return _svg(frame, title, parts)


def interval_bar(low: float, value: float, high: float, span: tuple[float, float], told: str) -> Markup:
    """A value with its interval on a line, with 0 marked; for table cells."""
    frame = Frame(150, 26, 4, 4, span, (0.0, 1.0))
    parts = [
        Markup('<line class="zero" x1="{0}" x2="{0}" y1="2" y2="24"/>').format(f"{frame.px(0):.1f}"),
        Markup('<line class="whisker" x1="{}" x2="{}" y1="13" y2="13"/>').format(
            f"{frame.px(low):.1f}", f"{frame.px(high):.1f}"
        ),
        Markup('<circle class="dot" cx="{}" cy="13" r="4"/>').format(f"{frame.px(value):.1f}"),
    ]
    return _svg(frame, told, parts, "inline")


def _linked(shape: Markup, href: str, told: str) -> Markup:
    return Markup('<a href="{}" aria-label="{}">{}</a>').format(href, told, shape) if href else shape


def _path(points: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)


def _axes(frame: Frame, xs: Sequence[float], ys: Sequence[float], digits: int) -> Markup:
    parts = []
    base = frame.height - frame.bottom
    decimals = (
        0 if all(float(y).is_integer() for y in ys) else 1 if all(round(y * 10, 6).is_integer() for y in ys) else 2
    )
    for y in ys:
        parts.append(
            Markup(
                '<line class="grid" x1="{}" x2="{}" y1="{y}" y2="{y}"/><text class="tick" x="{}" y="{}" text-anchor="end">{}</text>'
            ).format(
                frame.left,
                frame.width - 10,
                frame.left - 6,
                f"{frame.py(y) + 4:.1f}",
                number(y, decimals),
                y=f"{frame.py(y):.1f}",
            )
        )
    for x in xs:
        text = number(x, 0 if float(x).is_integer() else digits)
        parts.append(
            Markup('<text class="tick" x="{}" y="{}" text-anchor="middle">{}</text>').format(
                f"{frame.px(x):.1f}", base + 16, text
            )
        )
    return Markup("").join(parts)


def _x_label(frame: Frame, text: str) -> Markup:
    x = (frame.left + frame.width) // 2
    return Markup('<text class="axis-label" x="{}" y="{}" text-anchor="middle">{}</text>').format(
        x, frame.height - 6, text
    )


def _svg(frame: Frame, title: str, parts: Sequence[Markup], css: str = "") -> Markup:
    drawn = Markup("").join(parts)
    role = "group" if "<a " in drawn else "img"  # links inside an image are not read out
    return Markup(
        '<svg class="chart {}" role="{}" aria-label="{}" viewBox="0 0 {w} {h}" style="max-width:{w}px">{}</svg>'
    ).format(css, role, title, drawn, w=frame.width, h=frame.height)
