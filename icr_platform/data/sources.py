"""Whatever people name as a source of rows: files (`row_sources`), or a data set in a folder or on the hub (`hub_sets`)."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from icr_platform.core.errors import InputError
from icr_platform.data.column_map import NO_MAP, ColumnNames, mapped
from icr_platform.data.hub_sets import HubSet, folder_set_of, hub_set_of, is_data_set, open_folder_set, open_hub_set
from icr_platform.data.row_sources import UNNAMED, RowSource, Wanted, by_column, open_files


def open_source(
    path: str, wanted: Wanted, languages: Collection[str] = (), sorts: bool = True, columns: ColumnNames = NO_MAP
) -> RowSource:
    """Open a folder, a file, a path with {language}, or a data set in a folder or on the hub (`owner/name@revision:configuration:split`).

    Args:
        languages: that will be read; of a folder it need not be clear where others lie. Empty: all.
        sorts: rows are sorted by what their column `language` says; else they stay as they come, under UNNAMED.
        columns: see `data.column_map`.

    Raises:
        InputError: nothing is there, or it cannot be told which file is meant.
    """
    found: RowSource | None
    found = open_folder_set(HubSet(path)) if is_data_set(Path(path)) else open_files(path, wanted, languages)
    if found is None and (in_folder := folder_set_of(path)) is not None:
        found = open_folder_set(in_folder)
    if found is None and (on_hub := hub_set_of(path)) is not None:
        found = open_hub_set(on_hub)
    if found is None:
        raise InputError(
            f"{path}: no such file or folder; give {wanted.what} as a folder of LANG.json(l), a file or a data set"
        )
    found = mapped(found, columns, wanted)
    return by_column(found) if sorts and found.names == (UNNAMED,) else found
