"""What a judge's reply says about a pair: from log-probabilities, or from the JSON of sampled answers, around any reasoning."""

from __future__ import annotations

import json
import math
import re
from typing import Any, NamedTuple

from icr_platform.engines.endpoints.replies import Reply
from icr_platform.engines.judging.pairwise import LABELS, MIN_MASS, Preference, preference_from_labels, preference_of

VERDICT_FORMS = '{"winner": "m"} or {"winner": "M"}'
"""What a structured answer is asked to be."""


_NAME = r"(?:seed:|longcat_|ant)?(?:think|thinking|thoughts?|reason|reasoning|reasoning_content|analysis|reflection|scratchpad)"
_DECODER = json.JSONDecoder(strict=False)  # models write line breaks into JSON's texts


_TAG = re.compile(
    rf"(?P<open><\s*{_NAME}(?:\s[^<>]*)?(?<!/)>|\[THINK\]|<\|channel>|<\|begin_of_thought\|>|<\|START_THINKING\|>|◁think▷"
    r"|<\|inner_prefix\|>|<unused94>|Here is my thought process:)"
    rf"|(?P<close><\s*/\s*{_NAME}\s*>|\[/THINK\]|<channel\|>|<\|end_of_thought\|>|<\|END_THINKING\|>|◁/think▷"
    r"|<\|inner_suffix\|>|<unused95>|Here is my response:)",
    re.IGNORECASE,
)
"""Where models begin and end their reasoning, as `models.thinking.STYLES` lists them; and as prompts ask others to, with attributes or
spaces in the tag."""


_FINAL_CHANNEL = re.compile(r"<\|channel\|>final[^<]*<\|message\|>|assistantfinal")
_OTHER_CHANNEL = re.compile(r"\s*(?:<\|start\|>assistant)?<\|channel\|>|analysis[A-Z]")
"""gpt-oss's channels, also as they read once special tokens were left out: `analysisWe must ... assistantfinal...`."""


_SPECIAL_TOKEN = re.compile(r"<\|\w+\|>")


_WORD_STARTS = "▁Ġ"  # as vocabularies write a space, and some servers return it

_NAMED = re.compile(
    r"""[\s"'`*(\[]*(?:(?i:(?:the\s+)?(?:winner|output|response|answer|model|assistant|system)(?![a-z])(?:\s+is\b)?)[\s:"'`*(_\[]*){0,3}([mM])[\s"'`*)\].]*"""
)
"""A label and nothing else, however it is dressed: `**M**`, `Output (m)`, `Winner: M.`"""

_PYTHON_VERDICT = re.compile(r"\{\s*'winner'\s*:\s*'([mM])'\s*,?\s*\}")


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
    probabilities = dict.fromkeys(LABELS, 0.0)
    for token, logprob in reply.first_token:
        label = token.lstrip(_WORD_STARTS).strip()
        if label in probabilities:
            # A broken server's logprob may be so large that exp overflows; infinity is refused below, as NaN is.
            probabilities[label] += math.inf if logprob >= 1.0 else math.exp(logprob)
    m, M = (probabilities[label] for label in LABELS)
    value, mass, outcome, detail = preference_from_labels(m, M, order, min_mass)
    seen = f"{detail}; the answer begins {_short(reply.text)!r}" if detail else ""
    return Preference(_rounded(value), _rounded(mass), outcome, seen)


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
    """Return the last winner that the answer names as JSON, whatever text is around it; None if it names neither label.

    >>> parse_winner('<think>{"winner": "m"}, or not?</think> So: ```json {"winner": "M"} ```')
    'M'
    >>> parse_winner('{"winner": "Output (m)"}'), parse_winner("**M**"), parse_winner("Output m is better.")
    ('m', 'M', None)
    """
    found = last_verdict(text.replace(VERDICT_FORMS, ""), "winner")  # the request, said again, is not a verdict
    if found.value is not None:
        label = _NAMED.fullmatch(found.value) if isinstance(found.value, str) else None
        return label[1] if label else None
    python = _PYTHON_VERDICT.findall(found.rest)
    alone = _NAMED.fullmatch(found.rest)
    return python[-1] if python else alone[1] if alone else None


class Said(NamedTuple):
    """A field of a judge's JSON answer, None where no object has it, and the text of the answer after that object."""

    value: Any
    rest: str


def last_verdict(text: str, name: str) -> Said:
    """Find the field `name` in the last JSON object of an answer that has it, reasoning left out.

    An answer that is JSON as a whole is read as it is: a string in it may quote anything.

    >>> last_verdict('{"rating": 3} no: {"rating": 7} because', "rating")
    Said(value=7, rest=' because')
    >>> last_verdict('{"why": "they wrote <think>", "rating": 2}', "rating").value
    2
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
    """Return the JSON object that starts there and where it ends; None if there is none."""
    try:
        value, end = _DECODER.raw_decode(text, start)
    except (ValueError, RecursionError):
        return None
    return (value, end) if isinstance(value, dict) else None


def without_reasoning(text: str) -> str | None:
    """Return the answer without the model's reasoning; None where the reasoning never ends.

    A closing tag without an opening one ends reasoning too, because many templates open it in the prompt.

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
    """Say why an answer contains no verdict, for a judgment's detail.

    >>> why_unread(Reply("I would", None, None, "length", 9, 1), "winner")
    'the answer was cut'
    """
    if without_reasoning(reply.text) is None:
        return "the reasoning does not end in a verdict:"
    return "the answer was cut" if reply.finish_reason == "length" else f"no {name} in the answer"


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 80 else line[:77] + "..."
