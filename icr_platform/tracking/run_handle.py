"""Logging to one MLflow run: parameters, tags, metrics, files, data sets, status.

Metrics that are logged while work goes on wait in memory for a server that is away; everything else is delivered with patience.
"""

from __future__ import annotations

import contextlib
import json
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from icr_platform.core.secrets import redact, shown_url
from icr_platform.tracking import final_metrics
from icr_platform.tracking.client import client_of
from icr_platform.tracking.delivery import deliver, deliver_files
from icr_platform.tracking.outgoing import text_file
from icr_platform.tracking.stored_artifacts import sizes_below
from icr_platform.tracking.troubles import trouble_of

if TYPE_CHECKING:
    import pandas as pd
    from mlflow import MlflowClient

MACHINE_LEARNING = "workflowType=machine_learning"
"""Query without which MLflow opens a page among those for traces of applications."""
_TABLES = "mlflow.loggedArtifacts"
"""Tag by which MLflow's page finds a run's tables."""
_BATCH_PARAMS, _BATCH_METRICS = 100, 1000  # MLflow refuses larger batches
_CUT_PARAM, _CUT_TAG = 6000, 8000  # MLflow cuts longer values there and only warns


@dataclass
class RunHandle:
    """One MLflow run. Picklable: a stage in another process logs to the same run."""

    uri: str
    run_id: str
    experiment_id: str
    _waiting: list[tuple[dict[str, float], int, int]] = field(default_factory=list)

    @property
    def client(self) -> MlflowClient:
        """The client of the run's store."""
        return client_of(self.uri)

    def log_params(self, params: Mapping[str, object]) -> None:
        """Log parameters. A key that the run already has is left as it is: MLflow's parameters never change."""
        from mlflow.entities import Param

        known = deliver(lambda: self.client.get_run(self.run_id), self.uri).data.params
        fresh = [Param(key, _as_text(value, _CUT_PARAM)) for key, value in params.items() if key not in known]
        for start in range(0, len(fresh), _BATCH_PARAMS):
            batch = fresh[start : start + _BATCH_PARAMS]
            deliver(lambda batch=batch: self.client.log_batch(self.run_id, params=batch), self.uri)  # type: ignore[misc]

    def set_tags(self, tags: Mapping[str, object]) -> None:
        """Set tags, in one call."""
        from mlflow.entities import RunTag

        batch = [RunTag(key, _as_text(value, _CUT_TAG)) for key, value in tags.items()]
        deliver(lambda: self.client.log_batch(self.run_id, tags=batch), self.uri)

    def log_live(self, metrics: Mapping[str, float], step: int) -> None:
        """Log metrics while work goes on. A lost server raises nothing: what could not be sent is sent later."""
        self._waiting.append((dict(metrics), step, int(time.time() * 1000)))
        try:
            self._send_waiting()
        except Exception as error:
            trouble = trouble_of(error)
            if trouble is None:
                raise
            if len(self._waiting) == 1:  # said once, not at every step
                print(
                    f"{shown_url(self.uri)}: the tracking server {trouble.does}; metrics wait",
                    file=sys.stderr,
                    flush=True,
                )

    def log_metrics(self, metrics: Mapping[str, float], step: int = 0) -> None:
        """Log final metrics, together with what `log_live` could not send."""
        self._waiting.append((dict(metrics), step, int(time.time() * 1000)))
        deliver(self._send_waiting, self.uri)

    def _send_waiting(self) -> None:
        from mlflow.entities import Metric

        points = [
            Metric(
                re.sub(r"[^A-Za-z0-9_./\- ]", "_", name), float(value), stamp, step
            )  # MLflow refuses other characters
            for metrics, step, stamp in self._waiting
            for name, value in metrics.items()
        ]
        for start in range(0, len(points), _BATCH_METRICS):
            self.client.log_batch(self.run_id, metrics=points[start : start + _BATCH_METRICS])
        self._waiting.clear()

    def tag_final_metrics(self, metrics: Mapping[str, float]) -> None:
        """Say on the run which of its metrics are final ones, if its rows have exactly the values that were logged."""
        run = deliver(lambda: self.client.get_run(self.run_id), self.uri)
        names = final_metrics.names_tag(run, metrics)
        if names is not None and len(names) <= _CUT_TAG:
            self.set_tags({final_metrics.TAG: names})

    def log_artifacts(self, folder: Path, name: str) -> None:
        """Copy a finished folder to the run's artifacts under `name`."""
        self._deliver_files(lambda: self.client.log_artifacts(self.run_id, str(folder), name), name)

    def tag_content(self, folder: Path, name: str, identity: str) -> None:
        """Say on the run what its artifact `name` consists of, so that nobody has to fetch it to know.

        identity: of the content, as an input of another stage.
        """
        sizes = sizes_below(folder)
        content = {"files": len(sizes), "bytes": sum(sizes.values()), "identity": identity}
        self.set_tags({f"icr.stored.{name}": json.dumps(content)})

    def log_file(self, path: Path, name: str | None = None) -> None:
        """Copy one file to the run's artifacts, into folder `name` if that is given."""
        self._deliver_files(lambda: self.client.log_artifact(self.run_id, str(path), name), path.name)

    def log_text(self, text: str, name: str) -> None:
        """Write `text` to the run's artifacts as file `name`."""

        def send() -> None:
            folder, _, file = name.rpartition("/")
            with text_file(text, file) as path:
                self.client.log_artifact(self.run_id, str(path), folder or None)

        self._deliver_files(send, name)

    def log_table(self, table: pd.DataFrame, name: str) -> None:
        """Log a small table as `name`.json, in the place of an earlier one; MLflow's pages show at most 1,000 rows.

        MLflow's own call appends to what an attempt that was killed had logged.
        """
        file = f"{name}.json"
        self.log_text(table.head(1000).to_json(orient="split", index=False, date_format="iso"), file)
        tags = deliver(lambda: self.client.get_run(self.run_id), self.uri).data.tags
        known, entry = json.loads(tags.get(_TABLES, "[]")), {"path": file, "type": "table"}
        if entry not in known:
            self.set_tags({_TABLES: json.dumps([*known, entry])})

    def _deliver_files(self, action: Callable[[], object], name: str) -> None:
        deliver_files(action, f"runs:/{self.run_id}/{name}")

    def log_dataset(self, name: str, digest: str, source: str, context: str) -> None:
        """Log an input with its digest, as MLflow's dataset input."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        dataset = Dataset(name=name, digest=digest[:32], source_type="local", source=shown_url(source) or "-")
        item = DatasetInput(dataset, [InputTag("mlflow.data.context", context)])
        deliver(lambda: self.client.log_inputs(self.run_id, datasets=[item]), self.uri)

    def send_waiting(self) -> None:
        """Deliver what `log_live` could not send: call it where this handle, or this copy of it, is used for the last time."""
        if self._waiting:
            deliver(self._send_waiting, self.uri)

    def finish(self, status: str = "FINISHED") -> None:
        """Set the final status: FINISHED, FAILED or KILLED; metrics that still wait are sent first."""
        self.send_waiting()
        deliver(lambda: self.client.set_terminated(self.run_id, status), self.uri)

    @contextlib.contextmanager
    def system_metrics(self) -> Iterator[None]:
        """Log MLflow's own system metrics while the block runs, if MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING is on."""
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


def page_of_run(experiment_id: str, run_id: str, inside: str = "") -> str:
    """The page of a run behind the address of MLflow's pages. inside: such as 'artifacts/report.html'."""
    return f"#/experiments/{experiment_id}/runs/{run_id}{f'/{inside}' if inside else ''}?{MACHINE_LEARNING}"


def _as_text(value: object, limit: int) -> str:
    """A parameter or tag as MLflow shows it: without secrets, tuples as lists with commas, mappings as flags take them."""
    text = json.dumps(value, ensure_ascii=False) if isinstance(value, dict) else str(value)
    return redact(",".join(map(str, value)) if isinstance(value, tuple) else text)[:limit]
