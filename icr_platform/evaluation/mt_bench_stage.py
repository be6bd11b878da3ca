"""mt_bench: two-turn answers sampled from the policy (or given), graded turn by turn, scored per language and category."""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

import pyarrow as pa

from icr_platform.core.artifacts import ArtifactWriter, atomic_path, row_digest
from icr_platform.core.config import require
from icr_platform.core.conversations import Conversation
from icr_platform.core.earlier import with_earlier
from icr_platform.core.errors import IcrError, InputError
from icr_platform.core.faults import fault_notes, require_few_faults
from icr_platform.core.part_job import Advance, Make, PartJob
from icr_platform.core.schemas import MT_BENCH
from icr_platform.core.stage_protocol import StageContext, StageResult
from icr_platform.engines.endpoints.chat_client import Failure, ask_all, check_endpoint
from icr_platform.engines.endpoints.replies import Reply
from icr_platform.engines.endpoints.reply_cache import ReplyCache
from icr_platform.engines.execution.map_parts import check_execution, map_parts, worker_count
from icr_platform.engines.judging.api_judge import asked_with, confirmed_endpoint, endpoint_of
from icr_platform.engines.sampling.choice import check_policy, engine_notes, make_sampler
from icr_platform.engines.sampling.prompt_checks import check_prompts
from icr_platform.engines.sampling.response_parts import engine_gpus
from icr_platform.engines.sampling.sampler import Dropped, Request, Sampler, ignore_progress
from icr_platform.evaluation.config import MtBenchConfig
from icr_platform.evaluation.judgments import settings_of_a_worker, with_cache_of_this_host
from icr_platform.evaluation.mt_bench import (
    NO_ANSWER,
    PARAMETERS,
    TEMPERATURES,
    TURNS,
    Question,
    category_table,
    dropped_questions,
    grade,
    grading_messages,
    languages_in,
    load_answers,
    load_questions,
    no_answer,
    rating_metrics,
    unanswered,
)
from icr_platform.models.chat import USER
from icr_platform.report.figures import radar

Answers = Mapping[tuple[str, str], tuple[str, ...]]
RADAR = "radar.html"
_AGAIN = {"api_error", NO_ANSWER}


@dataclass(frozen=True)
class MtBenchInputs:
    """Questions by language, and the answers to grade where they are given instead of sampled."""

    config: MtBenchConfig
    languages: tuple[str, ...]
    questions: list[Question]
    answers: Answers | None
    notes: tuple[str, ...] = ()


def read(config: MtBenchConfig) -> MtBenchInputs:
    """Read and check every input; load no weights and write nothing. Raises InputError."""
    require(config, "mt_bench")
    check_execution(config)
    check_endpoint(endpoint_of(config))
    languages = config.languages or languages_in(config.questions)
    notes: list[str] = []
    questions = load_questions(config.questions, languages, config.reference_answers, notes)
    answers = None
    if config.answers:
        answers = load_answers(config.answers, languages, notes)
        missing = unanswered(questions, answers)
        if missing:
            raise InputError(
                f"{config.answers}: {len(missing)} of {len(questions)} questions have no answer, the first is "
                f"{missing[0].question_id!r} in {missing[0].language!r}; add them"
            )
    elif not config.policy:
        raise InputError(
            "config: field 'policy' is missing for mt_bench; give --policy, or --answers that exist already"
        )
    else:
        check_policy(config, config.policy, config, [USER, ("user", "assistant", "user")])
        turns = [  # the second has at least one word of the first's answer before it
            Request(
                question.language,
                question.question_id,
                question.turns[turn],
                asked.history,
            )
            for question in questions
            for turn in range(TURNS)
            for before in [(("user", question.turns[0]), ("assistant", "x"))[: 2 * turn]]
            for asked in [config.asked(Conversation(question.turns[turn], before), question.language)]
        ]
        notes += check_prompts(config, config.policy, config, turns, config.max_dropped).notes
    return MtBenchInputs(config, languages, questions, answers, tuple(notes))


def run(inputs: MtBenchInputs, context: StageContext) -> StageResult:
    """Grade every turn. One part a language; answers of a language are sampled and graded before the next one's.

    Raises:
        IcrError: more questions were dropped than `max_dropped` allows, or more grades failed than `judge_max_failures`;
            everything is kept.
    """
    config, languages, questions, given = inputs.config, inputs.languages, inputs.questions, inputs.answers
    writer = ArtifactWriter(context.folder / "ratings", MT_BENCH, context.fingerprint)
    # A request that failed for good may succeed today: its language is graded again, out of the cache where it was answered.
    left = [
        index
        for index in range(len(languages))
        if not writer.has_part(index) or not _AGAIN.isdisjoint(writer.read_part(index)["outcome"].to_pylist())
    ]
    served = engine_notes(config, config.policy, config) if left and not config.answers else ()
    job = PartJob(
        label="mt_bench",
        writers=(writer,),
        parts=left,
        shard=lambda index: [question for question in questions if question.language == languages[index]],
        load=partial(_load, settings_of_a_worker(config, worker_count(config, len(left))), given, socket.gethostname()),
        rows=len(questions) * TURNS,
        done=sum(question.language not in {languages[index] for index in left} for question in questions) * TURNS,
        gpus=0 if config.answers else engine_gpus(config),
        use="sampled",
    )
    rows = context.earlier.rows("ratings", MT_BENCH, never=("outcome", *_AGAIN))
    job = with_earlier(
        job,
        rows,
        lambda shard: [question_digest(question, given) for question in shard],
        lambda shard, items: [shard[item] for item in items],
    )
    map_parts(job, config)
    ratings = writer.close(len(languages))

    frame = ratings.read().to_pandas()
    metrics, categories = rating_metrics(frame), category_table(frame)
    if len(categories):
        with atomic_path(ratings.folder / RADAR) as temporary:
            radar(categories).write_html(temporary, include_plotlyjs=True, div_id="radar")
    dropped = dropped_questions(frame)
    counts = Counter(dropped["reason"])
    require_few_faults(counts, len(questions), config.max_dropped, "questions", f"the others are in {ratings.folder}")
    failed = metrics["mt_bench/failure_rate"]
    if failed > config.judge_max_failures:
        counts = frame["outcome"].value_counts()
        raise IcrError(
            f"mt_bench: {failed:.1f}% of {len(frame)} grades failed, above judge_max_failures "
            f"{config.judge_max_failures:g}% ({', '.join(f'{name} {count}' for name, count in counts.items())}); "
            f"all are kept in {ratings.folder}"
        )
    notes = [*inputs.notes, *served]
    graded = frame[frame["outcome"] != NO_ANSWER]
    if empty := int((graded["answer"].str.strip() == "").sum()):
        notes.append(
            f"{empty} of {len(graded)} answers are empty, and are graded as such; of a model that thinks they may have been cut within "
            "the thought: give more --max-tokens"
        )
    for language, without in dropped.groupby("language", sort=False):
        notes += fault_notes(str(language), Counter(without["reason"]), "questions", "ratings")
    return StageResult({"ratings": ratings.folder}, metrics, {"mt_bench_categories": categories}, tuple(notes))


def _load(config: MtBenchConfig, given: Answers | None, driver: str) -> Make:
    judge = with_cache_of_this_host(config, driver)
    sampler = make_sampler(config, config.policy, config) if given is None else None

    def make(shards: Iterable[list[Question]], advance: Advance) -> Iterator[tuple[pa.Table]]:
        for questions in shards:
            answers = sample_answers(sampler, questions, config, advance) if sampler else given or {}
            table = _grade(judge, questions, answers, given)
            advance(table.num_rows, 0)
            yield (table,)

    return make


def sample_answers(
    sampler: Sampler, questions: list[Question], config: MtBenchConfig, advance: Advance = ignore_progress
) -> Mapping[tuple[str, str], tuple[str, ...] | Dropped]:
    """Both turns of every question by (language, question_id), the second in sight of the first.

    `advance` is told their tokens: a row is done once it is graded.
    """
    answers: dict[tuple[str, str], tuple[str, ...]] = {question.key: () for question in questions}
    dropped: dict[tuple[str, str], Dropped] = {}
    for turn in range(TURNS):
        questions = [question for question in questions if question.key not in dropped]
        requests = [
            Request(
                question.language,
                f"{question.question_id}.{turn + 1}",
                question.turns[turn],
                history,
                TEMPERATURES.get(question.category) if config.category_temperatures else None,
            )
            for question in questions
            for answered in [zip(question.turns, answers[question.key], strict=False)]
            for before in [
                tuple(spoken for asked, said in answered for spoken in (("user", asked), ("assistant", said)))
            ]
            for history in [config.asked(Conversation(question.turns[turn], before), question.language).history]
        ]
        for question, sampled in zip(questions, sampler.sample(requests, 1, config.seed), strict=True):
            if isinstance(sampled, Dropped):
                dropped[question.key] = Dropped(sampled.reason, f"turn {turn + 1}: {sampled.detail}")
            else:
                answers[question.key] += (sampled[0].text,)
                advance(0, len(sampled[0].token_ids))
    return {**answers, **dropped}


def question_digest(question: Question, given: Answers | None) -> bytes:
    """What the ratings of a question are made from, as their `input_digest` says it: the answers too where they are given."""
    answers = given[question.key] if given is not None else ()
    return row_digest(*question.key, question.category, repr((question.turns, question.reference, answers)))


def _grade(
    config: MtBenchConfig,
    questions: list[Question],
    answers: Mapping[tuple[str, str], tuple[str, ...] | Dropped],
    given: Answers | None,
) -> pa.Table:
    turns = [(question, turn) for question in questions for turn in range(1, TURNS + 1)]
    spoken = {key: answer for key, answer in answers.items() if not isinstance(answer, Dropped)}
    graded = [(question, turn) for question, turn in turns if question.key in spoken]
    messages = [grading_messages(question, spoken[question.key], turn) for question, turn in graded]
    cache = ReplyCache(config.cache_folder)
    parameters = asked_with(PARAMETERS, config.judge_chat_template_kwargs)
    replies: list[Reply | Failure] = ask_all(confirmed_endpoint(config), cache, messages, parameters)
    cache.close()
    grades = {(question.key, turn): grade(reply) for (question, turn), reply in zip(graded, replies, strict=True)}
    rows = []
    for question, turn in turns:
        answer = answers[question.key]
        rows.append(
            {
                "language": question.language,
                "question_id": question.question_id,
                "category": question.category,
                "turn": turn,
                "instruction": question.turns[turn - 1],
                "answer": "" if isinstance(answer, Dropped) else answer[turn - 1],
                "judge": config.judge_api_model,
                "input_digest": question_digest(question, given),
                **(no_answer(answer) if isinstance(answer, Dropped) else grades[question.key, turn])._asdict(),
            }
        )
    return pa.Table.from_pylist(rows, schema=MT_BENCH.schema)
