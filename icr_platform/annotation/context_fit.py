"""Which responses of a part can be scored, by `engines/scoring/context_limits`.

The conversation that a response is scored after is not the one that it was sampled for, and may be longer. A sample that does not fit is
dropped, and the others go on.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import cache

import pyarrow as pa

from icr_platform.annotation.config import AnnotateConfig
from icr_platform.annotation.filters import FilterResult
from icr_platform.annotation.prompt_index import PromptIndex
from icr_platform.core.language_tags import is_english
from icr_platform.engines.scoring.context_limits import ContextLimits, Measured
from icr_platform.engines.scoring.reward_kinds import (
    REWARD_KINDS,
    needs_policy,
    scalar_kinds,
    scored_kinds,
    scoring_conversation,
)
from icr_platform.engines.scoring.reward_texts import RewardLimits

FIT_COLUMNS = ("language", "prompt_id", "token_count", "response")


class ContextFit:
    """Measures responses as policy and reference, which tokenise alike, and the reward model will see them.

    notes: lines on the reward model for a person to read.
    """

    def __init__(self, config: AnnotateConfig, prompts: PromptIndex) -> None:
        kinds = config.reward_kind
        self._kinds = scored_kinds(kinds)
        self._scalar_kinds = scalar_kinds(kinds)
        self._limits = (
            ContextLimits(config.policy, config.reference, config, is_limited=bool(self._kinds))
            if needs_policy(kinds)
            else None
        )
        self._reward_limits = RewardLimits(config, config) if self._scalar_kinds else None
        self._asked = cache(
            lambda kind, language, prompt_id: scoring_conversation(
                kind, language, *prompts[language, prompt_id], config
            )
        )
        self._room = cache(self._room_of)
        self.notes = self._reward_limits.notes if self._reward_limits else ()

    def applied(
        self, rows: pa.Table, filtered: Sequence[FilterResult], translations: Sequence[str | None] | None = None
    ) -> list[FilterResult]:
        """Add those that the template refuses, or that do not fit, to what the filters dropped.

        Args:
            rows: [R] with FIT_COLUMNS of schemas.RESPONSES. filtered: [R].
            translations: [R] once there are any; before, what is scored as a translation is not measured.
        """
        results = []
        columns = (rows.column(name).to_pylist() for name in FIT_COLUMNS)
        texts = translations if translations is not None else [None] * rows.num_rows
        self._room.cache_clear()
        self._asked.cache_clear()  # samples of one prompt stand together: of all prompts it would be all of their texts
        for language, prompt_id, tokens, response, text, result in zip(*columns, texts, filtered, strict=True):
            fault = None
            if not result.reason and (self._reward_limits is not None or tokens > self._room(language, prompt_id)):
                fault = self._fault(language, prompt_id, tokens, text) or self._scalar_fault(
                    language, prompt_id, response
                )
            results.append(fault or result)
        return results

    def _room_of(self, language: str, prompt_id: str) -> int:
        """Sampled tokens that surely fit after the prompt, as policy and reference see it; -1 where each response is measured."""
        if self._limits is None:
            return sys.maxsize
        if any(REWARD_KINDS[kind].of_translation for kind in self._kinds) and not is_english(language):
            return -1
        return self._limits.room([self._asked(kind, language, prompt_id) for kind in self._kinds])

    def _scalar_fault(self, language: str, prompt_id: str, response: str) -> FilterResult | None:
        if self._reward_limits is None:
            return None
        for kind in self._scalar_kinds:
            asked = self._asked(kind, language, prompt_id)
            if fault := self._reward_limits.fault(asked, [response]):
                return FilterResult(*fault)
        return None

    def _fault(self, language: str, prompt_id: str, tokens: int, translation: str | None) -> FilterResult | None:
        if self._limits is None:
            return None
        asked, measured = [], []
        for kind in self._kinds:
            conversation = self._asked(kind, language, prompt_id)
            asked.append(conversation)
            is_translation = REWARD_KINDS[kind].of_translation and not is_english(language)
            scored = translation if is_translation else tokens
            if scored is not None:
                measured.append(Measured(conversation, scored))
        fault = self._limits.fault(asked, measured)
        return FilterResult(*fault) if fault else None
