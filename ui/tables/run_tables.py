"""The tables of a store's runs: which there are, and the engine that reads them."""

from __future__ import annotations

import threading
from dataclasses import dataclass

from icr_platform.core.errors import IcrError, InputError
from ui.tables.pairs_data import PairTables, pair_index
from ui.tables.queries import QueryEngine
from ui.tables.runs import ArmRecord, Catalogue, IterationRecord

PAIR_ARTIFACTS = ("prompts", "responses", "rewards", "preferences", "drops")
_HINTS = {"eval": " with --eval-prompts and --reference-outputs", "instructions": " with --instruction-prompts"}


@dataclass(frozen=True)
class RunTables:
    """What pages and reviews read: the runs with their artifacts, and queries over these."""

    catalogue: Catalogue
    engine: QueryEngine

    def pair_tables(self, iteration: IterationRecord) -> PairTables:
        """The artifacts behind an iteration's pairs; a thread begins to build the index of the pairs."""
        tables = PairTables(**{name: self.catalogue.artifact(iteration, name) for name in PAIR_ARTIFACTS})
        threading.Thread(target=self._build_index, args=[tables], daemon=True).start()
        return tables

    def _build_index(self, tables: PairTables) -> None:
        try:
            pair_index(self.engine, tables)
        except IcrError:
            return  # the request that needs the index meets the same error and shows it


def latest(arm: ArmRecord, stage: str) -> int:
    """Number of the last iteration in which a stage finished.

    Raises:
        InputError: it has finished in none.
    """
    done = [t.number for t in arm.iterations if t.has_finished(stage)]
    if done:
        return done[-1]
    seen = "" if arm.run.status == "FINISHED" else f"; the run is {arm.run.status.lower()}"
    hint = _HINTS.get(stage, "")
    raise InputError(f"No iteration of this run has finished {stage} yet{seen}. Run `icr iterate`{hint} to its end.")
