"""The address of a tracking store: shown without secrets, and completed with a driver."""

from __future__ import annotations

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
