"""Removes runs for good: MLflow itself only marks them, leaves what is nested in them, and keeps their files."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from icr_platform.core.artifacts import MANIFEST, read_json
from icr_platform.core.errors import InputError
from icr_platform.tracking.delivery import deliver, deliver_files
from icr_platform.tracking.run_tree import is_deleted
from icr_platform.tracking.stored_artifacts import folder_of_run, repository_of_run, sizes_below

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.entities.model_registry import ModelVersion as ModelVersion

    from icr_platform.tracking.tracker import Tracker


@dataclass(frozen=True)
class StoredBytes:
    """Bytes of a run's artifacts, and of the checkpoint among them."""

    all: int
    checkpoint: int


def stored_bytes(tracker: Tracker, run: Run) -> StoredBytes:
    """What a run's artifacts take: measured on this machine, as it was logged for a remote store."""
    folder = folder_of_run(run, tracker.uri)
    if folder is not None:
        sizes = sizes_below(folder) if folder.exists() else {}
        places = [sizes_below(place) for place in referenced(run) if place.exists()]
        checkpoint = sum(size for name, size in sizes.items() if name.startswith("checkpoint/"))
        return StoredBytes(sum(sizes.values()) + sum(sum(place.values()) for place in places), checkpoint)
    logged = {
        key.removeprefix("icr.stored."): int(json.loads(value)["bytes"])
        for key, value in run.data.tags.items()
        if key.startswith("icr.stored.")
    }
    return StoredBytes(sum(logged.values()), logged.get("checkpoint", 0))


def referenced(run: Run) -> list[Path]:
    """Folders of artifacts that were left where they lay, and that are this run's for sure."""
    found = []
    for key, value in run.data.tags.items():
        if key.startswith("icr.artifact.") and (Path(value) / MANIFEST).exists():
            with contextlib.suppress(InputError):  # one that cannot be read is not known to be this run's
                if read_json(Path(value) / MANIFEST).get("fingerprint") == run.data.tags.get("icr.cache_key"):
                    found.append(Path(value))
    return found


def versions_of(tracker: Tracker, runs: Iterable[Run]) -> list[ModelVersion]:
    """Registered model versions that are checkpoints of these runs."""
    trained = [run.info.run_id for run in runs if run.data.tags.get("icr.stage") == "train"]
    return [
        version
        for run_id in trained
        for version in deliver(
            lambda run_id=run_id: tracker.client.search_model_versions(f"run_id = '{run_id}'"), tracker.uri  # type: ignore[misc]
        )
    ]  # fmt: skip


def aliases_of(tracker: Tracker, version: ModelVersion) -> list[str]:
    """Aliases that lead to a version."""
    model = deliver(lambda: tracker.client.get_registered_model(version.name), tracker.uri)
    return sorted(alias for alias, number in model.aliases.items() if str(number) == str(version.version))


def remove_version(tracker: Tracker, version: ModelVersion) -> None:
    """Remove a version with its aliases, and the registered model with its last one."""
    for alias in aliases_of(tracker, version):
        deliver(lambda alias=alias: tracker.client.delete_registered_model_alias(version.name, alias), tracker.uri)  # type: ignore[misc]
    deliver(lambda: tracker.client.delete_model_version(version.name, version.version), tracker.uri)
    quote = '"' if "'" in version.name else "'"
    if not deliver(lambda: tracker.client.search_model_versions(f"name = {quote}{version.name}{quote}"), tracker.uri):
        deliver(lambda: tracker.client.delete_registered_model(version.name), tracker.uri)


def remove_run(tracker: Tracker, run: Run) -> None:
    """Remove a run, its artifacts wherever they lie, and in a database its rows; a server keeps its rows, marked deleted.

    Killed half-way it leaves a run that is marked deleted and has files, which `icr runs clean` finds.

    Raises:
        TrackingError: the store refuses or does not answer.
    """
    run_id = run.info.run_id
    if not is_deleted(run):
        deliver(lambda: tracker.client.delete_run(run_id), tracker.uri)
    for place in referenced(run):
        shutil.rmtree(place)
    folder = folder_of_run(run, tracker.uri)
    if folder is None:
        repository = repository_of_run(run, tracker.uri)
        deliver_files(lambda: repository.delete_artifacts(), f"runs:/{run_id}")
    elif folder.exists():
        shutil.rmtree(folder)
        if folder.parent.name == run_id:
            with contextlib.suppress(OSError):  # a person's file is there
                folder.parent.rmdir()
    _forget(tracker, run_id)


def detach(tracker: Tracker, run: Run) -> None:
    """Put a run that stays at the top, where its parent goes."""
    if "mlflow.parentRunId" in run.data.tags:
        deliver(lambda: tracker.client.delete_tag(run.info.run_id, "mlflow.parentRunId"), tracker.uri)


def _forget(tracker: Tracker, run_id: str) -> None:
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    store = tracker.client._tracking_client.store
    if isinstance(store, SqlAlchemyStore):
        deliver(lambda: store._hard_delete_run(run_id), tracker.uri)  # what `mlflow gc` calls
