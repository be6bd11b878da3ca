"""Responses translated into English by a local model, for reward kinds that score translations.

A translation that is empty or was cut off is kept out of scoring and counted; it never stands for the response.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa

from icr_platform.core.artifacts import row_digest
from icr_platform.core.config import ChatSettings
from icr_platform.core.earlier import EarlierRows
from icr_platform.core.faults import FAULTS
from icr_platform.core.language_tags import is_english
from icr_platform.core.part_job import Make
from icr_platform.core.schemas import TRANSLATIONS
from icr_platform.core.visible_text import has_visible_character
from icr_platform.engines.sampling.choice import make_sampler
from icr_platform.engines.sampling.sampler import Advance, Dropped, Request, Sampler
from icr_platform.engines.sampling.settings import SamplingSettings, TranslatorSettings
from icr_platform.models.loading import chat_of_helper

INSTRUCTION = "Translate the following text into English. Answer with the translation only.\n\n{text}"

OK, IS_ENGLISH, FILTERED, EMPTY, TRUNCATED = "ok", "english", "filtered", "empty", "truncated"
FAILURES = (EMPTY, TRUNCATED, *FAULTS)


def load_translator(settings: TranslatorSettings, chat: ChatSettings) -> Make:
    """Load the model that translates, decoding greedily: parts, as `Texts`, to translations; InputError when it cannot be loaded."""
    greedy = SamplingSettings(
        samples=1,
        temperature=0.0,
        max_tokens=settings.translation_max_tokens,
        sampler="transformers",
        dtype=settings.dtype,
        device=settings.device,
    )
    translator = make_sampler(greedy, settings.translator, chat_of_helper(settings.translator, chat))

    def translate(parts: Iterable[Texts], advance: Advance) -> Iterator[tuple[pa.Table]]:
        for part in parts:
            yield (translate_part(translator, part, advance),)

    return translate


@dataclass(frozen=True)
class Texts:
    """What the translations of a responses part are made from.

    keys: [R] key columns of the responses. texts: [R] responses. outcomes: [R] OK for those that are sent to the translator,
    and why the others are not. digests: [R] of those that are sent, else None. known: row -> what earlier work has of it.
    """

    keys: pa.Table
    texts: Sequence[str]
    outcomes: Sequence[str]
    digests: Sequence[bytes | None]
    known: Mapping[int, tuple[str | None, str]]

    @property
    def unknown(self) -> list[int]:
        """Rows that a translator must be asked for."""
        return [row for row, outcome in enumerate(self.outcomes) if outcome == OK and row not in self.known]


def texts_of(responses: pa.Table, is_dropped: Sequence[bool], earlier: EarlierRows) -> Texts:
    """Decide which rows of `responses` (key and text of schemas.RESPONSES) are sent: neither English ones nor those that were dropped."""
    keys = responses.select(["language", "prompt_id", "sample_index"])
    rows = list(zip(*(column.to_pylist() for column in keys.columns), strict=True))
    texts = responses.column("response").to_pylist()
    outcomes = [
        FILTERED if dropped else IS_ENGLISH if is_english(language) else OK
        for (language, _, _), dropped in zip(rows, is_dropped, strict=True)
    ]
    digests = [
        row_digest(*key, text) if outcome == OK else None
        for key, text, outcome in zip(rows, texts, outcomes, strict=True)
    ]
    found, items = earlier.take(digests)
    values = zip(*(found.column(name).to_pylist() for name in ("translation", "outcome")), strict=True)
    return Texts(keys, texts, outcomes, digests, dict(zip(items.tolist(), values, strict=True)))


def translate_part(translator: Sampler | None, part: Texts, advance: Advance) -> pa.Table:
    """schemas.TRANSLATIONS, one row per response. translator: None where `part.unknown` is empty.

    `advance` is told rows and tokens as they are done.
    """
    sent, outcomes = part.unknown, list(part.outcomes)
    translations: list[str | None] = [None] * len(outcomes)
    for row, (text, outcome) in part.known.items():
        translations[row], outcomes[row] = text, outcome
    advance(len(outcomes) - len(sent), 0)
    keys = part.keys.to_pylist()
    requests = [
        Request(key["language"], f"{key['prompt_id']}/{key['sample_index']}", INSTRUCTION.format(text=part.texts[row]))
        for row in sent
        for key in [keys[row]]
    ]
    if translator is not None and requests:
        for row, sampled in zip(sent, translator.sample(requests, 1, 0, advance), strict=True):
            if isinstance(sampled, Dropped):
                outcomes[row] = sampled.reason
                advance(1, 0)
                continue
            (sample,) = sampled
            # Half a translation would be scored as if it were what the response says.
            if sample.finish_reason == "length":
                outcomes[row] = TRUNCATED
            elif not has_visible_character(sample.text):
                outcomes[row] = EMPTY
            else:
                translations[row] = sample.text
    table = part.keys.append_column("translation", pa.array(translations, pa.string()))
    table = table.append_column("outcome", pa.array(outcomes, pa.string()))
    return table.append_column("input_digest", pa.array(part.digests, pa.binary(16))).cast(TRANSLATIONS.schema)
