"""What must hold of responses before hours of scoring."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyarrow.compute as pc

from icr_platform.annotation.prompt_index import PromptIndex
from icr_platform.core.arrays import Hashes, Int32s
from icr_platform.core.artifacts import Artifact
from icr_platform.core.errors import InputError


def check_responses(responses: Artifact, prompts: PromptIndex, vocabulary: int | None = None, fewest: int = 2) -> None:
    """Read every row once, part by part, keeping 8 bytes of each prompt; of each row 12, and twice, where prompts lie in several parts.

    vocabulary: of the models that score; None: none does. fewest: samples that some prompt must have.

    Raises:
        InputError: no rows, a prompt that is not in `prompts`, a token id outside the vocabulary, a duplicate sample, or not
            a single prompt with two samples to choose from.
    """
    prompts_of_parts: list[Hashes] = [np.empty(0, np.uint64)]
    most, is_clear = 0, True  # samples of a prompt; whether no part has two samples of one key
    for part in range(len(responses.parts)):
        table = responses.read_part(part, ["language", "prompt_id", "sample_index", "token_ids"])
        languages, ids = (table.column(name).to_pylist() for name in ("language", "prompt_id"))
        for row, key in enumerate(zip(languages, ids, strict=True)):
            if key not in prompts:
                raise InputError(
                    f"{responses.parts[part]}: row {row + 1}: field 'prompt_id' {key[1]!r} of {key[0]!r} is not among the "
                    "prompts; give the prompts that the responses answer"
                )
        token_ids = table.column("token_ids").combine_chunks()
        flat = token_ids.flatten().to_numpy()
        outside = np.flatnonzero((flat < 0) | (flat >= vocabulary)) if vocabulary is not None else np.empty(0, np.int64)
        if vocabulary is not None and outside.size:
            ends = np.cumsum(pc.list_value_length(token_ids).to_numpy())
            row = int(np.searchsorted(ends, outside[0], side="right"))
            raise InputError(
                f"{responses.parts[part]}: row {row + 1}: field 'token_ids' contains {flat[outside[0]]}, but the vocabulary ends "
                f"at {vocabulary - 1}; score with the tokenizer that the responses were sampled with"
            )
        own, prompt, counts = np.unique(_hashes(languages, ids), return_inverse=True, return_counts=True)
        prompts_of_parts.append(own)
        most = max(most, int(counts.max(initial=0)))
        pairs = prompt.astype(np.int64) * 2**31 + table.column("sample_index").to_numpy()
        is_clear &= len(np.unique(pairs)) == len(pairs)

    # Over all parts, by 8 bytes of each prompt: of a hundred million prompts two share them in one of 4,000 runs.
    every = np.concatenate(prompts_of_parts)
    if not len(every):
        raise InputError(f"{responses.folder}: contains no responses; generate some first")
    if not is_clear or len(np.unique(every)) < len(every):
        most = _most_of_a_prompt(responses)
    if most < fewest:
        raise InputError(
            f"{responses.folder}: field 'sample_index': every prompt has 1 sample, but a pair needs 2; "
            "generate with --samples 2 or more"
        )


def _hashes(languages: list[str], prompt_ids: list[str]) -> Hashes:
    keys = pd.DataFrame({"language": languages, "prompt_id": prompt_ids})
    return np.asarray(pd.util.hash_pandas_object(keys, index=False, categorize=False), dtype=np.uint64)


def _most_of_a_prompt(responses: Artifact) -> int:
    """The most samples that a prompt has over all parts. Raises InputError for a sample that is there twice."""
    key_hashes: list[Hashes] = []
    sample_indices: list[Int32s] = []
    for part in range(len(responses.parts)):
        table = responses.read_part(part, ["language", "prompt_id", "sample_index"])
        key_hashes.append(_hashes(table.column("language").to_pylist(), table.column("prompt_id").to_pylist()))
        sample_indices.append(table.column("sample_index").to_numpy())
    samples = np.concatenate(sample_indices)
    _, prompt, counts = np.unique(np.concatenate(key_hashes), return_inverse=True, return_counts=True)
    pairs = prompt.astype(np.int64) * 2**31 + samples
    order = np.argsort(pairs, kind="stable")
    again = order[1:][np.diff(pairs[order]) == 0]
    if again.size:
        row = int(again.min())
        raise InputError(
            f"{responses.folder}: row {row + 1}: field 'sample_index' {samples[row]} appears twice for its prompt; "
            "write the artifact again"
        )
    return int(counts.max())
