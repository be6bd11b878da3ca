"""Which tokens go through the model together: prompts with their completions, packed without padding.

A prompt and its N completions form a tree: the prompt's tokens are computed once, every completion continues them. The
trees are laid out one after another and cut into packs of a fixed number of tokens; what a later pack needs of an earlier
one are the keys and values of the runs it continues.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

TokenIds = Sequence[int]


class Group(NamedTuple):
    """One prompt with its completions, as token ids."""

    prompt_ids: TokenIds
    completions: Sequence[TokenIds]


class Run(NamedTuple):
    """Consecutive tokens of one sequence within a pack.

    id: counts the runs of all packs.
    start, stop: rows of the pack.
    past: ids of the runs before it in its sequence, oldest first.
    past_length: tokens in them, which is the position of the run's first token.
    """

    id: int
    start: int
    stop: int
    past: tuple[int, ...]
    past_length: int


@dataclass
class Pack:
    """Tokens that go through the model in one pass; T rows.

    input_ids, position_ids: [T].
    runs: whose tokens the rows are, in order; together they cover all rows.
    row, target, owner: [K] each: the output of row `row` predicts token `target` of completion number `owner`, counted
        over all groups; rows ascend.
    continued: ids of the runs, of this pack or earlier ones, that later packs continue.
    finished: completions whose last token is predicted here.
    """

    input_ids: list[int] = field(default_factory=list)
    position_ids: list[int] = field(default_factory=list)
    runs: list[Run] = field(default_factory=list)
    row: list[int] = field(default_factory=list)
    target: list[int] = field(default_factory=list)
    owner: list[int] = field(default_factory=list)
    continued: frozenset[int] = frozenset()
    finished: int = 0

    def add_run(self, run_id: int, tokens: TokenIds, past: tuple[int, ...], past_length: int) -> None:
        """Append the tokens of a run."""
        start = len(self.input_ids)
        self.input_ids.extend(tokens)
        self.position_ids.extend(range(past_length, past_length + len(tokens)))
        self.runs.append(Run(run_id, start, len(self.input_ids), past, past_length))

    def predict(self, first_row: int, targets: TokenIds, owner: int) -> None:
        """Let rows from first_row on predict targets, one each."""
        self.row.extend(range(first_row, first_row + len(targets)))
        self.target.extend(targets)
        self.owner.extend([owner] * len(targets))


def packs(groups: Sequence[Group], tokens: int) -> Iterator[Pack]:
    """Cut groups into packs of `tokens` rows, the last one shorter. No token is computed twice, none is padding.

    Every completion token is predicted exactly once: the first by the prompt's last token, the others by the one before,
    so a completion's last token is a target only. Yields while it fills, so that memory holds one pack.

    Raises:
        ValueError: a group with completion tokens has an empty prompt, so that nothing predicts the first ones.

    >>> [pack.input_ids for pack in packs([Group([1, 2], [[3, 4], [5, 6, 7]])], 4)]
    [[1, 2, 3, 5], [6]]
    """
    pack, run_id, first_owner = Pack(), 0, 0
    for group in groups:
        if any(len(completion) for completion in group.completions) and not len(group.prompt_ids):
            raise ValueError("a prompt without tokens predicts nothing: render it with the chat template")
        prompt_runs: tuple[int, ...] = ()
        for index, sequence in enumerate(_sequences(group)):
            past, past_length, done = prompt_runs, len(group.prompt_ids) if index else 0, 0
            while done < len(sequence):
                if len(pack.input_ids) == tokens:
                    pack.continued = frozenset(past)
                    yield pack
                    pack = Pack()
                size = min(tokens - len(pack.input_ids), len(sequence) - done)
                pack.add_run(run_id, sequence[done : done + size], past, past_length + done)
                if index:
                    _predict_next(pack, group, index - 1, done, size, first_owner)
                past, run_id, done = (*past, run_id), run_id + 1, done + size
            if index == 0:
                prompt_runs = past
                _predict_first(pack, group, first_owner)
        first_owner += len(group.completions)
    if pack.input_ids:
        yield pack


def _sequences(group: Group) -> Iterator[TokenIds]:
    """What is computed: the prompt, then each completion without its last token, which predicts nothing."""
    if any(len(completion) for completion in group.completions):
        yield group.prompt_ids
        for completion in group.completions:
            yield completion[:-1]


def _predict_first(pack: Pack, group: Group, first_owner: int) -> None:
    for index, completion in enumerate(group.completions):
        if len(completion):
            pack.predict(len(pack.input_ids) - 1, completion[:1], first_owner + index)
            pack.finished += len(completion) == 1


def _predict_next(pack: Pack, group: Group, index: int, done: int, size: int, first_owner: int) -> None:
    completion = group.completions[index]
    pack.predict(len(pack.input_ids) - size, completion[done + 1 : done + 1 + size], first_owner + index)
    pack.finished += done + size + 1 == len(completion)
