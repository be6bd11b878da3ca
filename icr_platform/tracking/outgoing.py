"""Texts on their way to an artifact store, which takes files only."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from icr_platform.core.file_digests import user_cache
from icr_platform.core.own_folders import remove_old

_OLD_SECONDS = 24 * 3600.0


@contextmanager
def text_file(text: str, name: str) -> Iterator[Path]:
    """A file of that name with the text, in UTF-8, which nobody else can read, until the block ends.

    It lies in the user's cache, not in the temporary folder: what a `kill -9` leaves of it, a later call removes after a day.
    """
    with tempfile.TemporaryDirectory(dir=_folder()) as folder:
        path = Path(folder) / name
        path.write_text(text, encoding="utf-8")
        yield path


def _folder() -> Path | None:
    """None, which is the temporary folder: a home that cannot be written, or a cache that another user made."""
    folder = user_cache() / "outgoing"
    with suppress(OSError):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if os.access(folder, os.R_OK | os.W_OK | os.X_OK):
            remove_old(folder, _OLD_SECONDS)
            return folder
    return None
