"""What a chat endpoint replied, reduced to what a judge needs and the cache keeps."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


class MalformedReplyError(ValueError):
    """The body is not a chat completion: cut off, not JSON, or without a choice."""


@dataclass(frozen=True)
class Reply:
    """A finished chat completion.

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
    """Read the body of a chat completion; raises MalformedReplyError when it is not one."""
    try:
        value = json.loads(body)
        choice = value["choices"][0]
        message = choice["message"]
        usage = value.get("usage") or {}
        refusal = message.get("refusal")
        if choice.get("finish_reason") == "content_filter":
            refusal = refusal or "content filter"
        reasons = message.get("reasoning_content") or message.get("reasoning")
        text, thought = text_of(message.get("content"))
        return Reply(
            text=text,
            first_token=None if reasons or thought else _first_token(choice),
            refusal=refusal,
            finish_reason=str(choice.get("finish_reason")),
            input_tokens=int(usage.get("prompt_tokens") or 0),
            output_tokens=int(usage.get("completion_tokens") or 0),
        )
    except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise MalformedReplyError(f"not a chat completion ({type(error).__name__})") from error


def text_of(content: Any) -> tuple[str, bool]:
    """The text of an answer, a string or a list of parts (Mistral's), and whether there was a part of another kind: its reasoning."""
    if isinstance(content, list):
        texts = [part["text"] for part in content if part["type"] == "text"]
        return "".join(texts), len(texts) < len(content)
    if not (content is None or isinstance(content, str)):
        raise TypeError("content is neither text nor parts")
    return content or "", False


def _first_token(choice: Mapping[str, Any]) -> tuple[tuple[str, float], ...] | None:
    content = (choice.get("logprobs") or {}).get("content")
    if not content:
        return None
    first = content[0]
    found = {entry["token"]: entry["logprob"] for entry in (first, *(first.get("top_logprobs") or ()))}
    # Servers write NaN as null, JSON having no other word for it.
    return tuple((token, math.nan if logprob is None else float(logprob)) for token, logprob in found.items())
