"""Texts translated between any two languages: by a model that chats, one made for translation, a served one, or anyone's own.

What is asked for is the translation alone; whether it is in its language is for the caller to find out. Code, names and placeholders in
a text are left to the translator: nothing here takes them out or puts them back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from icr_platform.core.artifacts import text_digest
from icr_platform.core.config import ChatSettings
from icr_platform.core.parts import is_place, load_part
from icr_platform.engines.sampling.choice import check_policy, engine_notes, make_sampler
from icr_platform.engines.sampling.sampler import Advance, Dropped, Request, Sampler, ignore_progress
from icr_platform.engines.sampling.seq2seq_translator import Seq2SeqTranslator, check_languages
from icr_platform.engines.sampling.served_translator import ServedTranslator, check_served
from icr_platform.engines.sampling.translated_texts import (
    UNTRANSLATABLE,
    Text,
    Translated,
    Translator,
    asked_in,
    check_template,
    outcome_of,
)
from icr_platform.models.loading import chat_of_helper, load_config

if TYPE_CHECKING:
    from icr_platform.engines.sampling.settings import TextTranslation

Own = Callable[[str, str, str], str | None]
"""Anyone's own translator: text, source and target code -> the translation, or None for a text that it cannot translate."""


def make_translator(settings: TextTranslation, chat: ChatSettings) -> Translator:
    """Load what `settings.translator` names.

    Raises:
        InputError: it cannot be loaded, or does not know one of the languages.
    """
    if is_place(settings.translator):
        return OwnTranslator(load_part("translator", settings.translator, "settings")(settings))
    if not settings.translator:
        return ServedTranslator(settings, chat)
    if is_made_for_translation(settings, chat):
        return Seq2SeqTranslator(settings, chat)
    sampler = make_sampler(settings, settings.translator, chat_of_helper(settings.translator, chat))
    return ChattingTranslator(sampler, settings.translation_template)


def check_translator(settings: TextTranslation, chat: ChatSettings, languages: Sequence[str]) -> tuple[str, ...]:
    """Check what can be checked without weights, of a server by asking it for one token.

    Returns: lines for a person to read.

    Raises:
        InputError: no translator is named, it cannot be loaded, or does not know one of the languages; or the template lacks what is
            asked, or names something else.
    """
    if is_place(settings.translator):
        load_part("translator", settings.translator, "settings")
        return ()
    if not settings.translator:
        check_served(settings)
        check_template(settings.translation_template)
        return ()
    if is_made_for_translation(settings, chat):
        return check_languages(settings, chat, languages)
    check_template(settings.translation_template)
    helper = chat_of_helper(settings.translator, chat)
    check_policy(settings, settings.translator, helper)
    return engine_notes(settings, settings.translator, helper)


def is_made_for_translation(settings: TextTranslation, chat: ChatSettings) -> bool:
    """Whether the translator is an encoder and a decoder, which takes a text and language codes and no messages."""
    if settings.sampler == "server":  # which serves what chats; its tokenizer is all that is read of the model
        return False
    return bool(getattr(load_config(settings.translator, chat.trust_remote_code), "is_encoder_decoder", False))


class ChattingTranslator:
    """A model that is asked for the translation, by any sampler."""

    def __init__(self, sampler: Sampler, template: str) -> None:
        self._sampler, self._template = sampler, template

    def translate(
        self, shards: Iterable[Sequence[Text]], advance: Advance = ignore_progress
    ) -> Iterator[list[Translated]]:
        """See `Translator.translate`."""
        requests = (
            [Request(text.target, text_digest(*text)[:16], asked_in(self._template, text)) for text in shard]
            for shard in shards
        )
        for sampled in self._sampler.sample_shards(requests, 1, 0, advance):
            translated = []
            for result in sampled:
                if isinstance(result, Dropped):
                    advance(1, 0)
                    translated.append(Translated(None, result.reason, result.detail))
                else:
                    translated.append(outcome_of(result[0].text, result[0].finish_reason == "length"))
            yield translated


class OwnTranslator:
    """Anyone's own function."""

    def __init__(self, translate: Own) -> None:
        self._translate = translate

    def translate(
        self, shards: Iterable[Sequence[Text]], advance: Advance = ignore_progress
    ) -> Iterator[list[Translated]]:
        """See `Translator.translate`."""
        for shard in shards:
            translated = []
            for source, target, text in shard:
                said = self._translate(text, source, target)
                translated.append(
                    Translated(None, UNTRANSLATABLE, "the translator knows none")
                    if said is None
                    else outcome_of(said, False)
                )
                advance(1, 0)
            yield translated
