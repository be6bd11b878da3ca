"""People's verdicts: an append-only table in SQLite (WAL) or in any database that SQLAlchemy speaks to; the only import of sqlalchemy.

A verdict is never changed or deleted: an edit is a later row, an undo is a row whose choice is 'withdrawn'. The page gives each
submission a name, so that one that is sent twice, because the server died before it answered, is stored once.
"""

from __future__ import annotations

import json
import os
import random
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import sqlalchemy as sql
from sqlalchemy.exc import ArgumentError, IntegrityError, SQLAlchemyError

from icr_platform.core.artifacts import text_digest
from icr_platform.core.errors import IcrError, InputError
from ui.review.verdicts import CHOICES, COLUMNS, REASONS, Verdict

LONGEST_NOTE = 100_000
CLAIM_MINUTES = 30
"""How long an item shown to one reviewer is kept from the others before her verdict."""
_BUSY_SECONDS = 5
_CONNECTIONS = 16
_LONGEST_SUBMISSION = 64
_SCHEMA_LOCK = 0x1C5  # any number that other programs on the database do not take

_metadata = sql.MetaData()
_verdicts = sql.Table(
    "icr_verdicts",
    _metadata,
    sql.Column("id", sql.Integer, primary_key=True, autoincrement=True),
    sql.Column("submission", sql.String(_LONGEST_SUBMISSION), nullable=False, unique=True),
    sql.Column(
        "item_key", sql.String(64), nullable=False, index=True
    ),  # digest: an item's text is too long to index everywhere
    *(
        sql.Column(name, sql.Text, nullable=False)
        for name in ("item", "kind", "language", "prompt_id", "queue", "left", "right")
    ),
    sql.Column("reviewer", sql.String(200), nullable=False, index=True),
    sql.Column("run_id", sql.String(64), nullable=False, index=True),
    sql.Column("iteration", sql.Integer, nullable=False),
    sql.Column("base", sql.Integer),
    sql.Column("choice", sql.String(16), nullable=False),
    sql.Column("reasons", sql.Text, nullable=False),
    sql.Column("note", sql.Text, nullable=False),
    sql.Column("blind", sql.Boolean, nullable=False),
    *(sql.Column(name, sql.Float) for name in ("seconds", "margin", "left_score", "right_score")),
    *(sql.Column(name, sql.Integer, nullable=False) for name in ("left_characters", "right_characters")),
    sql.Column("created_at", sql.String(32), nullable=False),
)
_claims = sql.Table(
    "icr_claims",
    _metadata,
    sql.Column("item_key", sql.String(64), primary_key=True),
    sql.Column("slot", sql.String(200), primary_key=True),  # '' for an item of one reviewer, her name where all see it
    sql.Column("reviewer", sql.String(200), nullable=False),
    sql.Column("created_at", sql.String(32), nullable=False),
)


class VerdictStore:
    """The table of verdicts, and that of claims: who was shown which item, and when.

    Raises, from every method:
        IcrError: the database is locked, full or gone; nothing was stored then.
    """

    def __init__(self, url: str) -> None:
        """Open the database, and create its tables where there are none.

        Raises:
            InputError: this is not a database's URL, or the driver is not installed.
        """
        self._engine = _engine(url)
        if self._engine.dialect.name == "sqlite":
            _prepare_sqlite(self._engine)
        elif self._engine.dialect.name == "postgresql":
            _prepare_postgresql(self._engine)
        with self._transaction() as connection:
            if self._engine.dialect.name == "postgresql":
                # Two servers may start at once, and CREATE TABLE IF NOT EXISTS fails then all the same.
                connection.execute(sql.text(f"SELECT pg_advisory_xact_lock({_SCHEMA_LOCK})"))
            _metadata.create_all(connection)

    def append(self, verdict: Verdict) -> Verdict:
        """Store a verdict and return it as stored; when this returns it is on disk. One sent again is not stored twice.

        Raises:
            InputError: an unknown choice or reason, a note that is too long, or no name.
        """
        verdict = replace(verdict, note=_storable(verdict.note), reviewer=_storable(verdict.reviewer))
        _check(verdict)
        stored = {
            **asdict(verdict),
            "created_at": _now(),
            "reasons": json.dumps(verdict.reasons),
            "item_key": item_key(verdict.run_id, verdict.item),
        }
        try:
            with self._transaction() as connection:
                connection.execute(sql.insert(_verdicts).values(stored))
            return _verdict(stored)
        except IntegrityError:
            # The submission is there already: the server died after it stored the verdict and before it answered.
            query = sql.select(_verdicts).where(_verdicts.c.submission == verdict.submission)
            with self._transaction() as connection:
                row = connection.execute(query).mappings().first()
            if row is None:
                raise IcrError("The verdict store refused the verdict; it was not saved, try again.") from None
            return _verdict(dict(row))

    def history(self, run_id: str = "", reviewer: str = "") -> list[Verdict]:
        """Every row ever stored, in the order stored; of one run or reviewer where given."""
        query = sql.select(_verdicts).order_by(_verdicts.c.id)
        if run_id:
            query = query.where(_verdicts.c.run_id == run_id)
        if reviewer:
            query = query.where(_verdicts.c.reviewer == reviewer)
        with self._transaction(read=True) as connection:
            return [_verdict(dict(row)) for row in connection.execute(query).mappings()]

    def current(self, run_id: str = "", reviewer: str = "") -> list[Verdict]:
        """The last word of each reviewer on each item; withdrawn ones are left out."""
        latest = {(v.reviewer, v.run_id, v.item): v for v in self.history(run_id, reviewer)}
        return [verdict for verdict in latest.values() if verdict.choice != "withdrawn"]

    def claim(self, run_id: str, items: Sequence[tuple[str, bool]], reviewer: str) -> int | None:
        """Keep the first free one of some items for a reviewer; its place in `items`, None when others hold them all.

        An item is another's when it was shown to her within the last half hour, or she judged it.

        Args:
            items: identity, and whether every reviewer gets the item.
        """
        keys = [item_key(run_id, item) for item, _ in items]
        with self._transaction() as connection:
            rows = connection.execute(sql.select(_claims).where(_claims.c.item_key.in_(keys))).mappings()
            held = {(row["item_key"], row["slot"]): row for row in rows}
            for place, (key, (_, shared)) in enumerate(zip(keys, items, strict=True)):
                slot = reviewer if shared else ""
                claim = held.get((key, slot))
                if (claim is not None and claim["reviewer"] == reviewer) or self._take(
                    connection, key, slot, reviewer, claim
                ):
                    return place
        return None

    def _take(self, connection: sql.Connection, key: str, slot: str, reviewer: str, held: Any) -> bool:
        """Claim a free item, or one whose claim is old and without a verdict."""
        own = {"reviewer": reviewer, "created_at": _now()}
        if held is None:
            try:
                with connection.begin_nested():
                    connection.execute(sql.insert(_claims).values(item_key=key, slot=slot, **own))
            except IntegrityError:  # another server process was faster
                return False
            return True
        if held["created_at"] > _now(-timedelta(minutes=CLAIM_MINUTES)):
            return False
        last = (
            sql.select(_verdicts.c.choice).where(_verdicts.c.item_key == key).order_by(_verdicts.c.id.desc()).limit(1)
        )
        if connection.execute(last).scalar() not in (None, "withdrawn"):
            return False  # the claim is old because its reviewer has judged the item
        # Of several who see the same old claim, the one whose update finds it unchanged takes it.
        same = (_claims.c.item_key == key, _claims.c.slot == slot, _claims.c.created_at == held["created_at"])
        return connection.execute(sql.update(_claims).where(*same).values(own)).rowcount == 1

    @contextmanager
    def _transaction(self, read: bool = False) -> Iterator[sql.Connection]:
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


def item_key(run_id: str, item: str) -> str:
    """Digest that stands for an item of a run in indexes."""
    return text_digest(run_id, item)


def _check(verdict: Verdict) -> None:
    if verdict.choice not in CHOICES:
        raise InputError(f"A verdict is one of {', '.join(CHOICES)}, not {verdict.choice[:40]!r}.")
    unknown = set(verdict.reasons) - set(REASONS)
    if unknown:
        raise InputError(f"Unknown reason {min(unknown)[:40]!r}; the reasons are {', '.join(REASONS)}.")
    if len(verdict.note) > LONGEST_NOTE:
        raise InputError(
            f"The note has {len(verdict.note):,} characters, at most {LONGEST_NOTE:,} are kept; nothing was saved, shorten it."
        )
    if not 0 < len(verdict.submission) <= _LONGEST_SUBMISSION:
        raise InputError("The page is out of date; load it again.")
    if not verdict.reviewer.strip() or len(verdict.reviewer) > 200:
        raise InputError("A verdict needs the reviewer's name, of at most 200 characters.")


def _verdict(row: dict[str, Any]) -> Verdict:
    return Verdict(
        **{name: row[name] for name in COLUMNS if name != "reasons"}, reasons=tuple(json.loads(row["reasons"]))
    )


def _now(shift: timedelta = timedelta()) -> str:
    return (datetime.now(UTC) + shift).isoformat(timespec="microseconds")


def _storable(text: str) -> str:
    """Text without what some databases refuse: NUL, and halves of surrogate pairs."""
    return text.replace("\x00", "").encode("utf-8", "replace").decode("utf-8")


def _engine(place: str) -> sql.Engine:
    """The engine of a database: `--verdicts` takes a SQLAlchemy URL or the path of an SQLite file."""
    scheme, separator, rest = place.partition("://")
    if not separator:
        path = Path(place).expanduser().resolve()
        if not path.parent.is_dir():
            raise InputError(f"{path.parent}: no such folder; create it or give another --verdicts")
        scheme, rest = "sqlite", f"/{path}"
    elif scheme in ("postgresql", "postgres"):  # SQLAlchemy would take psycopg2
        scheme = "postgresql+psycopg"
    # What someone else holds is waited for for seconds, not without end.
    timeout = {"sqlite": "timeout", "postgresql+psycopg": "connect_timeout"}.get(scheme)
    options: dict[str, Any] = {"connect_args": {timeout: _BUSY_SECONDS}} if timeout else {}
    if scheme != "sqlite":
        options |= {"pool_pre_ping": True, "pool_size": _CONNECTIONS, "pool_timeout": _BUSY_SECONDS}
    try:
        return sql.create_engine(f"{scheme}://{rest}", **options)
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
