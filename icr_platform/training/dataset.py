"""Training pairs out of preferences: the sampled token ids as they are, and prompts through the chat template."""

from __future__ import annotations

import sys
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from icr_platform.core.artifacts import Artifact, open_artifact
from icr_platform.core.conversations import Conversation
from icr_platform.core.errors import InputError
from icr_platform.core.schemas import PREFERENCES
from icr_platform.data.bad_rows import MOST_LEFT_OUT
from icr_platform.engines.scoring.packing import Group
from icr_platform.models.chat import Roles, encode_prompt, encode_response, refusal_of_roles, settings_of
from icr_platform.models.context import context_of
from icr_platform.models.loading import load_config, load_tokenizer
from icr_platform.training.config import PolicyTraining, TrainConfig
from icr_platform.training.token_rows import TokenRows

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_TOKEN_COLUMNS = ("chosen_token_ids", "rejected_token_ids")
_START_COLUMNS = ("chosen_answer_start", "rejected_answer_start")


@dataclass(frozen=True)
class TrainingPairs:
    """P pairs in the order of the artifact; nothing in them is truncated.

    languages: [P] language code of each pair.
    prompt_ids, chosen_ids, rejected_ids: [P] token ids; a sequence is prompt_ids followed by chosen_ids or rejected_ids.
    left_out: pairs longer than the limit, or whose conversation the chat template refuses, counted per language.
    refused: of those the latter, counted by what the template says.
    chosen_starts, rejected_starts: [P] index of the first id that is scored and trained on; those before it, a thought, are
        context. Empty: 0.
    """

    languages: Sequence[str]
    prompt_ids: Sequence[Sequence[int]]
    chosen_ids: Sequence[Sequence[int]]
    rejected_ids: Sequence[Sequence[int]]
    left_out: Mapping[str, int]
    refused: Mapping[str, int] = field(default_factory=dict)
    chosen_starts: Sequence[int] = ()
    rejected_starts: Sequence[int] = ()

    def __len__(self) -> int:
        return len(self.prompt_ids)

    def group(self, row: int) -> Group:
        """A pair as the scorer takes it: a prompt with its chosen and its rejected response."""
        starts = (self.chosen_starts[row], self.rejected_starts[row]) if self.chosen_starts else ()
        return Group(self.prompt_ids[row], (self.chosen_ids[row], self.rejected_ids[row]), starts)


def read_pairs(config: TrainConfig, folder: Path | None = None) -> TrainingPairs:
    """Read the pairs that a training is configured with. folder, and what is raised: as of `load_pairs`."""
    preferences = open_artifact(Path(config.preferences), PREFERENCES)
    tokenizer = load_tokenizer(config.policy, config)
    return load_pairs(preferences, tokenizer, longest_sequence(config), config.score, folder)


def longest_sequence(config: PolicyTraining) -> int:
    """Tokens a sequence may have: max_length, or the policy's context where that is shorter."""
    return min(config.max_length, context_of(load_config(config.policy, config.trust_remote_code)) or config.max_length)


def load_pairs(
    preferences: Artifact,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    score: str = "answer",
    folder: Path | None = None,
) -> TrainingPairs:
    """Read the pairs whose longer sequence has at most `max_length` tokens, and count the others.

    score: see `ScoreSettings`. folder: see `DiskRows`.

    Raises:
        InputError: no pair is short enough, or the chat template refuses the conversations of more than MOST_LEFT_OUT of them.
    """
    names = ["language", "instruction", "messages", *_TOKEN_COLUMNS, *_START_COLUMNS, "chosen", "rejected"]
    languages: list[str] = []
    prompts, chosen, rejected = (TokenRows(folder=folder) for _ in range(3))
    of_chosen, of_rejected = array("i"), array("i")
    left_out: Counter[str] = Counter()
    refusal = cache(lambda roles: refusal_of_roles(tokenizer, roles))
    refused: Counter[str] = Counter()
    for language, instruction, messages, chosen_ids, rejected_ids, *of_pair in rows_of(preferences, names):
        asked = settings_of(tokenizer).asked(Conversation.of(instruction, messages), language)
        if why := refusal(asked.roles):
            refused[why] += 1
            left_out[language] += 1
            continue
        prompt_ids = encode_prompt(tokenizer, asked)
        # A text that was not sampled, such as a translation, has no ids of its own.
        chosen_ids, rejected_ids = (
            encode_response(tokenizer, text) if ids is None else ids
            for ids, text in ((chosen_ids, of_pair[2]), (rejected_ids, of_pair[3]))
        )
        if len(prompt_ids) + max(len(chosen_ids), len(rejected_ids)) > max_length:
            left_out[language] += 1
            continue
        languages.append(sys.intern(language))
        prompts.append(prompt_ids)
        chosen.append(chosen_ids)
        rejected.append(rejected_ids)
        of_chosen.append(of_pair[0] or 0 if score == "answer" else 0)
        of_rejected.append(of_pair[1] or 0 if score == "answer" else 0)
    require_few_refused(refused, preferences.rows, str(preferences.folder))
    if not prompts:
        raise InputError(
            f"{preferences.folder}: each of its {preferences.rows} pairs is longer than max_length={max_length} tokens; "
            "raise --max-length"
        )
    counts = dict(sorted(left_out.items()))
    starts = (of_chosen, of_rejected) if any(of_chosen) or any(of_rejected) else ((), ())
    return TrainingPairs(languages, prompts, chosen, rejected, counts, dict(refused), *starts)


def rows_of(artifact: Artifact, names: Sequence[str]) -> Iterator[tuple[Any, ...]]:
    """Some columns of every row; one part of the artifact is in memory at a time."""
    for index in range(len(artifact.parts)):
        yield from zip(*(column.to_pylist() for column in artifact.read_part(index, names).columns), strict=True)


def asked_in(preferences: Artifact) -> Iterator[tuple[str, str, str | None]]:
    """Language, instruction and messages of every pair."""
    return rows_of(preferences, ["language", "instruction", "messages"])


def require_few_refused(refused: Mapping[str, int], total: int, where: str, what: str = "pairs") -> None:
    """Raise InputError when the chat template refuses the conversations of more than MOST_LEFT_OUT of them; refused: by what it says."""
    count = sum(refused.values())
    if count > MOST_LEFT_OUT * total:
        raise InputError(f"{where}: {count:,} of {total:,} {what} cannot be asked: {next(iter(refused))}")


def check_conversations(
    asked: Iterable[tuple[str, str, str | None]], tokenizer: PreTrainedTokenizerBase, where: str
) -> None:
    """Raise InputError when the chat template refuses the conversations of too many pairs.

    asked: language, instruction and messages of every pair.
    """
    settings, kinds = settings_of(tokenizer), Counter[Roles]()
    for language, instruction, messages in asked:
        kinds[settings.asked(Conversation.of(instruction, messages), language).roles] += 1
    refused = {why: count for roles, count in kinds.items() if (why := refusal_of_roles(tokenizer, roles))}
    require_few_refused(refused, kinds.total(), where)


def check_pairs(preferences: Artifact, vocabulary: int) -> None:
    """Raise InputError, naming part, row and field, for no pairs, an empty response or answer, or a token id that the model lacks."""
    if preferences.rows == 0:
        why = preferences.extra.get("no_pair", "annotate's table of drops says why")
        raise InputError(f"{preferences.folder}: contains no preference pairs; {why}")
    for index, path in enumerate(preferences.parts):
        part = preferences.read_part(index, [*_TOKEN_COLUMNS, *_START_COLUMNS, "chosen", "rejected"])
        for name in ("chosen", "rejected"):
            is_empty = pc.equal(pc.utf8_length(part[name]), 0)
            row = _first_row(pc.and_(is_empty, pc.is_null(part[f"{name}_token_ids"])))
            if row is not None:
                raise InputError(f"{path}: row {row}: field {name!r} is empty; run annotate again")
        for name, start_name in zip(_TOKEN_COLUMNS, _START_COLUMNS, strict=True):
            ids, starts = part[name].combine_chunks(), part[start_name].combine_chunks()
            row = _first_row(pc.equal(pc.list_value_length(ids), 0))
            if row is not None:
                raise InputError(f"{path}: row {row}: field {name!r} is empty; run annotate again")
            within = pc.and_(pc.greater_equal(starts, 0), pc.less(starts, pc.list_value_length(ids)))
            row = _first_row(pc.invert(pc.fill_null(within, True)))
            if row is not None:
                raise InputError(
                    f"{path}: row {row}: field {start_name!r} is {starts[row]}, and {name!r} has {len(ids[row])} tokens: there is no "
                    "answer to train on; run annotate again"
                )
            outside = pc.or_(pc.less(ids.flatten(), 0), pc.greater_equal(ids.flatten(), vocabulary))
            position = _first_row(outside)
            if position is not None:
                row = pc.list_parent_indices(ids)[position].as_py()
                raise InputError(
                    f"{path}: row {row}: field {name!r} has token id {ids.flatten()[position].as_py()}, outside the "
                    f"policy's vocabulary of {vocabulary}; train the policy whose responses were annotated"
                )


def _first_row(flags: pa.Array) -> int | None:
    """Index of the first true flag; None when there is none."""
    position = pc.index(flags, pa.scalar(True)).as_py()
    return None if position < 0 else int(position)
