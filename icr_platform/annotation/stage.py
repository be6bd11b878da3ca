"""annotate: responses -> rewards, preferences, drops (and translations, for reward kinds that score them).

With `pair_source: translation` no reward is computed: `translated_pairs` has the rule, and the table of rewards is empty.

Policy, reference and reward model, as far as the kinds need them, score all responses in turn, so that one model is in memory at a time;
what each gave is kept in `work`, next to the artifacts, until the rewards are written. Everything but the numbers of one language's
`selection.LanguageSamples`, or of all languages' in a pool, streams.

Metrics, per language and as unweighted mean over languages (`NAME/LANG`, `NAME/mean`):
- `alpha`: reward per character; `length_correlation/before` and `/after` length control (see `diagnostics`);
- `chosen_longer/before` and `/after`: share of pairs whose chosen response is longer; `length_difference/before` and `/after`: mean
  characters of chosen minus rejected; after: of the pairs that were written, before: of those that the reward alone would make (not of a
  pool);
- `margin/q10`, `/median`, `/q90`: length-controlled reward of chosen minus rejected;
- `pairs`: how many; `dropped_prompts/REASON`, `dropped_samples/REASON`: shares in [0, 1] of all prompts, all samples, of reasons that occurred;
- `dropped_pairs/REASON`, with several pairs a prompt: shares of the pairs that the prompts with a pair were to give;
- `mixed_pairs`, with a pool: share of the pairs whose responses are in two languages;
- `reward_agreement/KIND1-KIND2`: share of response pairs that both kinds order alike;
- `translation_failures`: share in [0, 1] of the responses that were sent to the translator.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from icr_platform.annotation.config import AnnotateConfig
from icr_platform.annotation.context_fit import FIT_COLUMNS, ContextFit
from icr_platform.annotation.filters import COLUMNS, FilterResult, filter_samples, unknown_languages, unknown_notes
from icr_platform.annotation.pair_notes import (
    check_pair_settings,
    impossible_pairs,
    pair_notes,
    samples_by_prompt,
    why_no_pair,
)
from icr_platform.annotation.part_scoring import scored_rows
from icr_platform.annotation.prompt_index import PromptIndex, prompt_index
from icr_platform.annotation.response_checks import check_responses
from icr_platform.annotation.selection import (
    LanguageSamples,
    ResponseReader,
    collect_samples,
    own_reasons,
    pooled,
    select_language,
    write_chunk,
)
from icr_platform.annotation.summary import (
    DROP_COLUMNS,
    PAIR_COLUMNS,
    Written,
    annotation_metrics,
    language_figures,
    summary_table,
)
from icr_platform.annotation.translated_pairs import (
    TranslatedPairInputs,
    check_ranking,
    read_translated,
    run_translated,
)
from icr_platform.core.artifacts import MANIFEST, Artifact, ArtifactWriter, open_artifact, read_parquet
from icr_platform.core.config import require
from icr_platform.core.errors import IcrError, InputError
from icr_platform.core.faults import FAULTS, fault_notes, require_few_faults
from icr_platform.core.language_tags import ENGLISH
from icr_platform.core.part_job import Make, TakenPart
from icr_platform.core.schemas import DROPS, LOGPROBS, PREFERENCES, RESPONSES, REWARDS, TRANSLATIONS
from icr_platform.core.stage_protocol import StageContext, StageResult
from icr_platform.engines.execution.map_parts import check_execution
from icr_platform.engines.sampling import translation
from icr_platform.engines.sampling.sampler import ignore_progress
from icr_platform.engines.scoring.kind_scores import SAMPLE_KEY, by_kind, from_kinds, implicit_reward
from icr_platform.engines.scoring.model_scores import (
    ScoreShard,
    load_reward_scorer,
    load_scorer,
    score_shard,
    taken_part,
)
from icr_platform.engines.scoring.part_jobs import make_missing_parts
from icr_platform.engines.scoring.reward_kinds import (
    REWARD_KINDS,
    needs_policy,
    needs_translations,
    scalar_kinds,
    scored_kinds,
)
from icr_platform.engines.scoring.settings import check_kinds, require_policies, unused_notes
from icr_platform.models.loading import (
    chat_of_helper,
    check_same_tokenisation,
    check_weights,
    load_config,
    load_tokenizer,
)

_WORK_FOLDER = "work"
_CHUNK = 1024  # prompts per part of preferences and drops


@dataclass(frozen=True)
class AnnotateInputs:
    """The responses, the prompts that they answer, and lines on what was seen when they were read."""

    config: AnnotateConfig
    responses: Artifact
    prompts: PromptIndex
    fit: ContextFit
    notes: tuple[str, ...]

    def filtered(self, part: int, translations: Artifact | None = None) -> list[FilterResult]:
        """[R] why each sample of a part is dropped before anything is scored; translations: measured too, once there are any."""
        rows = self.responses.read_part(part, list(dict.fromkeys((*COLUMNS, *FIT_COLUMNS))))
        english = translations.read_part(part, ["translation"])["translation"].to_pylist() if translations else None
        return self.fit.applied(rows, filter_samples(rows, self.config, unknown_languages(self.responses)), english)


@dataclass(frozen=True)
class _Work(AnnotateInputs):
    """The inputs, and where the stage works on them."""

    context: StageContext

    @property
    def scored_kinds(self) -> tuple[str, ...]:
        return scored_kinds(self.config.reward_kind)

    @property
    def scalar_kinds(self) -> tuple[str, ...]:
        return scalar_kinds(self.config.reward_kind)


def read(config: AnnotateConfig) -> AnnotateInputs | TranslatedPairInputs:
    """Check settings, models' tokenizers, prompts and every row of the responses; load no weights and write nothing.

    Raises:
        InputError: what is wrong, where, and how to fix it; or more samples than `max_dropped` allows do not fit into the context.
    """
    require(config, "annotate")
    check_settings(config)
    if config.pair_source == "translation":
        return read_translated(config)
    require_models(config)

    kinds = config.reward_kind
    policies = (config.policy, config.reference) if needs_policy(kinds) else ()
    # A log-ratio compares the same tokens under two models: other tokenizers or templates make it meaningless.
    notes = check_same_tokenisation(config.policy, config.reference, config) if policies else ()
    for model in (*policies, *([config.translator] if needs_translations(kinds) else [])):
        load_tokenizer(model, chat_of_helper(model, config) if model == config.translator else config)
        check_weights(model, config.trust_remote_code, quantization=config.quantization)
    notes += unused_notes(config, kinds)

    responses = open_artifact(Path(config.responses), RESPONSES)
    prompts = prompt_index(config.prompts, responses, config.reward_kind, config.prompt_columns)
    opened = [load_config(model, config.trust_remote_code) for model in policies]
    check_responses(responses, prompts, min((model.get_text_config().vocab_size for model in opened), default=None))
    needs_english = any(REWARD_KINDS[kind].needs_english for kind in config.reward_kind)
    if config.system_prompt and needs_english and not config.system_prompt_in(ENGLISH):
        notes += (
            "config: field 'system_prompt' has neither 'en' nor 'default': English instructions are scored without it",
        )
    if config.pool == "all" or config.pairs_per_prompt > 1:
        notes += tuple(impossible_pairs(config, samples_by_prompt(responses)))
    fit = ContextFit(config, prompts)
    inputs = AnnotateInputs(config, responses, prompts, fit, (*notes, *fit.notes))
    counts, first = Counter[str](), ""
    for part in range(len(responses.parts)):
        found = inputs.filtered(part)
        counts.update(result.reason for result in found)
        first = first or next((result.detail for result in found if result.reason in FAULTS), "")
    require_few_faults(counts, responses.rows, config.max_dropped, "samples", first, error=InputError)
    return inputs


def require_models(config: AnnotateConfig) -> None:
    """Raise InputError where a model that the rewards are computed with is not named."""
    require_policies(config, config.policy, config.reference, "annotate")
    if config.translations:
        raise InputError(
            "config: field 'translations' is given, and pair_source is 'rewards', which reads none; give --pair-source translation"
        )


def check_settings(config: AnnotateConfig) -> None:
    """Raise InputError for settings that no responses could be annotated with."""
    check_kinds(config, config.translator)
    if not config.alpha_min <= config.alpha_max:
        raise InputError(
            f"config: field 'alpha_min' {config.alpha_min} is above 'alpha_max' {config.alpha_max}; give the lower first"
        )
    check_pair_settings(config)
    if config.pair_source == "translation":
        check_ranking(config)
    check_execution(config)


def run(inputs: AnnotateInputs | TranslatedPairInputs, context: StageContext) -> StageResult:
    """Score, select, and write the artifacts; goes on where an earlier run of the same work stopped.

    Raises:
        IcrError: the disk is full, or the work folder is not what was written there; or, once everything is kept, more samples
            were dropped than `max_dropped` allows.
    """
    if isinstance(inputs, TranslatedPairInputs):
        return run_translated(inputs, context)
    tables = [REWARDS, PREFERENCES, DROPS, *([TRANSLATIONS] if needs_translations(inputs.config.reward_kind) else [])]
    if not all((context.folder / table.name / MANIFEST).exists() for table in tables):
        work = _Work(**vars(inputs), context=context)
        translations = _translate(work) if TRANSLATIONS in tables else None
        rewards = _rewards(work, translations)
        _select(work, rewards, translations)
    # Log-probabilities of the two models by themselves, which the rewards table now has; also what a kill left of them.
    shutil.rmtree(context.folder / _WORK_FOLDER, ignore_errors=True)

    if not all((context.folder / table.name / MANIFEST).exists() for table in tables):
        raise IcrError(f"{context.folder}: artifacts vanished while they were written; run the same command again")
    artifacts = {
        table.name: ArtifactWriter(context.folder / table.name, table, context.fingerprint).folder for table in tables
    }
    # The manifest of the preferences, which is written last, has the figures: a finished run is not computed again.
    extra = open_artifact(artifacts[PREFERENCES.name], PREFERENCES).extra
    dropped = open_artifact(artifacts[DROPS.name], DROPS).read(["sample_index", "reason"])
    counts = Counter(dropped.filter(pc.is_valid(dropped["sample_index"]))["reason"].to_pylist())
    require_few_faults(
        counts, inputs.responses.rows, inputs.config.max_dropped, "samples", f"all is kept in {context.folder}"
    )
    return StageResult(
        artifacts=artifacts,
        metrics=extra["metrics"],
        tables={"annotation": summary_table(extra["metrics"], extra["languages"])},
        notes=tuple(extra["notes"]),
    )


def _translate(work: _Work) -> Artifact:
    """Translate every part; what earlier work has translated is taken from there."""
    writer = ArtifactWriter(work.context.folder / TRANSLATIONS.name, TRANSLATIONS, work.context.fingerprint)
    earlier = work.context.earlier.rows(TRANSLATIONS.name, TRANSLATIONS)

    def shard(part: int) -> translation.Texts:
        return translation.texts_of(
            work.responses.read_part(part), [bool(result.reason) for result in work.filtered(part)], earlier
        )

    def take(part: int) -> TakenPart | None:
        texts = shard(part)
        if texts.unknown:
            return None
        return TakenPart((translation.translate_part(None, texts, ignore_progress),), len(texts.texts))

    parts, load = range(len(work.responses.parts)), partial(translation.load_translator, work.config, work.config)
    rows = work.responses.rows
    known = take if earlier else None
    return make_missing_parts("translate", writer, parts, rows, shard, load, work.config, known, use="sampled")


def _rewards(work: _Work, translations: Artifact | None) -> Artifact:
    """Score every part under one model after the other, and join what they gave to rewards."""
    writer = ArtifactWriter(work.context.folder / REWARDS.name, REWARDS, work.context.fingerprint)
    if writer.complete:
        return open_artifact(writer.folder, REWARDS)
    scored: list[Artifact] = []
    folder = work.context.folder / _WORK_FOLDER if work.config.execution != "ray" else None
    for name, model in (("policy", work.config.policy), ("reference", work.config.reference)):
        if work.scored_kinds:
            load = partial(load_scorer, work.config, work.config, model, folder)
            scored.append(_scores(work, translations, f"{name}-{LOGPROBS.name}", work.scored_kinds, load))
    scalar = None
    if work.scalar_kinds:
        load = partial(load_reward_scorer, work.config, work.config)
        scalar = _scores(work, translations, "reward-scores", work.scalar_kinds, load)
    for part in range(len(work.responses.parts)):
        if not writer.has_part(part):
            tables = [logprobs.read_part(part) for logprobs in scored]
            of_reward_model = scalar.read_part(part) if scalar else None
            writer.write_part(part, _reward_part(work, part, tables, of_reward_model, translations))
    return writer.close(len(work.responses.parts))


def _scores(
    work: _Work, translations: Artifact | None, name: str, kinds: tuple[str, ...], load: Callable[[], Make]
) -> Artifact:
    """Score every part under one model, into the work folder; what earlier work has scored is taken from there."""
    writer = ArtifactWriter(work.context.folder / _WORK_FOLDER / name, LOGPROBS, work.context.fingerprint)
    earlier = work.context.earlier.rows(name, LOGPROBS)

    def shard(part: int) -> ScoreShard:
        responses = work.responses.read_part(part)
        english = translations.read_part(part).column("translation").to_pylist() if translations else None
        filtered = work.filtered(part, translations)
        scored = scored_rows(responses, filtered, english, work.prompts, kinds, work.config, work.config.score)
        return score_shard(responses, scored, earlier)

    parts, rows = range(len(work.responses.parts)), work.responses.rows * len(kinds)
    take = (lambda part: taken_part(shard(part))) if earlier else None
    return make_missing_parts(
        name.partition("-")[0], writer, parts, rows, shard, load, work.config, take, device=work.config.device
    )


def _reward_part(
    work: _Work, part: int, scored: Sequence[pa.Table], scalar: pa.Table | None, translations: Artifact | None
) -> pa.Table:
    """schemas.REWARDS of one part, joined by key.

    scored: under policy and reference, where they score. scalar: under the reward model, where it does.
    """
    keys = work.responses.read_part(part, SAMPLE_KEY)
    for table, kinds in [(table, work.scored_kinds) for table in scored] + (
        [(scalar, work.scalar_kinds)] if scalar is not None else []
    ):
        repeated = keys.take(pa.array(np.repeat(np.arange(keys.num_rows), len(kinds))))
        if not table.select(SAMPLE_KEY).equals(repeated):
            raise IcrError(
                f"{work.context.folder / _WORK_FOLDER}: part {part} has other keys than the responses; delete it"
            )
    policy, reference = (from_kinds(table, "logprob") for table in scored) if scored else ({}, {})
    scores = from_kinds(scalar, "logprob") if scalar is not None else {}
    nothing = np.full(keys.num_rows, np.nan)
    columns: dict[str, dict[str, Any]] = {"policy_logprob": {}, "reference_logprob": {}, "reward": {}}
    for kind in work.config.reward_kind:
        columns["policy_logprob"][kind] = policy.get(kind, nothing)
        columns["reference_logprob"][kind] = reference.get(kind, nothing)
        draw = REWARD_KINDS[kind].draw
        if kind in scores:
            columns["reward"][kind] = scores[kind]
        elif draw is None:
            columns["reward"][kind] = implicit_reward(policy[kind], reference[kind], work.config.beta)
        else:
            # A dropped sample has no reward of this kind either, so that all kinds compare on the same samples.
            rows = zip(
                *(keys.column(name).to_pylist() for name in SAMPLE_KEY), work.filtered(part, translations), strict=True
            )
            drawn = [np.nan if result.reason else draw(work.config.seed, *key) for *key, result in rows]
            columns["reward"][kind] = np.array(drawn)
    # What a log-probability was made from is the same under both models; a drawn reward is made from nothing but its key.
    made_from: dict[str, list[bytes | None]] = {}
    for table, kinds in ((scored[0] if scored else None, work.scored_kinds), (scalar, work.scalar_kinds)):
        found = table.column("input_digest").to_pylist() if table is not None else []
        made_from |= {kind: found[place :: len(kinds)] for place, kind in enumerate(kinds)}
    digests = [
        made_from[kind][row] if kind in made_from else None
        for row in range(keys.num_rows)
        for kind in work.config.reward_kind
    ]
    return by_kind(keys, columns).append_column("input_digest", pa.array(digests, pa.binary(16)))


def _select(work: _Work, rewards: Artifact, translations: Artifact | None) -> None:
    """Write preferences and drops, a part per chunk of a language's prompts; the manifest with the metrics comes last."""
    fingerprint, folder = work.context.fingerprint, work.context.folder
    preferences = ArtifactWriter(folder / PREFERENCES.name, PREFERENCES, fingerprint)
    drops = ArtifactWriter(folder / DROPS.name, DROPS, fingerprint)
    reader = ResponseReader(work.responses, translations, work.config, lambda part: work.filtered(part, translations))
    of_translations = translations.read(["language", "outcome"]) if translations is not None else None
    part = 0  # parts are numbered over all languages: the same chunk has the same number after a kill
    names: list[str] = []
    figures: dict[str, float] = {}
    notes: list[str] = []
    faults: list[str] = []
    # Of one language after the other the numbers are in memory, those of its samples and what is counted of its pairs.
    for samples, languages in _groups(collect_samples(reader, rewards), work.config):
        first, pairs = part, select_language(samples, work.config, work.config.seed)
        for start in range(0, len(samples.prompt_ids), _CHUNK):
            if not (preferences.has_part(part) and drops.has_part(part)):
                chunk = slice(start, start + _CHUNK)
                tables = write_chunk(samples, pairs, chunk, reader, work.prompts, work.config.seed)
                preferences.write_part(part, tables[0])
                drops.write_part(part, tables[1])
            part += 1
        # The artifacts have no manifest yet, for the metrics go into it: their parts are read one by one.
        made, lost = (
            pa.concat_tables([read_parquet(writer.part_path(index), list(columns)) for index in range(first, part)])
            for writer, columns in ((preferences, PAIR_COLUMNS), (drops, DROP_COLUMNS))
        )
        written = Written(made, lost, of_translations)
        selected = [pairs]
        if work.config.pool == "all":  # what it says of samples is told by language again
            selected = [replace(pairs, reason=own_reasons(samples, pairs, own)) for own in languages]
        names += [own.language for own in languages]
        figures |= language_figures(languages, selected, written, work.config)
        notes += pair_notes(languages, written, work.config)
        dropped = lost.filter(pc.is_valid(lost["sample_index"])).to_pandas()
        for language, rows in dropped.groupby("language", sort=False):
            faults += fault_notes(str(language), Counter(rows["reason"]), "samples", DROPS.name)
    dropped_rows = drops.close(part)
    extra: dict[str, Any] = {
        "metrics": annotation_metrics(figures, names),
        "notes": [*work.notes, *unknown_notes(work.responses, names, work.config), *notes, *faults],
        "languages": names,
    }
    if not any(figures[f"pairs/{name}"] for name in names):
        extra["no_pair"] = why_no_pair(dropped_rows.read(list(DROP_COLUMNS)), work.config)
    preferences.close(part, extra)


def _groups(
    languages: Iterator[LanguageSamples], config: AnnotateConfig
) -> Iterator[tuple[LanguageSamples, list[LanguageSamples]]]:
    """What is selected from and written as one, each language or the pool of all, and the languages in it."""
    if config.pool == "all":
        every = list(languages)
        yield pooled(every, config.reward_kind[0]), every
        return
    for samples in languages:
        yield samples, [samples]
