"""The instructions of a row that a program can check, in the layouts that people publish.

- `instruction_id_list` and `kwargs`, a mapping for each instruction (IFEval, Marco-Bench-MIF), also as JSON or Python within texts, in
  which mappings may be texts again (Multi-IF), with nulls for the arguments of other kinds (tables), or as a struct of lists;
- `ground_truth` with `{instruction_id, kwargs}` (open-instruct).
"""

from __future__ import annotations

import ast
import json
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from icr_platform.data.row_fields import KIND_FIELDS, KWARGS_FIELDS, TRUTH_FIELD, BadRow, text_fault
from icr_platform.data.wording import short

_NO_TEXT = ("", "none", "null", "nan")


class Constraint(NamedTuple):
    """One instruction that can be checked.

    kind: such as `punctuation:no_comma`. kwargs: of its checker, without those that are null.
    fault: why the row does not say how to check it; '' where it does.
    """

    kind: str
    kwargs: Mapping[str, Any]
    fault: str = ""


def constraints_in(fields: Mapping[str, Any], before: str = "") -> tuple[Constraint, ...]:
    """The instructions of a row, or of one of its turns; none where it has no column of them.

    before: stands before the names of the columns, such as `turn_1_`.

    Raises:
        BadRow: the column of kinds is not a list of texts.

    >>> constraints_in({"instruction_id_list": ["a:b"], "kwargs": ['{"n": 3.0, "m": null}']})
    (Constraint(kind='a:b', kwargs={'n': 3}, fault=''),)
    """
    given: Mapping[str, Any] = fields
    truth = None if before else parsed(fields.get(TRUTH_FIELD))
    if not any(fields.get(name) is not None for name in KIND_FIELDS) and (found := _of_truth(truth)) is not None:
        given = found
    name = next((f"{before}{name}" for name in KIND_FIELDS if given.get(f"{before}{name}") is not None), "")
    kinds = _kinds(given.get(name), name)
    beside = next((given[f"{before}{name}"] for name in KWARGS_FIELDS if f"{before}{name}" in given), None)
    listed = _listed_kwargs(beside, len(kinds))
    if len(listed) != len(kinds):
        # Nothing says which belong together: to judge by a guess would be to fail an answer for the file's fault.
        fault = f"the row has {len(kinds)} instructions and {len(listed)} kwargs"
        return tuple(Constraint(kind, {}, fault) for kind in kinds)
    return tuple(_constraint(kind, kwargs) for kind, kwargs in zip(kinds, listed, strict=True))


def _of_truth(truth: Any) -> Mapping[str, Any] | None:
    """open-instruct's `ground_truth`, or a list of `{instruction_id, kwargs}`, as columns; None for another kind of truth."""
    rows = [truth] if isinstance(truth, Mapping) else truth
    if not isinstance(rows, list) or not rows or not all(isinstance(row, Mapping) for row in rows):
        return None
    if not all("instruction_id" in row for row in rows):
        return None
    kinds: list[Any] = []
    kwargs: list[Any] = []
    for row in rows:
        said, beside = parsed(row["instruction_id"]), parsed(row.get("kwargs"))
        kinds += said if isinstance(said, list) else [said]
        kwargs += beside if isinstance(beside, list) else [beside]
    return {KIND_FIELDS[0]: kinds, KWARGS_FIELDS[0]: kwargs}


def _kinds(value: Any, name: str) -> list[str]:
    value = parsed(value)
    if value is None:
        return []
    found = [part.strip() for part in value.split(",")] if isinstance(value, str) else value
    if not isinstance(found, list) or not all(isinstance(kind, str) and kind.strip() for kind in found):
        raise BadRow(f'field {name!r} is {short(repr(value))}; give a list such as ["punctuation:no_comma"]')
    if fault := next(filter(None, map(text_fault, found)), ""):
        raise BadRow(f"field {name!r} {fault}")
    return found


def _listed_kwargs(value: Any, count: int) -> list[Any]:
    """The kwargs of each of `count` instructions, not looked into yet."""
    value = parsed(value)
    if value is None:
        return [None] * count
    if isinstance(value, Mapping):
        columns = [item for item in value.values() if isinstance(item, list)]
        if len(columns) == len(value) and value and {len(column) for column in columns} == {count}:
            # `datasets` gives a list of structs as a struct of lists.
            return [{name: column[index] for name, column in value.items()} for index in range(count)]
        return [value]
    return value if isinstance(value, list) else [value]


def _constraint(kind: str, kwargs: Any) -> Constraint:
    """An instruction; null stands for arguments of other kinds where a table has a column for each."""
    try:
        kwargs = parsed(kwargs)
    except BadRow as error:
        return Constraint(kind, {}, f"its kwargs {error}")
    if kwargs is None:
        return Constraint(kind, {})
    if not isinstance(kwargs, Mapping):
        return Constraint(kind, {}, f"its kwargs are {short(repr(kwargs))}, not an object")
    if fault := text_fault(json.dumps(kwargs, ensure_ascii=False, default=str)):
        return Constraint(kind, {}, f"its kwargs: a text {fault}")
    return Constraint(kind, {str(name): _plain(value) for name, value in kwargs.items() if not _is_null(value)})


def _is_null(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def _plain(value: Any) -> Any:
    """Numbers of a column that has gaps are floats: 3.0 is 3."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def parsed(value: Any) -> Any:
    """The value of a column; a text of JSON, or of Python as pandas writes it, is read; None for what says nothing.

    Raises:
        BadRow: a text begins as a list or an object and is neither.
    """
    if _is_null(value) or (isinstance(value, str) and value.strip().lower() in _NO_TEXT):
        return None
    if not isinstance(value, str) or value.strip()[0] not in "[{":
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        try:
            return ast.literal_eval(value.strip())
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            raise BadRow(f"{short(value)!r} begins as JSON and is not; correct it") from None
