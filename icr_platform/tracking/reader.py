"""Reading runs and artifacts for people, who wait: gives up after seconds, where the work of a command waits for minutes."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from icr_platform.core.errors import InputError, TrackingError
from icr_platform.core.secrets import bare_url, redact, shown_url
from icr_platform.tracking.client import client_of, set_mlflow_defaults
from icr_platform.tracking.fetched import FetchedCopies
from icr_platform.tracking.run_handle import RunHandle, page_of_run
from icr_platform.tracking.store_address import is_server, with_driver
from icr_platform.tracking.store_probe import check_store, opening
from icr_platform.tracking.stored_artifacts import StoredArtifact, artifact_of_run, place_that_is_gone
from icr_platform.tracking.troubles import said_by, trouble_of

if TYPE_CHECKING:
    from mlflow.entities import Run

T = TypeVar("T")


@dataclass(frozen=True)
class RunRecord:
    """What the tracking store says of one run, as plain values."""

    run_id: str
    experiment_id: str
    name: str
    status: str
    deleted: bool
    started: float
    """Seconds since 1970."""
    tags: Mapping[str, str]
    params: Mapping[str, str]
    metrics: Mapping[str, float]
    inputs: Mapping[str, str]
    """Digest of each data set the run took, by name."""


class TrackingReader:
    """Reads runs and artifacts; changes nothing but what `attach` adds.

    Raises, from every method:
        TrackingError: the store does not answer.
        InputError: no such run, or the run has no such artifact.
    """

    def __init__(self, uri: str = "") -> None:
        set_mlflow_defaults(MLFLOW_HTTP_REQUEST_MAX_RETRIES="1", MLFLOW_HTTP_REQUEST_TIMEOUT="10")
        import mlflow

        self.uri = with_driver(uri or str(mlflow.get_tracking_uri()))
        self._copies: dict[Path, FetchedCopies] = {}
        self._remote: dict[tuple[str, str], StoredArtifact] = {}

    def check(self) -> None:
        """Raise InputError at once when the store cannot be opened."""
        check_store(self.uri)
        with opening(self.uri):
            client_of(self.uri).search_experiments(max_results=1)

    def experiments(self) -> dict[str, str]:
        """Names of the experiments by id."""
        found = self._ask(lambda: client_of(self.uri).search_experiments(max_results=1000))
        return {str(experiment.experiment_id): str(experiment.name) for experiment in found}

    def arms(self, experiment_ids: list[str]) -> list[RunRecord]:
        """Arm runs of the experiments, the newest first, 1,000 at most."""
        return self._search(experiment_ids, "tags.\"icr.kind\" = 'arm'")

    def evaluations(self, experiment_ids: list[str], stages: Collection[str]) -> list[RunRecord]:
        """Runs of these stages that belong to no arm, the newest first; of each stage 1,000 are looked at, those of arms among them."""
        found = [
            run
            for stage in stages
            for run in self._search(experiment_ids, f"tags.\"icr.kind\" = 'stage' AND tags.\"icr.stage\" = '{stage}'")
            if "mlflow.parentRunId" not in run.tags
        ]
        return sorted(found, key=lambda run: -run.started)

    def sweeps(self, experiment_ids: list[str]) -> list[RunRecord]:
        """Runs above the arms of a sweep, the newest first, 1,000 at most."""
        return self._search(experiment_ids, "tags.\"icr.kind\" = 'sweep'")

    def children(self, run: RunRecord) -> list[RunRecord]:
        """Runs right under `run`."""
        return self._search([run.experiment_id], f"tags.\"mlflow.parentRunId\" = '{run.run_id}'")

    def run(self, run_id: str) -> RunRecord:
        """One run, deleted or not."""
        return _record(self._ask(lambda: client_of(self.uri).get_run(run_id), f"run {run_id}"))

    def artifact(self, run_id: str, name: str, cache: Path) -> Path:
        """Local folder of an artifact; one in a remote store is copied to `cache` once, and stays until `close`."""
        from mlflow.exceptions import MlflowException

        try:
            stored = self._remote.get((run_id, name))
            if stored is None:
                run = self._ask(lambda: client_of(self.uri).get_run(run_id), f"run {run_id}")
                if cache not in self._copies:
                    self._copies[cache] = FetchedCopies(cache)
                stored = artifact_of_run(run, name, self.uri, self._copies[cache])
            if stored is None and (gone := place_that_is_gone(run, name, self.uri)):
                raise InputError(
                    f"runs:/{run_id}/{name}: its artifacts lay in {gone}, which is not there; move them back, or open the inspector "
                    "on the machine that has them"
                )
            if stored is None:
                raise InputError(f"runs:/{run_id}/{name}: no such folder in the artifact store; run its stage again")
            if stored.local is None:
                self._remote[run_id, name] = stored
            return stored.folder()
        except (MlflowException, OSError) as error:
            reason = " ".join(str(error).split())[:200]
            raise TrackingError(f"{name} of run {run_id} could not be fetched ({reason}); try again later") from error

    def close(self) -> None:
        """Remove the copies of remote artifacts."""
        for copies in self._copies.values():
            copies.close()

    def attach(self, run_id: str, folder: Path, name: str, metrics: Mapping[str, float]) -> None:
        """Add a folder as artifact `name`, and metrics, to a run."""
        handle = RunHandle(self.uri, run_id, "")
        self._ask(lambda: handle.client.log_artifacts(run_id, str(folder), name), f"run {run_id}")
        self._ask(lambda: handle.log_metrics(metrics), f"run {run_id}")

    def ui_link(self, record: RunRecord) -> str:
        """Address of the run in the MLflow UI when the store is a server, else ''."""
        if not is_server(self.uri):
            return ""
        return f"{bare_url(self.uri).rstrip('/')}/{page_of_run(record.experiment_id, record.run_id)}"

    def _search(self, experiment_ids: list[str], text: str) -> list[RunRecord]:
        order = ["attributes.start_time DESC"]
        found = self._ask(
            lambda: client_of(self.uri).search_runs(experiment_ids, text, max_results=1000, order_by=order)
        )
        return [_record(run) for run in found]

    def _ask(self, action: Callable[[], T], what: str = "the store") -> T:
        """Make a call once, and turn MLflow's exceptions into ours."""
        from mlflow.exceptions import MlflowException

        try:
            return action()
        except Exception as error:
            if (trouble := trouble_of(error)) is not None:
                fix = (
                    "is it running?"
                    if trouble.does == "does not answer"
                    else f"{redact(said_by(error))}; {trouble.fix}"
                )
                raise TrackingError(f"{shown_url(self.uri)}: the tracking store {trouble.does}; {fix}") from error
            if isinstance(error, MlflowException):
                reason = " ".join(str(error).split())[:200]
                raise InputError(f"{what}: not found in {shown_url(self.uri)} ({reason})") from None
            raise


def _record(run: Run) -> RunRecord:
    inputs = {item.dataset.name: item.dataset.digest for item in (run.inputs.dataset_inputs if run.inputs else ())}
    return RunRecord(
        run_id=run.info.run_id,
        experiment_id=run.info.experiment_id,
        name=run.info.run_name or run.info.run_id,
        status=run.info.status,
        deleted=run.info.lifecycle_stage == "deleted",
        started=(run.info.start_time or 0) / 1000,
        tags=dict(run.data.tags),
        params=dict(run.data.params),
        metrics=dict(run.data.metrics),
        inputs=inputs,
    )
