"""Artifacts: nothing half-written is ever read as finished, and a restart keeps what is done."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from icr_platform.core.artifacts import MANIFEST, ArtifactWriter, completed, open_artifact, read_json, write_json
from icr_platform.core.errors import IcrError, InputError
from icr_platform.core.schemas import DROPS, PROMPTS, TABLES

ROOT = Path(__file__).parents[2]


def rows(start: int, count: int) -> pa.Table:
    ids = [str(i) for i in range(start, start + count)]
    columns = {
        "language": ["es"] * count,
        "prompt_id": ids,
        "instruction": [f"  ¿{i}?\n" for i in ids],
        "english_instruction": ids,
        "source": [""] * count,
    }
    return completed(pa.table(columns), PROMPTS)


def write(folder: Path, fingerprint: str = "f") -> None:
    writer = ArtifactWriter(folder, PROMPTS, fingerprint)
    for part in range(3):
        writer.write_part(part, rows(10 * part, 10))
    writer.close(3)


def test_round_trip_keeps_text_and_counts(tmp_path: Path) -> None:
    write(tmp_path / "a")
    artifact = open_artifact(tmp_path / "a", PROMPTS)
    assert artifact.rows == 30
    assert artifact.read(["instruction"])["instruction"][7].as_py() == "  ¿7?\n"
    metadata = pq.read_schema(artifact.parts[0]).metadata
    assert metadata[b"icr.schema_version"] == str(PROMPTS.version).encode()


def test_same_rows_give_the_same_bytes(tmp_path: Path) -> None:
    write(tmp_path / "a")
    write(tmp_path / "b")
    for name in ("part-00001.parquet", MANIFEST):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_without_manifest_nothing_is_finished(tmp_path: Path) -> None:
    writer = ArtifactWriter(tmp_path / "a", PROMPTS, "f")
    writer.write_part(0, rows(0, 5))
    with pytest.raises(InputError, match="unfinished"):
        open_artifact(tmp_path / "a", PROMPTS)
    again = ArtifactWriter(tmp_path / "a", PROMPTS, "f")
    assert again.has_part(0)
    assert not again.has_part(1)


def test_another_fingerprint_is_refused_and_nothing_is_lost(tmp_path: Path) -> None:
    write(tmp_path / "a")
    before = (tmp_path / "a" / MANIFEST).read_bytes()
    with pytest.raises(InputError, match="other inputs or settings"):
        ArtifactWriter(tmp_path / "a", PROMPTS, "g")
    assert (tmp_path / "a" / MANIFEST).read_bytes() == before


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda folder: (folder / "part-00001.parquet").write_bytes(b"PAR1"), "truncated"),
        (lambda folder: (folder / "part-00001.parquet").unlink(), "missing"),
        (lambda folder: (folder / MANIFEST).write_text("{"), "not readable as JSON"),
        (
            lambda folder: write_json(folder / MANIFEST, read_json(folder / MANIFEST) | {"schema_version": 9}),
            "schema_version",
        ),
    ],
)
def test_damage_is_named(tmp_path: Path, damage: object, said: str) -> None:
    write(tmp_path / "a")
    damage(tmp_path / "a")  # type: ignore[operator]
    with pytest.raises(InputError, match=said):
        open_artifact(tmp_path / "a", PROMPTS)


def test_another_table_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "a")
    with pytest.raises(InputError, match="'table' is 'prompts'"):
        open_artifact(tmp_path / "a", DROPS)


def test_full_disk_leaves_nothing_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = ArtifactWriter(tmp_path / "a", PROMPTS, "f")
    writer.write_part(0, rows(0, 5))

    def full(table: pa.Table, path: Path, **_: object) -> None:
        Path(path).write_bytes(b"PAR1 half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(pq, "write_table", full)
    with pytest.raises(IcrError, match="no space left"):
        writer.write_part(1, rows(5, 5))
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["part-00000.parquet", "plan.json"]


def test_killed_at_any_point_the_finished_artifact_is_the_same(tmp_path: Path) -> None:
    write(tmp_path / "whole")
    code = "import sys; from pathlib import Path; from tests.unit.test_artifacts import write; write(Path(sys.argv[1]))"
    command = [sys.executable, "-c", code, str(tmp_path / "killed")]
    for pause in (0.3, 0.5, 0.7, 0.9):
        process = subprocess.Popen(command, cwd=ROOT)
        time.sleep(pause)
        process.kill()
        process.wait()
    subprocess.run(command, cwd=ROOT, check=True)
    names = {path.name for path in (tmp_path / "whole").iterdir()}
    assert {name for name in os.listdir(tmp_path / "killed") if not name.endswith(".tmp")} == names
    for name in names:
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "killed" / name).read_bytes()


def test_every_column_is_documented() -> None:
    for table in TABLES.values():
        assert all(field.metadata and field.metadata[b"doc"] for field in table.schema)
