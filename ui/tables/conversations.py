"""The messages before an instruction, where it is part of a conversation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from icr_platform.core.conversations import Conversation

History = tuple[tuple[str, str], ...]

# Tables of earlier versions have no messages. The names of the roles and JSON's own characters are nothing that people search for.
SEARCHED = """(
    SELECT *, concat_ws(chr(10), array_to_string(json_extract_string(messages, '$[*].content'), chr(10)),
                        array_to_string(json_extract_string(english_messages, '$[*].content'), chr(10))) AS before
    FROM (SELECT * FROM read_parquet(?) UNION ALL BY NAME SELECT NULL::VARCHAR AS messages, NULL::VARCHAR AS english_messages WHERE false))"""
"""SQL of a prompts table with all texts of its conversations in the column `before`."""


def history_in(row: Mapping[str, Any], prefix: str = "") -> History:
    """(role, text) of the messages before the instruction of a row; of its English counterpart with the prefix `english_`.

    >>> history_in({"messages": '[{"role": "user", "content": "Hi"}, {"role": "user", "content": "And?"}]'})
    (('user', 'Hi'),)
    >>> history_in({"instruction": "from an earlier version"})
    ()
    """
    return Conversation.of("", row.get(f"{prefix}messages")).history
