"""One language's alpha and pairs, fitted and selected on the same samples, whatever filters and duplicates leave."""

import itertools
import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import ArrayLike

from icr_platform.annotation.config import AnnotateSettings
from icr_platform.annotation.filters import DUPLICATE, SAMPLE_REASONS
from icr_platform.annotation.selection import LanguageSamples, select_language


def samples_of(
    rewards: ArrayLike, codes: ArrayLike, lengths_of_codes: ArrayLike, dropped: ArrayLike
) -> LanguageSamples:
    """[P, N] samples whose length follows from their text; dropped ones failed a filter."""
    codes = np.asarray(codes)
    shape = codes.shape
    return LanguageSamples(
        language="es",
        prompt_ids=[f"p{row}" for row in range(shape[0])],
        sample_index=np.arange(shape[1]),
        rewards={"cross-lingual": np.where(dropped, np.nan, np.asarray(rewards, dtype=float))},
        characters=np.asarray(lengths_of_codes)[codes],
        text_codes=codes,
        part=np.zeros(shape, np.int32),
        row=np.arange(codes.size, dtype=np.int32).reshape(shape),
        reason=np.where(dropped, 1, 0).astype(np.int8),
    )


def candidates(samples: LanguageSamples) -> list[list[tuple[float, int]]]:
    """Per prompt (reward, characters) of the samples that may be chosen: the first of every text that was scored."""
    rows = []
    for row in range(len(samples.prompt_ids)):
        seen, kept = set(), []
        for column, reward in enumerate(samples.rewards["cross-lingual"][row]):
            if math.isfinite(reward) and samples.text_codes[row, column] not in seen:
                seen.add(samples.text_codes[row, column])
                kept.append((reward, int(samples.characters[row, column])))
        rows.append(kept)
    return rows


def cost(rows: Sequence[Sequence[tuple[float, int]]], alpha: float) -> tuple[int, int]:
    """(prompts lost to a tie, magnitude of the summed length difference) of the pairs at alpha."""
    lost = total = 0
    for kept in (row for row in rows if len(row) > 1):
        values = [reward - alpha * length for reward, length in kept]
        best, worst = values.index(max(values)), values.index(min(values))
        lost += best == worst
        total += kept[best][1] - kept[worst][1]
    return lost, abs(total)


def smallest_cost(rows: Sequence[Sequence[tuple[float, int]]]) -> tuple[int, int]:
    """Over every crossing of two candidates of a prompt, every midpoint between them, 0 and the bounds."""
    points = {-1.0, 0.0, 1.0}
    for kept in rows:
        for (one, a), (other, b) in itertools.combinations(kept, 2):
            if a != b and abs((one - other) / (a - b)) <= 1:
                points.add((one - other) / (a - b))
    ordered = sorted(points)
    return min(cost(rows, alpha) for alpha in [*ordered, *((a + b) / 2 for a, b in itertools.pairwise(ordered))])


@settings(max_examples=250, deadline=None)
@given(data=st.data(), shape=st.tuples(st.integers(1, 6), st.integers(2, 5)))
def test_alpha_makes_the_selected_pairs_equally_long(data: st.DataObject, shape: tuple[int, int]) -> None:
    rewards = data.draw(hnp.arrays(np.int64, shape, elements=st.integers(-3, 3)))
    codes = data.draw(hnp.arrays(np.int64, shape, elements=st.integers(0, 3)))
    dropped = data.draw(hnp.arrays(np.bool_, shape, elements=st.sampled_from([False, False, False, True])))
    samples = samples_of(rewards, codes, [1, 4, 5, 9], dropped)
    pairs = select_language(samples, AnnotateSettings())
    rows = candidates(samples)
    if all(len({reward for reward, _ in kept}) < 2 for kept in rows):
        assert (pairs.alpha, pairs.selection.kept.sum()) == (0.0, 0), "rewards that differ nowhere prefer nothing"
        return
    best = smallest_cost(rows)
    selection = pairs.selection
    kept = np.flatnonzero(selection.kept)
    chosen, rejected = selection.chosen_index[kept], selection.rejected_index[kept]
    difference = samples.characters[kept, chosen] - samples.characters[kept, rejected]
    assert (sum(len(row) > 1 for row in rows) - len(kept), abs(difference.sum())) == best
    assert selection.kept.sum() + sum(selection.drop_counts().values()) == shape[0]


def test_duplicates_take_no_part_in_alpha() -> None:
    """The copy of the long text would be chosen if it were counted, and alpha would have to even out other pairs."""
    rewards, codes, lengths = [[0.0, 1.0, 2.0], [3.0, 1.0, 1.0]], [[0, 1, 0], [0, 1, 1]], [30, 10]
    samples = samples_of(rewards, codes, lengths, np.zeros((2, 3), dtype=bool))
    pairs = select_language(samples, AnnotateSettings())
    assert (pairs.reason == SAMPLE_REASONS.index(DUPLICATE) + 1).tolist() == [
        [False, False, True],
        [False, False, True],
    ]
    assert pairs.alpha == 0.0, "10 - 30 and 30 - 10 characters even out without a penalty"
    assert pairs.selection.margin.tolist() == [1.0, 2.0]


@pytest.mark.parametrize("options", [{"upper_bound": 1.5}, {"minimal_margin": 1.0}, {"upper_bound": -5.0}])
def test_what_depends_on_alpha_is_applied_after_it_is_fitted(options: dict[str, float]) -> None:
    """The method fits alpha over all prompts (METHOD, step 3), then bounds the chosen rewards (step 4)."""
    generator = np.random.default_rng(0)
    codes = np.tile(np.arange(4), (50, 1))
    samples = samples_of(
        generator.normal(size=codes.shape), codes, [10, 25, 40, 80], generator.random(codes.shape) < 0.2
    )
    pairs, unbounded = (select_language(samples, AnnotateSettings(**given)) for given in (options, {}))
    assert pairs.alpha == unbounded.alpha
    selection = pairs.selection
    assert selection.kept.sum() < unbounded.selection.kept.sum() or options == {"upper_bound": 1.5}
    assert selection.kept.sum() + sum(selection.drop_counts().values()) == 50
    assert (selection.chosen_reward[selection.kept] < options.get("upper_bound", math.inf)).all()
    assert (selection.margin[selection.kept] > options.get("minimal_margin", 0.0)).all()
