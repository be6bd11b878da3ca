"""Files of outputs that the inspector was started with: read once, and kept as an artifact that the engine reads like any other.

An address can name no other file, so that whoever opens the inspector in a browser reads what its owner offers and nothing else.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from icr_platform.core.artifacts import ROW_GROUP_SIZE, Artifact, text_digest
from icr_platform.core.errors import InputError
from icr_platform.core.schemas import OUTPUTS
from icr_platform.data.reference_outputs import read_outputs
from icr_platform.tracking.fetched import FetchedCopies

_KEPT = 16


class ReadFile(NamedTuple):
    """A file's outputs. names_prompts: whether it says by id and language which prompt each row answers."""

    outputs: Artifact
    names_prompts: bool
    notes: tuple[str, ...]


class OutputFiles:
    """The files. paths: as they were given; folder: of this user, where they are kept in the engine's format."""

    def __init__(self, paths: Sequence[str], folder: Path) -> None:
        self.paths, self._folder = tuple(paths), folder
        self._known: dict[tuple[str, str, str], ReadFile] = {}
        self._copies: FetchedCopies | None = None
        self._lock = threading.Lock()

    def read(self, path: str, other: Artifact | None = None) -> ReadFile:
        """The outputs of a file, in the columns of `schemas.OUTPUTS`.

        Args:
            other: outputs of the side that it is compared with. Where the file names no prompt ids or no language, its rows get those of
                the prompts there that ask the same.

        Raises:
            InputError: it is not one of the files offered, is gone, or is not a file of outputs; the message names file, row and field.
        """
        if path not in self.paths:
            raise InputError(
                f"{path!r} is none of the files that the inspector was started with; name it: icr inspect --outputs PATH"
            )
        # One after the other: two who open the same page read the file once.
        with self._lock:
            key = (path, _state(path), other.digest if other else "")
            if key not in self._known:
                if len(self._known) >= _KEPT:
                    self._known.clear()
                self._known[key] = self._kept(key, other)
            return self._known[key]

    def _kept(self, key: tuple[str, str, str], other: Artifact | None) -> ReadFile:
        found = read_outputs(key[0])
        names = set(found.table["language"].to_pylist())
        if other is not None and not (found.has_ids and all(names)):
            found = found._replace(table=_asked_alike(found.table, other))
        digest = text_digest(str(Path(key[0]).absolute()), *key)
        # By key, so that a prompt is found in few row groups.
        rows = found.table.sort_by([(name, "ascending") for name in ("language", "prompt_id", "sample_index")])
        if self._copies is None:
            self._copies = FetchedCopies(self._folder)
        part = self._copies.get(
            f"{digest}.parquet", lambda place: pq.write_table(rows, place, row_group_size=ROW_GROUP_SIZE)
        )
        artifact = Artifact(self._folder, OUTPUTS, "", digest, rows.num_rows, (part,), {}, OUTPUTS.version)
        return ReadFile(artifact, found.has_ids and all(names), found.notes)

    def close(self) -> None:
        """Remove what was kept."""
        if self._copies is not None:
            self._copies.close()


NO_FILES = OutputFiles((), Path())


def _asked_alike(table: pa.Table, other: Artifact) -> pa.Table:
    """The rows with language and prompt id of what asks the same in `other`, wherever that is."""
    asked = other.read(["language", "prompt_id", "instruction"]).to_pylist()
    by_text = {_words(row["instruction"]): (row["language"], row["prompt_id"]) for row in asked if row["instruction"]}
    languages = {row["language"] for row in asked}
    rows = table.to_pylist()
    for row in rows:
        language = row["language"] or (next(iter(languages)) if len(languages) == 1 else "")
        row["language"], row["prompt_id"] = by_text.get(_words(row["instruction"]), (language, row["prompt_id"]))
    return pa.Table.from_pylist(rows, table.schema)


def _words(text: str) -> str:
    """A text with single spaces: files differ in white space."""
    return " ".join(text.split())


def _state(path: str) -> str:
    """What changes when a file, or one of a folder's, does."""
    place = Path(path)
    pattern = path.replace("{language}", "*") if "{language}" in path else ""
    files = sorted(Path(place.anchor).glob(pattern.removeprefix(place.anchor))) if pattern else [place]
    files = [file for one in files for file in ([one, *sorted(one.rglob("*"))] if one.is_dir() else [one])]
    try:
        found = [(str(file), file.stat().st_mtime_ns, file.stat().st_size) for file in files]
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or 'cannot be read'}; was it moved or deleted?") from None
    return str(found)
