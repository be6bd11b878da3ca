"""Completion log-probabilities of token ids under a model.

The score of a completion y after a prompt x is `log p(y | x)`, the sum over *all* tokens of y, the first and the
end-of-turn token included, of their log-probabilities in nats (arXiv 2503.04647, equation 1); of a completion that begins with
context, such as a thought z, `log p(y | x, z)` over the tokens behind it. It does not depend on what else is scored with it, up
to rounding in the model's own precision: below 2e-5 nats per token in float32.
"""

from __future__ import annotations

import contextlib
import copy
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.modeling_outputs import BaseModelOutputWithPast

from icr_platform.core.arrays import Bools, Floats
from icr_platform.engines.scoring import packed_attention
from icr_platform.engines.scoring.cpu_linear import OneDnnLinears
from icr_platform.engines.scoring.packed_attention import KeyValue, NotPackableError, PackedLayout
from icr_platform.engines.scoring.packing import Group, Pack, packs
from icr_platform.models.not_finite import not_finite
from icr_platform.models.quantised import mixes_rows
from icr_platform.models.small_copy import (
    FIRST_ID,
    ROPE_OF_THE_BATCH,
    VOCABULARY,
    WINDOW,
    NoCopyError,
    small_copy,
    text_ropes,
)

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["CompletionScorer", "Group", "completion_logprobs"]

AttentionInterface.register(packed_attention.NAME, packed_attention.packed_attention)
AttentionMaskInterface.register(packed_attention.NAME, packed_attention.packed_mask)

logger = logging.getLogger(__name__)

Progress = Callable[[int, int], None]

_CPU_PACK = 1024  # tokens whose activations stay near the cores
_SMALLEST_PACK = 64  # tokens
_CPU_LOGITS, _GPU_LOGITS = 2**22, 2**26  # numbers of [tokens, vocabulary] held at once
_PACKABLE_LAYERS = {"full_attention", "sliding_attention"}
_PER_TOKEN = 1e-4  # nats by which a score may deviate on a small copy
# Prompts and completions of a few ids, which packs of three tokens cut within both.
_PROBE = (Group([5, 6, 7, 8, 9], [[10, 11, 12], [13], [14, 15]]), Group([16, 17], [[18, 19, 20, 21, 22]]))


def completion_logprobs(model: PreTrainedModel, groups: Sequence[Group], *, batch_tokens: int = 8192) -> list[Floats]:
    """Compute the log-probabilities of completions given their prompts.

    Args:
        model: a causal language model.
        groups: prompts with their completions, as token ids; a group's prompt is computed once.
        batch_tokens: tokens that go through the model together, at most.

    Returns:
        One [N] float64 array per group: nats, summed over all tokens of each completion, from its group's `starts` on. A completion
        without such tokens has log-probability 0.0 by definition, which is not a score: filter such samples first.

    Raises:
        ValueError: a prompt without tokens.
    """
    return CompletionScorer(model, batch_tokens).score(groups)


class CompletionScorer:
    """Scores completions under one model, whose weights must not change, and remembers the token budget that fits.

    Tokens are packed without padding, and only outputs that predict a completion's token reach the LM head. A model that
    cannot run on packs (its attention is not transformers' interface, or it mixes tokens elsewhere) is scored one sequence
    at a time, by its own forward: slower, but as exact. Whether it can is tried on a small copy, over sequences longer than
    its windows, and by a probe of a few tokens on the model itself. `why_not_packed` says what was found; None: it is packed.
    """

    def __init__(self, model: PreTrainedModel, batch_tokens: int = 8192) -> None:
        self.model = model
        # Of a model that is spread over devices, where its inputs go.
        self.device: torch.device = next(model.get_input_embeddings().parameters()).device
        self.pack_tokens = min(batch_tokens, _CPU_PACK) if self.device.type == "cpu" else batch_tokens
        vocabulary = model.config.get_text_config().vocab_size
        self._rows_at_once = max(1, (_CPU_LOGITS if self.device.type == "cpu" else _GPU_LOGITS) // vocabulary)
        self._head = _without_body(model)
        self._linears = OneDnnLinears(model)
        self._embeddings = int(vocabulary)
        self._has_worked = False
        self.why_not_packed = self._find_why_not_packed(vocabulary)
        self.packed = self.why_not_packed is None
        if not self.packed:
            logger.warning(
                "%s is scored one sequence at a time, not packed: %s", type(model).__name__, self.why_not_packed
            )

    def _find_why_not_packed(self, vocabulary: int) -> str | None:
        return why_not_packed(self.model) or self._probe(vocabulary)

    def score(self, groups: Sequence[Group], progress: Progress | None = None) -> list[Floats]:
        """Score as `completion_logprobs` does; `progress` is told the completions and tokens done since it was last called.

        When CUDA memory runs out the budget is halved, for good, and the groups are scored again.

        A score is NaN where the model's outputs are, and where a token has no embedding: such ids are another model's.

        Raises:
            ValueError: a prompt without tokens.
            IcrError: every score is NaN, and so was every one before.
            torch.OutOfMemoryError: not even a pack of 64 tokens fits.
        """
        say = progress or _say_nothing
        counts = [len(group.completions) for group in groups]
        known, unknown = self._within_embeddings(groups)
        sums = self._sums(known, say)
        is_scored = np.array(
            [
                start < len(completion)
                for group in known
                for completion, start in zip(group.completions, group.first_scored, strict=True)
            ],
            dtype=bool,
        )
        self._has_worked |= not bool(np.isnan(sums[is_scored]).all())
        if not self._has_worked and is_scored.any():
            raise not_finite(self.model)
        sums[unknown] = np.nan
        return np.split(sums, np.cumsum(counts[:-1])) if counts else []

    def _within_embeddings(self, groups: Sequence[Group]) -> tuple[Sequence[Group], Bools]:
        """Empty the completions that have, or whose prompt has, an id without an embedding; say which these are."""

        def is_known(ids: Sequence[int]) -> bool:
            return not len(ids) or max(ids) < self._embeddings

        kept, unknown = [], []
        for group in groups:
            has_prompt = is_known(group.prompt_ids)
            outside = [not (has_prompt and is_known(completion)) for completion in group.completions]
            completions = [[] if out else one for one, out in zip(group.completions, outside, strict=True)]
            kept.append(group._replace(completions=completions) if any(outside) else group)
            unknown += outside
        return kept, np.array(unknown, dtype=bool)

    def _sums(self, groups: Sequence[Group], say: Progress) -> Floats:
        """[N] sums of all completions, group after group."""
        counts = [len(group.completions) for group in groups]
        while True:
            told, sums = _Told(say), np.zeros(sum(counts))
            try:
                if self.packed:
                    self._score_packs(packs(groups, self.pack_tokens), sums, told)
                else:
                    with _evaluating(self.model, None):
                        for owner, (prompt_ids, completion, start) in enumerate(_one_by_one(groups)):
                            sums[owner] = self._score_one(prompt_ids, completion, start)
                            told(1, len(completion) - start)
            except torch.OutOfMemoryError:
                if self.pack_tokens // 2 < _SMALLEST_PACK:
                    raise
                self.pack_tokens //= 2
                logger.warning("out of memory: from now on %d tokens at once", self.pack_tokens)
                torch.cuda.empty_cache()
                say(-told.completions, 0)  # they are scored again; tokens count work, which was done
            else:
                return sums

    def _score_packs(self, stream: Iterator[Pack], sums: Floats, say: Progress) -> None:
        earlier: dict[int, dict[int, KeyValue]] = {}
        with _evaluating(self.model, packed_attention.NAME), self._linears.used():
            for pack in stream:
                layout = PackedLayout(pack, earlier, self.device)
                body = self.model.base_model(
                    input_ids=torch.tensor([pack.input_ids], device=self.device),
                    position_ids=torch.tensor([pack.position_ids], device=self.device),
                    use_cache=False,
                    packed_layout=layout,
                )
                np.add.at(sums, pack.owner, self._target_logprobs(body.last_hidden_state[0], pack))
                # What no later pack continues is let go, so that memory does not grow with the corpus.
                earlier = {
                    segment: kept for segment, kept in (earlier | layout.kept).items() if segment in pack.continued
                }
                say(pack.finished, len(pack.target))

    def _target_logprobs(self, hidden: Tensor, pack: Pack) -> Floats:
        """[K] nats of a pack's targets, from hidden states [T, size]; the LM head sees each predicting row once."""
        predicting, position = np.unique(np.asarray(pack.row, dtype=np.int64), return_inverse=True)
        hidden = hidden[torch.from_numpy(predicting).to(hidden.device)]
        pieces = []
        # In chunks: the logits of 8,192 rows over a vocabulary of 128,000 take 4 GB.
        for start in range(0, len(predicting), self._rows_at_once):
            chunk = hidden[start : start + self._rows_at_once]
            first, last = np.searchsorted(position, (start, start + len(chunk)))
            logits = self._head(inputs_embeds=chunk[None], use_cache=False).logits[0]
            row = torch.from_numpy(position[first:last] - start).to(logits.device)
            target = torch.tensor(pack.target[first:last], device=logits.device)
            pieces.append(_log_softmax_at(logits, row, target))
        return torch.cat(pieces).cpu().numpy() if pieces else np.zeros(0)

    def _score_one(self, prompt_ids: Sequence[int], completion: Sequence[int], start: int = 0) -> float:
        if start >= len(completion):
            return 0.0
        if not len(prompt_ids):
            raise ValueError("a prompt without tokens predicts nothing: render it with the chat template")
        ids = torch.tensor([[*prompt_ids, *completion]], device=self.device)
        first = len(prompt_ids) + start
        logits = self.model(input_ids=ids, use_cache=False).logits[0, first - 1 : -1]
        total = 0.0
        for done in range(0, len(logits), self._rows_at_once):
            chunk = logits[done : done + self._rows_at_once].clone()  # as they are overwritten
            target = ids[0, first + done :][: len(chunk)].to(chunk.device)
            total += float(_log_softmax_at(chunk, torch.arange(len(chunk), device=chunk.device), target).sum())
        return total

    def _probe(self, vocabulary: int) -> str | None:
        """Why packs of a few tokens, cut within prompt and completion, do not score as the model's own eager forward does."""
        probe = [
            Group(
                [i % vocabulary for i in prompt], [[i % vocabulary for i in completion] for completion in completions]
            )
            for prompt, completions, _ in _PROBE
        ]
        exact = self.model.dtype == torch.float32
        return self._deviates(probe, 3, relative=0.02, absolute=1e-3 if exact else 0.25)

    def _deviates(self, groups: Sequence[Group], pack_tokens: int, relative: float, absolute: float) -> str | None:
        """In what packs deviate from the model's own eager forward by more than a share of a score, and nats, a completion."""
        expected, seen = (np.zeros(sum(len(group.completions) for group in groups)) for _ in range(2))
        with _evaluating(self.model, "eager"):
            expected[:] = [self._score_one(*one) for one in _one_by_one(groups)]
        try:
            self._score_packs(packs(groups, pack_tokens), seen, _say_nothing)
        except NotPackableError as error:
            return f"its attention {error}"
        # What a model's own layers raise on one long row of tokens, or without a cache or mask that they count on.
        except (TypeError, AttributeError, KeyError, IndexError, ValueError, RuntimeError) as error:
            return f"its layers do not run on packs ({type(error).__name__}: {(str(error).splitlines() or [''])[0]})"
        if np.allclose(seen, expected, rtol=relative, atol=absolute, equal_nan=True):
            return None
        return f"packed scores deviate from its own forward, by {np.abs(seen - expected).max():.2g} nats"


class _CopyScorer(CompletionScorer):
    """Scores a small copy on packs, to see whether they are exact for its kind of model."""

    def _find_why_not_packed(self, vocabulary: int) -> str | None:
        return None  # that is what is to be found out

    def why_not(self) -> str | None:
        """What deviates by more than _PER_TOKEN on sequences beyond the copy's windows, in packs cut within them or not."""
        rng = np.random.default_rng(0)

        def ids(count: int) -> list[int]:
            return [int(token) for token in rng.integers(FIRST_ID, VOCABULARY, count)]

        # Prompts and completions that end before, at and after the windows; completions of a group are about as long, because
        # the tolerance is that of the shortest.
        sizes = [(WINDOW - 5, [4, 5]), (5, [WINDOW + 40, WINDOW + 50]), (3 * WINDOW - 2, [1, 1, 2]), (WINDOW, [37, 30])]
        groups = [Group(ids(prompt), [ids(completion) for completion in completions]) for prompt, completions in sizes]
        for pack_tokens in (WINDOW + 13, 4096):
            for group in groups:
                allowed = _PER_TOKEN * min(map(len, group.completions))
                deviates = self._deviates([group], pack_tokens, relative=0.0, absolute=allowed)
                if deviates:
                    return deviates
        return None


_decided: dict[tuple[type, str], str | None] = {}


def _why_not_by_copy(model: PreTrainedModel) -> str | None:
    """Why a model of this class and config is not packed; None if it may be. Remembered while the process lives."""
    key = (type(model), model.config.to_json_string(use_diff=False))
    if key not in _decided:
        try:
            _decided[key] = _CopyScorer(small_copy(model)).why_not()
        except NoCopyError as error:
            _decided[key] = str(error)
    return _decided[key]


def _one_by_one(groups: Sequence[Group]) -> Iterator[tuple[Sequence[int], Sequence[int], int]]:
    """Prompt, completion and first scored token of all completions, group after group."""
    for group in groups:
        for completion, start in zip(group.completions, group.first_scored, strict=True):
            yield group.prompt_ids, completion, start


def _say_nothing(completions: int, tokens: int) -> None:
    pass


class _Told:
    """Passes progress on and counts the completions, so that they can be taken back."""

    def __init__(self, say: Progress) -> None:
        self.say, self.completions = say, 0

    def __call__(self, completions: int, tokens: int) -> None:
        self.completions += completions
        self.say(completions, tokens)


def _log_softmax_at(logits: Tensor, row: Tensor, target: Tensor) -> Tensor:
    """[K] float64 log-softmax of logits [C, vocabulary] at (row, target); overwrites logits.

    The largest logit is subtracted before anything is rounded, and sums over tokens follow in float64.
    """
    logits = logits.float()
    top = logits.amax(-1, keepdim=True)
    above = logits.sub_(top)[row, target].double()
    return above - logits.exp_().sum(-1).double().log()[row]


class _HiddenStateAlone(BaseModelOutputWithPast):
    """A body's output of which everything else (router logits, cross-attentions, ...) is None."""

    def __getattr__(self, name: str) -> None:
        if name.startswith("__"):
            raise AttributeError(name)


class _PassThrough(nn.Module):
    def forward(self, *_: Any, inputs_embeds: Tensor, **__: Any) -> BaseModelOutputWithPast:
        return _HiddenStateAlone(last_hidden_state=inputs_embeds)  # type: ignore[arg-type]


def _without_body(model: PreTrainedModel) -> PreTrainedModel:
    """The model from its last hidden state on, sharing all weights.

    So what a model does to its logits besides the LM head (Gemma 2 caps them, Cohere and Granite scale them) stays its own code.
    """
    head = copy.copy(model)
    vars(head).pop(
        "forward", None
    )  # accelerate binds that of a model spread over devices to the whole model, body included
    head._modules = {**model._modules, model.base_model_prefix: _PassThrough()}
    return head


def why_not_packed(model: PreTrainedModel) -> str | None:
    """Say why responses cannot be scored in packs under a model of this class and config, whose weights need not be there."""
    return _why_not_by_config(model) or _why_not_by_copy(model)


def _why_not_by_config(model: PreTrainedModel) -> str | None:
    """What a model's class and config say against packs: tokens meet elsewhere than in attention that knows of packs."""
    config = model.config.get_text_config()
    if mixed := mixes_rows(model.config):
        return mixed
    if not model._supports_attention_backend or not hasattr(model, model.base_model_prefix):
        return "its attention is not transformers' interface"
    other = set(getattr(config, "layer_types", None) or ()) - _PACKABLE_LAYERS
    if other:
        return f"its layers are of other types than attention over all tokens or a window: {', '.join(sorted(other))}"
    ropes = {str(rope.get("rope_type")) for rope in text_ropes(config)} & ROPE_OF_THE_BATCH
    if ropes:
        return f"its rotary embedding ({', '.join(ropes)}) depends on the longest sequence of a batch"
    return None


@contextlib.contextmanager
def _evaluating(model: PreTrainedModel, attention: str | None) -> Iterator[None]:
    """Run without gradients and dropout, under the named attention; afterwards the model is as it was."""
    training, before = model.training, model.config._attn_implementation
    model.eval()
    try:
        if attention is not None:
            model.set_attn_implementation(attention)
        with torch.no_grad():
            yield
    finally:
        model.set_attn_implementation(before)
        model.train(training)
