"""What endpoints reply, field by field, and what their refusals are about: in the words of those that people ask."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from icr_platform.core.spoken_messages import spoken_in
from icr_platform.engines.endpoints.refusals import context_named, is_filtered, is_too_long
from icr_platform.engines.endpoints.replies import FilteredReplyError, MalformedReplyError, Reply, parse_completion

TOP = [{"token": "m", "logprob": -0.5, "bytes": [109]}, {"token": "M", "logprob": -1.0}]
FIRST = {"token": "m", "logprob": -0.5, "top_logprobs": TOP}
WHOLE: dict[str, Any] = {
    "id": "x", "object": "chat.completion", "created": 1, "model": "judge",
    "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "m"}, "logprobs": {"content": [FIRST]}}],
    "usage": {"prompt_tokens": 9, "completion_tokens": 1, "total_tokens": 10},
}  # fmt: skip
RIGHT = Reply("m", (("m", -0.5), ("M", -1.0)), None, "stop", 9, 1)


def parsed(choice: dict[str, Any] | None = None, **fields: Any) -> Reply:
    value = WHOLE | {"choices": [WHOLE["choices"][0] | (choice or {})]} | fields
    return parse_completion(json.dumps({name: value[name] for name in value if value[name] != "(left out)"}).encode())


@pytest.mark.parametrize(
    "fields",
    [
        {}, {"id": None}, {"id": 7}, {"created": "2026-01-01"}, {"created": None}, {"model": "judge-2026-01-01"}, {"model": None},
        {"object": None}, {"service_tier": "x", "system_fingerprint": None, "prompt_filter_results": [{}]},
        {"choices": [None, *WHOLE["choices"]]},
        {"choices": [WHOLE["choices"][0] | {"index": 1, "message": {"content": "M"}}, WHOLE["choices"][0]]},
        {"choices": [WHOLE["choices"][0] | {"index": None}]},
        {"usage": {"prompt_tokens": "9", "completion_tokens": 1.0}}, {"usage": {"input_tokens": 9, "output_tokens": 1}},
        {"error": None},
    ],
)  # fmt: skip
def test_fields_that_nobody_needs_may_be_anything(fields: dict[str, Any]) -> None:
    assert parsed(**fields) == RIGHT


@pytest.mark.parametrize(
    "usage",
    ["(left out)", None, [], "many", {}, {"prompt_tokens": None, "completion_tokens": None}, {"prompt_tokens": "many"},
     {"prompt_tokens": -3, "completion_tokens": -1}, {"prompt_tokens": {"text": 9}}, {"prompt_tokens": True}, {"prompt_tokens": 1e300}],
)  # fmt: skip
def test_a_count_that_cannot_be_read_costs_the_count(usage: object) -> None:
    assert parsed(usage=usage) == Reply("m", RIGHT.first_token, None, "stop", 0, 0)


@pytest.mark.parametrize(
    ("logprobs", "first_token"),
    [
        (None, None), ([], None), ("x", None), ({}, None), ({"content": None}, None), ({"content": []}, None), ({"content": [None]}, None),
        ({"content": {"0": FIRST}}, None),
        ({"content": [{"token": "m", "logprob": -0.5}]}, (("m", -0.5),)),
        ({"content": [FIRST | {"top_logprobs": None}]}, (("m", -0.5),)),
        ({"content": [FIRST | {"top_logprobs": []}]}, (("m", -0.5),)),
        ({"content": [FIRST | {"top_logprobs": [None, {}, {"token": "M"}, {"logprob": -1.0}, *TOP]}]}, RIGHT.first_token),
        ({"content": [FIRST | {"top_logprobs": [{"token": "M", "logprob": "-1.0"}]}]}, RIGHT.first_token),
        ({"content": [FIRST | {"top_logprobs": [{"token": "m", "logprob": "n/a"}, TOP[1]]}]}, RIGHT.first_token),
        ({"content": [FIRST | {"top_logprobs": [{"token": "m", "logprob": None}, TOP[1]]}]}, RIGHT.first_token),
        ({"content": [FIRST | {"top_logprobs": [{"token": 5, "logprob": -3.0}, TOP[1]]}]}, RIGHT.first_token),
        ({"content": [FIRST | {"top_logprobs": {"m": -0.5, "M": -1.0}}]}, RIGHT.first_token),
        ({"content": [{"top_logprobs": TOP}]}, RIGHT.first_token),
        ({"tokens": ["m"], "token_logprobs": [-0.5], "top_logprobs": [{"m": -0.5, "M": -1.0}]}, RIGHT.first_token),
        ({"tokens": ["m"], "token_logprobs": [-0.5]}, (("m", -0.5),)),
        ({"tokens": [], "token_logprobs": []}, None),
        ({"content": [FIRST], "refusal": None}, RIGHT.first_token),
    ],
)  # fmt: skip
def test_a_log_probability_that_cannot_be_read_costs_that_one(logprobs: object, first_token: object) -> None:
    assert parsed({"logprobs": logprobs}) == Reply("m", first_token, None, "stop", 9, 1)  # type: ignore[arg-type]


def test_a_log_probability_of_null_is_not_a_number() -> None:
    null = {"token": "m", "logprob": None, "top_logprobs": [TOP[1]]}
    (token, value), _ = parsed({"logprobs": {"content": [null]}}).first_token or ()
    assert token == "m"
    assert math.isnan(value)


@pytest.mark.parametrize(
    ("message", "text", "refusal"),
    [
        ({"content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}, "ab", None),
        ({"content": [{"type": "output_text", "text": "a", "annotations": []}]}, "a", None),
        ({"content": ""}, "", None),
        ({"content": "m", "refusal": ""}, "m", None),
        ({"content": "m", "refusal": False}, "m", None),
        ({"content": "m", "refusal": {}}, "m", None),
        ({"content": None, "refusal": "I cannot."}, "", "I cannot."),
        ({"content": "m", "tool_calls": None, "function_call": None, "audio": None}, "m", None),
        ({"role": None, "content": "m"}, "m", None),
        ({"content": "m", "reasoning_content": None}, "m", None),
    ],
)
def test_a_message_in_every_form(message: dict[str, Any], text: str, refusal: str | None) -> None:
    reply = parsed({"message": message})
    assert (reply.text, reply.refusal) == (text, refusal)


_PART = {"type": "text", "text": "m"}


@pytest.mark.parametrize(
    ("message", "thought"),
    [
        ({"content": "m", "reasoning_content": "why"}, "why"),  # DeepSeek, Qwen, SGLang, llama.cpp, xAI, vLLM before 0.11
        ({"content": "m", "reasoning": "why"}, "why"),  # vLLM, OpenRouter, Groq, Ollama's /v1
        ({"content": "m", "reasoning": "why", "reasoning_content": "why"}, "why"),  # both names for a while
        ({"content": "m", "reasoning": "why", "reasoning_content": None}, "why"),
        ({"content": "m", "reasoning": "", "reasoning_content": "why"}, "why"),
        ({"content": "m", "thinking": "why"}, "why"),  # Ollama
        ({"content": "m", "reasoning": "why", "reasoning_details": [{"type": "reasoning.text", "text": "why"}]}, "why"),
        ({"content": "m", "reasoning_details": [{"type": "reasoning.text", "text": "wh", "signature": "x"}, {"text": "y"}]}, "why"),
        ({"content": "m", "reasoning_details": [{"type": "reasoning.summary", "summary": "why"}]}, "why"),
        ({"content": "m", "reasoning_details": [{"type": "reasoning.encrypted", "data": "abc"}]}, ""),
        ({"content": "m", "thinking_blocks": [{"type": "thinking", "thinking": "why", "signature": "x"}]}, "why"),  # LiteLLM
        ({"content": "m", "reasoning": {"content": "why"}}, "why"),
        ({"content": "m", "reasoning": {"effort": "low"}}, ""),
        ({"content": "m", "reasoning": [{"summary": [{"type": "summary_text", "text": "why"}]}]}, "why"),
        ({"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "why"}], "closed": True}, _PART]}, "why"),  # Mistral
        ({"content": [{"type": "thinking", "thinking": "why"}, _PART]}, "why"),  # Cohere, Anthropic
        ({"content": [{"type": "redacted_thinking", "data": "abc"}, _PART]}, ""),
        ({"content": [{"type": "reasoning", "summary": [{"type": "summary_text", "text": "why"}]}, _PART]}, "why"),  # OpenAI
        ({"content": [{"type": "reasoning", "text": "why"}, _PART]}, "why"),
        ({"content": "m", "reasoning_content": "<think>why</think> <script>alert(1)</script>"}, "<think>why</think> <script>alert(1)</script>"),
        ({"content": "m", "reasoning_content": 7}, ""),
    ],
)  # fmt: skip
def test_reasoning_in_a_place_of_its_own_is_the_thought_and_never_the_verdict(
    message: dict[str, Any], thought: str
) -> None:
    assert spoken_in(message) == ("m", thought, True)
    assert parsed({"message": message}) == Reply("m", None, None, "stop", 9, 1)
    cut = {**message, "content": None}
    if not isinstance(message["content"], list):  # the limit was reached within the thought
        assert parsed({"message": cut, "finish_reason": "length"}) == Reply("", None, None, "length", 9, 1)


@pytest.mark.parametrize(
    "message",
    [{"reasoning_content": None}, {"reasoning": ""}, {"reasoning_details": []}, {"thinking_blocks": None}, {"thinking": False}, {}],
)  # fmt: skip
def test_no_reasoning_leaves_the_first_token_as_it_is(message: dict[str, Any]) -> None:
    assert spoken_in({"content": "m", **message}) == ("m", "", False)
    assert parsed({"message": {"content": "m", **message}}) == RIGHT


@pytest.mark.parametrize(
    "reason", ["content_filter", "SAFETY", "prohibited_content", "sensitive", "guardrail_intervened"]
)
def test_an_answer_that_a_filter_ended_is_a_refusal(reason: str) -> None:
    assert parsed({"finish_reason": reason}).refusal == "content filter"


@pytest.mark.parametrize("reason", [None, "stop", "length", "eos", "tool_calls", "x", 7])
def test_another_reason_is_none(reason: object) -> None:
    assert parsed({"finish_reason": reason}) == Reply("m", RIGHT.first_token, None, str(reason), 9, 1)


def test_an_answer_of_null_is_asked_for_again_and_then_taken_as_empty() -> None:
    with pytest.raises(MalformedReplyError, match="the answer is null") as caught:
        parsed({"message": {"content": None}, "logprobs": None})
    assert caught.value.instead == Reply("", None, None, "stop", 9, 1)
    assert parsed({"message": {"content": None}}).first_token == RIGHT.first_token


@pytest.mark.parametrize(
    "body",
    [b"", b"<html>busy</html>", b"{", b'{"choices": [{"mess', b"null", b"7", b"[]", b'"m"', b"{}", b'{"choices": []}', b'{"choices": null}',
     b'{"choices": {}}', b'{"choices": [null]}', b'{"choices": [{}]}', b'{"choices": [{"message": null}]}', b'{"choices": [{"message": "m"}]}',
     b'{"error": {"message": "overloaded", "code": 529}}', b'{"error": "x"}', b"\xff\xfe", b'{"choices": ' + b"[" * 100_000],
)  # fmt: skip
def test_what_is_no_completion_is_asked_for_again(body: bytes) -> None:
    with pytest.raises(MalformedReplyError) as caught:
        parse_completion(body)
    assert caught.value.instead is None


def test_a_filter_behind_a_gateway_that_says_200() -> None:
    with pytest.raises(FilteredReplyError, match="was filtered"):
        parse_completion(b'{"error": {"message": "This was filtered", "code": "content_filter"}}')


FILTERED: list[tuple[int, str, dict[str, Any]]] = [
    (400, "The response was filtered due to the prompt triggering Azure OpenAI's content management policy.",
     {"code": "content_filter", "innererror": {"code": "ResponsibleAIPolicyViolation"}}),
    (400, "x", {"innererror": {"code": "ResponsibleAIPolicyViolation"}}),
    (400, "Your request was rejected as a result of our safety system.", {"code": "content_policy_violation"}),
    (400, "Invalid prompt: your prompt was flagged as potentially violating our usage policy.", {"code": "invalid_prompt"}),
    (400, "Input data may contain inappropriate content.", {"code": "data_inspection_failed"}),
    (400, "<400> InternalError.Algo.DataInspectionFailed: Output data may contain inappropriate content.", {}),
    (400, "Content Exists Risk", {"type": "invalid_request_error"}),
    (400, "The request was rejected because it was considered high risk", {"type": "content_filter"}),
    (400, "系统检测到输入或生成内容可能包含不安全或敏感内容", {"code": "1301"}),
    (400, "Output blocked by content filtering policy", {"type": "invalid_request_error"}),
    (403, "openai/gpt requires moderation on X. Your input was flagged for \"violence\".", {"code": 403, "metadata": {"flagged_input": "a"}}),
    (422, "Content blocked by guardrail", {"type": "guardrail_intervened"}),
    (451, "Unavailable For Legal Reasons", {}),
]  # fmt: skip
TOO_LONG: list[tuple[int, str, dict[str, Any], int | None]] = [
    (400, "This model's maximum context length is 4096 tokens. However, you requested 5000 tokens (2600 in the messages, 2400 in the completion).",
     {"code": 400}, 4096),
    (400, "This model's maximum context length is 8192 tokens. However, your messages resulted in 9001 tokens.", {"code": "context_length_exceeded"}, 8192),
    (400, "x", {"code": "context_length_exceeded"}, None),
    (400, "'max_tokens' or 'max_completion_tokens' is too large: 2400. This model's maximum context length is 4096 tokens and your request has 3000 "
     "input tokens (2400 > 4096 - 3000).", {"param": "max_tokens"}, 4096),
    (400, "The input (5000 tokens) is longer than the model's context length (4096 tokens).", {}, 4096),
    (400, "the request exceeds the available context size (4096 tokens), try increasing it", {"type": "exceed_context_size_error"}, 4096),
    (422, "`inputs` must have less than 1024 tokens. Given: 3000", {"type": "validation"}, None),
    (422, "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4096. Given: 3000 `inputs` tokens and 2400", {}, None),
    (400, "Prompt contains 40000 tokens, too large for model with 32768 maximum context length", {}, 32768),
    (400, "prompt is too long: 210000 tokens > 200000 maximum", {}, None),
    (400, "Range of input length should be [1, 30720]", {}, None),
    (400, "Please reduce the length of the messages or completion.", {"code": "context_length_exceeded"}, None),
    (400, "The input token count (1200000) exceeds the maximum number of tokens allowed (1048575).", {}, None),
    (413, "Request too large", {}, None),
]  # fmt: skip
OTHER: list[tuple[int, str, dict[str, Any]]] = [
    (400, "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead.", {"param": "max_tokens"}),
    (400, "top_logprobs must be at most 5", {"param": "top_logprobs"}),
    (400, "max_tokens is too large: 240000. This model supports at most 16384 completion tokens, whereas you provided 240000.", {"param": "max_tokens"}),
    (400, "Invalid value for 'temperature'", {"code": "invalid_value"}),
    (400, "try again", {}),
    (401, "Incorrect API key provided", {"code": "invalid_api_key"}),
    (403, "You are not allowed to sample from this model", {}),
    (429, "Rate limit reached: tokens per minute exceeds the limit", {"code": "rate_limit_exceeded"}),
    (500, "the content filter is down; the context length is unknown", {}),
    (400, "Unrecognized request argument supplied: return_token_ids", {}),
    (400, "Failed to deserialize the JSON body", {}),
]  # fmt: skip


@pytest.mark.parametrize(("status", "message", "error"), FILTERED)
def test_a_filters_refusal(status: int, message: str, error: dict[str, Any]) -> None:
    assert is_filtered(status, message, error)
    assert not is_too_long(status, message, error)


@pytest.mark.parametrize(("status", "message", "error", "context"), TOO_LONG)
def test_a_prompt_that_does_not_fit(status: int, message: str, error: dict[str, Any], context: int | None) -> None:
    assert is_too_long(status, message, error)
    assert not is_filtered(status, message, error)
    assert context_named(message) == context


@pytest.mark.parametrize(("status", "message", "error"), OTHER)
def test_any_other_refusal(status: int, message: str, error: dict[str, Any]) -> None:
    assert not is_filtered(status, message, error)
    assert not is_too_long(status, message, error)
