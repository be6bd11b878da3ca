"""Any local model as a judge: it is asked for the probabilities of the labels m and M as the first token of its answer."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from icr_platform.core.config import CHAT_DEFAULTS, ChatSettings
from icr_platform.core.errors import InputError
from icr_platform.engines.judging.judge_chat import load_judge_chat
from icr_platform.engines.judging.pairwise import (
    LABELS,
    MIN_MASS,
    Judgment,
    Pair,
    Template,
    orders_of,
    preference_from_labels,
)
from icr_platform.engines.judging.settings import PairwiseJudging
from icr_platform.models.chat import encode_messages
from icr_platform.models.context import context_of
from icr_platform.models.hub import origin_of
from icr_platform.models.left_padding import find_batching, next_logits
from icr_platform.models.loading import check_weights, load_model
from icr_platform.models.not_finite import are_finite, not_finite

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_BATCH_TOKENS = 16384


def label_ids(tokenizer: PreTrainedTokenizerBase, label: str) -> list[int]:
    """Ids of all tokens that read as `label` once spaces are off (`m`, ` m`, `▁m`).

    Raises:
        InputError: the tokenizer has no such token.
    """
    texts = tokenizer.batch_decode([[index] for index in range(len(tokenizer))])
    found = [index for index, text in enumerate(texts) if text.strip() == label]
    if not found:
        raise InputError(
            f"{tokenizer.name_or_path}: no single token for the label {label!r}; choose another judge_model"
        )
    return found


def check(settings: PairwiseJudging, template: Template) -> tuple[str, ...]:
    """Say in what the judge is asked otherwise than configured; raise InputError when the model is missing or incomplete, or its
    chat template does not fit the judge's task."""
    if not settings.judge_model:
        raise InputError("config: field 'judge_model' is missing for the logprob judge; give --judge-model")
    roles = [role for role, _ in template.messages]
    chat = load_judge_chat(settings.judge_model, roles, settings, settings.judge_chat_template_kwargs)
    check_weights(settings.judge_model, settings.trust_remote_code)
    return chat.notes


class LocalJudge:
    """A causal language model that judges; deterministic on a CPU.

    Args:
        model: folder or hub name.
        template: what it is asked.
        both_orders, seed: see `orders_of`.
        dtype, device: see `models.load_model`.
        min_mass: probability that both labels must hold together.
        chat, template_arguments: what its chat template is rendered with, see `judge_chat.judge_chat`.
    """

    def __init__(
        self,
        model: str,
        template: Template,
        both_orders: bool,
        seed: int,
        dtype: str,
        device: str,
        min_mass: float = MIN_MASS,
        chat: ChatSettings = CHAT_DEFAULTS,
        template_arguments: Mapping[str, Any] | None = None,
    ) -> None:
        self.name, self.min_mass = Path(origin_of(model).name).name, min_mass
        self.template, self.both_orders, self.seed = template, both_orders, seed
        roles = [role for role, _ in template.messages]
        self.tokenizer, self.opening, _ = load_judge_chat(model, roles, chat, template_arguments or {})
        self.model = load_model(model, dtype, device, chat.trust_remote_code)
        self.batching = find_batching(self.model)
        self._has_worked = False
        self.labels = [label_ids(self.tokenizer, label) for label in LABELS]
        self.limit = context_of(self.model.config) or 1 << 30

    @classmethod
    def from_settings(cls, settings: PairwiseJudging, template: Template, seed: int) -> LocalJudge:
        """The judge an evaluation asks for."""
        return cls(
            settings.judge_model, template, settings.both_orders, seed, settings.dtype, settings.device,
            settings.judge_min_mass, settings, settings.judge_chat_template_kwargs,
        )  # fmt: skip

    def judge(self, parts: Iterable[Sequence[Pair]]) -> Iterator[list[Judgment]]:
        """Yield the judgments of each part. No batch crosses parts, so a resumed run computes what the first would have."""
        for part in parts:
            asked = [(pair, order) for pair in part for order in orders_of(pair, self.both_orders, self.seed)]
            prompts = [
                encode_messages(self.tokenizer, self.template.render(pair, order)) + self.opening
                for pair, order in asked
            ]
            found = iter(self._probabilities([ids for ids in prompts if len(ids) <= self.limit]))
            judgments = []
            for (pair, order), ids in zip(asked, prompts, strict=True):
                if len(ids) <= self.limit:
                    m, M, first = next(found)
                    value, mass, outcome, detail = preference_from_labels(m, M, order, self.min_mass)
                    read = len(ids)
                    if outcome == "parse_error":
                        detail += f"; the answer begins {self.tokenizer.decode([first])!r}"
                else:  # cut short, a prompt would lose an output: that pair has no judgment, and the others do
                    value, mass, outcome, read = None, None, "api_error", 0
                    detail = f"{len(ids)} tokens do not fit the judge's {self.limit}"
                key = (pair.language, pair.prompt_id, pair.sample_index, order)
                judgments.append(Judgment(*key, value, mass, outcome, self.name, read, 0, detail))
            yield judgments

    def _probabilities(self, prompts: list[list[int]]) -> list[tuple[float, float, int]]:
        """Return (P(m), P(M), the likeliest id) of the token after each prompt, batched by length."""
        import torch

        order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
        found: list[tuple[float, float, int]] = [(0.0, 0.0, 0)] * len(prompts)
        start = 0
        while start < len(order):
            # As many as fit when padded to the longest, which sorting puts last; one always does.
            stop = start + 1
            while stop < len(order) and len(prompts[order[stop]]) * (stop + 1 - start) <= _BATCH_TOKENS:
                stop += 1
            batch = order[start:stop]
            with torch.inference_mode():
                logits = next_logits(self.model, [prompts[index] for index in batch], self.batching)
            self._has_worked |= bool(are_finite(logits).any())
            if not self._has_worked:
                raise not_finite(self.model)
            # A label is whatever the tokenizer spells as m or M (`m`, ` m`), so its probability is a sum.
            probabilities = logits.double().softmax(-1).cpu()
            m, M = (probabilities[:, ids].sum(-1).tolist() for ids in self.labels)
            for index, *probability, likeliest in zip(batch, m, M, probabilities.argmax(-1).tolist(), strict=True):
                found[index] = (*probability, likeliest)
            start = stop
        return found
