"""What an endpoint's refusal is about: a filter, a prompt that does not fit, or something else. Every provider has words of its own."""

from __future__ import annotations

import json
import re
from typing import Any

_FILTER_CODE = re.compile(
    r"content[_-]?(?:filter|policy)|responsibleaipolicy|data[_-]?inspection|prohibited[_-]?content|moderation|guardrail|safety"
    r"|sensitive|blocklist|\b1301\b",
    re.IGNORECASE,
)
"""In a code or type: OpenAI and Azure, DashScope, Gemini, Mistral, Bedrock, Zhipu."""

_FILTER_WORDS = re.compile(
    r"content[ _-]?(?:filter|policy|management policy|moderation)|content exists risk|considered high risk|inappropriate content"
    r"|(?:flagged|rejected|blocked) by (?:our|the|a|its)?\s*(?:\w+ )?(?:safety|moderation|content|guardrail)"
    r"|(?:input|prompt|message|text|request)s? (?:was|were|is|has been|have been) flagged|flagged_input|requires moderation"
    r"|violat\w+ (?:\w+ ){0,4}(?:usage|content|safety|use) polic|data_?inspection_?failed|unsafe content|不安全|敏感|违规",
    re.IGNORECASE,
)
_TOO_LONG = re.compile(
    r"context[_ ](?:length|window|size)|maximum (?:input|prompt|sequence) length|(?:prompt|input|request|message)s?\W+(?:\w+ )?(?:is|are) too (?:long|large)"
    r"|too many (?:input |prompt )?tokens|(?:tokens?|input|prompt|request)\b.{0,80}\b(?:exceeds?|longer than|more than|larger than|less than|too large)\b.{0,40}"
    r"\b(?:maximum|limit|length|tokens)|range of input length|reduce the length of the|max_model_len|exceed_context_size"
    r"|must have less than \d+ tokens|inputs` tokens \+",
    re.IGNORECASE,
)
_CONTEXT = re.compile(
    r"(?:context[_ ](?:length|window|size)|maximum context)\D{0,40}?(\d{2,9})|(\d{2,9})\W+(?:tokens? )?(?:maximum )?context",
    re.IGNORECASE,
)


def is_filtered(status: int, message: str, error: Any) -> bool:
    """Whether a filter refused the request, which it would do every time.

    error: what the endpoint's body says of the error, as JSON.

    >>> is_filtered(400, "The response was filtered", {"code": "content_filter"})
    True
    >>> is_filtered(400, "Input data may contain inappropriate content.", {}), is_filtered(500, "content filter is down", {})
    (True, False)
    """
    if status == 451:
        return True
    if status not in (400, 403, 422):
        return False
    details = error if isinstance(error, dict) else {}
    inner = details.get("innererror")
    codes = [details.get("code"), details.get("type"), inner.get("code") if isinstance(inner, dict) else None]
    if any(code is not None and _FILTER_CODE.search(str(code)) for code in codes):
        return True
    return bool(
        _FILTER_WORDS.search(f"{message} {json.dumps(details.get('metadata', ''), ensure_ascii=False, default=str)}")
    )


def is_too_long(status: int, message: str, error: Any) -> bool:
    """Whether the prompt does not fit into the model's context, or not together with the tokens asked for.

    >>> is_too_long(400, "This model's maximum context length is 4096 tokens. However, you requested 5000 tokens", {})
    True
    >>> is_too_long(400, "top_logprobs must be at most 5", {}), is_too_long(413, "Request too large", {})
    (False, True)
    """
    return status == 413 or (status in (400, 422) and _TOO_LONG.search(f"{message} {error}") is not None)


def context_named(message: str) -> int | None:
    """The context's tokens, where the refusal names them.

    >>> context_named("max_tokens is too large: 2400. This model's maximum context length is 4096 tokens and ...")
    4096
    >>> context_named("Prompt contains 40000 tokens, too large for model with 32768 maximum context length")
    32768
    >>> context_named("The input (5000 tokens) is longer than the model's context length (4096 tokens).")
    4096
    """
    found = _CONTEXT.search(message)
    return int(found[1] or found[2]) if found else None
