"""The judge client against a real HTTP server that fails in every way it knows."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from icr_platform.core.artifacts import open_artifact
from icr_platform.core.errors import IcrError, InputError
from icr_platform.core.schemas import JUDGMENTS, MT_BENCH
from icr_platform.core.spending import spent
from icr_platform.core.stage_protocol import StageContext
from icr_platform.demo import IDENTIFIER
from icr_platform.engines.endpoints.chat_client import Endpoint
from icr_platform.engines.endpoints.reply_cache import ReplyCache
from icr_platform.engines.judging.api_judge import ApiJudge
from icr_platform.engines.judging.pairwise import DEFAULT_TEMPLATE, Judgment, Pair
from icr_platform.evaluation.config import EvalConfig, MtBenchConfig
from icr_platform.evaluation.mt_bench_stage import read as read_mt_bench
from icr_platform.evaluation.mt_bench_stage import run as run_mt_bench
from icr_platform.evaluation.stage import read, run
from icr_platform.planning.judge_cost import estimate
from tests.support.fault_server import FAULTS, KEY, MORE_FAULTS, Behaviour, fault_servers, preference

Serve = Callable[..., tuple[Behaviour, Endpoint]]


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Serve]:
    """`serve(fault_rate=...)` starts a server in a thread and gives its behaviour and an endpoint for it."""
    monkeypatch.setenv("JUDGE_KEY", KEY)
    with fault_servers() as serve:

        def start(**settings: Any) -> tuple[Behaviour, Endpoint]:
            behaviour, url = serve(**settings)
            return behaviour, Endpoint("judge-1", url, "JUDGE_KEY", 16, 30.0, 8)

        yield start


def parts(count: int, size: int = 10) -> list[list[Pair]]:
    pairs = [Pair("es", f"p{i}", 0, f"Nombra {i}.", f"candidato {i} {{x}}", f"referencia {i}") for i in range(count)]
    return [pairs[start : start + size] for start in range(0, count, size)]


def ask(endpoint: Endpoint, cache: Path, count: int, samples: int = 0) -> list[Judgment]:
    judge = ApiJudge(endpoint, ReplyCache(cache), DEFAULT_TEMPLATE, both_orders=True, seed=1, samples=samples)
    found = list(judge.judge(parts(count)))
    assert [len(part) for part in found] == [2 * len(part) for part in parts(count)]
    return [judgment for part in found for judgment in part]


def test_faults_of_every_kind_change_nothing(serve: Serve, tmp_path: Path) -> None:
    _, calm = serve()
    expected = ask(calm, tmp_path / "calm", 150)
    behaviour, stormy = serve(fault_rate=0.3, faults=MORE_FAULTS)
    assert ask(replace(stormy, timeout=2.0, retries=12), tmp_path / "stormy", 150) == expected
    assert behaviour.requests > 390
    assert {judgment.outcome for judgment in expected} == {"ok"}
    first = expected[0]
    question = ApiJudge(calm, ReplyCache(tmp_path / "x"), DEFAULT_TEMPLATE, True, 1, 0).questions(parts(1)[0][0])[0][1]
    assert first.preference == pytest.approx(preference(question))
    assert first.mass == pytest.approx(0.95)


def test_a_second_run_asks_nothing_and_the_key_is_nowhere(serve: Serve, tmp_path: Path) -> None:
    behaviour, endpoint = serve()
    first = ask(endpoint, tmp_path / "cache", 20)
    assert behaviour.requests == 40
    assert ask(endpoint, tmp_path / "cache", 20) == first
    assert behaviour.requests == 40
    assert ask(replace(endpoint, model="judge-2"), tmp_path / "cache", 20) != first
    assert behaviour.requests == 80
    for path in (tmp_path / "cache").iterdir():
        assert KEY.encode() not in path.read_bytes()


@pytest.mark.parametrize(
    ("answer", "samples", "outcome"),
    [("none", 0, "no_logprob"), ("prose", 0, "parse_error"), ("refusal", 0, "refusal"), ("json", 3, "ok"),
     ("prose", 2, "parse_error"), ("refusal", 2, "refusal")],
)  # fmt: skip
def test_every_answer_has_one_typed_outcome(
    serve: Serve, tmp_path: Path, answer: str, samples: int, outcome: str
) -> None:
    _, endpoint = serve(answer=answer)
    judgments = ask(endpoint, tmp_path / "cache", 6, samples)
    assert {judgment.outcome for judgment in judgments} == {outcome}
    assert all((judgment.preference is None) == (outcome != "ok") for judgment in judgments)
    assert all(judgment.detail or outcome == "ok" for judgment in judgments)


def test_structured_answers_force_neither_length_nor_temperature(serve: Serve, tmp_path: Path) -> None:
    behaviour, endpoint = serve(answer="json")
    ask(endpoint, tmp_path / "cache", 1, samples=2)
    assert all(set(request) == {"model", "response_format"} for request in behaviour.seen)


@pytest.mark.parametrize(
    ("limits", "samples", "sent"),
    [
        ({"refused": ("max_tokens",)}, 0, {"max_completion_tokens": 1}),
        ({"refused": ("response_format",)}, 1, {}),
        ({"largest_top_logprobs": 5}, 0, {"top_logprobs": 5}),
    ],
)
def test_refused_parameters_are_adapted_once(
    serve: Serve, tmp_path: Path, limits: dict[str, Any], samples: int, sent: dict[str, Any]
) -> None:
    behaviour, endpoint = serve(**limits, answer="json" if samples else "logprobs")
    judgments = ask(endpoint, tmp_path / "cache", 40, samples)
    assert {judgment.outcome for judgment in judgments} == {"ok"}
    assert behaviour.requests <= 80 + 2 * endpoint.concurrency, "only the requests then under way were wasted"
    assert sent.items() <= behaviour.seen[-1].items()


def test_endpoints_without_logprobs_are_told_what_to_do(serve: Serve, tmp_path: Path) -> None:
    _, endpoint = serve(refused=("logprobs",))
    with pytest.raises(InputError, match="--judge-answer structured"):
        ask(endpoint, tmp_path / "cache", 3)


def test_endpoints_that_take_no_template_arguments_are_told_apart_from_those_that_do(
    serve: Serve, tmp_path: Path
) -> None:
    off = {"enable_thinking": False}
    behaviour, endpoint = serve()
    judge = ApiJudge(endpoint, ReplyCache(tmp_path / "cache"), DEFAULT_TEMPLATE, True, 0, 0, template_arguments=off)
    list(judge.judge([[Pair("es", "1", 0, "Nombra una fruta.", "a", "b")]]))
    assert all(request["chat_template_kwargs"] == off for request in behaviour.seen)
    _, endpoint = serve(refused=("chat_template_kwargs",))
    judge = ApiJudge(endpoint, ReplyCache(tmp_path / "other"), DEFAULT_TEMPLATE, True, 0, 0, template_arguments=off)
    with pytest.raises(InputError, match="takes no arguments of chat templates; leave") as caught:
        list(judge.judge([[Pair("es", "1", 0, "Nombra una fruta.", "a", "b")]]))
    assert "\n" not in str(caught.value)


def test_a_wrong_key_stops_at_once_and_is_not_repeated(
    serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    behaviour, endpoint = serve()
    monkeypatch.setenv("JUDGE_KEY", "sk-wrong-key")
    with pytest.raises(InputError, match="the key in JUDGE_KEY is refused") as caught:
        ask(endpoint, tmp_path / "cache", 200)
    assert "sk-wrong-key" not in str(caught.value)
    assert "\n" not in str(caught.value)
    assert behaviour.requests <= 2 * endpoint.concurrency


def test_an_address_that_does_not_answer_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("JUDGE_KEY", KEY)
    with pytest.raises(InputError, match=r"http://127\.0\.0\.1:9/v1: gives no answer"):
        ask(Endpoint("judge-1", "http://127.0.0.1:9/v1", "JUDGE_KEY", 4, 1.0, 8), tmp_path / "cache", 3)


def test_secrets_belong_into_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("JUDGE_KEY", raising=False)
    for url, words in (("http://me:pw@host/v1", "holds a secret"), ("http://host/v1", "JUDGE_KEY is not set")):
        with pytest.raises(InputError, match=words):
            ask(Endpoint("judge-1", url, "JUDGE_KEY", 4, 1.0, 8), tmp_path / "cache", 3)
    with pytest.raises(InputError, match="is not the name of an environment variable") as caught:
        ask(Endpoint("judge-1", "http://host/v1", "sk-planted-9", 4, 1.0, 8), tmp_path / "cache", 3)
    assert "planted" not in str(caught.value)


def test_an_endpoint_that_dies_midway_keeps_what_it_answered(serve: Serve, tmp_path: Path) -> None:
    behaviour, endpoint = serve()
    ask(endpoint, tmp_path / "cache", 10)
    behaviour.faults, behaviour.fault_rate = ("reset",), 1.0
    with pytest.raises(IcrError, match=r"gives no answer|stopped answering"):
        ask(replace(endpoint, retries=1), tmp_path / "cache", 200)
    behaviour.fault_rate = 0.0
    asked = behaviour.requests
    ask(endpoint, tmp_path / "cache", 10)
    assert behaviour.requests == asked
    rows = sqlite3.connect(tmp_path / "cache" / "replies.sqlite").execute("SELECT count(*) FROM replies").fetchone()
    assert rows == (20,)


def test_replies_of_another_server_under_one_name_are_asked_for_again(serve: Serve, tmp_path: Path) -> None:
    (_, first), (other, second) = serve(), serve()
    ask(first, tmp_path / "cache", 5)
    ask(second, tmp_path / "cache", 5)
    assert other.requests == 10
    ask(second, tmp_path / "cache", 5)
    assert other.requests == 10


def test_never_more_requests_than_allowed(serve: Serve, tmp_path: Path) -> None:
    behaviour, endpoint = serve(seconds=0.02, fault_rate=0.2, faults=tuple(set(FAULTS) - {"hang"}))
    ask(replace(endpoint, concurrency=5), tmp_path / "cache", 40)
    assert behaviour.most_at_once == 5


def test_the_dry_run_sends_nothing_and_is_right_about_what_is_then_spent(
    serve: Serve, tmp_path: Path, prompt_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    behaviour, endpoint = serve()
    (tmp_path / "reference").mkdir()
    for path in prompt_folder.glob("*.jsonl"):
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        answers = [{"id": row["id"], "output": f"Respuesta {row['id']} " * 9} for row in rows]
        (tmp_path / "reference" / f"{path.stem}.json").write_text(json.dumps(answers), encoding="utf-8")
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    settings = {
        "prompts": str(prompt_folder), "languages": ("es", "en"), "outputs": str(tmp_path / "reference"),
        "reference_outputs": str(tmp_path / "reference"), "judge": "openai", "judge_api_model": "judge-1",
        "judge_url": endpoint.url, "judge_cache": str(tmp_path / "cache"), "language_identifier": IDENTIFIER,
        "judge_input_price": 2.0, "judge_output_price": 8.0,
    }  # fmt: skip
    ask(endpoint, tmp_path / "cache", 5)  # earlier replies of this judge teach its bytes per token
    asked = behaviour.requests
    before = estimate(EvalConfig(**settings))
    assert behaviour.requests == asked, "a dry run sends nothing"
    result = run(read(EvalConfig(**settings)), StageContext(tmp_path / "out", "f"))
    assert before.requests == behaviour.requests - asked == 2 * 6 * 2
    assert before.input_tokens == pytest.approx(result.metrics["judge/input_tokens"], rel=0.05)
    assert before.output_tokens == pytest.approx(result.metrics["judge/output_tokens"], rel=0.05)
    spent = (2 * result.metrics["judge/input_tokens"] + 8 * result.metrics["judge/output_tokens"]) / 1e6
    assert before.price == pytest.approx(spent, rel=0.05)
    again = estimate(EvalConfig(**settings))
    assert (again.requests, again.cached, again.price) == (0, 24, 0.0)


def test_too_many_failures_fail_the_run_after_keeping_everything(
    serve: Serve, tmp_path: Path, prompt_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    behaviour, endpoint = serve(answer="prose")
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    (tmp_path / "reference").mkdir()
    rows = [json.loads(line) for line in (prompt_folder / "en.jsonl").read_text(encoding="utf-8").splitlines()]
    (tmp_path / "reference" / "en.json").write_text(json.dumps([row | {"output": "An apple."} for row in rows]))
    settings = {
        "prompts": str(prompt_folder), "languages": ("en",), "outputs": str(tmp_path / "reference"),
        "reference_outputs": str(tmp_path / "reference"), "judge": "openai", "judge_api_model": "judge-1",
        "judge_url": endpoint.url, "judge_cache": str(tmp_path / "cache"), "language_identifier": IDENTIFIER,
    }  # fmt: skip
    context = StageContext(tmp_path / "out", "f")
    with pytest.raises(IcrError, match=r"12 of 12 judgments failed \(100.0%.*parse_error 12") as caught:
        run(read(EvalConfig(**settings)), context)
    assert not isinstance(caught.value, InputError)
    table = open_artifact(tmp_path / "out" / "judgments", JUDGMENTS).read()
    assert table["outcome"].to_pylist() == ["parse_error"] * 12
    assert run(read(EvalConfig(**settings, judge_max_failures=100)), context).metrics["judge/failure_rate"] == 100.0
    assert behaviour.requests == 12


def test_mt_bench_grades_both_turns_of_sampled_answers(
    serve: Serve, tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    behaviour, endpoint = serve(answer="grade", fault_rate=0.2, faults=("500", "reset", "not-json"))
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    (tmp_path / "questions").mkdir()
    for language in ("en", "es"):
        rows = [
            {"question_id": n, "category": ("stem", "math")[n % 2], "turns": [f"Say {n}.", "Again."]} for n in range(4)
        ]
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (tmp_path / "questions" / f"{language}.jsonl").write_text(text, encoding="utf-8")
    config = MtBenchConfig(
        policy=str(tiny_model), questions=str(tmp_path / "questions"), max_tokens=8, judge_api_model="judge-1",
        judge_url=endpoint.url, judge_cache=str(tmp_path / "cache"), device="cpu",
    )  # fmt: skip
    before = spent()
    result = run_mt_bench(read_mt_bench(config), StageContext(tmp_path / "out", "f"))
    assert 16 <= (spent() - before)["sampled"] <= 16 * 8, "tokens of 16 answers"
    ratings = open_artifact(tmp_path / "out" / "ratings", MT_BENCH).read().to_pandas()
    assert ratings.groupby(["language", "question_id"])["turn"].apply(list).tolist() == [[1, 2]] * 8
    assert set(ratings["outcome"]) == {"ok"}
    assert result.metrics["mt_bench/es"] == pytest.approx(ratings[ratings["language"] == "es"]["rating"].mean())
    assert (tmp_path / "out" / "ratings" / "radar.html").exists()
    asked, before = behaviour.requests, spent()
    assert run_mt_bench(read_mt_bench(config), StageContext(tmp_path / "out", "f")).metrics == result.metrics
    assert behaviour.requests == asked
    assert spent() == before
