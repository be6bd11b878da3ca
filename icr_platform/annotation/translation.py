"""Responses translated into English by a local model, for the `translate` reward kind.

A translation that is empty or was cut off is kept out of scoring and counted; it never stands for the response.
"""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from icr_platform.annotation.filters import Verdict
from icr_platform.annotation.filters import has_visible_character as is_visible
from icr_platform.annotation.reward import ENGLISH
from icr_platform.config import AnnotateConfig, GenerateSettings
from icr_platform.generation.sampler import Advance, Request, Sampler, make_sampler
from icr_platform.schemas import TRANSLATIONS

INSTRUCTION = "Translate the following text into English. Answer with the translation only.\n\n{text}"

OK, IS_ENGLISH, FILTERED, EMPTY, TRUNCATED = "ok", "english", "filtered", "empty", "truncated"
FAILURES = (EMPTY, TRUNCATED)


def load_translator(config: AnnotateConfig) -> Sampler:
    """The model that translates, decoding greedily; raises InputError when it cannot be loaded."""
    settings = GenerateSettings(
        samples=1,
        temperature=0.0,
        max_tokens=config.translation_max_tokens,
        sampler="transformers",
        dtype=config.dtype,
        device=config.device,
    )
    return make_sampler(settings, config.translator, config)


def translate_part(translator: Sampler, responses: pa.Table, verdicts: Sequence[Verdict], advance: Advance) -> pa.Table:
    """schemas.TRANSLATIONS, one row per row of `responses`; English responses and dropped ones are not sent.

    `advance` is told rows and tokens as they are done.
    """
    keys = responses.select(["language", "prompt_id", "sample_index"])
    rows = list(zip(*(column.to_pylist() for column in keys.columns), strict=True))
    texts = responses.column("response").to_pylist()
    outcomes = [
        FILTERED if verdict.reason else IS_ENGLISH if language == ENGLISH else OK
        for (language, _, _), verdict in zip(rows, verdicts, strict=True)
    ]
    sent = [i for i, outcome in enumerate(outcomes) if outcome == OK]
    requests = [Request(rows[i][0], f"{rows[i][1]}/{rows[i][2]}", INSTRUCTION.format(text=texts[i])) for i in sent]
    advance(len(rows) - len(sent), 0)
    translations: list[str | None] = [None] * len(rows)
    if requests:
        for i, (sample,) in zip(sent, translator.sample(requests, 1, 0, advance), strict=True):
            if sample.finish_reason == "length":
                outcomes[i] = TRUNCATED
            elif not is_visible(sample.text):
                outcomes[i] = EMPTY
            else:
                translations[i] = sample.text
    table = keys.append_column("translation", pa.array(translations, pa.string()))
    return table.append_column("outcome", pa.array(outcomes, pa.string())).cast(TRANSLATIONS.schema)
