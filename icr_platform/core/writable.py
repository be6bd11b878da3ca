"""Whether a folder can be made and written to, tried before hours of work depend on it."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from icr_platform.core.errors import InputError
from icr_platform.core.failures import failure

_LEAST_SPACE = 1 << 20  # bytes


def check_writable_folder(folder: Path, shown: str) -> None:
    """Raise InputError when a folder cannot be made, or written to; leaves nothing behind, and makes nothing.

    shown: what the message begins with, such as the folder's path.
    """
    existing = folder
    try:
        while not existing.exists() and existing != existing.parent:
            existing = existing.parent
        with tempfile.TemporaryFile(dir=existing) as file:
            file.write(bytes(4096))
            file.flush()
    except OSError as error:
        known = failure(OSError(error.errno, error.strerror, str(existing)))
        raise InputError(f"{shown} cannot be written: {known}") from error
    if shutil.disk_usage(existing).free < _LEAST_SPACE:
        raise InputError(f"{shown} has no space left; free some")
