"""A database file that was moved or copied together with its artifacts: MLflow wrote absolute paths, which lead to where they were."""

from __future__ import annotations

import os
from pathlib import Path


def moved_place(path: str, uri: str) -> Path | None:
    """Where an artifact folder that is gone lies now, if it moved together with the database file, and None otherwise.

    MLflow writes absolute paths. An ending of the old one that exists beside the database is the new place; run ids and the
    names of experiments' folders make it unambiguous.

    >>> moved_place("/nowhere/mlruns/1/abc/artifacts", "sqlite:////tmp/none/mlflow.db")
    """
    database = database_file(uri)
    if database is None or os.path.exists(path):
        return None
    parts = Path(path).parts[1:]
    # Never the last name alone: `artifacts` may be anyone's.
    endings = (Path(*parts[start:]) for start in range(len(parts) - 1))
    return next((database.parent / ending for ending in endings if (database.parent / ending).is_dir()), None)


def database_file(uri: str) -> Path | None:
    from sqlalchemy.engine import make_url

    if not uri.startswith("sqlite:"):
        return None
    database = make_url(uri).database
    return Path(database).absolute() if database and not database.startswith("file:") else None


def moving_statements(before: Path, now: Path) -> str:
    """The statements that tell MLflow where its artifacts lie now."""
    old, new = str(before), str(now)
    while old and new and Path(old).name == Path(new).name:
        old, new = str(Path(old).parent), str(Path(new).parent)
    return "; ".join(
        f"UPDATE {table} SET {column} = replace({column}, '{old}/', '{new}/')"
        for table, column in (("experiments", "artifact_location"), ("runs", "artifact_uri"))
    )
