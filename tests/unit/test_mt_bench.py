"""MT-Bench: files, grading prompts, ratings and scores."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from icr_platform.core.errors import InputError
from icr_platform.engines.endpoints.chat_client import Failure
from icr_platform.engines.endpoints.replies import Reply
from icr_platform.engines.sampling.sampler import Advance, Request, Sample, Sampler, ignore_progress
from icr_platform.engines.sampling.thoughts import ThoughtfulSampler
from icr_platform.evaluation.config import MtBenchConfig
from icr_platform.evaluation.mt_bench import (
    Question,
    category_table,
    grade,
    grading_messages,
    load_answers,
    load_questions,
    parse_rating,
    rating_metrics,
)
from icr_platform.evaluation.mt_bench_stage import sample_answers
from icr_platform.report.figures import radar
from tests.support.template_families import family_tokenizer

QUESTIONS = [
    {"question_id": 81, "category": "writing", "turns": ["Escribe {algo}.", "Más corto."]},
    {"question_id": 111, "category": "math", "turns": ["2 + 2", "Y 3 más"]},
]
ANSWERS = [{"question_id": row["question_id"], "choices": [{"turns": ["uno", "dos"]}]} for row in QUESTIONS]


def write(path: Path, rows: list[dict[str, object]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path / "questions" / "es.jsonl", QUESTIONS)
    write(tmp_path / "references" / "es.jsonl", ANSWERS)
    return tmp_path


def test_the_judge_sees_the_conversation_up_to_the_turn_and_the_reference_where_one_is_due(folder: Path) -> None:
    writing, math = load_questions(str(folder / "questions"), ["es"], str(folder / "references"))
    [first] = grading_messages(writing, ("{respuesta}", "dos"), 1)
    assert "{respuesta}" in first["content"]
    assert "Más corto." not in first["content"], "the second turn is not known yet"
    assert "<reference>" not in first["content"]
    [second] = grading_messages(math, ("cuatro", "siete"), 2)
    assert second["content"].index("2 + 2") < second["content"].index("cuatro") < second["content"].index("siete")
    assert "<reference>\ndos\n</reference>" in second["content"]


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([{"category": "math", "turns": ["a", "b"]}], "'question_id' is missing"),
        ([{"question_id": 1, "turns": ["a"]}], "'turns' is not a list of 2 texts"),
        ([QUESTIONS[0], QUESTIONS[0]], "'81' is a duplicate"),
        ([{"question_id": 112, "category": "coding", "turns": ["a", "b"]}], "no reference answer"),
    ],
)
def test_bad_questions_raise_one_line(folder: Path, rows: list[dict[str, object]], words: str) -> None:
    write(folder / "questions" / "es.jsonl", rows)
    with pytest.raises(InputError) as caught:
        load_questions(str(folder / "questions"), ["es"], str(folder / "references"))
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    write(folder / "references" / "es.jsonl", [{"question_id": 1, "choices": []}])
    with pytest.raises(InputError, match=r"es\.jsonl: row 1"):
        load_answers(str(folder / "references"), ["es"])


@pytest.mark.parametrize(
    ("text", "rating"),
    [
        ('{"explanation": "ok", "rating": 7}', 7.0),
        ("Fine. Rating: [[9]]", 9.0),
        ('{"rating": 0}', None),
        ("good", None),
    ],
)
def test_ratings_outside_one_to_ten_do_not_count(text: str, rating: float | None) -> None:
    assert parse_rating(text) == rating
    assert grade(Reply(text, None, None, "stop", 5, 5)).outcome == ("ok" if rating else "parse_error")
    assert grade(Failure("HTTP 500")).outcome == "api_error"


def test_scores_cluster_turns_by_question_and_count_failures() -> None:
    rows = [
        {"language": code, "question_id": str(q), "category": "math" if q else "stem", "turn": turn, "outcome": "ok",
         "rating": float(base + q + turn)}
        for code, base in (("en", 4), ("es", 2)) for q in range(3) for turn in (1, 2)
    ]  # fmt: skip
    frame = pd.DataFrame([*rows, rows[0] | {"outcome": "refusal", "rating": None}])
    metrics = rating_metrics(frame)
    assert metrics["mt_bench/en"] == pytest.approx(6.5)
    assert metrics["mt_bench_se/en"] == pytest.approx(1 / 3**0.5)
    assert metrics["mt_bench/turn-2/es"] == pytest.approx(5.0)
    assert metrics["mt_bench/mean"] == pytest.approx(5.5)
    assert metrics["mt_bench/failure_rate"] == pytest.approx(100 / 13)
    table = category_table(frame)
    assert set(table["category"]) == {"stem", "math"}
    assert len(radar(table).data) == 2


def test_a_question_of_which_one_turn_failed_counts_nowhere() -> None:
    rows: list[dict[str, object]] = [
        {"language": "en", "question_id": str(q), "category": "stem", "turn": turn, "outcome": "ok", "rating": 9.0 - 4 * turn}
        for q in range(4) for turn in (1, 2)
    ]  # fmt: skip
    whole = rating_metrics(pd.DataFrame(rows))
    for turn in (1, 2):
        half = [row | ({"outcome": "api_error", "rating": None} if (row["question_id"], row["turn"]) == ("2", turn) else {})
                for row in rows]  # fmt: skip
        metrics = rating_metrics(pd.DataFrame(half))
        assert metrics["mt_bench/en"] == whole["mt_bench/en"] == 3.0
        assert (metrics["mt_bench/n"], metrics["mt_bench/failure_rate"]) == (6.0, 12.5)
        assert category_table(pd.DataFrame(half))["en"].tolist() == [3.0]
    nothing = pd.DataFrame([row | {"outcome": "api_error", "rating": None} for row in rows])
    assert rating_metrics(nothing) == {"mt_bench/failure_rate": 100.0, "mt_bench/n": 0.0}
    assert len(category_table(nothing)) == 0


class Recorder(Sampler):
    """Answers with the question's id and keeps what it was asked."""

    def __init__(self) -> None:
        self.asked: list[Request] = []

    def sample(
        self, requests: Sequence[Request], samples: int, seed: int, advance: Advance = ignore_progress
    ) -> list[list[Sample]]:
        self.asked += requests
        return [[Sample(request.prompt_id, [1], "stop")] for request in requests]


@pytest.mark.parametrize(("switched", "expected"), [(True, [0.7, 0.0, 0.1, None]), (False, [None] * 4)])
def test_answers_are_sampled_at_their_categorys_temperature(switched: bool, expected: list[float | None]) -> None:
    categories = ("roleplay", "extraction", "humanities", "of-my-own")
    questions = [Question("es", str(n), category, ("Uno.", "Dos.")) for n, category in enumerate(categories)]
    sampler = Recorder()
    answers = sample_answers(sampler, questions, MtBenchConfig(category_temperatures=switched))
    assert answers["es", "2"] == ("2.1", "2.2")
    assert [request.temperature for request in sampler.asked] == expected * 2
    assert sampler.asked[4].history == (("user", "Uno."), ("assistant", "0.1"))


def test_answers_are_read_without_what_was_thought_before_them(tmp_path: Path) -> None:
    turns = ["<think>\nTwo?\n</think>\n\ncuatro", "siete"]
    write(tmp_path / "es.jsonl", [{"question_id": 1, "choices": [{"turns": turns}]}])
    notes: list[str] = []
    assert load_answers(str(tmp_path), ["es"], notes) == {("es", "1"): ("cuatro", "siete")}
    assert "1 of 1 rows come with what was thought before the answers" in notes[0]


class Thinker(Sampler):
    """Thinks in English before each answer, which is the question's id."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.asked: list[Request] = []

    def sample(
        self, requests: Sequence[Request], samples: int, seed: int, advance: Advance = ignore_progress
    ) -> list[list[Sample]]:
        self.asked += requests
        texts = [f"<think>\nHmm.\n</think>\n\n{request.prompt_id}<|im_end|>" for request in requests]
        return [[Sample(text, self.tokenizer(text)["input_ids"], "stop")] for text in texts]


def test_the_second_turn_is_asked_in_sight_of_the_first_answer_without_its_thought() -> None:
    engine = Thinker(family_tokenizer("qwen3"))
    sampler = ThoughtfulSampler(engine, engine.tokenizer)
    answers = sample_answers(sampler, [Question("es", "7", "math", ("Uno.", "Dos."))], MtBenchConfig())
    assert answers["es", "7"] == ("7.1", "7.2")
    assert engine.asked[1].history == (("user", "Uno."), ("assistant", "7.1"))
