"""Settings that are mappings: of a preset, or the JSON object that a flag gives."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator

_SHA256 = re.compile(r"[0-9a-f]{64}")
_COLUMNS = '{"instruction": "prompt", "id": "meta.question_id"}'
_PINS = '{"outputs/en.json": "<its SHA-256>"}'


def read_mapping(value: object, example: str) -> dict[str, Any]:
    """A mapping, or a JSON object as text; {} for nothing. Raises ValueError for anything else.

    >>> read_mapping('{"a": 1}', "{}"), read_mapping("none", "{}")
    ({'a': 1}, {})
    """
    if value is None or (isinstance(value, str) and value.strip().lower() in ("", "none", "null")):
        return {}
    if isinstance(value, str):
        try:
            value = json.loads(value, object_pairs_hook=_object)
        except json.JSONDecodeError as error:
            raise ValueError(f"not JSON ({error}); write an object such as {example}") from None
        except RecursionError:
            raise ValueError("nested too deeply") from None
    if not isinstance(value, Mapping):
        raise ValueError(f"not a mapping; write an object such as {example}")
    return dict(value)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = [name for name, _ in pairs]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"{twice[0]!r} is given twice")
    return dict(pairs)


def _column_map(value: object) -> object:
    found = read_mapping(value, _COLUMNS)
    for name, column in found.items():
        if not isinstance(name, str) or not name.strip():
            raise ValueError(f"{name!r} is not the name of a column; write an object such as {_COLUMNS}")
        if isinstance(column, bool) or not isinstance(column, str | int | None) or column == "":
            raise ValueError(f"{name!r} is read from {column!r}, which names no column; write one such as {_COLUMNS}")
    return {name: None if column is None else str(column) for name, column in found.items()}


def _pins(value: object) -> object:
    found = read_mapping(value, _PINS)
    for name, digest in found.items():
        if not isinstance(name, str) or not name.strip():
            raise ValueError(f"{name!r} is not a file; write an object such as {_PINS}")
        if not isinstance(digest, str) or not _SHA256.fullmatch(digest.strip().lower()):
            raise ValueError(f"{name!r} has {digest!r}, which is not a SHA-256; give its 64 hexadecimal digits")
    return {name: digest.strip().lower() for name, digest in found.items()}


ColumnMap = Annotated[dict[str, str | None], BeforeValidator(_column_map)]
"""What a row says -> the column, or the dotted path, where it says it; None: the row does not say it."""
Pins = Annotated[dict[str, str], BeforeValidator(_pins)]
"""A file, as the configuration names it -> the SHA-256 of its bytes."""
