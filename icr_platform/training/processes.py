"""How the processes of a launched training talk to each other: what accelerate decides for GPUs, and what it refuses on CPUs.

accelerate shards a model (FSDP2, DeepSpeed ZeRO) over GPUs only. torch and DeepSpeed also shard over CPU processes that talk
through gloo, and a recipe for 32 GPUs is better rehearsed on a laptop than debugged on a cluster.
"""

from __future__ import annotations

import os
from typing import Any


def process_arguments(on_cpu: bool) -> dict[str, Any]:
    """Choose the arguments of transformers' trainer that place this process in the group, if a launcher started it."""
    if not on_cpu:
        return {"use_cpu": False}
    if not _asked_for("DEEPSPEED"):
        return {"use_cpu": True, "dataloader_pin_memory": False}
    os.environ["ACCELERATE_TORCH_DEVICE"] = "cpu"  # with use_cpu accelerate silently leaves DeepSpeed out
    return {"use_cpu": False, "ddp_backend": "gloo", "dataloader_pin_memory": False}


def shard_on_cpu() -> None:
    """Make accelerate shard by FSDP in a group of CPU processes. Call it once the process group is up, before the trainer."""
    from accelerate import PartialState
    from accelerate.utils import DistributedType

    if _asked_for("FSDP") and PartialState().distributed_type == DistributedType.MULTI_CPU:
        PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU  # all that its FSDP plugin looks at


def _asked_for(what: str) -> bool:
    """Whether the accelerate config that started this process names `what`."""
    return os.environ.get(f"ACCELERATE_USE_{what}", "false").lower() == "true"
