"""A prompt as it is asked: the instruction, and the messages before it where it is part of a conversation."""

from __future__ import annotations

import json
from typing import NamedTuple

SYSTEM, USER, ASSISTANT = "system", "user", "assistant"
ROLES = (SYSTEM, USER, ASSISTANT)


class Conversation(NamedTuple):
    """Messages up to and including the user's last turn, which is the instruction.

    history: (role, text) of the messages before it, a system message first where there is one.
    """

    instruction: str
    history: tuple[tuple[str, str], ...] = ()

    @classmethod
    def of(cls, instruction: str, messages: str | None) -> Conversation:
        """The conversation of a table's row: its columns `instruction` and `messages`.

        >>> Conversation.of("And?", '[{"role": "user", "content": "Hi"}, {"role": "user", "content": "And?"}]').history
        (('user', 'Hi'),)
        """
        if messages is None:
            return cls(instruction)
        return cls(instruction, tuple((message["role"], message["content"]) for message in json.loads(messages)[:-1]))

    @property
    def messages(self) -> list[dict[str, str]]:
        """As chat templates and servers take it."""
        return [{"role": role, "content": text} for role, text in (*self.history, (USER, self.instruction))]

    @property
    def roles(self) -> tuple[str, ...]:
        """Whose messages they are, in order."""
        return (*(role for role, _ in self.history), USER)

    @property
    def json(self) -> str | None:
        """The column `messages` of a table; None for a single turn.

        >>> Conversation("Hi").json, Conversation("Hi", (("system", "S"),)).json
        (None, '[{"role": "system", "content": "S"}, {"role": "user", "content": "Hi"}]')
        """
        return json.dumps(self.messages, ensure_ascii=False) if self.history else None

    @property
    def identity(self) -> tuple[str, ...]:
        """Texts that identify it: of a single turn nothing but the instruction, as before there were conversations."""
        return (self.instruction,) if not self.history else (self.instruction, self.json or "")

    @property
    def text(self) -> str:
        """All of it as one text, for judges and people; a single turn is its instruction.

        >>> print(Conversation("And?", (("user", "Hi"), ("assistant", "Hello."))).text.splitlines()[0])
        The last message of this conversation is the one to answer:
        """
        if not self.history:
            return self.instruction
        return "The last message of this conversation is the one to answer:\n\n" + as_text(self.messages)

    def with_system(self, text: str) -> Conversation:
        """This conversation after a system message; unchanged where it has one of its own, or `text` is empty.

        >>> Conversation("Hi").with_system("Be brief.").roles
        ('system', 'user')
        """
        if not text or any(role == SYSTEM for role, _ in self.history):
            return self
        return self._replace(history=((SYSTEM, text), *self.history))


def as_text(messages: list[dict[str, str]]) -> str:
    """Messages in tags that name who speaks.

    >>> as_text([{"role": "user", "content": "Hi"}])
    '<user>\\nHi\\n</user>'
    """
    return "\n".join(f"<{message['role']}>\n{message['content']}\n</{message['role']}>" for message in messages)
