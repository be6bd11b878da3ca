"""Where prompts are read from: folders of JSON, Parquet, artifacts, the hub. What the rows mean is `prompts`' business."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import pyarrow as pa
import pyarrow.compute as pc

from icr_platform.core.artifacts import open_artifact, own_manifest, read_parquet
from icr_platform.core.errors import InputError
from icr_platform.core.schemas import PROMPTS

ID_FIELDS = ("prompt_id", "id", "instruction_id")
_SPLITS = ("train", "test", "validation")


class SourceRow(NamedTuple):
    """A row as it was read; `where` names its file and number (from 1) for messages."""

    where: str
    row: Any


class PromptSource(Protocol):
    """Rows by language. `names` are the files, codes, configurations or splits found, known languages or not."""

    @property
    def path(self) -> str: ...

    @property
    def names(self) -> tuple[str, ...]: ...

    def where(self, language: str) -> str:
        """The file or part that holds, or should hold, this language."""
        ...

    def rows(self, language: str) -> Iterator[SourceRow]:
        """All rows of one of `names`."""
        ...


def open_source(path: str) -> PromptSource:
    """The source at `path`, in one of the layouts that `prompts` lists; raises InputError when there is none."""
    if not path:
        raise InputError(
            "config: field 'prompts' is missing; give a folder of LANG.json(l), a Parquet file or a data set"
        )
    local = Path(path)
    if local.is_dir():
        return _open_artifact(local) if own_manifest(local) is not None else _open_folder(local)
    if local.is_file():
        return _open_parquet(local)
    is_hub_name = (
        path.count("/") == 1 and not path.startswith((".", "/", "~")) and not local.suffix.startswith((".j", ".p"))
    )
    if not is_hub_name:
        raise InputError(f"{path}: no such file or folder; give a folder of LANG.json(l), a Parquet file or a data set")
    return _open_hub(path)


@dataclass(frozen=True)
class _JsonFolder:
    path: str
    files: Mapping[str, Path]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.files)

    def where(self, language: str) -> str:
        return str(self.files.get(language, Path(self.path) / f"{language}.jsonl"))

    def rows(self, language: str) -> Iterator[SourceRow]:
        path = self.files[language]
        return _json_array(path) if path.suffix == ".json" else _json_lines(path)


def _open_folder(folder: Path) -> _JsonFolder:
    files: dict[str, Path] = {}
    for path in sorted((*folder.glob("*.json"), *folder.glob("*.jsonl"))):
        if path.stem in files:
            raise InputError(f"{path}: {files[path.stem].name} holds the same language; keep one of the two")
        files[path.stem] = path
    return _JsonFolder(str(folder), files)


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise InputError(f"{path}: line {line} is no UTF-8 ({error.reason}); save the file as UTF-8") from error


def _json_array(path: Path) -> Iterator[SourceRow]:
    try:
        rows = json.loads(_text(path))
    except json.JSONDecodeError as error:
        raise InputError(f"{path}: line {error.lineno} is no valid JSON ({error.msg}); mend it") from error
    if not isinstance(rows, list):
        raise InputError(f"{path}: holds no JSON array; write one object with 'id' and 'instruction' per prompt")
    for number, row in enumerate(rows, 1):
        yield SourceRow(f"{path}: row {number}", row)


def _json_lines(path: Path) -> Iterator[SourceRow]:
    # Only \n ends a line: str.splitlines would also split on U+2028, which JSON allows within text.
    for number, line in enumerate(_text(path).split("\n"), 1):
        if not line.strip():
            continue
        try:
            yield SourceRow(f"{path}: row {number}", json.loads(line))
        except json.JSONDecodeError as error:
            raise InputError(f"{path}: row {number} is no valid JSON ({error.msg}); mend the line") from error


@dataclass(frozen=True)
class _Table:
    """Rows of one table with a `language` column."""

    path: str
    table: pa.Table

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(pc.unique(self.table["language"]).to_pylist())

    def where(self, language: str) -> str:
        return f"{self.path} (language {language!r})"

    def rows(self, language: str) -> Iterator[SourceRow]:
        numbers = pc.indices_nonzero(pc.equal(self.table["language"], language))
        for number, row in zip(numbers.to_pylist(), self.table.take(numbers).to_pylist(), strict=True):
            yield SourceRow(f"{self.path}: row {number + 1}", row)


def _open_artifact(folder: Path) -> _Table:
    table = open_artifact(folder, PROMPTS).read()
    if "en" in pc.unique(table["language"]).to_pylist():
        return _Table(str(folder), table)
    # Prompts of a run without English still carry the English instruction of every id.
    english = {row["prompt_id"]: row["english_instruction"] for row in table.to_pylist()}
    rows = [
        {"language": "en", "prompt_id": key, "instruction": text, "english_instruction": text, "source": ""}
        for key, text in english.items()
    ]
    added = pa.Table.from_pylist(rows, schema=PROMPTS.schema)
    return _Table(str(folder), pa.concat_tables([table, added]))


def _open_parquet(path: Path) -> _Table:
    if path.suffix in (".json", ".jsonl"):
        raise InputError(f"{path}: is one file; give its folder, which holds one file per language")
    table = read_parquet(path)
    columns = table.schema.names
    for wanted in (("language",), ("instruction",), ID_FIELDS):
        if not set(wanted) & set(columns):
            raise InputError(f"{path}: column {wanted[0]!r} is missing, found {', '.join(columns)}; add it")
    languages = table["language"]
    if languages.null_count:
        row = pc.indices_nonzero(pc.is_null(languages))[0].as_py() + 1
        raise InputError(f"{path}: row {row}: field 'language' is missing; write a language code")
    index = columns.index("language")
    return _Table(str(path), table.set_column(index, "language", languages.cast(pa.string())))


@dataclass(frozen=True)
class _Hub:
    path: str
    names: tuple[str, ...]
    by_configuration: bool

    def where(self, language: str) -> str:
        return f"{self.path} on the hub, {'configuration' if self.by_configuration else 'split'} {language!r}"

    def rows(self, language: str) -> Iterator[SourceRow]:
        from datasets import load_dataset

        with _hub_errors(self.path):
            loaded = load_dataset(self.path, language) if self.by_configuration else load_dataset(self.path)
        splits = [*(name for name in _SPLITS if name in loaded), *loaded]
        for number, row in enumerate(loaded[splits[0] if self.by_configuration else language], 1):
            yield SourceRow(f"{self.where(language)}: row {number}", row)


@contextlib.contextmanager
def _hub_errors(name: str) -> Iterator[None]:
    """Turn what the hub's client raises into InputError."""
    from datasets.exceptions import DatasetsError

    try:
        yield
    except (OSError, ValueError, DatasetsError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        raise InputError(
            f"{name}: neither a file or folder nor a readable hub data set ({reason}); check it"
        ) from error


def _open_hub(name: str) -> _Hub:
    from datasets import get_dataset_config_names, get_dataset_split_names

    with _hub_errors(name):
        configurations = tuple(get_dataset_config_names(name))
        by_configuration = "en" in configurations
        names = configurations if by_configuration else tuple(get_dataset_split_names(name))
    return _Hub(name, names, by_configuration)
