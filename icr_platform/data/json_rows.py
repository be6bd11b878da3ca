"""Rows of the JSON files that evaluations read."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from icr_platform.core.errors import InputError


def json_rows(path: Path) -> Iterator[tuple[int, Any]]:
    """(row number from 1, value) of a JSON array or of JSON lines; raises InputError naming the file and line."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not readable as UTF-8 text ({error}); write the file again") from error
    try:
        whole = json.loads(text) if path.suffix == ".json" else None
    except json.JSONDecodeError as error:
        raise InputError(f"{path}: line {error.lineno}: no valid JSON ({error.msg}); mend the file") from error
    if path.suffix == ".json":
        if not isinstance(whole, list):
            raise InputError(f"{path}: holds no JSON array of rows; write [{{id, instruction, output}}, ...]")
        yield from enumerate(whole, start=1)
        return
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            try:
                yield number, json.loads(line)
            except json.JSONDecodeError as error:
                raise InputError(f"{path}: row {number}: no valid JSON ({error.msg}); mend the line") from error
