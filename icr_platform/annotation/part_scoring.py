"""What of a responses part is scored, for every reward kind; `engines/scoring` scores it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from icr_platform.annotation.filters import FilterResult, answer_starts
from icr_platform.annotation.prompt_index import PromptIndex
from icr_platform.core.config import CHAT_DEFAULTS, ChatSettings
from icr_platform.core.language_tags import is_english
from icr_platform.engines.scoring.kind_scores import Scored, implicit_reward
from icr_platform.engines.scoring.reward_kinds import REWARD_KINDS, scoring_conversation

__all__ = ["implicit_reward", "scored_rows"]  # the first under the name that scripts import


def scored_rows(
    responses: pa.Table,
    filtered: Sequence[FilterResult],
    translations: Sequence[str | None] | None,
    prompts: PromptIndex,
    kinds: Sequence[str],
    chat: ChatSettings = CHAT_DEFAULTS,
    score: str = "answer",
) -> dict[str, list[Scored | None]]:
    """Decide what to score: responses that no filter dropped, by their sampled ids, and translations by their text.

    Args:
        responses: [R] rows of schemas.RESPONSES.
        filtered: [R] of the sample filters.
        translations: [R] of kinds that score translations, None where there is none; English responses stand for themselves.
        kinds: those that score text, see `reward_kinds.scored_kinds`, or those of a reward model, see `reward_kinds.scalar_kinds`.
        chat: has the system prompt.
        score: see `ScoreSettings`.

    Returns:
        [R] for each kind; None where a row is not scored.
    """
    keys = list(zip(*(responses.column(name).to_pylist() for name in ("language", "prompt_id")), strict=True))
    texts = responses.column("response").to_pylist()
    token_ids = responses.column("token_ids").combine_chunks()
    starts = [start or 0 for start in answer_starts(responses)] if score == "answer" else None
    flat, ends = token_ids.flatten().to_numpy(), np.cumsum(pc.list_value_length(token_ids).to_numpy())
    listed: dict[str, list[Scored | None]] = {kind: [] for kind in kinds}
    asked = cache(lambda kind, key: scoring_conversation(kind, key[0], *prompts[key], chat))
    # The ids that were sampled, never the text tokenised again: another tokenisation has another probability.
    for row, (key, result) in enumerate(zip(keys, filtered, strict=True)):
        sampled = flat[ends[row - 1] if row else 0 : ends[row]]
        for kind in kinds:
            u = asked(kind, key)
            scored: Scored | None = Scored(u, sampled, "", starts[row] if starts else 0)
            if REWARD_KINDS[kind].is_scalar:  # another model, with tokens of its own: it reads the answer as people do
                scored = Scored(u, None, texts[row])
            elif REWARD_KINDS[kind].of_translation and not is_english(key[0]):
                text = translations[row] if translations is not None else None
                scored = None if text is None else Scored(u, None, text)
            listed[kind].append(None if result.reason else scored)
    return listed
