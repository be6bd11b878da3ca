"""Opening a database of any version: its version is read, and the steps from there to this version are applied, all of them or none."""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import NamedTuple

import sqlalchemy as sql
from alembic.config import Config
from alembic.runtime.environment import EnvironmentContext
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

from icr_platform.core.errors import IcrError, InputError

VERSION_TABLE = "icr_verdicts_version"
"""Not alembic's usual name: the database may be MLflow's own, which has a table of that name."""
_SCHEMA_LOCK = 0x1C5  # any number that other programs on the database do not take
_ONE_AT_A_TIME = threading.Lock()  # alembic's `op` is one for the whole process


class Upgrade(NamedTuple):
    """backup: copy of the SQLite file as it was before; None where the database keeps its own."""

    before: str
    after: str
    backup: Path | None


def bring_up_to_date(
    engine: sql.Engine, transaction: Callable[..., AbstractContextManager[sql.Connection]]
) -> Upgrade | None:
    """Apply the steps that a database lacks; what was done to one that had verdicts before, else None.

    transaction: as `Database.transaction`.

    Raises:
        InputError: a newer version wrote the database.
        IcrError: the database does not answer, or its copy cannot be written; nothing was changed then.
    """
    script = ScriptDirectory(str(Path(__file__).parent))
    newest = script.get_current_head() or ""
    with transaction(read=True) as connection:
        if _version(connection, script, engine) == newest:
            return None  # the usual case waits for nobody
    with _ONE_AT_A_TIME, transaction() as connection:
        if engine.dialect.name == "postgresql":
            # Two servers may start at once: the second one waits here, and then finds the work done. SQLite's write lock does the same.
            connection.execute(sql.text(f"SELECT pg_advisory_xact_lock({_SCHEMA_LOCK})"))
        before = _version(connection, script, engine)
        if before == newest:
            return None
        had_verdicts = sql.inspect(connection).has_table("icr_verdicts")
        backup = _backup(connection, newest) if had_verdicts and engine.dialect.name == "sqlite" else None
        with EnvironmentContext(
            Config(), script, fn=lambda revision, _: script._upgrade_revs("head", revision)
        ) as environment:
            environment.configure(connection=connection, version_table=VERSION_TABLE)
            environment.run_migrations()
    return Upgrade(before or "before versions", newest, backup) if had_verdicts else None


def _version(connection: sql.Connection, script: ScriptDirectory, engine: sql.Engine) -> str:
    """The step that a database has reached; '' before the first.

    Raises:
        InputError: this version does not know the step.
    """
    found = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE}).get_current_heads()
    known = {step.revision for step in script.walk_revisions()}
    if set(found) <= known:
        return max(found, default="")
    place = (
        engine.url.database if engine.dialect.name == "sqlite" else engine.url.render_as_string()
    )  # without its password
    raise InputError(
        f"{place}: a newer version of icr wrote this verdict database (version {max(found)}; this icr knows versions up "
        f"to {max(known)}); update icr, or give another --verdicts"
    )


def _backup(connection: sql.Connection, newest: str) -> Path | None:
    """Copy the SQLite file beside itself, readable by its owner alone; None for a database in memory."""
    files = {row[1]: row[2] for row in connection.exec_driver_sql("PRAGMA database_list")}
    if not files.get("main"):
        return None
    path = Path(files["main"])
    copies = (path.with_name(f"{path.name}.before-{newest}{end}") for end in ("", *(f"-{n}" for n in range(2, 1000))))
    copy = next(found for found in copies if not found.exists())  # an earlier copy is never written over
    try:
        os.close(os.open(copy, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        # Read by a connection of its own: it sees what is committed, while this one keeps other writers out.
        source, target = sqlite3.connect(path), sqlite3.connect(copy)
        try:
            source.backup(target)
        finally:
            source.close()
            target.close()
    except (OSError, sqlite3.Error) as error:
        with suppress(OSError):
            copy.unlink()
        raise IcrError(
            f"{path}: this verdict database is of an earlier version, and its copy {copy.name} cannot be written ({error}); nothing was "
            "changed. Make room, or let the folder be written to."
        ) from error
    return copy
