"""Processes that `mlflow run` started: it makes the run for them, and runs them in a folder that is not the caller's."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


def is_project_run() -> bool:
    """Whether `mlflow run` started this process."""
    return bool(os.environ.get("MLFLOW_RUN_ID"))


def caller_folder() -> Path:
    """The folder that relative paths start from: where `mlflow run` was called, or else the current one."""
    import psutil

    # `mlflow run` gives its entry points the folder of MLproject; the caller's is that of the nearest process elsewhere.
    if is_project_run() and Path("MLproject").exists():
        with contextlib.suppress(psutil.Error, OSError):
            for parent in psutil.Process().parents():
                if Path(parent.cwd()) != Path.cwd():
                    return Path(parent.cwd())
    return Path.cwd()
