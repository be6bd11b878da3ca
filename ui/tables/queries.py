"""DuckDB over Parquet artifacts; the only import of duckdb.

A request is a query: nothing loads a whole table. Artifacts are sharded into many small parts, and opening a thousand of them costs
up to a second, so what lists and histograms need (keys and numbers, never texts) is materialised once per artifact in memory, and
texts are then read from the one part that holds them.
"""

from __future__ import annotations

import itertools
import math
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import duckdb
import pyarrow as pa

from icr_platform.core.artifacts import Artifact
from icr_platform.core.errors import IcrError, InputError
from icr_platform.core.own_folders import own_folder, remove_old

MEMORY_LIMIT = "450MB"
MATERIALISED = 48
"""Narrow tables kept."""
MATERIALISED_ROWS = 3_000_000
"""Rows of all narrow tables kept; a million pairs take about 100 MB."""
IN_USE_SECONDS = 60.0
"""A table that was asked for within this time is not dropped: a page asks for all of its tables before it queries the first."""
SPILLED_SECONDS = 7 * 24 * 3600.0
"""After this time what a killed process has spilled to disk is removed."""
ResultRow = dict[str, Any]
_engines = itertools.count()


class QueryEngine:
    """One in-memory DuckDB, with a cursor per request, so that requests run at the same time."""

    def __init__(self, memory_limit: str = MEMORY_LIMIT, threads: int = 2) -> None:
        # Without a folder of its own DuckDB spills into `.tmp` of the folder that the command was called in; processes do not share one.
        spills = own_folder("duckdb")
        remove_old(spills, SPILLED_SECONDS)
        config: dict[str, str | bool | int | float | list[str]] = {
            "memory_limit": memory_limit, "threads": threads, "temp_directory": str(spills / f"{os.getpid()}-{next(_engines)}"),
        }  # fmt: skip
        self._connection = duckdb.connect(config=config)
        for setting in (
            "parquet_metadata_cache=true",  # the footers of a thousand parts are read once, not by every request
            "autoinstall_known_extensions=false",  # the inspector downloads nothing
            "preserve_insertion_order=true",  # lists show rows as they were written
        ):
            self._connection.execute(f"SET {setting}")
        self._tables: OrderedDict[str, str] = OrderedDict()
        self._rows: dict[str, int] = {}
        self._asked: dict[str, float] = {}
        self._building: dict[str, threading.Lock] = {}
        self._lock = threading.Lock()
        self._number = 0

    def select(
        self,
        sql: str,
        parameters: Sequence[Any] = (),
        seconds: float = 20.0,
        tables: Mapping[str, pa.Table] | None = None,
    ) -> list[ResultRow]:
        """Rows of a query as dictionaries.

        tables: small ones by the names that the query has for them, seen by this query alone.

        Raises:
            InputError: a file vanished or is damaged, or the query took longer than `seconds`.
        """
        with self._cursor(seconds) as cursor:
            for name, table in (tables or {}).items():
                cursor.register(name, table)
            found = cursor.execute(sql, list(parameters))
            names = [column[0] for column in found.description or ()]
            return [dict(zip(names, row, strict=True)) for row in found.fetchall()]

    def stream(self, sql: str, parameters: Sequence[Any] = (), size: int = 2000) -> Iterator[list[ResultRow]]:
        """As `select`, at most `size` rows at a time, and for as long as it takes: for work that goes on and says how far it is.

        Raises:
            InputError: a file vanished or is damaged; rows that came before it were given.
        """
        with self._cursor(None) as cursor:
            found = cursor.execute(sql, list(parameters))
            names = [column[0] for column in found.description or ()]
            while rows := found.fetchmany(size):
                yield [dict(zip(names, row, strict=True)) for row in rows]

    def append(self, name: str, table: pa.Table) -> str:
        """Add rows to an in-memory table that `append` has made, or make it of them where `name` is ''. Returns its name."""
        with self._lock:
            self._number += 1
            source = f"source_{self._number}"
        is_new, name = not name, name or f"appended_{self._number}"
        with self._cursor(None) as cursor:
            cursor.register(source, table)
            cursor.execute(f"{f'CREATE TABLE {name} AS' if is_new else f'INSERT INTO {name}'} SELECT * FROM {source}")
            cursor.unregister(source)
        return name

    def close(self) -> None:
        """Give back the memory, and what was spilled."""
        self._connection.close()

    @contextmanager
    def _cursor(self, seconds: float | None) -> Iterator[duckdb.DuckDBPyConnection]:
        """A cursor whose errors are sentences. seconds: after which a query is ended; None lets it go on."""
        cursor = self._connection.cursor()
        # DuckDB has no time limit of its own, and a browser that gave up does not stop a query.
        timer = threading.Timer(seconds, cursor.interrupt) if seconds else None
        if timer:
            timer.start()
        try:
            yield cursor
        except duckdb.InterruptException:
            raise InputError(
                f"This took longer than {seconds or 0:.0f} s; narrow it, for example to one language."
            ) from None
        except duckdb.OutOfMemoryException:
            raise IcrError(
                "This needs more memory than the inspector takes; narrow it, for example to one language."
            ) from None
        except duckdb.Error as error:
            reason = str(error).splitlines()[0][:200]
            raise InputError(
                f"The tables could not be read ({reason}); were they moved or deleted while open?"
            ) from error
        finally:
            if timer:
                timer.cancel()
            cursor.close()

    def keep(self, key: str, table: pa.Table) -> str:
        """Name of an in-memory table with the rows of a small table."""
        with self._lock:
            known = self._tables.get(key)
        if known:
            return known
        with self._lock:
            self._number += 1
            name = f"narrow_{self._number}"
        # A registered table is seen by this cursor alone; the copy is there for all of them.
        cursor = self._connection.cursor()
        try:
            cursor.register(f"{name}_source", table)
            cursor.execute(f"CREATE TABLE {name} AS SELECT * FROM {name}_source")
            cursor.unregister(f"{name}_source")
        finally:
            cursor.close()
        with self._lock:
            self._tables[key] = name
        return name

    def is_materialised(self, key: str) -> bool:
        with self._lock:
            return key in self._tables

    def materialise(self, key: str, sql: str, parameters: Sequence[Any] = ()) -> str:
        """Name of an in-memory table that holds the query's result, built once per key; the oldest ones are dropped."""
        with self._lock:
            if key in self._tables:
                self._tables.move_to_end(key)
                self._asked[key] = time.monotonic()
                return self._tables[key]
            building = self._building.setdefault(key, threading.Lock())
        # Whoever needs a table that is being built waits for it; other tables are built at the same time.
        with building:
            with self._lock:
                if key in self._tables:
                    return self._tables[key]
                self._number += 1
                name = f"narrow_{self._number}"
            (made,) = self.select(f"CREATE TABLE {name} AS {sql}", parameters, seconds=120.0)
            with self._lock:
                self._tables[key], self._rows[key], self._asked[key] = name, made["Count"], time.monotonic()
                self._building.pop(key, None)
                old = self._taken_out()
        for stale in old:
            self.select(f"DROP TABLE {stale}")
        return name

    def _taken_out(self) -> list[str]:
        """Names of the narrow tables that are too many or have too many rows, the ones that were used longest ago first."""
        old = []
        for key in [key for key in self._tables if key in self._rows]:
            if len(self._rows) <= MATERIALISED and sum(self._rows.values()) <= MATERIALISED_ROWS:
                break
            if time.monotonic() - self._asked[key] > IN_USE_SECONDS:
                old.append(self._tables.pop(key))
                del self._rows[key], self._asked[key]
        return old


def parts_of(artifact: Artifact, numbers: Sequence[int] | None = None) -> list[str]:
    """Paths of an artifact's parts, or of some, as the parameter of `read_parquet(?)`."""
    paths = artifact.parts if numbers is None else [artifact.parts[number] for number in numbers]
    return [str(path) for path in paths]


def is_part(artifact: Artifact, number: int) -> bool:
    return 0 <= number < len(artifact.parts)


def numbered_parts(artifact: Artifact) -> str:
    """SQL that turns `filename` into the part's number: parts are named part-00000.parquet ..."""
    return "CAST(regexp_extract(filename, 'part-(\\d+)\\.parquet$', 1) AS INTEGER)"


def like_pattern(text: str) -> str:
    """Pattern for `ILIKE ? ESCAPE '!'` that finds `text` anywhere, its own wildcards taken literally.

    >>> like_pattern("50%_!")
    '%50!%!_!!%'
    """
    for special in ("!", "%", "_"):
        text = text.replace(special, "!" + special)
    return f"%{text}%"


def finite(value: float | None) -> float | None:
    """None for NaN and infinities, which DuckDB returns for correlations of constants."""
    return value if value is not None and math.isfinite(value) else None
