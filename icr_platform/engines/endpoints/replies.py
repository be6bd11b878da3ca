"""What a chat endpoint replied, reduced to what a judge needs and the cache keeps."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from icr_platform.engines.judging.pairwise import LABELS, MIN_MASS, Preference, preference_from_labels, preference_of

VERDICT_FORMS = '{"winner": "m"} or {"winner": "M"}'
"""What a structured answer is asked to be."""
_DECODER = json.JSONDecoder(strict=False)  # models write line breaks into JSON's texts
_NAME = r"(?:seed:|ant)?(?:think|thinking|thoughts?|reason|reasoning|reasoning_content|analysis|reflection|scratchpad)"
_TAG = re.compile(
    rf"(?P<open><\s*{_NAME}(?:\s[^<>]*)?(?<!/)>|\[THINK\]|<\|channel>|<\|begin_of_thought\|>|<\|START_THINKING\|>|◁think▷)"
    rf"|(?P<close><\s*/\s*{_NAME}\s*>|\[/THINK\]|<channel\|>|<\|end_of_thought\|>|<\|END_THINKING\|>|◁/think▷)",
    re.IGNORECASE,
)
"""Where models begin and end their reasoning: Qwen and DeepSeek, Seed, Magistral, Gemma, OpenThinker, Command, Kimi; and as prompts
ask others to, with attributes or spaces in the tag."""
_FINAL_CHANNEL = re.compile(r"<\|channel\|>final[^<]*<\|message\|>|assistantfinal")
_OTHER_CHANNEL = re.compile(r"\s*(?:<\|start\|>assistant)?<\|channel\|>|analysis[A-Z]")
"""gpt-oss's channels, also as they read once special tokens were left out: `analysisWe must ... assistantfinal...`."""
_SPECIAL_TOKEN = re.compile(r"<\|\w+\|>")


class MalformedReplyError(ValueError):
    """The body is no chat completion: cut off, not JSON, or without a choice."""


@dataclass(frozen=True)
class Reply:
    """A finished chat completion.

    first_token: (token, log-probability in nats) of the likeliest first tokens of the answer; None when the endpoint gave none, or
        gave those of the reasoning. NaN where it gave null.
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
        reasons = message.get("reasoning_content") or message.get("reasoning")
        text, thought = _text_of(message.get("content"))
        return Reply(
            text=text,
            first_token=None if reasons or thought else _first_token(choice),
            refusal=refusal,
            finish_reason=str(choice.get("finish_reason")),
            input_tokens=int(usage.get("prompt_tokens") or 0),
            output_tokens=int(usage.get("completion_tokens") or 0),
        )
    except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise MalformedReplyError(f"no chat completion ({type(error).__name__})") from error


def _text_of(content: Any) -> tuple[str, bool]:
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


def preference_from_logprobs(reply: Reply, order: str, min_mass: float = MIN_MASS) -> Preference:
    """P(model) from the first token's log-probabilities: P(its label) / (P(m) + P(M)); mass is the denominator.

    A model that begins with its reasoning gives the labels no mass there, and that is a failure.

    >>> reply = Reply("m", (("m", math.log(0.6)), (" M", math.log(0.2))), None, "stop", 9, 1)
    >>> preference_from_logprobs(reply, "model-first")[:3]
    (0.75, 0.8, 'ok')
    """
    if reply.refusal is not None:
        return Preference(None, None, "refusal", _short(reply.refusal))
    if reply.first_token is None:
        return Preference(None, None, "no_logprob", f"no log-probabilities with the answer {_short(reply.text)!r}")
    m, M = (sum(_probability(p) for token, p in reply.first_token if token.strip() == label) for label in LABELS)
    value, mass, outcome, detail = preference_from_labels(m, M, order, min_mass)
    seen = f"{detail}; the answer begins {_short(reply.text)!r}" if detail else ""
    return Preference(_rounded(value), _rounded(mass), outcome, seen)


def _probability(logprob: float) -> float:
    """Of a log-probability in nats; infinite where it is too large to be one."""
    return math.exp(logprob) if logprob < 1.0 or math.isnan(logprob) else math.inf


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 12)


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
            return Preference(None, None, "parse_error", f"{why_unread(reply, 'winner')} {_short(reply.text)!r}")
        winners.append(winner)
    m = winners.count(LABELS[0]) / len(winners)
    return Preference(preference_of(m, 1.0 - m, order), None, "ok", "")


def parse_winner(text: str) -> str | None:
    """The last winner that the answer names as JSON, whatever stands around it; None when it names none of the labels.

    >>> parse_winner('<think>{"winner": "m"}, or not?</think> So: ```json {"winner": "M"} ```')
    'M'
    >>> parse_winner("Output m is better.")
    """
    found = last_verdict(text.replace(VERDICT_FORMS, ""), "winner")  # the request, said again, is not a verdict
    return found.value if isinstance(found.value, str) and found.value in LABELS else None


class Said(NamedTuple):
    """A field of a judge's JSON answer, None where no object has it, and the text of the answer after that object."""

    value: Any
    rest: str


def last_verdict(text: str, name: str) -> Said:
    """The field `name` of the last JSON object that has it in an answer, reasoning left out.

    An answer that is JSON as a whole is read as it is: a text in it may quote anything.
    """
    whole = _object_at(text, len(text) - len(text.lstrip()))
    if whole is not None and name in whole[0] and not text[whole[1] :].strip():
        return Said(whole[0][name], "")
    answer = without_reasoning(text) or ""
    verdict, place = Said(None, answer), 0
    while (place := answer.find("{", place)) >= 0:
        found = _object_at(answer, place)
        if found is not None and name in found[0]:
            verdict, place = Said(found[0][name], answer[found[1] :]), found[1]
        else:
            place += 1  # the verdict may be an object within this one
    return verdict


def _object_at(text: str, start: int) -> tuple[dict[str, Any], int] | None:
    """The JSON object that starts there and its end, or None."""
    try:
        value, end = _DECODER.raw_decode(text, start)
    except (ValueError, RecursionError):
        return None
    return (value, end) if isinstance(value, dict) else None


def without_reasoning(text: str) -> str | None:
    """The answer after the model's reasoning; None where the reasoning never ends.

    A closing tag without an opening one ends reasoning too: many templates open it in the prompt.

    >>> without_reasoning("<think>M? No.</think>m"), without_reasoning("M? No.</think>m"), without_reasoning("<think>M?")
    ('m', 'm', None)
    >>> without_reasoning("<|channel|>analysis<|message|>M?<|end|><|start|>assistant<|channel|>final<|message|>m<|return|>")
    'm'
    """
    channels = _FINAL_CHANNEL.split(text)
    if len(channels) > 1:
        return _SPECIAL_TOKEN.split(channels[-1])[0]
    if _OTHER_CHANNEL.match(text):
        return None
    kept, place, inside = "", 0, False
    for tag in _TAG.finditer(text):
        if tag["close"]:
            kept = kept if inside else ""  # all of what came before was reasoning
            place, inside = tag.end(), False
        elif not inside:
            kept += text[place : tag.start()]
            inside = True
    return None if inside else kept + text[place:]


def why_unread(reply: Reply, name: str) -> str:
    """Why an answer gives no verdict, for a judgment's detail."""
    if without_reasoning(reply.text) is None:
        return "the reasoning does not end in a verdict:"
    return "the answer was cut" if reply.finish_reason == "length" else f"no {name} in the answer"


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 80 else line[:77] + "..."
