"""The reader of every JSON file of rows that people bring: prompts, reference outputs, pairs, questions."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from icr_platform.core.errors import InputError


def json_rows(path: Path, fields: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Read the objects of a `.json` array or, under any other name, of JSON lines, each with its row number from 1.

    Files of other tools are taken as they are: a byte order mark, Windows' line ends, empty lines, a last line without an end,
    U+2028 within a text, Python's NaN. An empty line counts, so that a number is the one an editor shows.

    Args:
        path: of the file.
        fields: what an object should contain, for messages.

    Raises:
        InputError: the file cannot be read, is not UTF-8 or not JSON, or a row is not an object; names the row.
    """
    rows = _array(path, fields) if path.suffix == ".json" else _lines(path)
    for number, row in rows:
        if not isinstance(row, dict):
            raise InputError(f"{path}: row {number}: is not a JSON object; write one with {fields}")
        yield number, row


def is_unicode(text: str) -> bool:
    r"""Whether `text` can be written as UTF-8. JSON can escape half of a surrogate pair, as software that cuts texts does.

    >>> is_unicode("é\U0001f600"), is_unicode(json.loads('"\\ud83d"'))
    (True, False)
    """
    return text.isascii() or not any("\ud800" <= character <= "\udfff" for character in text)


def _array(path: Path, fields: str) -> Iterator[tuple[int, Any]]:
    try:
        rows = json.loads("\n".join(_decoded_lines(path)))
    except json.JSONDecodeError as error:
        fix = "name it .jsonl if each line is a row" if error.msg == "Extra data" else "fix it"
        raise InputError(f"{path}: line {error.lineno} is not valid JSON ({error.msg}); {fix}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: is not readable as JSON ({error}); fix it") from error
    if not isinstance(rows, list):
        raise InputError(f"{path}: is not a JSON array; write an array of objects with {fields}")
    yield from enumerate(rows, start=1)


def _lines(path: Path) -> Iterator[tuple[int, Any]]:
    for number, line in enumerate(_decoded_lines(path), start=1):
        if line.strip():
            try:
                yield number, json.loads(line)
            except (ValueError, RecursionError) as error:
                reason = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
                raise InputError(
                    f"{path}: row {number} is not valid JSON ({reason}); fix or remove the line"
                ) from error


def _decoded_lines(path: Path) -> list[str]:
    lines: list[str] = []
    try:
        # Bytes are split at \n alone; str.splitlines would split at U+2028 too, which JSON allows within a text.
        # A byte order mark may begin any line: files that have one are joined by `cat`.
        for line in path.read_bytes().split(b"\n"):
            lines.append(line.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path}: line {len(lines) + 1} is not UTF-8 ({error.reason}); save the file as UTF-8"
        ) from error
    except OSError as error:
        raise InputError(f"{path}: not readable ({error.strerror}); check the path") from error
    return lines
