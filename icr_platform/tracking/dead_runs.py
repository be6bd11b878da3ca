"""Runs of processes that died without a word (`kill -9`, a crash, a reboot) do not stay RUNNING for ever: the next command marks them KILLED."""

from __future__ import annotations

import os
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from icr_platform.tracking.delivery import deliver
from icr_platform.tracking.run_processes import is_dead
from icr_platform.tracking.store_address import is_server

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

_PAGE, _BATCH = 1000, 500
_SECONDS = 5.0  # a server may have thousands; the next command goes on
_AT_ONCE = 8


def end_dead_runs(client: MlflowClient, experiment_id: str, uri: str) -> int:
    """Mark the experiment's runs of dead processes of this host KILLED; returns their number."""
    text = f"attributes.status = 'RUNNING' and tags.\"icr.host\" = '{socket.gethostname()}'"
    dead: list[str] = []
    token = ""
    while True:  # all pages first: those that are marked would move the others up
        page = deliver(
            lambda: client.search_runs([experiment_id], text, max_results=_PAGE, page_token=token or None),
            uri,
        )
        dead += [run.info.run_id for run in page if _is_dead(run)]
        if not (token := page.token or ""):
            break
    if is_server(uri):
        deadline = time.monotonic() + _SECONDS
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            list(pool.map(lambda run_id: _mark(client, run_id, uri, deadline), dead))
    else:
        for start in range(0, len(dead), _BATCH):
            deliver(lambda start=start: _mark_at_once(client, dead[start : start + _BATCH]), uri)  # type: ignore[misc]
    return len(dead)


def _is_dead(run: Run) -> bool:
    # The run that `mlflow run` made for this process has no mark of it yet.
    return run.info.run_id != os.environ.get("MLFLOW_RUN_ID") and is_dead(run.data.tags.get("icr.process", ""))


def _mark(client: MlflowClient, run_id: str, uri: str, deadline: float) -> None:
    if time.monotonic() < deadline:
        deliver(lambda: client.set_terminated(run_id, "KILLED"), uri)


def _mark_at_once(client: MlflowClient, run_ids: list[str]) -> None:
    """Mark runs in a database in one statement; one call a run takes 20 ms each."""
    from mlflow.store.tracking.dbmodels.models import SqlRun
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    store = client._tracking_client.store
    if not isinstance(store, SqlAlchemyStore):  # a file store, or a plugin's
        for run_id in run_ids:
            client.set_terminated(run_id, "KILLED")
        return
    with store.ManagedSessionMaker() as session:
        running = session.query(SqlRun).filter(SqlRun.run_uuid.in_(run_ids), SqlRun.status == "RUNNING")
        running.update({"status": "KILLED", "end_time": int(time.time() * 1000)}, synchronize_session=False)
