"""Matrix products of a training on a CPU through oneDNN, forward and backward.

In float32 torch multiplies through MKL, which reaches less than half of what an AMD processor can do. oneDNN, which comes with torch,
is as exact, and takes transposed matrices as they lie (`tests/benchmarks/bench_training.py` has a row without it). Which of the two a
training uses is measured once, and kept: the last bits of the weights depend on it.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

import torch
from torch import Tensor, nn

from icr_platform.core.artifacts import read_json, write_json
from icr_platform.core.errors import InputError
from icr_platform.core.measured_here import best_of, measured_here
from icr_platform.engines.scoring.choice import Library
from icr_platform.engines.scoring.cpu_linear import has_onednn, is_plain, product
from icr_platform.engines.scoring.second_forwards import Forward

FILE = "machine.json"

_SMALL = 20 * 10**6  # parameters of linear layers below which a measurement costs more than it gains
_GAIN = 0.9  # of the time of torch's own products, at most, that oneDNN's take
_ROWS, _COLUMNS = 256, 4096  # of the matrices that are timed, at most: an LM head's would take seconds
_TRIES = 3


def choose_library(model: nn.Module, wanted: Literal["auto", "onednn", "torch"], work: Path) -> Library:
    """What is wanted, or was chosen in the work folder before, or on this machine, or is now measured.

    Raises:
        InputError: what is kept in the folder is damaged.
    """
    kept = work / FILE
    if wanted != "auto" or not has_onednn() or sum(one.weight.numel() for one in _linears(model)) < _SMALL:
        return "onednn" if wanted == "onednn" and has_onednn() else "torch"
    if kept.exists():
        return _read(kept)
    library: Library = "torch"
    if not any(work.glob("checkpoint-*")):  # a training that goes on from before there was a choice had torch's
        shapes = sorted(Counter(tuple(one.weight.shape) for one in _linears(model)).items())
        depends_on = (str(os.cpu_count()), str(torch.get_num_threads()), torch.__version__, str(shapes))
        library = measured_here("training", depends_on, _read, partial(measure, model), _values)
    work.mkdir(parents=True, exist_ok=True)
    write_json(kept, _values(library))
    return library


def _values(library: Library) -> dict[str, object]:
    return {"library": library}


def _read(path: Path) -> Library:
    found = read_json(path).get("library")
    if found not in ("onednn", "torch"):
        raise InputError(f"{path}: field 'library' is {found!r}; delete the file")
    return cast(Library, found)


def measure(model: nn.Module) -> Library:
    """Time the three products of a training by the matrices that most of the model's weights are in; the fastest of some tries counts.

    oneDNN must be faster by a tenth: machines are noisy.
    """
    parameters: Counter[tuple[int, int]] = Counter()
    for linear in _linears(model):
        parameters[linear.out_features, linear.in_features] += linear.weight.numel()
    (shape, _) = parameters.most_common(1)[0]
    wide, narrow = (min(size, _COLUMNS) for size in shape)
    hidden, weight, upstream = torch.ones(_ROWS, narrow), torch.ones(wide, narrow), torch.ones(_ROWS, wide)

    def three(multiply: Callable[[Tensor, Tensor], Tensor]) -> None:
        multiply(hidden, weight)
        multiply(upstream, weight.t())
        multiply(upstream.t(), hidden.t())

    theirs, ours = (best_of(partial(three, multiply), _TRIES) for multiply in (nn.functional.linear, product))
    return "onednn" if ours < _GAIN * theirs else "torch"


def multiply_by_onednn(model: nn.Module) -> None:
    """Let every linear layer of a model multiply through oneDNN from now on, with and without gradients."""
    forwards: list[tuple[nn.Module, Forward]] = [(linear, partial(_forward, linear)) for linear in _linears(model)]
    for module, forward in forwards:
        module.forward = forward


def _linears(model: nn.Module) -> list[nn.Linear]:
    return [
        module
        for module in model.modules()
        if type(module) is nn.Linear and is_plain(module) and module.weight.dtype == torch.float32
    ]


def _forward(linear: nn.Linear, hidden: Tensor) -> Tensor:
    if not hidden.numel():
        return nn.functional.linear(hidden, linear.weight, linear.bias)
    run: Any = _Linear.apply
    multiplied: Tensor = run(hidden, linear.weight, linear.bias)
    return multiplied


class Products(NamedTuple):
    """How a library multiplies matrices in place, without a gradient.

    multiply: left [N, K] times the transpose of right [M, K], in the third [N, M] where there is one and the library can.
    add: the same product, added to the first [N, M] where the last says that there is something in it, else written there.
    """

    multiply: Callable[[Tensor, Tensor, Tensor | None], Tensor]
    add: Callable[[Tensor, Tensor, Tensor, bool], Any]


BY_TORCH = Products(
    lambda left, right, space: torch.mm(left, right.t(), out=space),
    lambda total, left, right, is_begun: total.addmm_(left, right.t(), beta=int(is_begun)),
)
BY_ONEDNN = Products(
    lambda left, right, _: product(left, right),
    lambda total, left, right, is_begun: (total.add_ if is_begun else total.copy_)(product(left, right)),
)


class _Linear(torch.autograd.Function):
    """y = x W^T + b, and its gradients g W, g^T x and the sum of g."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        hidden = hidden.contiguous()
        ctx.save_for_backward(hidden, weight)
        return product(hidden, weight, bias)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight = ctx.saved_tensors
        upstream = upstream.contiguous()
        rows = upstream.view(-1, upstream.shape[-1])
        of_hidden, of_weight, of_bias = ctx.needs_input_grad
        return (
            product(upstream, weight.t()) if of_hidden else None,
            product(rows.t(), hidden.view(-1, hidden.shape[-1]).t()) if of_weight else None,
            rows.sum(0) if of_bias else None,
        )
