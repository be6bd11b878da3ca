"""Tries a tracking store and an experiment's artifact root before any work is done, so that a trouble costs seconds, not hours.

Databases are tried here first: MLflow repeats a failed login for 100 seconds and prints each attempt.
"""

from __future__ import annotations

import json
import os
import tempfile
import threading
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from icr_platform.core.errors import IcrError, InputError, StoreRefusesError
from icr_platform.core.failures import failure, telling_line
from icr_platform.core.secrets import redact, shown_url
from icr_platform.core.writable import check_writable_folder
from icr_platform.tracking.delivery import patience
from icr_platform.tracking.moved_store import database_file, moved_place, moving_statements
from icr_platform.tracking.store_address import is_server
from icr_platform.tracking.troubles import said_by, trouble_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Engine

_CONNECT_SECONDS = 10
_LOCKED_SECONDS = 20  # that a database may be locked by another process before work begins
_ARTIFACT_SECONDS = 60  # boto3's own attempts at an address that swallows packets last for minutes
_PROBE = ".icr-can-write"
_FILE_STORES = ("", "file")
_DATABASES = ("sqlite", "postgresql", "mysql", "mssql")


def check_address(uri: str) -> None:
    """Raise InputError when MLflow does not open addresses of this kind; loads no MLflow for the common ones."""
    scheme = uri.partition("://")[0].lower() if "://" in uri else ""
    kind = scheme.partition("+")[0]
    if kind in ("http", "https"):
        try:
            is_whole = bool(urlsplit(uri).hostname) and urlsplit(uri).port != 0
        except ValueError:  # a port that is not a number, or too large
            is_whole = False
        if not is_whole:
            raise InputError(f"{shown_url(uri)}: no address of a server; write MLFLOW_TRACKING_URI=http://HOST:PORT")
        return
    if kind in _DATABASES or uri.startswith(("databricks", "uc:")):
        return
    if kind == "postgres":
        raise InputError(f"{shown_url(uri)}: write postgresql:// for postgres:// in MLFLOW_TRACKING_URI")
    if kind in ("s3", "gs", "wasbs", "abfss", "hdfs", "ftp", "sftp", "dbfs", "mlflow-artifacts", "runs", "models"):
        raise InputError(
            f"{shown_url(uri)}: is a place of artifacts, not a tracking store; set MLFLOW_TRACKING_URI to a server or a database, such as "
            "sqlite:///mlflow.db"
        )
    if kind in _FILE_STORES:
        host, _, port = uri.rpartition(":")
        if not scheme and host and "/" not in host and port.split("/")[0].isdigit():
            raise InputError(f"{uri}: write MLFLOW_TRACKING_URI=http://{uri}")
        if os.environ.get("MLFLOW_ALLOW_FILE_STORE", "").lower() != "true":
            raise InputError(
                f"{shown_url(uri)}: MLflow no longer opens file stores; set MLFLOW_TRACKING_URI=sqlite:///mlflow.db"
            )
        return
    from mlflow.tracking._tracking_service.utils import _tracking_store_registry

    if scheme not in _tracking_store_registry._registry:  # a plugin's
        raise InputError(
            f"{shown_url(uri)}: MLflow has no tracking store of the kind {scheme}://; set MLFLOW_TRACKING_URI to a server (http://...) or a "
            "database (sqlite:///mlflow.db, postgresql://...)"
        )


def check_store(uri: str) -> None:
    """Raise InputError when the store does not answer, refuses the login, or is not one that MLflow opens."""
    check_address(uri)
    if is_server(uri):
        _check_server(uri)
    elif uri.partition("://")[0].partition("+")[0] in _DATABASES:
        with _said_before_work(uri):
            from sqlalchemy import inspect

            if _is_new_file(uri):
                return
            engine = _engine(uri)
            try:
                inspect(engine).has_table("runs")
            finally:
                engine.dispose()


def check_writable(uri: str) -> None:
    """Raise InputError when the database, which MLflow has set up by now, takes no rows."""
    if uri.partition("://")[0].partition("+")[0] not in _DATABASES:
        return
    with _said_before_work(uri):
        from sqlalchemy import text

        engine = _engine(uri)
        try:
            with engine.connect() as connection:  # ends without a commit, and has no row to insert anyway
                connection.execute(text("INSERT INTO tags SELECT * FROM tags WHERE 1 = 0"))
        finally:
            engine.dispose()


@contextmanager
def opening(uri: str) -> Iterator[None]:
    """MLflow's first calls to a store: what they meet is bad input, said in one line."""
    with _said_before_work(uri):
        yield


@contextmanager
def _said_before_work(uri: str) -> Iterator[None]:
    try:
        yield
    except Exception as met:
        # What `deliver` made of it speaks of work that is kept; there is none yet.
        error = met.__cause__ if isinstance(met, StoreRefusesError) and met.__cause__ is not None else met
        if isinstance(error, IcrError):
            raise
        if (trouble := trouble_of(error)) is not None:
            raise InputError(
                f"{shown_url(uri)}: the tracking store {trouble.does} ({redact(said_by(error))}); {trouble.fix}"
            ) from error
        if isinstance(error, OSError):
            raise InputError(f"{shown_url(uri)}: the tracking store cannot be opened: {failure(error)}") from error
        reason = redact(telling_line(str(error)))
        raise InputError(
            f"{shown_url(uri)}: the tracking store cannot be opened ({reason}); correct MLFLOW_TRACKING_URI"
        ) from error


def _engine(uri: str) -> Engine:
    from sqlalchemy import create_engine
    from sqlalchemy.engine import make_url
    from sqlalchemy.pool import NullPool

    url = make_url(uri)
    waits: dict[str, Any] = {
        "sqlite": {"timeout": min(_LOCKED_SECONDS, patience())},
        "postgresql": {"connect_timeout": _CONNECT_SECONDS, "options": f"-c lock_timeout={_LOCKED_SECONDS}s"},
        "mysql": {"connect_timeout": _CONNECT_SECONDS},
    }
    arguments = waits.get(url.get_backend_name(), {})
    if "options" in url.query:  # such as a search path: theirs
        arguments = {name: value for name, value in arguments.items() if name != "options"}
    return create_engine(url, poolclass=NullPool, connect_args=arguments)


def _is_new_file(uri: str) -> bool:
    """Whether a database is a file that MLflow is still to make.

    Raises:
        InputError: it cannot be made, or an existing one cannot be written to.
    """
    from sqlalchemy.engine import make_url

    if not uri.startswith("sqlite"):
        return False
    database = make_url(uri).database
    if not database or database == ":memory:":
        raise InputError(f"{uri}: a database in memory forgets every run; set MLFLOW_TRACKING_URI=sqlite:///mlflow.db")
    if database.startswith("file:"):  # SQLite's own URI
        return False
    path = Path(database).absolute()
    if path.is_dir():
        raise InputError(f"{uri}: is a folder; name the database's file, such as sqlite:///{path}/mlflow.db")
    check_writable_folder(path.parent, f"{uri}: the folder of the tracking store")
    return not path.exists()


def _check_server(uri: str) -> None:
    """Ask the server for an experiment, with the login that MLflow uses; its /health answers without one."""
    import requests
    from mlflow.exceptions import MlflowException
    from mlflow.utils.credentials import get_default_host_creds
    from mlflow.utils.rest_utils import http_request

    shown = shown_url(uri)
    try:
        answer = http_request(
            get_default_host_creds(uri), "/api/2.0/mlflow/experiments/search", "POST", json={"max_results": 1},
            max_retries=0, timeout=_CONNECT_SECONDS, raise_on_status=False, allow_redirects=False,
        )  # fmt: skip
    except (MlflowException, requests.exceptions.RequestException, ValueError) as error:
        trouble = trouble_of(error)
        does, fix = (trouble.does, trouble.fix) if trouble else ("cannot be asked", "correct MLFLOW_TRACKING_URI")
        raise InputError(f"{shown}: the tracking server {does} ({redact(_innermost(error))}); {fix}") from None
    body = redact(" ".join(answer.text.split()))[:150]
    status = answer.status_code
    if 300 <= status < 400:
        place = redact(str(answer.headers.get("Location", "another address")))
        raise InputError(
            f"{shown}: the tracking server sends to {place} (HTTP {status}); set MLFLOW_TRACKING_URI to the address behind it"
        )
    if status == 200 and _lists_experiments(answer.text):
        return
    known = {
        401: ("refuses the login", "correct MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"),
        403: ("does not permit this", "ask for the right to write there; a host check is widened by `mlflow server --allowed-hosts`"),
        407: ("stands behind a proxy that wants a login", "correct HTTPS_PROXY, or add the server to NO_PROXY"),
        404: ("is not MLflow, or not at this address", "correct MLFLOW_TRACKING_URI, with the path below which MLflow is served"),
        200: ("answers with something other than MLflow's JSON, such as a login page", "correct MLFLOW_TRACKING_URI, or log in to the proxy"),
    }  # fmt: skip
    does, fix = known.get(
        status, ("does not answer as it should", "look into its log, start it again, or correct MLFLOW_TRACKING_URI")
    )
    raise InputError(f"{shown}: the tracking server {does} (HTTP {status}: {body}); {fix}")


def _innermost(error: BaseException) -> str:
    """The telling end of what urllib3 says: `(Caused by NewConnectionError("...: [Errno 111] Connection refused"))`."""
    text = telling_line(str(error))
    return text.rpartition("Caused by ")[2].rstrip(")")[:200]


def _lists_experiments(text: str) -> bool:
    try:
        found = json.loads(text or "{}")
        return isinstance(found, dict) and found.keys() <= {"experiments", "next_page_token"}
    except ValueError:
        return False


def check_artifact_root(root: str, uri: str, experiment: str) -> None:
    """Raise InputError when nothing can be written below an experiment's artifact root: a folder, a bucket, or the server's own.

    uri: the tracking store. experiment: its name, for the message.
    """
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
    from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository

    shown = f"{shown_url(root)}: the artifact store of experiment {experiment!r}"

    def write() -> None:
        repository = get_artifact_repository(root, tracking_uri=uri)
        if isinstance(repository, LocalArtifactRepository):
            folder = Path(repository.artifact_dir)
            if moved := moved_place(str(folder), uri):
                raise InputError(
                    f"{uri}: the store was moved: experiment {experiment!r} writes to {folder}, which is gone, and {moved} is here; "
                    f'move it back, or run: sqlite3 {database_file(uri)} "{moving_statements(folder, moved)}"'
                )
            check_writable_folder(folder, shown)
            return
        with tempfile.TemporaryDirectory() as place:
            file = Path(place) / _PROBE
            file.write_text("This file shows that artifacts can be written here.\n", encoding="utf-8")
            repository.log_artifact(str(file))
        try:
            repository.delete_artifacts(_PROBE)
        except Exception as error:  # a store that deletes nothing is a store all the same
            if trouble_of(error) is None and not isinstance(error, NotImplementedError):
                raise

    error = _within(write, _ARTIFACT_SECONDS)
    if error is None:
        return
    if isinstance(error, IcrError):
        raise error
    trouble = trouble_of(error)
    if trouble is not None:
        raise InputError(f"{shown} {trouble.does} ({redact(said_by(error))}); {trouble.fix}") from error
    reason = redact(telling_line(str(error)))[:300] or type(error).__name__
    raise InputError(f"{shown} cannot be written ({reason}); correct its address and credentials") from error


def _within(action: Callable[[], None], seconds: float) -> BaseException | None:
    """What an action raised, None if nothing; a TimeoutError if it is not done in time."""
    ended: list[BaseException | None] = []

    def act() -> None:
        try:
            action()
        except BaseException as error:  # noqa: BLE001 - handed to the caller
            ended.append(error)
        else:
            ended.append(None)

    thread = threading.Thread(target=act, daemon=True)
    thread.start()
    thread.join(seconds)
    return ended[0] if ended else ConnectionError(f"timed out after {seconds:.0f} seconds")
