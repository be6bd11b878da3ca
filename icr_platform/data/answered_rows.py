"""One document out of a row: a conversation and the response that is to be learnt, in the layouts that people publish.

- an instruction and its output in columns of their own (Alpaca, Dolly, Aya, GSM8K), TRL's `prompt` and `completion` as texts or messages;
- messages of OpenAI or ShareGPT that end with the assistant, a transcript of Human: and Assistant:;
- a preference, of which the chosen response is taken (`data.text_pairs`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from icr_platform.core.conversations import ASSISTANT, SYSTEM, Conversation
from icr_platform.core.spoken_messages import THOUGHT_FIELDS
from icr_platform.data.row_fields import (
    HISTORY_FIELDS,
    INPUT_FIELD,
    INSTRUCTION_FIELDS,
    MESSAGE_FIELDS,
    ROW_GROUPS,
    SYSTEM_FIELDS,
    BadRow,
    checked,
    optional_text,
)
from icr_platform.data.row_messages import Message, history_of, listed, messages_of, prompt_of, transcript_of, turn_of
from icr_platform.data.text_pairs import PAIR_LAYOUTS, texts_of
from icr_platform.data.wording import shown

ANSWER_FIELDS = (
    "output", "response", "completion", "generation", "generated_text", "answer", "targets", "target", "reply", "chosen",
    "chosen_response",
)  # fmt: skip
GROUPS: tuple[tuple[str, ...], ...] = (ANSWER_FIELDS, *ROW_GROUPS)
"""Columns that are read as one thing; see `row_sources.Wanted`."""
FIELDS = frozenset({*ANSWER_FIELDS, *SYSTEM_FIELDS, *HISTORY_FIELDS, INPUT_FIELD, "text"})
"""Columns that are read, or repeat what others say: Alpaca's `text` is the instruction and the output in a template."""
_CONVERSATIONS = (*MESSAGE_FIELDS, "dialogue", "dialog", "turns", *INSTRUCTION_FIELDS)
REASONING = "reasoning in a field of its own, which is not learnt"
UNANSWERED = "a last turn of the user without a response, which is left out"


class NoInstruction(BadRow):
    """The row has a response and says nothing of what it responds to. answer: the response."""

    def __init__(self, answer: str, fault: str) -> None:
        super().__init__(fault)
        self.answer = answer


class Answered(NamedTuple):
    """A document as its row says it.

    columns: that were read. remarks: as in `row_messages.Turn`, and REASONING, UNANSWERED.
    """

    asked: Conversation
    answer: str
    columns: frozenset[str]
    remarks: tuple[str, ...]


def answered_of(fields: Mapping[str, Any]) -> Answered:
    """The document of a row.

    Raises:
        BadRow: what is wrong, naming the field; NoInstruction for a response alone.
    """
    given = {name for name, value in fields.items() if value is not None}
    if any(set(layout) <= given for layout in PAIR_LAYOUTS):
        pair = texts_of(fields)
        return Answered(pair.asked, pair.chosen, pair.columns, pair.remarks)
    name = next((name for name in ANSWER_FIELDS if fields.get(name) is not None), None)
    return _of_columns(fields, name) if name else _of_conversation(fields)


def _of_columns(fields: Mapping[str, Any], name: str) -> Answered:
    """A row whose response has a column of its own."""
    said, reasons = _answer(fields[name], name)
    answer = checked(name, said[-1].text, "write the response or remove the row")
    rest = {key: value for key, value in fields.items() if key not in ANSWER_FIELDS}
    if said[0].role != ASSISTANT:  # a whole conversation under the name of a response, which repeats the prompt
        return _checked(said, name, rest, frozenset({name}), reasons)
    try:
        turn = turn_of(rest, may_be_answered=True)
    except BadRow as error:
        if any(rest.get(key) is not None for key in (*INSTRUCTION_FIELDS, *MESSAGE_FIELDS)):
            raise
        raise NoInstruction(answer, str(error)) from None
    if len(said) > 1:  # the prompt goes on within the response
        asked = [Message(message["role"], message["content"]) for message in turn.asked.messages]
        return _checked([*asked, *said], name, {}, frozenset({name, *turn.columns}), reasons)
    reasons |= any(rest.get(key) for key in THOUGHT_FIELDS)
    remarks = (*(name for name in turn.remarks if name != "answer"), *([REASONING] if reasons else []))
    return Answered(turn.asked, answer, frozenset({name, *turn.columns}), remarks)


def _answer(value: Any, name: str) -> tuple[list[Message], bool]:
    """A response as messages, the last one the assistant's, and whether reasoning stands beside it."""
    value = listed(value, name)
    if isinstance(value, str):
        return [Message(ASSISTANT, value)], False
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], str):
        return [Message(ASSISTANT, value[0])], False
    messages = messages_of(value)
    if not messages or messages[-1].role != ASSISTANT:
        raise BadRow(f"field {name!r} is not text; give a string or messages that end with the assistant")
    return messages, _reasons(value)


def _of_conversation(fields: Mapping[str, Any]) -> Answered:
    """A row whose response is the last message of a conversation."""
    unread = ""
    for name in _CONVERSATIONS:
        try:
            value = listed(fields.get(name), name)
            said = transcript_of(value) if isinstance(value, str) else messages_of(value) or []
        except BadRow as error:
            unread = unread or str(error)
            continue
        if any(message.role == ASSISTANT for message in said):
            rest = {key: value for key, value in fields.items() if key not in _CONVERSATIONS}
            return _checked(said, name, rest, frozenset({name}), _reasons(value))
    raise BadRow(
        unread
        or f"no response: neither a column {', '.join(ANSWER_FIELDS[:3])}, ... nor messages of the assistant; found: {shown(list(fields))}"
    )


def _checked(
    said: Sequence[Message], name: str, rest: Mapping[str, Any], columns: frozenset[str], reasons: bool
) -> Answered:
    """The document of a conversation; rest: the row's other columns, which may have a system text and earlier turns."""
    end = max(place for place, message in enumerate(said) if message.role == ASSISTANT)
    answer = checked(name, said[end].text, "write the last response or remove the row")
    systems = [text for key in SYSTEM_FIELDS if (text := optional_text(rest, key))]
    asked = prompt_of([*history_of(rest), *said[:end]], name, systems)
    remarks = {
        "system": asked.roles[0] == SYSTEM,
        REASONING: reasons,
        UNANSWERED: end + 1 < len(said),
    }
    return Answered(asked, answer, columns, tuple(key for key, value in remarks.items() if value))


def _reasons(value: Any) -> bool:
    """Whether a message of the list has reasoning beside its content."""
    items = value if isinstance(value, list) else [value]
    return any(isinstance(item, Mapping) and any(item.get(key) for key in THOUGHT_FIELDS) for item in items)
