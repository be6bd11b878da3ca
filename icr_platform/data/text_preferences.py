"""Preferences that come as text, such as the English pairs that make pi_0, turned into the artifact that `train` reads.

The texts were not sampled here, so there are no token ids to keep: the texts are tokenised once, with an end-of-turn token.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pyarrow as pa

from icr_platform.core.artifacts import Artifact, ArtifactWriter, file_digest
from icr_platform.core.errors import InputError
from icr_platform.core.schemas import PREFERENCES
from icr_platform.data.json_rows import is_unicode, json_rows
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
    """Read rows `{"prompt", "chosen", "rejected"}` of a JSON Lines file, each field a string or TRL's list of one message.

    A `language` field is kept; without one the pair is English.

    Raises:
        InputError: the file cannot be read, or a field is missing, empty or not text.
    """
    pairs = []
    for number, row in json_rows(path, "prompt, chosen and rejected"):
        texts = {}
        for name in ("prompt", "chosen", "rejected"):
            value = row.get(name)
            if isinstance(value, list) and len(value) == 1 and isinstance(value[0], dict):
                value = value[0].get("content")
            if not isinstance(value, str) or not value.strip() or not is_unicode(value):
                raise InputError(
                    f"{path}: row {number}: field {name!r} is missing or not text; give a string or one message"
                )
            texts[name] = value
        if texts["chosen"] == texts["rejected"]:
            raise InputError(f"{path}: row {number}: field 'chosen' equals 'rejected'; remove the row")
        language = str(row.get("language", "en"))
        pairs.append(TextPair(f"row-{number}", texts["prompt"], texts["chosen"], texts["rejected"], language=language))
    if not pairs:
        raise InputError(f"{path}: contains no pair; write one JSON object with prompt, chosen and rejected a line")
    return pairs


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
    """Write the preferences artifact of a JSON Lines file to `folder`."""
    return write_text_preferences(read_text_pairs(path), folder, tokenizer, file_digest(path))
