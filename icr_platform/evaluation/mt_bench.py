"""Multilingual MT-Bench: two-turn questions, each turn graded 1 to 10 by an LLM judge (arXiv 2306.05685, section 3).

Files in FastChat's layout: questions `{question_id, category, turns: [first, second]}`, answers and reference answers
`{question_id, choices: [{turns: [first, second]}]}`; one `LANG.jsonl` per language, or a path with `{language}`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import pandas as pd

from icr_platform.core.conversations import as_text
from icr_platform.core.errors import InputError
from icr_platform.core.language_tags import english_first, names_language
from icr_platform.core.languages import language_name
from icr_platform.data.row_fields import BadRow, identity_of, refused, text_fault
from icr_platform.data.row_files import SourceRow
from icr_platform.data.row_sources import UNNAMED, RowSource, Wanted, name_in
from icr_platform.data.sources import open_source
from icr_platform.data.wording import shown
from icr_platform.engines.endpoints.chat_client import Failure, Message
from icr_platform.engines.endpoints.replies import Reply
from icr_platform.engines.judging.api_judge import outcome_of
from icr_platform.engines.judging.judge_replies import last_verdict, why_unread
from icr_platform.engines.sampling.sampler import Dropped
from icr_platform.models.thinking import split_text

TURNS = 2
_QUESTIONS = Wanted("questions", "question_id, category and turns")
_ANSWERS = Wanted("answers", "question_id and choices")
_TURNS = ("turns", "prompt")  # the second as in the copy of MT-Bench on the hub
NO_ANSWER = "no_answer"
"""The outcome of both turns of a question that the policy could not answer; their detail begins with the reason."""
REFERENCED = ("math", "reasoning", "coding")
"""Categories graded against a reference answer, as in FastChat."""
TEMPERATURES: Mapping[str, float] = {
    "writing": 0.7, "roleplay": 0.7, "extraction": 0.0, "math": 0.0, "coding": 0.0, "reasoning": 0.0, "stem": 0.1,
    "humanities": 0.1,
}  # fmt: skip
"""Sampling temperature of a category's answers, as in FastChat (`temperature_config` of llm_judge/common.py)."""
PARAMETERS: Mapping[str, Any] = {
    "response_format": {
        "type": "json_schema",
        "json_schema": {
            "name": "grade",
            "strict": True,
            "schema": {
                "type": "object",
                "properties": {"explanation": {"type": "string"}, "rating": {"type": "integer"}},
                "required": ["explanation", "rating"],
                "additionalProperties": False,
            },
        },
    }
}
_NUMBER = r"(\d+(?:\.\d*)?)(?!\d)"
_OF_TEN = r"\s*(?:(?:/|out of)\s*10(?:\.0)?)?\s*"
_RATING = re.compile(
    rf'"rating"\s*:\s*"?{_NUMBER}|\\?\[\\?\[\s*(?:rating\s*:?)?\s*{_NUMBER}{_OF_TEN}\\?\]\\?\]', re.IGNORECASE
)
"""JSON that is cut or broken, and FastChat's form."""
_LOOSE_RATINGS = (
    # `Rating: 8`, `**Score:** 8/10`; not `Rating: 4/5`, `Rating: 7-8`, `Score: 7, 9`.
    re.compile(
        rf"\b(?:rating|score)\b(?:\s+is)?[\s*_:=\[\"'`\\{{]{{0,12}}(?:boxed\{{)?{_NUMBER}(?:{_OF_TEN})(?!\s*(?:[/,–-]|to\b)\s*\d)(?!\d|\.\d)",
        re.IGNORECASE,
    ),
    re.compile(rf"\[\s*{_NUMBER}{_OF_TEN}\]"),  # FastChat's second try: `[8]`
    re.compile(rf"\A\s*\**{_NUMBER}{_OF_TEN}\**\.?\s*\Z"),  # nothing but a number
)
_OUT_OF_TEN = re.compile(rf"\s*{_NUMBER}{_OF_TEN}")
_BRACKETS = str.maketrans("［］【】：／", "[][]:/")
_REQUEST = """\
Grade the assistant's last answer in the conversation below on a scale from 1 (useless) to 10 (could not be better).

Look at whether it does what the user asks, is right, relevant, deep enough, clear and safe. A good answer is written in the \
language of the user's message ({language}) unless the user asks for another. Be strict, be fair to short answers that say \
all there is to say, and grade the last answer only; what came before is its context.
{reference}
<conversation>
{conversation}
</conversation>

Explain in a few sentences, then give the rating, as JSON: {{"explanation": "...", "rating": 1 to 10}}"""


@dataclass(frozen=True)
class Question:
    """One question; `reference` contains a right answer to each turn, or is empty."""

    language: str
    question_id: str
    category: str
    turns: tuple[str, ...]
    reference: tuple[str, ...] = ()

    @property
    def key(self) -> tuple[str, str]:
        return self.language, self.question_id


class Grade(NamedTuple):
    """One graded turn; rating is None unless outcome is 'ok'."""

    rating: float | None
    outcome: str
    input_tokens: int
    output_tokens: int
    detail: str


def languages_in(source: str) -> tuple[str, ...]:
    """Languages with a question file in a folder, English first."""
    found = english_first(filter(names_language, open_source(source, _QUESTIONS).names))
    if not found:
        raise InputError(
            f"{source}: no LANG.jsonl of questions here; give such a folder, or --languages with a template"
        )
    return tuple(found)


def load_questions(
    source: str, languages: Sequence[str], references: str = "", notes: list[str] | None = None
) -> list[Question]:
    """Questions of all languages, with the reference answers of those categories that need one.

    notes: takes a line for each language that the source has under another tag.

    Raises:
        InputError: a damaged row, a duplicate id, or no reference answer where one is needed.
    """
    questions = []
    opened = open_source(source, _QUESTIONS, languages)
    answers = load_answers(references, languages, notes) if references else {}
    for language in languages:
        seen: set[str] = set()
        for row in _rows(opened, language, languages, notes):
            category = str(row.fields.get("category") or "")
            key = _question_id(row, "write {question_id, category, turns}")
            turns = _turns(row, next((row.fields[name] for name in _TURNS if row.fields.get(name) is not None), None))
            if turns is None:
                raise InputError(
                    f"{row.where}: field 'turns' is not a list of {TURNS} texts; add both turns; {_found(row)}"
                )
            if key in seen:
                raise InputError(f"{row.where}: field 'question_id' {key!r} is a duplicate; remove one")
            seen.add(key)
            # A right answer may stand in the question's own row, or in a file of reference answers.
            reference = _turns(row, row.fields.get("reference")) or answers.get((language, key), ())
            if references and category in REFERENCED and not reference:
                raise InputError(
                    f"{references}: question {key!r} ({category}) has no reference answer in {language!r}; add it"
                )
            used = reference if category in REFERENCED else ()
            questions.append(Question(language, key, category, turns, used))
        if not seen:
            raise InputError(
                f"{opened.where(language)}: contains no question; add rows with question_id, category and turns"
            )
    return questions


def load_answers(
    source: str, languages: Sequence[str], notes: list[str] | None = None
) -> dict[tuple[str, str], tuple[str, ...]]:
    """Both turns' answers by (language, question_id), without what was thought before them, which `notes` is told.

    Raises:
        InputError: a damaged row, or a question that is answered twice.
    """
    found: dict[tuple[str, str], tuple[str, ...]] = {}
    split = 0
    opened = open_source(source, _ANSWERS, languages)
    for language in languages:
        for row in _rows(opened, language, languages):
            choices = row.fields.get("choices")
            first = choices[0] if isinstance(choices, list) and choices else None
            turns = _turns(row, first.get("turns") if isinstance(first, Mapping) else None)
            if turns is None:
                raise InputError(
                    f"{row.where}: is not {{question_id, choices: [{{turns: [.., ..]}}]}}; correct it; {_found(row)}"
                )
            key = (language, _question_id(row, "write {question_id, choices}"))
            if key in found:
                raise InputError(f"{row.where}: question {key[1]!r} was answered in a row before; remove one")
            found[key] = tuple(split_text(None, turn).answer for turn in turns)
            split += found[key] != turns
        if not any(key[0] == language for key in found):
            raise InputError(f"{opened.where(language)}: contains no answer; add rows with question_id and choices")
    if split and notes is not None:
        notes.append(
            f"{source}: {split} of {len(found)} rows come with what was thought before the answers, which is left out"
        )
    return found


def _rows(
    source: RowSource, language: str, languages: Sequence[str], notes: list[str] | None = None
) -> Iterator[SourceRow]:
    is_only = source.names == (UNNAMED,) and len(languages) == 1
    name = UNNAMED if is_only else name_in(source, language, [] if notes is None else notes)
    if name is None:
        raise InputError(
            f"{source.where(language)}: no such file; give a folder of LANG.jsonl or a path with {{language}} in it"
        )
    return source.rows(name)


def _question_id(row: SourceRow, fix: str) -> str:
    try:
        own = {"question_id": row.fields.get("question_id")}
        key = identity_of(own) or identity_of(row.fields)
    except BadRow as error:
        raise refused(row, error) from None
    if key is None:
        raise InputError(f"{row.where}: field 'question_id' is missing; {fix}; {_found(row)}")
    return key


def _found(row: SourceRow) -> str:
    return f"found: {shown(list(row.fields))}"


def _turns(row: SourceRow, value: Any) -> tuple[str, ...] | None:
    """Both turns; None where the value is not a list of two texts."""
    if not isinstance(value, list) or len(value) != TURNS or not all(isinstance(turn, str) for turn in value):
        return None
    for turn in value:
        if fault := text_fault(turn):
            raise InputError(f"{row.where}: a turn {fault}")
    return tuple(value)


def grading_messages(question: Question, answers: Sequence[str], turn: int) -> list[Message]:
    """What the judge is asked about turn 1 or 2: the conversation up to that answer, and the reference where there is one."""
    spoken = [
        {"role": role, "content": text}
        for index in range(turn)
        for role, text in (("user", question.turns[index]), ("assistant", answers[index]))
    ]
    reference = ""
    if question.reference:
        reference = f"\nA right answer to compare with:\n<reference>\n{question.reference[turn - 1]}\n</reference>\n"
    values = {"language": language_name(question.language), "reference": reference, "conversation": as_text(spoken)}
    return [{"role": "user", "content": _REQUEST.format(**values)}]


def grade(reply: Reply | Failure) -> Grade:
    """The typed outcome of a judge's reply.

    >>> grade(Reply('{"explanation": "Right.", "rating": 8}', None, None, "stop", 9, 7)).rating
    8.0
    """
    if isinstance(reply, Failure):
        return Grade(None, outcome_of(reply), 0, 0, reply.detail)
    tokens = (reply.input_tokens, reply.output_tokens)
    if reply.refusal is not None:
        return Grade(None, "refusal", *tokens, reply.refusal)
    rating = parse_rating(reply.text)
    if rating is None:
        why = why_unread(reply, "rating from 1 to 10")
        return Grade(None, "parse_error", *tokens, f"{why} {reply.text[:200]!r}")
    return Grade(rating, "ok", *tokens, str(last_verdict(reply.text, "explanation").value or ""))


def no_answer(dropped: Dropped) -> Grade:
    """What stands in a grade's place where there is no answer to grade.

    >>> no_answer(Dropped("too-long", "turn 2: 99 tokens")).detail
    'too-long: turn 2: 99 tokens'
    """
    return Grade(None, NO_ANSWER, 0, 0, f"{dropped.reason}: {dropped.detail}")


def dropped_questions(ratings: pd.DataFrame) -> pd.DataFrame:
    """Questions without an answer: language, question_id, and the reason."""
    rows = ratings[(ratings["outcome"] == NO_ANSWER) & (ratings["turn"] == 1)]
    return rows[["language", "question_id"]].assign(reason=[detail.partition(":")[0] for detail in rows["detail"]])


def parse_rating(text: str) -> float | None:
    """The last rating in the judge's JSON, or in FastChat's [[n]] form, reasoning left out; None when it is not in 1 .. 10.

    Where there is neither, a looser form counts: `Rating: 8`, FastChat's `[8]`, or the number alone.

    >>> parse_rating("Good. [[7]]"), parse_rating('{"rating": 12}'), parse_rating("eight")
    (7.0, None, None)
    >>> parse_rating("<think>[[9]]</think> First I thought [[3]], but: [[7]]")
    7.0
    """
    value, rest = last_verdict(text, "rating")
    rest = rest.translate(_BRACKETS)
    later = _RATING.findall(rest)
    seen = next(filter(None, later[-1])) if later else value
    if seen is None:
        loose = next(filter(None, (form.findall(rest) for form in _LOOSE_RATINGS)), [None])
        seen = loose[-1]
    if isinstance(seen, str):
        number = _OUT_OF_TEN.fullmatch(seen)
        seen = float(number[1]) if number else None
    is_number = isinstance(seen, (int, float)) and not isinstance(seen, bool)
    return float(seen) if is_number and 1.0 <= seen <= 10.0 else None


def rating_metrics(ratings: pd.DataFrame) -> dict[str, float]:
    """MLflow metrics from the columns of schemas.MT_BENCH: `mt_bench/es` and its standard error over questions, per turn,
    the mean over languages, `mt_bench/n` grades that were used, the failure rate in percent of the grades that were asked for, and
    `mt_bench/dropped` in percent of the questions where some have no answer."""
    rated = _fully_rated(ratings)
    asked = ratings[ratings["outcome"] != NO_ANSWER]
    metrics = {
        "mt_bench/failure_rate": 100.0 * float((asked["outcome"] != "ok").sum()) / max(1, len(asked)),
        "mt_bench/n": float(len(rated)),
    }
    if len(asked) < len(ratings):
        metrics["mt_bench/dropped"] = 100.0 * (len(ratings) - len(asked)) / len(ratings)
    for code, rows in rated.groupby("language", sort=False):
        by_question = rows.groupby("question_id")["rating"].mean()
        metrics[f"mt_bench/{code}"] = float(by_question.mean())
        if len(by_question) > 1:
            metrics[f"mt_bench_se/{code}"] = float(by_question.std(ddof=1) / math.sqrt(len(by_question)))
        for turn, of_turn in rows.groupby("turn"):
            metrics[f"mt_bench/turn-{turn}/{code}"] = float(of_turn["rating"].mean())
    means = [value for name, value in metrics.items() if re.fullmatch(r"mt_bench/[a-z]{2}", name)]
    if means:
        metrics["mt_bench/mean"] = sum(means) / len(means)
    return metrics


def _fully_rated(ratings: pd.DataFrame) -> pd.DataFrame:
    """Rated rows of the questions whose every turn is rated: first turns earn more than second ones, so that a question with one
    of them would count as another kind of question."""
    key = ["language", "question_id"]
    rated = ratings.dropna(subset=["rating"])
    turns = ratings.groupby(key, sort=False)["turn"].nunique()
    complete = rated.groupby(key, sort=False)["turn"].nunique().eq(turns, fill_value=0)
    return rated[complete.reindex(pd.MultiIndex.from_frame(rated[key])).to_numpy(dtype=bool)]


def category_table(ratings: pd.DataFrame) -> pd.DataFrame:
    """Categories x languages of the mean rating, of questions whose every turn is rated."""
    wide = _fully_rated(ratings).pivot_table(
        index="category", columns="language", values="rating", aggfunc="mean", sort=False
    )
    return wide.reset_index().rename_axis(columns=None)


def unanswered(questions: Iterable[Question], answers: Mapping[tuple[str, str], Any]) -> list[Question]:
    """Questions without an answer."""
    return [question for question in questions if question.key not in answers]
