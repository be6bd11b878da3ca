"""The memory that work takes at its peak: of this process and its children, and of the GPUs."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

_EVERY = 0.1  # seconds


@dataclass
class Peak:
    """Bytes at the peak so far. gpu: of the GPU that holds most; 0 where there is none."""

    memory: int = 0
    gpu: int = 0


@contextmanager
def peak_memory() -> Iterator[Peak]:
    """Look ten times a second while the block runs. Memory that children share with each other counts for each of them."""
    peak, over = Peak(), threading.Event()

    def watch() -> None:
        while True:
            peak.memory = max(peak.memory, _resident())
            peak.gpu = max(peak.gpu, _on_gpus())
            if over.wait(_EVERY):
                return

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield peak
    finally:
        over.set()
        watcher.join()


def _resident() -> int:
    import psutil

    total, this = 0, psutil.Process()
    for process in [this, *this.children(recursive=True)]:
        with suppress(psutil.Error):  # it ended meanwhile
            total += process.memory_info().rss
    return total


def _on_gpus() -> int:
    """Bytes in use on the fullest GPU, by anyone: an engine may work in a process of its own."""
    import torch

    used = 0
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        try:
            taken = torch.cuda.device_memory_used(index)  # asks the driver's library, and takes no memory itself
        except (ModuleNotFoundError, RuntimeError):
            if not torch.cuda.is_initialized():  # to ask otherwise would take half a gigabyte of each GPU
                return 0
            free, total = torch.cuda.mem_get_info(index)
            taken = total - free
        used = max(used, int(taken))
    return used
