"""Which devices a stage holds while it works, as far as its configuration and this machine say."""

from __future__ import annotations

import os
import subprocess
from functools import cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

from icr_platform.core.measured_here import cpu_name

_ASK_SECONDS = 10


class Devices(NamedTuple):
    """kind: what hours are counted of. name: of one device. held: how many GPUs, or cores of CPUs."""

    kind: Literal["gpu", "cpu"]
    name: str
    held: float

    def __str__(self) -> str:
        """
        >>> str(Devices("gpu", "NVIDIA H100 80GB HBM3", 2)), str(Devices("cpu", "AMD EPYC", 4))
        ('2 x NVIDIA H100 80GB HBM3', '4 cores of AMD EPYC')
        """
        return f"{self.held:g} x {self.name}" if self.kind == "gpu" else f"{self.held:g} cores of {self.name}"


def devices_of(config: Any) -> Devices:
    """The devices that a resolved configuration of a stage works on. Initialises no GPU.

    A model that an endpoint serves is the endpoint's: the stage holds the cores that wait for it.
    """
    gpus = _gpus_of(config)
    if gpus:
        return Devices("gpu", gpu_name(), gpus)
    is_on_ray = getattr(config, "execution", "local") == "ray"
    cores = config.concurrency * config.num_cpus if is_on_ray and config.concurrency else len(os.sched_getaffinity(0))
    return Devices("cpu", cpu_name(), cores)


def _gpus_of(config: Any) -> float:
    """How many GPUs; 0 for none."""
    import torch

    from icr_platform.models.devices import BALANCED, resolve_device

    device = getattr(config, "device", "cpu")
    if not resolve_device(device).startswith("cuda"):
        return 0
    if getattr(config, "accelerate_config", ""):
        from icr_platform.training.launch import read_accelerate_config

        return float(read_accelerate_config(Path(config.accelerate_config))["num_processes"])
    sampler = getattr(config, "sampler", "")
    is_given = bool(getattr(config, "outputs", "") or getattr(config, "answers", ""))
    has_local_judge = getattr(config, "judge", "") == "logprob"
    if (sampler == "server" or is_given) and not has_local_judge:
        return 0
    each = torch.cuda.device_count() if device == BALANCED else 1
    if sampler == "vllm":
        each = int(config.tensor_parallel * config.data_parallel)
    if getattr(config, "execution", "local") == "ray":
        return float(max(1, config.concurrency) * (each if config.num_gpus is None else config.num_gpus))
    return float(each)


@cache
def gpu_name() -> str:
    """What the driver calls the first GPU; 'GPU' where it cannot be asked."""
    command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    try:
        said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=_ASK_SECONDS).stdout
    except (OSError, subprocess.SubprocessError):
        return "GPU"
    return (said.splitlines() or ["GPU"])[0].strip()
