"""The PostgreSQL database that ICR_TEST_POSTGRES names."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

import pytest


@contextmanager
def empty_schema() -> Iterator[str]:
    """URL of a schema of its own, which is dropped afterwards; skips where there is no database or no driver."""
    database = os.environ.get("ICR_TEST_POSTGRES", "")
    if not database:
        pytest.skip("needs ICR_TEST_POSTGRES, the URL of a PostgreSQL database, as in postgresql://user@127.0.0.1/test")
    psycopg = pytest.importorskip("psycopg", reason="needs psycopg: pip install 'icr-platform[postgres]'")
    schema = f"icr_test_{uuid.uuid4().hex}"
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute(f"CREATE SCHEMA {schema}")
    yield f"{database}{'&' if '?' in database else '?'}options=-csearch_path%3D{schema}"
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute(f"DROP SCHEMA {schema} CASCADE")
