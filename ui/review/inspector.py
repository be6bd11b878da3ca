"""What every page needs: the runs, the tables of an iteration, the query engine and the verdicts."""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace
from typing import NamedTuple

from markupsafe import Markup

from icr_platform.core.errors import IcrError, InputError
from icr_platform.core.schemas import TABLES
from ui.review.verdicts import VerdictStore
from ui.tables.pairs_data import PairTables, pair_index
from ui.tables.queries import Engine
from ui.tables.runs import Arm, Catalogue, Iteration
from ui.tables.view import View

PAIR_ARTIFACTS = ("prompts", "responses", "rewards", "preferences", "drops")


class Content(NamedTuple):
    """Of a page: its own fields of the filter form, and what stands below. Both are Markup made by `rendering`."""

    filters: Markup
    main: Markup


class Focus(NamedTuple):
    """The arm a page shows and its view with run, and where the page needs one, iteration filled in."""

    arm: Arm
    view: View


@dataclass(frozen=True)
class Inspector:
    catalogue: Catalogue
    engine: Engine
    verdicts: VerdictStore

    def focus(self, view: View) -> Focus | None:
        """The run the view asks for, or the newest one; None when there is no run at all."""
        if view.run:
            arm = self.catalogue.arm(view.run)
        else:
            arms = self.catalogue.arms(view.experiment)
            if not arms:
                return None
            arm = self.catalogue.arm(arms[0].run_id)
        return Focus(arm, replace(view, run=arm.run.run_id, experiment=arm.experiment))

    def latest(self, arm: Arm, stage: str) -> int:
        """Number of the last iteration in which a stage finished.

        Raises:
            InputError: it finished in none.
        """
        done = [t.number for t in arm.iterations if stage in t.stages and t.stages[stage].run.status == "FINISHED"]
        if not done:
            seen = "" if arm.run.status == "FINISHED" else f"; the run is {arm.run.status.lower()}"
            hint = " with --eval-prompts and --reference-outputs" if stage == "eval" else ""
            raise InputError(
                f"No iteration of this run has finished {stage} yet{seen}. Run `icr iterate`{hint} to its end."
            )
        return done[-1]

    def pair_tables(self, iteration: Iteration) -> PairTables:
        """The artifacts behind an iteration's pairs; the index of its pairs starts to be built."""
        tables = PairTables(**{name: self.catalogue.artifact(iteration, name) for name in PAIR_ARTIFACTS})
        threading.Thread(target=self._index, args=[tables], daemon=True).start()
        return tables

    def _index(self, tables: PairTables) -> None:
        try:
            pair_index(self.engine, tables)
        except IcrError:
            return  # the request that needs the index meets the same error and shows it


assert set(PAIR_ARTIFACTS) <= set(TABLES)
