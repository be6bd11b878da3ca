"""Finished artifacts in MLflow's artifact store: where they lie, whether they are whole, and what identifies them.

One on this machine is read where it lies. One in a remote store is fetched when it is needed and not before.
"""

from __future__ import annotations

import json
import os
import posixpath
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote

from icr_platform.core.artifacts import MANIFEST, read_json
from icr_platform.core.errors import InputError, TrackingError
from icr_platform.core.secrets import shown_url
from icr_platform.tracking.delivery import deliver_files
from icr_platform.tracking.fetched import FetchedCopies
from icr_platform.tracking.moved_store import moved_place

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.entities.model_registry import ModelVersion
    from mlflow.store.artifact.artifact_repo import ArtifactRepository

T = TypeVar("T")


@dataclass(frozen=True)
class _Place:
    """Where an artifact's files are, in MLflow's words: a repository and the path in it, '' for all of it."""

    repository: ArtifactRepository
    path: str

    def sizes(self) -> dict[str, int]:
        """Bytes of each file by its path below the artifact; of an artifact that is one file, under ''. Empty: there is none."""
        files, folders = {}, [self.path]
        while folders:
            folder = folders.pop()
            for item in self._ask(lambda folder=folder: self.repository.list_artifacts(folder or None)):  # type: ignore[misc]
                if item.is_dir:
                    folders.append(item.path)
                else:
                    files[posixpath.relpath(item.path, self.path or ".")] = int(item.file_size or 0)
        if not files and self.path:  # no folder; a store lists a single file only with its folder
            siblings = self._ask(lambda: self.repository.list_artifacts(posixpath.dirname(self.path) or None))
            own = [item for item in siblings if item.path == self.path and not item.is_dir]
            files = {"": int(own[0].file_size or 0)} if own else {}
        return files

    def fetch(self, target: Path) -> None:
        """Download the artifact, a folder or a file, to `target`.

        Raises:
            TrackingError: the store refuses, or does not answer, or what came is not what it lists.
        """
        folder = target.with_name(f"{target.name}.download")
        shutil.rmtree(folder, ignore_errors=True)  # of a process that was killed
        folder.mkdir()
        try:
            # What is not whole never gets the name of the target.
            Path(self._ask(lambda: self.repository.download_artifacts(self.path, str(folder)))).replace(target)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        if sizes_below(target) != self.sizes():
            raise TrackingError(f"{self._name}: arrived incomplete from the artifact store; run the command again")

    @property
    def _name(self) -> str:
        return shown_url(posixpath.join(str(self.repository.artifact_uri), self.path))

    def _ask(self, action: Callable[[], T]) -> T:
        return deliver_files(action, self._name)


@dataclass(frozen=True)
class StoredArtifact:
    """An artifact of a run, or a registered model. Nothing of it is downloaded before `manifest` or `folder` asks.

    uri: `runs:/RUN_ID/NAME`. local: where it lies, if on this machine. identity: of its content as an input, '' where the run
    does not say. content: number of files and their bytes as they were logged, None where the run does not say.
    """

    uri: str
    local: Path | None
    identity: str
    content: tuple[int, int] | None
    _place: _Place
    _copies: FetchedCopies

    @property
    def reference(self) -> str:
        """What another stage takes as its input: a path, or the URI of what lies elsewhere."""
        return self.uri if self.local is None else str(self.local)

    def folder(self) -> Path:
        """The artifact on this machine, fetched if it lies elsewhere; a file, if it is one."""
        return self._fetched() if self.local is None else self.local

    def manifest(self) -> dict[str, Any]:
        """Its manifest alone; raises InputError when it has none."""
        if self.local is not None:
            return read_json(self.local / MANIFEST)
        return read_json(self._fetched(MANIFEST))

    def is_whole(self) -> bool:
        """Whether every file is there, in the size in which it was written; content is not read."""
        sizes = self._place.sizes() if self.local is None else sizes_below(self.local)
        if self.content == (len(sizes), sum(sizes.values())):
            return True
        # The run does not say, or says otherwise because files for people were added since: the manifest decides.
        if MANIFEST not in sizes:
            return False
        try:
            manifest = self.manifest()
        except InputError:  # damaged
            return False
        entries = manifest.get("parts", manifest.get("files"))
        return isinstance(entries, list) and all(sizes.get(entry["file"]) == entry["bytes"] for entry in entries)

    def _fetched(self, below: str = "") -> Path:
        # Each copy has a folder of its own, so that one file of an artifact is never taken for the whole artifact. In that
        # folder it keeps its name, which may say what it is, such as es.jsonl.
        place = replace(self._place, path=posixpath.join(self._place.path, below) if below else self._place.path)
        key = quote(f"{self.uri}/{below}".strip("/").removeprefix("runs:/"), safe="")
        return self._copies.get(f"{key}/{posixpath.basename(place.path) or 'model'}", place.fetch)


class StoredArtifacts(Mapping[str, Path]):
    """Artifacts by name, each fetched when it is asked for and not before."""

    def __init__(self, stored: Mapping[str, StoredArtifact]) -> None:
        self._stored = dict(stored)

    def __getitem__(self, name: str) -> Path:
        return self._stored[name].folder()

    def __iter__(self) -> Iterator[str]:
        return iter(self._stored)

    def __len__(self) -> int:
        return len(self._stored)

    def reference(self, name: str) -> str:
        """What another stage takes as its input; fetches nothing."""
        return self._stored[name].reference


def artifact_of_run(run: Run, name: str, uri: str, copies: FetchedCopies) -> StoredArtifact | None:
    """Find a run's artifact `name`, or a path below it; None when the run has none.

    uri: the run's tracking store. copies: where one that lies elsewhere is fetched to.
    """
    name = name.strip("/")
    first, _, below = name.partition("/")
    reference = run.data.tags.get(f"icr.artifact.{first}")  # of artifacts that were left where they lay
    repository = repository_of_run(run, uri)
    folder = Path(reference) if reference else _local_folder(repository, first)
    local = folder / below if folder is not None else None
    place = _Place(repository, name)
    if not (local.exists() if local is not None else place.sizes()):
        return None
    content = json.loads(run.data.tags.get(f"icr.stored.{first}", "{}")) if not below else {}
    size = (int(content["files"]), int(content["bytes"])) if content else None
    identity = str(content.get("identity", ""))
    return StoredArtifact(f"runs:/{run.info.run_id}/{name}", local, identity, size, place, copies)


def repository_of_run(run: Run, uri: str) -> ArtifactRepository:
    """Where a run's artifacts are, also if they were moved together with the database."""
    repository = _repository(str(run.info.artifact_uri), uri)
    own = _local_folder(repository)
    now = moved_place(str(own), uri) if own is not None else None
    return repository if now is None else _repository(str(now), uri)


def folder_of_run(run: Run, uri: str) -> Path | None:
    """The folder of a run's artifacts on this machine, which need not exist; None where they lie in a remote store."""
    return _local_folder(repository_of_run(run, uri))


def place_that_is_gone(run: Run, name: str, uri: str) -> Path | None:
    """Where a run's artifact should lie on this machine, if not even the folder that it was in is there."""
    reference = run.data.tags.get(f"icr.artifact.{name.strip('/').partition('/')[0]}")
    place = Path(reference) if reference else _local_folder(_repository(str(run.info.artifact_uri), uri))
    return place if place is not None and not place.exists() and moved_place(str(place), uri) is None else None


def artifact_of_model(version: ModelVersion, uri: str, copies: FetchedCopies) -> StoredArtifact:
    """The files of a registered model that were registered by where they lie, not as a run's artifact."""
    shown = f"models:/{version.name}/{version.version}"
    repository = _repository(str(version.source), uri)
    local = _local_folder(repository)
    if local is not None and not local.exists():
        raise InputError(f"{shown}: its files are gone from {local}; register the model again")
    return StoredArtifact(shown, local, "", None, _Place(repository, ""), copies)


def sizes_below(path: Path) -> dict[str, int]:
    """Bytes of each file below a folder by relative path; of a file itself, under ''."""
    if path.is_file():
        return {"": path.stat().st_size}
    return {file.relative_to(path).as_posix(): file.stat().st_size for file in path.rglob("*") if file.is_file()}


def _repository(artifact_uri: str, uri: str) -> ArtifactRepository:
    from mlflow.exceptions import MlflowException
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    try:
        return get_artifact_repository(artifact_uri, tracking_uri=uri)
    except (MlflowException, ImportError) as error:
        reason = " ".join(str(error).split())[:200]
        raise TrackingError(
            f"{shown_url(artifact_uri)}: this artifact store cannot be opened here ({reason})"
        ) from error


def _local_folder(repository: ArtifactRepository, name: str = "") -> Path | None:
    """Where a local repository's artifact lies; None for a remote repository."""
    from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository

    if not isinstance(repository, LocalArtifactRepository):
        return None
    return Path(os.path.abspath(repository.artifact_dir)) / name
