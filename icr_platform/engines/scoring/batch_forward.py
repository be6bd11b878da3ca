"""The forward of a batch of rows, padded on the right: hidden states, or logits of models whose code computes both together."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from icr_platform.engines.scoring.batches import Batch, Sharing
from icr_platform.engines.scoring.packing import TokenIds
from icr_platform.engines.scoring.transfers import on_device
from icr_platform.models.small_copy import ROPE_OF_THE_BATCH, text_ropes

_LONGEST_SEEN = "max_seq_len_cached"


class BatchForward:
    """Runs batches, and keeps what a model keeps of a prompt while batches of its completions follow one another."""

    def __init__(self, model: PreTrainedModel, sharing: Sharing, device: torch.device) -> None:
        self._model, self._sharing, self._device = model, sharing, device
        self._ropes = ropes_that_remember(model)
        self._prompt: tuple[TokenIds, Any, Tensor] | None = None

    def outputs(self, batch: Batch) -> Tensor:
        """[outputs of the batch, size] hidden states, or, where these are not computed apart, [outputs, vocabulary] logits.

        Raises:
            ValueError: the model keeps nothing of a prompt.
        """
        forget(self._ropes)
        if not len(batch.prompt):
            return self._run(input_ids=self._padded(batch), use_cache=False)[0].flatten(0, 1)
        if self._prompt is None or self._prompt[0] is not batch.prompt:
            self._prompt = None  # before the next one takes memory
            last, cache = self._run(input_ids=on_device([batch.prompt], self._device), use_cache=True)
            if cache is None:
                raise ValueError("it keeps nothing of a prompt")
            self._prompt = (batch.prompt, cache, last[0, -1:])
        _, cache, last = self._prompt
        if not batch.rows:
            return last
        rows = torch.zeros(len(batch.rows), dtype=torch.long, device=self._device)
        cache = copy.deepcopy(cache)  # which the forward appends to
        (cache.batch_select_indices if self._sharing.prompt == "select" else cache.reorder_cache)(rows)
        continued, _ = self._run(input_ids=self._padded(batch), past_key_values=cache, use_cache=True)
        return torch.cat([last, continued.flatten(0, 1)])

    def _run(self, **inputs: Any) -> tuple[Tensor, Any]:
        """[rows, longest, size] outputs, and what is kept of them."""
        if self._sharing.is_split:
            body = getattr(self._model, body_name(self._model))(**inputs)
            return body.last_hidden_state, getattr(body, "past_key_values", None)
        output = self._model(**inputs)
        return output.logits, getattr(output, "past_key_values", None)

    def _padded(self, batch: Batch) -> Tensor:
        """[rows, longest] ids. A row is padded with its last token: no id that means something else to the model."""
        rows = [[*row, *row[-1:] * (batch.longest - len(row))] for row in batch.rows]
        return on_device(rows, self._device)


def body_name(model: PreTrainedModel) -> str:
    """What a model calls the part of it before the LM head; some have it under another name than their `base_model_prefix`.

    Raises:
        AttributeError: it has no such part.
    """
    if hasattr(model, model.base_model_prefix):
        return model.base_model_prefix
    found = next((name for name, part in model.named_children() if isinstance(part, PreTrainedModel)), None)
    if found is None:
        raise AttributeError("it has no body apart from its head")
    return found


def ropes_that_remember(model: PreTrainedModel) -> list[nn.Module]:
    """Modules whose rotary frequencies are those of the longest sequence that they have seen."""
    if not any("dynamic" in str(rope.get("rope_type")) for rope in text_ropes(model.config.get_text_config())):
        return []
    return [module for module in model.modules() if hasattr(module, _LONGEST_SEEN)]


def forget(ropes: list[nn.Module]) -> None:
    """Let the next forward compute its frequencies from its own length, whatever was scored before."""
    for rope in ropes:
        for name in [name for name in vars(rope) if name.endswith(_LONGEST_SEEN)]:
            setattr(rope, name, 0)


@contextlib.contextmanager
def frequencies_kept(model: PreTrainedModel) -> Iterator[None]:
    """Leave such a model with the frequencies that it had, whatever was scored while the block lasted."""
    before = [(rope, dict(vars(rope)), dict(rope._buffers)) for rope in ropes_that_remember(model)]
    try:
        yield
    finally:
        for rope, attributes, buffers in before:
            vars(rope).update(attributes)
            rope._buffers.clear()
            rope._buffers.update(buffers)


def longest_of_frequencies(model: PreTrainedModel) -> int | None:
    """Tokens up to which rotary frequencies are the same for all sequences; None where they always are."""
    config = model.config.get_text_config()
    limits = [
        limit
        for rope in text_ropes(config)
        if rope.get("rope_type") in ROPE_OF_THE_BATCH
        for limit in (
            rope.get("original_max_position_embeddings"),
            getattr(config, "original_max_position_embeddings", None),
            config.max_position_embeddings,
        )
        if limit
    ]
    return min(map(int, limits), default=None)
