"""Whether a response fits into the models' context behind the instruction that it is scored after.

That instruction is not the one that the response was sampled for, and may be longer. Beyond its context a model has no positions, or
ones that it was never trained on: such a sample is dropped, and the others go on.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

import pyarrow as pa

from icr_platform.annotation.config import AnnotateConfig
from icr_platform.annotation.filters import FilterResult
from icr_platform.annotation.prompt_index import PromptIndex
from icr_platform.annotation.reward_kinds import REWARD_KINDS, scored_kinds, scoring_instruction
from icr_platform.core.faults import TOO_LONG
from icr_platform.core.language_tags import is_english
from icr_platform.models.chat import encode_prompt, encode_response
from icr_platform.models.context import context_of
from icr_platform.models.loading import load_config, load_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

FIT_COLUMNS = ("language", "prompt_id", "token_count")
_KEPT_LENGTHS = 1 << 16


class ContextFit:
    """Measures sequences as policy and reference, which tokenise alike, will see them.

    context: tokens of the shorter of the two contexts; None where neither has a limit.
    """

    def __init__(self, config: AnnotateConfig, prompts: PromptIndex) -> None:
        self._prompts, self._kinds = prompts, scored_kinds(config.reward_kind)
        models = (config.policy, config.reference) if self._kinds else ()
        limits = [context_of(load_config(model, config.trust_remote_code)) for model in models]
        self.context = min((limit for limit in limits if limit), default=None)
        if self.context is not None:
            self._tokenizer: PreTrainedTokenizerBase = load_tokenizer(config.policy, config)
            self._frame = len(encode_prompt(self._tokenizer, "x"))
            # Samples of a prompt stand together, and languages share the English instructions.
            self._length = lru_cache(_KEPT_LENGTHS)(
                lambda instruction: len(encode_prompt(self._tokenizer, instruction))
            )

    def applied(
        self, rows: pa.Table, filtered: Sequence[FilterResult], translations: Sequence[str | None] | None = None
    ) -> list[FilterResult]:
        """Add those that do not fit to what the filters dropped.

        Args:
            rows: [R] with FIT_COLUMNS of schemas.RESPONSES. filtered: [R].
            translations: [R] once there are any; before, what is scored as a translation is not measured.
        """
        if self.context is None:
            return list(filtered)
        results = []
        columns = (rows.column(name).to_pylist() for name in FIT_COLUMNS)
        texts = translations if translations is not None else [None] * rows.num_rows
        for language, prompt_id, tokens, text, result in zip(*columns, texts, filtered, strict=True):
            longest = 0 if result.reason else max(self._lengths(language, prompt_id, tokens, text), default=0)
            if longest > self.context:
                result = FilterResult(
                    TOO_LONG, f"{longest} tokens with the instruction, and the context is {self.context}"
                )
            results.append(result)
        return results

    def _lengths(self, language: str, prompt_id: str, tokens: int, translation: str | None) -> list[int]:
        """Of every kind's sequence, or a bound on it where that fits: a text has no more tokens than bytes, beside the template's."""
        assert self.context is not None
        lengths = []
        for kind in self._kinds:
            count = tokens
            if REWARD_KINDS[kind].of_translation and not is_english(language):
                if translation is None:
                    continue
                count = len(encode_response(self._tokenizer, translation))
            instruction = scoring_instruction(kind, language, *self._prompts[language, prompt_id])
            bound = self._frame + len(instruction.encode("utf-8", "surrogatepass")) + count
            lengths.append(bound if bound <= self.context else self._length(instruction) + count)
        return lengths
