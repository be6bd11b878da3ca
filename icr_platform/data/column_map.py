"""Rows whose columns have names of their own, read by a map: `{instruction: prompt, id: meta.question_id}`.

A column is named as it is, or by a dotted path into it (`meta.lang`, `prompt.0.content`, `messages.-1.content`). What the map names
is read from there alone: columns that would say the same by their own names are not used. `{input: null}` leaves one out.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from icr_platform.core.errors import InputError
from icr_platform.data.row_files import SourceRow
from icr_platform.data.row_sources import RowSource, Wanted
from icr_platform.data.wording import nearest, shown

ColumnNames = Mapping[str, str | None]
NO_MAP: ColumnNames = {}
_LOOKED_AT = 100  # rows, in which a column must be seen once; files of JSON lines leave empty ones out
_ABSENT: Any = object()


@dataclass(frozen=True)
class MappedRows:
    """A source whose rows have the columns of a map under the names that readers know.

    replaced: columns that are not read -> what is said in their place, for notes.
    """

    source: RowSource
    columns: ColumnNames
    replaced: Mapping[str, str]

    @property
    def path(self) -> str:
        return self.source.path

    @property
    def names(self) -> tuple[str, ...]:
        return self.source.names

    @property
    def notes(self) -> tuple[str, ...]:
        return self.source.notes

    def where(self, language: str) -> str:
        return self.source.where(language)

    def rows(self, language: str) -> Iterator[SourceRow]:
        rows = self.source.rows(language)
        first = list(itertools.islice(rows, _LOOKED_AT))
        if first:
            self._check(self.where(language), [row.fields for row in first])
        for row in itertools.chain(first, rows):
            yield row._replace(fields=self._read(row.fields))

    def _check(self, part: str, rows: Sequence[Mapping[str, Any]]) -> None:
        for name, column in self.columns.items():
            if column is None or any(value_at(fields, column) is not _ABSENT for fields in rows):
                continue
            seen, missing, inside = _reached(rows, column)
            near = nearest(missing, seen)
            fix = f"give {inside + near!r}" if near else "correct it"
            raise InputError(
                f"{part}: the column map reads {name!r} from {column!r}, which is not there; found: "
                f"{inside}{shown(seen)}; {fix}"
            )

    def _read(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        values = {
            name: None if column is None or (found := value_at(fields, column)) is _ABSENT else found
            for name, column in self.columns.items()
        }
        read = {column if column in fields else column.split(".")[0] for column in self.columns.values() if column}
        for name, value in fields.items():
            if name in self.replaced and name not in read:
                values[f"{name} ({self.replaced[name]})"] = value
            elif name not in values and name not in read:
                values[name] = value
        return values


def mapped(source: RowSource, columns: ColumnNames, wanted: Wanted) -> RowSource:
    """A source read by a map of its columns.

    Raises:
        InputError: the map names something that no reader of this kind of rows looks for, or two that exclude each other.
    """
    if not columns:
        return source
    known = list(dict.fromkeys(name for names in (*wanted.groups, *wanted.layouts) for name in names))
    for name in columns:
        if name not in known:
            near = nearest(name, known)
            first = [names[0] for names in (*wanted.groups, *wanted.layouts[:2])]
            fix = f"nearest is {near!r}" if near else f"known: {', '.join(first)}"
            raise InputError(f"{source.path}: the column map names {name!r}, which {wanted.what} do not have; {fix}")
    replaced: dict[str, str] = {}
    groups = [*wanted.groups, *_excluded_layouts(source.path, columns, wanted)]
    for names in groups:
        chosen = [name for name in names if name in columns]
        if len(chosen) > 1 and names in wanted.groups:
            raise InputError(
                f"{source.path}: the column map names {chosen[0]!r} and {chosen[1]!r}, which are the same; give one"
            )
        for name in names:
            if chosen or names not in wanted.groups:
                by = next((f"the column map reads {said!r} from {columns[said]!r}" for said in chosen), "")
                replaced[name] = by or "the column map names other columns"
    return MappedRows(source, columns, replaced)


def _excluded_layouts(path: str, columns: ColumnNames, wanted: Wanted) -> list[tuple[str, ...]]:
    """What the map leaves no place for: the columns of layouts other than the one that it names columns of."""
    of_layouts = {name for names in wanted.layouts for name in names}
    named = [name for name in columns if name in of_layouts]
    if not named:
        return []
    fitting = [names for names in wanted.layouts if set(named) <= set(names)]
    if not fitting:
        raise InputError(
            f"{path}: the column map names {' and '.join(map(repr, named))}, which are not of one layout; give one of: "
            f"{'; '.join(', '.join(names) for names in wanted.layouts if set(names) & set(named))}"
        )
    kept = {name for names in fitting for name in names if name not in columns}
    return [tuple(sorted(of_layouts - kept))]


def value_at(fields: Mapping[str, Any], path: str) -> Any:
    """What a row says in a column or at a dotted path into it; a text of JSON is looked into.

    >>> row = {"prompt": [{"role": "user", "content": "Hi"}], "meta": '{"lang": "es"}', "a.b": 1}
    >>> value_at(row, "prompt.0.content"), value_at(row, "prompt.-1.role"), value_at(row, "meta.lang"), value_at(row, "a.b")
    ('Hi', 'user', 'es', 1)
    """
    if path in fields:
        return fields[path]
    value: Any = fields
    for step in path.split("."):
        if isinstance(value, str):
            value = _json_of(value)
        if isinstance(value, Mapping):
            value = value.get(step, _ABSENT)
        elif isinstance(value, list) and step.removeprefix("-").isdecimal():
            value = value[int(step)] if -len(value) <= int(step) < len(value) else _ABSENT
        else:
            return _ABSENT
    return value


def _json_of(text: str) -> Any:
    try:
        return json.loads(text) if text.lstrip()[:1] in ("[", "{") else None
    except (ValueError, RecursionError):
        return None


def _reached(rows: Sequence[Mapping[str, Any]], path: str) -> tuple[list[str], str, str]:
    """How far a path leads: what is found there, the step that is missing, and the path up to it."""
    steps = path.split(".")
    for length in range(len(steps) - 1, 0, -1):
        inside = ".".join(steps[:length])
        places = [value_at(fields, inside) for fields in rows]
        names = _names_in(places)
        if names:
            return names, steps[length], f"{inside}."
    return _names_in(rows), steps[0] if len(steps) > 1 else path, ""


def _names_in(places: Collection[Any]) -> list[str]:
    names: dict[str, None] = {}
    for place in places:
        inside = _json_of(place) if isinstance(place, str) else place
        found = inside if isinstance(inside, Mapping) else range(len(inside)) if isinstance(inside, list) else ()
        names |= dict.fromkeys(map(str, found))
    return list(names)


def refuse_map(artifact: str, columns: ColumnNames) -> None:
    """Raise InputError for a map of the columns of an artifact, which are known."""
    if columns:
        raise InputError(
            f"{artifact}: an artifact of an earlier run, whose columns have their names; leave the column map out"
        )
