"""Whether a response can be scored: the chat template takes the conversation that it is scored after, and it fits into the models' context.

That conversation is not the one that the response was sampled for, and may be longer. Beyond its context a model has no positions, or
ones that it was never trained on; and a template may refuse turns that do not alternate: such a sample is dropped, and the others go on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

import pyarrow as pa

from icr_platform.annotation.config import AnnotateConfig
from icr_platform.annotation.filters import FilterResult
from icr_platform.annotation.prompt_index import PromptIndex
from icr_platform.annotation.reward_kinds import REWARD_KINDS, scored_kinds, scoring_conversation
from icr_platform.core.conversations import Conversation
from icr_platform.core.faults import TEMPLATE, TOO_LONG
from icr_platform.core.language_tags import is_english
from icr_platform.models.chat import (
    USER,
    Roles,
    encode_prompt,
    encode_response,
    refusal_of_roles,
    require_system_prompt,
)
from icr_platform.models.context import context_of
from icr_platform.models.loading import load_config, load_tokenizer
from icr_platform.models.thinking import encode_answer_prompt
from icr_platform.models.vocabulary import require_same_rendering

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

FIT_COLUMNS = ("language", "prompt_id", "token_count")
_KEPT_LENGTHS = 1 << 16


class ContextFit:
    """Measures sequences as policy and reference, which tokenise alike, will see them.

    context: tokens of the shorter of the two contexts; None where neither has a limit.
    """

    def __init__(self, config: AnnotateConfig, prompts: PromptIndex) -> None:
        self._prompts, self._kinds, self._chat = prompts, scored_kinds(config.reward_kind), config
        models = (config.policy, config.reference) if self._kinds else ()
        limits = [context_of(load_config(model, config.trust_remote_code)) for model in models]
        self.context = min((limit for limit in limits if limit), default=None)
        self._tokenizer: PreTrainedTokenizerBase = load_tokenizer(config.policy, config)
        require_system_prompt(self._tokenizer)
        self._frame = max(len(encode(self._tokenizer, "x")) for encode in (encode_prompt, encode_answer_prompt))
        # Samples of a prompt stand together, and languages share the English instructions.
        self._length = lru_cache(_KEPT_LENGTHS)(
            lambda asked, is_unthought: len(
                (encode_answer_prompt if is_unthought else encode_prompt)(self._tokenizer, asked)
            )
        )
        self._models = (config.policy, config.reference)
        self._refusal = lru_cache(_KEPT_LENGTHS)(self._refusal_of)

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
        for language, prompt_id, tokens, text, result in zip(*columns, texts, filtered, strict=True):
            results.append(result if result.reason else self._fault(language, prompt_id, tokens, text) or result)
        return results

    def _fault(self, language: str, prompt_id: str, tokens: int, translation: str | None) -> FilterResult | None:
        asked = {
            kind: scoring_conversation(kind, language, *self._prompts[language, prompt_id], self._chat)
            for kind in self._kinds
        }
        refusal = next(filter(None, (self._refusal(conversation.roles) for conversation in asked.values())), "")
        if refusal:
            return FilterResult(TEMPLATE, refusal)
        longest = 0 if self.context is None else max(self._lengths(asked, language, tokens, translation), default=0)
        if self.context is not None and longest > self.context:
            return FilterResult(TOO_LONG, f"{longest} tokens with the instruction, and the context is {self.context}")
        return None

    def _refusal_of(self, roles: Roles) -> str:
        """Why the template refuses such a conversation; '' where it does not. Raises InputError where the reference's differs."""
        refusal = refusal_of_roles(self._tokenizer, roles)
        if not refusal and roles != USER:
            policy, reference = self._models
            theirs = load_tokenizer(reference, self._chat)
            require_same_rendering(policy, self._tokenizer, reference, theirs, roles)
        return refusal

    def _lengths(
        self, asked: Mapping[str, Conversation], language: str, tokens: int, translation: str | None
    ) -> list[int]:
        """Of every kind's sequence, or a bound on it where that fits: a text has no more tokens than bytes, beside the template's."""
        assert self.context is not None
        lengths = []
        for kind, conversation in asked.items():
            count, is_translation = tokens, REWARD_KINDS[kind].of_translation and not is_english(language)
            if is_translation:
                if translation is None:
                    continue
                count = len(encode_response(self._tokenizer, translation))
            texts = [message["content"] for message in conversation.messages]
            size = sum(len(said.encode("utf-8", "surrogatepass")) for said in texts)
            bound = self._frame * len(texts) + size + count
            lengths.append(bound if bound <= self.context else self._length(conversation, is_translation) + count)
        return lengths
