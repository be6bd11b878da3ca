"""Models whose outputs are not finite numbers: found where logits are made, and said with the cause.

One text that overflows is a row to drop. A model all of whose first outputs are NaN is broken, and every stage would end without a
result, or with one that means nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from icr_platform.core.errors import IcrError

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def are_finite(logits: Tensor) -> Tensor:
    """[rows] whether logits [rows, vocabulary] give probabilities; a token may be ruled out by -inf.

    >>> nan, inf = float("nan"), float("inf")
    >>> are_finite(torch.tensor([[0.0, -inf], [0.0, nan], [0.0, inf]])).tolist()
    [True, False, False]
    """
    return (logits < torch.inf).all(-1)


def not_finite(model: PreTrainedModel) -> IcrError:
    """Make the error of a model all of whose outputs are not finite: its weights are looked through for the cause."""
    name = model.name_or_path or type(model).__name__
    said = f"{name}: its logits are not finite numbers"
    broken = next((key for key, one in model.named_parameters() if not bool(torch.isfinite(one).all())), None)
    if broken is not None:
        return IcrError(f"{said}: its weights are not either, such as {broken}; fetch or train the checkpoint again")
    if model.dtype == torch.float16:
        return IcrError(f"{said}: they overflow in float16, though its weights are; give --dtype bfloat16 or float32")
    precision = str(model.dtype).removeprefix("torch.")
    return IcrError(
        f"{said} in {precision}, though its weights are; give --dtype float32, and check that config.json is of these weights"
    )
