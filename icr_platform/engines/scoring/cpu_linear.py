"""Linear layers on a CPU through oneDNN, over weights laid out for its kernels once.

In float32 torch multiplies through MKL, which is slow on AMD's processors and for the shape of an LM head. oneDNN, which comes
with torch and serves other precisions, is as exact. `tests/benchmarks/bench_scoring.py` has a row without it.
"""

from __future__ import annotations

import platform
from collections.abc import Collection
from functools import partial

import torch
from torch import Tensor, nn

from icr_platform.engines.scoring.second_forwards import Forward, SecondForwards

_MOST_PARAMETERS = 10**9  # the laid-out weights are a copy: 4 GB at most
_ROWS = 512


class OneDnnLinears(SecondForwards):
    """Those of each linear layer of a model but `apart`; none where oneDNN does not apply.

    Weights must not change while this is in use: their copies would not.
    """

    def __init__(self, model: nn.Module, apart: nn.Module | None = None) -> None:
        linears = [module for module in model.modules() if type(module) is nn.Linear]
        if not lays_out(sum(linear.weight.numel() for linear in linears)):
            linears = []
        super().__init__(
            [
                (linear, laid_out(linear.weight.detach(), None if linear.bias is None else linear.bias.detach()))
                for linear in linears
                if linear is not apart and is_plain(linear) and linear.weight.dtype == torch.float32
            ]
        )


def lays_out(parameters: int) -> bool:
    """Whether linear layers with so many parameters in all run through oneDNN here, over a copy of their weights."""
    return parameters <= _MOST_PARAMETERS and has_onednn()


def has_onednn() -> bool:
    """Whether torch has oneDNN's linear layers for this machine."""
    return (
        platform.machine() in ("x86_64", "AMD64")
        and torch.backends.mkldnn.is_available()
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
        and hasattr(torch.ops.mkldnn, "_reorder_linear_weight")
    )


def is_plain(linear: nn.Linear, devices: Collection[str] = ("cpu",)) -> bool:
    """Whether a layer is a matrix on a device, and runs as its class does: neither accelerate's, nor sparse, in few bits or in pieces."""
    weight = linear.weight
    is_dense = type(weight) is nn.Parameter and weight.layout == torch.strided and weight.device.type in devices
    return is_dense and "forward" not in vars(linear)


def laid_out(weight: Tensor, bias: Tensor | None) -> Forward:
    """Lay float32 weights [out, in] out for about _ROWS rows at once, and return the product of rows with them."""
    return partial(product, right=torch.ops.mkldnn._reorder_linear_weight(weight, _ROWS), bias=bias)


def product(left: Tensor, right: Tensor, bias: Tensor | None = None) -> Tensor:
    """left [..., K] times the transpose of right [N, K], plus a bias [N], through oneDNN, without a gradient.

    >>> product(torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 4.0], [5.0, 6.0]])).tolist()
    [[11.0, 17.0]]
    """
    result: Tensor = torch.ops.mkldnn._linear_pointwise(left, right, bias, "none", [], "")
    return result
