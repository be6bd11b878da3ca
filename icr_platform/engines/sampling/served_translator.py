"""A translator behind any OpenAI-compatible endpoint, of which nothing is here: neither weights nor tokenizer, such as gpt-4o-mini.

Where the model's folder or hub name is known too, give it as the translator, beside the server sampler: then what the server renders is
compared with the model's own chat template.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from icr_platform.core.config import ChatSettings
from icr_platform.core.errors import InputError
from icr_platform.engines.endpoints.accepted_parameters import AcceptedParameters
from icr_platform.engines.endpoints.chat_client import ChatClient, Failure, run_all
from icr_platform.engines.endpoints.replies import (
    FilteredReplyError,
    MalformedReplyError,
    answer_in,
    is_filter,
    is_null,
    refusal_of,
    said_in,
)
from icr_platform.engines.endpoints.served_model import confirmed
from icr_platform.engines.sampling import server_sampler
from icr_platform.engines.sampling.sampler import Advance, ignore_progress, sampling_server
from icr_platform.engines.sampling.translated_texts import Text, Translated, asked_in, outcome_of
from icr_platform.models.thinking import split_text

if TYPE_CHECKING:
    from icr_platform.engines.sampling.settings import TextTranslation


class ServedTranslator:
    """Asks an endpoint, `settings.server_concurrency` requests at once; the key is taken from OPENAI_API_KEY alone."""

    def __init__(self, settings: TextTranslation, chat: ChatSettings) -> None:
        check_served(settings)
        self._settings = settings
        server = sampling_server(settings, settings.server_model)
        self._endpoint = server_sampler.endpoint_of(settings, server)
        self._accepted = AcceptedParameters(may_drop=frozenset({"seed", "top_p"}))
        self._arguments = dict(chat.chat_template_kwargs)
        confirmed(server)

    def translate(
        self, shards: Iterable[Sequence[Text]], advance: Advance = ignore_progress
    ) -> Iterator[list[Translated]]:
        """See `Translator.translate`."""
        for shard in shards:
            client = ChatClient(self._endpoint, self._accepted, answered=True)
            yield run_all(client, (self._ask(client, text, advance) for text in shard))

    async def _ask(self, client: ChatClient, text: Text, advance: Advance) -> Translated:
        settings = self._settings
        parameters: dict[str, Any] = {"temperature": settings.temperature, "max_tokens": settings.max_tokens}
        if self._arguments:
            parameters["chat_template_kwargs"] = self._arguments
        messages = [{"role": "user", "content": asked_in(settings.translation_template, text)}]
        about = f"the translation into {text.target!r} of {text.text[:40]!r}"
        answer = await client.complete(messages, parameters, _read, about)
        if isinstance(answer, Failure):
            advance(1, 0)
            return Translated(None, answer.reason, answer.detail)
        translated, tokens = answer
        advance(1, tokens)
        return translated


def _read(body: bytes) -> tuple[Translated, int]:
    """The translation in a completion's body, and its tokens; raises what `replies.parse_completion` raises."""
    completion, choice, message = answer_in(body)
    reason = str(choice.get("finish_reason")).lower()
    if is_filter(reason) or refusal_of(message):
        raise FilteredReplyError(refusal_of(message) or f"ended for the reason {reason!r}")
    if reason in server_sampler.BROKEN_OFF:
        raise MalformedReplyError(f"ended for the reason {reason!r}")
    split = split_text(None, said_in(message).text)
    translated = outcome_of(split.answer, split.is_cut or reason in server_sampler.LENGTHS)
    usage = completion.get("usage")
    tokens = usage.get("completion_tokens") if isinstance(usage, dict) else 0
    read = translated, tokens if isinstance(tokens, int) else 0
    if is_null(message):
        raise MalformedReplyError("the answer is null", instead=read)
    return read


def check_served(settings: TextTranslation) -> None:
    """Raise InputError where no model is named, or no address."""
    if settings.sampler != "server" or not settings.server_model:
        raise InputError(
            "config: field 'translator' is missing; give --translator MODEL, or --sampler server with --server-url and --server-model"
        )
    server_sampler.check_address(settings)
