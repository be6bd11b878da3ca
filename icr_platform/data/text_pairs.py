"""One preference out of a row, in the layouts that people publish.

- TRL's: `prompt`, `chosen`, `rejected`, as texts or messages, with the prompt repeated in the messages (UltraFeedback-binarized) or
  only there (implicit prompts);
- transcripts, `\\n\\nHuman: ... \\n\\nAssistant: ...` in both (HH-RLHF);
- two responses and which is better (PKU-SafeRLHF, SHP, AlpacaFarm, Chatbot Arena, HelpSteer3), or a score of each.

Both responses answer one conversation of any number of turns: they may differ in the last turn only.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from icr_platform.core.conversations import ASSISTANT, SYSTEM, USER, Conversation
from icr_platform.data.row_fields import (
    HISTORY_FIELDS,
    ID_FIELDS,
    INPUT_FIELD,
    INSTRUCTION_FIELDS,
    MESSAGE_FIELDS,
    SYSTEM_FIELDS,
    BadRow,
    checked,
    optional_text,
)
from icr_platform.data.row_messages import (
    Message,
    history_of,
    listed,
    messages_of,
    prompt_of,
    transcript_of,
)
from icr_platform.data.row_sources import LANGUAGE_FIELDS
from icr_platform.data.wording import shown

_PAIRS = (
    ("chosen", "rejected"), ("chosen_response", "rejected_response"), ("response_chosen", "response_rejected"),
    ("preferred", "dispreferred"), ("preferred", "rejected"), ("preferred_response", "rejected_response"), ("accepted", "rejected"),
    ("response_j", "response_k"), ("answer_chosen", "answer_rejected"), ("winner_response", "loser_response"),
)  # fmt: skip
_SCORES = (
    ("score_chosen", "score_rejected"), ("chosen_score", "rejected_score"), ("chosen_rating", "rejected_rating"),
    ("rating_chosen", "rating_rejected"), ("chosen_reward", "rejected_reward"),
)  # fmt: skip
_PROMPT_FIELDS = (*INSTRUCTION_FIELDS, "history", "context", "post", "input")
FIELDS = frozenset({
    *(name for names in (*_PAIRS, *_SCORES) for name in names), *MESSAGE_FIELDS, *SYSTEM_FIELDS, INPUT_FIELD,
})  # fmt: skip
"""Columns that are read, or repeat what others say: `messages` next to `chosen` is the chosen conversation."""


class Texts(NamedTuple):
    """A preference as its row says it.

    scores: of chosen and rejected, where the row has both. columns: that were read. remarks: as in `row_messages.Turn`.
    is_tie: the row prefers neither, and chosen is the first of the two. sides: the columns of chosen and rejected.
    """

    asked: Conversation
    chosen: str
    rejected: str
    scores: tuple[float, float] | None
    columns: frozenset[str]
    remarks: tuple[str, ...]
    is_tie: bool = False
    sides: tuple[str, str] = ("chosen", "rejected")


class TiedRow(BadRow):
    """The row says that neither response is better."""


class IdenticalRow(BadRow):
    """Both responses of the row are the same text."""


def _is_0_or_1(value: Any) -> int | None:
    return {0: 0, 1: 1}.get(_whole(value))


def _is_1_where_first(value: Any) -> int | None:
    return {1: 0, 0: 1}.get(_whole(value))


def _is_1_or_2(value: Any) -> int | None:
    number = _number(value)
    if number == 1.5 or number == 0:
        raise TiedRow
    return None if number is None or not 1 <= number <= 2 else int(number > 1.5)


def _is_below_0_where_first(value: Any) -> int | None:
    number = _number(value)
    if number == 0:
        raise TiedRow
    return None if number is None else int(number > 0)


_TIES = frozenset(
    {
        "both",
        "neither",
        "bothbad",
        "both_bad",
        "both_good",
        "same",
        "equal",
        "equally good",
        "draw",
        "a=b",
        "b=a",
        "[[c]]",
    }
)
_SIDES = {
    "a": 0,
    "first": 0,
    "a>b": 0,
    "a>>b": 0,
    "b<a": 0,
    "b": 1,
    "second": 1,
    "b>a": 1,
    "b>>a": 1,
    "a<b": 1,
    "a<<b": 1,
}
_SIDE_PREFIX = re.compile(r"(?:model|response|assistant|answer|output|completion|option|system)[ _-]?(?=[ab12]$)")


def _is_a_or_b(value: Any) -> int | None:
    text = str(value).strip().lower()
    if text.startswith("tie") or text in _TIES:
        raise TiedRow
    text = text.removeprefix("[[").removesuffix("]]").replace(" ", "")
    return _SIDES.get(_SIDE_PREFIX.sub("", text))


def _is_named_or_numbered(value: Any) -> int | None:
    if _number(value) is not None:
        return _is_1_or_2(value)
    text = _SIDE_PREFIX.sub("", str(value).strip().lower())
    return {"1": 0, "2": 1}.get(text) if text in ("1", "2") else _is_a_or_b(value)


_CHOICES: tuple[tuple[str, str, str, Callable[[Any], int | None]], ...] = (
    ("response_0", "response_1", "better_response_id", _is_0_or_1),
    ("human_ref_A", "human_ref_B", "labels", _is_1_where_first),
    ("output_1", "output_2", "preference", _is_1_or_2),
    ("response1", "response2", "overall_preference", _is_below_0_where_first),
    ("conversation_a", "conversation_b", "winner", _is_a_or_b),
    ("response_a", "response_b", "winner", _is_a_or_b),
    ("answer_a", "answer_b", "winner", _is_a_or_b),
)
"""Two responses, what says which is better, and how: 0 for the first, 1 for the second, None where it cannot be read."""
_GRADED: tuple[tuple[str, str, str, str], ...] = (
    ("response_a", "response_b", "score_a", "score_b"),
    ("response1", "response2", "score1", "score2"),
    ("response_1", "response_2", "score_1", "score_2"),
    ("response_a", "response_b", "winner_model_a", "winner_model_b"),
)
"""Two responses, and the score of each: the higher is the better, equal ones are a tie."""
LABELS = (
    "winner",
    "win_model",
    "win",
    "preference",
    "preferred",
    "human_preference",
    "better",
    "better_response",
    "choice",
    "verdict",
    "label",
)
_LABELLED: tuple[tuple[str, str, str, Callable[[Any], int | None]], ...] = tuple(
    (first, second, label, which)
    for sides, which in (
        ((
            ("response_a", "response_b"), ("conversation_a", "conversation_b"), ("answer_a", "answer_b"), ("output_a", "output_b"),
            ("completion_a", "completion_b"), ("model_a_response", "model_b_response"), ("response_A", "response_B"),
        ), _is_a_or_b),
        ((
            ("response_1", "response_2"), ("response1", "response2"), ("output_1", "output_2"), ("answer_1", "answer_2"),
            ("answer1", "answer2"), ("completion_1", "completion_2"),
        ), _is_named_or_numbered),
    )
    for first, second in sides
    for label in LABELS
    if (first, second, label) not in {choice[:3] for choice in _CHOICES}
)  # fmt: skip
"""The same as `_CHOICES`, of columns and labels in any combination, looked for after the published ones: MENLO has `preference: A|B|tie`."""
RESPONSE_FIELDS = frozenset({
    *(name for names in _PAIRS for name in names), *(name for names in (*_CHOICES, *_GRADED, *_LABELLED) for name in names[:2]),
})  # fmt: skip
PAIR_GROUPS: tuple[tuple[str, ...], ...] = (
    (*INSTRUCTION_FIELDS, *MESSAGE_FIELDS, "history", "context", "post"), SYSTEM_FIELDS, (INPUT_FIELD,), ID_FIELDS, LANGUAGE_FIELDS,
    *zip(*_SCORES, strict=True),
)  # fmt: skip
PAIR_LAYOUTS: tuple[tuple[str, ...], ...] = (
    *_PAIRS,
    *((first, second, label) for first, second, label, _ in _CHOICES),
    *_GRADED,
    *((first, second, label) for first, second, label, _ in _LABELLED),
)
"""Columns by which a preference is read; see `row_sources.Wanted`."""


def _number(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def _whole(value: Any) -> int:
    number = _number(value)
    return int(number) if number is not None and number == int(number) else -1


def texts_of(fields: Mapping[str, Any], keeps_ties: bool = False) -> Texts:
    """The preference of a row.

    keeps_ties: a row that prefers neither is returned as a tie, not raised.

    Raises:
        BadRow: what is wrong, naming the field; TiedRow for a row that prefers neither, IdenticalRow for one without a choice.
    """
    names, more, is_tie = _responses(fields)
    if is_tie and not keeps_ties:
        raise TiedRow
    chosen, rejected = (fields[name] for name in names)
    turns = {name: _conversation(value, name) for name, value in zip(names, (chosen, rejected), strict=True)}
    # Next to whole conversations in both, `messages` repeats the chosen one.
    is_short = all(len(said) == 1 for said in turns.values())
    prompt_names = (*_PROMPT_FIELDS, *(MESSAGE_FIELDS if is_short else ()))
    prompt_name = next((name for name in prompt_names if name not in names and fields.get(name) is not None), None)
    asked = _conversation(fields[prompt_name], prompt_name) if prompt_name else []
    if not asked and not all(len(said) > 1 for said in turns.values()):
        raise BadRow(
            f"field 'prompt' is missing, empty or not text; found: {shown(list(fields))}; known: {', '.join(_PROMPT_FIELDS)}, or "
            "conversations in chosen and rejected"
        )
    earlier = history_of(fields, prompt_name or "")
    more += tuple(name for name in HISTORY_FIELDS if isinstance(fields.get(name), list))
    before, answers = [], []
    for name, said in turns.items():
        if said[-1].role != ASSISTANT:
            raise BadRow(f"field {name!r} ends with a message of the {said[-1].role}; end it with the response")
        answers.append(checked(name, said[-1].text, "give a string or one message"))
        before.append(_before(asked, said[:-1], name, prompt_name))
    if before[0] != before[1]:
        raise BadRow(
            f"fields {names[0]!r} and {names[1]!r} answer different conversations; pairs share one prompt, and differ in the last turn "
            "only"
        )
    if before[0][-1].role == ASSISTANT:
        raise BadRow("the conversation before the responses ends with the assistant; end it with the user")
    if answers[0] == answers[1]:
        raise IdenticalRow(f"field {names[0]!r} equals {names[1]!r}; remove the row")
    systems = [text for name in SYSTEM_FIELDS if (text := optional_text(fields, name))]
    behind = optional_text(fields, INPUT_FIELD) if prompt_name != INPUT_FIELD else ""
    conversation = prompt_of([*earlier, *before[0]], prompt_name or names[0], systems, behind)
    has_system = conversation.roles[0] == SYSTEM
    remarks = {
        "system": has_system,
        "history": len(conversation.history) > has_system,
        "input": behind and behind not in before[0][-1].text,
    }
    return Texts(
        conversation,
        answers[0],
        answers[1],
        _scores(fields),
        frozenset({*names, *more, *([prompt_name] if prompt_name else [])}),
        tuple(name for name, value in remarks.items() if value),
        is_tie,
        names,
    )


def _responses(fields: Mapping[str, Any]) -> tuple[tuple[str, str], tuple[str, ...], bool]:
    """Names of the chosen and the rejected response, the columns that said which is which, and whether they said neither."""
    for first, second in _PAIRS:
        if first in fields and second in fields:
            return (first, second), (), False
    if (found := _chosen_in(fields, _CHOICES)) is not None:
        return found
    for first, second, *labels in _GRADED:
        if first in fields and second in fields and all(label in fields for label in labels):
            grades = [_number(fields[label]) for label in labels]
            if grades[0] is None or grades[1] is None:
                label = labels[grades.index(None)]
                raise BadRow(f"field {label!r} is {str(fields[label])[:40]!r}; give a number")
            return (second, first) if grades[0] < grades[1] else (first, second), tuple(labels), grades[0] == grades[1]
    if (found := _chosen_in(fields, _LABELLED)) is not None:
        return found
    one = next((pair for pair in _PAIRS if pair[0] in fields or pair[1] in fields), None)
    if one and set(one) & set(fields):
        missing = one[1] if one[0] in fields else one[0]
        raise BadRow(
            f"field {missing!r} is missing or not text; give a string or one message; found: {shown(list(fields))}"
        )
    if "completion" in fields and "label" in fields:
        raise BadRow(
            "has one completion and a label, as KTO takes it; give pairs: prompt, chosen and rejected, or train with loss=kto"
        )
    named = dict.fromkeys((*_PAIRS[:3], *(choice[:2] for choice in _CHOICES)))
    known = ", ".join(f"{pair[0]}/{pair[1]}" for pair in named)
    raise BadRow(f"no columns with two responses; found: {shown(list(fields))}; known: prompt with {known}")


def _chosen_in(
    fields: Mapping[str, Any], choices: Sequence[tuple[str, str, str, Callable[[Any], int | None]]]
) -> tuple[tuple[str, str], tuple[str, ...], bool] | None:
    """As `_responses`, by the first of the choices whose columns the row has; None where it has none of them."""
    for first, second, label, which in choices:
        if not (first in fields and second in fields and label in fields):
            continue
        try:
            better = which(fields[label])
        except TiedRow:
            return (first, second), (label,), True
        better = _model_named(fields, fields[label]) if better is None else better
        if better is None:
            raise BadRow(
                f"field {label!r} is {str(fields[label])[:40]!r}, which names neither {first} nor {second}; correct it"
            )
        return (first, second) if better == 0 else (second, first), (label,), False
    return None


def _model_named(fields: Mapping[str, Any], value: Any) -> int | None:
    """Which of the row's models a label names by its own name."""
    models = [fields.get(name) for name in ("model_a", "model_b")]
    return models.index(value) if isinstance(value, str) and models.count(value) == 1 else None


def _conversation(value: Any, name: str) -> list[Message]:
    """A field as messages: a text is one of the user in a prompt and of the assistant in a response, unless it is a transcript."""
    is_prompt = name in (*_PROMPT_FIELDS, *MESSAGE_FIELDS)
    role = USER if is_prompt else ASSISTANT
    # A column that is called a conversation is never a text that happens to begin as a list.
    value = listed(value, "conversation" if name.startswith("conversation_") else name)
    if isinstance(value, str):
        said = transcript_of(value)
        # An `Assistant:` with nothing behind it ends a prompt.
        if said and said[-1].role == ASSISTANT and not said[-1].text.strip() and is_prompt:
            said.pop()
        return said or ([Message(role, value)] if value.strip() else _empty(name))
    if isinstance(value, Mapping) and "role" not in value and "from" not in value and "content" in value:
        return [Message(role, value["content"])] if isinstance(value["content"], str) else _empty(name)
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], str):
        return [Message(role, value[0])]
    if (
        isinstance(value, list)
        and len(value) == 1
        and isinstance(value[0], Mapping)
        and not {"role", "from"} & set(value[0])
    ):
        return _conversation(value[0], name)
    if name in HISTORY_FIELDS and isinstance(value, list):
        return history_of({name: value}) or _empty(name)
    return messages_of(value) or _empty(name)


def _empty(name: str) -> list[Message]:
    raise BadRow(f"field {name!r} is missing or not text; give a string or one message")


def _before(asked: Sequence[Message], inside: Sequence[Message], name: str, prompt_name: str | None) -> list[Message]:
    """The conversation before a response: as the prompt says it, as the response's own messages do, or both alike.

    A prompt of one turn may be the first or the last turn of the user in the messages.
    """
    turns = [message for message in inside if message.role != SYSTEM]
    given = [message for message in asked if message.role != SYSTEM]
    if not turns:
        return [*inside, *asked]
    said, inner = ([(message.role, message.text.split()) for message in each] for each in (given, turns))
    is_part = len(said) == 1 and said[0] in (inner[0], inner[-1])
    if given and said != inner and not is_part:
        raise BadRow(f"field {name!r} answers another instruction than field {prompt_name!r} contains; correct one")
    if (is_part and said != inner) or not asked:
        systems = [] if any(message.role == SYSTEM for message in inside) else [m for m in asked if m.role == SYSTEM]
        return [*systems, *inside]
    return list(inside) if any(message.role == SYSTEM for message in inside) else list(asked)


def _scores(fields: Mapping[str, Any]) -> tuple[float, float] | None:
    for names in _SCORES:
        first, second = (_number(fields.get(name)) for name in names)
        if first is not None and second is not None:
            return first, second
    return None
