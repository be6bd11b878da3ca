"""Single responses, each good or bad, that KTO trains on: those of preference pairs, or labelled ones."""

from __future__ import annotations

import sys
from array import array
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import chain
from pathlib import Path
from typing import overload

from icr_platform.core.artifacts import MANIFEST, open_artifact, read_json
from icr_platform.core.conversations import Conversation
from icr_platform.core.errors import InputError
from icr_platform.core.schemas import EXAMPLES
from icr_platform.engines.scoring.packing import Group
from icr_platform.models.chat import encode_prompt, refusal_of_roles, settings_of
from icr_platform.models.loading import load_tokenizer
from icr_platform.training.config import TrainConfig
from icr_platform.training.dataset import TrainingPairs, longest_sequence, read_pairs, require_few_refused, rows_of
from icr_platform.training.token_rows import TokenRows

_NONE = -1


@dataclass(frozen=True)
class TrainingExamples:
    """E responses in the order of the artifact; nothing in them is truncated.

    Fields as those of `TrainingPairs`. is_good: [E] labels. starts: [E] index of the first id that is trained on.
    others: [E] the example whose response stands in for one that has nothing to do with the prompt; see `mismatched`.
    limit: tokens that a sequence may have.
    """

    languages: Sequence[str]
    prompt_ids: Sequence[Sequence[int]]
    response_ids: Sequence[Sequence[int]]
    is_good: Sequence[bool]
    starts: Sequence[int]
    others: Sequence[int]
    limit: int
    left_out: Mapping[str, int] = field(default_factory=dict)
    refused: Mapping[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.prompt_ids)

    def mismatched(self, row: int) -> tuple[Sequence[int], int]:
        """A response to another prompt, cut to where the sequence is full, and the index of its first id that counts."""
        ids, start = self.response_ids[self.others[row]], self.starts[self.others[row]]
        return ids[: self.limit - len(self.prompt_ids[row])], start

    def group(self, row: int) -> Group:
        """An example as the scorer takes it: a prompt with its response and a mismatched one."""
        ids, start = self.mismatched(row)
        return Group(self.prompt_ids[row], (self.response_ids[row], ids), (self.starts[row], start))


@dataclass(frozen=True)
class MismatchedIds(Sequence[Sequence[int]]):
    """The ids of the examples' mismatched responses, which are cut when they are asked for."""

    examples: TrainingExamples

    def __len__(self) -> int:
        return len(self.examples)

    @overload
    def __getitem__(self, row: int) -> Sequence[int]: ...

    @overload
    def __getitem__(self, row: slice) -> Sequence[Sequence[int]]: ...

    def __getitem__(self, row: int | slice) -> Sequence[int] | Sequence[Sequence[int]]:
        if isinstance(row, slice):
            return [self[one] for one in range(*row.indices(len(self)))]
        return self.examples.mismatched(row)[0]


def others_of(prompts: Iterable[Sequence[int]], labels: Sequence[bool]) -> Sequence[int]:
    """For each example the one before it, in a circle, that has its label and another prompt: their artifact is ordered by language, so
    that it is mostly in the same one. Where none has its label, any with another prompt.

    >>> list(others_of([[1], [1], [2], [2], [3], [3]], [True, False] * 3))
    [4, 5, 0, 1, 2, 3]

    Raises:
        InputError: all examples have one prompt.
    """
    # Of prompts on disk. That two have one hash is next to impossible, and does no harm: they are taken for one prompt.
    hashes = array("q", (hash(tuple(prompt)) for prompt in prompts))
    found = array("q", [_NONE]) * len(hashes)

    def find(rows: Sequence[int]) -> None:
        last = None  # the last row before this one that has another prompt than this one has
        for place, row in enumerate(chain(rows, rows)):
            previous = rows[(place - 1) % len(rows)] if place else None
            if previous is not None and hashes[previous] != hashes[row]:
                last = previous
            if last is not None and hashes[last] != hashes[row]:
                found[row] = last

    find(range(len(hashes)))
    for label in (True, False):
        find(array("q", (row for row, good in enumerate(labels) if good == label)))
    if _NONE in found:
        raise InputError(
            "config: loss=kto compares responses to different prompts, and all examples have one; give more prompts"
        )
    return found


def read_training_rows(config: TrainConfig, folder: Path | None = None) -> TrainingPairs | TrainingExamples:
    """Read the pairs, or the single responses, that a training is configured with. folder: see `DiskRows`.

    Raises:
        InputError: see `dataset.load_pairs`; with kto, too, that there is one prompt only.
    """
    if config.loss != "kto":
        return read_pairs(config, folder)
    if read_json(Path(config.preferences) / MANIFEST).get("table") == EXAMPLES.name:
        return _labelled(config, folder)
    pairs = read_pairs(config, folder)
    starts = (
        zip(pairs.chosen_starts, pairs.rejected_starts, strict=True) if pairs.chosen_starts else [(0, 0)] * len(pairs)
    )
    prompts = TokenRows((prompt for prompt in pairs.prompt_ids for _ in range(2)), folder)
    sides = zip(pairs.chosen_ids, pairs.rejected_ids, strict=True)
    labels = [True, False] * len(pairs)
    return TrainingExamples(
        languages=[language for language in pairs.languages for _ in range(2)],
        prompt_ids=prompts,
        response_ids=TokenRows((ids for both in sides for ids in both), folder),
        is_good=labels,
        starts=array("i", (start for both in starts for start in both)),
        others=others_of(prompts, labels),
        limit=longest_sequence(config),
        left_out=pairs.left_out,
        refused=pairs.refused,
    )


def _labelled(config: TrainConfig, folder: Path | None) -> TrainingExamples:
    """The labelled responses of an examples artifact, without those that are too long or cannot be asked."""
    artifact = open_artifact(Path(config.preferences), EXAMPLES)
    tokenizer, limit = load_tokenizer(config.policy, config), longest_sequence(config)
    languages: list[str] = []
    prompts, responses = TokenRows(folder=folder), TokenRows(folder=folder)
    labels: list[bool] = []
    left_out: Counter[str] = Counter()
    refused: Counter[str] = Counter()
    refusal = cache(lambda roles: refusal_of_roles(tokenizer, roles))
    names = ["language", "instruction", "messages", "token_ids", "is_good"]
    for language, instruction, messages, ids, is_good in rows_of(artifact, names):
        asked = settings_of(tokenizer).asked(Conversation.of(instruction, messages), language)
        why = refusal(asked.roles)
        refused.update([why] if why else [])
        prompt_ids = [] if why else encode_prompt(tokenizer, asked)
        if why or len(prompt_ids) + len(ids) > limit:
            left_out[language] += 1
            continue
        languages.append(sys.intern(language))
        prompts.append(prompt_ids)
        responses.append(ids)
        labels.append(is_good)
    require_few_refused(refused, artifact.rows, str(artifact.folder), "responses")
    if not prompts:
        raise InputError(
            f"{artifact.folder}: each of its {artifact.rows} responses is longer than max_length={limit} tokens; raise --max-length"
        )
    return TrainingExamples(
        languages, prompts, responses, labels, array("i", [0]) * len(prompts), others_of(prompts, labels), limit,
        dict(sorted(left_out.items())), dict(refused),
    )  # fmt: skip
