"""Calibration of rewards as a page of small charts: accuracy by the size of the margin, beside what the margin claims."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from markupsafe import Markup

from icr_platform.core.languages import language_label
from icr_platform.report.numbers import number
from icr_platform.report.svg import Frame, axes, chart_style, nice_ticks, path, svg, x_label

_PAGE = Markup("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>Calibration of rewards</title>
<style>
:root {{ color-scheme: light dark; --chart-mark: #4c83d3; --chart-other: #cf7f2e; --chart-text: #636c76; --chart-rule: #e2e4e8; --chart-paper: #fff; }}
@media (prefers-color-scheme: dark) {{ :root {{ --chart-text: #98a1ab; --chart-rule: #31373e; --chart-paper: #1c2025; }} }}
body {{ margin: 24px auto; max-width: 1100px; padding: 0 20px; font: 15px/1.5 system-ui, "Noto Sans", sans-serif; }}
{style}
.multiples figure {{ flex-basis: min(340px, 100%); margin: 0; }}
figcaption {{ font-size: 13px; font-weight: 600; }}
</style>
</head>
<body>
<h1>Calibration of rewards</h1>
<p>Pairs in bins of equal size by how far apart the two rewards are. Dots: how often the better response has the higher reward, with 95%
intervals; dotted: how often it would have it if sigmoid(margin) were its probability; 50% is chance.</p>
{charts}
</body>
</html>
""")


def calibration_page(table: pd.DataFrame) -> str:
    """A page of its own, which loads nothing: one chart per kind, source and language.

    Args:
        table: as `evaluation.reward_tables.calibration_table`.
    """
    sections = []
    for (source, kind), rows in table.groupby(["source", "kind"], sort=False):
        figures = [
            Markup("<figure>{}<figcaption>{}, {} pairs</figcaption></figure>").format(
                calibration_chart(bins.to_dict("records"), f"{kind}, {language_label(str(language))}"),
                language_label(str(language)),
                number(int(bins["n"].sum()), 0),
            )
            for language, bins in rows.groupby("language", sort=False)
        ]
        heading = Markup("<h2>{} ({})</h2>").format(kind, source)
        sections.append(heading + Markup('<div class="multiples">{}</div>').format(Markup("").join(figures)))
    return str(_PAGE.format(style=Markup(chart_style()), charts=Markup("").join(sections)))


def calibration_chart(bins: Sequence[Mapping[Any, Any]], title: str) -> Markup:
    """Accuracy and its interval at the mean margin of each bin, over the accuracy that the margins claim."""
    lowest = min(50.0, *(each["low"] for each in bins))
    most = max(each["margin"] for each in bins) or 1.0
    frame = Frame(340, 200, 38, 40, (0.0, 1.05 * most), (max(0.0, lowest - 2), 102.0))
    parts = [
        axes(frame, nice_ticks(*frame.x), nice_ticks(*frame.y), 2),
        x_label(frame, "absolute margin, mean of the bin"),
    ]
    chance = Markup('<line class="zero" x1="{}" x2="{}" y1="{y}" y2="{y}"/>')
    parts.append(chance.format(frame.left, frame.width - 10, y=f"{frame.py(50.0):.1f}"))
    claimed = [(frame.px(each["margin"]), frame.py(each["predicted"])) for each in bins]
    parts.append(
        Markup('<polyline fill="none" stroke="var(--chart-other)" stroke-dasharray="2 3" points="{}"/>').format(
            path(claimed)
        )
    )
    for each in bins:
        x, y = frame.px(each["margin"]), frame.py(each["accuracy"])
        told = (
            f"margin {number(each['least'], 2)} to {number(each['most'], 2)}: {number(each['accuracy'], 1)}% right, 95% interval "
            f"{number(each['low'], 1)} to {number(each['high'], 1)}, {int(each['n'])} pairs; claimed {number(each['predicted'], 1)}%"
        )
        whisker = Markup('<line class="whisker" x1="{x}" x2="{x}" y1="{}" y2="{}"/>')
        parts.append(whisker.format(f"{frame.py(each['low']):.1f}", f"{frame.py(each['high']):.1f}", x=f"{x:.1f}"))
        dot = Markup('<circle class="dot" cx="{}" cy="{}" r="4"><title>{}</title></circle>')
        parts.append(dot.format(f"{x:.1f}", f"{y:.1f}", told))
    read_aloud = ", ".join(f"margin {number(each['margin'], 2)} {number(each['accuracy'], 1)}%" for each in bins)
    return svg(frame, f"{title}: {read_aloud}", parts)
