"""Where prompts are read from: folders of JSON files, Parquet, artifacts, the hub. `data.prompts` says what the rows mean."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import pyarrow as pa
import pyarrow.compute as pc

from icr_platform.core.artifacts import open_artifact, own_manifest, read_parquet
from icr_platform.core.errors import InputError
from icr_platform.core.schemas import PROMPTS
from icr_platform.data.json_rows import json_rows

ID_FIELDS = ("prompt_id", "id", "instruction_id")
_SPLITS = ("train", "test", "validation")


class SourceRow(NamedTuple):
    """A row as it was read.

    where: its file and its number from 1, for messages.
    """

    where: str
    fields: Mapping[str, Any]


class PromptSource(Protocol):
    """Rows by language."""

    @property
    def path(self) -> str: ...

    @property
    def names(self) -> tuple[str, ...]:
        """The files, codes, configurations or splits found, whether or not they name a known language."""
        ...

    def where(self, language: str) -> str:
        """The file or part that contains, or should contain, this language."""
        ...

    def rows(self, language: str) -> Iterator[SourceRow]:
        """All rows of one of `names`."""
        ...


def open_source(path: str) -> PromptSource:
    """Open the prompts at `path`, in any layout that `data.prompts` lists; raises InputError when nothing is there."""
    if not path:
        raise InputError(
            "config: field 'prompts' is missing; give a folder of LANG.json(l), a Parquet file or a data set"
        )
    local = Path(path)
    if local.is_dir():
        return _Table.of_artifact(local) if own_manifest(local) is not None else _JsonFolder.open(local)
    if local.is_file():
        return _Table.of_parquet(local)
    # A hub data set is called OWNER/NAME, which a relative path may be too: one with the ending of a file was meant as one.
    is_hub_name = (
        path.count("/") == 1 and not path.startswith((".", "/", "~")) and not local.suffix.startswith((".j", ".p"))
    )
    if not is_hub_name:
        raise InputError(f"{path}: no such file or folder; give a folder of LANG.json(l), a Parquet file or a data set")
    return _HubDataset.open(path)


@dataclass(frozen=True)
class _JsonFolder:
    path: str
    files: Mapping[str, Path]

    @classmethod
    def open(cls, folder: Path) -> _JsonFolder:
        files: dict[str, Path] = {}
        for path in sorted((*folder.glob("*.json"), *folder.glob("*.jsonl"))):
            if path.stem in files:
                raise InputError(f"{path}: {files[path.stem].name} contains the same language; keep one of the two")
            files[path.stem] = path
        return cls(str(folder), files)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.files)

    def where(self, language: str) -> str:
        return str(self.files.get(language, Path(self.path) / f"{language}.jsonl"))

    def rows(self, language: str) -> Iterator[SourceRow]:
        path = self.files[language]
        for number, row in json_rows(path, "'id' and 'instruction'"):
            yield SourceRow(f"{path}: row {number}", row)


@dataclass(frozen=True)
class _Table:
    """Rows of one table with a `language` column."""

    path: str
    table: pa.Table

    @classmethod
    def of_artifact(cls, folder: Path) -> _Table:
        table = open_artifact(folder, PROMPTS).read()
        if "en" in pc.unique(table["language"]).to_pylist():
            return cls(str(folder), table)
        # A run without English wrote the English instruction of every id into its other languages' rows.
        english = {row["prompt_id"]: row["english_instruction"] for row in table.to_pylist()}
        rows = [
            {"language": "en", "prompt_id": key, "instruction": text, "english_instruction": text, "source": ""}
            for key, text in english.items()
        ]
        added = pa.Table.from_pylist(rows, schema=PROMPTS.schema)
        return cls(str(folder), pa.concat_tables([table, added]))

    @classmethod
    def of_parquet(cls, path: Path) -> _Table:
        if path.suffix in (".json", ".jsonl"):
            raise InputError(f"{path}: is one file; give its folder, with one file per language")
        table = read_parquet(path)
        columns = table.schema.names
        for wanted in (("language",), ("instruction",), ID_FIELDS):
            if not set(wanted) & set(columns):
                raise InputError(f"{path}: column {wanted[0]!r} is missing, found {', '.join(columns)}; add it")
        languages = table["language"]
        if languages.null_count:
            row = pc.indices_nonzero(pc.is_null(languages))[0].as_py() + 1
            raise InputError(f"{path}: row {row}: field 'language' is missing; write a language code")
        # pandas writes a categorical column as a dictionary, which cannot be compared with text.
        return cls(str(path), table.set_column(columns.index("language"), "language", languages.cast(pa.string())))

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(pc.unique(self.table["language"]).to_pylist())

    def where(self, language: str) -> str:
        return f"{self.path} (language {language!r})"

    def rows(self, language: str) -> Iterator[SourceRow]:
        numbers = pc.indices_nonzero(pc.equal(self.table["language"], language))
        for number, row in zip(numbers.to_pylist(), self.table.take(numbers).to_pylist(), strict=True):
            yield SourceRow(f"{self.path}: row {number + 1}", row)


@dataclass(frozen=True)
class _HubDataset:
    path: str
    names: tuple[str, ...]
    by_configuration: bool

    @classmethod
    def open(cls, name: str) -> _HubDataset:
        from datasets import get_dataset_config_names, get_dataset_split_names

        with _hub_errors(name):
            configurations = tuple(get_dataset_config_names(name))
            by_configuration = "en" in configurations
            names = configurations if by_configuration else tuple(get_dataset_split_names(name))
        return cls(name, names, by_configuration)

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
    """Turn what the hub's client raises into an InputError."""
    from datasets.exceptions import DatasetsError

    try:
        yield
    except (OSError, ValueError, DatasetsError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        raise InputError(
            f"{name}: neither a file or folder nor a readable hub data set ({reason}); check the name"
        ) from error
