"""select_pairs against a naive implementation, and what an annotation must never do."""

import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from icr_platform.annotation.length_control import fit_alpha
from icr_platform.annotation.pairs import DROP_REASONS, near_duplicate, select_pairs, text_codes


def naive_pair(
    rewards: Sequence[float],
    lengths: Sequence[float],
    texts: Sequence[str],
    eligible: Sequence[bool],
    alpha: float,
    minimal_margin: float,
    upper_bound: float,
) -> tuple[str, int, int]:
    """(reason, chosen column, rejected column) of one prompt."""
    survivors = [i for i in range(len(rewards)) if eligible[i]]
    if len(survivors) < 2:
        return ("one-survivor" if survivors else "no-survivor"), -1, -1
    finite = [i for i in survivors if math.isfinite(rewards[i])]
    if len(finite) < 2:
        return "nan", -1, -1
    unique = [i for i in finite if texts[i] not in [texts[j] for j in finite if j < i]]
    if len(unique) < 2:
        return "identical", -1, -1
    score = {i: rewards[i] - alpha * lengths[i] for i in unique}
    rejected = min(unique, key=lambda i: (score[i], i))
    if max(score.values()) - score[rejected] <= minimal_margin:
        return "margin", -1, -1
    below = [i for i in unique if score[i] < upper_bound and score[i] > score[rejected]]
    if not below:
        return "upper-bound", -1, -1
    chosen = max(below, key=lambda i: (score[i], -i))
    if score[chosen] - score[rejected] <= minimal_margin:
        return "margin", -1, -1
    return "", chosen, rejected


@settings(max_examples=300, deadline=None)
@given(
    data=st.data(),
    shape=st.tuples(st.integers(0, 6), st.integers(1, 5)),
    alpha=st.sampled_from([0.0, 0.5, -0.25, 0.1]),
    minimal_margin=st.sampled_from([0.0, 1.0]),
    upper_bound=st.sampled_from([math.inf, 1.0, -1.0]),
)
def test_equals_the_naive_implementation(
    data: st.DataObject, shape: tuple[int, int], alpha: float, minimal_margin: float, upper_bound: float
) -> None:
    reward = st.one_of(st.integers(-2, 2).map(float), st.sampled_from([math.nan, math.inf]), st.floats(-3, 3))
    rewards = data.draw(hnp.arrays(np.float64, shape, elements=reward))
    lengths = data.draw(hnp.arrays(np.int64, shape, elements=st.integers(0, 4)))
    texts = data.draw(hnp.arrays(np.int64, shape, elements=st.integers(0, 3))).astype(str)
    eligible = data.draw(hnp.arrays(np.bool_, shape))
    selection = select_pairs(
        rewards,
        lengths,
        alpha,
        eligible=eligible,
        text_codes=text_codes(texts.tolist()).reshape(shape),
        minimal_margin=minimal_margin,
        upper_bound=upper_bound,
    )
    expected = [
        naive_pair(*row, alpha, minimal_margin, upper_bound)
        for row in zip(rewards, lengths, texts, eligible, strict=True)
    ]
    indices = (selection.chosen_index.tolist(), selection.rejected_index.tolist())
    assert list(zip(selection.reason, *indices, strict=True)) == expected
    assert selection.kept.sum() + sum(selection.drop_counts().values()) == shape[0]
    assert set(selection.reason) <= {"", *DROP_REASONS}
    assert (selection.margin[selection.kept] > minimal_margin).all()
    assert np.isnan(selection.margin[~selection.kept]).all()


def test_pairs_attain_the_mean_length_difference_that_alpha_claims() -> None:
    generator = np.random.default_rng(0)
    lengths = generator.integers(1, 3000, (200, 10))
    rewards = generator.normal(size=(200, 10)) + 0.002 * lengths
    fit = fit_alpha(rewards, lengths)
    selection = select_pairs(rewards, lengths, fit.alpha)
    rows = np.arange(200)
    difference = lengths[rows, selection.chosen_index] - lengths[rows, selection.rejected_index]
    assert selection.kept.all()
    assert difference.mean() == pytest.approx(fit.mean_length_difference, abs=1e-9)


def test_duplicates_are_named_and_the_first_one_counts() -> None:
    selection = select_pairs(
        [[1.0, 1.0 + 1e-12, 0.0]], [[4, 4, 3]], 0.0, text_codes=text_codes([["same", "same", "other"]])
    )
    assert selection.duplicate.tolist() == [[False, True, False]]
    assert (selection.chosen_index[0], selection.rejected_index[0]) == (0, 2)


def test_wrong_shapes_and_a_negative_margin_are_refused() -> None:
    with pytest.raises(ValueError, match="must match"):
        select_pairs([[1.0, 2.0]], [[1, 2, 3]], 0.0)
    with pytest.raises(ValueError, match="shape of rewards"):
        select_pairs([[1.0, 2.0]], [[1, 2]], 0.0, text_codes=[[0]])
    with pytest.raises(ValueError, match="minimal_margin"):
        select_pairs([[1.0, 2.0]], [[1, 2]], 0.0, minimal_margin=-1.0)


def test_near_duplicate_counts_edits() -> None:
    assert near_duplicate("ab" * 50, "ab" * 49 + "ac", 0.98)
    assert not near_duplicate("ab" * 50, "ab" * 49 + "ac", 0.995)
    assert near_duplicate("", "", 1.0)
    assert not near_duplicate("กขค", "abc", 0.1)
