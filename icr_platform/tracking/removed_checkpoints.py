"""Checkpoints whose weights are removed from the artifact store to save disk, once nobody needs them (`keep_checkpoints`)."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from icr_platform.core.artifacts import MANIFEST
from icr_platform.core.errors import TrackingError
from icr_platform.tracking.delivery import deliver

if TYPE_CHECKING:
    from icr_platform.tracking.tracker import Tracker


def was_removed(tracker: Tracker, run_id: str) -> bool:
    """Whether the weights of this train run's checkpoint were removed."""
    return deliver(lambda: tracker.client.get_run(run_id), tracker.uri).data.tags.get("icr.checkpoint") == "removed"


def other_uses(tracker: Tracker, run_id: str, arm: str, name: str, aliases: Collection[str]) -> list[str]:
    """Who else may need a train run's checkpoint: arms but `arm` that trained or reused it, aliases but these of `name`."""

    def find() -> list[str]:
        run = tracker.client.get_run(run_id)
        reused = tracker.client.search_runs([run.info.experiment_id], f"tags.\"icr.reused_run\" = '{run_id}'")
        arms = {found.data.tags.get("icr.arm", "") for found in [run, *reused]} - {arm}
        versions = tracker.client.search_model_versions(f"run_id = '{run_id}'")
        return sorted(f"arm {other}" for other in arms) + sorted(
            f"models:/{version.name}@{other}"
            for version in versions
            for other, number in tracker.client.get_registered_model(version.name).aliases.items()
            if str(number) == str(version.version) and not (version.name == name and other in aliases)
        )

    return deliver(find, tracker.uri)


def remove_checkpoint(
    tracker: Tracker, run_id: str, name: str, aliases: Collection[str], checkpoint: Path, weights: Sequence[str]
) -> None:
    """Remove the weights of a train run's checkpoint from the artifact store, and the aliases that lead to them.

    name, aliases: of the registered model. checkpoint: a local copy whose weights are gone. weights: names of their files.

    Raises:
        TrackingError: the store refuses, or cannot delete.
    """
    from mlflow.exceptions import MlflowException
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    def remove() -> None:
        # Marks and aliases go first: after a kill half-way nothing points at weights that are gone.
        for version in tracker.client.search_model_versions(f"run_id = '{run_id}'"):
            if version.name == name:
                tracker.client.set_model_version_tag(name, version.version, "icr.checkpoint", "removed")
                known = tracker.client.get_registered_model(name).aliases
                for alias in aliases:
                    if str(known.get(alias)) == str(version.version):
                        tracker.client.delete_registered_model_alias(name, alias)
        run = tracker.client.get_run(run_id)
        tracker.client.set_tag(run_id, "icr.checkpoint", "removed")
        if "icr.artifact.checkpoint" in run.data.tags:
            return  # the artifact is a reference to the local copy
        repository = get_artifact_repository(run.info.artifact_uri, tracking_uri=tracker.uri)
        stored = {Path(file.path).name for file in repository.list_artifacts("checkpoint")} & set(weights)
        if stored:
            manifest = checkpoint / MANIFEST
            with tempfile.TemporaryDirectory() as folder:  # the local copy may be the store's own file
                repository.log_artifact(shutil.copy(manifest, folder), "checkpoint")
        for file in sorted(stored):
            with contextlib.suppress(FileNotFoundError):
                repository.delete_artifacts(f"checkpoint/{file}")

    try:
        deliver(remove, tracker.uri)
    except (MlflowException, NotImplementedError, OSError) as error:
        raise TrackingError(f"runs:/{run_id}/checkpoint: its weights could not be removed ({error})") from error
