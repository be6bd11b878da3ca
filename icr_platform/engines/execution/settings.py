"""Where parts are made."""

from __future__ import annotations

from typing import Literal

from icr_platform.core.config import WHERE, Config, OptionalFloat, setting


class ExecutionSettings(Config):
    """Where a stage's shards are worked on. The tables are the same wherever that is."""

    heading = WHERE

    execution: Literal["local", "processes", "ray"] = setting(
        "local",
        "local: one engine; processes: forks share it on a CPU, a thread each (Linux); ray: one per worker of a Ray cluster",
        "place",
    )
    ray_address: str = setting("", "host:port of the cluster; empty: RAY_ADDRESS, else one on this machine", "place")
    concurrency: int = setting(0, "forks or Ray workers; 0: as many as there is room for", "place", ge=0)
    num_cpus: float = setting(1.0, "CPUs, and torch threads, per Ray worker", "place", gt=0)
    num_gpus: OptionalFloat = setting(
        None,
        "GPUs per Ray worker; none: what its engine spans (tensor_parallel, or 1) where the cluster has any",
        "place",
    )
    shared_folder: str = setting(
        "",
        "where Ray workers hand over finished parts: s3://, gs://, ...; empty: they write to the output folder, at the same "
        "path on every node",
        "place",
    )
