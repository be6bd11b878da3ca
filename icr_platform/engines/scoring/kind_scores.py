"""Log-probabilities of rows of texts, for every reward kind, each distinct (instruction, tokens) scored once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa

from icr_platform.core.arrays import Bools, Floats, Int32s, Ints
from icr_platform.core.artifacts import row_digest
from icr_platform.core.conversations import Conversation
from icr_platform.core.schemas import LOGPROBS
from icr_platform.engines.scoring.packing import Group
from icr_platform.models.chat import encode_prompt, encode_response
from icr_platform.models.thinking import encode_answer_prompt

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from icr_platform.engines.scoring.logprobs import CompletionScorer, Progress

SAMPLE_KEY = ["language", "prompt_id", "sample_index"]


@dataclass(frozen=True)
class PartPlan:
    """What is scored for R rows.

    groups: distinct prompts with their distinct completions.
    position: [R] for each kind, counting completions over all groups; -1 where a row is not scored.
    """

    groups: list[Group]
    position: dict[str, Ints]


class Scored(NamedTuple):
    """What a log-probability is of: a conversation, and the ids that were sampled, or a text where none were.

    start: index in token_ids of the first token that is scored; those before it, the thought, are context.
    """

    instruction: Conversation
    token_ids: Int32s | None
    text: str
    start: int = 0


class _Prompt(NamedTuple):
    """What completions follow: a conversation, and whether they are texts that no thought led to."""

    instruction: Conversation
    is_unthought: bool

    def token_ids(self, tokenizer: PreTrainedTokenizerBase) -> list[int]:
        return (encode_answer_prompt if self.is_unthought else encode_prompt)(tokenizer, self.instruction)


class _Completions:
    """Completions, and where they are scored from, by prompt, each kept once."""

    def __init__(self) -> None:
        self.by_prompt: dict[_Prompt, dict[tuple[tuple[int, ...], int], int]] = {}

    def add(self, prompt: _Prompt, token_ids: tuple[int, ...], start: int) -> tuple[_Prompt, int]:
        known = self.by_prompt.setdefault(prompt, {})
        return prompt, known.setdefault((token_ids, start), len(known))

    def groups(self, tokenizer: PreTrainedTokenizerBase) -> list[Group]:
        return [
            Group(prompt.token_ids(tokenizer), [ids for ids, _ in known], [start for _, start in known])
            for prompt, known in self.by_prompt.items()
        ]

    def offsets(self) -> dict[_Prompt, int]:
        """Completions of the prompts before each."""
        sizes = (len(completions) for completions in self.by_prompt.values())
        return dict(zip(self.by_prompt, accumulate(sizes, initial=0), strict=False))


def score_digests(responses: pa.Table, scored: Mapping[str, Sequence[Scored | None]]) -> list[bytes | None]:
    """[R * K] what each row's log-probability of each kind is made from, kind after kind in each row's place."""
    keys = list(zip(*(responses.column(name).to_pylist() for name in SAMPLE_KEY), strict=True))
    return [
        None
        if item is None
        else row_digest(
            *keys[row],
            kind,
            *item.instruction.identity,
            item.text if item.token_ids is None else item.token_ids.tobytes(),
            *([item.start] if item.start else []),
        )
        for row in range(len(keys))
        for kind, listed in scored.items()
        for item in [listed[row]]
    ]


def plan_part(
    scored: Mapping[str, Sequence[Scored | None]],
    tokenizer: PreTrainedTokenizerBase,
    known: Mapping[str, Bools] | None = None,
) -> PartPlan:
    """Group what is scored by prompt, each distinct completion once.

    known: [R] for each kind, rows that need no scoring because earlier work has their log-probability.
    """
    completions = _Completions()
    places: dict[str, list[tuple[_Prompt, int] | None]] = {kind: [] for kind in scored}
    rows = max((len(listed) for listed in scored.values()), default=0)
    for row in range(rows):
        for kind, listed in scored.items():
            item = listed[row]
            if item is None or (known is not None and known[kind][row]):
                places[kind].append(None)
                continue
            ids = encode_response(tokenizer, item.text) if item.token_ids is None else item.token_ids.tolist()
            prompt = _Prompt(item.instruction, item.token_ids is None)
            places[kind].append(completions.add(prompt, tuple(ids), item.start))
    offsets = completions.offsets()
    position = {
        kind: np.array([-1 if place is None else offsets[place[0]] + place[1] for place in listed], dtype=np.int64)
        for kind, listed in places.items()
    }
    return PartPlan(completions.groups(tokenizer), position)


def score_plan(scorer: CompletionScorer, plan: PartPlan, progress: Progress) -> dict[str, Floats]:
    """[R] log-probabilities of each kind; NaN where the plan scores nothing."""
    flat = np.concatenate([*scorer.score(plan.groups, progress), [np.nan]])  # position -1 is the last: NaN
    return {kind: flat[position] for kind, position in plan.position.items()}


def implicit_reward(policy_logprob: Floats, reference_logprob: Floats, beta: float) -> Floats:
    """`beta * (policy - reference)`, all in nats; NaN where either is not finite, since such a difference ranks nothing."""
    with np.errstate(invalid="ignore"):  # -inf - -inf
        reward = beta * (policy_logprob - reference_logprob)
    return np.where(np.isfinite(reward), reward, np.nan)


def logprob_table(responses: pa.Table, values: Mapping[str, Floats], digests: Sequence[bytes | None]) -> pa.Table:
    """schemas.LOGPROBS: R rows a kind, kind after kind in each row's place."""
    table = by_kind(responses.select(SAMPLE_KEY), {"logprob": values})
    return table.append_column("input_digest", pa.array(digests, pa.binary(16))).cast(LOGPROBS.schema)


def by_kind(keys: pa.Table, values: Mapping[str, Mapping[str, Floats]]) -> pa.Table:
    """Repeat each of R key rows for every kind and add value columns, given as [R] by kind; NaN becomes null."""
    kinds = list(next(iter(values.values())))
    rows = keys.num_rows
    table = keys.take(pa.array(np.repeat(np.arange(rows), len(kinds))))
    table = table.append_column("kind", pa.array(kinds * rows, pa.string()))
    for name, columns in values.items():
        table = table.append_column(name, pa.array(np.stack(list(columns.values()), 1).ravel(), from_pandas=True))
    return table


def from_kinds(table: pa.Table, column: str) -> dict[str, Floats]:
    """The inverse of `by_kind`: [R] values by kind, null as NaN."""
    kinds = list(dict.fromkeys(table.column("kind").to_pylist()))
    values = table.column(column).to_numpy().astype(np.float64).reshape(-1, max(1, len(kinds)))
    return {kind: values[:, i] for i, kind in enumerate(kinds)}
