"""Which sequences share a forward of a model that does not run on packs: rows of a batch, padded on the right.

What follows a token changes nothing that a causal model predicts at it, be it by attention or by a recurrent state. So rows of
different lengths need no mask where the padding is on the right; rows are sorted by length, so that there is little of it. Where a
model continues what it keeps of a prompt, the completions of a prompt are rows behind it, and it is computed once.

Two prompts, the first with three completions, in batches of at most twelve tokens:

>>> groups = [Group([1, 2], [[3, 4, 5], [6, 7], [8]]), Group([9], [[10, 11]])]
>>> first, second = batches(groups, 12, Sharing("any"))
>>> first.rows, first.longest
([[1, 2], [9, 10], [1, 2, 6]], 3)
>>> list(zip(first.row, first.target, first.owner))
[(1, 8, 2), (3, 10, 3), (4, 11, 3), (7, 6, 1), (8, 7, 1)]
>>> second.rows
[[1, 2, 3, 4]]

Behind a prompt that is computed once, output 0 is that of its last token, and the rows follow it:

>>> shared, _ = batches(groups, 8, Sharing("any", prompt="select"))
>>> shared.prompt, shared.rows
([1, 2], [[6], [3, 4]])
>>> list(zip(shared.row, shared.target, shared.owner))
[(0, 8, 2), (0, 6, 1), (0, 3, 0), (1, 7, 1), (3, 4, 0), (4, 5, 0)]
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from icr_platform.engines.scoring.packing import Group, TokenIds

_KEPT = 4  # tokens whose keys and values are in memory, as a multiple of those that a batch computes


class Sharing(NamedTuple):
    """What sequences of a model share, as a small copy of it shows.

    lengths: sequences of any lengths go through the model together, of equal lengths only, or each alone.
    prompt: how what is kept of a prompt becomes that of several rows: by the cache's `batch_select_indices` or its `reorder_cache`;
        '' where the completions of a prompt do not share it.
    is_split: hidden states and logits can be computed apart, so that the logits of a few tokens at a time are in memory.
    longest: tokens up to which sequences share; None: all do.
    why: that is not more; '' where all of it is shared.
    """

    lengths: Literal["any", "equal", "alone"] = "alone"
    prompt: Literal["", "select", "reorder"] = ""
    is_split: bool = False
    longest: int | None = None
    why: str = ""


class _Sequence(NamedTuple):
    """A completion with something to score. owner: its number over all groups. start: of its first token that is scored."""

    owner: int
    prompt: TokenIds
    completion: TokenIds
    start: int

    @property
    def tokens(self) -> int:
        return len(self.prompt) + len(self.completion)


@dataclass
class Batch:
    """Sequences that go through the model in one forward.

    prompt: tokens that all rows continue; empty where rows begin at their first token.
    rows: token ids of each row. longest: of them, to which the others are padded.
    row, target, owner: [K] each, as of a `Pack`: output `row` predicts token `target` of completion `owner`; outputs are those of the
        prompt's last token, where there is a prompt, and of all rows one after another, padding included. They ascend.
    finished: completions, which are whole.
    """

    prompt: TokenIds = ()
    rows: list[list[int]] = field(default_factory=list)
    longest: int = 0
    row: list[int] = field(default_factory=list)
    target: list[int] = field(default_factory=list)
    owner: list[int] = field(default_factory=list)
    finished: int = 0


def batches(groups: Sequence[Group], tokens: int, sharing: Sharing) -> Iterator[Batch]:
    """Cut groups into batches of at most `tokens` tokens, padding included, or of one sequence.

    Completions with nothing to score are left out. The same groups always give the same batches.

    Raises:
        ValueError: a group with completion tokens has an empty prompt, so that nothing predicts the first ones.
    """
    alone: list[_Sequence] = []
    owner = 0
    for group in groups:
        sequences = [
            _Sequence(owner + number, group.prompt_ids, completion, start)
            for number, (completion, start) in enumerate(zip(group.completions, group.first_scored, strict=True))
            if start < len(completion)
        ]
        owner += len(group.completions)
        if sequences and not len(group.prompt_ids):
            raise ValueError("a prompt without tokens predicts nothing: render it with the chat template")
        within = [one for one in sequences if not _is_longer(one, sharing)]
        # Two forwards instead of one pay where they save half a batch.
        if not sharing.prompt or 2 * (len(within) - 1) * len(group.prompt_ids) < tokens:
            alone += sequences
            continue
        alone += [one for one in sequences if _is_longer(one, sharing)]
        within.sort(key=lambda one: one.tokens)
        for chosen in _cut(within, tokens, sharing, len(group.prompt_ids)):
            yield _behind(group.prompt_ids, chosen)
    alone.sort(key=lambda one: one.tokens)
    for chosen in _cut(alone, tokens, sharing, 0):
        yield _whole(chosen, sharing)


def _cut(sequences: Sequence[_Sequence], tokens: int, sharing: Sharing, prompt: int) -> Iterator[list[_Sequence]]:
    """Consecutive sequences, the shortest first, that share a batch. prompt: tokens of it that are computed before, for each row kept."""
    chosen: list[_Sequence] = []
    for one in sequences:
        computed, rows = one.tokens - 1, len(chosen) + 1
        fits = rows * (computed - prompt) <= tokens and rows * computed <= (_KEPT if prompt else 1) * tokens
        if chosen and not (fits and _share(chosen[0], one, sharing)):
            yield chosen
            chosen = []
        chosen.append(one)
    if chosen:
        yield chosen


def _is_longer(one: _Sequence, sharing: Sharing) -> bool:
    return sharing.longest is not None and one.tokens > sharing.longest


def _share(first: _Sequence, other: _Sequence, sharing: Sharing) -> bool:
    if sharing.lengths == "alone":
        return False
    return first.tokens == other.tokens or (sharing.lengths == "any" and not _is_longer(other, sharing))


def _whole(sequences: Sequence[_Sequence], sharing: Sharing) -> Batch:
    """Rows of prompts with their completions. A last token predicts nothing, so it is not computed, unless what comes later may change
    what is predicted before: by the row's length, which frequencies depend on, or in a model that is not known to be causal."""
    batch = Batch()
    for one in sequences:
        ids = [*one.prompt, *one.completion]
        batch.rows.append(ids if sharing.lengths != "any" or _is_longer(one, sharing) else ids[:-1])
    batch.longest = max(map(len, batch.rows))
    for number, one in enumerate(sequences):
        _predict(batch, number * batch.longest + len(one.prompt) - 1, one, one.start)
    batch.finished = len(sequences)
    return batch


def _behind(prompt: TokenIds, sequences: Sequence[_Sequence]) -> Batch:
    """Rows of the completions of one prompt, which is computed once."""
    batch = Batch(prompt, [list(one.completion[:-1]) for one in sequences if len(one.completion) > 1])
    batch.longest = max(map(len, batch.rows), default=0)
    for one in sequences:
        if one.start == 0:
            _predict(batch, 0, one, 0, 1)
    continued = (one for one in sequences if len(one.completion) > 1)
    for number, one in enumerate(continued):
        _predict(batch, number * batch.longest, one, max(1, one.start))
    batch.finished = len(sequences)
    return batch


def _predict(batch: Batch, before: int, one: _Sequence, start: int, stop: int | None = None) -> None:
    """Let outputs predict tokens start:stop of a completion, whose first token the output `before` predicts."""
    targets = one.completion[start:stop]
    batch.row.extend(range(before + start, before + start + len(targets)))
    batch.target.extend(targets)
    batch.owner.extend([one.owner] * len(targets))
