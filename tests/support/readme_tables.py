"""Tables in Markdown files that a script writes: they stand between two comments with the script's name."""

from __future__ import annotations

from pathlib import Path


def marks(name: str) -> tuple[str, str]:
    """The comments before and after the table of a script."""
    return f"<!-- {name}: begin -->", f"<!-- {name}: end -->"


def shown_table(path: Path, name: str) -> str:
    """The table of a script that a file has now."""
    begins, ends = marks(name)
    return path.read_text(encoding="utf-8").split(begins)[1].split(ends)[0].strip()


def put_table(path: Path, name: str, table: str) -> None:
    """Put a table in the place of the one that a file has."""
    begins, ends = marks(name)
    text = path.read_text(encoding="utf-8")
    start, end = text.index(begins) + len(begins), text.index(ends)
    path.write_text(f"{text[:start]}\n{table}\n{text[end:]}", encoding="utf-8")
