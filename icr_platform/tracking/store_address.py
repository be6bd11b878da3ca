"""The address of a tracking store: shown without secrets, completed with a driver, and tried before any work is done."""

from __future__ import annotations

import os
from importlib.util import find_spec

from icr_platform.core.errors import InputError
from icr_platform.core.secrets import shown_url


def is_server(uri: str) -> bool:
    """Whether the store is a server, which keeps artifacts under paths of its own and has pages to link to."""
    return uri.startswith(("http://", "https://"))


def with_driver(uri: str) -> str:
    """Name the installed driver in a `postgresql://` address, which SQLAlchemy otherwise takes for psycopg2's."""
    if not uri.startswith("postgresql://") or find_spec("psycopg2"):
        return uri
    if not find_spec("psycopg"):
        raise InputError(f"{shown_url(uri)}: needs a PostgreSQL driver; pip install 'icr-platform[postgres]'")
    return uri.replace("postgresql://", "postgresql+psycopg://", 1)


def check_reachable(uri: str) -> None:
    """Raise InputError when a server does not answer, or when the address is one that MLflow no longer opens."""
    if not is_server(uri):
        is_file_store = not uri.startswith(("sqlite:", "postgresql", "mysql", "mssql", "databricks", "uc:"))
        if is_file_store and os.environ.get("MLFLOW_ALLOW_FILE_STORE", "").lower() != "true":
            raise InputError(
                f"{shown_url(uri)}: MLflow no longer opens file stores; set MLFLOW_TRACKING_URI=sqlite:///mlflow.db"
            )
        return
    import requests

    try:
        requests.get(uri.rstrip("/") + "/health", timeout=10)
    except requests.exceptions.RequestException as error:
        raise InputError(
            f"{shown_url(uri)}: the tracking server does not answer ({type(error).__name__}); start it, or correct "
            "MLFLOW_TRACKING_URI"
        ) from None
