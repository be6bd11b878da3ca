"""reward_bench: labelled pairs -> how often each kind of reward ranks the better response higher. Nothing is sampled, nothing judged.

Policy, reference and reward model, as far as the kinds need them, score all responses in turn, so that one model is in memory at a time; what
each gave is kept in `work`, next to the artifact, until its rows are written. Beside the kinds stands `length`, which prefers the longer response.

Metrics, in percent: `reward_accuracy/KIND/LANG`, `/mean` (unweighted over languages) and `/mean_non_english`, of given pairs;
`reward_best_of_n/KIND/LANG` of rows with several responses on a side; `corruption_accuracy/CORRUPTION/KIND/LANG`; and
`reward_bench/dropped`, the share of (pair, kind) that could not be scored.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa

from icr_platform.core.arrays import Floats
from icr_platform.core.artifacts import Artifact, ArtifactWriter, atomic_path, open_artifact, text_digest
from icr_platform.core.errors import IcrError, InputError
from icr_platform.core.faults import FAULTS, NOT_FINITE, require_few_faults
from icr_platform.core.language_tags import is_english
from icr_platform.core.languages import is_language
from icr_platform.core.part_job import Make, TakenPart
from icr_platform.core.schemas import DROPS, LOGPROBS, REWARD_BENCH, TRANSLATIONS, TableSchema
from icr_platform.core.stage_protocol import StageContext, StageResult
from icr_platform.data.labelled_pairs import LabelledPair, UnusedRow, pairs_table
from icr_platform.engines.execution.map_parts import check_execution
from icr_platform.engines.sampling import translation
from icr_platform.engines.sampling.sampler import ignore_progress
from icr_platform.engines.scoring.context_limits import ContextLimits, Measured
from icr_platform.engines.scoring.kind_scores import SAMPLE_KEY, Scored, from_kinds, implicit_reward
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
    scoring_conversation,
)
from icr_platform.engines.scoring.reward_texts import RewardLimits
from icr_platform.engines.scoring.settings import check_kinds, require_policies, unused_notes
from icr_platform.evaluation.own_sample_tables import AnnotatedSamples, read_annotated_samples, sample_figures
from icr_platform.evaluation.reward_accuracy import is_right
from icr_platform.evaluation.reward_bench_config import LENGTH, RewardBenchConfig
from icr_platform.evaluation.reward_pairs import read_pairs
from icr_platform.evaluation.reward_tables import (
    ACCURACY_COLUMNS,
    accuracy_metrics,
    accuracy_table,
    calibration_table,
    comparison_table,
    first_rows,
)
from icr_platform.models.loading import (
    chat_of_helper,
    check_same_tokenisation,
    check_weights,
    load_config,
    load_tokenizer,
)
from icr_platform.report.calibration import calibration_page

NO_ENGLISH, UNKNOWN_LANGUAGE, TRANSLATION = "no-english", "unknown-language", "translation"
"""Why a kind cannot score a pair, beside the faults of `core/faults`."""
DROPPED = "reward_bench_drops"
TABLE_FILES = {
    "reward_accuracy": "accuracy.csv",
    "reward_comparison": "comparison.csv",
    "reward_calibration": "calibration.csv",
    "own_samples": "own_samples.csv",
    "selected_pairs": "selected_pairs.csv",
}
"""Files of the artifact with all rows of a table, of which MLflow gets those that people look at."""
CALIBRATION_PAGE = "calibration.html"
_WORK_FOLDER = "reward_bench_work"
_TRANSLATIONS = "pair_translations"
_VALUES = TableSchema("values", 1, pa.schema([("logprob", pa.float64()), ("input_digest", pa.binary(16))]))


class Reason(NamedTuple):
    """Why a kind cannot score a pair, and what was seen; '' where it can."""

    name: str = ""
    detail: str = ""


_SCORABLE = Reason()


class Limits(NamedTuple):
    """What can be scored: under policy and reference, and under the reward model; None for models that score nothing."""

    policies: ContextLimits | None = None
    reward_model: RewardLimits | None = None


@dataclass(frozen=True)
class RewardBenchInputs:
    """Pairs, what of them each kind can score, and the rows of their source that are none."""

    config: RewardBenchConfig
    pairs: Sequence[LabelledPair]
    unused: Sequence[UnusedRow]
    reasons: Mapping[str, Sequence[Reason]]
    limits: Limits
    notes: tuple[str, ...] = ()
    samples: AnnotatedSamples | None = None

    @property
    def parts(self) -> range:
        return range(-(-len(self.pairs) // self.config.shard_pairs))

    def rows(self, part: int) -> slice:
        """Which of the pairs are in a part."""
        size = self.config.shard_pairs
        return slice(part * size, (part + 1) * size)


def read(config: RewardBenchConfig) -> RewardBenchInputs:
    """Check settings, models' tokenizers and every pair; load no weights and write nothing.

    Raises:
        InputError: what is wrong, where, and how to fix it; a kind that needs English, of which no pair has any; or more pairs than
            `max_dropped` allows do not fit into the context.
    """
    samples = _read_samples(config)
    if not (config.pairs or config.corrupt):
        if samples is None:
            raise InputError(
                "config: field 'pairs' is missing for reward-bench; give --pairs FILE, --corrupt OUTPUTS to make pairs of outputs, or "
                "--responses, --rewards and --checker to measure a reward on a policy's own samples"
            )
        return RewardBenchInputs(config, (), (), {}, Limits(), samples=samples)
    kinds = config.kinds
    measured = config.model_copy(update={"reward_kind": kinds})
    require_policies(measured, config.policy, config.reference, "reward-bench")
    check_kinds(measured, config.translator)
    check_execution(config)
    policies = (config.policy, config.reference) if needs_policy(kinds) else ()
    notes = list(check_same_tokenisation(config.policy, config.reference, config) if policies else ())
    notes += unused_notes(config, kinds)
    for model in (*policies, *([config.translator] if needs_translations(kinds) else [])):
        load_tokenizer(model, chat_of_helper(model, config) if model == config.translator else config)
        check_weights(model, config.trust_remote_code, quantization=config.quantization)
    given = read_pairs(config)
    if policies:
        _check_vocabulary(config, given.pairs)
    limits = Limits(
        ContextLimits(config.policy, config.reference, config) if scored_kinds(kinds) else None,
        RewardLimits(config, config) if scalar_kinds(kinds) else None,
    )
    notes += limits.reward_model.notes if limits.reward_model else ()
    reasons = {kind: [_reason(kind, pair, config, limits) for pair in given.pairs] for kind in kinds}
    _check_reasons(config, given.pairs, reasons)
    return RewardBenchInputs(config, given.pairs, given.unused, reasons, limits, (*notes, *given.notes), samples)


def _read_samples(config: RewardBenchConfig) -> AnnotatedSamples | None:
    """The policy's own samples, where the configuration gives any."""
    given = {name: getattr(config, name) for name in ("checker", "responses", "rewards")}
    if not any((*given.values(), config.preferences)):
        return None
    given["prompts"] = config.prompts
    if missing := [name for name, value in given.items() if not value]:
        raise InputError(
            f"config: field {missing[0]!r} is missing to measure a reward on a policy's own samples; give --{missing[0]} beside "
            f"{', '.join(name for name, value in given.items() if value) or 'preferences'}"
        )
    return read_annotated_samples(
        config.checker, config.prompts, config.prompt_columns, config.responses, config.rewards, config.preferences
    )


def _check_vocabulary(config: RewardBenchConfig, pairs: Sequence[LabelledPair]) -> None:
    """Raise InputError for tokens that the models do not have: another model's samples."""
    models = [load_config(model, config.trust_remote_code) for model in (config.policy, config.reference)]
    vocabulary = min(model.get_text_config().vocab_size for model in models)
    for pair in pairs:
        for side in (pair.chosen, pair.rejected):
            if side.token_ids and max(side.token_ids) >= vocabulary:
                raise InputError(
                    f"{config.pairs}: pair {pair.pair_id!r} of {pair.language!r} contains token {max(side.token_ids)}, but the vocabulary "
                    f"ends at {vocabulary - 1}; score with the tokenizer that the responses were sampled with"
                )


def _reason(kind: str, pair: LabelledPair, config: RewardBenchConfig, limits: Limits) -> Reason:
    """Why a kind cannot score a pair, as far as that can be told without a translation."""
    row = REWARD_KINDS[kind]
    if row.instruction is None:
        return _SCORABLE
    if row.needs_english and not is_language(pair.language):
        return Reason(UNKNOWN_LANGUAGE, f"{pair.language!r} names no known language")
    if row.needs_english and pair.english is None:
        return Reason(NO_ENGLISH, "the prompt has no English counterpart")
    asked = scoring_conversation(kind, pair.language, pair.asked, pair.english, config)
    if row.is_scalar:
        fault = limits.reward_model and limits.reward_model.fault(asked, [pair.chosen.text, pair.rejected.text])
        return Reason(*(fault or ()))
    is_translated = row.of_translation and not is_english(pair.language)
    measured = [
        Measured(asked, side.text if side.token_ids is None else len(side.token_ids))
        for side in ((pair.chosen, pair.rejected) if not is_translated else ())
    ]
    return Reason(*((limits.policies and limits.policies.fault([asked], measured)) or ()))


def _check_reasons(
    config: RewardBenchConfig, pairs: Sequence[LabelledPair], reasons: Mapping[str, Sequence[Reason]]
) -> None:
    """Raise InputError where a kind measures nothing, or more pairs than `max_dropped` allows have a fault."""
    for kind, listed in reasons.items():
        foreign = [reason.name for pair, reason in zip(pairs, listed, strict=True) if not is_english(pair.language)]
        if foreign and set(foreign) <= {NO_ENGLISH, UNKNOWN_LANGUAGE}:
            fits = ",".join(name for name in config.kinds if not REWARD_KINDS[name].needs_english)
            what = "has an English instruction" if NO_ENGLISH in foreign else "is in a known language"
            raise InputError(
                f"{config.pairs or config.corrupt}: none of {len(foreign):,} pairs that are not English {what}, which the {kind} reward is scored after; give "
                "--prompts with English rows of the same ids, a column 'english_instruction'"
                + (f", or --reward-kind {fits}" if fits else "")
            )
    faults = Counter(
        next((reason.name for reason in of_pair if reason.name in FAULTS), "")
        for of_pair in zip(*reasons.values(), strict=True)
    )
    first = next((reason.detail for listed in reasons.values() for reason in listed if reason.name in FAULTS), "")
    require_few_faults(faults, len(pairs), config.max_dropped, "pairs", first, error=InputError)


@dataclass(frozen=True, kw_only=True)
class _Work(RewardBenchInputs):
    """The inputs, and where the stage works on them."""

    context: StageContext

    @property
    def scored_kinds(self) -> tuple[str, ...]:
        return scored_kinds(self.config.kinds)

    @property
    def scalar_kinds(self) -> tuple[str, ...]:
        return scalar_kinds(self.config.kinds)

    def translated(self, part: int, translations: Artifact | None) -> list[tuple[str | None, str]]:
        """[2 P] translation and outcome of each response of a part; without any, nothing and 'english'."""
        if translations is None:
            return [(None, translation.IS_ENGLISH)] * (2 * len(self.pairs[self.rows(part)]))
        rows = translations.read_part(part, ["translation", "outcome"])
        return list(zip(rows["translation"].to_pylist(), rows["outcome"].to_pylist(), strict=True))

    def reasons_of(self, kind: str, part: int, translated: Sequence[tuple[str | None, str]]) -> list[Reason]:
        """[P] why the kind cannot score each pair of a part, now that translations are there."""
        listed = list(self.reasons[kind][self.rows(part)])
        if not REWARD_KINDS[kind].of_translation:
            return listed
        for index, pair in enumerate(self.pairs[self.rows(part)]):
            sides = translated[2 * index : 2 * index + 2]
            if listed[index].name or is_english(pair.language):
                continue
            failed = next((outcome for text, outcome in sides if text is None), "")
            if failed:
                listed[index] = Reason(TRANSLATION, f"a translation is {failed}")
            elif self.limits.policies is not None:
                asked = scoring_conversation(kind, pair.language, pair.asked, pair.english, self.config)
                measured = [Measured(asked, text) for text, _ in sides if text is not None]
                fault = self.limits.policies.fault([asked], measured)
                listed[index] = Reason(*(fault or ()))
        return listed

    def scored(self, part: int, translations: Artifact | None, kinds: Sequence[str]) -> dict[str, list[Scored | None]]:
        """[2 P] for each of the kinds, what is scored of a part's responses."""
        translated = self.translated(part, translations)
        found: dict[str, list[Scored | None]] = {}
        for kind in kinds:
            reasons = self.reasons_of(kind, part, translated)
            listed = found.setdefault(kind, [])
            for index, pair in enumerate(self.pairs[self.rows(part)]):
                for number, side in enumerate((pair.chosen, pair.rejected)):
                    if reasons[index].name:
                        listed.append(None)
                        continue
                    u = scoring_conversation(kind, pair.language, pair.asked, pair.english, self.config)
                    if REWARD_KINDS[kind].of_translation and not is_english(pair.language):
                        listed.append(Scored(u, None, translated[2 * index + number][0] or ""))
                    elif side.token_ids is None or REWARD_KINDS[kind].is_scalar:
                        listed.append(Scored(u, None, side.text))
                    else:
                        start = side.start if self.config.score == "answer" else 0
                        listed.append(Scored(u, np.array(side.token_ids, np.int32), "", start))
        return found


def run(inputs: RewardBenchInputs, context: StageContext) -> StageResult:
    """Score, compare, and write the artifact; goes on where an earlier run of the same work stopped.

    Raises:
        IcrError: the disk is full, or the work folder is not what was written there.
    """
    work = _Work(**vars(inputs), context=context)
    writer = ArtifactWriter(context.folder / REWARD_BENCH.name, REWARD_BENCH, context.fingerprint)
    artifacts = {}
    translations = None
    if inputs.pairs and needs_translations(inputs.config.kinds):
        translations = _translate(work)
        artifacts[_TRANSLATIONS] = translations.folder
    if not writer.complete:
        scored = []
        folder = work.context.folder / _WORK_FOLDER if work.config.execution != "ray" else None
        for name, model in (("policy", inputs.config.policy), ("reference", inputs.config.reference)):
            if inputs.pairs and work.scored_kinds:
                load = partial(load_scorer, work.config, work.config, model, folder)
                scored.append(_scores(work, translations, f"{name}-{LOGPROBS.name}", work.scored_kinds, load))
        scalar = None
        if inputs.pairs and work.scalar_kinds:
            load = partial(load_reward_scorer, work.config, work.config)
            scalar = _scores(work, translations, "reward-scores", work.scalar_kinds, load)
        for part in inputs.parts:
            if not writer.has_part(part):
                writer.write_part(part, _bench_part(work, part, scored, scalar, translations))
        writer.close(len(inputs.parts))
    # Log-probabilities of the two models by themselves, which the artifact now has; also what a kill left of them.
    shutil.rmtree(context.folder / _WORK_FOLDER, ignore_errors=True)
    bench = open_artifact(writer.folder, REWARD_BENCH)
    artifacts[bench.folder.name] = bench.folder

    rows = bench.read(
        [name for name in REWARD_BENCH.schema.names if not name.endswith(("logprob", "digest"))]
    ).to_pandas()
    tables = {
        "reward_accuracy": accuracy_table(rows),
        "reward_comparison": comparison_table(rows),
        "reward_calibration": calibration_table(rows),
    }
    metrics = accuracy_metrics(tables["reward_accuracy"])
    notes = [*inputs.notes, *_notes(rows)]
    if inputs.samples is not None:
        figures = sample_figures(inputs.samples)
        metrics |= figures.metrics
        notes += figures.notes
        own = pd.DataFrame(figures.accuracies, columns=list(ACCURACY_COLUMNS))
        tables["reward_accuracy"] = pd.concat([tables["reward_accuracy"], own]) if len(rows) else own
        tables |= figures.tables
    for name, table in tables.items():
        with atomic_path(bench.folder / TABLE_FILES[name]) as temporary:
            table.to_csv(temporary, index=False)
    with atomic_path(bench.folder / CALIBRATION_PAGE) as temporary:
        temporary.write_text(calibration_page(tables["reward_calibration"]), encoding="utf-8")
    drops = _write_drops(inputs, rows, context)
    if drops is not None:
        artifacts[DROPPED] = drops
    if len(rows):
        metrics["reward_bench/dropped"] = 100.0 * float(rows["is_right"].isna().mean())
    shown = {name: first_rows(table) for name, table in tables.items() if len(table)}
    return StageResult(artifacts, metrics, shown, tuple(notes))


def _translate(work: _Work) -> Artifact:
    """Translate the responses that are scored in English; what earlier work has translated is taken from there."""
    writer = ArtifactWriter(work.context.folder / _TRANSLATIONS, TRANSLATIONS, work.context.fingerprint)
    earlier = work.context.earlier.rows(TRANSLATIONS.name, TRANSLATIONS)
    kinds = [kind for kind in work.scored_kinds if REWARD_KINDS[kind].of_translation]

    def shard(part: int) -> translation.Texts:
        dropped = [
            all(reason.name for reason in of_pair)
            for of_pair in zip(*(work.reasons[kind][work.rows(part)] for kind in kinds), strict=True)
            for _ in range(2)
        ]
        return translation.texts_of(pairs_table(work.pairs[work.rows(part)]), dropped, earlier)

    def take(part: int) -> TakenPart | None:
        texts = shard(part)
        if texts.unknown:
            return None
        return TakenPart((translation.translate_part(None, texts, ignore_progress),), len(texts.texts))

    load, rows = partial(translation.load_translator, work.config, work.config), 2 * len(work.pairs)
    take_known = take if earlier else None
    return make_missing_parts(
        "translate", writer, work.parts, rows, shard, load, work.config, take_known, use="sampled"
    )


def _scores(
    work: _Work, translations: Artifact | None, name: str, kinds: tuple[str, ...], load: Callable[[], Make]
) -> Artifact:
    """Score every part under one model, into the work folder; what earlier work has scored is taken from there."""
    writer = ArtifactWriter(work.context.folder / _WORK_FOLDER / name, LOGPROBS, work.context.fingerprint)
    earlier = work.context.earlier.rows(f"pairs-{name}", _VALUES)

    def shard(part: int) -> ScoreShard:
        return score_shard(pairs_table(work.pairs[work.rows(part)]), work.scored(part, translations, kinds), earlier)

    rows, take = 2 * len(work.pairs) * len(kinds), (lambda part: taken_part(shard(part))) if earlier else None
    return make_missing_parts(
        name.partition("-")[0], writer, work.parts, rows, shard, load, work.config, take, device=work.config.device
    )


def _bench_part(
    work: _Work, part: int, scored: Sequence[Artifact], scalar: Artifact | None, translations: Artifact | None
) -> pa.Table:
    """schemas.REWARD_BENCH of one part: kind after kind in each pair's place, the baseline last.

    scored: under policy and reference, where they score. scalar: under the reward model, where it does.
    """
    pairs = work.pairs[work.rows(part)]
    tables = [logprobs.read_part(part) for logprobs in scored]
    of_reward_model = [scalar.read_part(part)] if scalar else []
    keys = pairs_table(pairs).select(SAMPLE_KEY)
    for table, kinds in (
        *((table, work.scored_kinds) for table in tables),
        *((table, work.scalar_kinds) for table in of_reward_model),
    ):
        repeated = keys.take(pa.array(np.repeat(np.arange(keys.num_rows), len(kinds))))
        if not table.select(SAMPLE_KEY).equals(repeated):
            raise IcrError(
                f"{work.context.folder / _WORK_FOLDER}: part {part} has other keys than the pairs; delete it"
            )
    logprobs = [from_kinds(table, "logprob") for table in tables]
    scores = from_kinds(of_reward_model[0], "logprob") if of_reward_model else {}
    made_from = {
        kind: table["input_digest"].to_pylist()[place :: len(kinds)]
        for table, kinds in (
            *((table, work.scored_kinds) for table in tables[:1]),
            *((table, work.scalar_kinds) for table in of_reward_model),
        )
        for place, kind in enumerate(kinds)
    }
    translated = work.translated(part, translations)
    by_kind = []
    for kind in (*work.config.kinds, LENGTH):
        columns: dict[str, Any] = {"kind": [kind] * len(pairs), "reason": [""] * len(pairs)}
        if kind in made_from:
            if kind in scores:
                rewards = scores[kind]
            else:
                policy, reference = (values[kind] for values in logprobs)
                rewards = implicit_reward(policy, reference, work.config.beta)
            for number, side in enumerate(("chosen", "rejected")):
                if kind not in scores:
                    columns[f"{side}_policy_logprob"] = policy[number::2]
                    columns[f"{side}_reference_logprob"] = reference[number::2]
                columns[f"{side}_digest"] = made_from[kind][number::2]
            columns["reason"] = [reason.name for reason in work.reasons_of(kind, part, translated)]
        elif kind == LENGTH:
            rewards = np.array([len(side.text) for pair in pairs for side in (pair.chosen, pair.rejected)], np.float64)
        else:
            rewards = _drawn(kind, pairs, work.config.seed)
        by_kind.append(_with_rewards(columns, rewards, pairs))
    together = pa.concat_tables(by_kind)
    order = np.arange(together.num_rows).reshape(-1, len(pairs)).T.ravel()
    return together.take(pa.array(order))


def _with_rewards(columns: dict[str, Any], rewards: Floats, pairs: Sequence[LabelledPair]) -> pa.Table:
    """Rows of one kind. rewards: [2 P], chosen before rejected; NaN where there is none."""
    chosen, rejected = rewards[0::2], rewards[1::2]
    right = is_right(chosen, rejected)
    is_tie = np.array([pair.is_tie for pair in pairs])
    # Of two responses of which neither is better, either order is half right.
    right = np.where(is_tie & ~np.isnan(right), 0.5, right)
    # A model's overflow leaves no reward, and no other reason.
    reasons = [
        reason or (NOT_FINITE if missing else "")
        for reason, missing in zip(columns["reason"], np.isnan(right), strict=True)
    ]
    values: dict[str, Any] = {
        **{name: [getattr(pair, name) for pair in pairs] for name in ("language", "pair_id", "prompt_id", "category", "source")},
        **columns,
        "chosen_reward": chosen,
        "rejected_reward": rejected,
        "margin": chosen - rejected,
        "is_right": right,
        "is_tie": is_tie,
        "chosen_characters": [len(pair.chosen.text) for pair in pairs],
        "rejected_characters": [len(pair.rejected.text) for pair in pairs],
        "reason": reasons,
    }  # fmt: skip
    arrays = [
        pa.array(values[column.name], column.type, from_pandas=True)
        if column.name in values
        else pa.nulls(len(pairs), column.type)
        for column in REWARD_BENCH.schema
    ]
    return pa.Table.from_arrays(arrays, schema=REWARD_BENCH.schema)


def _drawn(kind: str, pairs: Sequence[LabelledPair], seed: int) -> Floats:
    """[2 P] rewards that a kind draws. A response's number is its place in an order that does not know the label."""
    draw = REWARD_KINDS[kind].draw
    assert draw is not None
    rewards = []
    for pair in pairs:
        sides = (pair.chosen.text, pair.rejected.text)
        order = sorted(sides, key=text_digest)
        rewards += [draw(seed, pair.language, pair.pair_id, order.index(text)) for text in sides]
    return np.array(rewards, np.float64)


def _write_drops(inputs: RewardBenchInputs, rows: pd.DataFrame, context: StageContext) -> Any:
    """Folder of the table of rows that are not pairs, and of pairs that a kind could not score; None where there are none."""
    unscored = rows[rows["is_right"].isna()]
    details = {
        (kind, pair.language, pair.pair_id): reason.detail
        for kind, listed in inputs.reasons.items()
        for pair, reason in zip(inputs.pairs, listed, strict=True)
        if reason.name
    }
    listed = [
        {"language": row.language, "prompt_id": row.pair_id, "sample_index": None, "reason": row.reason, "detail": row.detail}
        for row in inputs.unused
    ] + [
        {
            "language": language, "prompt_id": pair_id, "sample_index": None, "reason": reason,
            "detail": f"{kind}: {details.get((kind, language, pair_id), reason)}",
        }
        for kind, language, pair_id, reason in unscored[["kind", "language", "pair_id", "reason"]].itertuples(index=False)
    ]  # fmt: skip
    folder = context.folder / DROPPED
    if not listed:
        shutil.rmtree(folder, ignore_errors=True)
        return None
    writer = ArtifactWriter(folder, DROPS, context.fingerprint)
    writer.write_part(0, pa.Table.from_pylist(listed, schema=DROPS.schema))
    return writer.close(1).folder


_SAID = {
    NO_ENGLISH: "their prompts have no English counterpart",
    UNKNOWN_LANGUAGE: "their language is not a known one",
    TRANSLATION: "a response could not be translated",
}


def _notes(rows: pd.DataFrame) -> list[str]:
    """Lines on what each kind could not score, and on pairs whose label is a tie."""
    notes = []
    for (kind, reason), missing in rows[rows["is_right"].isna()].groupby(["kind", "reason"], sort=False):
        languages = ", ".join(missing["language"].unique())
        because = _SAID.get(str(reason)) or (FAULTS[str(reason)].because if reason in FAULTS else str(reason))
        notes.append(
            f"{kind}: {len(missing):,} of {int((rows['kind'] == kind).sum()):,} pairs ({languages}) are not scored because {because}; {DROPPED} "
            "lists them"
        )
    once = rows[rows["kind"] == LENGTH]
    if ties := int(once["is_tie"].sum()):
        notes.append(
            f"{ties:,} of {len(once):,} pairs are ties by their labels and count half for every kind; decided_accuracy leaves them out"
        )
    return notes
