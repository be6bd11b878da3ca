"""What the inspector writes beside its database is one user's alone, wherever her cache is and whoever was there before."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from icr_platform.core import own_folders
from icr_platform.core.own_folders import own_folder, remove_old
from ui.review.verdict_store import VerdictStore
from ui.tables.queries import QueryEngine


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ICR_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(own_folders, "_made", {})
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path / "cache" / "inspector"


def test_a_folder_of_the_cache(cache: Path) -> None:
    before = os.umask(0o002)  # a group's machine
    try:
        assert own_folder("exports") == cache / "exports"
    finally:
        os.umask(before)
    assert mode(cache / "exports") == 0o700
    (cache / "exports").chmod(0o755)
    assert own_folder("exports") == cache / "exports"
    assert mode(cache / "exports") == 0o700


def test_a_folder_that_cannot_be_used(cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A link, a file, somebody else's folder, a cache that is a file: a fresh folder, the same one every time."""
    cache.mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    (cache / "linked").symlink_to(tmp_path / "elsewhere")
    (cache / "file").write_text("")
    for name in ("linked", "file"):
        found = own_folder(name)
        assert found.parent == tmp_path
        assert found.name.startswith(f"icr-{name}-")
        assert mode(found) == 0o700
        assert own_folder(name) == found
    monkeypatch.setattr(os, "geteuid", lambda: 4242)
    assert own_folder("somebody") != cache / "somebody"
    monkeypatch.undo()
    monkeypatch.setenv("ICR_CACHE", str(cache / "file"))
    assert mode(own_folder("any")) == 0o700


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, who alone can be two users")
def test_two_users_of_one_machine(tmp_path: Path) -> None:
    """Both share cache and temporary folder, as /tmp is shared; neither fails, and neither reads what the other has."""
    tmp_path.chmod(0o755)
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o1777)
    code = (
        "import os, random, sys, tempfile\n"
        "from icr_platform.core.own_folders import own_folder  # while Python's own files can still be read\n"
        "tempfile.tempdir = sys.argv[1]; os.setgid(int(sys.argv[2])); os.setuid(int(sys.argv[2]))\n"
        "for name in ('artifacts', 'exports'):\n"
        "    place = own_folder(name); (place / 'mine').write_text('x'); print(place)"
    )
    for path in (tmp_path, *tmp_path.parents):  # pytest's folders are root's alone
        if path.stat().st_uid == os.geteuid() and not path.stat().st_mode & 0o001:
            path.chmod(path.stat().st_mode | 0o011)
    places = []
    for user in (40001, 40002):
        done = subprocess.run(
            [sys.executable, "-c", code, str(shared), str(user)],
            env={**os.environ, "ICR_CACHE": str(shared / "cache"), "PYTHONDONTWRITEBYTECODE": "1"},
            capture_output=True, text=True, timeout=120,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        places += [(user, Path(line)) for line in done.stdout.splitlines()]
    assert len({place for _, place in places}) == 4
    for user, place in places:
        assert (mode(place), place.stat().st_uid) == (0o700, user)


def test_what_killed_processes_left_is_removed(cache: Path) -> None:
    folder = own_folder("exports")
    for name, age in (("old", 90_000), ("new", 10)):
        (folder / name).mkdir()
        (folder / name / "verdicts.csv").write_text("x")
        (folder / f"{name}.csv").write_text("x")
        for path in (folder / name, folder / f"{name}.csv"):
            os.utime(path, (path.stat().st_mtime - age,) * 2)
    remove_old(folder, 86_400)
    assert sorted(path.name for path in folder.iterdir()) == ["new", "new.csv"]


def test_duckdb_spills_into_the_users_folder(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "called-from").mkdir()
    monkeypatch.chdir(tmp_path / "called-from")
    engine = QueryEngine(memory_limit="60MB", threads=1)
    (row,) = engine.select("SELECT value FROM duckdb_settings() WHERE name = 'temp_directory'")
    assert Path(row["value"]).parent == cache / "duckdb"
    found = engine.select(
        "SELECT count(*) AS n FROM (SELECT DISTINCT hash(range) h, range::VARCHAR t FROM range(3000000))", seconds=120
    )
    assert found == [{"n": 3_000_000}]
    assert list(Path.cwd().iterdir()) == []


def test_the_verdict_database_is_its_owners_alone(tmp_path: Path) -> None:
    """With what SQLite writes beside it, also where an earlier version or a hand made the file for all to read."""
    before = os.umask(0)
    try:
        for name, is_there in (("new.db", False), ("old.db", True)):
            if is_there:
                (tmp_path / name).touch(mode=0o666)
            store = VerdictStore(str(tmp_path / name))
            store.claim("r", [("item", False)], "ana")
            beside = sorted(path.name for path in tmp_path.glob(f"{name}*"))
            assert f"{name}-wal" in beside
            assert [mode(tmp_path / path) for path in beside] == [0o600] * len(beside)
    finally:
        os.umask(before)
