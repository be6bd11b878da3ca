"""Checkpoints whose weights were removed to save disk (`keep_checkpoints`): their manifest still says which files there were."""

from __future__ import annotations

from pathlib import Path

from icr_platform.core.artifacts import own_manifest
from icr_platform.core.errors import WeightsRemovedError


def removed_weights(folder: Path) -> dict[str, str]:
    """Digests, by file name, of the weights that were removed from a checkpoint; empty when none were."""
    entries = (own_manifest(folder) or {}).get("removed", [])
    return {str(entry["file"]): str(entry["sha256"]) for entry in entries}


def require_weights(model: str) -> None:
    """Raise WeightsRemovedError when the model is a checkpoint whose weights were removed."""
    if removed_weights(Path(model)):
        raise WeightsRemovedError(
            f"{model}: this checkpoint's weights were removed (keep_checkpoints); train it again, with --keep-checkpoints all, or use "
            "another iteration's"
        )
