"""What counts as a judge's verdict: enough probability on the labels, numbers, and the last word after the reasoning."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import pytest

from icr_platform.engines.endpoints.replies import MalformedReplyError, Reply, parse_completion, reply_from_json
from icr_platform.engines.judging.judge_replies import parse_winner, preference_from_logprobs, preference_from_samples
from icr_platform.engines.judging.local_judge import LocalJudge
from icr_platform.engines.judging.pairwise import MODEL_FIRST, REFERENCE_FIRST, Judgment, Pair, Template
from icr_platform.evaluation.judgments import judgments_table
from icr_platform.evaluation.mt_bench import grade, parse_rating

PAIRS = [Pair("es", f"p{i}", 0, "Nombra una fruta.", "manzana", "pera") for i in range(3)]
SHORT = Template((("user", "{instruction}\nm: {output_m}\nM: {output_M}\nm or M?"),))


def first_token(**probabilities: float) -> Reply:
    pairs = tuple((token, math.log(p)) for token, p in probabilities.items())
    return Reply("<think>", pairs, None, "length", 9, 1)


@pytest.mark.parametrize(
    ("tokens", "outcome", "words"),
    [
        ({"m": 0.6, "M": 0.3}, "ok", ""),
        ({"m": 0.08, "M": 0.03}, "ok", ""),
        ({"m": 0.004, "M": 0.003}, "parse_error", "hold 0.007 of the first token's probability, judge_min_mass is 0.1"),
        ({"<think>": 0.99, "M": 1e-9}, "parse_error", "the answer begins '<think>'"),
        ({"<think>": 1.0}, "parse_error", "hold 0 of"),
        ({"m": math.e, "M": 0.1}, "no_logprob", "come out as"),
    ],
)
def test_a_label_without_probability_is_no_verdict(tokens: dict[str, float], outcome: str, words: str) -> None:
    found = preference_from_logprobs(first_token(**tokens), MODEL_FIRST)
    assert found.outcome == outcome
    assert (found.value is None) == (outcome != "ok")
    assert words in found.detail
    anything = preference_from_logprobs(first_token(**tokens), MODEL_FIRST, min_mass=0.0)
    assert (anything.outcome == "ok") == (0 < tokens.get("m", 0) + tokens.get("M", 0) <= 1)


@pytest.mark.parametrize("logprob", ["NaN", "null", "Infinity", "1e400"])
def test_a_log_probability_that_is_not_a_number_is_a_failure(logprob: str) -> None:
    body = (
        '{"choices": [{"message": {"content": "m"}, "finish_reason": "length", "logprobs": {"content": [{"token": "m", "logprob": '
        f'{logprob}, "top_logprobs": [{{"token": "M", "logprob": -0.5}}]}}]}}}}]}}'
    )
    reply = parse_completion(body.encode())
    for order in (MODEL_FIRST, REFERENCE_FIRST):
        assert preference_from_logprobs(reply_from_json(reply.to_json()), order)[::2] == (None, "no_logprob")


def test_the_first_token_of_reasoning_in_a_field_of_its_own_is_not_the_answers() -> None:
    message = {"content": None, "reasoning_content": "m"}
    logprobs = {"content": [{"token": "m", "logprob": -0.01, "top_logprobs": []}]}
    body = {"choices": [{"message": message, "finish_reason": "length", "logprobs": logprobs}]}
    assert preference_from_logprobs(parse_completion(json.dumps(body).encode()), MODEL_FIRST).outcome == "no_logprob"


def test_an_answer_in_parts_is_its_texts_and_what_else_there_is_was_reasoning() -> None:
    parts = [
        {"type": "thinking", "thinking": [{"type": "text", "text": "m?"}]},
        {"type": "text", "text": '{"winner": "M"}'},
    ]
    logprobs = {"content": [{"token": "m", "logprob": -0.01, "top_logprobs": []}]}
    choice = {"message": {"content": parts}, "finish_reason": "stop", "logprobs": logprobs}
    reply = parse_completion(json.dumps({"choices": [choice]}).encode())
    assert parse_winner(reply.text) == "M"
    assert preference_from_logprobs(reply, MODEL_FIRST).outcome == "no_logprob"
    for content in (["M"], [{"type": "text"}], 7):
        with pytest.raises(MalformedReplyError):
            parse_completion(json.dumps({"choices": [{"message": {"content": content}}]}).encode())


WINNERS = {
    '{"winner": "m"}': "m",
    '<think>Perhaps {"winner": "m"}.</think>{"winner": "M"}': "M",
    'Perhaps {"winner": "m"}.</think>\n\n{"winner": "M"}': "M",
    '<think>{"winner": "m"}': None,
    '{"winner": "m"} <think> but then': None,
    '<think></think><think>{"winner": "m"}</think> {"winner": "M"}': "M",
    '<think>a <think> b</think> {"winner": "m"} c</think>{"winner": "M"}': "M",
    '<THINK>{"winner": "m"}</THINK>{"winner": "M"}': "M",
    '[THINK]{"winner": "m"}[/THINK]{"winner": "M"}': "M",
    '<seed:think>{"winner": "m"}</seed:think>{"winner": "M"}': "M",
    '<|channel>thought\n{"winner": "m"}<channel|>{"winner": "M"}': "M",
    '◁think▷{"winner": "m"}◁/think▷{"winner": "M"}': "M",
    '<|channel|>analysis<|message|>{"winner": "m"}<|end|><|start|>assistant<|channel|>final<|message|>{"winner": "M"}<|return|>': "M",
    '<|channel|>analysis<|message|>{"winner": "m"}': None,
    'analysisWe see {"winner": "m"}assistantfinal{"winner": "M"}': "M",
    'analysisWe see {"winner": "m"}': None,
    'First {"winner": "m"}; no: ```json\n{"winner": "M"}\n```': "M",
    '{"winner": "m"} {"winner": "tie"}': None,
    '{"winner": "m"} {"winner": null}': None,
    '{"why": "a {brace}, <think>", "winner": "M"}': "M",
    '{"why": "two\nlines", "winner": "M"}': "M",
    '{"verdict": {"winner": "M"}}': "M",
    'You ask for {"winner": "m"} or {"winner": "M"}. Output m is better.': None,
    '{"winner": ["m"]}': None,
    '{"winner": "m"': None,
    '{"a":' * 5000: None,
    "": None,
    '<think type="x">{"winner": "m"}': None,
    '< think >{"winner": "m"}</ think >{"winner": "M"}': "M",
    '<analysis>{"winner": "m"}': None,
    '<reflection>{"winner": "m"} <scratchpad>': None,
    '<antThinking>{"winner": "m"}</antThinking>{"winner": "M"}': "M",
    '<think/>{"winner": "M"}': "M",
    '<thinker>{"winner": "M"}': "M",
    '{"winner": "Output (m)"}': "m",
    '{"winner": "output M"}': "M",
    '{"winner": " M "}': "M",
    '{"winner": "(m)"}': "m",
    '{"winner": "model_M"}': "M",
    '{"concise_explanation": "better", "winner": "m"}': "m",
    '{"winner": "m or M"}': None,
    '{"winner": "mM"}': None,
    '{"winner": ""}': None,
    '{"winner": "N"}': None,
    '{"winner": 1}': None,
    "{'winner': 'M'}": "M",
    "Perhaps {'winner': 'm'}; no, {'winner': 'M'}": "M",
    "m": "m",
    "M\n": "M",
    "**M**": "M",
    "(m)": "m",
    "Output (m)": "m",
    "The winner is M.": "M",
    "Winner: Output (M)": "M",
    "<think>m</think>\n\nM": "M",
    "Mm": None,
    "m is better than M": None,
    "Both": None,
}  # fmt: skip


@pytest.mark.parametrize(("text", "winner"), WINNERS.items())
def test_the_last_verdict_after_the_reasoning_counts(text: str, winner: str | None) -> None:
    assert parse_winner(text) == winner
    found = preference_from_samples([Reply(text, None, None, "stop", 9, 9)], MODEL_FIRST)
    assert found.value == {"m": 1.0, "M": 0.0, None: None}[winner]
    assert (found.outcome == "ok") == (winner is not None)
    assert bool(found.detail) == (winner is None)


def test_reasoning_that_never_ends_is_called_that() -> None:
    reply = Reply('<think>{"winner": "m"}', None, None, "length", 9, 9)
    assert "the reasoning does not end in a verdict" in preference_from_samples([reply], MODEL_FIRST).detail
    assert "the reasoning does not end in a verdict" in grade(reply).detail


@pytest.mark.parametrize(
    ("text", "rating"),
    [
        ("[[3]], no: [[7]]", 7.0),
        ("<think>[[9]]</think> [[7]]", 7.0),
        ('<think>{"rating": 9}</think>{"explanation": "ok", "rating": 7}', 7.0),
        ("[[9]]</think>[[7]]", 7.0),
        ("<think>[[9]]", None),
        ('{"rating": 9} {"rating": 7}', 7.0),
        ('[[9]] {"rating": 7}', 7.0),
        ('{"rating": 9} Finally: [[7]]', 7.0),
        ('{"rating": 7, "explanation": "it says [[2]] and </think>"}', 7.0),
        ('```json\n{"rating": 7, "explanation": "it says [[2]]"}\n```', 7.0),
        ('{"rating": 7, "explanation": "cut', 7.0),
        ('{"rating": "7/10"}', 7.0),
        ("[[7]] [[12]]", None),
        ('{"rating": NaN}', None),
        ('{"rating": true}', None),
        ('{"rating": null}', None),
        ('{"rating": -3}', None),
        ('{"rating": 9} {"rating": "none"}', None),
        # FastChat's forms, and what judges make of them.
        ("Rating: [[8]]", 8.0),
        ("Rating: [[10]]\n", 10.0),
        ("Rating: [[8.5]]", 8.5),
        ("Rating: [[8.]]", 8.0),
        ("[[ 8 ]]", 8.0),
        ("**Rating: [[8]]**", 8.0),
        ("[[8/10]]", 8.0),
        ("[[8 / 10]]", 8.0),
        ("[[rating: 8]]", 8.0),
        ("[[Rating:8]]", 8.0),
        (r"Rating: \[\[8\]\]", 8.0),
        ("Rating: [8]", 8.0),
        ("As [1] says, it is good. [8]", 8.0),
        ("[8.5]", 8.5),
        ("[8/10]", 8.0),
        ("Rating: 8", 8.0),
        ("**Rating:** 8/10", 8.0),
        ("Rating: **8**", 8.0),
        ("My rating is 8.", 8.0),
        ("Score: 8 out of 10", 8.0),
        (r"Rating: \boxed{8}", 8.0),
        ("评分：［［8］］", 8.0),
        ("8", 8.0),
        ("8/10", 8.0),
        ("8.", 8.0),
        ('{"rating": "8 out of 10"}', 8.0),
        ('{"rating": 8.0}', 8.0),
        # Not ratings, or not on the scale of 1 to 10.
        ("[[0]]", None),
        ("[[11]]", None),
        ("[[8]] out of [[100]]", None),
        ("Rating: 4/5", None),
        ("Rating: 85/100", None),
        ("Rating: 7-8", None),
        ("Rating: 7 to 8", None),
        ("Rating: [[7-8]]", None),
        ("Rating: [[7, 8]]", None),
        ("Rating: [[A]]", None),
        ("Rating: 100", None),
        ("Rating: 0", None),
        ("In 2023 it was 8.", None),
        ("8 of the 10 facts are right.", None),
        ("A rating from 1 to 10 cannot be given.", None),
        ("", None),
    ],
)
def test_the_last_rating_after_the_reasoning_counts(text: str, rating: float | None) -> None:
    assert parse_rating(text) == rating
    assert grade(Reply(text, None, None, "stop", 9, 9)).rating == rating


def test_a_local_judge_that_gives_its_labels_nothing_or_nan_fails_every_pair(tiny_model: Path) -> None:
    import torch

    judge = LocalJudge(str(tiny_model), SHORT, both_orders=True, seed=0, dtype="float32", device="cpu")
    [judgments] = judge.judge([PAIRS])
    assert {judgment.outcome for judgment in judgments} == {"parse_error"}
    assert all(judgment.mass is not None and judgment.mass < 0.01 for judgment in judgments)
    with torch.no_grad():
        next(judge.model.parameters()).fill_(math.nan)
    [judgments] = judge.judge([PAIRS])
    assert {judgment.outcome for judgment in judgments} == {"no_logprob"}
    assert {judgment.preference for judgment in judgments} == {None}
    assert "come out as nan" in judgments[0].detail


class Careless:
    """A judge of somebody else that calls everything ok."""

    def judge(self, parts: Iterable[Sequence[Pair]]) -> Iterator[list[Judgment]]:
        for part in parts:
            values = (math.nan, math.inf, -0.1, 1.1, None, 0.5)
            yield [
                Judgment(pair.language, pair.prompt_id, 0, "none", value, None, "ok", "careless", 0, 0, "")
                for pair, value in zip(part, values, strict=True)
            ]


def test_no_judge_can_call_ok_what_is_no_preference() -> None:
    pairs = [Pair("es", str(i), 0, "", "", "") for i in range(6)]
    [judgments] = Careless().judge([pairs])
    table = judgments_table(judgments, pairs).to_pylist()
    assert [row["outcome"] for row in table] == ["parse_error"] * 5 + ["ok"]
    assert [row["preference"] for row in table] == [None] * 5 + [0.5]
    assert all("not a number from 0 to 1" in row["detail"] for row in table[:5])
