"""Replies on disk, by what was asked: a second run costs nothing, and a killed one continues where it stopped."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from icr_platform.core.artifacts import text_digest
from icr_platform.core.errors import InputError
from icr_platform.core.file_digests import user_cache
from icr_platform.core.spending import spend
from icr_platform.engines.endpoints.replies import Reply, reply_from_json


def default_cache() -> Path:
    """~/.cache/icr/judge, or below ICR_CACHE or XDG_CACHE_HOME."""
    return user_cache() / "judge"


def request_key(served: str, parameters: Mapping[str, Any], messages: Sequence[Mapping[str, str]], sample: int) -> str:
    """sha256 of everything a reply depends on. The endpoint's key is not part of it.

    served: the model that is asked, as `served_model` tells it from others of its name.
    """
    asked = [served, dict(parameters), [dict(message) for message in messages], sample]
    return text_digest(json.dumps(asked, sort_keys=True, ensure_ascii=False))


def input_bytes(messages: Sequence[Mapping[str, str]]) -> int:
    """UTF-8 bytes of all messages."""
    return sum(len(message["content"].encode()) for message in messages)


class ReplyCache:
    """An SQLite file that several processes may share. A reply is there whole or not at all, also after `kill -9`.

    Raises:
        InputError: the folder cannot be written, or contains another file of that name.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / "replies.sqlite"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._database = sqlite3.connect(self.path, timeout=60, isolation_level=None, check_same_thread=False)
            self._database.execute("PRAGMA journal_mode=WAL")
            self._database.execute("PRAGMA synchronous=NORMAL")
            self._database.execute(
                "CREATE TABLE IF NOT EXISTS replies (key TEXT PRIMARY KEY, model TEXT, input_bytes INTEGER, input_tokens INTEGER, reply TEXT)"
            )
        except (OSError, sqlite3.Error) as error:
            raise InputError(f"{self.path}: not usable as judge cache ({error}); give another --judge-cache") from error

    def get(self, key: str) -> Reply | None:
        """The reply of an earlier request, or None."""
        row = self._database.execute("SELECT reply FROM replies WHERE key = ?", (key,)).fetchone()
        return reply_from_json(row[0]) if row else None

    def put(self, key: str, model: str, messages: Sequence[Mapping[str, str]], reply: Reply) -> None:
        """Keep a reply, which was paid for."""
        spend("judge_input", reply.input_tokens)
        spend("judge_output", reply.output_tokens)
        row = (key, model, input_bytes(messages), reply.input_tokens, reply.to_json())
        self._database.execute("INSERT OR REPLACE INTO replies VALUES (?, ?, ?, ?, ?)", row)

    def bytes_per_token(self, model: str) -> float | None:
        """UTF-8 bytes of the messages per input token of this model, over all replies so far; None without any."""
        query = "SELECT SUM(input_bytes), SUM(input_tokens) FROM replies WHERE model = ? AND input_tokens > 0"
        size, tokens = self._database.execute(query, (model,)).fetchone()
        return size / tokens if tokens else None

    def close(self) -> None:
        self._database.close()
