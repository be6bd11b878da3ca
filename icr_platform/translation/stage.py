"""translate: texts -> the same in other languages.

Three artifacts: `translated`, in the form of what came in (of responses, the translation of each); `text_translations`, every text once
with its translation or why it has none; `translation_drops`, the rows that could not be made, with the reason of their first text that
has no translation.

Metrics, per language that was translated into: `translated/LANG` (rows made), `untranslated/LANG` and `untranslated/REASON/LANG`
(percent of the rows asked for), and `tokens_per_second` when anything was translated.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import pandas as pd
import pyarrow as pa

from icr_platform.core.artifacts import MANIFEST, Artifact, ArtifactWriter, open_artifact
from icr_platform.core.config import ChatSettings, require
from icr_platform.core.earlier import with_earlier
from icr_platform.core.faults import FAULTS, fault_notes, require_few_faults
from icr_platform.core.language_tags import ENGLISH, find_name
from icr_platform.core.part_job import Advance, Make, PartJob, Throughput
from icr_platform.core.schemas import DROPS, PROMPTS, TEXT_TRANSLATIONS
from icr_platform.core.stage_protocol import StageContext, StageResult
from icr_platform.engines.execution.map_parts import check_execution, map_parts
from icr_platform.engines.identification.language_id import (
    Identifier,
    has_letters,
    is_in_another,
    make_identifier,
)
from icr_platform.engines.sampling.response_parts import engine_gpus
from icr_platform.engines.sampling.settings import TextTranslation
from icr_platform.engines.sampling.translated_texts import Text, Translated
from icr_platform.engines.sampling.translation import OK
from icr_platform.engines.sampling.translators import check_translator, make_translator
from icr_platform.translation.config import TranslateConfig
from icr_platform.translation.texts import Item, Row, TextSet, distinct_texts, read_texts, table_of

AS_IS, WRONG_LANGUAGE, NO_ENGLISH = "as-is", "wrong-language", "no-english"
_USABLE = frozenset({OK, AS_IS})
_LISTED = 1000  # rows of a table for people


@dataclass(frozen=True)
class TranslateInputs:
    """The texts, who identifies the languages of their translations, and lines on what was seen."""

    config: TranslateConfig
    texts: TextSet
    identifier: Identifier
    notes: tuple[str, ...]


def read(config: TranslateConfig) -> TranslateInputs:
    """Check everything that can be checked without weights; writes nothing.

    Raises:
        InputError: a required field is empty, a text is unusable, or the translator or the language identifier cannot work here.
    """
    require(config, "translate")
    check_execution(config)
    texts = read_texts(config)
    languages = dict.fromkeys(code for item in texts.items for code in (item.source, item.target))
    notes = check_translator(config, config, tuple(languages))
    return TranslateInputs(config, texts, make_identifier(config.language_identifier), (*texts.notes, *notes))


def run(inputs: TranslateInputs, context: StageContext) -> StageResult:
    """Translate every text once; goes on where a killed run stopped, and asks again for texts that an endpoint failed on.

    Raises:
        IcrError: more texts have no translation for a fault than `max_dropped` allows; everything is kept.
    """
    config, texts = inputs.config, inputs.texts
    distinct = distinct_texts(texts.items)
    translations, throughput = _translate(inputs, distinct, context)
    outcomes = Counter(translations.read(["outcome"])["outcome"].to_pylist())
    kept = f"all others are kept in {translations.folder}"
    require_few_faults(outcomes, len(distinct), config.max_dropped, "texts", kept)
    translated, drops = _write_rows(texts, translations, context)
    return _result(inputs, translated, translations, drops, throughput)


def _translate(inputs: TranslateInputs, distinct: Sequence[Text], context: StageContext) -> tuple[Artifact, Throughput]:
    """Translate the texts that have no translation yet, part by part."""
    config = inputs.config
    writer = ArtifactWriter(context.folder / TEXT_TRANSLATIONS.name, TEXT_TRANSLATIONS, context.fingerprint)
    shards = [distinct[start : start + config.shard_prompts] for start in range(0, len(distinct), config.shard_prompts)]
    passing = tuple(reason for reason, fault in FAULTS.items() if fault.may_pass)
    again = [part for part in range(len(shards)) if _may_pass(writer, part, passing)]
    left = sorted({*again, *(part for part in range(len(shards)) if not writer.has_part(part))})
    if not left and writer.complete:
        return open_artifact(writer.folder, TEXT_TRANSLATIONS), Throughput(0, 0.0)
    for name in (
        TEXT_TRANSLATIONS.name,
        "translated",
        "translation_drops",
    ):  # they would vouch for what is about to change
        (context.folder / name / MANIFEST).unlink(missing_ok=True)
    job = PartJob(
        label="translate texts",
        writers=(writer,),
        parts=left,
        shard=shards.__getitem__,
        load=partial(load, config, config),
        rows=len(distinct),
        done=len(distinct) - sum(len(shards[part]) for part in left),
        gpus=engine_gpus(config),
        use="sampled",
    )
    own = writer.folder if again else None
    earlier = context.earlier.rows(TEXT_TRANSLATIONS.name, TEXT_TRANSLATIONS, never=("outcome", *passing), own=own)
    job = with_earlier(
        job, earlier, lambda shard: [each.digest for each in shard], lambda shard, rows: [shard[row] for row in rows]
    )
    throughput = map_parts(job, config)
    return writer.close(len(shards)), throughput


def _may_pass(writer: ArtifactWriter, part: int, passing: Sequence[str]) -> bool:
    return writer.has_part(part) and not set(passing).isdisjoint(writer.read_part(part)["outcome"].to_pylist())


def load(settings: TextTranslation, chat: ChatSettings) -> Make:
    """Load translator and identifier: shards of texts -> schemas.TEXT_TRANSLATIONS."""
    identifier = make_identifier(settings.language_identifier)
    translator = make_translator(settings, chat)

    def make(shards: Iterable[Sequence[Text]], advance: Advance) -> Iterator[tuple[pa.Table]]:
        waiting: deque[Sequence[Text]] = deque()

        def asked() -> Iterator[list[Text]]:
            for shard in shards:
                waiting.append(shard)
                yield [each for each in shard if has_letters(each.text)]

        for results in translator.translate(asked(), advance):
            shard = waiting.popleft()
            said = iter(results)
            # Nothing of "42" or an empty line is in a language: it stands for itself.
            yield (
                _table(
                    shard,
                    [next(said) if has_letters(each.text) else Translated(each.text, AS_IS) for each in shard],
                    identifier,
                    settings.language_confidence,
                ),
            )

    return make


def _table(shard: Sequence[Text], results: Sequence[Translated], identifier: Identifier, confidence: float) -> pa.Table:
    """schemas.TEXT_TRANSLATIONS of a shard: a translation in another language than the one asked for is none."""
    targets = [each.target for each in shard]
    identified = identifier.of_answers(targets, [result.text or "" for result in results])
    rows = []
    for each, result, found in zip(shard, results, identified, strict=True):
        if result.text is not None and is_in_another(each.target, result.text, found, confidence):
            seen = f"{found.language} with confidence {found.confidence:.2f}"
            result = Translated(None, WRONG_LANGUAGE, seen)
        rows.append(
            {
                "language": each.target,
                "source_language": each.source,
                "text": each.text,
                "translation": result.text,
                "outcome": result.outcome,
                "detail": result.detail,
                "detected_language": found.language,
                "language_confidence": found.confidence,
                "input_digest": each.digest,
            }
        )
    return pa.Table.from_pylist(rows, schema=TEXT_TRANSLATIONS.schema)


def _write_rows(texts: TextSet, translations: Artifact, context: StageContext) -> tuple[Artifact, Artifact]:
    """Write the rows whose texts all have a translation, and list the others."""
    translated = ArtifactWriter(context.folder / "translated", texts.table, context.fingerprint)
    drops = ArtifactWriter(context.folder / "translation_drops", DROPS, context.fingerprint)
    if not (translated.complete and drops.complete):
        found = _by_digest(translations)
        rows: dict[str, list[Row]] = {}
        for row in texts.kept.to_pylist():
            rows.setdefault(row["language"], []).append(row)
        dropped: list[Row] = []
        for item in texts.items:
            if (drop := _drop_of(item, found)) is not None:
                dropped.append(drop)
            else:
                said = {text.text: str(found[text.digest].text) for text in item.asked()}
                rows.setdefault(item.target, []).append(item.make(said))
        if texts.table is PROMPTS:
            dropped += _without_english(rows)
        by_place = partial(_place, texts)
        listed = [row for own in rows.values() for row in sorted(own, key=by_place)]
        drops.write_part(0, pa.Table.from_pylist(dropped, schema=DROPS.schema))
        drops.close(1)
        translated.write_part(0, table_of(listed, texts.table))
        translated.close(1)
    return open_artifact(translated.folder, texts.table), open_artifact(drops.folder, DROPS)


def _by_digest(translations: Artifact) -> dict[bytes, Translated]:
    found: dict[bytes, Translated] = {}
    for part in range(len(translations.parts)):
        columns = translations.read_part(part, ["input_digest", "translation", "outcome", "detail"])
        for digest, *said in zip(*(column.to_pylist() for column in columns.columns), strict=True):
            found[digest] = Translated(*said)
    return found


def _drop_of(item: Item, found: Mapping[bytes, Translated]) -> Row | None:
    """The row of drops in an item's place, which says what became of its first text without a translation; None where it has all."""
    for text in item.asked():
        _, outcome, detail = found[text.digest]
        if outcome not in _USABLE:
            where = f"from {item.source}, {' '.join(text.text.split())[:60]!r}"
            said = f"{where}: {detail}" if detail else where
            return _drop(item.target, item.prompt_id, item.sample_index, outcome, said)
    return None


def _drop(language: str, prompt_id: str, sample_index: int | None, reason: str, detail: str) -> Row:
    return {
        "language": language, "prompt_id": prompt_id, "sample_index": sample_index, "reason": reason, "detail": detail,
    }  # fmt: skip


def _without_english(rows: dict[str, list[Row]]) -> list[Row]:
    """Take out the prompts of ids that have no English, where there is English: a prompt set is aligned with it."""
    english = find_name(ENGLISH, rows)
    if english is None:
        return []
    there = {row["prompt_id"] for row in rows[english]}
    lacking = [row for own in rows.values() for row in own if row["prompt_id"] not in there]
    for language, own in rows.items():
        rows[language] = [row for row in own if row["prompt_id"] in there]
    return [
        _drop(row["language"], row["prompt_id"], None, NO_ENGLISH, "its English has no translation") for row in lacking
    ]


def _place(texts: TextSet, row: Row) -> int:
    return texts.order.get(row["prompt_id"], 0)


def _result(
    inputs: TranslateInputs, translated: Artifact, translations: Artifact, drops: Artifact, throughput: Throughput
) -> StageResult:
    """Figures, tables and notes, all read from the finished artifacts: the same after a kill as without one."""
    asked = Counter(item.target for item in inputs.texts.items)
    dropped = drops.read().to_pandas()
    reasons = {str(language): Counter(rows["reason"]) for language, rows in dropped.groupby("language", sort=False)}
    metrics: dict[str, float] = {}
    notes = [*inputs.notes, *inputs.identifier.notes(asked)]
    table = []
    for language, count in asked.items():
        lost = reasons.get(language, Counter())
        failed = lost.total() - lost[NO_ENGLISH]
        metrics[f"translated/{language}"] = float(count - failed)
        metrics[f"untranslated/{language}"] = 100.0 * failed / count
        metrics |= {f"untranslated/{reason}/{language}": 100.0 * n / count for reason, n in lost.items()}
        table.append({"language": language, "asked": count, "translated": count - failed, **lost})
        notes += fault_notes(language, lost, "rows", "translation_drops")
        notes += [
            f"{language}: {n} of {count} rows are not translated ({reason}); translation_drops lists them"
            for reason, n in lost.items()
            if reason not in FAULTS
        ]
    if throughput.tokens:
        metrics["tokens_per_second"] = throughput.tokens / throughput.seconds
    tables = {"translation": pd.DataFrame(table).fillna(0)}
    if len(dropped):
        tables["translation_drops"] = dropped.head(_LISTED)
    artifacts = {"translated": translated, "text_translations": translations, "translation_drops": drops}
    return StageResult(
        artifacts={name: artifact.folder for name, artifact in artifacts.items()},
        metrics=metrics,
        tables=tables,
        notes=tuple(notes),
    )
