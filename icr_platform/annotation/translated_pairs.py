"""Pairs that need no reward: what a policy says in English is taken for better than what it says in other languages (LIDR,
"Language Imbalance Driven Rewarding", arXiv 2410.08964, section 2).

    prompt in   chosen                                rejected
    es          the English answer, put into Spanish  the Spanish answer
    en          the English answer                    the answer in another language, put into English

The paper samples one answer a prompt. Of several, the first that passes the filters stands for its language: no reward ranks them. An
English prompt has an answer in every other language; its pair takes the one whose language the seed and the prompt's id draw, so that
English gives as many pairs as any other language. With `pairs_per_prompt`, the i-th pair takes the i-th answer of each side; in English
the languages take turns.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from icr_platform.annotation.config import AnnotateConfig, AnnotateSettings
from icr_platform.annotation.diagnostics import with_language_means
from icr_platform.annotation.filters import (
    COLUMNS,
    SAMPLE_REASONS,
    FilterResult,
    filter_samples,
    unknown_languages,
    unknown_notes,
)
from icr_platform.annotation.pairs import IDENTICAL, NO_SURVIVOR, near_duplicate
from icr_platform.annotation.prompt_index import PromptIndex, prompt_index
from icr_platform.annotation.response_checks import check_responses
from icr_platform.annotation.selection import NEAR_DUPLICATE
from icr_platform.core.artifacts import Artifact, ArtifactWriter, completed, open_artifact
from icr_platform.core.errors import InputError
from icr_platform.core.language_tags import ENGLISH, find_name
from icr_platform.core.schemas import DROPS, PREFERENCES, RESPONSES, REWARDS, TRANSLATED_RESPONSES
from icr_platform.core.stage_protocol import StageContext, StageResult
from icr_platform.engines.sampling.translated_texts import Text

NO_ENGLISH, NO_TRANSLATION, NO_ANSWER = "no-english", "no-translation", "no-native-answer"
PROMPT_REASONS = (NO_SURVIVOR, NO_ENGLISH, NO_ANSWER, NO_TRANSLATION, IDENTICAL, NEAR_DUPLICATE)
_CHUNK = 1024  # prompts per part


class Answer(NamedTuple):
    """A response that passed the filters, and where it stands."""

    sample_index: int
    part: int
    row: int


class Side(NamedTuple):
    """One side of a pair. text: what is trained on; translated_from: its language before, '' for an answer as it was sampled."""

    answer: Answer
    text: str
    translated_from: str = ""


@dataclass(frozen=True)
class TranslatedPairInputs:
    """The responses, their translations and the prompts that they answer."""

    config: AnnotateConfig
    responses: Artifact
    translations: Artifact
    prompts: PromptIndex


def check_ranking(settings: AnnotateSettings) -> None:
    """Raise InputError for a setting that ranks rewards, of which pairs of translations have none."""
    ranking = {"rejected": "lowest", "pool": "language", "minimal_margin": 0.0, "upper_bound": float("inf")}
    for name, unused in ranking.items():
        if getattr(settings, name) != unused:
            raise InputError(
                f"config: field {name!r} is {getattr(settings, name)!r}, which is of rewards, and pair_source translation has none; leave it out"
            )


def read_translated(config: AnnotateConfig) -> TranslatedPairInputs:
    """Check the settings, the prompts, the responses and that their translations are theirs; writes nothing.

    Raises:
        InputError: an input is missing or not what it should be, there is no English or nothing but English, or a setting ranks rewards.
    """
    if not config.translations:
        raise InputError(
            "config: field 'translations' is missing for pair_source translation; give --translations, which `icr translate` makes of "
            "the responses"
        )
    responses = open_artifact(Path(config.responses), RESPONSES)
    translations = open_artifact(Path(config.translations), TRANSLATED_RESPONSES)
    prompts = prompt_index(config.prompts, responses, (), config.prompt_columns)
    check_responses(responses, prompts, fewest=1)
    languages = _languages(responses)
    if find_name(ENGLISH, languages) is None or len(languages) < 2:
        raise InputError(
            f"{responses.folder}: has responses in {', '.join(languages)}, and pair_source translation needs English and another language; "
            "generate in both"
        )
    return TranslatedPairInputs(config, responses, translations, prompts)


def run_translated(inputs: TranslatedPairInputs, context: StageContext) -> StageResult:
    """Make the pairs, and write preferences and drops; the table of rewards is empty."""
    folder, config = context.folder, inputs.config
    writers = [
        ArtifactWriter(folder / table.name, table, context.fingerprint) for table in (REWARDS, DROPS, PREFERENCES)
    ]
    rewards, drops, preferences = writers
    if not all(writer.complete for writer in writers):
        languages = _languages(inputs.responses)
        pairing = Pairing(inputs)
        counts = {language: Counter[str]() for language in languages}
        part = 0
        for language in languages:
            ids = pairing.prompts_in(language)
            for start in range(0, len(ids), _CHUNK):
                rows, lost = pairing.rows(language, ids[start : start + _CHUNK], counts[language])
                preferences.write_part(part, rows)
                drops.write_part(part, lost)
                part += 1
        metrics = _metrics(pairing, languages, counts)
        notes = [
            *unknown_notes(inputs.responses, languages, config),
            *(
                f"{language}: no prompt gave a pair; the table of drops says why"
                for language in languages
                if not counts[language]["pairs"]
            ),
        ]
        if pairing.other_texts:
            notes.append(
                f"{inputs.translations.folder}: {pairing.other_texts} translations are of other responses than these, and were not used"
            )
        rewards.close(0)
        drops.close(part)
        preferences.close(part, {"metrics": metrics, "notes": notes, "languages": languages})
    extra = open_artifact(preferences.folder, PREFERENCES).extra
    columns = [f"dropped_prompts/{reason}" for reason in PROMPT_REASONS]
    table = [
        {"language": code, "pairs": extra["metrics"].get(f"pairs/{code}")}
        | {"dropped_prompts": sum(extra["metrics"].get(f"{name}/{code}", 0.0) for name in columns)}
        for code in extra["languages"]
    ]
    return StageResult(
        artifacts={writer.table.name: writer.folder for writer in writers},
        metrics=extra["metrics"],
        tables={"annotation": pd.DataFrame(table)},
        notes=tuple(extra["notes"]),
    )


class Pairing:
    """Finds the two sides of each prompt's pairs. Of responses only their places are held; translations stay in Arrow's memory."""

    def __init__(self, inputs: TranslatedPairInputs) -> None:
        self.config, self.responses, self.prompts = inputs.config, inputs.responses, inputs.prompts
        self.answers: dict[str, dict[str, list[Answer]]] = {}
        self.dropped: dict[tuple[str, str], list[tuple[int, FilterResult]]] = {}
        self.samples: Counter[str] = Counter()
        self.other_texts = 0
        columns = ["response", "token_ids", "answer_start", "thought"]
        self._part = lru_cache(maxsize=4)(lambda index: self.responses.read_part(index, columns))
        self._filter()
        self.english = str(find_name(ENGLISH, self.answers))
        self._translation = inputs.translations.read(["translation"])["translation"].combine_chunks()
        self._found = self._translations(inputs.translations)
        self._into = {language: find_name(language, {into for _, into, *_ in self._found}) for language in self.answers}
        self._from = {
            language: find_name(language, {source for source, *_ in self._found}) for language in self.answers
        }

    def _filter(self) -> None:
        unknown = unknown_languages(self.responses)
        names = list(dict.fromkeys((*COLUMNS, "prompt_id", "sample_index")))
        for part in range(len(self.responses.parts)):
            rows = self.responses.read_part(part, names)
            keys = zip(*(rows[name].to_pylist() for name in ("language", "prompt_id", "sample_index")), strict=True)
            for row, ((language, prompt_id, index), result) in enumerate(
                zip(keys, filter_samples(rows, self.config, unknown), strict=True)
            ):
                kept = self.answers.setdefault(language, {}).setdefault(prompt_id, [])
                self.samples[language] += 1
                if result.reason:
                    self.dropped.setdefault((language, prompt_id), []).append((index, result))
                else:
                    kept.append(Answer(index, part, row))
        for found in self.answers.values():
            for kept in found.values():
                kept.sort()

    @staticmethod
    def _translations(translations: Artifact) -> dict[tuple[str, str, str, int], tuple[int, bytes]]:
        """(source, target, prompt id, sample) -> row of the translation, and what it was made from."""
        names = ("source_language", "language", "prompt_id", "sample_index", "input_digest")
        columns = (translations.read(list(names))[name].to_pylist() for name in names)
        return {tuple(key): (row, digest) for row, (*key, digest) in enumerate(zip(*columns, strict=True))}

    def prompts_in(self, language: str) -> list[str]:
        """Ids of the prompts that have responses in a language, in their order."""
        return list(self.answers[language])

    def _sampled(self, answer: Answer) -> Mapping[str, Any]:
        row: Mapping[str, Any] = self._part(answer.part).slice(answer.row, 1).to_pylist()[0]
        return row

    def _translated(self, answer: Answer, source: str, target: str, prompt_id: str) -> Side | None:
        """The answer in the other language; None where it has no translation, or where that is of another text."""
        key = (self._from[source], self._into[target], prompt_id, answer.sample_index)
        found = self._found.get(key)  # type: ignore[arg-type]
        if found is None:
            return None
        row, digest = found
        if Text(str(key[0]), str(key[1]), self._sampled(answer)["response"]).digest != digest:
            self.other_texts += 1
            return None
        return Side(answer, self._translation[row].as_py(), source)

    def _own(self, answer: Answer) -> Side:
        return Side(answer, self._sampled(answer)["response"])

    def pairs(self, language: str, prompt_id: str) -> tuple[list[tuple[Side, Side]], str]:
        """(chosen, rejected) of a prompt, and why it has none, one of PROMPT_REASONS."""
        own = self.answers[language][prompt_id]
        if not own:
            return [], NO_SURVIVOR
        if language == self.english:
            others = self._drawn_languages(prompt_id)
            if not others:
                return [], NO_ANSWER
            rejected = [side for side in self._in_turns(others, prompt_id) if side is not None]
            chosen = [self._own(answer) for answer in own]
        else:
            english = self.answers[self.english].get(prompt_id, [])
            if not english:
                return [], NO_ENGLISH
            found = (self._translated(answer, self.english, language, prompt_id) for answer in english)
            chosen = [side for side in found if side is not None]
            rejected = [self._own(answer) for answer in own]
        if not chosen or not rejected:
            return [], NO_TRANSLATION
        return self._different(list(zip(chosen, rejected, strict=False)))

    def _different(self, pairs: Sequence[tuple[Side, Side]]) -> tuple[list[tuple[Side, Side]], str]:
        """The first pairs, as many as are wanted, of texts that differ."""
        threshold, kept, reason = self.config.near_duplicate, [], ""
        for chosen, rejected in pairs:
            if chosen.text == rejected.text:
                reason = reason or IDENTICAL
            elif threshold is not None and near_duplicate(chosen.text, rejected.text, threshold):
                reason = NEAR_DUPLICATE
            else:
                kept.append((chosen, rejected))
        return kept[: self.config.pairs_per_prompt], "" if kept else reason

    def _drawn_languages(self, prompt_id: str) -> list[str]:
        """The other languages with an answer to a prompt, in an order that depends on the seed and the prompt's id alone."""
        others = [code for code, found in self.answers.items() if code != self.english and found.get(prompt_id)]
        random.Random(f"{self.config.seed} {prompt_id}").shuffle(others)
        return others

    def _in_turns(self, languages: Sequence[str], prompt_id: str) -> Iterator[Side | None]:
        """Native answers put into English: the first of each language, then the second of each, ..."""
        answers = {code: self.answers[code][prompt_id] for code in languages}
        for number in range(max(map(len, answers.values()))):
            for code in languages:
                if number < len(answers[code]):
                    yield self._translated(answers[code][number], code, self.english, prompt_id)

    def rows(self, language: str, ids: Sequence[str], counts: Counter[str]) -> tuple[pa.Table, pa.Table]:
        """(schemas.PREFERENCES, schemas.DROPS) of some prompts; counts what becomes of them."""
        rows: list[Mapping[str, Any]] = []
        lost: list[Mapping[str, Any]] = []
        for prompt_id in ids:
            dropped = self.dropped.get((language, prompt_id), [])
            for index, result in dropped:
                counts[f"dropped_samples/{result.reason}"] += 1
                lost.append(_drop(language, prompt_id, index, result.reason, result.detail))
            found, reason = self.pairs(language, prompt_id)
            if reason:
                counts[f"dropped_prompts/{reason}"] += 1
                left = len(self.answers[language][prompt_id])
                lost.append(_drop(language, prompt_id, None, reason, f"{left} of {left + len(dropped)} samples left"))
            counts["pairs"] += len(found)
            for number, (chosen, rejected) in enumerate(found):
                rows.append(self._row(language, prompt_id, chosen, rejected, number))
        names = [name for name in PREFERENCES.schema.names if rows and name in rows[0]]
        fields = [PREFERENCES.schema.field(name).with_nullable(True) for name in names]
        table = pa.Table.from_pylist(rows, schema=pa.schema(fields)) if rows else PREFERENCES.schema.empty_table()
        return completed(table, PREFERENCES), pa.Table.from_pylist(lost, schema=DROPS.schema)

    def _row(self, language: str, prompt_id: str, chosen: Side, rejected: Side, number: int) -> Mapping[str, Any]:
        asked = self.prompts[language, prompt_id]
        row: dict[str, Any] = {
            "language": language,
            "prompt_id": prompt_id,
            "instruction": asked.native.instruction,
            "english_instruction": asked.english and asked.english.instruction,
            "messages": asked.native.json,
            "english_messages": asked.english and asked.english.json,
            "pair_index": number if self.config.pairs_per_prompt > 1 else None,
        }
        for end, side in (("chosen", chosen), ("rejected", rejected)):
            row |= {
                end: side.text,
                f"{end}_index": side.answer.sample_index,
                f"{end}_characters": len(side.text),
                f"{end}_translated_from": side.translated_from or None,
            }
            sampled = (
                {} if side.translated_from else self._sampled(side.answer)
            )  # a translation has no ids of the policy's
            row |= {f"{end}_{name}": sampled.get(name) for name in ("token_ids", "answer_start", "thought")}
        return row


def _drop(language: str, prompt_id: str, sample_index: int | None, reason: str, detail: str) -> Mapping[str, Any]:
    return {
        "language": language, "prompt_id": prompt_id, "sample_index": sample_index, "reason": reason, "detail": detail,
    }  # fmt: skip


def _metrics(pairing: Pairing, languages: Sequence[str], counts: Mapping[str, Counter[str]]) -> dict[str, float]:
    """`pairs`, and the shares of prompts and samples that were dropped, by language and as means, as `stage` names them."""
    metrics: dict[str, float] = {}
    for language in languages:
        own, prompts, samples = counts[language], len(pairing.answers[language]), pairing.samples[language]
        metrics[f"pairs/{language}"] = float(own["pairs"])
        for reason in PROMPT_REASONS:
            metrics[f"dropped_prompts/{reason}/{language}"] = own[f"dropped_prompts/{reason}"] / prompts
        for reason in SAMPLE_REASONS:
            if count := own[f"dropped_samples/{reason}"]:
                metrics[f"dropped_samples/{reason}/{language}"] = count / samples
    return with_language_means(metrics, list(languages))


def _languages(responses: Artifact) -> list[str]:
    """The languages of the responses, in their order."""
    parts = (responses.read_part(part, ["language"])["language"] for part in range(len(responses.parts)))
    return list(dict.fromkeys(code for part in parts for code in pc.unique(part).to_pylist()))
