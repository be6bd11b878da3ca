"""JSON as people have it: an object a line, an array of objects, or one object around such an array, read without loading the file.

A value is measured before it is parsed: how long it is, how deeply it is nested and of how many values it consists.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TextIO

from icr_platform.core.errors import InputError
from icr_platform.core.yaml_files import DEEPEST, LONGEST_NUMBER, MOST_VALUES
from icr_platform.data.opened_files import LONGEST_LINE, lines, not_unicode, open_text, too_long
from icr_platform.data.wording import short, shown

_CHUNK = 2**16
_SPACE = re.compile(r"[ \t\n\r\ufeff]*")
_MARK = re.compile(r'["\[\]{},]')
_STRING = re.compile(r'(?:[^"\\]++|\\.)*+', re.DOTALL)
_LISTS_OF_ONE_ROW = frozenset(
    {"messages", "conversation", "conversations", "dialog", "dialogue", "choices", "turns", "prompt", "chosen", "rejected",
     "completion", "tools", "kwargs"}
)  # fmt: skip
"""Fields of a row that are lists of objects; a list of any other name, alone in an object, is a list of rows."""
_LINES_BY_NAME = re.compile(r"\.(?:jsonl|ndjson|jsonlines)(?:\.|$)", re.IGNORECASE)


def json_rows(
    path: Path, fields: str, bad_row: Callable[[int, str], None] | None = None
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Read the objects of a JSON file, each with its row number from 1: its line, or its place in the array.

    Files of other tools are taken as they are: a byte order mark, Windows' line ends, empty lines, a last line without an end,
    U+2028 within a text, Python's NaN. An empty line counts, so that a number is the one an editor shows.

    Args:
        path: of the file.
        fields: what an object should contain, for messages.
        bad_row: is told of each line of JSON lines that is not an object, which is then left out; without it such a line is refused.

    Raises:
        InputError: the file cannot be read, is not text or not JSON, a value is too large, or a row is not an object; names the row.
    """
    with open_text(path) as text:
        scanner = _Scanner(path, text)
        first = scanner.peek()
        if first == "[":
            rows = scanner.array()
        elif first == "{" and not _LINES_BY_NAME.search(path.name) and not _is_lines(path):
            rows = scanner.rows_inside(fields)
        else:
            rows = _lines(path, bad_row)
        for number, row in rows:
            if isinstance(row, dict):
                yield number, row
                continue
            fault = f"{path}: row {number}: is not a JSON object; write one with {fields}"
            if bad_row is None or first == "[":
                raise InputError(fault)
            bad_row(number, fault)


def _is_lines(path: Path) -> bool:
    """Whether a file contains an object a line, at least two, rather than one object that contains all rows."""
    found = 0
    try:
        for _, line in lines(path):
            if text := line.strip():
                if not isinstance(parse_json(text), dict):
                    return False
                found += 1
            if found > 1:
                return True
    except (InputError, ValueError, RecursionError):  # whoever reads on says what is wrong, and where
        return found > 0
    return False


def _lines(path: Path, bad_row: Callable[[int, str], None] | None = None) -> Iterator[tuple[int, Any]]:
    for number, line in lines(path):
        text = line.strip()
        if text:
            try:
                yield number, parse_json(text)
            except (ValueError, RecursionError) as error:
                is_cut = not line.endswith("\n") and number > 1
                fix = "the file ends here and may be half-downloaded" if is_cut else "fix or remove the line"
                fault = f"{path}: row {number} is not valid JSON ({_reason(error)}); {fix}"
                if bad_row is None:
                    raise InputError(fault) from error
                bad_row(number, fault)


def parse_json(text: str) -> Any:
    """The value of a JSON text whose length is known to be fine.

    Raises:
        ValueError: it is not JSON, nested too deeply, consists of too many values, or gives a key twice.
    """
    # Counting characters takes no time; a text that may be too large has its strings left out of the count.
    if text.count("[") + text.count("{") > DEEPEST or text.count(",") > MOST_VALUES:
        _Scanner(Path(), io.StringIO(text)).value()
    return _DECODER.decode(text)


def _integer(text: str) -> int:
    if len(text) > LONGEST_NUMBER:
        raise ValueError(f"a number of {len(text):,} digits")
    return int(text)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"key {short(next(name for name in names if names.count(name) > 1))!r} is given twice")
    return found


_DECODER = json.JSONDecoder(parse_int=_integer, object_pairs_hook=_object)


def _reason(error: Exception) -> str:
    return error.msg if isinstance(error, json.JSONDecodeError) else str(error)


class _Scanner:
    """Cuts one JSON value after another out of a text that is read in pieces."""

    def __init__(self, path: Path, text: TextIO) -> None:
        self._path, self._text = path, text
        self._buffer, self._at = "", 0
        self._lines = 0  # that have left the buffer
        self._keep = 0  # where what is still needed begins
        self._is_cut = False  # whether the last value ended with the file

    def peek(self) -> str:
        """The next character that is not white space, which is left there; '' at the end."""
        while True:
            found = _SPACE.match(self._buffer, self._at)
            self._at = self._keep = found.end() if found else self._at
            if self._at < len(self._buffer):
                return self._buffer[self._at]
            if not self._more():
                return ""

    def array(self) -> Iterator[tuple[int, Any]]:
        """The elements of an array that is the whole file, with their numbers from 1."""
        yield from self._elements()
        if self.peek():
            raise self._fault("Extra data", self._at, "keep one array")

    def rows_inside(self, fields: str) -> Iterator[tuple[int, Any]]:
        """The rows of the one list of objects in an object that is the whole file."""
        lists: list[str] = []
        columns: list[str] = []
        self._at += 1
        while self.peek() != "}":
            key = self._parsed(self._cut())
            if self.peek() != ":" or not isinstance(key, str):
                raise self._fault("Expecting a name and ':'", self._at)
            self._at += 1
            if self.peek() == "[" and key not in _LISTS_OF_ONE_ROW:
                for number, row in self._elements():
                    if number == 1:
                        (lists if isinstance(row, dict) else columns).append(key)
                        if len(lists) > 1:
                            names = shown(lists)
                            raise InputError(f"{self._path}: contains several lists of rows, {names}; write one array")
                    if key in lists:
                        yield number, row
            else:
                self._cut()
            if self.peek() == ",":
                self._at += 1
            elif self.peek() != "}":
                raise self._fault("Expecting ',' or '}'", self._at)
        self._at += 1
        if self.peek():
            raise self._fault("Extra data", self._at, "name it .jsonl if each line is a row")
        if not lists:
            seen = f" but columns, {shown(columns)}" if columns else ""
            raise InputError(f"{self._path}: is not a JSON array{seen}; write an array of objects with {fields}")

    def value(self) -> str:
        """The text of the next value.

        Raises:
            ValueError: it is nested too deeply or consists of too many values. InputError: it is too long.
        """
        self.peek()
        start = self._at
        depth = values = 0
        self._is_cut = False
        while True:
            found = _MARK.search(self._buffer, self._at)
            if found is None:
                self._at = len(self._buffer)
                self._keep, offset = start, start
                if not self._more():
                    self._is_cut = True
                    return self._buffer
                start -= offset
                continue
            mark = found.group()
            if depth == 0 and mark in ",]}":
                self._at = found.start()
                return self._buffer[start : self._at]
            self._at = found.end()
            if mark == '"':
                start = self._pass_string(start)
            elif mark in "[{":
                depth += 1
                values += 1
            elif mark == ",":
                values += 1
            else:
                depth -= 1
            if depth > DEEPEST:
                raise ValueError(f"nested more than {DEEPEST} levels deep")
            if values > MOST_VALUES:
                raise ValueError(f"one row of more than {MOST_VALUES:,} values")
            if depth == 0:
                return self._buffer[start : self._at]

    def _elements(self) -> Iterator[tuple[int, Any]]:
        """The elements of the array that begins here."""
        self._at += 1
        number = 0
        if self.peek() == "]":
            self._at += 1
            return
        while True:
            number += 1
            text = self._cut(number)
            yield number, self._parsed(text, number)
            mark = self.peek()
            if not mark:
                raise self._cut_off(f"after row {number}")
            if mark not in ",]":
                raise self._fault("Expecting ',' delimiter", self._at)
            self._at += 1
            if mark == "]":
                return

    def _cut(self, number: int = 0) -> str:
        try:
            return self.value()
        except ValueError as error:
            what = f"row {number}" if number else f"line {self._line(self._at)}"
            raise InputError(f"{self._path}: {what} is not readable as JSON ({error}); fix it") from error

    def _parsed(self, text: str, number: int = 0) -> Any:
        begins = self._at - len(text)
        try:
            return parse_json(text)
        except json.JSONDecodeError as error:
            if number and self._is_cut:
                raise self._cut_off(f"within row {number}") from error
            raise self._fault(error.msg, begins + error.pos) from error
        except (ValueError, RecursionError) as error:
            raise InputError(f"{self._path}: row {number} is not readable as JSON ({error}); fix it") from error

    def _cut_off(self, where: str) -> InputError:
        return InputError(
            f"{self._path}: is not valid JSON: the file ends {where}, without a closing bracket, and may be half-downloaded; "
            "copy it again"
        )

    def _fault(self, reason: str, at: int, fix: str = "fix it") -> InputError:
        return InputError(f"{self._path}: line {self._line(at)} is not valid JSON ({reason}); {fix}")

    def _line(self, at: int) -> int:
        return self._lines + self._buffer.count("\n", 0, at) + 1

    def _pass_string(self, start: int) -> int:
        """Move behind the string whose first quote was passed; returns where the value, which began at `start`, begins now."""
        while True:
            found = _STRING.match(self._buffer, self._at)
            self._at = found.end() if found else self._at
            # A backslash at the end of the buffer waits for what it escapes.
            if self._at < len(self._buffer) and self._buffer[self._at] == '"':
                self._at += 1
                return start
            self._keep, offset = start, start
            if not self._more():
                self._at = len(self._buffer)
                return start - offset
            start -= offset

    def _more(self) -> bool:
        """Read on; what lies before `_keep` leaves the buffer."""
        if len(self._buffer) - self._keep > LONGEST_LINE:
            raise too_long(self._path, f"what begins in line {self._line(self._keep)}")
        self._lines += self._buffer.count("\n", 0, self._keep)
        try:
            piece = self._text.read(_CHUNK)
        except UnicodeDecodeError as error:
            raise not_unicode(self._path, self._lines + self._buffer.count("\n", self._keep), error) from error
        self._buffer, self._at = self._buffer[self._keep :] + piece, self._at - self._keep
        self._keep = 0
        return bool(piece)
