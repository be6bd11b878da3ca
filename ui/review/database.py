"""The database that reviewers write to: SQLite (WAL), PostgreSQL, or any other that SQLAlchemy speaks to. One `Database` serves all stores."""

from __future__ import annotations

import os
import random
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import sqlalchemy as sql
from sqlalchemy.exc import ArgumentError, IntegrityError, SQLAlchemyError

from icr_platform.core.errors import IcrError, InputError
from ui.review.migrations.upgrade import Upgrade, bring_up_to_date

_BUSY_SECONDS = 5
_CONNECTIONS = 16


class Database:
    """An open database whose tables are those of this version.

    upgrade: what was done to a database of an earlier version when it was opened; None where there was nothing to do.
    """

    def __init__(self, place: str) -> None:
        """Open it, and bring its tables up to date.

        place: a SQLAlchemy URL, or the path of an SQLite file.

        Raises:
            InputError: this is not a database's URL, the driver is not installed, or a newer version wrote the database.
            IcrError: the database does not answer.
        """
        self._engine = _engine(place)
        if self._engine.dialect.name == "sqlite":
            _prepare_sqlite(self._engine)
        elif self._engine.dialect.name == "postgresql":
            _prepare_postgresql(self._engine)
        self.upgrade: Upgrade | None = bring_up_to_date(self._engine, self.transaction)

    @contextmanager
    def transaction(self, read: bool = False) -> Iterator[sql.Connection]:
        """A connection whose work is committed at the end of the block, or undone if the block raises.

        read: nothing is written, so nobody is waited for.

        Raises:
            IcrError: the database is locked, full or gone; nothing was stored then.
        """
        try:
            with self._engine.connect().execution_options(icr_read=read) as connection, connection.begin():
                yield connection
        except IntegrityError:
            raise
        except SQLAlchemyError as error:
            reason = str(getattr(error, "orig", None) or error).splitlines()[0][:120]
            raise IcrError(
                f"The verdict store does not answer ({reason}); nothing was saved or lost, try again."
            ) from error


def _engine(place: str) -> sql.Engine:
    """The engine of a database: `--verdicts` takes a SQLAlchemy URL or the path of an SQLite file."""
    scheme, separator, rest = place.partition("://")
    address: str | sql.URL
    if not separator:
        path = Path(place).expanduser().resolve()
        if not path.parent.is_dir():
            raise InputError(f"{path.parent}: no such folder; create it or give another --verdicts")
        scheme, address = "sqlite", sql.URL.create("sqlite", database=str(path))  # which may have any character in it
    else:
        if scheme in ("postgresql", "postgres"):  # SQLAlchemy would take psycopg2
            scheme = "postgresql+psycopg"
        address = f"{scheme}://{rest}"
    # What someone else holds is waited for for seconds, not without end.
    timeout = {"sqlite": "timeout", "postgresql+psycopg": "connect_timeout"}.get(scheme)
    options: dict[str, Any] = {"connect_args": {timeout: _BUSY_SECONDS}} if timeout else {}
    if scheme != "sqlite":
        options |= {"pool_pre_ping": True, "pool_size": _CONNECTIONS, "pool_timeout": _BUSY_SECONDS}
    try:
        return sql.create_engine(address, **options)
    except ModuleNotFoundError as error:
        hint = "pip install 'icr-platform[postgres]'" if "psycopg" in scheme else f"install {error.name}"
        raise InputError(f"--verdicts {scheme}://...: its driver is not installed; {hint}") from None
    except ArgumentError as error:
        raise InputError(
            f"--verdicts {scheme}://...: not a database URL ({str(error).splitlines()[0][:100]}); write it as in postgresql://user@host/name"
        ) from None


def _prepare_sqlite(engine: sql.Engine) -> None:
    """WAL with a full sync: readers never wait, and what was acknowledged survives `kill -9` and a power cut."""

    _keep_for_its_owner(engine.url.database)

    @sql.event.listens_for(engine, "connect")
    def configure(connection: Any, record: Any) -> None:
        connection.isolation_level = None  # SQLAlchemy's own BEGIN below, not the driver's deferred one
        _switch_to_wal(connection)
        connection.execute("PRAGMA synchronous=FULL")

    @sql.event.listens_for(engine, "begin")
    def begin(connection: sql.Connection) -> None:
        # Immediate: two writers that first read would otherwise deadlock into 'database is locked'.
        is_read = connection.get_execution_options().get("icr_read", False)
        connection.exec_driver_sql("BEGIN" if is_read else "BEGIN IMMEDIATE")


def _keep_for_its_owner(path: str | None) -> None:
    """Make the file where there is none, and let nobody else read it: SQLite gives the files beside it the same mode."""
    if not path or path.startswith((":memory:", "file:")):
        return
    with suppress(OSError):  # SQLite itself says best why it cannot open the file
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    for file in (path, f"{path}-wal", f"{path}-shm"):
        with suppress(OSError):  # somebody else's, which its owner shares
            os.chmod(file, 0o600)


def _switch_to_wal(connection: sqlite3.Connection) -> None:
    """Raises sqlite3.OperationalError when another program holds a new database for longer than `_BUSY_SECONDS`."""
    end = time.monotonic() + _BUSY_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as error:
            # While another server makes the same switch SQLite refuses at once, without the busy timeout.
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > end:
                raise
        time.sleep(random.uniform(0.001, 0.02))


def _prepare_postgresql(engine: sql.Engine) -> None:
    """What someone else has locked is said after seconds, not waited for without end."""

    @sql.event.listens_for(engine, "begin")
    def begin(connection: sql.Connection) -> None:
        connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{_BUSY_SECONDS}s'")
