"""MLflow: runs, metrics, artifacts, datasets, registry. The only module that imports mlflow.

Everything goes through `MlflowClient` with explicit run ids, so that a stage can run in any process and inside any other run.
Delivery survives a server that goes away for a while: live metrics wait in memory, everything else is tried again until
`ICR_TRACKING_PATIENCE` seconds (default 120) are over; then the work stays on disk and the same command logs it later.
"""

from __future__ import annotations

import contextlib
import json
import os
import posixpath
import re
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote, urlsplit, urlunsplit

from icr_platform.core.artifacts import MANIFEST, read_json, text_digest
from icr_platform.core.errors import InputError, TrackingError
from icr_platform.tracking.fetched import FetchedCopies

if TYPE_CHECKING:
    import pandas as pd
    from mlflow import MlflowClient
    from mlflow.entities import Run as Run
    from mlflow.store.artifact.artifact_repo import ArtifactRepository

DEFAULT_EXPERIMENT = "icr"
_DEFAULTS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",  # its own default waits four minutes before it says a word
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}
_BATCH_PARAMS, _BATCH_METRICS = 100, 1000  # MLflow refuses larger batches
_S3_CONNECTION_ERRORS = ("botocore.exceptions.ConnectionError", "botocore.exceptions.HTTPClientError")
_SIGNS_OF_CONNECTION_TROUBLE = (
    "API request to", "failed with error code 5", "database is locked", "Max retries", "Could not connect to the endpoint"
)  # fmt: skip
_FINAL_METRICS = "icr.final_metrics"
_CUT_PARAM, _CUT_TAG = 6000, 8000  # MLflow cuts there and only warns
T = TypeVar("T")


def redact(value: str) -> str:
    """A URL without user, password and query, which may hold secrets; any other text unchanged.

    >>> redact("https://me:secret@host:8000/v1?key=abc")
    'https://host:8000/v1'
    """
    parts = urlsplit(value)
    if not parts.scheme or not parts.netloc:
        return value
    return urlunsplit((parts.scheme, parts.netloc.rsplit("@", 1)[-1], parts.path, "", ""))


def _patience() -> float:
    return float(os.environ.get("ICR_TRACKING_PATIENCE", "120"))


def _is_connection_trouble(error: Exception) -> bool:
    import requests
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import OperationalError

    if isinstance(error, (requests.exceptions.RequestException, OperationalError, ConnectionError)):
        return True
    if any(f"{kind.__module__}.{kind.__name__}" in _S3_CONNECTION_ERRORS for kind in type(error).__mro__):
        return True
    text = str(error)
    return isinstance(error, MlflowException) and any(sign in text for sign in _SIGNS_OF_CONNECTION_TROUBLE)


def deliver(action: Callable[[], T], uri: str, who: str = "tracking server") -> T:
    """Run a tracking call, again and again while the server does not answer.

    Raises:
        TrackingError: it did not answer for ICR_TRACKING_PATIENCE seconds.
    """
    deadline = time.monotonic() + _patience()
    pause, said = 1.0, False
    while True:
        try:
            return action()
        except Exception as error:
            if not _is_connection_trouble(error):
                raise
            if time.monotonic() + pause > deadline:
                raise TrackingError(
                    f"{redact(uri)}: the {who} stopped answering; the work is kept, "
                    "run the same command again when it is back"
                ) from error
            if not said:
                print(f"{redact(uri)}: the {who} does not answer; trying again", file=sys.stderr, flush=True)
                said = True
            time.sleep(pause)
            pause = min(pause * 2, 30.0)


def _deliver_files(action: Callable[[], T], name: str) -> T:
    """`deliver` for files, which each kind of artifact store refuses by exceptions of a library of its own.

    Raises:
        TrackingError: the store refuses or does not answer; what was to be logged is still in its folder.
    """
    try:
        return deliver(action, name, "artifact store")
    except TrackingError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise TrackingError(
            f"{name}: the artifact store refuses or does not answer ({reason}); check its address and credentials, then run "
            "the same command again"
        ) from error


@dataclass
class RunHandle:
    """One MLflow run. Picklable: a stage in another process logs to the same run."""

    uri: str
    run_id: str
    experiment_id: str
    _waiting: list[tuple[dict[str, float], int, int]] = field(default_factory=list)

    @property
    def client(self) -> MlflowClient:
        return _client(self.uri)

    def log_params(self, params: Mapping[str, object]) -> None:
        """Log parameters. A key that the run already has is left as it is: MLflow's parameters never change."""
        from mlflow.entities import Param

        known = deliver(lambda: self.client.get_run(self.run_id), self.uri).data.params
        fresh = [Param(key, _text(value, _CUT_PARAM)) for key, value in params.items() if key not in known]
        for start in range(0, len(fresh), _BATCH_PARAMS):
            batch = fresh[start : start + _BATCH_PARAMS]
            deliver(lambda batch=batch: self.client.log_batch(self.run_id, params=batch), self.uri)  # type: ignore[misc]

    def set_tags(self, tags: Mapping[str, object]) -> None:
        from mlflow.entities import RunTag

        batch = [RunTag(key, _text(value, _CUT_TAG)) for key, value in tags.items()]
        deliver(lambda: self.client.log_batch(self.run_id, tags=batch), self.uri)

    def log_live(self, metrics: Mapping[str, float], step: int) -> None:
        """Log metrics while work goes on: never raises for a lost server, what could not be sent is sent later."""
        self._waiting.append((dict(metrics), step, int(time.time() * 1000)))
        try:
            self._flush()
        except Exception as error:
            if not _is_connection_trouble(error):
                raise
            if len(self._waiting) == 1:
                print(
                    f"{redact(self.uri)}: the tracking server does not answer; metrics wait",
                    file=sys.stderr,
                    flush=True,
                )

    def log_metrics(self, metrics: Mapping[str, float], step: int = 0) -> None:
        """Log final metrics, together with what `log_live` could not send."""
        self._waiting.append((dict(metrics), step, int(time.time() * 1000)))
        deliver(self._flush, self.uri)

    def _flush(self) -> None:
        from mlflow.entities import Metric

        points = [
            Metric(_metric_name(key), float(value), stamp, step)
            for metrics, step, stamp in self._waiting
            for key, value in metrics.items()
        ]
        for start in range(0, len(points), _BATCH_METRICS):
            self.client.log_batch(self.run_id, metrics=points[start : start + _BATCH_METRICS])
        self._waiting.clear()

    def log_artifacts(self, folder: Path, name: str) -> None:
        """Copy a finished folder to the run's artifacts under `name`."""
        self._deliver_files(lambda: self.client.log_artifacts(self.run_id, str(folder), name), name)

    def tag_content(self, folder: Path, name: str, identity: str) -> None:
        """Say on the run what its artifact `name` consists of, so that nobody has to fetch it to know.

        identity: of the content, as an input of another stage.
        """
        sizes = _sizes(folder)
        content = {"files": len(sizes), "bytes": sum(sizes.values()), "identity": identity}
        self.set_tags({f"icr.stored.{name}": json.dumps(content)})

    def tag_final_metrics(self, metrics: Mapping[str, float]) -> None:
        """Say on the run which of its metrics are final ones, where its rows hold them exactly as they were logged."""
        run = deliver(lambda: self.client.get_run(self.run_id), self.uri)
        names = json.dumps(_factored(metrics), separators=(",", ":"))
        if len(names) <= _CUT_TAG and _named(run, names) == dict(metrics):
            self.set_tags({_FINAL_METRICS: names})

    def log_file(self, path: Path, name: str | None = None) -> None:
        self._deliver_files(lambda: self.client.log_artifact(self.run_id, str(path), name), path.name)

    def log_text(self, text: str, name: str) -> None:
        self._deliver_files(lambda: self.client.log_text(self.run_id, text, name), name)

    def log_table(self, table: pd.DataFrame, name: str) -> None:
        """Log a small table (MLflow's limit for its UI is 1,000 rows) as `name`.json."""
        self._deliver_files(lambda: self.client.log_table(self.run_id, table.head(1000), f"{name}.json"), name)

    def _deliver_files(self, action: Callable[[], object], name: str) -> None:
        _deliver_files(action, f"runs:/{self.run_id}/{name}")

    def log_dataset(self, name: str, digest: str, source: str, context: str) -> None:
        """Log an input with its digest, as MLflow's dataset input."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        dataset = Dataset(name=name, digest=digest[:32], source_type="local", source=redact(source) or "-")
        item = DatasetInput(dataset, [InputTag("mlflow.data.context", context)])
        deliver(lambda: self.client.log_inputs(self.run_id, datasets=[item]), self.uri)

    def finish(self, status: str = "FINISHED") -> None:
        """Set the final status: FINISHED, FAILED or KILLED."""
        deliver(lambda: self.client.set_terminated(self.run_id, status), self.uri)

    @contextlib.contextmanager
    def system_metrics(self) -> Iterator[None]:
        """MLflow's own system metrics while the block runs, when MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING is on."""
        from mlflow.environment_variables import MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING

        if not MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING.get():
            yield
            return
        from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

        monitor = SystemMetricsMonitor(self.run_id, tracking_uri=self.uri)
        monitor.start()
        try:
            yield
        finally:
            monitor.finish()


_clients: dict[str, MlflowClient] = {}


def _client(uri: str) -> MlflowClient:
    from mlflow import MlflowClient

    if uri not in _clients:
        _clients[uri] = MlflowClient(tracking_uri=uri)
    return _clients[uri]


def _text(value: object, limit: int) -> str:
    text = redact(value) if isinstance(value, str) else ",".join(value) if isinstance(value, tuple) else str(value)
    return text[:limit]


def _metric_name(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_./\- ]", "_", name)


@dataclass(frozen=True)
class _Place:
    """Where an artifact's files are, in MLflow's words: a repository and the path in it, '' for all of it."""

    repository: ArtifactRepository
    path: str

    def sizes(self) -> dict[str, int]:
        """Bytes of each file by its path below the artifact; '' for an artifact that is one file. Empty: there is none."""
        files, folders = {}, [self.path]
        while folders:
            folder = folders.pop()
            for item in self._ask(lambda folder=folder: self.repository.list_artifacts(folder or None)):  # type: ignore[misc]
                if item.is_dir:
                    folders.append(item.path)
                else:
                    files[posixpath.relpath(item.path, self.path or ".")] = int(item.file_size or 0)
        if not files and self.path:
            beside = self._ask(lambda: self.repository.list_artifacts(posixpath.dirname(self.path) or None))
            own = [item for item in beside if item.path == self.path and not item.is_dir]
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
            Path(self._ask(lambda: self.repository.download_artifacts(self.path, str(folder)))).replace(target)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        if _sizes(target) != self.sizes():
            raise TrackingError(f"{self._name}: came incomplete from the artifact store; run the command again")

    @property
    def _name(self) -> str:
        return redact(posixpath.join(str(self.repository.artifact_uri), self.path))

    def _ask(self, action: Callable[[], T]) -> T:
        return _deliver_files(action, self._name)


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
        """The artifact on this machine, fetched where it lies elsewhere; a file, where it is one."""
        return self._fetched() if self.local is None else self.local

    def manifest(self) -> dict[str, Any]:
        """Its manifest alone; raises InputError when it has none."""
        if self.local is not None:
            return read_json(self.local / MANIFEST)
        return read_json(self._fetched(MANIFEST))

    def is_whole(self) -> bool:
        """Whether every file is there, in the size it was written; content is not read."""
        sizes = self._place.sizes() if self.local is None else _sizes(self.local)
        if self.content == (len(sizes), sum(sizes.values())):
            return True
        if MANIFEST not in sizes:
            return False
        try:
            manifest = self.manifest()
        except InputError:  # damaged
            return False
        entries = manifest.get("parts", manifest.get("files"))
        return isinstance(entries, list) and all(sizes.get(entry["file"]) == entry["bytes"] for entry in entries)

    def _fetched(self, below: str = "") -> Path:
        # A folder of its own for each, so that one file of an artifact is never taken for the artifact; in it the name stays,
        # which may say what it is, such as es.jsonl.
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


def _stored(run: Run, name: str, uri: str, copies: FetchedCopies) -> StoredArtifact | None:
    name = name.strip("/")
    first, _, below = name.partition("/")
    reference = run.data.tags.get(f"icr.artifact.{first}")
    repository = _repository(str(run.info.artifact_uri), uri)
    folder = Path(reference) if reference else _local_folder(repository, first)
    local = folder / below if folder is not None else None
    place = _Place(repository, name)
    if not (local.exists() if local is not None else place.sizes()):
        return None
    content = json.loads(run.data.tags.get(f"icr.stored.{first}", "{}")) if not below else {}
    size = (int(content["files"]), int(content["bytes"])) if content else None
    identity = str(content.get("identity", ""))
    return StoredArtifact(f"runs:/{run.info.run_id}/{name}", local, identity, size, place, copies)


def _repository(artifact_uri: str, uri: str) -> ArtifactRepository:
    from mlflow.exceptions import MlflowException
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    try:
        return get_artifact_repository(artifact_uri, tracking_uri=uri)
    except (MlflowException, ImportError) as error:
        reason = " ".join(str(error).split())[:200]
        raise TrackingError(f"{redact(artifact_uri)}: this artifact store cannot be opened here ({reason})") from error


def _local_folder(repository: ArtifactRepository, name: str = "") -> Path | None:
    """Where a local repository's artifact lies; None for a remote one."""
    from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository

    if not isinstance(repository, LocalArtifactRepository):
        return None
    return Path(os.path.abspath(repository.artifact_dir)) / name


def _sizes(path: Path) -> dict[str, int]:
    """Bytes of each file below a folder by relative path; of a file itself under ''."""
    if path.is_file():
        return {"": path.stat().st_size}
    return {file.relative_to(path).as_posix(): file.stat().st_size for file in path.rglob("*") if file.is_file()}


def _factored(names: Iterable[str]) -> list[tuple[list[str], list[str]]]:
    """Metric names as products, because few sets of languages serve all of them.

    >>> _factored(["loss", "win_rate/de", "win_rate/es", "fidelity/de", "fidelity/es"])
    [([''], ['loss']), (['de', 'es'], ['win_rate', 'fidelity'])]
    """
    lasts: dict[str, list[str]] = {}
    for name in names:
        first, _, last = name.rpartition("/")
        lasts.setdefault(first or last, []).append(last if first else "")
    products: dict[tuple[str, ...], list[str]] = {}
    for first, own in lasts.items():
        products.setdefault(tuple(own), []).append(first)
    return [(list(own), firsts) for own, firsts in products.items()]


def _named(run: Run, names: str) -> dict[str, float]:
    """The run's metrics of these names, which `_factored` wrote."""
    metrics = run.data.metrics
    found = {}
    for lasts, firsts in json.loads(names):
        for name in (f"{first}/{last}" if last else first for first in firsts for last in lasts):
            if name in metrics:
                found[name] = float(metrics[name])
    return found


class Tracker:
    """One tracking store and experiment. `work` is the folder for copies of remote artifacts, by default the caller's `.icr`.

    Raises:
        InputError: the tracking server does not answer; said before any work is done.
    """

    def __init__(self, experiment: str = "", work: Path | None = None) -> None:
        for key, value in _DEFAULTS.items():
            os.environ.setdefault(key, value)
        import mlflow

        # The environment first: MLflow keeps a URI of its own once any call has set one, and would not look there again.
        self.uri: str = _with_driver(os.environ.get("MLFLOW_TRACKING_URI") or mlflow.get_tracking_uri())
        _check_reachable(self.uri)
        name = experiment or os.environ.get("MLFLOW_EXPERIMENT_NAME", "") or DEFAULT_EXPERIMENT
        lock = Path(tempfile.gettempdir()) / f"icr-{os.getuid()}-{text_digest(self.uri)[:16]}.lock"
        from filelock import FileLock

        with FileLock(lock):  # processes that create one sqlite store at once crash in its migration
            self.client = _client(self.uri)
            self.experiment_id = os.environ.get("MLFLOW_EXPERIMENT_ID") or self._experiment(name)
        self._copies = FetchedCopies((work or caller_folder() / ".icr") / "artifacts")
        self._reap()

    def close(self) -> None:
        """Remove the copies of remote artifacts."""
        self._copies.close()

    def _experiment(self, name: str) -> str:
        found = deliver(lambda: self.client.get_experiment_by_name(name), self.uri)
        if found is None:
            return str(deliver(lambda: self.client.create_experiment(name), self.uri))
        if found.lifecycle_stage == "deleted":
            raise InputError(f"{name}: this experiment is deleted; restore it or give another --experiment")
        return str(found.experiment_id)

    def _reap(self) -> None:
        """Mark runs KILLED that died with their process on this host (`kill -9`, a crash)."""
        text = f"attributes.status = 'RUNNING' and tags.\"icr.host\" = '{socket.gethostname()}'"
        runs = deliver(lambda: self.client.search_runs([self.experiment_id], text, max_results=1000), self.uri)
        for run in runs:
            if run.info.run_id != os.environ.get("MLFLOW_RUN_ID") and not _alive(run.data.tags.get("icr.process", "")):
                deliver(lambda run=run: self.client.set_terminated(run.info.run_id, "KILLED"), self.uri)  # type: ignore[misc]

    def start(self, name: str, tags: Mapping[str, object], parent: RunHandle | None = None) -> RunHandle:
        """Start a run, under `parent` or, at the top, as the run that `mlflow run` made for this process."""
        own = {"icr.host": socket.gethostname(), "icr.process": _process_mark(), **{k: str(v) for k, v in tags.items()}}
        given = os.environ.get("MLFLOW_RUN_ID") if parent is None else None
        if given:
            handle = RunHandle(self.uri, given, self.experiment_id)
            handle.set_tags({"mlflow.runName": name, **own})
            return handle
        if parent is not None:
            own["mlflow.parentRunId"] = parent.run_id
        own.update(_source_tags())
        run = deliver(lambda: self.client.create_run(self.experiment_id, tags=own, run_name=name), self.uri)
        return RunHandle(self.uri, run.info.run_id, self.experiment_id)

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

    def experiment_of(self, run_id: str) -> str:
        """Experiment of a run, which need not be this command's."""
        return str(deliver(lambda: self.client.get_run(run_id), self.uri).info.experiment_id)

    def stored(self, run: Run, name: str) -> StoredArtifact | None:
        """The run's artifact `name` (a path below it too); None when it has none. Downloads nothing.

        Raises:
            TrackingError: the artifact store refuses or does not answer.
        """
        return _stored(run, name, self.uri, self._copies)

    def small_file(self, run: Run, name: str) -> Path | None:
        """A file that was logged beside the run's artifacts, such as its notes; fetched when it is not here."""
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
                f"{uri}: no such run in {redact(self.uri)}; check the id and MLFLOW_TRACKING_URI"
            ) from None
        if run.info.status != "FINISHED":
            raise InputError(f"{uri}: the run is {run.info.status}, not FINISHED; run its stage again")
        stored = self.stored(run, name) if name else None
        if stored is None:
            raise InputError(f"{uri}: the run has no artifact {name!r}; check the name in the MLflow UI")
        return stored

    def _find_model(self, uri: str) -> StoredArtifact:
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
        source = str(found.source)
        if source.startswith("runs:/"):
            return self.find_stored(source)
        repository = _repository(source, self.uri)
        local = _local_folder(repository)
        if local is not None and not local.exists():
            raise InputError(f"{uri}: its files are gone from {local}; register the model again")
        version = f"models:/{found.name}/{found.version}"
        return StoredArtifact(version, local, "", None, _Place(repository, ""), self._copies)

    def resolve_run(self, uri: str) -> str:
        """Local path of `runs:/RUN_ID/artifact`; raises InputError for a run that does not exist or did not finish."""
        return str(self.find_stored(uri).folder())

    def resolve_model(self, uri: str) -> str:
        """Local path of `models:/NAME@ALIAS` or `models:/NAME/VERSION`."""
        return str(self.find_stored(uri).folder())

    def final_metrics(self, run: Run) -> dict[str, float] | None:
        """What the stage of this run returned, from the run's own rows; None where they do not say it exactly."""
        names = run.data.tags.get(_FINAL_METRICS)
        return _named(run, names) if names else None

    def register(self, name: str, run: RunHandle, iteration: int) -> None:
        """Make `models:/NAME@iteration-N` the checkpoint of this train run, whoever ran it and when.

        Aliases of later iterations, which led on from another checkpoint, are removed before an alias moves. A registry that
        refuses is named on stderr: the checkpoint itself is safe in its run.
        """
        alias = f"iteration-{iteration}"
        with _refusal_said(f"models:/{name}@{alias}: not set; use runs:/{run.run_id}/checkpoint instead"):
            version = deliver(lambda: self._version_of(name, run.run_id), self.uri)
            if deliver(lambda: self._aliases(name), self.uri).get(alias) != version:
                self._forget_iterations(name, iteration)
                deliver(lambda: self.client.set_registered_model_alias(name, alias, version), self.uri)

    def forget_iterations(self, name: str, after: int) -> None:
        """Remove the aliases of iterations later than `after`; the versions stay."""
        with _refusal_said(f"models:/{name}: aliases after iteration-{after} may be an earlier run's"):
            self._forget_iterations(name, after)

    def _forget_iterations(self, name: str, after: int) -> None:
        for alias in deliver(lambda: self._aliases(name), self.uri):
            number = alias.removeprefix("iteration-")
            if number.isdigit() and int(number) > after:
                deliver(lambda alias=alias: self.client.delete_registered_model_alias(name, alias), self.uri)  # type: ignore[misc]

    def _aliases(self, name: str) -> dict[str, str]:
        """Version by alias; none where there is no such model."""
        from mlflow.exceptions import MlflowException

        try:
            return {alias: str(version) for alias, version in self.client.get_registered_model(name).aliases.items()}
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return {}

    def _version_of(self, name: str, run_id: str) -> str:
        """The version of a registered model that is this run's checkpoint, made where there is none."""
        from mlflow.exceptions import MlflowException

        try:
            self.client.create_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        quote = '"' if "'" in name else "'"
        known = self.client.search_model_versions(f"name = {quote}{name}{quote}")
        versions = [int(found.version) for found in known if found.run_id == run_id]
        if versions:
            return str(max(versions))
        path = self.client.get_run(run_id).data.tags.get("icr.artifact.checkpoint")
        is_server = self.uri.startswith(("http://", "https://"))  # which takes no path that is not its own
        source = path if path and not is_server else f"runs:/{run_id}/checkpoint"
        return str(self.client.create_model_version(name, source, run_id).version)

    def has_given_up(self, run_id: str) -> bool:
        """Whether the weights of this train run's checkpoint were removed."""
        return deliver(lambda: self.client.get_run(run_id), self.uri).data.tags.get("icr.checkpoint") == "removed"

    def give_up_checkpoint(self, run_id: str, name: str, alias: str, checkpoint: Path, names: Sequence[str]) -> None:
        """Remove the weights of a train run's checkpoint from the artifact store, and the alias that leads to them.

        name, alias: of the registered model. checkpoint: a local copy whose weights are gone; names: their files.
        """
        from mlflow.exceptions import MlflowException
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        def remove() -> None:
            for version in self.client.search_model_versions(f"run_id = '{run_id}'"):
                if version.name == name:
                    self.client.set_model_version_tag(name, version.version, "icr.checkpoint", "removed")
                    if str(self.client.get_registered_model(name).aliases.get(alias)) == str(version.version):
                        self.client.delete_registered_model_alias(name, alias)
            run = self.client.get_run(run_id)
            self.client.set_tag(run_id, "icr.checkpoint", "removed")
            if "icr.artifact.checkpoint" in run.data.tags:
                return  # the artifact is a reference to the local copy
            repository = get_artifact_repository(run.info.artifact_uri, tracking_uri=self.uri)
            held = {Path(file.path).name for file in repository.list_artifacts("checkpoint")}
            if held & set(names):
                manifest = checkpoint / MANIFEST
                with tempfile.TemporaryDirectory() as folder:  # the local copy may be the store's own file
                    repository.log_artifact(shutil.copy(manifest, folder), "checkpoint")
            for file in sorted(held & set(names)):
                with contextlib.suppress(FileNotFoundError):
                    repository.delete_artifacts(f"checkpoint/{file}")

        try:
            deliver(remove, self.uri)
        except (MlflowException, NotImplementedError, OSError) as error:
            raise TrackingError(f"runs:/{run_id}/checkpoint: its weights could not be removed ({error})") from error

    def other_uses(self, run_id: str, arm: str, name: str, alias: str) -> list[str]:
        """Who else may need a train run's checkpoint: arms but `arm` that trained or reused it, aliases but `alias` of `name`."""

        def find() -> list[str]:
            run = self.client.get_run(run_id)
            reused = self.client.search_runs([run.info.experiment_id], f"tags.\"icr.reused_run\" = '{run_id}'")
            arms = {found.data.tags.get("icr.arm", "") for found in [run, *reused]} - {arm}
            versions = self.client.search_model_versions(f"run_id = '{run_id}'")
            return sorted(f"arm {other}" for other in arms) + sorted(
                f"models:/{version.name}@{other}"
                for version in versions
                for other, number in self.client.get_registered_model(version.name).aliases.items()
                if str(number) == str(version.version) and (version.name, other) != (name, alias)
            )

        return deliver(find, self.uri)


@contextlib.contextmanager
def _refusal_said(consequence: str) -> Iterator[None]:
    """One line on stderr, not the end of the work, where a model registry does not do what is asked."""
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException as error:
        reason = " ".join(str(error).split())[:300]
        print(f"{consequence} (the model registry refuses: {reason})", file=sys.stderr, flush=True)


def _with_driver(uri: str) -> str:
    """`postgresql://` with the driver that is installed: SQLAlchemy takes it for psycopg2's, where only psycopg 3 may be."""
    if not uri.startswith("postgresql://") or find_spec("psycopg2"):
        return uri
    if not find_spec("psycopg"):
        raise InputError(f"{redact(uri)}: needs a PostgreSQL driver; pip install 'icr-platform[postgres]'")
    return uri.replace("postgresql://", "postgresql+psycopg://", 1)


def _check_reachable(uri: str) -> None:
    if not uri.startswith(("http://", "https://")):
        _check_local_store(uri)
        return
    import requests

    try:
        requests.get(uri.rstrip("/") + "/health", timeout=10)
    except requests.exceptions.RequestException as error:
        raise InputError(
            f"{redact(uri)}: the tracking server does not answer ({type(error).__name__}); start it, or mend MLFLOW_TRACKING_URI"
        ) from None


def _check_local_store(uri: str) -> None:
    is_file_store = not uri.startswith(("sqlite:", "postgresql", "mysql", "mssql", "databricks", "uc:"))
    if is_file_store and os.environ.get("MLFLOW_ALLOW_FILE_STORE", "").lower() != "true":
        raise InputError(
            f"{redact(uri)}: MLflow no longer opens file stores; set MLFLOW_TRACKING_URI=sqlite:///mlflow.db"
        )


def _process_mark() -> str:
    """Process id and its start time: an id alone is used again by another process."""
    import psutil

    return f"{os.getpid()}:{psutil.Process().create_time():.2f}"


def _alive(mark: str) -> bool:
    import psutil

    pid, _, started = mark.partition(":")
    try:
        return f"{psutil.Process(int(pid)).create_time():.2f}" == started
    except (psutil.Error, ValueError):
        return False


def _source_tags() -> dict[str, str]:
    import getpass

    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = "unknown"
    return {"mlflow.user": user, "mlflow.source.name": "icr", "mlflow.source.type": "LOCAL"}


def is_project_run() -> bool:
    """Whether `mlflow run` started this process."""
    return bool(os.environ.get("MLFLOW_RUN_ID"))


def caller_folder() -> Path:
    """The folder that relative paths mean: where `mlflow run` was called, which runs its entry points elsewhere, or here."""
    import psutil

    if is_project_run() and Path("MLproject").exists():
        with contextlib.suppress(psutil.Error, OSError):
            for parent in psutil.Process().parents():
                if Path(parent.cwd()) != Path.cwd():
                    return Path(parent.cwd())
    return Path.cwd()


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
    """Reads runs and artifacts for people; changes nothing but what `attach` adds. Gives up after seconds, not minutes.

    Raises, from every method:
        TrackingError: the store does not answer.
        InputError: no such run, or the run has no such artifact.
    """

    def __init__(self, uri: str = "") -> None:
        for key, value in {
            **_DEFAULTS,
            "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
            "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
        }.items():
            os.environ.setdefault(key, value)
        import mlflow

        self.uri = _with_driver(uri or str(mlflow.get_tracking_uri()))
        self._copies: dict[Path, FetchedCopies] = {}
        self._remote: dict[tuple[str, str], StoredArtifact] = {}

    def check(self) -> None:
        """Raise InputError at once when the store cannot be opened."""
        _check_reachable(self.uri)
        self.experiments()

    def experiments(self) -> dict[str, str]:
        """Names of the experiments by id."""
        found = self._ask(lambda: _client(self.uri).search_experiments(max_results=1000))
        return {str(experiment.experiment_id): str(experiment.name) for experiment in found}

    def arms(self, experiment_ids: list[str]) -> list[RunRecord]:
        """Arm runs of the experiments, the newest first, 1,000 at most."""
        return self._search(experiment_ids, "tags.\"icr.kind\" = 'arm'")

    def children(self, run: RunRecord) -> list[RunRecord]:
        """Runs right under `run`."""
        return self._search([run.experiment_id], f"tags.\"mlflow.parentRunId\" = '{run.run_id}'")

    def run(self, run_id: str) -> RunRecord:
        """One run, deleted or not."""
        return _record(self._ask(lambda: _client(self.uri).get_run(run_id), f"run {run_id}"))

    def artifact(self, run_id: str, name: str, cache: Path) -> Path:
        """Local folder of an artifact; one in a remote store is copied to `cache` once, and stays until `close`."""
        from mlflow.exceptions import MlflowException

        try:
            stored = self._remote.get((run_id, name))
            if stored is None:
                run = self._ask(lambda: _client(self.uri).get_run(run_id), f"run {run_id}")
                stored = _stored(run, name, self.uri, self._copies_in(cache))
            if stored is None:
                raise InputError(f"runs:/{run_id}/{name}: no such folder in the artifact store; run its stage again")
            if stored.local is None:
                self._remote[run_id, name] = stored
            return stored.folder()
        except (MlflowException, OSError) as error:
            reason = " ".join(str(error).split())[:200]
            raise TrackingError(f"{name} of run {run_id} could not be fetched ({reason}); try again later") from error

    def _copies_in(self, cache: Path) -> FetchedCopies:
        if cache not in self._copies:
            self._copies[cache] = FetchedCopies(cache)
        return self._copies[cache]

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
        if not self.uri.startswith(("http://", "https://")):
            return ""
        return f"{redact(self.uri).rstrip('/')}/#/experiments/{record.experiment_id}/runs/{record.run_id}?workflowType=machine_learning"

    def _search(self, experiment_ids: list[str], text: str) -> list[RunRecord]:
        order = ["attributes.start_time DESC"]
        found = self._ask(lambda: _client(self.uri).search_runs(experiment_ids, text, max_results=1000, order_by=order))
        return [_record(run) for run in found]

    def _ask(self, action: Callable[[], T], what: str = "the store") -> T:
        from mlflow.exceptions import MlflowException

        try:
            return action()
        except Exception as error:
            if _is_connection_trouble(error):
                raise TrackingError(
                    f"{redact(self.uri)}: the tracking store does not answer; is it running?"
                ) from error
            if isinstance(error, MlflowException):
                reason = " ".join(str(error).split())[:200]
                raise InputError(f"{what}: not found in {redact(self.uri)} ({reason})") from None
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
