"""Which tokens go through the model together: prompts with their completions, packed without padding.

A prompt and its N completions form a tree: the prompt's tokens are computed once, and every completion continues them. The
trees are laid out one after another and cut into packs of a fixed number of tokens. What a later pack needs of an earlier one
are the keys and values of the segments that it continues.

Two prompts with two completions each, whose tokens are numbered as they are met, in packs of four rows:

                      first pack               second pack
    row          0     1     2     3        0     1     2     3
    input id     1     2     3     5        6     8     9    10
    position     0     1     2     2        3     0     1     2
    segment      0     0     1     2        3     4     4     5
    continues    -     -     0     0       0,2    -     -     4
    predicts     -    3, 5   4     6        7     -   10, 12 11

>>> groups = [Group([1, 2], [[3, 4], [5, 6, 7]]), Group([8, 9], [[10, 11], [12]])]
>>> first, second = packs(groups, 4)
>>> first.input_ids, first.position_ids
([1, 2, 3, 5], [0, 1, 2, 2])
>>> list(zip(second.row, second.target, second.owner))
[(0, 7, 1), (2, 10, 2), (2, 12, 3), (3, 11, 2)]

Tokens 4, 7, 11 and 12 end their completions: they are targets and never inputs. Token 6 continues the prompt (segment 0) and token
5 (segment 2), whose keys and values are kept:

>>> second.segments[0]
Segment(id=3, start=0, stop=1, past=(0, 2), past_length=3)
>>> sorted(first.continued)
[0, 2]
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

TokenIds = Sequence[int]


class Group(NamedTuple):
    """One prompt with its completions, as token ids.

    starts: index in each completion of the first token that is scored; the tokens before it, such as a thought, are context. Empty: 0.
    """

    prompt_ids: TokenIds
    completions: Sequence[TokenIds]
    starts: Sequence[int] = ()

    @property
    def first_scored(self) -> list[int]:
        """`starts`, of completions that have a token there; where a completion has none, its length."""
        starts = self.starts or [0] * len(self.completions)
        return [min(start, len(completion)) for start, completion in zip(starts, self.completions, strict=True)]

    @property
    def scored(self) -> int:
        """Tokens of completions that are scored."""
        return sum(
            len(completion) - start for completion, start in zip(self.completions, self.first_scored, strict=True)
        )


class Segment(NamedTuple):
    """Consecutive tokens of one sequence within a pack.

    id: counts the segments of all packs.
    start, stop: rows of the pack.
    past: ids of the segments before it in its sequence, oldest first.
    past_length: tokens in them, which is the position of the segment's first token.
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
    segments: the segments whose tokens the rows are, in order; together they cover all rows.
    row, target, owner: [K] each: the output of row `row` predicts token `target` of completion number `owner`, counted
        over all groups; rows ascend.
    continued: ids of the segments, of this pack or earlier ones, that later packs continue.
    finished: completions whose last token is predicted here.
    """

    input_ids: list[int] = field(default_factory=list)
    position_ids: list[int] = field(default_factory=list)
    segments: list[Segment] = field(default_factory=list)
    row: list[int] = field(default_factory=list)
    target: list[int] = field(default_factory=list)
    owner: list[int] = field(default_factory=list)
    continued: frozenset[int] = frozenset()
    finished: int = 0

    def add_segment(self, segment_id: int, tokens: TokenIds, past: tuple[int, ...], past_length: int) -> None:
        """Append the tokens of a segment as rows."""
        start = len(self.input_ids)
        self.input_ids.extend(tokens)
        self.position_ids.extend(range(past_length, past_length + len(tokens)))
        self.segments.append(Segment(segment_id, start, len(self.input_ids), past, past_length))

    def predict(self, first_row: int, targets: TokenIds, owner: int, ends: bool, context: int = 0) -> None:
        """Let rows from first_row on predict targets, one each, but for the first `context` targets; `ends`: the last one ends its
        completion."""
        left_out = min(max(context, 0), len(targets))
        self.row.extend(range(first_row + left_out, first_row + len(targets)))
        self.target.extend(targets[left_out:])
        self.owner.extend([owner] * (len(targets) - left_out))
        self.finished += ends


def packs(groups: Sequence[Group], tokens: int) -> Iterator[Pack]:
    """Cut groups into packs of `tokens` rows, the last one shorter. No token is computed twice, none is padding.

    Every completion token is predicted exactly once: the first by the prompt's last token, the others by the one before; but not those
    before its group's `starts`, of which only keys and values are needed. A completion with nothing to score is left out.
    Yields each pack as soon as it is full, so that memory contains one.

    Raises:
        ValueError: a group with completion tokens has an empty prompt, so that nothing predicts the first ones.
    """
    pack, segment_id, first_owner = Pack(), 0, 0
    for group in groups:
        prompt, completions = group.prompt_ids, group.completions
        starts, is_scored = group.first_scored, group.scored > 0
        if is_scored and not len(prompt):
            raise ValueError("a prompt without tokens predicts nothing: render it with the chat template")
        prompt_segments: tuple[int, ...] = ()
        # A completion's last token predicts nothing, so it is not computed; nor is what nothing is scored of.
        computed = (
            completion[:-1] if start < len(completion) else []
            for completion, start in zip(completions, starts, strict=True)
        )
        sequences = [prompt, *computed] if is_scored else []
        for number, sequence in enumerate(sequences, start=-1):  # -1 is the prompt, the others count completions
            past, past_length, done = prompt_segments, 0 if number < 0 else len(prompt), 0
            while done < len(sequence):
                if len(pack.input_ids) == tokens:
                    pack.continued = frozenset(past)
                    yield pack
                    pack = Pack()
                size = min(tokens - len(pack.input_ids), len(sequence) - done)
                pack.add_segment(segment_id, sequence[done : done + size], past, past_length + done)
                if number >= 0:
                    completion, first_row = completions[number], len(pack.input_ids) - size
                    ends = done + size + 1 == len(completion)
                    targets = completion[done + 1 : done + 1 + size]
                    pack.predict(first_row, targets, first_owner + number, ends, starts[number] - done - 1)
                past, segment_id, done = (*past, segment_id), segment_id + 1, done + size
            if number < 0:
                prompt_segments = past
                for index, (completion, start) in enumerate(zip(completions, starts, strict=True)):
                    if start < len(completion):
                        ends = len(completion) == 1
                        pack.predict(len(pack.input_ids) - 1, completion[:1], first_owner + index, ends, start)
        first_owner += len(completions)
    if pack.input_ids:
        yield pack
