"""The checkpoint artifact: a plain model folder (`from_pretrained` reads it) with a manifest that was written last."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from icr_platform.artifacts import MANIFEST, file_digest, read_json, text_digest, write_json
from icr_platform.errors import InputError

_TABLE = "checkpoint"
_WEIGHTS = (".safetensors", ".bin")


@dataclass(frozen=True)
class Checkpoint:
    """A finished checkpoint. `digest` identifies its files; `extra` holds metrics and notes of the training."""

    folder: Path
    fingerprint: str
    digest: str
    files: tuple[Path, ...]
    extra: Mapping[str, Any]


def close_checkpoint(folder: Path, fingerprint: str, extra: Mapping[str, Any]) -> None:
    """Write the manifest over every file in `folder`. What varies from run to run (seconds) belongs in `extra` only."""
    entries: list[dict[str, Any]] = []
    for path in sorted(folder.iterdir()):
        if path.name != MANIFEST:
            with path.open("rb") as file:
                os.fsync(file.fileno())
            entries.append({"file": path.name, "bytes": path.stat().st_size, "sha256": file_digest(path)})
    write_json(
        folder / MANIFEST,
        {
            "table": _TABLE,
            "fingerprint": fingerprint,
            "digest": text_digest(_TABLE, *(part for entry in entries for part in (entry["file"], entry["sha256"]))),
            "files": entries,
            "extra": dict(extra),
        },
    )


def remove_weights(folder: Path) -> list[str]:
    """Delete a finished checkpoint's weights; its manifest keeps their digests, so that it is still known which it was.

    Returns: the names of the files that are gone, also from an earlier call.
    """
    manifest = read_json(folder / MANIFEST)
    is_weights = [Path(entry["file"]).suffix in _WEIGHTS for entry in manifest["files"]]
    gone = [entry for entry, drop in zip(manifest["files"], is_weights, strict=True) if drop]
    if gone:
        manifest["files"] = [entry for entry in manifest["files"] if entry not in gone]
        manifest["removed"] = manifest.get("removed", []) + gone
        write_json(folder / MANIFEST, manifest)
    names = [str(entry["file"]) for entry in manifest.get("removed", [])]
    for name in names:
        (folder / name).unlink(missing_ok=True)
    return names


def open_checkpoint(folder: Path) -> Checkpoint:
    """Open a finished checkpoint; one whose weights were removed is finished, too.

    Raises:
        InputError: no folder, no manifest (unfinished), another artifact, or a file that is missing or of another size.
    """
    path = folder / MANIFEST
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; expected a finished checkpoint")
    if not path.exists():
        raise InputError(f"{path}: missing, so the checkpoint is unfinished; run train again")
    manifest = read_json(path)
    if manifest.get("table") != _TABLE:
        raise InputError(
            f"{path}: field 'table' is {manifest.get('table')!r}, expected {_TABLE!r}; give the right folder"
        )
    files = tuple(folder / entry["file"] for entry in manifest["files"])
    for file, entry in zip(files, manifest["files"], strict=True):
        size = file.stat().st_size if file.exists() else -1
        if size != entry["bytes"]:
            seen = "missing" if size < 0 else f"{size} bytes instead of {entry['bytes']}"
            raise InputError(f"{file}: {seen}; the file is truncated or damaged, copy it or run train again")
    return Checkpoint(folder, manifest["fingerprint"], manifest["digest"], files, manifest["extra"])
