"""Where a model runs and in what precision: what `auto` means on this machine."""

from __future__ import annotations

from typing import TYPE_CHECKING

from icr_platform.core.errors import InputError

if TYPE_CHECKING:
    import torch

BALANCED = "balanced"  # accelerate's word for layers spread evenly over all GPUs


def resolve_device(device: str) -> str:
    """Replace 'auto' and 'balanced' by 'cuda' when there is a GPU, else by 'cpu'."""
    import torch

    if device not in ("auto", BALANCED):
        return device
    return "cuda" if torch.cuda.is_available() else "cpu"


def is_cpu(device: str) -> bool:
    """Whether that is the CPU, here."""
    return device == "cpu" or resolve_device(device) == "cpu"


NOT_COMPILED = "config: field 'torch_compile' is not used: it is for GPUs"
"""What is said where it is asked for on a CPU."""


def require_device(device: str) -> None:
    """Raise InputError when torch does not know the device, or this machine has no such GPU."""
    import torch

    if device in ("auto", BALANCED):
        return
    try:
        kind, index = torch.device(device).type, torch.device(device).index or 0
    except RuntimeError:
        raise InputError(
            f"config: field 'device' is {device!r}, which torch does not know; give auto, cpu or cuda"
        ) from None
    found = torch.cuda.device_count()
    if kind == "cuda" and index >= found:
        raise InputError(
            f"config: field 'device' is {device!r}, and torch {torch.__version__} finds {found or 'no'} CUDA GPUs here; give auto or "
            "cpu, or install a torch for this machine's GPU"
        )


def resolve_dtype(dtype: str, device: str) -> torch.dtype:
    """Turn a dtype's name into torch's dtype; 'auto' means bfloat16 on a GPU and float32 on a CPU."""
    import torch

    if dtype == "auto":
        return torch.bfloat16 if resolve_device(device).startswith("cuda") else torch.float32
    return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[dtype]
