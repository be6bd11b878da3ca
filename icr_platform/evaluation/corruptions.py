"""Pairs whose label is certain: an output, and the same output spoilt in one known way.

Accuracy on them says what a reward sees and what it is blind to, in every language, without a judge and without a reviewer. `cut` is
shorter than what it was made of and `looped` is not: a reward that likes long texts is right on the one and wrong on the other, which
the accuracy of length alone, beside it, shows. `shuffled` and `number` have exactly the characters that they had.

A corruption that cannot be applied says why; pairs and refusals together are outputs times corruptions.
"""

from __future__ import annotations

import random
import re
import unicodedata
from bisect import bisect_left
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from icr_platform.core.languages import UNDETERMINED, counts_as
from icr_platform.evaluation.fidelity import LOOPING, repeated_share
from icr_platform.evaluation.sentences import Sentence, marker_end, opaque_spans, sentences

EMPTY, TRUNCATED, NO_PROSE, TOO_SHORT, IDENTICAL = "empty", "truncated", "no-prose", "too-short", "identical"
ONE_SENTENCE, ONLY_A_LIST, NO_NUMBER, LOOPS_ALREADY = "one-sentence", "only-a-list", "no-number", "loops-already"
NO_OTHER_PROMPT, NO_OTHER_LANGUAGE, WRONG_LANGUAGE = "no-other-prompt", "no-other-language", "wrong-language"
REFUSALS = {
    EMPTY: "the output is empty",
    TRUNCATED: "the output is cut itself",
    NO_PROSE: "there is no sentence outside code",
    TOO_SHORT: "every sentence is too short to be cut within it",
    IDENTICAL: "the corrupted output is the output",
    ONE_SENTENCE: "there is one sentence, and nothing to shuffle",
    ONLY_A_LIST: "all of it is one list, which may be right in any order",
    NO_NUMBER: "there is no number in digits outside code, addresses and the markers of lists",
    LOOPS_ALREADY: "the output loops itself",
    NO_OTHER_PROMPT: "no other prompt of the language has another answer",
    NO_OTHER_LANGUAGE: "the prompt has no answer in another language",
    WRONG_LANGUAGE: "the output is not in the language of its prompt, as a translation may rightly be",
}
"""Why a corruption may not be applicable to an output, and what that means."""
_CUT_LETTERS, _CUT_DENSE = 20, 8  # of a sentence: what is left of less may be a whole answer
_LOOPS = 3
_DRAWS = 8  # answers of other prompts among which the one nearest in length is taken


class GivenOutput(NamedTuple):
    """An output to corrupt.

    instruction: of its prompt, where known: prompts that ask the same are not other prompts.
    is_cut: it reached the limit of its tokens. detected: the language that it was identified as, where known.
    """

    language: str
    prompt_id: str
    text: str
    sample_index: int = 0
    instruction: str | None = None
    is_cut: bool = False
    detected: str | None = None

    @property
    def is_in_another_language(self) -> bool:
        """Whether it was identified as a language that does not count as that of its prompt."""
        known = self.detected not in (None, UNDETERMINED)
        return known and not counts_as(self.language, self.detected or "")


class CorruptedPair(NamedTuple):
    """chosen: the output as it was. rejected: the corrupted one. They differ, and by more than space."""

    language: str
    prompt_id: str
    sample_index: int
    corruption: str
    chosen: str
    rejected: str


class Refusal(NamedTuple):
    """An output to which a corruption cannot be applied; reason: one of REFUSALS."""

    language: str
    prompt_id: str
    sample_index: int
    corruption: str
    reason: str


@dataclass(frozen=True)
class Corruptions:
    """Every output times every corruption, in that order, as a pair or as a refusal."""

    pairs: tuple[CorruptedPair, ...]
    refusals: tuple[Refusal, ...]


@dataclass(frozen=True)
class _Others:
    """All outputs, by what a corruption looks another one up by."""

    by_language: Mapping[str, Sequence[GivenOutput]]
    by_prompt: Mapping[str, Sequence[GivenOutput]]


@dataclass(frozen=True)
class _Prose:
    """An output with its sentences, which most corruptions need."""

    output: GivenOutput
    units: tuple[Sentence, ...]
    others: _Others = field(repr=False)

    @property
    def prose(self) -> list[Sentence]:
        """The units that say something: neither code nor a rule or an ornament."""
        return [unit for unit in self.units if not unit.is_code and any(map(str.isalnum, self.said(unit)))]

    def said(self, unit: Sentence) -> str:
        """The text of a unit."""
        return self.output.text[unit.start : unit.end]


class _NotApplicableError(Exception):
    """Its argument is one of REFUSALS."""


def corrupt(outputs: Sequence[GivenOutput], seed: int, names: Collection[str] = ()) -> Corruptions:
    """Make a pair of every output and every corruption that can be applied to it.

    What is drawn depends on the seed, the key of the output and the name of the corruption: outputs that are added or left out change
    no other pair, but for the two corruptions that take another output.

    Args:
        outputs: any number per prompt and language.
        names: of CORRUPTIONS; all when left out.

    >>> made = corrupt([GivenOutput("en", "1", "It has 24 legs. It sleeps.")], 0, ["shuffled", "other-prompt"])
    >>> made.pairs[0].rejected, made.refusals[0].reason
    ('It sleeps. It has 24 legs.', 'no-other-prompt')
    """
    by_language: dict[str, list[GivenOutput]] = {}
    by_prompt: dict[str, list[GivenOutput]] = {}
    # In the order of their keys, so that what is drawn among them does not depend on the order of the rows.
    for output in sorted(outputs, key=lambda output: (output.language, output.prompt_id, output.sample_index)):
        if output.text.strip() and not output.is_cut:
            by_language.setdefault(output.language, []).append(output)
            by_prompt.setdefault(output.prompt_id, []).append(output)
    others = _Others(by_language, by_prompt)
    pairs: list[CorruptedPair] = []
    refusals: list[Refusal] = []
    for output in outputs:
        units = tuple(sentences(output.text, output.language))
        for name, make in CORRUPTIONS.items():
            if names and name not in names:
                continue
            key = (output.language, output.prompt_id, output.sample_index, name)
            try:
                spoilt = _spoilt(make, _Prose(output, units, others), random.Random(repr((seed, *key))))
            except _NotApplicableError as refused:
                refusals.append(Refusal(*key, str(refused)))
            else:
                pairs.append(CorruptedPair(*key, output.text, spoilt))
    return Corruptions(tuple(pairs), tuple(refusals))


def _spoilt(make: Callable[[_Prose, random.Random], str], text: _Prose, rng: random.Random) -> str:
    output = text.output
    if not output.text.strip():
        raise _NotApplicableError(EMPTY)
    if output.is_cut:  # of two bad texts neither is certain to be the better one
        raise _NotApplicableError(TRUNCATED)
    spoilt = make(text, rng)
    if spoilt.split() == output.text.split():
        raise _NotApplicableError(IDENTICAL)
    return spoilt


def _cut(text: _Prose, rng: random.Random) -> str:
    """The output up to the middle of a sentence that stands between 30 and 70% of its length, as far as there is one."""
    if not text.prose:
        raise _NotApplicableError(NO_PROSE)
    long = [unit for unit in text.prose if _is_long(text.said(unit))]
    if not long:
        raise _NotApplicableError(TOO_SHORT)
    wanted = rng.uniform(0.3, 0.7) * len(text.output.text)
    unit = min(long, key=lambda unit: (max(unit.start - wanted, wanted - unit.end, 0), unit.start))
    said, middle = text.said(unit), (unit.end - unit.start) * rng.uniform(0.4, 0.6)
    spaces = [found.start() for found in re.finditer(r"\s+", said)]
    spaces = [index for index in spaces if unicodedata.category(said[index - 1])[0] != "P"]
    if len(spaces) < 3:  # a script without spaces, in which a sentence ends within a word
        spaces = [index for index in range(1, len(said)) if said[index].isalpha() and said[index - 1].isalpha()]
        spaces = spaces or [len(said) // 2]
    place = min(spaces, key=lambda index: abs(index - middle))
    return text.output.text[: unit.start + place].rstrip()


def _is_long(said: str) -> bool:
    letters = [character for character in said if unicodedata.category(character)[0] in "LM"]
    dense = sum(not character.isascii() and unicodedata.category(character) == "Lo" for character in letters)
    return len(letters) >= _CUT_LETTERS or dense >= _CUT_DENSE


def _shuffled(text: _Prose, rng: random.Random) -> str:
    """All sentences at the places of others; space, line breaks, code and the markers of lists stay where they are."""
    units = text.prose
    if not units:
        raise _NotApplicableError(NO_PROSE)
    if len(units) < 2:
        raise _NotApplicableError(ONE_SENTENCE)
    if all(unit.is_item for unit in units):
        raise _NotApplicableError(ONLY_A_LIST)
    # Sattolo's algorithm: one cycle through all places, so that no sentence keeps its own.
    order = list(range(len(units)))
    for last in range(len(order) - 1, 0, -1):
        other = rng.randrange(last)
        order[last], order[other] = order[other], order[last]
    pieces, place = [], 0
    for unit, source in zip(units, order, strict=True):
        pieces += [text.output.text[place : unit.start], text.said(units[source])]
        place = unit.end
    return "".join((*pieces, text.output.text[place:]))


def _other_prompt(text: _Prose, rng: random.Random) -> str:
    """Another prompt's answer in the same language: of a few that are drawn the one nearest in length."""
    output = text.output
    asked = (output.instruction or "").split()

    def answers_another(other: GivenOutput) -> bool:
        is_same = other.prompt_id == output.prompt_id or (asked and (other.instruction or "").split() == asked)
        return not (is_same or other.is_in_another_language or other.text.split() == output.text.split())

    everyone = text.others.by_language.get(output.language, ())
    drawn = list(filter(answers_another, rng.sample(everyone, min(_DRAWS, len(everyone)))))
    drawn = drawn or list(filter(answers_another, everyone))
    if not drawn:
        raise _NotApplicableError(NO_OTHER_PROMPT)
    return min(drawn, key=lambda other: abs(len(other.text) - len(output.text))).text


def _other_language(text: _Prose, rng: random.Random) -> str:
    """The same prompt's answer in another language."""
    output = text.output
    if output.is_in_another_language:
        raise _NotApplicableError(WRONG_LANGUAGE)
    others: dict[str, str] = {}
    for other in text.others.by_prompt.get(output.prompt_id, ()):
        is_answer = not counts_as(output.language, other.language) and not other.is_in_another_language
        if is_answer and other.text.split() != output.text.split():
            others.setdefault(other.language, other.text)
    if not others:
        raise _NotApplicableError(NO_OTHER_LANGUAGE)
    return others[rng.choice(sorted(others))]


def _looped(text: _Prose, rng: random.Random) -> str:
    """The first half, whose last sentence is repeated at least three times and until the output's length is reached."""
    output = text.output
    if not text.prose:
        raise _NotApplicableError(NO_PROSE)
    if repeated_share(output.text) > LOOPING:
        raise _NotApplicableError(LOOPS_ALREADY)
    ends = [unit.end for unit in text.prose]
    last = text.prose[min(bisect_left(ends, rng.uniform(0.4, 0.6) * len(output.text)), len(ends) - 1)]
    said, following = text.said(last), [unit.start for unit in text.units if unit.start >= last.end]
    gap = output.text[last.end : following[0]] if following else ""
    if gap.strip():  # the marker of an item
        gap = "\n"
    elif (
        not gap and unicodedata.east_asian_width(said[-1]) not in "WF"
    ):  # those scripts have no space between sentences
        gap = " "
    kept = output.text[: last.end]
    times = max(_LOOPS, -(-(len(output.text) - len(kept)) // len(gap + said)))
    return kept + (gap + said) * times


def _number(text: _Prose, rng: random.Random) -> str:
    """One number written in digits, of any script, with another first digit: never in code, addresses, names or markers of lists."""
    found = _numbers(text.output.text)
    if not found:
        raise _NotApplicableError(NO_NUMBER)
    start, digits = rng.choice(found)
    values = [unicodedata.digit(character) if character.isdecimal() else -1 for character in digits]
    place = next((index for index, value in enumerate(values) if value > 0), 0)
    other = rng.choice([value for value in range(1, 10) if value != values[place]])
    # Digits of a script follow each other in Unicode from 0 to 9.
    changed = chr(ord(digits[place]) - values[place] + other)
    return text.output.text[: start + place] + changed + text.output.text[start + place + 1 :]


_NUMBER = re.compile(r"\d+(?:[.,:/٫٬'’-]\d+)*")


def _numbers(text: str) -> list[tuple[int, str]]:
    """Start and digits of every number that says something: no marker of a list, no part of a name, of code or of an address."""
    hidden = opaque_spans(text)
    hidden += [(line.start(), line.start() + marker_end(line.group())) for line in re.finditer(r"[^\n\r]+", text)]
    found = []
    for number in _NUMBER.finditer(text):
        start, end = number.span()
        before, after = text[max(0, start - 2) : start], text[end : end + 1]
        # Of `GPT4`, `COVID-19` and `H2O` another number is another name; a keycap is a marker. Scripts without case glue words on.
        is_name = bool(re.search(r"(?:[^\W\d_]|[^\W\d_]-|_)$", before)) and any(
            letter.lower() != letter.upper() or letter == "_" for letter in before
        )
        is_keycap = after in ("\ufe0f", "\u20e3")
        if not (is_name or is_keycap or any(low <= start < high for low, high in hidden)):
            found.append((start, number.group()))
    return found


CORRUPTIONS: Mapping[str, Callable[[_Prose, random.Random], str]] = {
    "cut": _cut,
    "shuffled": _shuffled,
    "other-prompt": _other_prompt,
    "other-language": _other_language,
    "looped": _looped,
    "number": _number,
}
"""What an output is spoilt by, by name. To add a corruption, add its row."""
