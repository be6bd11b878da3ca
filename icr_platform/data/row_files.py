"""One reader of every file of rows that people bring: JSON, JSON Lines, CSV, TSV and Parquet, packed or not."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterator, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from icr_platform.core.errors import InputError
from icr_platform.data.json_rows import json_rows
from icr_platform.data.opened_files import EXPANDS, LONGEST_LINE, SURELY_FINE, first_bytes, lines, too_long
from icr_platform.data.wording import short

ENDINGS = ".json, .jsonl, .csv, .tsv or .parquet, also packed as .gz, .bz2, .xz or .zst"
_ROWS = re.compile(
    r"\.(json|jsonl|ndjson|jsonlines|csv|tsv|parquet|pq)(\.(?:gz|gzip|bz2|xz|zst|zstd|lz4))?$", re.IGNORECASE
)
_PARQUET = b"PAR1"
_SEPARATORS = {"tsv": "\t"}
_OTHER_SEPARATORS = {";": "';'", "\t": "tabs", "|": "'|'"}
_BATCH_BYTES = 2**24
_TOO_TIGHT = f"unpacks to more than {EXPANDS} times its size, as no text does; look at it before you use it"


class SourceRow(NamedTuple):
    """A row as it was read.

    where: its file and its number, for messages. number: from 1, as an editor or a spreadsheet shows it.
    """

    where: str
    fields: Mapping[str, Any]
    number: int


def stem_of(name: str) -> str | None:
    """What a file of rows is called without its endings, such as its language; None for another kind of file.

    >>> stem_of("es.JSONL"), stem_of("fr.jsonl.gz"), stem_of("train-00000-of-00001.parquet"), stem_of("notes.txt")
    ('es', 'fr', 'train-00000-of-00001', None)
    """
    found = _ROWS.search(name)
    return name[: found.start()] if found else None


def file_rows(path: Path, fields: str, bad_row: Callable[[int, str], None] | None = None) -> Iterator[SourceRow]:
    """The rows of a file, read one after another; its memory does not grow with the file.

    The ending says the format, but Parquet and, under a name without one, JSON are known by how they begin. A row's number is what an editor or a spreadsheet shows: the line in JSON Lines, the header being row 1 in CSV.

    Args:
        path: of the file.
        fields: what a row should contain, for messages.
        bad_row: see `json_rows`.

    Raises:
        InputError: one line that names file and row: not readable, damaged, too large, or not rows.
    """
    head = first_bytes(path)
    if head.startswith(_PARQUET):
        yield from _parquet_rows(path)
        return
    found = _ROWS.search(path.name)
    ending = found[1].lower() if found else ""
    if not found and head.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] not in (b"{", b"["):
        raise InputError(f"{path}: is not a file of rows by its name; give {ENDINGS}")
    if ending in ("parquet", "pq"):
        fix = "unpack it first" if found and found[2] else "write or copy the file again"
        raise InputError(f"{path}: not readable as Parquet (it does not begin as one); {fix}")
    if ending in ("csv", "tsv"):
        for number, row in csv_rows(path, _SEPARATORS.get(ending, ",")):
            yield SourceRow(f"{path}: row {number}", row, number)
    else:
        for number, row in json_rows(path, fields, bad_row):
            yield SourceRow(f"{path}: row {number}", row, number)


def csv_rows(path: Path, separator: str = ",") -> Iterator[tuple[int, dict[str, str]]]:
    """Rows of a CSV file with a header, every field as the text it is: `007` is an id and stays one. The header is row 1.

    Raises:
        InputError: names the file and row.
    """
    csv.field_size_limit(LONGEST_LINE)
    reader = csv.reader((line for _, line in lines(path, newline="")), delimiter=separator, strict=True)
    number = 0
    try:
        names: list[str] = []
        for number, fields in enumerate(reader, start=1):
            if number == 1:
                names = _header(path, fields, separator)
            elif fields and len(fields) != len(names):
                raise InputError(
                    f"{path}: row {number}: has {len(fields)} fields instead of {len(names)}; correct the row"
                )
            elif fields:
                yield number, {name: field for name, field in zip(names, fields, strict=True) if name}
    except csv.Error as error:
        fix = "a quote may be missing" if "end of data" in str(error) or "limit" in str(error) else "correct it"
        raise InputError(f"{path}: row {number + 1}: not readable as CSV ({error}); {fix}") from error


def _header(path: Path, fields: list[str], separator: str) -> list[str]:
    names = [name.strip() for name in fields]
    if len(names) == 1:
        for other, shown in _OTHER_SEPARATORS.items():
            if other in names[0] or names[0].lower().startswith("sep="):
                wanted = "tabs" if separator == "\t" else "commas"
                shown = "another sign" if other not in names[0] else shown
                raise InputError(f"{path}: columns are separated by {shown} instead of {wanted}; save it with {wanted}")
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise InputError(f"{path}: two columns are called {short(twice)!r}; rename or remove one")
    return names


def _parquet_rows(path: Path) -> Iterator[SourceRow]:
    number = given = 0
    try:
        metadata = pq.read_metadata(path)
        size = _batch_rows(path, metadata)
        most = max(SURELY_FINE, EXPANDS * path.stat().st_size)
        # A text that a column has a thousand times is kept once in Arrow's memory, and becomes Python's one row after another.
        with pq.ParquetFile(path, read_dictionary=_repeating(metadata), buffer_size=_BATCH_BYTES // 16) as file:
            names = file.schema_arrow.names
            if len(set(names)) < len(names):
                twice = next(name for name in names if names.count(name) > 1)
                raise InputError(f"{path}: two columns are called {short(twice)!r}; rename or remove one")
            for batch in file.iter_batches(size, use_threads=False):
                for index in range(batch.num_rows):
                    number += 1
                    [row] = batch.slice(index, 1).to_pylist()
                    fields = {name: _value(value) for name, value in row.items()}
                    lengths = [len(value) for value in fields.values() if isinstance(value, str)]
                    given += sum(lengths)
                    if max(lengths, default=0) > LONGEST_LINE:
                        raise too_long(path, f"a text in row {number}")
                    if given > most:
                        raise InputError(f"{path}: row {number}: {_TOO_TIGHT}")
                    yield SourceRow(f"{path}: row {number}", fields, number)
    except (pa.ArrowException, OSError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"{path}: not readable as Parquet ({reason}); write or copy the file again") from error
    except (OverflowError, ValueError) as error:  # text that is not UTF-8, a date that Python has not
        reason = " ".join(str(error).split())
        raise InputError(f"{path}: row {number}: is not readable ({reason}); correct it") from error


def _chunks(metadata: pq.FileMetaData) -> Iterator[tuple[pq.RowGroupMetaData, pq.ColumnChunkMetaData]]:
    for index in range(metadata.num_row_groups):
        group = metadata.row_group(index)
        yield from ((group, group.column(column)) for column in range(group.num_columns))


def _repeating(metadata: pq.FileMetaData) -> list[str]:
    """Columns of texts that are stored once and referred to by number."""
    return sorted({
        chunk.path_in_schema for _, chunk in _chunks(metadata) if chunk.physical_type == "BYTE_ARRAY" and chunk.has_dictionary_page
    })  # fmt: skip


def _batch_rows(path: Path, metadata: pq.FileMetaData) -> int:
    """Rows to read at once, so that they take some megabytes."""
    largest = 1
    for group, chunk in _chunks(metadata):
        if chunk.total_uncompressed_size > max(SURELY_FINE, EXPANDS * chunk.total_compressed_size):
            raise InputError(f"{path}: column {chunk.path_in_schema!r} {_TOO_TIGHT}")
        largest = max(largest, group.total_byte_size // max(group.num_rows, 1))
    return max(1, min(1024, _BATCH_BYTES // largest))


def _value(value: Any) -> Any:
    """A value as JSON would give it."""
    if isinstance(value, bytes):
        return value.decode("utf-8")
    if isinstance(value, Decimal):
        return int(value) if value == int(value) else float(value)
    return value
