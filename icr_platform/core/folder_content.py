"""Which files of a folder are its content, and which are there for people and tools."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path, PurePath

from icr_platform.core.errors import InputError

_FOR_PEOPLE = ("readme", "license", "licence", "notice", "copying", "authors", "changelog", "citation", "use_policy")
_FOR_PEOPLE_SUFFIXES = frozenset(
    {".md", ".rst", ".png", ".jpg", ".jpeg", ".gif", ".svg", ".webp", ".ico", ".pdf", ".html"}
)


def is_content(relative: PurePath) -> bool:
    """Whether a file counts, by its path within the folder.

    >>> [is_content(PurePath(name)) for name in ("merges.txt", "README.md", "LICENSE", ".cache/x.json", "Read.json")]
    [True, False, False, False, True]
    """
    is_hidden = any(part.startswith(".") for part in relative.parts)
    is_note = relative.stem.lower() in _FOR_PEOPLE and relative.suffix.lower() in ("", ".txt")
    return not (is_hidden or is_note or relative.suffix.lower() in _FOR_PEOPLE_SUFFIXES)


def content_files(folder: Path) -> Iterator[tuple[PurePath, Path]]:
    """(path within the folder, path) of the folder's content, subfolders and links to folders included, in order of names.

    Raises:
        InputError: a folder cannot be listed.
    """

    def refuse(error: OSError) -> None:
        raise InputError(f"{error.filename}: not readable ({error.strerror}); allow it or copy the folder again")

    seen: set[Path] = set()  # links may lead in circles
    for root, folders, names in os.walk(folder, onerror=refuse, followlinks=True):
        here = Path(root)
        if here.resolve() in seen:
            folders.clear()
            continue
        seen.add(here.resolve())
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            relative = PurePath(here.relative_to(folder) / name)
            if is_content(relative):
                yield relative, here / name
