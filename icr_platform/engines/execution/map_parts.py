"""An artifact's parts, made by engines: one in this process, which forks of it may share, or one per worker of a Ray cluster."""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from importlib.util import find_spec

from icr_platform.core.errors import InputError
from icr_platform.core.part_job import PartJob, Throughput, write_part
from icr_platform.core.progress import meter
from icr_platform.engines.execution.forks import fork_count, map_over_forks
from icr_platform.engines.execution.ray_pool import connect, map_over_ray, workers_that_fit
from icr_platform.engines.execution.settings import ExecutionSettings
from icr_platform.engines.execution.shared_folder import check_shared_folder


def check_execution(settings: ExecutionSettings) -> None:
    """Raise InputError when the chosen execution cannot work here; connects to nothing."""
    if settings.execution != "ray":
        return
    if find_spec("ray") is None:
        raise InputError("config: field 'execution' is 'ray', which is not installed; pip install 'icr-platform[ray]'")
    if settings.shared_folder:
        check_shared_folder(settings.shared_folder)


def worker_count(settings: ExecutionSettings, parts: int) -> int:
    """Engines with a share of the parts and of what they ask: 1 in this process. Connects to the cluster when that decides."""
    if settings.execution != "ray" or parts < 2:
        return 1
    fitting = settings.concurrency or workers_that_fit(settings.num_cpus, settings.num_gpus or 0.0, connect(settings))
    return max(1, min(fitting, parts))


def map_parts(job: PartJob, settings: ExecutionSettings) -> Throughput:
    """Make and write every part of `job.parts`.

    Raises:
        InputError, IcrError: what loading or making a part raised, wherever it ran; finished parts are kept.
        IcrError: Ray workers die again and again, or their parts do not arrive.
    """
    if job.take is not None:
        # Parts whose rows earlier work made are written first: where these are all, no engine is loaded.
        left, done = [], job.done
        for part in job.parts:
            taken = job.take(part)
            if taken is None:
                left.append(part)
                continue
            write_part(job.writers, part, taken.tables)
            done += taken.counted
        if done > job.done:
            print(f"{job.label}: {done - job.done} of {job.rows} taken from earlier work", file=sys.stderr, flush=True)
        job = replace(job, parts=left, done=done, take=None)
    if not job.parts:
        return Throughput(0, 0.0)
    if settings.execution == "ray":
        return map_over_ray(job, settings)
    forks = min(fork_count(settings), len(job.parts)) if job.is_shared else 1
    if forks > 1:
        return map_over_forks(job, forks)
    make = job.load()
    start = time.monotonic()  # a large model takes minutes to load, which says nothing of the engine's speed
    with meter(job.label, job.rows, job.done, job.use) as progress:
        for part, tables in zip(job.parts, make(map(job.shard, job.parts), progress.advance), strict=True):
            write_part(job.writers, part, tables)
        return Throughput(progress.tokens, time.monotonic() - start)
