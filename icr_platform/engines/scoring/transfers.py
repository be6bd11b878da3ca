"""Numbers on their way to a device and back, without waiting for what it has to do before.

A copy from or to memory that the system may move waits until the GPU has done all that was queued; one of pinned memory does not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from icr_platform.core.arrays import Floats


def on_device(numbers: Sequence[Any] | np.ndarray[Any, Any], device: torch.device) -> Tensor:
    """Integers, of whatever shape, as int64 on a device."""
    tensor = torch.from_numpy(np.asarray(numbers, dtype=np.int64))
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def fetching(numbers: Tensor) -> Callable[[], Floats]:
    """Begin to fetch a device's numbers; what is returned waits for them, and for nothing that is queued later."""
    if not numbers.is_cuda:
        return numbers.cpu().numpy
    fetched = numbers.to("cpu", non_blocking=True)
    is_there = torch.cuda.Event()
    is_there.record(torch.cuda.current_stream(numbers.device))

    def wait() -> Floats:
        is_there.synchronize()
        array: Floats = fetched.numpy()
        return array

    return wait
