"""What must hold of responses and prompts before hours of scoring."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from icr_platform.annotation.part_scoring import Instructions, PromptIndex
from icr_platform.core.arrays import Hashes, Int32s
from icr_platform.core.artifacts import Artifact
from icr_platform.core.errors import InputError
from icr_platform.data.prompts import load_prompts

_BATCH = 4096


def prompt_index(prompts: str, responses: Artifact) -> PromptIndex:
    """Instructions by (language, prompt_id), of the responses' languages.

    Raises:
        InputError: no such prompts, a bad row, or a language of the responses that has none.
    """
    languages: dict[str, None] = {}
    for part in range(len(responses.parts)):
        languages |= dict.fromkeys(pc.unique(responses.read_part(part, ["language"]).column("language")).to_pylist())
    table = load_prompts(prompts, tuple(languages)).table
    return _ArrowIndex(table)


class _ArrowIndex(Mapping[tuple[str, str], Instructions]):
    """PromptIndex over schemas.PROMPTS: texts stay in Arrow's memory, where they are smaller than Python's strings."""

    def __init__(self, table: pa.Table) -> None:
        self._native = table.column("instruction").combine_chunks()
        self._english = table.column("english_instruction").combine_chunks()
        self._row: dict[str, dict[str, int]] = {}
        shared: dict[str, str] = {}  # an id comes once per language: kept once
        row = 0
        for batch in table.select(["language", "prompt_id"]).to_batches(_BATCH):
            for language, prompt_id in zip(*(column.to_pylist() for column in batch), strict=True):
                self._row.setdefault(language, {})[shared.setdefault(prompt_id, prompt_id)] = row
                row += 1

    def __getitem__(self, key: tuple[str, str]) -> Instructions:
        row = self._row.get(key[0], {})[key[1]]
        return Instructions(self._native[row].as_py(), self._english[row].as_py())

    def __contains__(self, key: object) -> bool:
        return isinstance(key, tuple) and key[1] in self._row.get(key[0], {})

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return ((language, prompt_id) for language, rows in self._row.items() for prompt_id in rows)

    def __len__(self) -> int:
        return sum(map(len, self._row.values()))


def check_responses(responses: Artifact, prompts: PromptIndex, vocabulary: int) -> None:
    """Read every row once, part by part; keeps 12 bytes of each.

    Raises:
        InputError: no row, a prompt that is not in `prompts`, a token id outside the vocabulary, a sample that is there
            twice, or no prompt with two samples to choose from.
    """
    key_hashes: list[Hashes] = [np.empty(0, np.uint64)]
    sample_indices: list[Int32s] = [np.empty(0, np.int32)]
    for part in range(len(responses.parts)):
        table = responses.read_part(part, ["language", "prompt_id", "sample_index", "token_ids"])
        languages, ids = (table.column(name).to_pylist() for name in ("language", "prompt_id"))
        for row, key in enumerate(zip(languages, ids, strict=True)):
            if key not in prompts:
                raise InputError(
                    f"{responses.parts[part]}: row {row + 1}: field 'prompt_id' {key[1]!r} of {key[0]!r} is not among the "
                    "prompts; give the prompts that the responses answer"
                )
        _check_token_ids(responses, part, table, vocabulary)
        keys = pd.DataFrame({"language": languages, "prompt_id": ids})
        hashes = pd.util.hash_pandas_object(keys, index=False, categorize=False)
        key_hashes.append(np.asarray(hashes, dtype=np.uint64))
        sample_indices.append(table.column("sample_index").to_numpy())
    _check_samples(responses, np.concatenate(key_hashes), np.concatenate(sample_indices))


def _check_token_ids(responses: Artifact, part: int, table: pa.Table, vocabulary: int) -> None:
    ids = table.column("token_ids").combine_chunks()
    flat = ids.flatten().to_numpy()
    wrong = np.flatnonzero((flat < 0) | (flat >= vocabulary))
    if wrong.size:
        row = int(np.searchsorted(np.cumsum(pc.list_value_length(ids).to_numpy()), wrong[0], side="right"))
        raise InputError(
            f"{responses.parts[part]}: row {row + 1}: field 'token_ids' holds {flat[wrong[0]]}, the vocabulary ends at "
            f"{vocabulary - 1}; score with the tokenizer that the responses were sampled with"
        )


def _check_samples(responses: Artifact, keys: Hashes, samples: Int32s) -> None:
    _, prompt, counts = np.unique(keys, return_inverse=True, return_counts=True)
    if not len(counts):
        raise InputError(f"{responses.folder}: holds no responses; generate some first")
    if counts.max() < 2:
        raise InputError(
            f"{responses.folder}: field 'sample_index': every prompt has 1 sample, a pair needs 2; "
            "generate with --samples 2 or more"
        )
    pairs = prompt.astype(np.int64) * 2**31 + samples
    order = np.argsort(pairs, kind="stable")
    again = order[1:][np.diff(pairs[order]) == 0]
    if again.size:
        row = int(again.min())
        raise InputError(
            f"{responses.folder}: row {row + 1}: field 'sample_index' {samples[row]} is there twice for its prompt; "
            "write the artifact again"
        )
