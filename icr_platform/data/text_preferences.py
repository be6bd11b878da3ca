"""Preferences that come as text, such as the English pairs that make pi_0, as the artifact that `train` reads.

The texts were not sampled here, so there are no token ids to keep: they are tokenised once, end-of-turn token included.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pyarrow as pa

from icr_platform.core.artifacts import Artifact, ArtifactWriter, file_digest
from icr_platform.core.errors import InputError
from icr_platform.core.schemas import PREFERENCES
from icr_platform.models.chat import encode_response

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class TextPair(NamedTuple):
    """One preference. The rewards may be any grades with chosen above rejected."""

    prompt_id: str
    instruction: str
    chosen: str
    rejected: str
    chosen_reward: float = 1.0
    rejected_reward: float = 0.0
    language: str = "en"


def is_text_file(path: Path) -> bool:
    """Whether `--preferences` names a JSON Lines file rather than an artifact folder."""
    return path.suffix == ".jsonl"


def read_text_pairs(path: Path) -> list[TextPair]:
    """Rows `{"prompt", "chosen", "rejected"}` of a JSON Lines file, each a string or TRL's list of one message.

    A `language` field is kept; without one the pair is English.

    Raises:
        InputError: no such file, a line that is no JSON object, or a field that is missing, empty or no text.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not readable ({error}); give a JSON Lines file in UTF-8") from error
    pairs = list(_pairs(path, lines))
    if not pairs:
        raise InputError(f"{path}: holds no pair; write one JSON object with prompt, chosen and rejected a line")
    return pairs


def _pairs(path: Path, lines: Sequence[str]) -> Iterator[TextPair]:
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise InputError(f"{path}: row {number}: no valid JSON ({error.msg}); mend or remove the line") from None
        if not isinstance(row, dict):
            raise InputError(f"{path}: row {number}: no JSON object; write prompt, chosen and rejected")
        prompt, chosen, rejected = (_text(path, number, row, name) for name in ("prompt", "chosen", "rejected"))
        if chosen == rejected:
            raise InputError(f"{path}: row {number}: field 'chosen' equals 'rejected'; remove the row")
        yield TextPair(f"row-{number}", prompt, chosen, rejected, language=str(row.get("language", "en")))


def _text(path: Path, number: int, row: dict[str, Any], name: str) -> str:
    value = row.get(name)
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], dict):
        value = value[0].get("content")
    if not isinstance(value, str) or not value.strip():
        raise InputError(f"{path}: row {number}: field {name!r} is missing or no text; give a string or one message")
    return value


def write_text_preferences(
    pairs: Iterable[TextPair], folder: Path, tokenizer: PreTrainedTokenizerBase, fingerprint: str
) -> Artifact:
    """Write the pairs as a preferences artifact."""
    rows = [
        {
            "language": pair.language,
            "prompt_id": pair.prompt_id,
            "instruction": pair.instruction,
            "english_instruction": pair.instruction,
            "chosen": pair.chosen,
            "rejected": pair.rejected,
            "chosen_index": 0,
            "rejected_index": 1,
            "chosen_reward": pair.chosen_reward,
            "rejected_reward": pair.rejected_reward,
            "margin": pair.chosen_reward - pair.rejected_reward,
            "length_penalty_alpha": 0.0,
            "chosen_characters": len(pair.chosen),
            "rejected_characters": len(pair.rejected),
            "chosen_token_ids": encode_response(tokenizer, pair.chosen),
            "rejected_token_ids": encode_response(tokenizer, pair.rejected),
        }
        for pair in pairs
    ]
    writer = ArtifactWriter(folder, PREFERENCES, fingerprint)
    writer.write_part(0, pa.Table.from_pylist(rows, schema=PREFERENCES.schema))
    return writer.close(1)


def tokenise_file(path: Path, folder: Path, tokenizer: PreTrainedTokenizerBase) -> Artifact:
    """The preferences artifact of a JSON Lines file, written to `folder`."""
    return write_text_preferences(read_text_pairs(path), folder, tokenizer, file_digest(path))
