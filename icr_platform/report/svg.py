"""Small charts as inline SVG: they follow the page's theme, load nothing, can be read aloud, and their marks may be links.

Everything that stands in a chart goes through `Markup.format`, which escapes it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from importlib.resources import files
from typing import NamedTuple

from markupsafe import Markup

from icr_platform.report.numbers import number


class Frame(NamedTuple):
    """Plot area in pixels and the data range it shows. left, bottom: room for the axes' labels."""

    width: int
    height: int
    left: int
    bottom: int
    x: tuple[float, float]
    y: tuple[float, float]

    # 10 pixels at the top and on the right stay free for marks that stand on the edge.
    def px(self, value: float) -> float:
        """Pixels from the left edge."""
        low, high = self.x
        return self.left + (value - low) / ((high - low) or 1.0) * (self.width - self.left - 10)

    def py(self, value: float) -> float:
        """Pixels from the upper edge."""
        low, high = self.y
        return (self.height - self.bottom) - (value - low) / ((high - low) or 1.0) * (self.height - self.bottom - 10)


def nice_ticks(low: float, high: float, wanted: int = 4) -> list[float]:
    """Round values within [low, high].

    >>> nice_ticks(0, 10, 5)
    [0.0, 2.0, 4.0, 6.0, 8.0, 10.0]
    """
    if not (math.isfinite(low) and math.isfinite(high)) or high <= low:
        return [low] if math.isfinite(low) else []
    # Of 1, 2, 2.5 and 5 times a power of ten the first step that gives at most `wanted` intervals.
    rough = (high - low) / wanted
    magnitude = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * magnitude for factor in (1, 2, 2.5, 5, 10) if factor * magnitude >= rough)
    first = math.ceil(low / step - 1e-9)  # 1e-9: a bound that misses a tick by a rounding error keeps it
    return [round(index * step, 12) for index in range(first, math.floor(high / step + 1e-9) + 1)]


def axes(frame: Frame, xs: Sequence[float], ys: Sequence[float], digits: int) -> Markup:
    """Grid lines with their labels at ys, labels at xs. digits: of labels on the x axis that are not whole."""
    decimals = next(
        (places for places in (0, 1) if all(round(y * 10**places, 6).is_integer() for y in map(float, ys))), 2
    )
    line = Markup(
        '<line class="grid" x1="{}" x2="{}" y1="{y}" y2="{y}"/><text class="tick" x="{}" y="{}" text-anchor="end">{}</text>'
    )
    tick = Markup('<text class="tick" x="{}" y="{}" text-anchor="middle">{}</text>')
    parts = [
        line.format(
            frame.left, frame.width - 10, frame.left - 6, f"{frame.py(y) + 4:.1f}", number(y, decimals),
            y=f"{frame.py(y):.1f}",
        )
        for y in ys
    ] + [
        tick.format(
            f"{frame.px(x):.1f}", frame.height - frame.bottom + 16, number(x, 0 if float(x).is_integer() else digits)
        )
        for x in xs
    ]  # fmt: skip
    return Markup("").join(parts)


def x_label(frame: Frame, text: str) -> Markup:
    """What the x axis shows, below it."""
    return Markup('<text class="axis-label" x="{}" y="{}" text-anchor="middle">{}</text>').format(
        (frame.left + frame.width) // 2, frame.height - 6, text
    )


def linked(shape: Markup, href: str, told: str) -> Markup:
    """A mark that opens `href`, or only the mark without one."""
    return Markup('<a href="{}" aria-label="{}">{}</a>').format(href, told, shape) if href else shape


def path(points: Sequence[tuple[float, float]]) -> str:
    """The `points` attribute of a line or an area."""
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)


def svg(frame: Frame, title: str, parts: Sequence[Markup], css: str = "") -> Markup:
    """The whole chart; a screen reader says its title."""
    drawn = Markup("").join(parts)
    role = "group" if "<a " in drawn else "img"  # links inside an image are not read out
    return Markup(
        '<svg class="chart {}" role="{}" aria-label="{}" viewBox="0 0 {w} {h}" style="max-width:{w}px">{}</svg>'
    ).format(css, role, title, drawn, w=frame.width, h=frame.height)


def chart_style() -> str:
    """The style sheet of charts; the page gives the colours `--chart-mark`, `--chart-other`, `--chart-text`, ..."""
    return (files("icr_platform.report") / "charts.css").read_text(encoding="utf-8")
