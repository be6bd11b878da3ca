"""What a chat endpoint replied, reduced to what a judge needs and the cache keeps."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from icr_platform.core.spoken_messages import THOUGHT_FIELDS, Spoken, spoken_in
from icr_platform.engines.endpoints.refusals import is_filtered

_FILTER_REASONS = frozenset(
    ("content_filter", "content_filtered", "safety", "prohibited_content", "blocklist", "spii", "recitation", "sensitive",
     "guardrail_intervened", "refusal", "moderation")
)  # fmt: skip
_MOST_TOKENS = 2**53


class MalformedReplyError(ValueError):
    """The body is not a chat completion, or one that is not to be believed at once: it should be asked for again.

    instead: what to take if the endpoint says the same every time; None where nothing can be.
    """

    def __init__(self, message: str, instead: Any = None) -> None:
        super().__init__(message)
        self.instead = instead


class FilteredReplyError(ValueError):
    """A filter left nothing of the answer; the text says what the endpoint says."""


@dataclass(frozen=True)
class Reply:
    """A finished chat completion.

    text: the answer; reasoning that the endpoint gives in a field of its own is not in it.
    first_token: (token, log-probability in nats) of the likeliest first tokens of the answer; None when the endpoint gave none, or
        those of the reasoning. NaN where it gave null.
    refusal: the model's refusal, or why a filter cut the answer; None when it answered.
    """

    text: str
    first_token: tuple[tuple[str, float], ...] | None
    refusal: str | None
    finish_reason: str
    input_tokens: int
    output_tokens: int

    def to_json(self) -> str:
        return json.dumps(vars(self), ensure_ascii=False)


def reply_from_json(text: str) -> Reply:
    """The inverse of `Reply.to_json`."""
    value = json.loads(text)
    if value["first_token"] is not None:
        value["first_token"] = tuple((token, logprob) for token, logprob in value["first_token"])
    return Reply(**value)


def parse_completion(body: bytes) -> Reply:
    """Read the body of a chat completion. What is wrong with a field that is not the answer costs that field alone.

    Raises:
        MalformedReplyError: the body is not a chat completion, or its answer is null without a reason.
        FilteredReplyError: a filter refused the request.
    """
    completion, choice, message = answer_in(body)
    spoken = said_in(message)
    finish_reason = str(choice.get("finish_reason"))
    refusal = refusal_of(message)
    if refusal is None and is_filter(finish_reason):
        refusal = "content filter"
    usage = completion.get("usage")
    usage = usage if isinstance(usage, Mapping) else {}
    reply = Reply(
        text=spoken.text,
        first_token=None if spoken.has_thought else _first_token(choice),
        refusal=refusal,
        finish_reason=finish_reason,
        input_tokens=_count(usage.get("prompt_tokens", usage.get("input_tokens"))),
        output_tokens=_count(usage.get("completion_tokens", usage.get("output_tokens"))),
    )
    if is_null(message) and reply.refusal is None and reply.first_token is None:
        raise MalformedReplyError("the answer is null", instead=reply)
    return reply


def answer_in(body: bytes) -> tuple[Mapping[str, Any], Mapping[str, Any], Mapping[str, Any]]:
    """The completion, its first choice and that choice's message; raises what `parse_completion` raises."""
    try:
        completion = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise MalformedReplyError(f"not a chat completion ({type(error).__name__})") from error
    if not isinstance(completion, Mapping):
        raise MalformedReplyError(f"not a chat completion ({type(completion).__name__})")
    listed = completion.get("choices")
    choices = [choice for choice in listed if isinstance(choice, Mapping)] if isinstance(listed, list) else []
    choices.sort(key=lambda choice: choice.get("index") != 0)  # as a server may list them in any order
    for choice in choices[:1]:
        if isinstance(choice.get("message"), Mapping):
            return completion, choice, choice["message"]
    fault = completion.get("error")
    if isinstance(fault, Mapping):  # some gateways answer with status 200 and the error of whom they asked
        said = str(fault.get("message") or fault.get("code") or "")
        code = fault.get("code")
        if is_filtered(code if isinstance(code, int) else 400, said, fault):
            raise FilteredReplyError(said)
        raise MalformedReplyError(f"an error instead of an answer: {said}")
    raise MalformedReplyError("not a chat completion (no choice)")


def said_in(message: Mapping[str, Any]) -> Spoken:
    """The answer of a message and its reasoning; raises MalformedReplyError where its content is neither text nor parts."""
    try:
        return spoken_in(message)
    except ValueError as error:
        raise MalformedReplyError(f"not a chat completion ({error})") from error


def is_null(message: Mapping[str, Any]) -> bool:
    """Whether a message has no answer at all, not even an empty one, and nothing else in its place."""
    others = (*THOUGHT_FIELDS, "tool_calls", "function_call")
    return message.get("content") is None and not any(message.get(name) for name in others)


def refusal_of(message: Mapping[str, Any]) -> str | None:
    """The model's own refusal, where the endpoint tells it from an answer."""
    refusal = message.get("refusal")
    return refusal if isinstance(refusal, str) and refusal.strip() else None


def is_filter(finish_reason: str) -> bool:
    """Whether a filter ended the answer, in the words of OpenAI, Azure, Gemini, Zhipu or Bedrock.

    >>> is_filter("content_filter"), is_filter("SAFETY"), is_filter("stop")
    (True, True, False)
    """
    return finish_reason.lower() in _FILTER_REASONS


def _count(value: Any) -> int:
    """A number of tokens, however it is written; 0 where it is none.

    >>> _count(12), _count("12"), _count(12.0), _count(None), _count(-1), _count("many"), _count(True), _count(math.nan)
    (12, 12, 12, 0, 0, 0, 0, 0)
    """
    try:
        number = 0.0 if value is None or isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        return 0
    return int(number) if 0 <= number < _MOST_TOKENS else 0


def _first_token(choice: Mapping[str, Any]) -> tuple[tuple[str, float], ...] | None:
    """The likeliest first tokens; entries that cannot be read are left out, and None where no entry can be."""
    logprobs = choice.get("logprobs")
    if not isinstance(logprobs, Mapping):
        return None
    content = logprobs.get("content")
    first = content[0] if isinstance(content, list) and content else None
    if isinstance(first, Mapping):
        tops = first.get("top_logprobs")
        listed = [first, *(tops if isinstance(tops, list) else ())]
        entries = [(entry.get("token"), entry.get("logprob", "")) for entry in listed if isinstance(entry, Mapping)]
        if isinstance(tops, Mapping):  # as in the older completions
            entries += tops.items()
    else:
        entries = _as_in_completions(logprobs)
    found: dict[str, float] = {}
    for token, logprob in entries:
        try:
            # Servers write NaN as null, JSON having no other word for it.
            value = math.nan if logprob is None else float(logprob)
        except (TypeError, ValueError):
            continue
        if isinstance(token, str) and not (token in found and math.isnan(value)):
            found[token] = value
    return tuple(found.items()) or None


def _as_in_completions(logprobs: Mapping[str, Any]) -> list[tuple[Any, Any]]:
    """Tokens and log-probabilities in parallel lists, as the older completions, and some servers to this day, give them."""
    tokens, values, tops = (logprobs.get(name) for name in ("tokens", "token_logprobs", "top_logprobs"))
    entries = (
        [(tokens[0], values[0])] if isinstance(tokens, list) and isinstance(values, list) and tokens and values else []
    )
    if isinstance(tops, list) and tops and isinstance(tops[0], Mapping):
        entries += tops[0].items()
    return entries
