"""Whether a text can be scored after a conversation: the chat template takes the conversation, and both fit into the models' context.

Beyond its context a model has no positions, or ones that it was never trained on; and a template may refuse turns that do not alternate.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

from icr_platform.core.config import ChatSettings
from icr_platform.core.conversations import Conversation
from icr_platform.core.faults import TEMPLATE, TOO_LONG
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

_KEPT_LENGTHS = 1 << 16


class Measured(NamedTuple):
    """What is scored after a conversation: tokens that were sampled, by their number, or a text, after which no thought is expected."""

    asked: Conversation
    scored: int | str


class ContextLimits:
    """Measures sequences as policy and reference, which tokenise alike, will see them.

    context: tokens of the shorter of the two contexts; None where neither has a limit.
    """

    def __init__(self, policy: str, reference: str, chat: ChatSettings, is_limited: bool = True) -> None:
        """is_limited: whether any model scores, so that its context counts."""
        self._models, self._chat = (policy, reference), chat
        limits = [
            context_of(load_config(model, chat.trust_remote_code)) for model in (self._models if is_limited else ())
        ]
        self.context = min((limit for limit in limits if limit), default=None)
        self._tokenizer: PreTrainedTokenizerBase = load_tokenizer(policy, chat)
        require_system_prompt(self._tokenizer)
        self._frame = max(len(encode(self._tokenizer, "x")) for encode in (encode_prompt, encode_answer_prompt))
        # Texts after one prompt stand together, and languages share the English instructions.
        self._length = lru_cache(_KEPT_LENGTHS)(
            lambda asked, is_unthought: len(
                (encode_answer_prompt if is_unthought else encode_prompt)(self._tokenizer, asked)
            )
        )
        self._refusal = lru_cache(_KEPT_LENGTHS)(self._refusal_of)

    def room(self, asked: Sequence[Conversation]) -> int:
        """How many sampled tokens surely fit after each of these; -1 where the template refuses one, or that cannot be said so easily."""
        if any(self._refusal(conversation.roles) for conversation in asked):
            return -1
        if self.context is None:
            return sys.maxsize
        return max(-1, self.context - max(map(self._bound, asked), default=0))

    def fault(self, asked: Sequence[Conversation], measured: Sequence[Measured]) -> tuple[str, str] | None:
        """Reason, one of `faults.FAULTS`, and detail why one of these cannot be scored; None where all can.

        Args:
            asked: conversations that the template must take, those of `measured` included.
            measured: sequences that must fit.
        """
        refusal = next(filter(None, (self._refusal(conversation.roles) for conversation in asked)), "")
        if refusal:
            return TEMPLATE, refusal
        longest = 0 if self.context is None else max(map(self._sequence, measured), default=0)
        if self.context is not None and longest > self.context:
            return TOO_LONG, f"{longest} tokens with the instruction, and the context is {self.context}"
        return None

    def _refusal_of(self, roles: Roles) -> str:
        """Why the template refuses such a conversation; '' where it does not. Raises InputError where the reference's differs."""
        refusal = refusal_of_roles(self._tokenizer, roles)
        if not refusal and roles != USER:
            policy, reference = self._models
            theirs = load_tokenizer(reference, self._chat)
            require_same_rendering(policy, self._tokenizer, reference, theirs, roles)
        return refusal

    def _sequence(self, measured: Measured) -> int:
        """Tokens, or a bound on them where that fits."""
        assert self.context is not None
        is_text = isinstance(measured.scored, str)
        count = (
            len(encode_response(self._tokenizer, measured.scored))
            if isinstance(measured.scored, str)
            else measured.scored
        )
        bound = self._bound(measured.asked) + count
        return bound if bound <= self.context else self._length(measured.asked, is_text) + count

    def _bound(self, asked: Conversation) -> int:
        """A bound on the tokens of a conversation: a text has no more than bytes, beside the template's."""
        texts = [message["content"] for message in asked.messages]
        return self._frame * len(texts) + sum(len(said.encode("utf-8", "surrogatepass")) for said in texts)
