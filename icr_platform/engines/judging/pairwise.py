"""What every pairwise judge takes and gives: pairs in, typed judgments out, one for each order that was asked.

A judge of your own is anything with the method of `Judge`, made by a callable (settings, template, seed) that `--judge MODULE:NAME`
names: the settings (`PairwiseJudging`), how to ask (`Template`), and a seed. The tests' shortest one:

    class Longest:
        def __init__(self, settings, template, seed): ...
        def judge(self, parts):
            for part in parts:
                yield [
                    Judgment(p.language, p.prompt_id, p.sample_index, NO_ORDER, float(len(p.candidate) > len(p.reference)), None,
                             "ok", "longest", 0, 0, "")
                    for p in part
                ]
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

from icr_platform.core.errors import InputError
from icr_platform.core.languages import language_name
from icr_platform.core.yaml_files import read_yaml

if TYPE_CHECKING:
    from icr_platform.engines.endpoints.chat_client import Message

MODEL_FIRST, REFERENCE_FIRST, NO_ORDER = "model-first", "reference-first", "none"
LABELS = ("m", "M")
MIN_MASS = 0.1
"""Default of `judge_min_mass`. A good judge gives its two labels less than .99 of the probability in 0.2% of judgments, so any floor
costs it next to nothing. Below a tenth, nine answers in ten begin with something else, and the labels' ratio measures no verdict."""
LOW_MASS = 0.5
"""A judgment with less counts in `judge/low_mass`."""
_ROUNDING = 1e-2  # by which the probabilities of two labels, summed in an engine's precision, may exceed 1


INSTRUCTION = """\
Two systems, m and M, answered the same instruction. Decide whose output serves the person who wrote it better.

Judge what the output says: whether it does what was asked, is right, complete, clear and safe. A good output is written in \
the language of the instruction ({language}) unless the instruction asks for another. Length alone is no merit, and the order \
in which the outputs stand means nothing.

<instruction>
{instruction}
</instruction>

<output system="m">
{output_m}
</output>

<output system="M">
{output_M}
</output>

Which output is better? Answer with the label of its system and nothing else: m or M."""

_PLACEHOLDER = re.compile(r"\{(instruction|output_m|output_M|language)\}")
_ROLES = ("system", "user", "assistant", "developer")
_NEEDED = ("{instruction}", "{output_m}", "{output_M}")


@dataclass(frozen=True)
class Pair:
    """An output of the model (candidate) and of the reference for one prompt.

    instruction: a conversation as one text, see `Conversation.text`.
    """

    language: str
    prompt_id: str
    sample_index: int
    instruction: str
    candidate: str
    reference: str


class Judgment(NamedTuple):
    """One answer of a judge, with the columns of schemas.JUDGMENTS.

    order: MODEL_FIRST, REFERENCE_FIRST, or NO_ORDER of a judge to which it makes no difference.
    preference: P(model beats reference) in [0, 1]; None unless the outcome is 'ok'.
    mass: probability that the labels held together; None where none was read.
    outcome: 'ok', 'refusal', 'no_logprob', 'parse_error' or 'api_error'; detail says why it is not 'ok'.
    judge: name of the judge, for people.
    """

    language: str
    prompt_id: str
    sample_index: int
    order: str
    preference: float | None
    mass: float | None
    outcome: str
    judge: str
    input_tokens: int
    output_tokens: int
    detail: str


class Preference(NamedTuple):
    """What an answer says about a pair; value and mass as preference and mass in schemas.JUDGMENTS."""

    value: float | None
    mass: float | None
    outcome: str
    detail: str


class Judge(Protocol):
    """Judges part after part. Parts come back in order, and the judgments of a part never depend on the parts around it."""

    def judge(self, parts: Iterable[Sequence[Pair]]) -> Iterator[list[Judgment]]:
        """Yield the judgments of each part, those of a pair one after another."""
        ...


@dataclass(frozen=True)
class Template:
    """Messages with the placeholders {instruction}, {output_m}, {output_M} and {language}."""

    messages: tuple[tuple[str, str], ...]

    def render(self, pair: Pair, order: str) -> list[Message]:
        """Messages for one pair; the output that stands first is m. Texts are put in as they are, braces included."""
        outputs = (pair.candidate, pair.reference) if order == MODEL_FIRST else (pair.reference, pair.candidate)
        values = {
            "instruction": pair.instruction,
            "output_m": outputs[0],
            "output_M": outputs[1],
            "language": language_name(pair.language),
        }
        return [
            {"role": role, "content": _PLACEHOLDER.sub(lambda match: values[match[1]], content)}
            for role, content in self.messages
        ]


DEFAULT_TEMPLATE = Template((("user", INSTRUCTION),))


def load_template(path: str) -> Template:
    """Read a template from a YAML list of {role, content} messages; '' gives the built-in one.

    Raises:
        InputError: the file is missing or has another shape, or no message contains a placeholder that the judge needs.
    """
    if not path:
        return DEFAULT_TEMPLATE
    value = read_yaml(Path(path), "judge template", "give a YAML list of messages")
    is_right = isinstance(value, list) and all(
        isinstance(message, Mapping) and message.get("role") in _ROLES and isinstance(message.get("content"), str)
        for message in value
    )
    if not is_right:
        raise InputError(f"{path}: not a list of {{role, content}} messages; write `- role: user` and `content: ...`")
    template = Template(tuple((str(message["role"]), str(message["content"])) for message in value))
    missing = [name for name in _NEEDED if not any(name in content for _, content in template.messages)]
    if missing:
        raise InputError(
            f"{path}: placeholder {missing[0]} is missing; the judge must see instruction and both outputs"
        )
    return template


def orders_of(pair: Pair, both: bool, seed: int) -> tuple[str, ...]:
    """Both orders, or the one picked by a coin that (seed, prompt id) seeds: the same in every language and for every model.

    >>> pair = Pair("sw", "p7", 0, "", "", "")
    >>> orders_of(pair, True, 1), orders_of(pair, False, 1) == orders_of(pair, False, 1)
    (('model-first', 'reference-first'), True)
    """
    if both:
        return MODEL_FIRST, REFERENCE_FIRST
    return (random.Random(f"{seed} {pair.prompt_id}").choice((MODEL_FIRST, REFERENCE_FIRST)),)


def preference_from_labels(probability_m: float, probability_M: float, order: str, min_mass: float) -> Preference:
    """Preference of a judge whose first token is m or M with these probabilities; a failure where they measure nothing.

    Args:
        min_mass: smallest sum of both, in [0, 1], that counts as an answer.

    >>> preference_from_labels(0.5, 0.25, MODEL_FIRST, 0.1).outcome
    'ok'
    >>> preference_from_labels(0.004, 0.003, MODEL_FIRST, 0.1).detail
    "the labels m and M hold 0.007 of the first token's probability, judge_min_mass is 0.1"
    """
    mass = probability_m + probability_M
    if not (probability_m >= 0.0 and probability_M >= 0.0 and mass <= 1.0 + _ROUNDING):  # NaN fails every comparison
        seen = f"the labels' probabilities come out as {probability_m:g} and {probability_M:g}"
        return Preference(None, None, "no_logprob", seen)
    mass = min(mass, 1.0)
    if mass == 0.0 or mass < min_mass:
        why = f"the labels m and M hold {mass:.4g} of the first token's probability, judge_min_mass is {min_mass:g}"
        return Preference(None, mass, "parse_error", why)
    return Preference(preference_of(probability_m, probability_M, order), mass, "ok", "")


def is_preference(value: float | None) -> bool:
    """Whether a judgment may call this a preference: a number in [0, 1]."""
    return value is not None and math.isfinite(value) and 0.0 <= value <= 1.0


def preference_of(probability_m: float, probability_M: float, order: str) -> float:
    """P(model beats reference) = P(its label) / (P(m) + P(M)); undefined (raises ZeroDivisionError) without mass.

    >>> preference_of(0.5, 0.125, MODEL_FIRST), preference_of(0.5, 0.125, REFERENCE_FIRST)
    (0.8, 0.2)
    """
    ours = probability_m if order == MODEL_FIRST else probability_M
    return ours / (probability_m + probability_M)
