"""What a policy thought before it answered, as pages show it beside the answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple


class Thought(NamedTuple):
    """A thought. tokens: how many it took, its markers included; language: as identified. Both None where they are not known."""

    text: str
    tokens: int | None
    language: str | None


def thought_in(row: Mapping[str, Any], side: str = "") -> Thought | None:
    """The thought of a row of responses or outputs, or of a pair's `side`; None where nothing was thought.

    Tables of earlier versions have no such columns.

    >>> thought_in({"thought": "Hm.", "answer_start": 5, "thought_language": "en"})
    Thought(text='Hm.', tokens=5, language='en')
    >>> thought_in({"chosen_thought": "Hm.", "chosen_answer_start": 5}, "chosen"), thought_in({"response": "m"})
    (Thought(text='Hm.', tokens=5, language=None), None)
    """
    prefix = f"{side}_" if side else ""
    text = row.get(f"{prefix}thought") or ""
    # Models that are asked not to think may still write an empty block.
    if not text.strip():
        return None
    tokens = row.get("thought_token_count", row.get(f"{prefix}answer_start"))
    return Thought(text, tokens, row.get(f"{prefix}thought_language"))
