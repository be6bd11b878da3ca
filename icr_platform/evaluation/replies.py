"""What a chat endpoint replied, reduced to what a judge needs and the cache keeps."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from icr_platform.evaluation.pairwise import LABELS, preference_of

_OBJECT = re.compile(r"\{[^{}]*\}")


class MalformedReplyError(ValueError):
    """The body is no chat completion: cut off, not JSON, or without a choice."""


@dataclass(frozen=True)
class Reply:
    """A finished chat completion.

    first_token: (token, log-probability in nats) of the likeliest first tokens; None when the endpoint gave none.
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
    """Read the body of a chat completion; raises MalformedReplyError when it is none."""
    try:
        value = json.loads(body)
        choice = value["choices"][0]
        message = choice["message"]
        usage = value.get("usage") or {}
        refusal = message.get("refusal")
        if choice.get("finish_reason") == "content_filter":
            refusal = refusal or "content filter"
        return Reply(
            text=message.get("content") or "",
            first_token=_first_token(choice),
            refusal=refusal,
            finish_reason=str(choice.get("finish_reason")),
            input_tokens=int(usage.get("prompt_tokens") or 0),
            output_tokens=int(usage.get("completion_tokens") or 0),
        )
    except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise MalformedReplyError(f"no chat completion ({type(error).__name__})") from error


def _first_token(choice: Mapping[str, Any]) -> tuple[tuple[str, float], ...] | None:
    content = (choice.get("logprobs") or {}).get("content")
    if not content:
        return None
    first = content[0]
    found = {entry["token"]: float(entry["logprob"]) for entry in (first, *(first.get("top_logprobs") or ()))}
    return tuple(found.items())


class Preference(NamedTuple):
    """What a reply says about a pair; value and mass as in schemas.JUDGMENTS."""

    value: float | None
    mass: float | None
    outcome: str
    detail: str


def preference_from_logprobs(reply: Reply, order: str) -> Preference:
    """P(model) from the first token's log-probabilities: P(its label) / (P(m) + P(M)); mass is the denominator.

    >>> reply = Reply("m", (("m", math.log(0.6)), (" M", math.log(0.2))), None, "stop", 9, 1)
    >>> preference_from_logprobs(reply, "model-first")[:3]
    (0.75, 0.8, 'ok')
    """
    if reply.refusal is not None:
        return Preference(None, None, "refusal", _short(reply.refusal))
    if reply.first_token is None:
        return Preference(None, None, "no_logprob", f"no log-probabilities with the answer {_short(reply.text)!r}")
    m, M = (sum(math.exp(p) for token, p in reply.first_token if token.strip() == label) for label in LABELS)
    if m + M == 0.0:
        return Preference(
            None, 0.0, "parse_error", f"neither label is likely; the answer begins {_short(reply.text)!r}"
        )
    return Preference(round(preference_of(m, M, order), 12), round(min(m + M, 1.0), 12), "ok", "")


def preference_from_samples(replies: list[Reply], order: str) -> Preference:
    """Share of sampled answers `{"winner": "m" | "M"}` that name the model; one unreadable answer fails the pair.

    >>> answers = [Reply('{"winner": "M"}', None, None, "stop", 9, 5), Reply('{"winner": "m"}', None, None, "stop", 9, 5)]
    >>> preference_from_samples(answers, "model-first").value
    0.5
    """
    winners = []
    for reply in replies:
        if reply.refusal is not None:
            return Preference(None, None, "refusal", _short(reply.refusal))
        winner = parse_winner(reply.text)
        if winner is None:
            why = "the answer was cut" if reply.finish_reason == "length" else "no winner in the answer"
            return Preference(None, None, "parse_error", f"{why} {_short(reply.text)!r}")
        winners.append(winner)
    m = winners.count(LABELS[0]) / len(winners)
    return Preference(preference_of(m, 1.0 - m, order), None, "ok", "")


def parse_winner(text: str) -> str | None:
    """The winner that a JSON answer names, with or without text around it; None when none or several are named.

    >>> parse_winner('Thinking... ```json {"winner": "M"} ```')
    'M'
    >>> parse_winner("Output m is better.")
    """
    named = set()
    for candidate in _OBJECT.findall(text):
        try:
            winner = json.loads(candidate).get("winner")
        except json.JSONDecodeError:
            continue
        if winner in LABELS:
            named.add(winner)
    return named.pop() if len(named) == 1 else None


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 80 else line[:77] + "..."
