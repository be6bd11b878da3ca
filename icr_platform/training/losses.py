"""Preference losses per pair, as TRL 1.16 computes them, which gives their mean over a batch only: pairs are weighed by `StepMeans`.

A log-ratio is log pi(y | x) - log ref(y | x), in nats; its sum runs over the tokens of a response that are trained on.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from icr_platform.training.config import TrainSettings


class Responses(NamedTuple):
    """One side of n pairs. log_ratio: [n] nats. tokens: [n] of the responses that are trained on."""

    log_ratio: Tensor
    tokens: Tensor

    @property
    def mean_log_ratio(self) -> Tensor:
        """[n] nats per token."""
        return self.log_ratio / self.tokens.clamp(min=1)


def preference_loss(settings: TrainSettings, chosen: Responses, rejected: Responses) -> Tensor:
    """The loss of each pair.

    Returns: [n], without the likelihood term and the weights of WPO.

    >>> one = lambda log_ratio: Responses(torch.tensor([log_ratio]), torch.tensor([2]))
    >>> float(preference_loss(TrainSettings(loss="hinge", beta=0.5), one(1.0), one(0.0)))
    0.5
    """
    beta = settings.beta
    won, lost = beta * chosen.log_ratio, beta * rejected.log_ratio
    margin = won - lost
    match settings.loss:
        case "sigmoid":  # DPO, arXiv 2305.18290, equation 7
            return -logsigmoid(margin)
        case "sigmoid_norm":  # length-normalised DPO, arXiv 2411.15124, section 5
            return -logsigmoid(beta * (chosen.mean_log_ratio - rejected.mean_log_ratio))
        case "ipo":  # arXiv 2310.12036, equation 17, over means of tokens: TRL says that its authors reported these
            return (chosen.mean_log_ratio - rejected.mean_log_ratio - 1 / (2 * beta)) ** 2
        case "hinge":  # SLiC's over log-ratios, as RSO has it, arXiv 2309.06657
            return torch.relu(1 - margin)
        case "robust":  # arXiv 2403.00409: unbiased where a share e of the labels is wrong
            e = settings.label_smoothing
            return (e * logsigmoid(-margin) - (1 - e) * logsigmoid(margin)) / (1 - 2 * e)
        case "apo_zero":  # arXiv 2408.06266, equation 7
            return 1 - torch.sigmoid(won) + torch.sigmoid(lost)
        case "apo_down":  # arXiv 2408.06266, equation 8
            return torch.sigmoid(won) + 1 - torch.sigmoid(margin)
        case "kto":
            raise ValueError("kto has a loss per response: training.kto")


def without_tails(token_logprobs: Tensor, mask: Tensor, ld_alpha: float | None) -> Tensor:
    """Sum log-probabilities, those behind the length that both responses of a pair have times `ld_alpha` (LD-DPO, arXiv 2409.06411).

    Args:
        token_logprobs: [2n, L] nats, 0 where no token is trained on; n chosen responses, then the n rejected ones.
        mask: [2n, L], 1 where a token is trained on.
        ld_alpha: None: a plain sum.

    Returns: [2n] nats.
    """
    if ld_alpha is None:
        return token_logprobs.sum(1)
    position = mask.cumsum(1)
    shared = torch.minimum(*mask.sum(1).chunk(2)).repeat(2)
    is_tail = position > shared[:, None]
    return (token_logprobs * torch.where(is_tail, ld_alpha, 1.0)).sum(1)


def sampling_weights(token_logprobs: Tensor, log_sum_squares: Tensor, mask: Tensor) -> Tensor:
    """How likely the policy is to sample the responses of a pair, by which WPO weighs its loss (arXiv 2406.11827, equation 2).

    Args:
        token_logprobs: [2n, L] nats of the tokens. log_sum_squares: [2n, L] log of the sum of squares of all probabilities there.
        mask: [2n, L], 1 where a token is trained on.

    Returns: [n], without a gradient: the product over both responses of the geometric mean over tokens.
    """
    with torch.no_grad():
        aligned = ((token_logprobs - log_sum_squares) * mask).sum(1) / mask.sum(1).clamp(min=1)
        chosen, rejected = aligned.exp().chunk(2)
        return chosen * rejected
