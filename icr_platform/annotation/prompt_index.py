"""The prompts that responses answer, by (language, prompt_id)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from icr_platform.core.artifacts import Artifact
from icr_platform.core.conversations import Conversation
from icr_platform.core.errors import InputError
from icr_platform.data.column_map import NO_MAP, ColumnNames
from icr_platform.data.prompts import load_prompts
from icr_platform.engines.scoring.reward_kinds import REWARD_KINDS

_BATCH = 4096


class Instructions(NamedTuple):
    """A prompt in the response's language and in English; None where there is no English."""

    native: Conversation
    english: Conversation | None


PromptIndex = Mapping[tuple[str, str], Instructions]


def prompt_index(
    prompts: str, responses: Artifact, kinds: Sequence[str] = (), columns: ColumnNames = NO_MAP
) -> PromptIndex:
    """Read the instructions of the languages that the responses are in.

    Raises:
        InputError: `prompts` does not exist, contains a bad row, or lacks a language of the responses, or the English that a
            reward kind among `kinds` needs.
    """
    languages: dict[str, None] = {}
    for part in range(len(responses.parts)):
        languages |= dict.fromkeys(pc.unique(responses.read_part(part, ["language"]).column("language")).to_pylist())
    table = load_prompts(prompts, tuple(languages), columns=columns).table
    check_english(prompts, table, kinds)
    return _ArrowIndex(table)


def check_english(prompts: str, table: pa.Table, kinds: Sequence[str]) -> None:
    """Raise an InputError where a reward kind scores after an English instruction that the prompts lack.

    Args:
        prompts: where they are from. table: schemas.PROMPTS.
    """
    needing = [kind for kind in kinds if REWARD_KINDS[kind].needs_english]
    lacking = table.filter(pc.is_null(table["english_instruction"]))["language"]
    if needing and len(lacking):
        is_scalar = REWARD_KINDS[needing[0]].is_scalar
        fits = [
            name
            for name, kind in REWARD_KINDS.items()
            if kind.instruction is not None and not kind.needs_english and kind.is_scalar == is_scalar
        ]
        raise InputError(
            f"{prompts}: {len(lacking)} prompts in {', '.join(pc.unique(lacking).to_pylist())} have no English instruction, which "
            f"the {needing[0]} reward is scored after; add en.jsonl with the same ids, or give --reward-kind {fits[0]}"
        )


class _ArrowIndex(Mapping[tuple[str, str], Instructions]):
    """PromptIndex over schemas.PROMPTS: texts stay in Arrow's memory, where they are smaller than Python's strings."""

    def __init__(self, table: pa.Table) -> None:
        names = (("instruction", "messages"), ("english_instruction", "english_messages"))
        self._texts = [[table.column(name).combine_chunks() for name in of_language] for of_language in names]
        self._row: dict[str, dict[str, int]] = {}
        shared: dict[str, str] = {}  # every language has the same ids: each text is kept once
        row = 0
        for batch in table.select(["language", "prompt_id"]).to_batches(_BATCH):
            for language, prompt_id in zip(*(column.to_pylist() for column in batch), strict=True):
                self._row.setdefault(language, {})[shared.setdefault(prompt_id, prompt_id)] = row
                row += 1

    def __getitem__(self, key: tuple[str, str]) -> Instructions:
        row = self._row.get(key[0], {})[key[1]]
        (native, messages), (english, english_messages) = (
            [column[row].as_py() for column in texts] for texts in self._texts
        )
        counterpart = None if english is None else Conversation.of(english, english_messages)
        return Instructions(Conversation.of(native, messages), counterpart)

    def __contains__(self, key: object) -> bool:
        return isinstance(key, tuple) and key[1] in self._row.get(key[0], {})

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return ((language, prompt_id) for language, rows in self._row.items() for prompt_id in rows)

    def __len__(self) -> int:
        return sum(map(len, self._row.values()))
