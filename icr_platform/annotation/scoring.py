"""Log-probabilities of a responses part, for every reward kind, each distinct (instruction, tokens) scored once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from icr_platform.annotation.filters import Verdict
from icr_platform.annotation.packing import Group
from icr_platform.annotation.reward import ENGLISH, scoring_instruction
from icr_platform.chat import encode_prompt, encode_response
from icr_platform.config import RewardKind
from icr_platform.schemas import LOGPROBS

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from icr_platform.annotation.logprobs import CompletionScorer, Progress

KEY = ["language", "prompt_id", "sample_index"]


class Instructions(NamedTuple):
    """A prompt in the response's language and in English."""

    native: str
    english: str


PromptIndex = Mapping[tuple[str, str], Instructions]


@dataclass(frozen=True)
class PartPlan:
    """What is scored for a responses part of R rows.

    groups: distinct prompts with their distinct completions.
    position: [R] for each kind, counting completions over all groups; -1 where a row is not scored.
    """

    groups: list[Group]
    position: dict[RewardKind, NDArray[np.int64]]


class _Completions:
    """Completions by instruction, each kept once."""

    def __init__(self) -> None:
        self.by_instruction: dict[str, dict[tuple[int, ...], int]] = {}

    def add(self, instruction: str, token_ids: tuple[int, ...]) -> tuple[str, int]:
        known = self.by_instruction.setdefault(instruction, {})
        return instruction, known.setdefault(token_ids, len(known))

    def groups(self, tokenizer: PreTrainedTokenizerBase) -> list[Group]:
        return [Group(encode_prompt(tokenizer, u), list(completions)) for u, completions in self.by_instruction.items()]

    def offsets(self) -> dict[str, int]:
        """Completions of the instructions before each."""
        sizes = (len(completions) for completions in self.by_instruction.values())
        return dict(zip(self.by_instruction, accumulate(sizes, initial=0), strict=False))


def plan_part(
    responses: pa.Table,
    verdicts: Sequence[Verdict],
    translations: Sequence[str | None] | None,
    prompts: PromptIndex,
    kinds: Sequence[RewardKind],
    tokenizer: PreTrainedTokenizerBase,
) -> PartPlan:
    """Decide what to score: responses that no filter dropped, by their sampled ids, and translations by their text.

    Args:
        responses: [R] rows of schemas.RESPONSES.
        verdicts: [R] of the sample filters.
        translations: [R] for the translate kind, None where there is none; English responses stand for themselves.
        kinds: without 'random', which scores nothing.
    """
    keys = zip(*(responses.column(name).to_pylist() for name in ("language", "prompt_id")), strict=True)
    token_ids = responses.column("token_ids").to_pylist()
    completions = _Completions()
    places: dict[RewardKind, list[tuple[str, int] | None]] = {kind: [] for kind in kinds}
    for row, (key, verdict) in enumerate(zip(keys, verdicts, strict=True)):
        sampled = None if verdict.reason else tuple(token_ids[row])
        for kind in kinds:
            scored = sampled
            if kind == "translate" and sampled is not None and key[0] != ENGLISH:
                text = translations[row] if translations is not None else None
                scored = None if text is None else tuple(encode_response(tokenizer, text))
            u = scoring_instruction(kind, key[0], *prompts[key])
            places[kind].append(None if scored is None else completions.add(u, scored))
    offsets = completions.offsets()
    position = {
        kind: np.array([-1 if place is None else offsets[place[0]] + place[1] for place in listed], dtype=np.int64)
        for kind, listed in places.items()
    }
    return PartPlan(completions.groups(tokenizer), position)


def score_part(scorer: CompletionScorer, responses: pa.Table, plan: PartPlan, progress: Progress) -> pa.Table:
    """schemas.LOGPROBS: R rows a kind, kind after kind in each row's place."""
    scores = scorer.score(plan.groups, progress)
    flat = np.concatenate([*scores, [np.nan]])
    columns = {kind: flat[position] for kind, position in plan.position.items()}
    return by_kind(responses.select(KEY), {"logprob": columns}).cast(LOGPROBS.schema)


def by_kind(keys: pa.Table, values: Mapping[str, Mapping[RewardKind, NDArray[np.float64]]]) -> pa.Table:
    """Repeat each of R key rows for every kind and add value columns, given as [R] by kind; NaN becomes null."""
    kinds = list(next(iter(values.values())))
    rows = keys.num_rows
    table = keys.take(pa.array(np.repeat(np.arange(rows), len(kinds))))
    table = table.append_column("kind", pa.array(kinds * rows, pa.string()))
    for name, columns in values.items():
        table = table.append_column(name, pa.array(np.stack(list(columns.values()), 1).ravel(), from_pandas=True))
    return table


def from_kinds(table: pa.Table, column: str) -> dict[RewardKind, NDArray[np.float64]]:
    """The inverse of `by_kind`: [R] values by kind, null as NaN."""
    kinds = list(dict.fromkeys(table.column("kind").to_pylist()))
    values = table.column(column).to_numpy().astype(np.float64).reshape(-1, max(1, len(kinds)))
    return {kind: values[:, i] for i, kind in enumerate(kinds)}
