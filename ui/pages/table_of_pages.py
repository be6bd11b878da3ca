"""The table of pages: navigation, addresses and routes follow from its rows.

A new page is a module next to this one with a `show(inspector, focus)`, perhaps a template in `ui/html/templates`, and a row here; a
parameter of its own in the address is a field of `ui.tables.view.View`.
"""

from __future__ import annotations

from typing import NamedTuple

from ui.pages import agreement, compare, disagreements, margins, overview, pairs, regressions, spot_check
from ui.pages.inspector import Show, ShowSides


class Page(NamedTuple):
    """address: below the server's, '' for the first page. show: gives the page's content for what its address asks for.

    show_sides: instead of it, for a page that is not about one run.
    """

    address: str
    title: str
    show: Show | None = None
    show_sides: ShowSides | None = None


PAGES = (
    Page("", "Overview", overview.show),
    Page("pairs", "Pairs", pairs.show),
    Page("margins", "Margins", margins.show),
    Page("regressions", "Regressions", regressions.show),
    Page("compare", "Compare", show_sides=compare.show),
    Page("spot-check", "Spot-check", spot_check.show),
    Page("disagreements", "Disagreements", disagreements.show),
    Page("agreement", "Agreement", agreement.show),
)
