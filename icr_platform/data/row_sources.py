"""Files of rows in several languages: folders, single files, paths with {language}.

`data.row_files` reads one file; here it is found, and it is said which language its rows are in. Rows of a source that names no
language are those of `UNNAMED`. `data.sources` opens whatever people name.
"""

from __future__ import annotations

import glob
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

from icr_platform.core.errors import InputError
from icr_platform.core.folder_content import is_content
from icr_platform.core.language_tags import find_name, is_tag, names_language, spelled, tag_named
from icr_platform.core.languages import NAMES
from icr_platform.data.opened_files import check_is_file
from icr_platform.data.row_files import ENDINGS, SourceRow, file_rows, stem_of
from icr_platform.data.wording import shown

UNNAMED = ""
LANGUAGE_FIELDS = ("language", "lang")
SPLITS = ("train", "train_prefs", "test", "test_prefs", "validation", "valid", "val", "dev", "eval")
"""In the order in which one of several is read."""
_BY_NAME = {name.lower(): code for code, name in NAMES.items()}
_SHARD = re.compile(r"[-_.]\d{3,6}[-_]of[-_]\d{3,6}$")


class Wanted(NamedTuple):
    """What a source should contain.

    what: such as "prompts", for messages. fields: of a row, for messages.
    groups: columns that a map may name; the names of a group are read as one thing. layouts: columns that belong together.
    bad_row: is told of lines that are not JSON, which are then left out (`json_rows`); without it they are refused.
    """

    what: str
    fields: str
    groups: tuple[tuple[str, ...], ...] = ()
    layouts: tuple[tuple[str, ...], ...] = ()
    bad_row: Callable[[int, str], None] | None = None


class RowSource(Protocol):
    """Rows by language."""

    @property
    def path(self) -> str: ...

    @property
    def names(self) -> tuple[str, ...]:
        """The files, codes, configurations or splits found, whether or not they name a known language; UNNAMED for rows of none."""
        ...

    @property
    def notes(self) -> tuple[str, ...]:
        """Lines about what was found and is not read."""
        ...

    def where(self, language: str) -> str:
        """The file or part that contains, or should contain, this language."""
        ...

    def rows(self, language: str) -> Iterator[SourceRow]:
        """All rows of one of `names`."""
        ...


def open_files(path: str, wanted: Wanted, languages: Collection[str] = ()) -> RowSource | None:
    """Open a folder of files, a file, or a path with {language}; None where nothing is there.

    Args:
        languages: that will be read; of a folder it need not be clear where others lie. Empty: all.

    Raises:
        InputError: it cannot be told which file is meant.
    """
    local = Path(path)
    if "{language}" in path:
        return _Files.of_template(path, wanted, languages)
    if local.is_dir():
        return _open_folder(local, wanted, languages)
    if local.is_symlink() or local.exists():
        check_is_file(local)
        return _Files(path, {UNNAMED: (local,)}, wanted)
    return None


def language_of(name: str) -> str:
    """The tag that a file, a folder or a column says, by tag or by name; other names stay as they are.

    >>> [language_of(name) for name in ("ES", "Spanish", "zh_Hant", "Maltese", "train")]
    ['es', 'es', 'zh_Hant', 'mt', 'train']
    """
    lower = name.lower()
    if lower in NAMES or lower in _BY_NAME:
        return _BY_NAME.get(lower, lower)
    return spelled(name) if is_tag(name) else tag_named(name) or name


def name_in(source: RowSource, language: str, notes: list[str]) -> str | None:
    """The name under which a source has a language; None where it has it not. A note says where that is another tag.

    Raises:
        InputError: several names mean the language equally.
    """
    try:
        name = find_name(language, [name for name in source.names if name != UNNAMED])
    except InputError as error:
        raise InputError(f"{source.path}: {error}") from None
    if name is not None and name != language:
        notes.append(f"{source.where(name)}: {name!r} is read for {language!r}, the same language")
    return name


@dataclass(frozen=True)
class _Files:
    """Files by the language that names them; several are parts of one."""

    path: str
    files: Mapping[str, Sequence[Path]]
    wanted: Wanted
    notes: tuple[str, ...] = ()
    template: str = ""

    @classmethod
    def of_template(cls, path: str, wanted: Wanted, languages: Collection[str]) -> _Files:
        notes: list[str] = []
        there = _matches(path)
        names = {find_name(code, there) for code in languages} if languages else set(filter(names_language, there))
        places = {name: there[name] for name in sorted(filter(None, names))}
        files = {
            name: _one_of(place, name, wanted, notes) if place.is_dir() else [place] for name, place in places.items()
        }
        return cls(path, files, wanted, tuple(notes), path)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.files)

    def where(self, language: str) -> str:
        if self.files.get(language):
            return str(self.files[language][0])
        return self.template.replace("{language}", language) if self.template else f"{self.path}/{language}.jsonl"

    def rows(self, language: str) -> Iterator[SourceRow]:
        for path in self.files[language]:
            yield from file_rows(path, self.wanted.fields, self.wanted.bad_row)


def _matches(template: str) -> dict[str, Path]:
    """What stands at {language} in the paths that exist, and those paths."""
    pieces = template.split("{language}")
    first, *others = map(re.escape, pieces)
    pattern = re.compile(first + "([^/]+)" + r"\1".join(others))
    found = glob.glob("*".join(map(glob.escape, pieces)), include_hidden=True)
    return {match[1]: Path(path) for path in sorted(found) if (match := pattern.fullmatch(path))}


@dataclass(frozen=True)
class _Labelled:
    """Rows that say their own language."""

    path: str
    by_language: Mapping[str, Sequence[SourceRow]]
    notes: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.by_language)

    def where(self, language: str) -> str:
        return f"{self.path} (language {language!r})"

    def rows(self, language: str) -> Iterator[SourceRow]:
        yield from self.by_language[language]


def by_column(source: RowSource) -> RowSource:
    """Rows by the language that their column says; the source as it is where they have no such column."""
    found: dict[str, list[SourceRow]] = {}
    column = None
    for row in source.rows(UNNAMED):
        column = column or next((name for name in LANGUAGE_FIELDS if name in row.fields), None)
        if column is None:
            return source
        value = row.fields.get(column)
        if not isinstance(value, str) or not value.strip():
            raise InputError(f"{row.where}: field {column!r} is missing; write a language code")
        found.setdefault(language_of(value.strip()), []).append(row)
    return _Labelled(source.path, found, source.notes) if found else source


def _open_folder(folder: Path, wanted: Wanted, languages: Collection[str]) -> RowSource:
    """A folder of LANG.jsonl, of LANG/FILE.jsonl, or as the hub lays a data set out (`data/train-00000-of-00001.parquet`)."""
    files: dict[str, list[Path]] = {}
    notes = []
    for path in _listed(folder):
        stem = stem_of(path.name)
        if stem is None and path.is_dir():
            if _grouped(path):
                files.setdefault(language_of(path.name), []).append(path)
        elif stem is None:
            notes.append(f"{folder}: {path.name!r} is not a file of rows and was left out")
        else:
            files.setdefault(language_of(_SHARD.sub("", stem)), []).append(path)
    if files and set(files) <= {*SPLITS, "data"}:
        where = folder / "data" if set(files) == {"data"} and (folder / "data").is_dir() else folder
        inside = {language_of(name) for name in _grouped(where)}
        if where == folder or not any(map(names_language, inside)):
            parts = _one_of(where, "", wanted, notes)
            return _Files(str(folder), {UNNAMED: parts}, wanted, tuple(notes))
        files = {language_of(name): list(paths) for name, paths in _grouped(where).items()}
    chosen: dict[str, Sequence[Path]] = {}
    read = {find_name(language, files) for language in languages}
    for name, paths in files.items():
        if languages and name not in read:  # whether it can be read is not asked
            chosen[name] = paths
            continue
        places = [
            part for path in paths for part in (_one_of(path, name, wanted, notes) if _is_folder(path) else [path])
        ]
        is_sharded = all(_SHARD.search(stem_of(path.name) or "") for path in places)
        if len(paths) > 1 and not is_sharded:
            raise InputError(f"{paths[1]}: {paths[0].name} contains the same language; keep one of the two")
        chosen[name] = places
    return _Files(str(folder), chosen, wanted, tuple(notes))


def _is_folder(path: Path) -> bool:
    return path.is_dir() and stem_of(path.name) is None


def _listed(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if is_content(path.relative_to(folder)))
    except OSError as error:
        raise InputError(f"{folder}: not readable ({error.strerror}); allow it or copy the folder again") from error


def _grouped(folder: Path) -> dict[str, list[Path]]:
    """Files of rows by the name that their numbered parts share."""
    groups: dict[str, list[Path]] = {}
    for path in _listed(folder):
        if (stem := stem_of(path.name)) is not None:
            groups.setdefault(_SHARD.sub("", stem), []).append(path)
    return groups


def _one_of(folder: Path, language: str, wanted: Wanted, notes: list[str]) -> list[Path]:
    """The files to read of a folder: its only ones, or those of its first split."""
    groups = _grouped(folder)
    splits = [name for name in SPLITS if name in groups]
    if len(groups) != 1 and not splits:
        of = f" in {language!r}" if language else ""
        if not groups:
            raise InputError(f"{folder}: contains no file of {wanted.what}{of}; give {ENDINGS}")
        names = [path.name for paths in groups.values() for path in paths]
        is_by_language = language and folder.name.lower() == language.lower()
        one = f"{folder.parent if is_by_language else folder}/{'{language}/' if is_by_language else ''}{names[0]}"
        raise InputError(f"{folder}: several {wanted.what}{of} ({shown(names)}); choose one, as in {one}")
    chosen = splits[0] if splits else next(iter(groups))
    paths = groups[chosen]
    if len(paths) > 1 and not all(_SHARD.search(stem_of(path.name) or "") for path in paths):
        raise InputError(f"{paths[1]}: {paths[0].name} contains the same rows; keep one of the two")
    if others := sorted(set(groups) - {chosen}):
        notes.append(f"{folder}: {chosen!r} is read; not used: {shown(others)}")
    return paths
