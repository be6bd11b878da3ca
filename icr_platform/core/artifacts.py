"""Artifacts: a folder of Parquet parts whose manifest is written last.

A stage writes `part-00000.parquet ...` under a temporary name, fsyncs and renames; `plan.json` says whose parts they are, so
that a restart makes only the missing ones, and `manifest.json` (counts, digests, fingerprint) makes the folder readable.
Nothing without a manifest is ever read as finished.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from icr_platform.core.errors import IcrError, InputError
from icr_platform.core.file_digests import digests_together, remembered_digest
from icr_platform.core.folder_content import is_content
from icr_platform.core.schemas import TableSchema

MANIFEST = "manifest.json"
PLAN = "plan.json"
ROW_GROUP_SIZE = 4096  # small row groups let a page query skip almost everything


def file_digest(path: Path) -> str:
    """Hex sha256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def text_digest(*parts: str) -> str:
    """Hex sha256 of the parts, each closed by a zero byte so that ("ab", "c") and ("a", "bc") differ."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.encode() + b"\0")
    return digest.hexdigest()


def row_digest(*parts: str | bytes | int) -> bytes:
    """16 bytes that identify what a row was made from, for the column `input_digest`."""
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        data = part if isinstance(part, bytes) else str(part).encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.digest()


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path next to `path`; on success fsync and rename it, else leave nothing.

    Raises:
        IcrError: the disk is full. Whatever was finished before stays.
    """
    # Workers of several hosts may write the same part, and containers count their processes from 1.
    temporary = path.with_name(f".{path.name}.{socket.gethostname()}.{os.getpid()}.tmp")
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
        folder = os.open(path.parent, os.O_RDONLY)  # the new name, too, must survive a loss of power
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise IcrError(f"{path}: no space left on the disk; free some and run the same command again") from error
        raise
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write `value` as JSON, atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object; raises InputError naming the file when it is not one."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (
        OSError,
        ValueError,
        RecursionError,
    ) as error:  # ValueError: not UTF-8, not JSON, a number of thousands of digits
        raise InputError(f"{path}: not readable as JSON ({error}); write the artifact again") from error
    if not isinstance(value, dict):
        raise InputError(f"{path}: not a JSON object; write the artifact again")
    return value


@dataclass(frozen=True)
class Artifact:
    """A finished artifact. `rows` counts all parts; `digest` identifies the content; `version` is that of its schema when it was written."""

    folder: Path
    table: TableSchema
    fingerprint: str
    digest: str
    rows: int
    parts: tuple[Path, ...]
    extra: Mapping[str, Any]
    version: int

    def read(self, columns: Sequence[str] | None = None) -> pa.Table:
        """All rows, in key order, with the declared columns or some of them."""
        parts = [self.read_part(index, columns) for index in range(len(self.parts))]
        names = self.table.schema.names if columns is None else list(columns)
        # An artifact without parts is still a table with the declared columns.
        return pa.concat_tables(parts or [self.table.schema.empty_table().select(names)])

    def read_part(self, index: int, columns: Sequence[str] | None = None) -> pa.Table:
        """Rows of one part; raises InputError naming the part when its Parquet is damaged."""
        return read_parquet(self.parts[index], columns, self.table)


def read_parquet(path: Path, columns: Sequence[str] | None = None, table: TableSchema | None = None) -> pa.Table:
    """Read one Parquet file, all columns or some.

    table: what the file is a part of; nullable columns that an older version of it lacks come filled with null.

    Raises:
        InputError: the file is truncated or damaged, or lacks a column.
    """
    try:
        with pq.ParquetFile(path) as file:  # read_table opens it as a data set, which takes longer than to read a part
            present = file.schema_arrow.names
            wanted = list(columns or (table.schema.names if table else present))
            added = [table.schema.field(name) for name in wanted if table and name not in present]
            rows = file.read(columns=[name for name in wanted if name in present])
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{path}: not readable as Parquet ({reason}); write or copy the file again") from error
    for field in added:
        if not field.nullable:
            raise InputError(f"{path}: column {field.name!r} is missing; write the artifact again")
        rows = rows.append_column(field, pa.nulls(rows.num_rows, field.type))
    return rows.select(wanted)


def completed(rows: pa.Table, table: TableSchema) -> pa.Table:
    """The rows in the columns of `table`, those that are nullable and missing filled with null.

    Raises:
        KeyError: a column that is not nullable is missing.
    """
    for field in table.schema:
        if field.nullable and field.name not in rows.column_names:
            rows = rows.append_column(field, pa.nulls(rows.num_rows, field.type))
    return rows.select(table.schema.names).cast(table.schema)


class ArtifactWriter:
    """Writes one artifact, part by part, resumable. Parts are numbered by the caller, whose plan must not depend on time.

    Raises:
        InputError: the folder contains an artifact, or parts of one, made from other inputs or settings.
    """

    def __init__(self, folder: Path, table: TableSchema, fingerprint: str) -> None:
        self.folder = folder
        self.table = table
        self.fingerprint = fingerprint
        folder.mkdir(parents=True, exist_ok=True)
        plan = folder / PLAN
        if plan.exists():
            if read_json(plan).get("fingerprint") != fingerprint:
                raise InputError(
                    f"{folder}: contains {table.name} made from other inputs or settings; "
                    "choose another --output or delete the folder"
                )
        elif any(folder.glob("*.parquet")) or (folder / MANIFEST).exists():
            raise InputError(f"{folder}: contains files that this stage did not write; choose another --output")
        else:
            write_json(plan, {"fingerprint": fingerprint, "table": table.name, "schema_version": table.version})

    @property
    def complete(self) -> bool:
        """Whether the manifest is there, that is, nothing is left to do."""
        return (self.folder / MANIFEST).exists()

    def part_path(self, index: int) -> Path:
        return self.folder / f"part-{index:05d}.parquet"

    def has_part(self, index: int) -> bool:
        """Whether part `index` is finished. A name without `.tmp` is only ever given to a whole, fsynced file."""
        return self.part_path(index).exists()

    def write_part(self, index: int, table: pa.Table) -> None:
        """Write part `index` atomically, in the declared columns; a missing one that is nullable is filled with null."""
        table = completed(table, self.table)
        with atomic_path(self.part_path(index)) as temporary:
            pq.write_table(table, temporary, row_group_size=ROW_GROUP_SIZE, compression="zstd")

    def read_part(self, index: int) -> pa.Table:
        """A finished part, for stages that need their own earlier results."""
        return read_parquet(self.part_path(index), table=self.table)

    def close(self, parts: int | Sequence[int], extra: Mapping[str, Any] | None = None) -> Artifact:
        """Write the manifest over parts 0 .. parts-1, or those listed, all of which must be finished; open the artifact."""
        paths = [self.part_path(index) for index in (range(parts) if isinstance(parts, int) else parts)]
        entries = [
            {
                "file": path.name,
                "rows": pq.read_metadata(path).num_rows,
                "bytes": path.stat().st_size,
                "sha256": remembered_digest(path),
            }
            for path in paths
        ]
        write_json(
            self.folder / MANIFEST,
            {
                "table": self.table.name,
                "schema_version": self.table.version,
                "fingerprint": self.fingerprint,
                "rows": sum(entry["rows"] for entry in entries),
                "digest": text_digest(self.table.name, str(self.table.version), *(e["sha256"] for e in entries)),
                "parts": entries,
                "extra": dict(extra or {}),
            },
        )
        return open_artifact(self.folder, self.table)


def own_manifest(folder: Path) -> dict[str, Any] | None:
    """The manifest of a folder that this platform finished; None where there is none, or another tool's of that name.

    Raises:
        InputError: it is damaged, and the parts next to it show that it was ours.
    """
    path = folder / MANIFEST
    if not path.is_file():
        return None
    try:
        manifest = read_json(path)
    except InputError:  # other tools call their files manifest.json too, and need not write JSON
        if (folder / PLAN).exists() or any(folder.glob("part-*.parquet")):
            raise
        return None
    is_ours = isinstance(manifest.get("table"), str) and isinstance(manifest.get("digest"), str)
    return manifest if is_ours and isinstance(manifest.get("parts", manifest.get("files")), list) else None


def file_fault(path: Path, entry: Mapping[str, Any]) -> str:
    """What is wrong with a file that a manifest lists as `entry`, in a few words; '' when it is the one that was written."""
    size = path.stat().st_size if path.is_file() else -1
    if size != entry["bytes"]:
        return "missing" if size < 0 else f"{size} bytes instead of {entry['bytes']}"
    try:
        digest = remembered_digest(path)
    except InputError as error:
        return str(error).removeprefix(f"{path}: ").partition(";")[0]
    return "" if digest == entry["sha256"] else "other bytes than were written"


def damaged_files(folder: Path) -> list[tuple[Path, str]]:
    """Files of a finished artifact that are not those that were written, each with what is wrong; none without a manifest.

    Texts for people, such as a model card, may be edited.

    Raises:
        InputError: the manifest is damaged.
    """
    manifest = own_manifest(folder) or {}
    entries = [*manifest.get("parts", ()), *manifest.get("files", ())]
    checked = [(folder / entry["file"], entry) for entry in entries if is_content(Path(entry["file"]))]
    with digests_together(folder):
        return [(path, fault) for path, entry in checked if (fault := file_fault(path, entry))]


def open_artifact(folder: Path, table: TableSchema, faults: list[str] | None = None) -> Artifact:
    """Open a finished artifact, whose parts are read once to see that they are those that were written.

    faults: where given, parts that are missing or damaged are left out, and what is wrong with each is put here.

    Raises:
        InputError: no folder, no manifest (unfinished), another table, a later schema version, or a part that is missing,
            unreadable or not what the manifest says.
    """
    manifest_path = folder / MANIFEST
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; expected a finished {table.name} artifact")
    if not manifest_path.exists():
        raise InputError(f"{manifest_path}: missing, so {table.name} is unfinished; run the stage that writes it again")
    manifest = read_json(manifest_path)
    expected = ("table", "schema_version", "fingerprint", "digest", "rows", "parts")
    if missing := [key for key in expected if key not in manifest]:
        raise InputError(f"{manifest_path}: field {missing[0]!r} is missing; write the artifact again")
    name, version = manifest["table"], manifest["schema_version"]
    if name != table.name:
        raise InputError(f"{manifest_path}: field 'table' is {name!r}, expected {table.name!r}; give the right folder")
    # A later version may mean something else by the same columns; an earlier one only lacks some, which are read as null.
    if not 1 <= version <= table.version:
        raise InputError(
            f"{manifest_path}: field 'schema_version' is {version}, this version reads {table.version} and older; run the stage "
            "again or use the icr_platform that wrote it"
        )
    # Every byte is compared here, once, instead of damage showing up after hours of work; digests are remembered.
    parts = []
    with digests_together(folder):
        for entry in manifest["parts"]:
            path = folder / entry["file"]
            if not (fault := file_fault(path, entry)):
                parts.append(path)
                continue
            said = f"{path}: {fault}; the file is truncated or damaged, copy it or run the stage again"
            if faults is None:
                raise InputError(said)
            faults.append(said)
    return Artifact(
        folder=folder,
        table=table,
        fingerprint=manifest["fingerprint"],
        digest=manifest["digest"],
        rows=manifest["rows"],
        parts=tuple(parts),
        extra=manifest.get("extra", {}),
        version=version,
    )
