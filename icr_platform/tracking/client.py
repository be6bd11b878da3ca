"""MLflow's client of a tracking store. Every call names its run, so that a stage can run in any process and inside any other run."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlflow import MlflowClient

_DEFAULTS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",  # its own default waits four minutes before it says a word
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}


def set_mlflow_defaults(**others: str) -> None:
    """Set what MLflow reads from the environment, but for what a person has set. Call it before mlflow is imported."""
    defaults: Mapping[str, str] = _DEFAULTS | others
    for key, value in defaults.items():
        os.environ.setdefault(key, value)
    # What they print, a page for each failed attempt, reaches the person as our one line.
    for name in ("mlflow.store.db.utils", "urllib3.connectionpool", "alembic", "alembic.runtime.migration"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


@cache
def client_of(uri: str) -> MlflowClient:
    """The client of a store, made once per process: each one made opens connections of its own."""
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=uri)
