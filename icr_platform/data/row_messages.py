"""The conversation that a row asks, in the layouts that people publish.

- a text (`instruction`, `prompt`, ...), with a system text, earlier turns (`history`) and Alpaca's `input` in columns beside it;
- messages of OpenAI (role, content) or ShareGPT (from, value), also as JSON or Python in a CSV file;
- a transcript, `\\n\\nHuman: ... \\n\\nAssistant:` (HH-RLHF).

A last answer is left out of a prompt where the layout has one: after the only turn of the user, and in ShareGPT's `conversations`
and WildChat's and LMSYS's `conversation`. Other conversations must end on a turn of the user.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from icr_platform.core.conversations import ASSISTANT, SYSTEM, USER, Conversation
from icr_platform.data.row_fields import (
    HISTORY_FIELDS,
    INPUT_FIELD,
    INSTRUCTION_FIELDS,
    MESSAGE_FIELDS,
    SYSTEM_FIELDS,
    BadRow,
    checked,
    optional_text,
    text_fault,
)
from icr_platform.data.wording import short, shown

_ROLES = {
    **dict.fromkeys(("user", "human", "prompter", "customer"), USER),
    **dict.fromkeys(("assistant", "gpt", "chatgpt", "model", "bot", "chatbot", "ai", "bard", "bing", "claude"), ASSISTANT),
    **dict.fromkeys(("system", "developer"), SYSTEM),
}  # fmt: skip
_TOOLS = ("tool", "tools", "function", "ipython", "observation", "environment", "code_interpreter", "search")
_ANSWERED = ("conversations", "conversation")
_TURN_FIELDS = ("turns", "prompt")  # MT-Bench's and Arena-Hard's, and those of their copies on the hub
_LISTS = ("turns", "context", "conversation_input", "dialogue", "dialog")
"""Columns that ask where they contain a list of messages, and say something else where they do not."""
_ASKING_FIELDS = (*INSTRUCTION_FIELDS, *MESSAGE_FIELDS, *_LISTS, INPUT_FIELD)
_PAIRS = (
    ("user", "assistant"), ("human", "assistant"), ("prompt", "response"), ("question", "answer"), ("instruction", "output"),
    ("query", "response"), ("input", "output"),
)  # fmt: skip
_WRITE = "write the instruction or remove the row"
_SPEAKER = re.compile(r"(?:\A|\n\n)\s*(Human|Assistant):[ ]?")


class Message(NamedTuple):
    """role: user, assistant or system."""

    role: str
    text: str


class Turn(NamedTuple):
    """What a row asks, the columns that it stands in, and which of `row_fields.REMARKS` apply."""

    asked: Conversation
    columns: tuple[str, ...]
    remarks: tuple[str, ...]


def messages_of(value: Any) -> list[Message] | None:
    """A conversation in the layout of OpenAI (role, content) or ShareGPT (from, value); None where it is not a list of messages.

    Raises:
        BadRow: a message has an unknown role, or something other than text.
    """
    if isinstance(value, Mapping):
        value = [value]
    if not isinstance(value, list) or not value or not all(isinstance(item, Mapping) for item in value):
        return None
    return [_message(item) for item in value]


def _message(item: Mapping[str, Any]) -> Message:
    said = next((item[key] for key in ("role", "from", "speaker") if item.get(key) is not None), None)
    name = str(said).strip().lower()
    role = _ROLES.get(name)
    known = "known roles are user, assistant and system"
    if name in _TOOLS or item.get("tool_calls") or item.get("function_call"):
        raise BadRow(f"a message is from {short(repr(said))}; {known}; calls of tools are not read, remove the row")
    if role is None:
        raise BadRow(f"a message is from {short(repr(said))}; {known}")
    content = next((item[key] for key in ("content", "value", "text") if item.get(key) is not None), None)
    if isinstance(content, list):  # parts, as multimodal models take them
        parts = [part.get("text") if isinstance(part, Mapping) else None for part in content]
        content = "\n".join(parts) if all(isinstance(part, str) for part in parts) else None  # type: ignore[arg-type]
    if not isinstance(content, str):
        raise BadRow(f"a message of the {role} is not text; remove the row")
    return Message(role, content)


def listed(value: Any, column: str) -> Any:
    """The value of a column of messages, which is JSON, or Python as pandas writes it, where the file has no lists.

    Raises:
        BadRow: it begins like such a list and cannot be read.
    """
    if (
        not isinstance(value, str)
        or column not in MESSAGE_FIELDS
        or not value.lstrip().startswith(("[{", "[ {", "[\n"))
    ):
        return value
    try:
        return json.loads(value)
    except ValueError:
        try:
            return ast.literal_eval(value.strip())
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            raise BadRow(f"field {column!r} begins as a list of messages and is not JSON; correct it") from None


def transcript_of(text: str) -> list[Message]:
    r"""`\n\nHuman: a\n\nAssistant: b` as messages; none where the text is not such a transcript.

    >>> [message.role for message in transcript_of("\n\nHuman: a\n\nAssistant: b\n\nHuman: c\n\nAssistant:")]
    ['user', 'assistant', 'user', 'assistant']
    """
    if not text.lstrip().startswith(("Human:", "Assistant:")):
        return []
    pieces = _SPEAKER.split(text)
    roles = {"Human": USER, "Assistant": ASSISTANT}
    return [Message(roles[role], spoken) for role, spoken in zip(pieces[1::2], pieces[2::2], strict=True)]


def turn_of(fields: Mapping[str, Any], may_be_answered: bool = False) -> Turn:
    """What a row asks.

    may_be_answered: a last answer is left out in every layout, as of rows that are outputs.

    Raises:
        BadRow: no column contains an instruction, a message is empty or not text, or the conversation ends on an answer.
    """
    column = _asking_column(fields)
    said = _said(fields[column], column)
    remarks: dict[str, Any] = {"transcript": isinstance(fields[column], str) and len(said) > 1}
    while said and said[-1].role == ASSISTANT:
        last = said.pop()
        remarks["answer"] = remarks.get("answer") or last.text.strip()
    if remarks.get("answer") and not may_be_answered and column not in _ANSWERED:
        turns = sum(message.role == USER for message in said)
        if turns > 1:
            raise BadRow(
                f"field {column!r} is a conversation that ends on a turn of the assistant; end it on the user's, or call the column "
                "'conversations', of which the last answer is left out"
            )
    if not any(message.role == USER for message in said):
        raise BadRow("the conversation has no turn of the user; write one")
    systems = [text for name in SYSTEM_FIELDS if (text := optional_text(fields, name))]
    behind = optional_text(fields, INPUT_FIELD) if column != INPUT_FIELD else ""
    asked = prompt_of([*history_of(fields, column), *said], column, systems, behind)
    remarks["system"] = asked.roles[0] == SYSTEM
    remarks["history"] = len(asked.history) > remarks["system"]
    remarks["input"] = behind and behind not in said[-1].text
    columns = (column, *(name for name in HISTORY_FIELDS if isinstance(fields.get(name), list)))
    return Turn(asked, columns, tuple(name for name, value in remarks.items() if value))


def _asking_column(fields: Mapping[str, Any]) -> str:
    """The first column that asks; a conversation that ends on what a column of text says comes before that column."""
    named = [
        name
        for name in _ASKING_FIELDS
        if fields.get(name) is not None and (name not in _LISTS or isinstance(fields[name], (list, Mapping)))
    ]
    if not named:
        raise BadRow(
            f"field 'instruction' is missing; found: {shown(list(fields))}; known: {', '.join(_ASKING_FIELDS[:-1])}; {_WRITE}"
        )
    text = fields[named[0]]
    for name in named[1:] if isinstance(text, str) else ():
        if name in (*MESSAGE_FIELDS, *_LISTS):
            try:
                said = messages_of(listed(fields[name], name)) or []
            except BadRow:
                continue  # a note says that the column is not used
            asked = [message.text for message in said if message.role == USER]
            if said and asked[-1:] == [text] and [message.role for message in said] not in ([USER], [USER, ASSISTANT]):
                return name
    return named[0]


def _said(value: Any, column: str) -> list[Message]:
    """The messages of an asking column: one turn of the user where it is a text."""
    value = listed(value, column)
    if isinstance(value, str):
        transcript = transcript_of(value)
        is_one = len(transcript) > 1 or (transcript and value.startswith("\n\n"))
        return transcript if is_one else [Message(USER, value)]
    if column in _TURN_FIELDS and isinstance(value, list) and value:
        turns = [
            item.get("content") if isinstance(item, Mapping) and not {"role", "from"} & set(item) else item
            for item in value
        ]
        if all(isinstance(turn, str) for turn in turns):
            if len(turns) > 1:
                raise BadRow(
                    f"field {column!r} has {len(turns)} turns of the user and no answers between them; ask them with icr mt-bench, or "
                    "keep one"
                )
            return [Message(USER, str(turns[0]))]
    if (messages := messages_of(value)) is not None:
        return messages
    seen = "empty" if value == "" else "not text"
    raise BadRow(f"field {column!r} is {seen}; {_WRITE}")


def history_of(fields: Mapping[str, Any], column: str = "") -> list[Message]:
    """Earlier turns that a row keeps in a list of its own: pairs of question and answer (LLaMA-Factory), or messages.

    column: which is not looked at.

    Raises:
        BadRow: they are something else.
    """
    found: list[Message] = []
    for name in HISTORY_FIELDS:
        value = fields.get(name)
        if name == column or not isinstance(value, list):
            continue
        for item in value:
            pair: Sequence[Any] = item if isinstance(item, (list, tuple)) else ()
            if isinstance(item, Mapping):
                pair = next(([item[key] for key in keys] for keys in _PAIRS if set(keys) <= set(item)), ())
            if len(pair) == 2 and all(isinstance(text, str) for text in pair):
                found += [Message(USER, pair[0]), Message(ASSISTANT, pair[1])]
            elif isinstance(item, Mapping) and not pair:
                found.append(_message(item))
            else:
                raise BadRow(
                    f"field {name!r} contains {short(repr(item))}; give earlier turns as [question, answer] or messages"
                )
    return found


def prompt_of(messages: Sequence[Message], column: str, systems: Iterable[str] = (), behind: str = "") -> Conversation:
    """The conversation of messages that end on the user's turn, with one system message before all others.

    column: where it stands, for messages. systems: system texts of columns of their own. behind: Alpaca's `input`.

    Raises:
        BadRow: it does not end on the user's turn, or a message is empty or cannot be used.
    """
    first = next((place for place, message in enumerate(messages) if message.role != SYSTEM), len(messages))
    turns = messages[first:]
    if not any(message.role == USER for message in turns):
        raise BadRow("the conversation has no turn of the user; write one")
    if turns[-1].role != USER:
        raise BadRow(f"field {column!r} ends with a message of the {turns[-1].role}; end it with the user's turn")
    texts = (text for text in (*(message.text for message in messages[:first]), *systems) if text.strip())
    system = "\n\n".join(dict.fromkeys(texts))
    history = [(SYSTEM, system)] if system else []
    for role, text in turns[:-1]:
        if not text.strip() and role != SYSTEM:
            raise BadRow(f"field {column!r}: a message of the {role} is empty; remove the row")
        history += [(role, text)] if text.strip() else []
    for _, text in history:
        if fault := text_fault(text):
            raise BadRow(f"field {column!r} {fault}")
    instruction = checked(column, turns[-1].text, _WRITE)
    # Some files repeat the input within the instruction.
    return Conversation(
        f"{instruction}\n\n{behind}" if behind and behind not in instruction else instruction, tuple(history)
    )
