"""Margins: how strong the preferences are, whether length drives them, and which pairs are the extremes."""

from __future__ import annotations

import math
from dataclasses import replace

from markupsafe import Markup

from icr_platform.core.errors import IcrError
from icr_platform.core.language_tags import is_english
from ui.html.charts import Bar, HeatCell, Span, heat_map, histogram
from ui.html.rendering import language_label, render
from ui.pages.inspector import Content, Focus, Inspector
from ui.tables import margins_data
from ui.tables.margins_data import GRID, Distribution, LengthReward
from ui.tables.pairs_data import PairTables
from ui.tables.queries import ResultRow
from ui.tables.run_tables import latest
from ui.tables.view import View


def show(inspector: Inspector, focus: Focus) -> Content:
    """Distributions of all languages, or everything about one."""
    view = focus.view
    if view.iteration is None:
        view = replace(view, iteration=latest(focus.arm, "annotate"))
    tables = inspector.pair_tables(focus.arm.iteration(view.iteration or 0))
    found = margins_data.distributions(inspector.engine, tables, view.language)
    numbers = [t.number for t in focus.arm.iterations]
    filters = render(
        "margins_filters", view=view, iterations=numbers, languages=focus.arm.languages() or [d.language for d in found]
    )
    # Lengths and rewards of different languages do not compare, so the heat maps show one: English unless another is chosen.
    wanted = [d for d in found if (d.language == view.language if view.language else is_english(d.language))]
    chosen = next(iter(wanted or found), None)
    main = render(
        "margins",
        view=view,
        unrewarded=tables.preferences.rows if not margins_data.has_margins(inspector.engine, tables) else 0,
        distributions=[(d, _histogram(d, view)) for d in found],
        by_iteration=_by_iteration(inspector, focus, view),
        figures=margins_data.length_figures(tables.preferences, [d.language for d in found]),
        chosen=chosen,
        lengths=_lengths(inspector, tables, view, chosen),
        smallest=margins_data.outliers(inspector.engine, tables, view.language, largest=False),
        largest=margins_data.outliers(inspector.engine, tables, view.language, largest=True),
        kinds=margins_data.kind_agreement(inspector.engine, tables, view.language),
    )
    return Content(Markup(filters), Markup(main))


def _histogram(found: Distribution, view: View) -> Markup:
    step = (found.high - found.low) / len(found.bins)
    bars = []
    for number, count in enumerate(found.bins):
        low, high = found.low + number * step, found.low + (number + 1) * step
        # The first and the last bin also hold what lies beyond them, and say so.
        bounds = {
            "margin_min": None if number == 0 else low,
            "margin_max": None if number == len(found.bins) - 1 else high,
        }
        href = view.without_filters(language=found.language, **bounds).link("pairs")
        bars.append(Bar(low, high, count, href, span=Span(bounds["margin_min"], bounds["margin_max"])))
    return histogram(f"Margins in {language_label(found.language)}", bars, "margin")


def _by_iteration(inspector: Inspector, focus: Focus, view: View) -> list[tuple[int, dict[str, Distribution]]]:
    """Distributions by language of every iteration that has pairs, for the table of quantiles."""
    rows = []
    for t in focus.arm.iterations:
        if not t.has_finished("annotate"):
            continue
        try:
            found = margins_data.distributions(inspector.engine, inspector.pair_tables(t), view.language)
        except IcrError:
            if t.number == view.iteration:
                raise
            continue  # another iteration's tables may be gone; this one's are shown all the same
        rows.append((t.number, {d.language: d for d in found}))
    return rows


def _lengths(
    inspector: Inspector, tables: PairTables, view: View, chosen: Distribution | None
) -> tuple[LengthReward, Markup, Markup] | None:
    """Numbers and both heat maps of the chosen language."""
    if chosen is None:
        return None
    found = margins_data.length_reward(inspector.engine, tables, chosen.language, chosen.alpha)
    if found is None:
        return None
    title, here = "Reward against length, {} length control", view.without_filters(language=chosen.language)
    before = _grid(title.format("before"), found.before, found.x, found.y_before, "reward", here)
    # A length-controlled reward is not a column of the tables, so Pairs could not filter by it.
    after = _grid(title.format("after"), found.after, found.x, found.y_after, "reward − alpha × length", None)
    return found, before, after


def _grid(
    title: str, rows: list[ResultRow], x: tuple[float, float], y: tuple[float, float], y_name: str, view: View | None
) -> Markup:
    """Heat map of samples; with a view, a cell opens the pairs of the prompts that have a sample in it."""
    dx, dy = (x[1] - x[0]) / GRID, (y[1] - y[0]) / GRID
    cells = []
    for row in rows:
        column, line = row["column"], row["line"]
        x0, y0 = x[0] + column * dx, y[0] + line * dy
        # The cells at the edges also hold what lies beyond. Lengths are whole numbers: bounds are rounded up.
        lengths = Span(
            None if column == 0 else math.ceil(x0), None if column == GRID - 1 else math.ceil(x0 + dx), digits=0
        )
        rewards = Span(None if line == 0 else y0, None if line == GRID - 1 else y0 + dy)
        href = ""
        if view:
            href = view.link(
                "pairs",
                sample_length_min=lengths.low,
                sample_length_max=lengths.high,
                sample_reward_min=rewards.low,
                sample_reward_max=rewards.high,
            )
        cells.append(HeatCell(x0, x0 + dx, y0, y0 + dy, row["count"], href, (lengths, rewards)))
    return heat_map(title, cells, "characters", y_name)
