"""Settings of every stage that runs a model on this machine."""

from __future__ import annotations

from typing import Literal

from icr_platform.core.config import WHERE, Config, setting


class ModelPlace(Config):
    """Where and in what precision models run."""

    heading = WHERE

    dtype: Literal["auto", "float32", "bfloat16", "float16"] = setting(
        "auto", "precision of the weights; auto: bfloat16 on a GPU, float32 on a CPU"
    )
    device: str = setting(
        "auto", "torch device; auto: the GPU if there is one; balanced: the layers are spread over all GPUs", "place"
    )
    quantization: Literal["none", "nf4", "int8"] = setting(
        "none",
        "bits in which the weights of policy and reference are kept in memory, by bitsandbytes (extra `quantized`); nf4: 4 (of which "
        "train makes QLoRA), int8: 8; none: as `dtype` says, or as the checkpoint was quantised",
        later=True,
    )
