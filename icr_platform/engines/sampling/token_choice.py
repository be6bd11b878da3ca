"""The next token of each row: penalties, temperature, filters, and a draw from the row's own stream of random numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from icr_platform.core.arrays import Floats, Ints
from icr_platform.models.not_finite import are_finite

if TYPE_CHECKING:
    from transformers import LogitsProcessorList

    from icr_platform.engines.sampling.settings import SamplingSettings

_RUN = 256  # tokens whose probabilities are summed before they are looked at one by one
_AHEAD = 64  # random numbers of a row that are drawn at once


class Uniforms:
    """Float64 numbers in [0, 1): those of the row at a place are the Philox stream of its seed, whatever the other rows are.

    52 bits, so that u * total is below total in float64.

    >>> streams = Uniforms(2)
    >>> streams.begin(1, seed=7)
    >>> first = [float(streams.draw(np.array([1]))[0]) for _ in range(100)]
    >>> first == ((np.random.Philox(key=7).random_raw(100) >> np.uint64(12)) * 2.0**-52).tolist()
    True
    """

    def __init__(self, places: int) -> None:
        self._streams: list[np.random.Philox | None] = [None] * places
        self._drawn: Floats = np.zeros((places, _AHEAD))
        self._next: Ints = np.zeros(places, np.int64)

    def begin(self, place: int, seed: int) -> None:
        """A row with this seed is at a place now."""
        self._streams[place], self._next[place] = np.random.Philox(key=seed), 0

    def draw(self, places: Ints) -> Floats:
        """[places] the next number of each of these rows, which must be different ones."""
        at = self._next[places] % _AHEAD
        for place in places[at == 0].tolist():
            stream = self._streams[place]
            assert stream is not None
            self._drawn[place] = (stream.random_raw(_AHEAD) >> np.uint64(12)) * 2.0**-52
        self._next[places] += 1
        drawn: Floats = self._drawn[places, at]
        return drawn


class Penalties:
    """What is taken off the logits of tokens that a row has already, as vLLM defines it; a row's own tokens alone count.

    Repetition looks at the prompt and the response, frequency and presence at the response. A logit l of a token that the
    response has n times becomes `l / repetition - n * frequency - presence`, with `l * repetition` where l is below 0.

    >>> penalties = Penalties(1, 4, repetition=2.0, frequency=0.5, presence=1.0, device=torch.device("cpu"))
    >>> penalties.begin(0, [0, 1])
    >>> penalties.add(torch.tensor([0]), torch.tensor([2]))
    >>> penalties.apply(torch.tensor([[3.0, -3.0, 3.0, 3.0]]), torch.tensor([0])).tolist()
    [[1.5, -6.0, 0.0, 3.0]]
    """

    def __init__(
        self, places: int, vocabulary: int, repetition: float, frequency: float, presence: float, device: torch.device
    ) -> None:
        self._repetition, self._frequency, self._presence = repetition, frequency, presence
        self._counts = torch.zeros((places, vocabulary), dtype=torch.int32, device=device)  # in the response
        self._in_prompt = torch.zeros((places, vocabulary), dtype=torch.bool, device=device)

    def begin(self, place: int, prompt: Sequence[int]) -> None:
        """A row with this prompt is at a place now."""
        self._counts[place] = 0
        self._in_prompt[place] = False
        self._in_prompt[place, torch.tensor(list(prompt), device=self._counts.device)] = True

    def apply(self, logits: Tensor, places: Tensor) -> Tensor:
        """[rows, vocabulary] penalised logits of the rows at these places."""
        logits, counts = logits.float(), self._counts[places]
        is_seen = (counts > 0) | self._in_prompt[places]
        repeated = torch.where(logits > 0, logits / self._repetition, logits * self._repetition)
        penalised = torch.where(is_seen, repeated, logits)
        return penalised - self._frequency * counts - self._presence * (counts > 0)

    def add(self, places: Tensor, tokens: Tensor) -> None:
        """Count a token of each of these rows, which must be different ones."""
        self._counts[places, tokens.clamp(min=0)] += 1


def make_penalties(settings: SamplingSettings, places: int, vocabulary: int, device: torch.device) -> Penalties | None:
    """The penalties of a batch; None where all are off."""
    if settings.repetition_penalty == 1 and not settings.frequency_penalty and not settings.presence_penalty:
        return None
    return Penalties(
        places,
        vocabulary,
        settings.repetition_penalty,
        settings.frequency_penalty,
        settings.presence_penalty,
        device,
    )


def make_filters(settings: SamplingSettings) -> LogitsProcessorList:
    """Min-p, top-k and top-p, in vLLM's order, of logits that were divided by the temperature."""
    from transformers import LogitsProcessorList, MinPLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

    filters = LogitsProcessorList()
    if settings.min_p:
        filters.append(MinPLogitsWarper(settings.min_p))
    if settings.top_k:
        filters.append(TopKLogitsWarper(settings.top_k))
    if settings.top_p < 1:
        filters.append(TopPLogitsWarper(settings.top_p))
    return filters


def choose_tokens(logits: Tensor, uniform: Floats, temperature: Floats, filters: LogitsProcessorList) -> Tensor:
    """One token a row.

    Args:
        logits: [rows, vocabulary].
        uniform: [rows] in [0, 1).
        temperature: [rows]; 0 takes the likeliest token.

    Returns:
        [rows] token ids; -1 where the logits are not finite.
    """
    is_greedy = temperature == 0
    if is_greedy.all():
        return likeliest(logits)
    warmth = torch.from_numpy(np.where(is_greedy, 1.0, temperature)).to(logits.device, torch.float32)
    warm = logits.float() / warmth[:, None]
    if len(filters):
        warm = filters(torch.empty(0, dtype=torch.long, device=logits.device), warm)  # type: ignore[arg-type]
    drawn = invert(warm, torch.from_numpy(uniform).to(logits.device))
    if is_greedy.any():
        drawn = torch.where(torch.from_numpy(is_greedy).to(drawn.device), likeliest(logits), drawn)
    return drawn


def likeliest(logits: Tensor) -> Tensor:
    """[rows] the token with the largest logit of each row; -1 where the logits are not finite."""
    return torch.where(are_finite(logits), logits.argmax(-1), -1)


def invert(logits: Tensor, uniform: Tensor) -> Tensor:
    """One token a row, by inversion of the cumulative distribution: the first with `sum_{j <= token} p_j > uniform`.

    Sums are float64: of runs of tokens first, and then within the run that holds the token, since a cumulative sum over a whole
    vocabulary would cost as much as the model's last layer.

    Args:
        logits: [rows, vocabulary] float32; -inf rules a token out.
        uniform: [rows] float64 in [0, 1).

    Returns:
        [rows] token ids; -1 where the logits are not finite.

    >>> logits = torch.tensor([0.5, 0.0, 0.25, 0.25]).log().expand(4, 4)
    >>> invert(logits, torch.tensor([0.0, 0.49, 0.5, 0.99], dtype=torch.float64)).tolist()
    [0, 0, 2, 3]
    """
    rows, vocabulary = logits.shape
    weights = logits.new_empty(rows, -(-vocabulary // _RUN) * _RUN)
    weights[:, vocabulary:] = 0
    torch.sub(logits, logits.amax(-1, keepdim=True), out=weights[:, :vocabulary]).exp_()
    runs = weights.view(rows, -1, _RUN)
    of_runs = runs.sum(-1, dtype=torch.float64)
    cumulative = of_runs.cumsum(-1)
    total = cumulative[:, -1:]
    wanted = uniform[:, None] * total
    run = torch.searchsorted(cumulative, wanted, right=True).clamp_(max=runs.shape[1] - 1)
    within = runs.gather(1, run[..., None].expand(-1, -1, _RUN))[:, 0].double().cumsum(-1)
    # The two sums differ in their last bits: what is left must lie within the run, or a token of weight 0 would be met.
    left = wanted - (cumulative - of_runs).gather(1, run)
    most = torch.nextafter(within[:, -1:], torch.zeros_like(total))
    token = torch.searchsorted(within, torch.minimum(left.clamp_(min=0.0), most), right=True)
    return torch.where(total > 0, run * _RUN + token.clamp_(max=_RUN - 1), -1)[:, 0]
