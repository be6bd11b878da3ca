"""Linear layers on a CPU through oneDNN, over weights laid out for its kernels once.

In float32 torch multiplies through MKL, which is slow on AMD's processors and for the LM head's shape; oneDNN, which torch
brings along and uses in other precisions, is as exact. `tests/benchmarks/bench_annotate.py` has a row without it.
"""

from __future__ import annotations

import contextlib
import platform
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

_MOST_PARAMETERS = 10**9  # the laid-out weights are a copy: 4 GB at most
_ROWS = 512


class OneDnnLinears:
    """The linear layers of a model, with a second forward each; empty where oneDNN does not apply.

    Weights must not change while this is in use.
    """

    def __init__(self, model: nn.Module) -> None:
        linears = [module for module in model.modules() if type(module) is nn.Linear]
        self._forwards: list[tuple[nn.Linear, Callable[[Tensor], Tensor]]] = []
        if lays_out(sum(linear.weight.numel() for linear in linears)):
            self._forwards = [(linear, _forward(linear)) for linear in linears if _applies(linear)]

    @contextlib.contextmanager
    def used(self) -> Iterator[None]:
        """Within, the layers run through oneDNN; without gradients."""
        for linear, forward in self._forwards:
            linear.forward = forward  # type: ignore[method-assign, assignment]
        try:
            yield
        finally:
            for linear, _ in self._forwards:
                del linear.forward


def lays_out(parameters: int) -> bool:
    """Whether linear layers of so many parameters together run through oneDNN here, over a copy of their weights."""
    return (
        parameters <= _MOST_PARAMETERS
        and platform.machine() in ("x86_64", "AMD64")
        and torch.backends.mkldnn.is_available()
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
        and hasattr(torch.ops.mkldnn, "_reorder_linear_weight")
    )


def _applies(linear: nn.Linear) -> bool:
    weight = linear.weight
    is_plain = "forward" not in vars(linear) and weight.layout == torch.strided
    return is_plain and weight.device.type == "cpu" and weight.dtype == torch.float32


def _forward(linear: nn.Linear) -> Callable[[Tensor], Tensor]:
    weight = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), _ROWS)
    bias = None if linear.bias is None else linear.bias.detach()

    def forward(hidden: Tensor) -> Tensor:
        result: Tensor = torch.ops.mkldnn._linear_pointwise(hidden, weight, bias, "none", [], "")
        return result

    return forward
