"""Models made for translation: an encoder that reads the text, and a decoder that is told the language it is to write.

Families differ in how the languages are named, which is read off the tokenizer:
- a token of each language, which the encoder's input begins with and the decoder begins from (NLLB `spa_Latn`, M2M100 `__es__`,
  mBART-50 `es_XX`);
- a token before the text that names the language to write (MADLAD-400 `<2es>`, OPUS-MT of several languages `>>spa<<`);
- one pair of languages, and no token (OPUS-MT of two): the config's `_name_or_path` or the model's own name says which, `opus-mt-en-es`.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from icr_platform.core.config import ChatSettings
from icr_platform.core.errors import InputError
from icr_platform.core.faults import TOO_LONG
from icr_platform.core.language_tags import find_name, is_tag
from icr_platform.core.languages import counts_as
from icr_platform.engines.sampling.sampler import Advance, ignore_progress
from icr_platform.engines.sampling.translated_texts import Text, Translated, outcome_of
from icr_platform.models.context import context_of
from icr_platform.models.devices import require_device
from icr_platform.models.loading import load_config, load_seq2seq_model, read_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from icr_platform.engines.sampling.settings import TextTranslation

_LANGUAGE_TOKEN = re.compile(r"__([a-z]{2,3})__|([a-z]{3}_[A-Z][a-z]{3})|([a-z]{2})_XX|([a-z]{2,3}_[A-Z]{2})")
_PREFIX = re.compile(r"<2([A-Za-z_]+)>|>>([A-Za-z_]+)<<")
_TWO = re.compile(r"(?:^|[-_/])([a-z]{2,3})-([a-z]{2,3})$")


class LanguageTokens(NamedTuple):
    """How a translation model is told its languages: tokens by language code, each as the tokenizer has it.

    codes: of the source before the text, and of the target as the decoder's first token. prefixes: of the target, before the text.
    pair: the two languages of a model without tokens; None: not known.
    """

    codes: dict[str, str]
    prefixes: dict[str, str]
    pair: tuple[str, str] | None = None

    def lacks(self, source: str, target: str) -> str:
        """Which of the languages the model does not know; '' where it knows what it must."""
        if self.codes:
            return next((code for code in (source, target) if named(code, self.codes) is None), "")
        if self.prefixes:
            return "" if named(target, self.prefixes) is not None else target
        of_pair = zip((source, target), self.pair or (source, target), strict=True)
        return next((code for code, own in of_pair if named(code, [own]) is None), "")


def named(language: str, codes: Collection[str]) -> str | None:
    """The code among a model's that means the language: see `find_name`; else the only one that counts as it, as `pbt_Arab` for `ps`.

    >>> named("es", ["spa_Latn", "por_Latn"]), named("ps", ["pbt_Arab", "pes_Arab"]), named("es", ["fra_Latn"])
    ('spa_Latn', 'pbt_Arab', None)
    """
    if (found := find_name(language, codes)) is not None:
        return found
    counting = [code for code in codes if is_tag(language) and counts_as(language, code)]
    return counting[0] if len(counting) == 1 else None


def language_tokens(tokenizer: PreTrainedTokenizerBase, names: Sequence[str] = ()) -> LanguageTokens:
    """Find the tokens of languages in a tokenizer's vocabulary.

    names: of the model, of which one may end with two languages.
    """
    codes: dict[str, str] = {}
    prefixes: dict[str, str] = {}
    special = {*tokenizer.all_special_tokens, *tokenizer.get_added_vocab()}
    for token in tokenizer.get_vocab():
        if (found := _LANGUAGE_TOKEN.fullmatch(token)) and token in special:
            codes[next(filter(None, found.groups()))] = token
        elif found := _PREFIX.fullmatch(token):
            prefixes[next(filter(None, found.groups()))] = token
    codes = {code: token for code, token in codes.items() if is_tag(code)}
    prefixes = {code: token for code, token in prefixes.items() if is_tag(code)}
    two = next((found.groups() for name in names if (found := _TWO.search(name.rstrip("/")))), None)
    return LanguageTokens(codes, {} if codes else prefixes, (two[0], two[1]) if two else None)


def check_languages(settings: TextTranslation, chat: ChatSettings, languages: Sequence[str]) -> tuple[str, ...]:
    """Check that the model can be loaded here and has a token for each language, by its config and tokenizer.

    Returns: a line where it cannot be told which languages it translates.

    Raises:
        InputError: the sampler is not transformers', or a language has no token.
    """
    model = settings.translator
    if settings.sampler != "transformers":
        raise InputError(
            f"config: field 'sampler' is {settings.sampler!r}, and {model} is an encoder and a decoder, which transformers runs; give "
            "--sampler transformers"
        )
    require_device(settings.device)
    tokens = _tokens_of(settings, chat, read_tokenizer(model, chat.trust_remote_code))
    known = tokens.codes or tokens.prefixes
    missing = [code for code in languages if known and named(code, known) is None]
    if missing and tokens.prefixes:  # which only the language that is written has
        return ()
    if missing:
        raise InputError(
            f"{model}: has no token for {', '.join(map(repr, missing))}; it knows {len(known)} languages, such as "
            f"{', '.join(sorted(known)[:5])}; give another translator"
        )
    if not known and tokens.pair is None:
        return (
            f"{model}: neither its tokenizer nor its name says which languages it translates; the identifier is what checks it",
        )
    return ()


def _tokens_of(settings: TextTranslation, chat: ChatSettings, tokenizer: PreTrainedTokenizerBase) -> LanguageTokens:
    own_name = str(getattr(load_config(settings.translator, chat.trust_remote_code), "_name_or_path", ""))
    return language_tokens(tokenizer, (settings.translator, own_name))


class Seq2SeqTranslator:
    """An encoder and a decoder, which decodes greedily, in batches of texts of like length."""

    def __init__(self, settings: TextTranslation, chat: ChatSettings) -> None:
        self._settings = settings
        self._tokenizer: Any = read_tokenizer(settings.translator, chat.trust_remote_code)
        self._tokens = _tokens_of(settings, chat, self._tokenizer)
        self._model: Any = load_seq2seq_model(
            settings.translator, settings.dtype, settings.device, chat.trust_remote_code
        )
        # T5's positions are relative: its config names no limit, and `n_positions` is none.
        self._context = (
            None if self._model.config.model_type in ("t5", "mt5", "umt5") else context_of(self._model.config)
        )

    def translate(
        self, shards: Iterable[Sequence[Text]], advance: Advance = ignore_progress
    ) -> Iterator[list[Translated]]:
        """See `Translator.translate`."""
        for shard in shards:
            results: dict[int, Translated] = {}
            by_pair: dict[tuple[str, str], list[tuple[int, list[int]]]] = {}
            for index, text in enumerate(shard):
                if missing := self._tokens.lacks(text.source, text.target):
                    raise InputError(
                        f"{self._settings.translator}: does not know the language {missing!r}; give another translator"
                    )
                ids = self._encoded(text)
                if self._context is not None and len(ids) > self._context:
                    results[index] = Translated(
                        None, TOO_LONG, f"{len(ids)} tokens, and the context is {self._context}"
                    )
                    advance(1, 0)
                else:
                    by_pair.setdefault((text.source, text.target), []).append((index, ids))
            for (_, target), rows in by_pair.items():
                rows.sort(key=lambda row: -len(row[1]))
                for start in range(0, len(rows), self._settings.batch_size):
                    batch = rows[start : start + self._settings.batch_size]
                    results |= dict(
                        zip([index for index, _ in batch], self._decoded(target, batch, advance), strict=True)
                    )
            yield [results[index] for index in range(len(shard))]

    def _encoded(self, text: Text) -> list[int]:
        """The encoder's input. A text that spells a language's token is text: no special token is read out of it."""
        tokenizer, said = self._tokenizer, text.text
        if self._tokens.codes:
            name = str(named(text.source, self._tokens.codes))
            token = self._tokens.codes[name]
            # NLLB, M2M100 and mBART put its token where they want it; M2M100 calls a language by the code within the token.
            tokenizer.src_lang = name if token.startswith("__") else token
        ids: list[int] = tokenizer(said, split_special_tokens=True, verbose=False)["input_ids"]
        if self._tokens.codes:
            own = tokenizer.convert_tokens_to_ids(token)
            return ids if own in (ids[0], ids[-1]) else [own, *ids]
        if self._tokens.prefixes:
            token = self._tokens.prefixes[str(named(text.target, self._tokens.prefixes))]
            return [tokenizer.convert_tokens_to_ids(token), *ids]
        return ids

    def _decoded(self, target: str, batch: Sequence[tuple[int, list[int]]], advance: Advance) -> list[Translated]:
        import torch

        model, tokenizer = self._model, self._tokenizer
        padded = tokenizer.pad({"input_ids": [ids for _, ids in batch]}, return_tensors="pt").to(model.device)
        most = self._settings.max_tokens if self._context is None else min(self._settings.max_tokens, self._context - 1)
        options: dict[str, Any] = {"max_new_tokens": most, "do_sample": False, "num_beams": 1}
        if self._tokens.codes:
            token = self._tokens.codes[str(named(target, self._tokens.codes))]
            options["forced_bos_token_id"] = tokenizer.convert_tokens_to_ids(token)
        with torch.inference_mode():
            generated = model.generate(**padded, **options)
        ends = {token for token in _listed(model.generation_config.eos_token_id) if token is not None}
        translated = []
        for row in generated.tolist():
            is_cut = not ends.intersection(row[1:])  # the first one starts the decoder, and may be the end token itself
            translated.append(outcome_of(tokenizer.decode(row, skip_special_tokens=True), is_cut))
            advance(1, len(row))
        return translated


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple)) else [value]
