"""What a message of a chat says: its answer, and the reasoning that servers and data sets keep in a place of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

THOUGHT_FIELDS = (
    "reasoning_content", "reasoning", "thinking", "thinking_content", "reasoning_text", "thought", "thoughts", "reasoning_details",
    "thinking_blocks",
)  # fmt: skip
"""Where a message has its reasoning: DeepSeek, Qwen, SGLang and older vLLM; vLLM, OpenRouter, Groq and Ollama's `/v1`; Ollama, Cohere
and chat templates; others. OpenRouter, LiteLLM and MiniMax list it in blocks as well."""
TEXT_PARTS = ("text", "output_text")
_THOUGHT_TEXTS = ("text", "thinking", "reasoning", "reasoning_content", "content", "summary")
"""Where such a block, or a part of a content that is no text part (Mistral's, Anthropic's, Cohere's), has its text."""


class Spoken(NamedTuple):
    """What a message says. text: its answer; thought: the reasoning that stands apart from it, '' where none can be read; has_thought:
    whether there is any, which may be encrypted or left out."""

    text: str
    thought: str
    has_thought: bool


def spoken_in(message: Mapping[str, Any]) -> Spoken:
    """Tell a message's answer from reasoning in a field of its own, or in parts of another kind than text.

    >>> spoken_in({"content": "m", "reasoning_content": "M? No."})
    Spoken(text='m', thought='M? No.', has_thought=True)
    >>> spoken_in({"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "M?"}]}, {"type": "text", "text": "m"}]})
    Spoken(text='m', thought='M?', has_thought=True)

    Raises:
        ValueError: its content is neither a text nor a list of parts.
    """
    content = message.get("content")
    parts = [{"type": "text", "text": content or ""}] if content is None or isinstance(content, str) else content
    try:
        answer = "".join(part["text"] for part in parts if part.get("type", "text") in TEXT_PARTS)
        others = [part for part in parts if part.get("type", "text") not in TEXT_PARTS]
    except (TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"its content is a {type(content).__name__}") from error
    places = [value for name in THOUGHT_FIELDS if (value := message.get(name))] + ([others] if others else [])
    return Spoken(answer, next(filter(None, map(thought_text, places)), ""), bool(places))


def thought_text(value: Any) -> str:
    """The text of reasoning, however it is wrapped; '' where there is none.

    >>> thought_text([{"type": "reasoning.summary", "summary": "One."}, {"type": "reasoning.encrypted", "data": "x"}, {"text": " Two."}])
    'One. Two.'
    """
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return "".join(map(thought_text, value))
    if isinstance(value, Mapping):
        return next(filter(None, (thought_text(value.get(name)) for name in _THOUGHT_TEXTS)), "")
    return ""
