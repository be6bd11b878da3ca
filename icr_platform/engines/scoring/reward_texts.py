"""What a reward model is given: a conversation and the response to it, as the model's own template, or its separators, frame them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from icr_platform.core.config import ChatSettings
from icr_platform.core.conversations import Conversation
from icr_platform.core.errors import InputError
from icr_platform.core.faults import TEMPLATE, TOO_LONG
from icr_platform.engines.scoring.settings import RewardSettings
from icr_platform.models.adapters import base_of
from icr_platform.models.chat import (
    RefusedTextError,
    Roles,
    encode_answered,
    encode_text_pair,
    refusal_of_roles,
    require_system_prompt,
)
from icr_platform.models.loading import chat_of_helper, load_tokenizer, on_meta_device, read_tokenizer
from icr_platform.models.reward_models import check_reward_model, context_of_reward_model, plan_of
from icr_platform.models.vocabulary import require_embeddings

_KEPT_ROLES = 1 << 10
_SEPARATORS = 8  # tokens around a pair of texts, at most


class RewardText(NamedTuple):
    """Token ids of a conversation with its response, and of a pair of texts the segment of each token."""

    token_ids: tuple[int, ...]
    types: tuple[int, ...] | None = None


class RewardTexts:
    """Encodes what one reward model scores.

    is_pair: an encoder without a chat template takes two texts, the conversation and the response.
    """

    def __init__(self, model: str, chat: ChatSettings) -> None:
        """Raises InputError when the model has no tokenizer, or neither a chat template nor a way to take two texts."""
        self.model = model
        plan = plan_of(model, chat.trust_remote_code)
        tokenizer = read_tokenizer(model, chat.trust_remote_code)
        self.is_pair = not tokenizer.chat_template
        if not self.is_pair:
            self.tokenizer = load_tokenizer(model, chat_of_helper(model, chat))
            require_system_prompt(self.tokenizer)
        elif tokenizer.num_special_tokens_to_add(pair=True) < 2:
            # What separates the two is not known, and any guess would be scored, and wrong.
            raise InputError(
                f"{model}: field 'chat_template' of the tokenizer is missing, and a reward model is told by it which text is the response; "
                "add the chat_template.jinja that it was trained with"
            )
        else:
            require_embeddings(tokenizer, model, getattr(plan.config.get_text_config(), "vocab_size", None))
            self.tokenizer = tokenizer
        # InternLM2-Reward gives its number at a token of its own behind the conversation.
        self._ending = getattr(plan.config, "reward_token_id", None)

    def encode(self, asked: Conversation, response: str) -> RewardText:
        """Encode a conversation with the response to it.

        Raises:
            RefusedTextError: the template, which renders other texts, refuses this one.
        """
        if self.is_pair:
            ids, types = encode_text_pair(self.tokenizer, question_of(asked), response)
            return RewardText(tuple(ids), tuple(types) if types is not None else None)
        ids = encode_answered(self.tokenizer, asked, response)
        if isinstance(self._ending, int) and ids[-1:] != [self._ending]:
            ids.append(self._ending)
        return RewardText(tuple(ids))


def question_of(asked: Conversation) -> str:
    """A conversation as the first of two texts: its messages, apart by a blank line, as encoders were trained on several turns.

    >>> question_of(Conversation("And?", (("user", "Hi."), ("assistant", "Hello."))))
    'Hi.\\n\\nHello.\\n\\nAnd?'
    """
    return "\n\n".join(message["content"] for message in asked.messages)


class RewardLimits:
    """Says which responses a reward model can score: its template takes the conversation, and all of it fits into its context."""

    def __init__(self, settings: RewardSettings, chat: ChatSettings) -> None:
        """Checks the model by its files; `notes` are lines for a person to read. Raises InputError for a model that cannot score."""
        model = settings.reward_model
        self.notes = check_reward_model(model, settings.reward_label, chat.trust_remote_code, settings.quantization)
        self._texts = RewardTexts(model, chat)
        plan = plan_of(model, chat.trust_remote_code)
        self.context = context_of_reward_model(
            on_meta_device(base_of(model), plan.config, chat.trust_remote_code, plan.auto)
        )
        self._frame = _SEPARATORS if self._texts.is_pair else len(self._texts.encode(Conversation("x"), "x").token_ids)
        self._refusal = lru_cache(_KEPT_ROLES)(self._refusal_of)
        if self._texts.is_pair:
            self.notes += (
                f"{model}: has no chat template: conversation and response are scored as two texts with its own separators",
            )

    def fault(self, asked: Conversation, responses: Sequence[str]) -> tuple[str, str] | None:
        """Reason, one of `faults.FAULTS`, and detail why one of the responses cannot be scored; None where all can."""
        if not self._texts.is_pair and (refusal := self._refusal(asked.roles)):
            return TEMPLATE, refusal
        if self.context is None:
            return None
        for response in responses:
            texts = [message["content"] for message in asked.messages]
            # A text has no more tokens than bytes, beside the template's.
            size = sum(len(text.encode("utf-8", "surrogatepass")) for text in (*texts, response))
            if self._frame * len(texts) + size <= self.context:
                continue
            try:
                length = len(self._texts.encode(asked, response).token_ids)
            except RefusedTextError as error:
                return TEMPLATE, str(error)
            if length > self.context:
                return (
                    TOO_LONG,
                    f"{length} tokens with the instruction, and the context of reward_model is {self.context}",
                )
        return None

    def _refusal_of(self, roles: Roles) -> str:
        return refusal_of_roles(self._texts.tokenizer, (*roles, "assistant"))
