"""What a row says, whatever its columns are called: its id, its texts, the columns nobody reads."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from icr_platform.core.errors import InputError
from icr_platform.data.row_files import SourceRow
from icr_platform.data.row_sources import LANGUAGE_FIELDS
from icr_platform.data.wording import short, shown

ID_FIELDS = ("prompt_id", "id", "instruction_id", "question_id", "uid", "uuid", "key", "_id", "example_id", "idx")
INSTRUCTION_FIELDS = ("instruction", "prompt", "question", "query", "inputs", "text")
MESSAGE_FIELDS = ("messages", "conversations", "conversation")
SYSTEM_FIELDS = ("system", "system_prompt", "system_message")
HISTORY_FIELDS = ("history", "chat_history")
INPUT_FIELD = "input"
KIND_FIELDS = ("instruction_id_list", "instruction_ids")
KWARGS_FIELDS = ("kwargs", "instruction_kwargs")
TRUTH_FIELD = "ground_truth"
"""What a program can check the answer to a prompt by; `data.verifiable` reads it."""
SOURCE_FIELDS = ("source", "dataset", "datasplit")
ABOUT_THE_ROW = frozenset({*ID_FIELDS, *SOURCE_FIELDS, *LANGUAGE_FIELDS, "generator", "model"})
"""Columns that say where a row is from; nobody misses them."""
ROW_GROUPS = (
    ID_FIELDS,
    (*INSTRUCTION_FIELDS, *MESSAGE_FIELDS),
    SYSTEM_FIELDS,
    HISTORY_FIELDS,
    (INPUT_FIELD,),
    SOURCE_FIELDS,
    LANGUAGE_FIELDS,
)
"""Columns of a question that are read as one thing; see `row_sources.Wanted`."""
REMARKS = {
    "system": "a system text, which is a message of its own before the instruction",
    "history": "earlier turns, which are asked with the instruction",
    "transcript": "a transcript of Human: and Assistant:, which is read as a conversation",
    "input": "an 'input', which was put behind the instruction, after an empty line",
    "answer": "an answer after the instruction, which is not used",
}
_LARGEST_WHOLE = 2**53
_LONGEST_ID = 1000  # characters


class BadRow(Exception):  # noqa: N818 - becomes an InputError or a row that is left out
    """What is wrong with one row, without where it is."""


class Columns:
    """Counts what the rows of each part of a source contain, such as a file, for one note about each kind of thing.

    read: columns that are read, whatever the rows say.
    """

    def __init__(self, path: str, read: Iterable[str]) -> None:
        self._path = path
        self._read = {*read, *ABOUT_THE_ROW}
        self._seen: dict[str, dict[str, None]] = {}
        self._remarks: dict[str, Counter[str]] = {}

    def see(self, part: str, fields: Mapping[str, Any], remarks: Iterable[str] = (), read: Iterable[str] = ()) -> None:
        """Note a row of a part; `read` are the columns it was read from."""
        self._seen.setdefault(part, {}).update(
            dict.fromkeys(name for name, value in fields.items() if value is not None)
        )
        self._remarks.setdefault(part, Counter()).update(remarks)
        self._read.update(read)

    def notes(self) -> list[str]:
        """What was joined to an instruction, by part, and the columns that nobody reads, once where several parts have the same."""
        joined = [
            f"{part}: {counts[name]:,} rows have {what}"
            for part, counts in self._remarks.items()
            for name, what in REMARKS.items()
            if counts[name]
        ]
        unused: dict[tuple[str, ...], list[str]] = {}
        for part, seen in self._seen.items():
            names = tuple(name for name in seen if name and name not in self._read)
            unused.setdefault(names, []).append(part)
        return joined + [
            f"{parts[0] if len(parts) == 1 else self._path}: columns not used: {shown(names)}"
            for names, parts in unused.items()
            if names
        ]


def text_fault(text: str) -> str:
    r"""Why a text cannot be used: half of a surrogate pair, as software leaves it that cuts texts, or U+0000; '' where it can.

    >>> text_fault("é\U0001f600"), text_fault("a\0b")[:26]
    ('', 'contains U+0000, which dat')
    """
    if "\0" in text:
        return "contains U+0000, which databases and tokenizers take for the end of a text; remove the character"
    try:
        text.encode()
    except UnicodeEncodeError:
        return "contains half a surrogate pair, which is not Unicode text; fix it"
    return ""


def identity_of(fields: Mapping[str, Any]) -> str | None:
    """The id of a row as text; None where it has none. A column of floats, as pandas makes it of whole numbers with gaps, is read as such.

    Raises:
        BadRow: it is neither text nor a whole number.
    """
    for name in ID_FIELDS:
        value = fields.get(name)
        if value is None or value == "" or (isinstance(value, float) and math.isnan(value)):
            continue
        if isinstance(value, float) and value.is_integer() and abs(value) < _LARGEST_WHOLE:
            value = int(value)
        # JSON's true is an int in Python.
        if isinstance(value, bool) or not isinstance(value, (str, int)) or not str(value).strip():
            raise BadRow(f"field {name!r} is {short(repr(value))}; give text or a whole number")
        if isinstance(value, str) and (fault := text_fault(value)):
            raise BadRow(f"field {name!r} {fault}")
        if len(str(value)) > _LONGEST_ID:
            raise BadRow(f"field {name!r} has {len(str(value)):,} characters; give an id of at most {_LONGEST_ID:,}")
        return str(value)
    return None


def checked(name: str, value: Any, fix: str) -> str:
    """The text of a field.

    Raises:
        BadRow: it is missing, not text, empty, or cannot be used.
    """
    if not isinstance(value, str) or not value.strip():
        seen = "missing" if value is None else "empty" if isinstance(value, str) else "not text"
        raise BadRow(f"field {name!r} is {seen}; {fix}")
    if fault := text_fault(value):
        raise BadRow(f"field {name!r} {fault}")
    return value


def optional_text(fields: Mapping[str, Any], name: str) -> str:
    """The text of a field that may be absent, null or empty: then ''; raises BadRow where it is something else."""
    value = fields.get(name)
    if (
        value is None
        or (isinstance(value, float) and math.isnan(value))
        or (isinstance(value, str) and not value.strip())
    ):
        return ""
    return checked(name, value, "write text or remove it")


def refused(row: SourceRow, error: BadRow) -> InputError:
    """A bad row as one line that says where it is."""
    return InputError(f"{row.where}: {error}")
