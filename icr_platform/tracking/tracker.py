"""The tracking store that a command works with: starting runs, finding finished ones, and their artifacts."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from icr_platform.core.artifacts import text_digest
from icr_platform.core.errors import InputError
from icr_platform.core.failures import telling_line
from icr_platform.core.file_digests import user_cache
from icr_platform.core.secrets import has_secret, redact, shown_url
from icr_platform.tracking.client import client_of, set_mlflow_defaults
from icr_platform.tracking.dead_runs import end_dead_runs
from icr_platform.tracking.delivery import deliver
from icr_platform.tracking.fetched import FetchedCopies
from icr_platform.tracking.project_runs import caller_folder
from icr_platform.tracking.run_handle import RunHandle
from icr_platform.tracking.run_processes import mark_of_this_process
from icr_platform.tracking.store_address import with_driver
from icr_platform.tracking.store_probe import check_artifact_root, check_store, check_writable, opening
from icr_platform.tracking.stored_artifacts import (
    StoredArtifact,
    artifact_of_model,
    artifact_of_run,
    place_that_is_gone,
)

if TYPE_CHECKING:
    from mlflow.entities import Experiment
    from mlflow.entities import Run as Run

DEFAULT_EXPERIMENT = "icr"
T = TypeVar("T")


class Tracker:
    """One tracking store and experiment. `work` is the folder for copies of remote artifacts, by default the caller's `.icr`.

    Raises:
        InputError: the tracking store or the artifact root does not answer, refuses, or cannot be written; the environment names a
            run or an experiment that is gone. Said before any work is done.
    """

    def __init__(self, experiment: str = "", work: Path | None = None) -> None:
        set_mlflow_defaults()
        import mlflow
        from filelock import FileLock

        # The environment first: MLflow keeps a URI of its own once any call has set one, and would not look there again.
        self.uri: str = with_driver(os.environ.get("MLFLOW_TRACKING_URI") or mlflow.get_tracking_uri())
        check_store(self.uri)
        locks = user_cache() / "locks"
        locks.mkdir(parents=True, exist_ok=True)
        with (
            FileLock(locks / f"{text_digest(self.uri)[:16]}.lock"),
            opening(self.uri),
        ):  # processes that create one sqlite store at once crash in its migration
            self.client = client_of(self.uri)
            chosen = self._experiment(experiment)
        self.experiment_id = str(chosen.experiment_id)
        check_writable(self.uri)
        check_artifact_root(str(chosen.artifact_location), self.uri, str(chosen.name))
        self._copies = FetchedCopies((work or caller_folder() / ".icr") / "artifacts")
        end_dead_runs(self.client, self.experiment_id, self.uri)

    def close(self) -> None:
        """Remove the copies of remote artifacts."""
        self._copies.close()

    def _experiment(self, given: str) -> Experiment:
        """The experiment to work in: that of the run which `mlflow run` made, the one given, or the environment's.

        Raises:
            InputError: a run or an experiment that the environment names is not in this store, deleted, or over.
        """
        if run_id := os.environ.get("MLFLOW_RUN_ID"):
            return self._experiment_of_given_run(run_id, given)
        number = os.environ.get("MLFLOW_EXPERIMENT_ID", "")
        if number and not given:
            found = self._found(lambda: self.client.get_experiment(number))
            source, name = f"MLFLOW_EXPERIMENT_ID={number}", number
        else:
            name = given or os.environ.get("MLFLOW_EXPERIMENT_NAME", "") or DEFAULT_EXPERIMENT
            found = deliver(lambda: self.client.get_experiment_by_name(name), self.uri) or self._made(name)
            source = f"--experiment {name}" if given else f"experiment {name!r}"
        if found is None:
            raise InputError(
                f"{source}: {shown_url(self.uri)} has no such experiment; unset it, or correct MLFLOW_TRACKING_URI"
            )
        if found.lifecycle_stage == "deleted":
            restore = f"restore it (`mlflow experiments restore -x {found.experiment_id}`)"
            raise InputError(f"{source}: this experiment is deleted; {restore} or give another --experiment")
        return found

    def _made(self, name: str) -> Experiment:
        """The new experiment of this name, or the one that another process made at this very moment."""
        from mlflow.exceptions import MlflowException

        try:
            number = str(deliver(lambda: self.client.create_experiment(name), self.uri))
        except MlflowException as error:
            if error.error_code == "RESOURCE_ALREADY_EXISTS" and (other := self.client.get_experiment_by_name(name)):
                return other
            raise InputError(
                f"--experiment {name!r}: MLflow refuses the name ({telling_line(str(error))}); give another"
            ) from error
        return deliver(lambda: self.client.get_experiment(number), self.uri)

    def _experiment_of_given_run(self, run_id: str, given: str) -> Experiment:
        source, fix = f"MLFLOW_RUN_ID={run_id}", "unset MLFLOW_RUN_ID, which `mlflow run` sets by itself"
        run = self._found(lambda: self.client.get_run(run_id))
        if run is None:
            raise InputError(f"{source}: {shown_url(self.uri)} has no such run; {fix}")
        if run.info.lifecycle_stage == "deleted":
            raise InputError(f"{source}: this run is deleted; {fix}")
        if run.info.status not in ("RUNNING", "SCHEDULED"):
            raise InputError(f"{source}: this run is {run.info.status}; {fix}")
        found = deliver(lambda: self.client.get_experiment(run.info.experiment_id), self.uri)
        if given and given != found.name:
            raise InputError(
                f"--experiment {given}: `mlflow run` made the run in experiment {found.name!r}; give --experiment-name {given} to `mlflow run`"
            )
        if found.lifecycle_stage == "deleted":
            raise InputError(f"{source}: its experiment {found.name!r} is deleted; {fix}")
        return found

    def _found(self, action: Callable[[], T]) -> T | None:
        """What the store finds by an id; None if it has nothing of this id."""
        from mlflow.exceptions import MlflowException

        try:
            return deliver(action, self.uri)
        except MlflowException as error:
            if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                raise
            return None

    def start(self, name: str, tags: Mapping[str, object], parent: RunHandle | None = None) -> RunHandle:
        """Start a run, under `parent` or, at the top, as the run that `mlflow run` made for this process."""
        import getpass

        own = {
            "icr.host": socket.gethostname(),
            "icr.process": mark_of_this_process(),
            **{key: str(value) for key, value in tags.items()},
        }
        # `mlflow run` made a run for this process, which would stay empty if another one were started.
        given = os.environ.get("MLFLOW_RUN_ID") if parent is None else None
        if given:
            handle = RunHandle(self.uri, given, self.experiment_id)
            self._hide_secrets_of(given)
            handle.set_tags({"mlflow.runName": name, **own})
            return handle
        if parent is not None:
            own["mlflow.parentRunId"] = parent.run_id
        try:
            user = getpass.getuser()
        except (KeyError, OSError):  # a container whose user id has no name
            user = "unknown"
        own |= {"mlflow.user": user, "mlflow.source.name": "icr", "mlflow.source.type": "LOCAL"}
        run = deliver(lambda: self.client.create_run(self.experiment_id, tags=own, run_name=name), self.uri)
        return RunHandle(self.uri, run.info.run_id, self.experiment_id)

    def _hide_secrets_of(self, run_id: str) -> None:
        """`mlflow run` has stored the project's address and all parameters as they were. Tags can be changed, parameters cannot."""
        data = deliver(lambda: self.client.get_run(run_id), self.uri).data
        for name, value in data.tags.items():
            if has_secret(value):
                deliver(lambda name=name, value=value: self.client.set_tag(run_id, name, redact(value)), self.uri)  # type: ignore[misc]
        if kept := sorted(name for name, value in data.params.items() if has_secret(value)):
            print(
                f"run {run_id}: `mlflow run` has stored a secret in its parameter {kept[0]!r}; delete the run, and give the value in "
                "a preset, which is stored without it",
                file=sys.stderr,
                flush=True,
            )

    def find_finished(self, cache_key: str) -> Run | None:
        """The newest FINISHED stage run with this fingerprint."""
        return next(iter(self.find_tagged({"icr.cache_key": cache_key}, limit=1)), None)

    def find_tagged(self, tags: Mapping[str, str], limit: int) -> list[Run]:
        """FINISHED runs with all of these tags, the newest first."""
        text = " and ".join(
            ["attributes.status = 'FINISHED'", *(f"tags.\"{key}\" = '{value}'" for key, value in tags.items())]
        )
        order = ["attributes.start_time DESC"]
        return list(
            deliver(
                lambda: self.client.search_runs([self.experiment_id], text, max_results=limit, order_by=order), self.uri
            )
        )

    def children(self, run_id: str) -> list[Run]:
        """FINISHED runs right under a run, the oldest first; an iteration that ran again hides nothing."""
        text = f"tags.\"mlflow.parentRunId\" = '{run_id}' and attributes.status = 'FINISHED'"
        order = ["attributes.start_time ASC"]
        return list(
            deliver(lambda: self.client.search_runs([self.experiment_of(run_id)], text, order_by=order), self.uri)
        )

    def tags_of(self, run_id: str) -> dict[str, str]:
        """The tags of a run."""
        return dict(deliver(lambda: self.client.get_run(run_id), self.uri).data.tags)

    def is_sweep(self, run_id: str) -> bool:
        """Whether there is a run of this id, and it is that of a sweep."""
        run = self._found(lambda: self.client.get_run(run_id))
        return run is not None and run.data.tags.get("icr.kind") == "sweep"

    def experiment_of(self, run_id: str) -> str:
        """The experiment of a run, which need not be this command's."""
        return str(deliver(lambda: self.client.get_run(run_id), self.uri).info.experiment_id)

    def stored(self, run: Run, name: str) -> StoredArtifact | None:
        """The run's artifact `name`, or a path below it; None when the run has none. Downloads nothing.

        Raises:
            TrackingError: the artifact store refuses or does not answer.
        """
        return artifact_of_run(run, name, self.uri, self._copies)

    def small_file(self, run: Run, name: str) -> Path | None:
        """A file that was logged next to the run's artifacts, such as its notes; fetched when it is not here."""
        stored = self.stored(run, name)
        return stored.folder() if stored else None

    def find_stored(self, uri: str) -> StoredArtifact:
        """The artifact behind `runs:/RUN_ID/artifact`, `models:/NAME@ALIAS` or `models:/NAME/VERSION`.

        Raises:
            InputError: a run that does not exist or did not finish, or that has no such artifact; no such model.
        """
        from mlflow.exceptions import MlflowException

        if uri.startswith("models:/"):
            return self._find_model(uri)
        run_id, _, name = uri.removeprefix("runs:/").partition("/")
        try:
            run = deliver(lambda: self.client.get_run(run_id), self.uri)
            if "icr.reused_run" in run.data.tags:  # a link; the run that did the work holds the artifacts
                run = deliver(lambda: self.client.get_run(run.data.tags["icr.reused_run"]), self.uri)
        except MlflowException:
            raise InputError(
                f"{uri}: no such run in {shown_url(self.uri)}; check the id and MLFLOW_TRACKING_URI"
            ) from None
        if run.info.status != "FINISHED":
            raise InputError(f"{uri}: the run is {run.info.status}, not FINISHED; run its stage again")
        stored = self.stored(run, name) if name else None
        if stored is None and (gone := place_that_is_gone(run, name, self.uri)):
            raise InputError(
                f"{uri}: the run has no artifact {name!r}: its artifacts lay in {gone}, which is not there; if they were moved, move "
                "them back, or use the machine that has them"
            )
        if stored is None:
            raise InputError(f"{uri}: the run has no artifact {name!r}; check the name in the MLflow UI")
        return stored

    def _find_model(self, uri: str) -> StoredArtifact:
        """A registered model: the run's artifact that was registered, or the files that were registered by their place."""
        from mlflow.exceptions import MlflowException

        name = uri.removeprefix("models:/")
        try:
            if "@" in name:
                found = self.client.get_model_version_by_alias(*name.split("@", 1))
            else:
                found = self.client.get_model_version(*name.rsplit("/", 1))
        except (MlflowException, TypeError):
            raise InputError(
                f"{uri}: no such registered model; give models:/NAME@ALIAS or models:/NAME/VERSION"
            ) from None
        if str(found.source).startswith("runs:/"):
            return self.find_stored(str(found.source))
        return artifact_of_model(found, self.uri, self._copies)

    def resolve(self, uri: str) -> str:
        """Local path of the artifact that `find_stored` finds, which is fetched if it lies elsewhere."""
        return str(self.find_stored(uri).folder())
