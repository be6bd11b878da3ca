"""The parts of an artifact that a model scores or translates: those that are missing are made, by one engine, which is then let go."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from icr_platform.core.artifacts import Artifact, ArtifactWriter, open_artifact
from icr_platform.core.part_job import Make, PartJob, TakenPart
from icr_platform.core.spending import Use
from icr_platform.engines.execution.map_parts import map_parts
from icr_platform.engines.execution.settings import ExecutionSettings
from icr_platform.engines.scoring.model_scores import free_gpu_memory
from icr_platform.models.devices import is_cpu


def make_missing_parts(
    label: str,
    writer: ArtifactWriter,
    parts: Sequence[int],
    rows: int,
    shard: Callable[[int], Any],
    load: Callable[[], Make],
    settings: ExecutionSettings,
    take: Callable[[int], TakenPart | None] | None = None,
    use: Use = "scored",
    device: str | None = None,
) -> Artifact:
    """Make the parts that are missing and close the artifact; nothing is loaded when no part is missing.

    parts: of the whole artifact. rows: that the progress counts to. take: as of a `PartJob`; None without earlier work.
    use: what the tokens are spent on. device: of the model whose memory forks may share.
    """
    if writer.complete:
        return open_artifact(writer.folder, writer.table)
    missing = [part for part in parts if not writer.has_part(part)]
    done = sum(writer.read_part(part).num_rows for part in parts if part not in missing)
    is_shared = device is not None and is_cpu(device)
    job = PartJob(label, (writer,), missing, shard, load, rows, done, gpus=1, take=take, use=use, is_shared=is_shared)
    map_parts(job, settings)
    free_gpu_memory()
    return writer.close(len(parts))
