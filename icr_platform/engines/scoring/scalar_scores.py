"""Scores of conversations under a reward model, in padded batches of about the same length.

A score is what the model's own forward gives for the conversation alone. Whether sequences of different lengths may share a batch, and on
which side they are padded, is tried on a small copy: causal models count from the left or the right, encoders look at their first token,
some mix padding in, and some find the end of a text by its ids. Where nothing else holds, sequences of one length share a batch, or none do.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from icr_platform.core.arrays import Floats
from icr_platform.core.errors import InputError
from icr_platform.engines.scoring.reward_texts import RewardText
from icr_platform.models.not_finite import not_finite
from icr_platform.models.quantised import mixes_rows
from icr_platform.models.small_copy import (
    FIRST_ID,
    ROPE_OF_THE_BATCH,
    VOCABULARY,
    WINDOW,
    NoCopyError,
    kind_of,
    small_copy,
    text_ropes,
)

if TYPE_CHECKING:
    from transformers import PreTrainedModel

logger = logging.getLogger(__name__)

Progress = Callable[[int, int], None]
Sharing = Literal["left", "right", "equal", "alone"]

_CPU_BATCH = 2048  # tokens whose activations stay near the cores
_TOLERANCE = 2e-5  # by which a score of a small copy, of about 1, may change with its batch


class Batching(NamedTuple):
    """What may share a batch.

    sharing: sequences of all lengths, padded on the left or on the right; those of an equal length; or none.
    why: that is not more; '' where sequences of all lengths share.
    """

    sharing: Sharing
    why: str = ""


class ScalarScorer:
    """Scores sequences under one reward model, and remembers the batch that fits into memory.

    label: whose output is the score; None: the only one that there is.
    """

    def __init__(self, model: PreTrainedModel, batch_tokens: int = 8192, label: int | None = 0) -> None:
        """Raises InputError where the model gives no number for a text, or several and no label says which."""
        self.model, self.label = model, label
        embedding = model.get_input_embeddings()
        self.device: torch.device = next(embedding.parameters()).device
        self._embeddings = next(embedding.parameters()).shape[0]
        self.batch_tokens = min(batch_tokens, _CPU_BATCH) if self.device.type == "cpu" else batch_tokens
        self.batching = find_batching(model)
        self._has_worked = False
        with torch.inference_mode():
            self._outputs([RewardText((1, 2, 3))], "left")  # what its output is shows before hours of work

    def score(self, texts: Sequence[RewardText], progress: Progress | None = None) -> Floats:
        """Score N sequences, each by itself; `progress` is told the sequences and tokens done since it was last called.

        A score is NaN where the model's output is, and where a token has no embedding. When CUDA memory runs out the batches are
        halved, for good.

        Returns: [N] float64.

        Raises:
            IcrError: every score is NaN, and so was every one before.
        """
        say = progress or (lambda sequences, tokens: None)
        scores = np.full(len(texts), np.nan)
        known = [
            index
            for index, text in enumerate(texts)
            if text.token_ids and min(text.token_ids) >= 0 and max(text.token_ids) < self._embeddings
        ]
        say(len(texts) - len(known), 0)
        order = sorted(known, key=lambda index: len(texts[index].token_ids))
        lengths = [len(texts[index].token_ids) for index in order]
        done = 0
        while done < len(order):
            chosen = order[done : done + self._next_batch(lengths, done)]
            try:
                with torch.inference_mode():
                    found = self._outputs([texts[index] for index in chosen], self.batching.sharing)
            except torch.OutOfMemoryError:
                if len(chosen) == 1:
                    raise
                self.batch_tokens = max(1, self.batch_tokens // 2)
                torch.cuda.empty_cache()
                continue
            scores[chosen] = found.double().cpu().numpy()
            say(len(chosen), sum(lengths[done : done + len(chosen)]))
            done += len(chosen)
        scores[~np.isfinite(scores)] = np.nan
        self._has_worked |= bool(np.isfinite(scores).any())
        if known and not self._has_worked:
            raise not_finite(self.model)
        return scores

    def _next_batch(self, lengths: Sequence[int], first: int) -> int:
        """How many sequences of these lengths, the shortest first, go through the model together from `first` on; at least one."""
        if self.batching.sharing == "alone":
            return 1
        end = first + 1
        while end < len(lengths) and (end + 1 - first) * lengths[end] <= self.batch_tokens:
            if self.batching.sharing == "equal" and lengths[end] != lengths[first]:
                break
            end += 1
        return end - first

    def _outputs(self, texts: Sequence[RewardText], sharing: Sharing) -> Tensor:
        """[B] scores of a batch."""
        output = self.model(**padded(self.model, texts, sharing))
        return score_of(output, self.model, self.label)


def padded(model: PreTrainedModel, texts: Sequence[RewardText], sharing: Sharing) -> dict[str, Any]:
    """The inputs of a model's forward: [B, longest] ids, mask and, where it takes them, positions and segments."""
    embedding = model.get_input_embeddings()
    device = next(embedding.parameters()).device
    longest = max(len(text.token_ids) for text in texts)
    pad = model.config.get_text_config().pad_token_id
    fill = pad if isinstance(pad, int) and 0 <= pad < next(embedding.parameters()).shape[0] else 0

    def rows(values: Sequence[Sequence[int]], padding: int) -> Tensor:
        room = [[padding] * (longest - len(row)) for row in values]
        filled = [
            [*empty, *row] if sharing == "left" else [*row, *empty] for row, empty in zip(values, room, strict=True)
        ]
        return torch.tensor(filled, device=device)

    mask = rows([[1] * len(text.token_ids) for text in texts], 0)
    inputs: dict[str, Any] = {"input_ids": rows([text.token_ids for text in texts], fill), "attention_mask": mask}
    taken = inspect.signature(model.forward).parameters
    if sharing == "left" and len(texts) > 1 and "position_ids" in taken:
        inputs["position_ids"] = (mask.cumsum(-1) - 1).clamp(min=0)
    if "use_cache" in taken:
        inputs["use_cache"] = False
    if all(text.types is not None for text in texts) and "token_type_ids" in taken:
        inputs["token_type_ids"] = rows([text.types or () for text in texts], 0)
    return inputs


def score_of(output: Any, model: PreTrainedModel, label: int | None) -> Tensor:
    """[B] scores of a forward's output: the label's logit, or its log-probability where labels exclude each other.

    Code of a model's own may give a tuple, or name what it means by `score` (ArmoRM).

    Raises:
        InputError: it gives no number for each text, or several and no label says which.
    """
    named = getattr(output, "score", None) if label is None else None
    logits = named if isinstance(named, Tensor) else getattr(output, "logits", None)
    if logits is None and not hasattr(output, "logits"):
        logits = output if isinstance(output, Tensor) else output[0]
    name = model.name_or_path or type(model).__name__
    if not isinstance(logits, Tensor) or logits.dim() > 2:
        shape = list(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise InputError(
            f"{name}: gives {shape} for a text, and no number; choose a sequence-classification reward model"
        )
    logits = logits.float()
    if logits.dim() == 1:
        return logits
    if logits.shape[1] > 1 and label is None:
        raise InputError(
            f"{name}: gives {logits.shape[1]} numbers, and one must be the reward; name it with --reward-label"
        )
    if label is not None and label >= logits.shape[1]:
        raise InputError(f"{name}: gives {logits.shape[1]} numbers, and no number {label}; give another --reward-label")
    if logits.shape[1] > 1 and getattr(model.config, "problem_type", None) == "single_label_classification":
        logits = logits.log_softmax(-1)
    return logits[:, label or 0]


_found: dict[tuple[type, str], Batching] = {}


def find_batching(model: PreTrainedModel) -> Batching:
    """Try what sequences of a reward model of this class and config may share a batch, once in a process; say what slows it down."""
    key = kind_of(type(model), model.config)
    if key not in _found:
        if mixed := mixes_rows(model.config):
            _found[key] = Batching("alone", mixed)
        else:
            try:
                _found[key] = _try(small_copy(model), _ropes_of_the_batch(model))
            except NoCopyError as error:
                _found[key] = Batching("alone", str(error))
        if why := _found[key].why:
            shared = "only with others of its length" if _found[key].sharing == "equal" else "one at a time"
            logger.warning("%s scores a response %s: %s", type(model).__name__, shared, why)
    return _found[key]


def _ropes_of_the_batch(model: PreTrainedModel) -> str:
    """Rotary embeddings whose frequencies are those of the longest row of a batch, which no short sequence shows."""
    kinds = {str(rope.get("rope_type")) for rope in text_ropes(model.config.get_text_config())} & ROPE_OF_THE_BATCH
    return ", ".join(sorted(kinds))


@torch.inference_mode()
def _try(copy: PreTrainedModel, ropes: str) -> Batching:
    generator = torch.Generator().manual_seed(0)
    texts = [
        RewardText(tuple(torch.randint(FIRST_ID, VOCABULARY, (length,), generator=generator).tolist()))
        for length in (3, WINDOW - 4, 3 * WINDOW - 2, WINDOW + 13, 9, 9, WINDOW + 13)
    ]
    ways: list[tuple[Sharing, list[list[RewardText]]]] = [("left", [texts]), ("right", [texts])]
    equal = [[text for text in texts if len(text.token_ids) == length] for length in (9, WINDOW + 13)]
    why = [f"its rotary embedding ({ropes}) depends on the longest sequence of a batch"] if ropes else []
    for sharing, batches in ([] if ropes else ways) + [("equal", equal)]:
        if (said := _why_not(copy, batches, sharing)) is None:
            return Batching(sharing, "" if sharing in ("left", "right") else why[-1])
        why.append(said)
    return Batching("alone", why[-1])


def _why_not(copy: PreTrainedModel, batches: Sequence[Sequence[RewardText]], sharing: Sharing) -> str | None:
    """What speaks against a way to share batches; None: nothing does."""
    try:
        for batch in batches:
            alone = torch.cat([_all_outputs(copy, [text], sharing) for text in batch])
            together = _all_outputs(copy, batch, sharing)
            largest = float((alone - together).abs().max()) / max(1.0, float(alone.abs().max()))
            if not largest <= _TOLERANCE:
                return f"a score changes by up to {largest:.2g} with what it is batched with"
    except Exception as error:  # noqa: BLE001 - whatever a model's code raises on rows or masks unknown to it
        return f"it does not run so ({type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]})"
    return None


def _all_outputs(model: PreTrainedModel, texts: Sequence[RewardText], sharing: Sharing) -> Tensor:
    """[B, labels] of a batch."""
    output = model(**padded(model, texts, sharing))
    logits = getattr(output, "logits", None)
    found: Tensor = (logits if logits is not None else output[0]).double()
    return found.reshape(len(texts), -1)
