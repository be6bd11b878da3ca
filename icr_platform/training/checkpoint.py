"""The checkpoint artifact: a plain model folder (`from_pretrained` reads it) with a manifest that was written last."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from icr_platform.core.artifacts import MANIFEST, file_fault, read_json, text_digest, write_json
from icr_platform.core.errors import InputError
from icr_platform.core.file_digests import remembered_digest
from icr_platform.core.folder_content import is_content

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
    """Write the manifest of every file in `folder`. What varies from run to run, such as seconds, belongs in `extra` only."""
    entries: list[dict[str, Any]] = []
    for path in sorted(folder.rglob("*")):  # a tokenizer with several chat templates has a folder of them
        if path.is_file() and path != folder / MANIFEST:
            with path.open("rb") as file:
                os.fsync(file.fileno())
            name = path.relative_to(folder).as_posix()
            entries.append({"file": name, "bytes": path.stat().st_size, "sha256": remembered_digest(path)})
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
    """Delete a finished checkpoint's weights; its manifest keeps their digests, so that it stays known which ones they were.

    Returns: the names of the files that are gone, those of earlier calls included.
    """
    manifest = read_json(folder / MANIFEST)
    is_weights = [Path(entry["file"]).suffix in _WEIGHTS for entry in manifest["files"]]
    gone = [entry for entry, drop in zip(manifest["files"], is_weights, strict=True) if drop]
    if gone:
        manifest["files"] = [entry for entry in manifest["files"] if entry not in gone]
        manifest["removed"] = manifest.get("removed", []) + gone
        write_json(
            folder / MANIFEST, manifest
        )  # before the files go: a kill in between leaves files that are known to be gone
    names = [str(entry["file"]) for entry in manifest.get("removed", [])]
    for name in names:
        (folder / name).unlink(missing_ok=True)
    return names


def open_checkpoint(folder: Path) -> Checkpoint:
    """Open a finished checkpoint, after reading its files once to see that they are those that were written.

    A checkpoint whose weights were removed is finished, too.

    Raises:
        InputError: no folder, no manifest (unfinished), another artifact, or a file that is missing, unreadable or not what
            the manifest says; the model card and other texts for people may be edited.
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
        fault = file_fault(file, entry) if is_content(Path(entry["file"])) else ""
        if fault:
            raise InputError(f"{file}: {fault}; the file is truncated or damaged, copy it or run train again")
    return Checkpoint(folder, manifest["fingerprint"], manifest["digest"], files, manifest["extra"])
