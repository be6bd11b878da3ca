"""All runs of an experiment at one moment, those that MLflow calls deleted too: which belong together, and which others still use."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from icr_platform.tracking.delivery import deliver

if TYPE_CHECKING:
    from mlflow.entities import Run

    from icr_platform.tracking.tracker import Tracker

_PAGE = 1000


@dataclass(frozen=True)
class RunTree:
    """Runs by id."""

    runs: Mapping[str, Run]

    @cached_property
    def children(self) -> Mapping[str, list[str]]:
        """Ids of the runs right under a run."""
        found: dict[str, list[str]] = defaultdict(list)
        for run_id, run in self.runs.items():
            found[parent_of(run)].append(run_id)
        return found

    def arms(self) -> list[Run]:
        """Arm runs that are not deleted, the newest first."""
        return self._of_kind("arm")

    def sweeps(self) -> list[Run]:
        """Runs of sweeps that are not deleted, the newest first."""
        return self._of_kind("sweep")

    def _of_kind(self, kind: str) -> list[Run]:
        found = [run for run in self.runs.values() if run.data.tags.get("icr.kind") == kind and not is_deleted(run)]
        return sorted(found, key=lambda run: -(run.info.start_time or 0))

    def below(self, tops: Iterable[str]) -> list[Run]:
        """The runs themselves and everything under them, leaves first."""
        found: dict[str, None] = {}
        waiting = list(tops)
        while waiting:
            run_id = waiting.pop()
            if run_id not in found:
                found[run_id] = None
                waiting += self.children.get(run_id, [])
        return [self.runs[run_id] for run_id in reversed(found)]

    def users(self, going: Iterable[str]) -> dict[str, list[str]]:
        """Who else needs each of the runs that are to go: `arm NAME` or `run ID`, of runs that stay.

        A run is needed where another one reused it, or names it as an input.
        """
        leaving = set(going)
        found: dict[str, set[str]] = defaultdict(set)
        for run_id, run in self.runs.items():
            if run_id in leaving or is_deleted(run):
                continue
            user = f"arm {run.data.tags['icr.arm']}" if "icr.arm" in run.data.tags else f"run {run_id}"
            used = {run.data.tags.get("icr.reused_run", "")}
            used |= {value[6:].partition("/")[0] for value in run.data.params.values() if value.startswith("runs:/")}
            for other in used & leaving:
                found[other].add(user)
        return {run_id: sorted(users) for run_id, users in found.items()}


def read_runs(tracker: Tracker, experiment_id: str) -> RunTree:
    """All runs of an experiment."""
    from mlflow.entities import ViewType

    found: dict[str, Run] = {}
    token = ""
    while True:
        page = deliver(
            lambda: tracker.client.search_runs(
                [experiment_id], run_view_type=ViewType.ALL, max_results=_PAGE, page_token=token or None
            ),
            tracker.uri,
        )  # fmt: skip
        found |= {run.info.run_id: run for run in page}
        if not (token := page.token or ""):
            return RunTree(found)


def parent_of(run: Run) -> str:
    """Id of the run above; '' at the top."""
    return str(run.data.tags.get("mlflow.parentRunId", ""))


def is_deleted(run: Run) -> bool:
    """Whether MLflow calls the run deleted; its files may all be there."""
    return bool(run.info.lifecycle_stage == "deleted")
