"""Completion log-probabilities of token ids under a model.

The score of a completion y after a prompt x is `log p(y | x)`, the sum over *all* tokens of y, the first and the
end-of-turn token included, of their log-probabilities in nats (arXiv 2503.04647, equation 1); of a completion that begins with
context, such as a thought z, `log p(y | x, z)` over the tokens behind it. It does not depend on what else is scored with it, up
to rounding in the model's own precision: below 2e-5 nats per token in float32.
"""

from __future__ import annotations

import contextlib
import copy
import itertools
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.modeling_outputs import BaseModelOutputWithPast
from transformers.utils.import_utils import is_triton_available

from icr_platform.core.arrays import Bools, Floats
from icr_platform.engines.scoring import packed_attention
from icr_platform.engines.scoring.batch_forward import (
    BatchForward,
    body_name,
    forget,
    frequencies_kept,
    longest_of_frequencies,
    ropes_that_remember,
)
from icr_platform.engines.scoring.batches import Batch, Sharing, batches
from icr_platform.engines.scoring.choice import Choice, rows_of_logits
from icr_platform.engines.scoring.compiled_blocks import compiled_blocks
from icr_platform.engines.scoring.cpu_linear import OneDnnLinears
from icr_platform.engines.scoring.packed_attention import KeyValue, NotPackableError, PackedLayout
from icr_platform.engines.scoring.packing import Group, Pack, packs
from icr_platform.engines.scoring.second_forwards import SecondForwards
from icr_platform.engines.scoring.tiled_head import FoldedHead, TiledHead, plain_head
from icr_platform.engines.scoring.transfers import fetching, on_device
from icr_platform.models.not_finite import not_finite
from icr_platform.models.quantised import mixes_rows
from icr_platform.models.small_copy import (
    FIRST_ID,
    VOCABULARY,
    WINDOW,
    NoCopyError,
    kind_of,
    small_copy,
)

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["CompletionScorer", "Group", "completion_logprobs"]

AttentionInterface.register(packed_attention.NAME, packed_attention.packed_attention)
AttentionMaskInterface.register(packed_attention.NAME, packed_attention.packed_mask)

logger = logging.getLogger(__name__)

Progress = Callable[[int, int], None]
Way = Callable[[Sequence[Group], Floats], None]
"""Adds the nats of N completions to [N] sums."""

_CPU_PACK = 1024  # tokens whose activations stay near the cores
_SMALLEST_PACK = 64  # tokens
_GPU_LOGITS = 2**26  # numbers of [tokens, vocabulary] held at once
_PACKABLE_LAYERS = {"full_attention", "sliding_attention"}
# What a model's own layers raise on one long row of tokens, or without a cache, a mask or token ids that they count on.
_RAISED = (TypeError, AttributeError, KeyError, IndexError, ValueError, RuntimeError, AssertionError)
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
    cannot run on packs (its attention is not transformers' interface, or it mixes tokens elsewhere) is scored in batches by its own
    forward, of as many sequences as may share one: slower, but as exact. Both are tried on a small copy, over sequences longer than
    its windows, and by a probe of a few tokens on the model itself. `why_not_packed` says what was found; None: it is packed, but
    for sequences so long that they change its rotary frequencies. `sharing` says what the sequences of batches share.
    """

    def __init__(self, model: PreTrainedModel, batch_tokens: int = 8192) -> None:
        self.model = model
        # Of a model that is spread over devices, where its inputs go.
        self.device: torch.device = next(model.get_input_embeddings().parameters()).device
        self.pack_tokens = min(batch_tokens, _CPU_PACK) if self.device.type == "cpu" else batch_tokens
        vocabulary = model.config.get_text_config().vocab_size
        is_cpu = self.device.type == "cpu"
        self.rows_at_once = rows_of_logits(vocabulary) if is_cpu else max(1, _GPU_LOGITS // vocabulary)
        self._head = _without_body(model)
        self._plain_head = self._find_plain_head() if is_cpu or is_triton_available() else None
        self._multiply_by(OneDnnLinears(model, apart=self._plain_head))
        self._threads = 0  # as many as torch has
        self._attends_by_onednn = False
        self._ropes = ropes_that_remember(model)
        self._longest = longest_of_frequencies(model)
        self._embeddings = int(vocabulary)
        self._has_worked = False
        self.why_not_packed, self.sharing = self._find_ways(vocabulary)
        self.packed = self.why_not_packed is None
        if not self.packed:
            logger.warning(
                "%s is scored %s, not packed: %s", type(model).__name__, batched_how(self.sharing), self.why_not_packed
            )

    def _find_plain_head(self) -> nn.Linear | None:
        try:
            return plain_head(self.model.get_output_embeddings(), self._logits)
        except _RAISED:  # a model without a body runs whole, and not every one takes hidden states
            return None

    def _find_ways(self, vocabulary: int) -> tuple[str | None, Sharing]:
        """Why the model is not packed, None where it is, and what the sequences share that are scored in batches."""
        why = why_not_packed(self.model) or self._probe(vocabulary, self._packing(3))
        if why is None and self._longest is None:
            return None, Sharing()
        sharing = find_sharing(self.model)
        wrong = self._probe(vocabulary, self._batching(sharing, 16))
        return why, sharing if wrong is None else Sharing(why=wrong)

    @property
    def choice(self) -> Choice:
        """How it scores on a CPU."""
        return Choice(
            "onednn" if self._forwards else "torch",
            self._threads or torch.get_num_threads(),
            self.pack_tokens,
            "onednn" if self._attends_by_onednn else "torch",
        )

    def use(self, choice: Choice) -> None:
        """Score so from now on. oneDNN is used where it applies."""
        self._threads, self.pack_tokens = choice.threads, choice.pack_tokens
        self._attends_by_onednn = choice.attention == "onednn"
        if choice.library == "torch":
            self._multiply_by(SecondForwards())  # the copies of the weights go

    def compile_blocks(self) -> None:
        """Score through compiled feed-forward blocks and norms from now on, on a GPU."""
        self._multiply_by(compiled_blocks(self.model))

    def _multiply_by(self, forwards: SecondForwards) -> None:
        self._forwards = forwards
        self._tiles: TiledHead | FoldedHead | None = None
        head = self._plain_head
        if head is not None and self.device.type == "cpu":
            self._tiles = TiledHead(head, bool(forwards))
        elif head is not None and head.bias is None:  # whole tiles of a bias may be infinite
            self._tiles = FoldedHead(head)

    @contextlib.contextmanager
    def used(self, choice: Choice) -> Iterator[None]:
        """Let `forward` run as chosen, on packs, while the block lasts."""
        with contextlib.ExitStack() as stack:
            stack.enter_context(_evaluating(self.model, packed_attention.NAME))
            if choice.library == "onednn":
                stack.enter_context(self._forwards.used())
            elif isinstance(self._tiles, TiledHead):
                stack.enter_context(self._tiles.without_onednn())
            stack.enter_context(_threads(choice.threads))
            yield

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
        packed, batched = self._by_way(groups)
        while True:
            told, sums = _Told(say), np.zeros(sum(counts))
            try:
                with _threads(self._threads):
                    self._packing(self.pack_tokens, told)(packed, sums)
                    self._batching(self.sharing, self.pack_tokens, told)(batched, sums)
            except torch.OutOfMemoryError:
                if self.pack_tokens // 2 < _SMALLEST_PACK:
                    raise
                self.pack_tokens //= 2
                logger.warning("out of memory: from now on %d tokens at once", self.pack_tokens)
                torch.cuda.empty_cache()
                say(-told.completions, 0)  # they are scored again; tokens count work, which was done
            else:
                return sums

    def _by_way(self, groups: Sequence[Group]) -> tuple[Sequence[Group], Sequence[Group]]:
        """The groups as they are packed, and as they go into batches: completions that go the other way are empty."""
        if not self.packed:
            return [], groups
        if self._longest is None:
            return groups, []
        ways: tuple[list[Group], list[Group]] = [], []
        for group in groups:
            most = self._longest - len(group.prompt_ids)
            for is_long, way in enumerate(ways):
                kept = [one if (len(one) > most) == is_long else [] for one in group.completions]
                way.append(group._replace(completions=kept))
        return ways

    def _packing(self, tokens: int, say: Progress | None = None) -> Way:
        """Packs of so many tokens."""
        return lambda groups, sums: self._score_packs(packs(groups, tokens), sums, say or _say_nothing)

    def _batching(self, sharing: Sharing, tokens: int, say: Progress | None = None) -> Way:
        """Batches of at most so many tokens, or of one sequence."""
        # Where logits are not computed apart, all those of a batch are in memory.
        most = tokens if sharing.is_split else min(tokens, self.rows_at_once)
        tell = say or _say_nothing
        return lambda groups, sums: self._score_batches(batches(groups, most, sharing), sharing, sums, tell)

    def _score_batches(self, stream: Iterator[Batch], sharing: Sharing, sums: Floats, say: Progress) -> None:
        with _evaluating(self.model, None), self._forwards.used():
            forward = BatchForward(self.model, sharing, self.device)
            found = (
                (batch, self._target_logprobs(forward.outputs(batch), batch.row, batch.target, sharing.is_split))
                for batch in stream
            )
            _add_to(sums, found, say)

    def forward(
        self, pack: Pack, earlier: Mapping[int, dict[int, KeyValue]]
    ) -> tuple[Tensor, dict[int, dict[int, KeyValue]]]:
        """[T, size] hidden states of a pack, and the keys and values of its segments that later packs continue.

        earlier: keys and values of the segments that it continues.
        """
        layout = PackedLayout(pack, earlier, self.device)
        layout.by_onednn = self._attends_by_onednn
        forget(self._ropes)
        body = self.model.base_model(
            input_ids=on_device([pack.input_ids], self.device),
            position_ids=on_device([pack.position_ids], self.device),
            use_cache=False,
            packed_layout=layout,
        )
        return body.last_hidden_state[0], layout.kept

    def _score_packs(self, stream: Iterator[Pack], sums: Floats, say: Progress) -> None:
        with _evaluating(self.model, packed_attention.NAME), self._forwards.used():
            _add_to(sums, self._found_in_packs(stream), say)

    def _found_in_packs(self, stream: Iterator[Pack]) -> Iterator[tuple[Pack, Tensor]]:
        earlier: dict[int, dict[int, KeyValue]] = {}
        for pack in stream:
            hidden, kept = self.forward(pack, earlier)
            yield pack, self._target_logprobs(hidden, pack.row, pack.target)
            # What no later pack continues is let go, so that memory does not grow with the corpus.
            earlier = {segment: layers for segment, layers in (earlier | kept).items() if segment in pack.continued}

    def _target_logprobs(
        self, outputs: Tensor, rows: Sequence[int], targets: Sequence[int], is_hidden: bool = True
    ) -> Tensor:
        """[K] nats of targets, each predicted by one of the outputs, whose rows ascend; the LM head sees each of these once.

        outputs: [T, size] hidden states or, where `is_hidden` is False, [T, vocabulary] logits.
        """
        predicting, position = np.unique(np.asarray(rows, dtype=np.int64), return_inverse=True)
        row_of, place_of, target_of = (on_device(of, outputs.device) for of in (predicting, position, targets))
        pieces = [outputs.new_zeros(0, dtype=torch.float64)]
        # In chunks: the logits of 8,192 rows over a vocabulary of 128,000 take 4 GB.
        for start, stop in self._chunks(len(predicting), is_hidden):
            chunk = outputs[row_of[start:stop]]
            own = slice(*np.searchsorted(position, (start, stop)))
            place, target = place_of[own] - start, target_of[own]
            found = self.nats(chunk, place, target) if is_hidden else _log_softmax_at(chunk, place, target)
            pieces.append(found.to(outputs.device))
        return torch.cat(pieces)

    def _chunks(self, rows: int, is_hidden: bool) -> Iterator[tuple[int, int]]:
        """Where chunks of rows start and stop, of about one size: a few rows at the end would take as long as many."""
        most = self.rows_of_head if is_hidden else self.rows_at_once
        ends = np.linspace(0, rows, -(-rows // most) + 1).astype(int).tolist()
        return itertools.pairwise(ends)

    @property
    def rows_of_head(self) -> int:
        """Hidden states that go through the LM head together."""
        return self.rows_at_once if self._tiles is None else self._tiles.rows

    def nats(self, hidden: Tensor, place: Tensor, target: Tensor) -> Tensor:
        """[K] float64 log-probabilities of targets, each predicted by the hidden state [C, size] at a place."""
        if self._tiles is not None:
            return self._tiles.log_softmax_at(hidden, place, target)
        logits = self._logits(hidden[None])[0]
        return _log_softmax_at(logits, place.to(logits.device), target.to(logits.device))

    def _logits(self, hidden: Tensor) -> Tensor:
        """[1, C, vocabulary] that the model makes of hidden states [1, C, size]."""
        logits: Tensor = self._head(inputs_embeds=hidden, use_cache=False).logits
        return logits

    def _score_one(self, prompt_ids: Sequence[int], completion: Sequence[int], start: int = 0) -> float:
        """Nats of one completion by the model's own forward, which is what all other ways are compared with."""
        forget(self._ropes)
        ids = torch.tensor([[*prompt_ids, *completion]], device=self.device)
        first = len(prompt_ids) + start
        logits = self.model(input_ids=ids, use_cache=False).logits[0, first - 1 : -1]
        target = ids[0, first:].to(logits.device)
        return float(_log_softmax_at(logits.clone(), torch.arange(len(logits), device=logits.device), target).sum())

    def _probe(self, vocabulary: int, way: Way) -> str | None:
        """Why a way to score a few tokens, cut within prompt and completion, does not score as the model's own eager forward does."""
        probe = [
            Group(
                [i % vocabulary for i in prompt], [[i % vocabulary for i in completion] for completion in completions]
            )
            for prompt, completions, _ in _PROBE
        ]
        exact = self.model.dtype == torch.float32
        return self._deviates(probe, way, relative=0.02, absolute=1e-3 if exact else 0.25)

    def _deviates(self, groups: Sequence[Group], way: Way, relative: float, absolute: float | Floats) -> str | None:
        """In what a way deviates from the model's own eager forward by more than a share of a score, and nats, a completion."""
        expected, seen = (np.zeros(sum(len(group.completions) for group in groups)) for _ in range(2))
        with _evaluating(self.model, "eager"):
            expected[:] = [self._score_one(*one) for one in _one_by_one(groups)]
        try:
            way(groups, seen)
        except NotPackableError as error:
            return f"its attention {error}"
        except _RAISED as error:
            said = f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"
            return f"its layers do not run so ({said})"
        if np.allclose(seen, expected, rtol=relative, atol=absolute, equal_nan=True):
            return None
        return f"its scores deviate from its own forward, by {np.abs(seen - expected).max():.2g} nats"


class _CopyScorer(CompletionScorer):
    """Scores a small copy in packs and batches, to see which are exact for its kind of model."""

    def _find_ways(self, vocabulary: int) -> tuple[str | None, Sharing]:
        return None, Sharing()  # that is what is to be found out

    def why_not(self) -> str | None:
        """What deviates by more than _PER_TOKEN on sequences beyond the copy's windows, in packs cut within them or not."""
        # Prompts and completions that end before, at and after the windows.
        sizes = [(WINDOW - 5, [4, 5]), (5, [WINDOW + 40, WINDOW + 50]), (3 * WINDOW - 2, [1, 1, 2]), (WINDOW, [37, 30])]
        groups, _ = self._by_way(_random_groups(sizes))
        whys = (self._why_not(groups, self._packing(tokens)) for tokens in (WINDOW + 13, 4096))
        return next(filter(None, whys), None)

    def find_sharing(self) -> Sharing:
        """What sequences shorter and longer than the copy's windows may share, and why it is not more."""
        sizes = [(WINDOW - 5, [4, 5]), (5, [WINDOW + 40, WINDOW + 50]), (9, [WINDOW + 13, WINDOW + 13]),
                 (3 * WINDOW - 2, [WINDOW + 6, WINDOW + 5, 2, 1])]  # fmt: skip
        groups, why = _random_groups(sizes), list[str]()

        def holds(tried: Sharing, tokens: int) -> bool:
            said = self._why_not(groups, self._batching(tried, tokens))
            why.extend([said] if said else [])
            return said is None

        found = Sharing(longest=self._longest)
        if holds(found._replace(is_split=True), 1):
            found = found._replace(is_split=True)
        lengths: tuple[Literal["any", "equal"], ...] = ("any", "equal")
        found = next((tried for one in lengths if holds(tried := found._replace(lengths=one), 4096)), found)
        if found.is_split:
            ways: tuple[Literal["select", "reorder"], ...] = ("select", "reorder")
            # At so many tokens the last group, and no other, shares its prompt.
            found = next((tried for one in ways if holds(tried := found._replace(prompt=one), 400)), found)
        return found._replace(why="; ".join(dict.fromkeys(why)))

    def _why_not(self, groups: Sequence[Group], way: Way) -> str | None:
        lengths = [len(completion) for group in groups for completion in group.completions]
        return self._deviates(groups, way, relative=0.0, absolute=_PER_TOKEN * np.array(lengths, dtype=np.float64))


def _random_groups(sizes: Sequence[tuple[int, Sequence[int]]]) -> list[Group]:
    """Groups of a prompt's length and those of its completions, in plain words of a small copy."""
    rng = np.random.default_rng(0)

    def ids(count: int) -> list[int]:
        return [int(token) for token in rng.integers(FIRST_ID, VOCABULARY, count)]

    return [Group(ids(prompt), [ids(completion) for completion in completions]) for prompt, completions in sizes]


_decided: dict[tuple[type, str], str | None] = {}


def _why_not_by_copy(model: PreTrainedModel) -> str | None:
    """Why a model of this class and config is not packed; None if it may be. Remembered while the process lives."""
    key = kind_of(type(model), model.config)
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
    top = logits.amax(-1, keepdim=True)
    # Half precision becomes float32 in the subtraction itself: one pass over the vocabulary less, and the same numbers.
    difference = logits.sub_(top) if logits.dtype == torch.float32 else logits - top.float()
    above = difference[row, target].double()
    return above - difference.exp_().sum(-1).double().log()[row]


def _add_to(sums: Floats, found: Iterator[tuple[Pack | Batch, Tensor]], say: Progress) -> None:
    """Add the nats of packs or batches to the sums of their completions.

    Those of one are fetched when the next one is queued: a GPU that was waited for would have nothing to do meanwhile.
    """
    before: tuple[Pack | Batch, Callable[[], Floats]] | None = None
    for one in itertools.chain(((work, fetching(nats)) for work, nats in found), [None]):
        if before is not None:
            work, nats = before
            np.add.at(sums, work.owner, nats())
            say(work.finished, len(work.target))
        before = one


class _HiddenStateAlone(BaseModelOutputWithPast):
    """A body's output of which everything else (router logits, cross-attentions, ...) is None."""

    def __getattr__(self, name: str) -> None:
        if name.startswith("__"):
            raise AttributeError(name)


class _PassThrough(nn.Module):
    @property
    def decoder(self) -> _PassThrough:
        """What some models call within their body, and not the body itself (OPT)."""
        return self

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
    with contextlib.suppress(AttributeError):  # without a body, its own forward is all that there is
        head._modules = {**model._modules, body_name(model): _PassThrough()}
    return head


def why_not_packed(model: PreTrainedModel) -> str | None:
    """Say why responses cannot be scored in packs under a model of this class and config, whose weights need not be there."""
    return _why_not_by_config(model) or _why_not_by_copy(model)


_shared: dict[tuple[type, str], Sharing] = {}


def find_sharing(model: PreTrainedModel) -> Sharing:
    """Try what sequences of a model of this class and config may share in batches; remembered while the process lives."""
    key = kind_of(type(model), model.config)
    if key not in _shared:
        try:
            found = _CopyScorer(small_copy(model)).find_sharing()
        except NoCopyError as error:
            found = Sharing(why=str(error))
        if mixed := mixes_rows(model.config):  # which the copy, of plain weights, does not show
            found = Sharing(is_split=found.is_split, why=mixed)
        _shared[key] = found._replace(longest=longest_of_frequencies(model))
    return _shared[key]


def batched_how(sharing: Sharing) -> str:
    """How sequences share batches, in a few words."""
    how = {"any": "in batches", "equal": "in batches of sequences of one length", "alone": "one sequence at a time"}
    return how[sharing.lengths] + (", a prompt once" if sharing.prompt else "")


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
    return None


@contextlib.contextmanager
def _threads(count: int) -> Iterator[None]:
    """Let torch use so many threads; 0: as many as it has."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def _evaluating(model: PreTrainedModel, attention: str | None) -> Iterator[None]:
    """Run without gradients and dropout, under the named attention; afterwards the model is as it was."""
    training, before = model.training, model.config._attn_implementation
    model.eval()
    try:
        if attention is not None:
            model.set_attn_implementation(attention)
        with torch.no_grad(), frequencies_kept(model):
            yield
    finally:
        if attention is not None:
            model.set_attn_implementation(before)
        model.train(training)
