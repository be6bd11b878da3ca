"""Single responses, each good or bad, that KTO trains on: those of preference pairs, or labelled ones."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from icr_platform.core.artifacts import MANIFEST, open_artifact, read_json
from icr_platform.core.conversations import Conversation
from icr_platform.core.errors import InputError
from icr_platform.core.schemas import EXAMPLES
from icr_platform.engines.scoring.packing import Group
from icr_platform.models.chat import encode_prompt, refusal_of_roles, settings_of
from icr_platform.models.loading import load_tokenizer
from icr_platform.training.config import TrainConfig
from icr_platform.training.dataset import TrainingPairs, longest_sequence, read_pairs, require_few_refused


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


def others_of(prompts: Sequence[Sequence[int]], labels: Sequence[bool]) -> list[int]:
    """For each example the one before it, in a circle, that has its label and another prompt: their artifact is ordered by language, so
    that it is mostly in the same one. Where none has its label, any with another prompt.

    >>> others_of([[1], [1], [2], [2], [3], [3]], [True, False] * 3)
    [4, 5, 0, 1, 2, 3]

    Raises:
        InputError: all examples have one prompt.
    """

    def before(rows: Sequence[int]) -> dict[int, int]:
        found: dict[int, int] = {}
        last = None  # the last row before this one that has another prompt than this one has
        for place, row in enumerate((*rows, *rows)):
            previous = rows[(place - 1) % len(rows)] if place else None
            if previous is not None and prompts[previous] != prompts[row]:
                last = previous
            if last is not None and prompts[last] != prompts[row]:
                found[row] = last
        return found

    found = before(range(len(prompts)))
    for label in (True, False):
        found |= before([row for row, good in enumerate(labels) if good == label])
    if len(found) < len(prompts):
        raise InputError(
            "config: loss=kto compares responses to different prompts, and all examples have one; give more prompts"
        )
    return [found[row] for row in range(len(prompts))]


def read_training_rows(config: TrainConfig) -> TrainingPairs | TrainingExamples:
    """Read the pairs, or the single responses, that a training is configured with.

    Raises:
        InputError: see `dataset.load_pairs`; with kto, too, that there is one prompt only.
    """
    if config.loss != "kto":
        return read_pairs(config)
    if read_json(Path(config.preferences) / MANIFEST).get("table") == EXAMPLES.name:
        return _labelled(config)
    pairs = read_pairs(config)
    starts = (
        zip(pairs.chosen_starts, pairs.rejected_starts, strict=True) if pairs.chosen_starts else [(0, 0)] * len(pairs)
    )
    prompts = [prompt for prompt in pairs.prompt_ids for _ in range(2)]
    labels = [True, False] * len(pairs)
    return TrainingExamples(
        languages=[language for language in pairs.languages for _ in range(2)],
        prompt_ids=prompts,
        response_ids=[ids for both in zip(pairs.chosen_ids, pairs.rejected_ids, strict=True) for ids in both],
        is_good=labels,
        starts=[start for both in starts for start in both],
        others=others_of(prompts, labels),
        limit=longest_sequence(config),
        left_out=pairs.left_out,
        refused=pairs.refused,
    )


def _labelled(config: TrainConfig) -> TrainingExamples:
    """The labelled responses of an examples artifact, without those that are too long or cannot be asked."""
    artifact = open_artifact(Path(config.preferences), EXAMPLES)
    tokenizer, limit = load_tokenizer(config.policy, config), longest_sequence(config)
    languages: list[str] = []
    prompts: list[list[int]] = []
    responses: list[list[int]] = []
    labels: list[bool] = []
    left_out: Counter[str] = Counter()
    refused: Counter[str] = Counter()
    refusal = cache(lambda roles: refusal_of_roles(tokenizer, roles))
    names = ["language", "instruction", "messages", "token_ids", "is_good"]
    rows = artifact.read(names).to_pydict()
    for language, instruction, messages, ids, is_good in zip(*(rows[name] for name in names), strict=True):
        asked = settings_of(tokenizer).asked(Conversation.of(instruction, messages), language)
        why = refusal(asked.roles)
        refused.update([why] if why else [])
        prompt_ids = [] if why else encode_prompt(tokenizer, asked)
        if why or len(prompt_ids) + len(ids) > limit:
            left_out[language] += 1
            continue
        languages.append(language)
        prompts.append(prompt_ids)
        responses.append(ids)
        labels.append(is_good)
    require_few_refused(refused, artifact.rows, str(artifact.folder), "responses")
    if not prompts:
        raise InputError(
            f"{artifact.folder}: each of its {artifact.rows} responses is longer than max_length={limit} tokens; raise --max-length"
        )
    return TrainingExamples(
        languages, prompts, responses, labels, [0] * len(prompts), others_of(prompts, labels), limit,
        dict(sorted(left_out.items())), dict(refused),
    )  # fmt: skip
