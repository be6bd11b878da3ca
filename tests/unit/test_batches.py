"""Batches of rows padded on the right: each scored token is predicted once, by the token before it, whatever shares a batch."""

from __future__ import annotations

import numpy as np
import pytest

from icr_platform.engines.scoring.batches import Sharing, batches
from icr_platform.engines.scoring.packing import Group

WAYS = [
    Sharing(),
    Sharing("equal"),
    Sharing("any"),
    Sharing("any", prompt="select"),
    Sharing("any", prompt="reorder", longest=40),
    Sharing("alone", prompt="select"),
    Sharing("equal", longest=12),
]


def random_groups(seed: int) -> list[Group]:
    """Completions of 0 to 30 tokens, some of which begin with context; all tokens differ, so that each tells where it stands."""
    rng, token = np.random.default_rng(seed), iter(range(10**6))
    groups = []
    for _ in range(12):
        completions = [[next(token) for _ in range(rng.integers(0, 31))] for _ in range(rng.integers(0, 6))]
        starts = [int(rng.integers(0, 4)) for _ in completions]
        groups.append(Group([next(token) for _ in range(rng.integers(1, 25))], completions, starts))
    return groups


@pytest.mark.parametrize("sharing", WAYS)
@pytest.mark.parametrize("tokens", [1, 16, 100, 4096])
def test_every_scored_token_is_predicted_once_by_the_token_before_it(sharing: Sharing, tokens: int) -> None:
    groups = random_groups(seed=tokens)
    completions = [list(one) for group in groups for one in group.completions]
    starts = [start for group in groups for start in group.first_scored]
    before = {
        token: earlier
        for group in groups
        for one in group.completions
        for earlier, token in zip([*group.prompt_ids, *one][len(group.prompt_ids) - 1 :], one, strict=False)
    }
    predicted: dict[int, list[int]] = {}
    finished = 0
    for batch in batches(groups, tokens, sharing):
        assert batch.row == sorted(batch.row)
        assert len(batch.rows) <= 1 or len(batch.rows) * batch.longest <= tokens
        lengths = {len(row) for row in batch.rows}
        assert sharing.lengths != "alone" or len(batch.rows) <= 1
        assert sharing.lengths == "any" or len(lengths) <= 1
        if sharing.longest is not None and len(batch.prompt) + batch.longest > sharing.longest:
            assert len(lengths) == 1
        padded = [token for row in batch.rows for token in [*row, *[-1] * (batch.longest - len(row))]]
        outputs = [*batch.prompt[-1:], *padded]
        for row, target, owner in zip(batch.row, batch.target, batch.owner, strict=True):
            assert outputs[row] == before[target]
            predicted.setdefault(owner, []).append(target)
        finished += batch.finished
    for owner, (completion, start) in enumerate(zip(completions, starts, strict=True)):
        assert predicted.get(owner, []) == completion[start:]
    assert finished == len(predicted)


def test_a_prompt_is_computed_once_where_that_saves_half_a_batch() -> None:
    many, few = Group([1] * 20, [[2] * 5] * 6), Group([3] * 20, [[4] * 5] * 2)
    found = list(batches([many, few], 100, Sharing("any", prompt="select")))
    assert [len(batch.prompt) for batch in found] == [20, 0]
    assert [len(batch.rows) for batch in found] == [6, 2]


def test_an_empty_prompt_predicts_nothing() -> None:
    assert list(batches([Group([], [[]])], 8, Sharing("any"))) == []
    with pytest.raises(ValueError, match="without tokens"):
        list(batches([Group([], [[1]])], 8, Sharing("any")))
