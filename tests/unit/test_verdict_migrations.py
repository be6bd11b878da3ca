"""Verdict databases of every version open, with all their verdicts; on SQLite and, where ICR_TEST_POSTGRES names one, on PostgreSQL."""

from __future__ import annotations

import errno
import os
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sqlalchemy as sql

from icr_platform.core.errors import IcrError, InputError
from tests.support.postgres import empty_schema
from tests.unit.test_verdicts import verdict
from ui.review.database import _engine
from ui.review.migrations import upgrade
from ui.review.verdict_store import VerdictStore, _metadata, item_key
from ui.review.verdicts import COLUMNS

NEWEST = max(path.name[1:5] for path in (Path(upgrade.__file__).parent / "versions").glob("v*.py"))
NEWEST = max(path.name[1:5] for path in (Path(upgrade.__file__).parent / "versions").glob("v[0-9]*.py"))

# As servers made them before there were versions (SQLite's and PostgreSQL's own words differ in the key only).
OLD_TABLES = """
CREATE TABLE icr_verdicts (id {serial} PRIMARY KEY, submission VARCHAR(64) NOT NULL, item_key VARCHAR(64) NOT NULL,
  item TEXT NOT NULL, kind TEXT NOT NULL, language TEXT NOT NULL, prompt_id TEXT NOT NULL, queue TEXT NOT NULL,
  "left" TEXT NOT NULL, "right" TEXT NOT NULL, reviewer VARCHAR(200) NOT NULL, run_id VARCHAR(64) NOT NULL, iteration INTEGER NOT NULL,
  base INTEGER, choice VARCHAR(16) NOT NULL, reasons TEXT NOT NULL, note TEXT NOT NULL, blind BOOLEAN NOT NULL, seconds FLOAT,
  margin FLOAT, left_score FLOAT, right_score FLOAT, left_characters INTEGER NOT NULL, right_characters INTEGER NOT NULL,
  created_at VARCHAR(32) NOT NULL, UNIQUE (submission));
CREATE INDEX ix_icr_verdicts_item_key ON icr_verdicts (item_key);
CREATE INDEX ix_icr_verdicts_reviewer ON icr_verdicts (reviewer);
CREATE INDEX ix_icr_verdicts_run_id ON icr_verdicts (run_id)"""
OLD_CLAIMS = """CREATE TABLE icr_claims (item_key VARCHAR(64) NOT NULL, slot VARCHAR(200) NOT NULL, reviewer VARCHAR(200) NOT NULL,
  created_at VARCHAR(32) NOT NULL, PRIMARY KEY (item_key, slot))"""
OLD_ROW = """INSERT INTO icr_verdicts (submission, item_key, item, kind, language, prompt_id, queue, "left", "right", reviewer, run_id, iteration,
  choice, reasons, note, blind, seconds, margin, left_score, right_score, left_characters, right_characters, created_at)
  VALUES ('{name}', '{key}', 'pair:1::es:p1', 'pair', 'es', 'p1', 'random', 'chosen', 'rejected', 'Lucía', 'run', 1, 'left',
  '["untrue"]', 'una nota · ملاحظة', {true}, 1.5, 0.5, 1.0, 0.5, 10, 12, '2025-01-01T00:00:00.000000+00:00')"""


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "sqlite":
        yield str(tmp_path / "verdicts.db")
        return
    with empty_schema() as url:
        yield url


def execute(url: str, *statements: str) -> list[tuple[object, ...]]:
    """Rows of the last statement."""
    engine = _engine(url)
    with engine.begin() as connection:
        for statement in statements[:-1]:
            connection.exec_driver_sql(statement)
        result = connection.exec_driver_sql(statements[-1])
        found = [tuple(row) for row in result] if result.returns_rows else []
    engine.dispose()
    return found


def old_row(url: str, name: str = "old") -> str:
    is_sqlite = not url.startswith("postgres")
    return OLD_ROW.format(name=name, key=item_key("run", "pair:1::es:p1"), true="1" if is_sqlite else "true")


def without_versions(url: str) -> None:
    serial = "SERIAL" if url.startswith("postgres") else "INTEGER"
    execute(url, *OLD_TABLES.format(serial=serial).split(";"), OLD_CLAIMS, old_row(url))


def without_claims(url: str) -> None:
    without_versions(url)
    execute(url, "DROP TABLE icr_claims")


def at_the_first_step(url: str) -> None:
    without_versions(url)
    version = "CREATE TABLE icr_verdicts_version (version_num VARCHAR(32) NOT NULL PRIMARY KEY)"
    execute(url, version, "INSERT INTO icr_verdicts_version VALUES ('0001')")


def beside_mlflow(url: str) -> None:
    without_versions(url)
    execute(url, "CREATE TABLE alembic_version (version_num VARCHAR(32))", "INSERT INTO alembic_version VALUES ('abc')")


@pytest.mark.parametrize("make", [without_versions, without_claims, at_the_first_step, beside_mlflow])
def test_a_database_of_an_earlier_version_keeps_its_verdicts(url: str, make: Callable[[str], None]) -> None:
    make(url)
    store = VerdictStore(url)
    (old,) = store.history()
    assert old == verdict(
        "old", "Lucía", note="una nota · ملاحظة", created_at="2025-01-01T00:00:00.000000+00:00", link="", disclosed=False,
        fast=False, gold="", source="inspector",
    )  # fmt: skip
    assert store.append(verdict("new", "lucía ")).disclosed, "Spot-check told her after the old verdict"
    assert store.claim("run", [("pair:2", False)], "ben") == 0
    assert store.database.upgrade is not None
    assert store.database.upgrade.after == NEWEST
    again = VerdictStore(url)
    assert again.database.upgrade is None
    assert len(again.history()) == 2
    if make is beside_mlflow:
        assert execute(url, "SELECT version_num FROM alembic_version") == [("abc",)]


def test_the_tables_are_those_that_the_store_uses(url: str) -> None:
    store = VerdictStore(url)
    assert store.database.upgrade is None, "a new database is not an upgraded one"
    inspector = sql.inspect(_engine(url))
    for name, table in _metadata.tables.items():
        assert {column["name"] for column in inspector.get_columns(name)} == {column.name for column in table.columns}
    assert set(COLUMNS) == {column.name for column in _metadata.tables["icr_verdicts"].columns} - {"id", "item_key"}
    assert {index["column_names"][0] for index in inspector.get_indexes("icr_verdicts")} >= {
        "item_key", "reviewer", "run_id",
    }  # fmt: skip


def test_a_server_of_the_earlier_version_goes_on_storing(url: str) -> None:
    without_versions(url)
    store = VerdictStore(url)
    execute(url, old_row(url, "from a server that was not updated yet"))
    assert [v.source for v in store.history()] == ["inspector", "inspector"]


@pytest.mark.parametrize("version", ["0099", "zzz", "1.0"])
def test_a_newer_database_is_refused_and_left_alone(url: str, version: str) -> None:
    VerdictStore(url).append(verdict("1"))
    execute(url, f"UPDATE icr_verdicts_version SET version_num = '{version}'")
    with pytest.raises(
        InputError, match=rf"newer version of icr wrote .*version {version}.*up to {NEWEST}.*--verdicts"
    ) as said:
        VerdictStore(url)
    assert len(str(said.value).splitlines()) == 1
    assert execute(url, "SELECT count(*) FROM icr_verdicts") == [(1,)]


def test_a_step_that_fails_changes_nothing(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    without_versions(url)
    from alembic import op

    def fail(*_: object, **__: object) -> None:
        raise sql.exc.OperationalError("CREATE TABLE", {}, Exception("disk full"))

    with monkeypatch.context() as full:
        full.setattr(op, "create_table", fail)
        with pytest.raises(IcrError, match="disk full"):
            VerdictStore(url)
    names = {column["name"] for column in sql.inspect(_engine(url)).get_columns("icr_verdicts")}
    assert "link" not in names
    assert len(VerdictStore(url).history()) == 1


def test_sqlite_is_copied_before_a_step(tmp_path: Path) -> None:
    path = tmp_path / "reviews #1?.db"
    without_versions(str(path))
    other = sqlite3.connect(path)  # what is still in its write-ahead log is copied, too
    other.execute("PRAGMA journal_mode=WAL")
    other.execute(old_row(str(path), "in the log"))
    other.commit()
    (tmp_path / f"reviews #1?.db.before-{NEWEST}").write_text("an earlier copy")
    found = VerdictStore(str(path)).database.upgrade
    assert found == upgrade.Upgrade("before versions", NEWEST, tmp_path / f"reviews #1?.db.before-{NEWEST}-2")
    assert found.backup is not None
    assert stat.S_IMODE(found.backup.stat().st_mode) == 0o600
    assert (tmp_path / f"reviews #1?.db.before-{NEWEST}").read_text() == "an earlier copy"
    rows = sqlite3.connect(found.backup).execute("SELECT submission, note FROM icr_verdicts ORDER BY id").fetchall()
    assert rows == [("old", "una nota · ملاحظة"), ("in the log", "una nota · ملاحظة")]
    other.close()
    assert len(VerdictStore(str(found.backup)).history()) == 2, "the copy is a database like any other"


def test_without_room_for_the_copy_nothing_is_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = str(tmp_path / "verdicts.db")
    without_versions(path)
    made = os.open

    def full(name: str | Path, *arguments: int) -> int:
        if "before" in str(name):
            raise OSError(errno.ENOSPC, "No space left on device")
        return made(name, *arguments)

    with monkeypatch.context() as disk:
        disk.setattr(os, "open", full)
        with pytest.raises(IcrError, match=rf"before-{NEWEST} cannot be written .*No space left.*nothing was changed"):
            VerdictStore(path)
    assert "icr_verdicts_version" not in sql.inspect(_engine(path)).get_table_names()
    assert [file.name for file in tmp_path.iterdir() if "before" in file.name] == []


def test_servers_that_start_at_once(url: str) -> None:
    """Three processes open a database of the earlier version at the same moment: one brings it up to date, all of them write."""
    without_versions(url)
    code = (
        "import sys; from ui.review.verdict_store import VerdictStore; from tests.unit.test_verdicts import verdict\n"
        "print('ready', flush=True); sys.stdin.readline(); store = VerdictStore(sys.argv[1])\n"
        "store.append(verdict(sys.argv[2], sys.argv[2])); print(store.database.upgrade is not None)"
    )
    servers = [
        subprocess.Popen(
            [sys.executable, "-c", code, url, f"r{n}"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for n in range(3)
    ]
    for server in servers:
        assert server.stdout is not None
        assert server.stdout.readline() == "ready\n"
    for server in servers:
        assert server.stdin is not None
        server.stdin.write("\n")
        server.stdin.flush()
    said = [server.communicate(timeout=300)[0].strip() for server in servers]
    assert sorted(said) == ["False", "False", "True"]
    assert {v.reviewer for v in VerdictStore(url).history()} == {"Lucía", "r0", "r1", "r2"}
