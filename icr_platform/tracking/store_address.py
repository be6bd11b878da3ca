"""The address of a tracking store: shown without secrets, and completed with a driver."""

from __future__ import annotations

from importlib.util import find_spec
from urllib.parse import urlsplit, urlunsplit

from icr_platform.core.errors import InputError


def redact(value: str) -> str:
    """Strip user, password and query from a URL, for they may be secrets; any other text stays as it is.

    >>> redact("https://me:secret@host:8000/v1?key=abc")
    'https://host:8000/v1'
    """
    parts = urlsplit(value)
    if not parts.scheme or not parts.netloc:
        return value
    return urlunsplit((parts.scheme, parts.netloc.rsplit("@", 1)[-1], parts.path, "", ""))


def is_server(uri: str) -> bool:
    """Whether the store is a server, which keeps artifacts under paths of its own and has pages to link to."""
    return uri.startswith(("http://", "https://"))


def with_driver(uri: str) -> str:
    """Name the installed driver in a `postgresql://` address, which SQLAlchemy otherwise takes for psycopg2's."""
    if not uri.startswith("postgresql://") or find_spec("psycopg2"):
        return uri
    if not find_spec("psycopg"):
        raise InputError(f"{redact(uri)}: needs a PostgreSQL driver; pip install 'icr-platform[postgres]'")
    return uri.replace("postgresql://", "postgresql+psycopg://", 1)
