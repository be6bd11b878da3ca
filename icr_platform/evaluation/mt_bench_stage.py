"""mt_bench: two-turn answers sampled from the policy (or given), graded turn by turn, scored per language and category."""

from __future__ import annotations

from collections.abc import Mapping

import pyarrow as pa

from icr_platform.artifacts import Artifact, ArtifactWriter, atomic_path
from icr_platform.config import MtBenchConfig
from icr_platform.errors import IcrError, InputError
from icr_platform.evaluation.chat_client import Failure, ask_all, check_endpoint
from icr_platform.evaluation.judge import cache_folder, endpoint_of
from icr_platform.evaluation.mt_bench import (
    PARAMETERS,
    TURNS,
    Question,
    category_table,
    grade,
    grading_messages,
    languages_in,
    load_answers,
    load_questions,
    radar,
    score,
    unanswered,
)
from icr_platform.evaluation.replies import Reply
from icr_platform.evaluation.reply_cache import ReplyCache
from icr_platform.generation.sampler import Request, Sampler, check_sampler, make_sampler
from icr_platform.models import load_tokenizer
from icr_platform.progress import meter
from icr_platform.schemas import MT_BENCH
from icr_platform.stages import StageContext, StageResult

Answers = Mapping[tuple[str, str], tuple[str, ...]]
RADAR = "radar.html"


def validate(config: MtBenchConfig) -> None:
    """Check every input; loads no weights and writes nothing. Raises InputError."""
    check_endpoint(endpoint_of(config))
    questions = _questions(config)
    if config.answers:
        missing = unanswered(questions, load_answers(config.answers, _languages(config)))
        if missing:
            raise InputError(
                f"{config.answers}: {len(missing)} of {len(questions)} questions have no answer, the first is "
                f"{missing[0].question_id!r} in {missing[0].language!r}; add them"
            )
    elif not config.policy:
        raise InputError("config: field 'policy' is missing for mt_bench; give --policy, or --answers that are there")
    else:
        check_sampler(config)
        load_tokenizer(config.policy)


def run(config: MtBenchConfig, context: StageContext) -> StageResult:
    """Grade every turn. One part a language; answers of a language are sampled and graded before the next one's.

    Raises:
        InputError: bad input.
        IcrError: more grades failed than `judge_max_failures` allows; everything is kept.
    """
    validate(config)
    writer = ArtifactWriter(context.folder / "ratings", MT_BENCH, context.fingerprint)
    languages, questions = _languages(config), _questions(config)
    left = [index for index in range(len(languages)) if not writer.has_part(index) or _failed(writer.read_part(index))]
    sampler = make_sampler(config, config.policy) if left and not config.answers else None
    with meter("mt_bench", len(languages), len(languages) - len(left)) as progress:
        for index in left:
            asked = [question for question in questions if question.language == languages[index]]
            answers = (
                _sample(sampler, asked, config.seed) if sampler else load_answers(config.answers, _languages(config))
            )
            writer.write_part(index, _grade(config, asked, answers))
            progress.advance(1)
    return _result(config, writer.close(len(languages)))


def _languages(config: MtBenchConfig) -> tuple[str, ...]:
    return config.languages or languages_in(config.questions)


def _questions(config: MtBenchConfig) -> list[Question]:
    return load_questions(config.questions, _languages(config), config.reference_answers)


def _failed(ratings: pa.Table) -> bool:
    return "api_error" in ratings["outcome"].to_pylist()


def _sample(sampler: Sampler, questions: list[Question], seed: int) -> Answers:
    """Both turns of every question, the second in sight of the first."""
    answers: dict[tuple[str, str], tuple[str, ...]] = {question.key: () for question in questions}
    for turn in range(TURNS):
        requests = [
            Request(question.language, f"{question.question_id}.{turn + 1}", question.turns[turn], history)
            for question in questions
            for history in [_history(question, answers[question.key])]
        ]
        for question, [sample] in zip(questions, sampler.sample(requests, 1, seed), strict=True):
            answers[question.key] += (sample.text,)
    return answers


def _history(question: Question, answers: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    turns = zip(question.turns, answers, strict=False)
    return tuple(message for asked, answer in turns for message in (("user", asked), ("assistant", answer)))


def _grade(config: MtBenchConfig, questions: list[Question], answers: Answers) -> pa.Table:
    turns = [(question, turn) for question in questions for turn in range(1, TURNS + 1)]
    messages = [grading_messages(question, answers[question.key], turn) for question, turn in turns]
    cache = ReplyCache(cache_folder(config))
    replies: list[Reply | Failure] = ask_all(endpoint_of(config), cache, messages, PARAMETERS)
    cache.close()
    rows = []
    for (question, turn), reply in zip(turns, replies, strict=True):
        rows.append(
            {
                "language": question.language,
                "question_id": question.question_id,
                "category": question.category,
                "turn": turn,
                "instruction": question.turns[turn - 1],
                "answer": answers[question.key][turn - 1],
                "judge": config.judge_api_model,
                **grade(reply)._asdict(),
            }
        )
    return pa.Table.from_pylist(rows, schema=MT_BENCH.schema)


def _result(config: MtBenchConfig, ratings: Artifact) -> StageResult:
    frame = ratings.read().to_pandas()
    metrics, categories = score(frame), category_table(frame)
    if len(categories):
        with atomic_path(ratings.folder / RADAR) as temporary:
            radar(categories).write_html(temporary, include_plotlyjs=True, div_id="radar")
    failed = metrics["mt_bench/failure_rate"]
    if failed > config.judge_max_failures:
        counts = frame["outcome"].value_counts()
        raise IcrError(
            f"mt_bench: {failed:.1f}% of {len(frame)} grades failed, above judge_max_failures "
            f"{config.judge_max_failures:g}% ({', '.join(f'{name} {count}' for name, count in counts.items())}); "
            f"all are kept in {ratings.folder}"
        )
    return StageResult({"ratings": ratings.folder}, metrics, {"mt_bench_categories": categories})
