"""What every page is given and gives back: the inspector, the run it looks at, and the page's content."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

from markupsafe import Markup

from ui.html.line_marks import Marker, mark_nothing
from ui.review.link_store import LinkStore
from ui.review.seeing import NOBODY, Viewer
from ui.review.verdict_store import VerdictStore
from ui.tables.output_files import NO_FILES, OutputFiles
from ui.tables.paired_table import PairedTables
from ui.tables.run_tables import RunTables
from ui.tables.runs import ArmRecord
from ui.tables.view import View


class Focus(NamedTuple):
    """The arm that a page shows, the page's view with the arm filled in, and who looks at it."""

    arm: ArmRecord
    view: View
    viewer: Viewer = NOBODY


class Content(NamedTuple):
    """A rendered page: its own fields of the filter form, and what stands below the form.

    view: with what the page filled in or left out, where its address is to say it; None leaves the address as it is.
    said: a sentence for each filter that was left out.
    """

    filters: Markup
    main: Markup
    view: View | None = None
    said: tuple[str, ...] = ()


@dataclass(frozen=True)
class Inspector(RunTables):
    """The runs' tables, the reviewers' verdicts, what finds lines in another language than was asked for, and files of outputs."""

    verdicts: VerdictStore
    marker: Marker = mark_nothing
    files: OutputFiles = NO_FILES

    @cached_property
    def links(self) -> LinkStore:
        """The review links, which the database of verdicts has."""
        return LinkStore(self.verdicts.database)

    @cached_property
    def paired(self) -> PairedTables:
        """The paired tables that were made so far."""
        return PairedTables(self.engine)

    def focus(self, view: View) -> Focus | None:
        """The run that the view asks for, or the newest one; None when there is no run at all."""
        if view.run:
            # As people paste it: with spaces, or as the address of an artifact.
            arm = self.catalogue.arm(view.run.strip().removeprefix("runs:/").partition("/")[0])
        else:
            arms = self.catalogue.arms(view.experiment)
            if not arms:
                return None
            arm = self.catalogue.arm(arms[0].run_id)
        return Focus(arm, replace(view, run=arm.run.run_id, experiment=arm.experiment))


Show = Callable[[Inspector, Focus], Content]
ShowSides = Callable[[Inspector, View, Viewer], Content]
"""Of a page that is not about one run, and is shown without any."""
