"""Feed-forward blocks and norms on a GPU, compiled.

Run one operation after the other, they write to memory what each makes and read it back. torch's compiler makes one kernel of all that
lies between two matrix products. It rounds to the model's precision once, where the operations round one by one.
"""

from __future__ import annotations

import inspect
import logging

import torch
from torch import Tensor, nn

from icr_platform.engines.scoring.cpu_linear import is_plain
from icr_platform.engines.scoring.second_forwards import Forward, SecondForwards
from icr_platform.models.loading_errors import first_line

logger = logging.getLogger(__name__)

_ROWS = 1024  # on which blocks are tried: always so many, so that kernels do not depend on what is scored first
_ROUNDINGS = 16  # of the largest number, by which numbers may be off
# Of the compiler: what it does not take, and what is missing around it (a C compiler, the headers of Python).
_RAISED = (RuntimeError, OSError)


def compiled_blocks(model: nn.Module) -> SecondForwards:
    """Compile a model's feed-forward blocks and norms.

    One of each kind and width is tried on a few rows; those that are not as their own forward makes them, or that do not compile, are left.
    """
    forwards, is_taken = list[tuple[nn.Module, Forward]](), dict[tuple[type[nn.Module], int], bool]()
    for block in filter(_is_block, model.modules()):
        compiled, kind = _compiled(block), (type(block), _width(block))
        if kind not in is_taken:
            is_taken[kind] = _is_as_own(block, compiled)
        if is_taken[kind]:
            forwards.append((block, compiled))
    return SecondForwards(forwards)


def _is_block(module: nn.Module) -> bool:
    """Whether a module maps each row by itself, by a norm's weight, or by linear layers and what lies between them."""
    is_library = type(module).__module__.startswith("torch.")
    if is_library or "forward" in vars(module) or len(inspect.signature(type(module).forward).parameters) != 2:
        return False
    children = list(module.children())
    own = list(module.parameters(recurse=False))
    if not children:
        return len(own) == 1 and own[0].dim() == 1
    linears = [child for child in children if type(child) is nn.Linear]
    others = [child for child in children if child not in linears]
    return (
        not own
        and len(linears) > 1
        and all(is_plain(linear, ("cpu", "cuda")) for linear in linears)
        and not any(list(other.parameters()) for other in others)
    )


def _width(block: nn.Module) -> int:
    """Of the rows that a block takes."""
    return next(block.parameters()).shape[-1]


def _compiled(block: nn.Module) -> Forward:
    own: Forward = block.forward
    compiled = torch.compile(own, dynamic=True, fullgraph=True)

    def forward(hidden: Tensor) -> Tensor:
        rows = hidden.reshape(-1, hidden.shape[-1])
        if len(rows) < 2:  # for which the compiler would begin again
            return own(hidden)
        made: Tensor = compiled(rows)
        return made.view(*hidden.shape[:-1], -1)

    return forward


def _is_as_own(block: nn.Module, compiled: Forward) -> bool:
    like = next(block.parameters())
    rows = torch.arange(_ROWS * _width(block), device=like.device).sin().view(_ROWS, -1).to(like.dtype)
    try:
        # In this process: a few kernels are not worth one process a core.
        with torch.no_grad(), torch._inductor.config.patch(compile_threads=1):
            expected, made = block(rows).double(), compiled(rows).double()
    except _RAISED as error:
        logger.warning("%s runs as it is, not compiled (%s)", type(block).__name__, first_line(error))
        return False
    allowed = _ROUNDINGS * torch.finfo(like.dtype).eps * expected.abs().max()
    if off := bool((expected - made).abs().max() > allowed):
        logger.warning("%s runs as it is: compiled, it makes other numbers", type(block).__name__)
    return not off
