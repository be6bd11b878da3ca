"""Every pair rule against a naive implementation, and length control of each rule against a dense scan of alpha."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from itertools import pairwise
from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from icr_platform.annotation.alpha_search import fit_rule_alpha
from icr_platform.annotation.config import RejectedRule
from icr_platform.annotation.length_control import fit_alpha
from icr_platform.annotation.pair_rules import RULES, PairRule
from icr_platform.annotation.pairs import DROP_REASONS, FEW_SAMPLES, PairSelection, select_pairs, text_codes
from icr_platform.core.errors import InputError

NEAR = 1e-9  # of two distances that exact arithmetic may call equal


def test_settings_name_every_rule() -> None:
    assert set(get_args(RejectedRule)) == set(RULES)


def quartile(values: Sequence[float]) -> float:
    """The 25th percentile by linear interpolation, written out."""
    ordered = sorted(values)
    place = 0.25 * (len(ordered) - 1)
    below = math.floor(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])


def naive_ranks(rule: str, scores: dict[int, float], draws: Sequence[float]) -> dict[int, float]:
    """What the rule goes by, of each candidate: the lowest is rejected first."""
    values = list(scores.values())
    if rule == "random":
        return {column: draws[column] for column in scores}
    target = {
        "lowest": min(values),
        "mean-2sd": statistics.fmean(values) - 2 * statistics.pstdev(values),
        "lower-quartile": quartile(values),
        "nearest-mean": statistics.fmean(values),
    }[rule]
    return {column: abs(score - target) for column, score in scores.items()}


def naive_entries(
    rule: str,
    pairs: int,
    rewards: Sequence[float],
    lengths: Sequence[float],
    texts: Sequence[str],
    eligible: Sequence[bool],
    draws: Sequence[float],
    options: tuple[float, float, float],
) -> tuple[list[tuple[str, int, int]], dict[int, float], dict[int, float]]:
    """(reason, chosen, rejected) of each pair of one prompt, its candidates' scores, and what the rule goes by."""
    alpha, minimal_margin, upper_bound = options
    survivors = [i for i in range(len(rewards)) if eligible[i]]
    finite = [i for i in survivors if math.isfinite(rewards[i])]
    unique = [i for i in finite if texts[i] not in [texts[j] for j in finite if j < i]]
    score = {i: rewards[i] - alpha * lengths[i] for i in unique}
    early = ""
    if len(survivors) < 2:
        early = "one-survivor" if survivors else "no-survivor"
    elif len(finite) < 2:
        early = "nan"
    elif len(unique) < 2:
        early = "identical"
    if early:
        return [(early, -1, -1)] * pairs, score, {}
    ranks = naive_ranks(rule, score, draws)

    def made(bound: float) -> dict[int, tuple[int, int]]:
        allowed = sorted((i for i in unique if score[i] < bound), key=lambda i: (-score[i], i))
        chosen = allowed[: max(1, min(pairs, len(allowed) // 2))]
        if not chosen:
            return {}
        below = [i for i in unique if score[i] < score[chosen[-1]]]
        rejected = sorted(below, key=lambda i: (round(ranks[i], 9), score[i], i))
        return dict(enumerate(zip(chosen, rejected, strict=False)))

    whole, bounded = made(math.inf), made(upper_bound)
    entries = []
    for number in range(pairs):
        margins = [score[ends[0]] - score[ends[1]] if (ends := of.get(number)) else 0.0 for of in (whole, bounded)]
        if number >= max(1, len(unique) // 2):
            entries.append(("few-samples", -1, -1))
        elif margins[0] <= minimal_margin:
            entries.append(("margin", -1, -1))
        elif margins[1] <= 0:
            entries.append(("upper-bound", -1, -1))
        elif margins[1] <= minimal_margin:
            entries.append(("margin", -1, -1))
        else:
            entries.append(("", *bounded[number]))
    return entries, score, ranks


def is_close_call(ranks: dict[int, float], score: dict[int, float]) -> bool:
    """Whether two samples of different scores are equally near, so that rounding may decide between them."""
    ordered = sorted(ranks, key=lambda i: ranks[i])
    return any(abs(ranks[a] - ranks[b]) < NEAR and score[a] != score[b] for a, b in pairwise(ordered))


def check_prompt(
    selection: PairSelection,
    row: int,
    entries: list[tuple[str, int, int]],
    score: dict[int, float],
    ranks: dict[int, float],
) -> None:
    pairs = selection.pairs_per_prompt
    own = slice(row * pairs, (row + 1) * pairs)
    found = list(
        zip(
            selection.reason[own],
            selection.chosen_index[own].tolist(),
            selection.rejected_index[own].tolist(),
            strict=True,
        )
    )
    if not is_close_call(ranks, score):
        assert found == entries
        return
    assert [chosen for _, chosen, rejected in found if rejected >= 0 and entries[0][0] == ""][:1] in (
        [],
        [entries[0][1]],
    )
    for (_, _, rejected), (reason, _, expected) in list(zip(found, entries, strict=True))[:1]:
        if not reason:
            assert ranks[rejected] == pytest.approx(ranks[expected], abs=NEAR)


@settings(max_examples=200, deadline=None)
@given(
    data=st.data(),
    shape=st.tuples(st.integers(0, 4), st.integers(1, 9)),
    rule=st.sampled_from(sorted(RULES)),
    pairs=st.integers(1, 5),
    options=st.tuples(
        st.sampled_from([0.0, 0.5, -0.25]), st.sampled_from([0.0, 1.0]), st.sampled_from([math.inf, 1.0, -1.0])
    ),
)
def test_every_rule_equals_the_naive_one(
    data: st.DataObject, shape: tuple[int, int], rule: str, pairs: int, options: tuple[float, float, float]
) -> None:
    """Ties, NaN, infinite rewards, equal texts, filtered samples, one survivor, margins and bounds."""
    reward = st.one_of(st.integers(-3, 3).map(float), st.sampled_from([math.nan, math.inf]), st.floats(-3, 3))
    rewards = data.draw(hnp.arrays(np.float64, shape, elements=reward))
    lengths = data.draw(hnp.arrays(np.int64, shape, elements=st.integers(0, 4)))
    texts = data.draw(hnp.arrays(np.int64, shape, elements=st.integers(0, 6))).astype(str)
    eligible = data.draw(hnp.arrays(np.bool_, shape, elements=st.sampled_from([True, True, True, False])))
    draws = np.random.default_rng(shape[1]).permuted(np.arange(math.prod(shape), dtype=float)).reshape(shape)
    selection = select_pairs(
        rewards,
        lengths,
        options[0],
        eligible=eligible,
        text_codes=text_codes(texts.tolist()).reshape(shape),
        minimal_margin=options[1],
        upper_bound=options[2],
        rule=PairRule(rule, pairs, draws),
    )
    assert len(selection.reason) == shape[0] * pairs
    assert selection.kept.sum() + sum(selection.drop_counts().values()) == shape[0] * pairs
    assert set(selection.reason) <= {"", *DROP_REASONS, FEW_SAMPLES}
    assert (selection.margin[selection.kept] > options[1]).all()
    assert np.isnan(selection.margin[~selection.kept]).all()
    for row, values in enumerate(zip(rewards, lengths, texts, eligible, strict=True)):
        check_prompt(selection, row, *naive_entries(rule, pairs, *values, draws[row].tolist(), options))
        own = slice(row * pairs, (row + 1) * pairs)
        used = [*selection.chosen_index[own], *selection.rejected_index[own]]
        used = [column for column in used if column >= 0]
        assert len({texts[row, column] for column in used}) == len(used), "no text is in two places"


@pytest.mark.parametrize("rule", sorted(RULES))
@pytest.mark.parametrize("samples", [1, 2, 3, 7, 16, 33, 64])
def test_every_rule_equals_the_naive_one_with_many_samples(rule: str, samples: int) -> None:
    random = np.random.default_rng(samples)
    rewards = random.normal(size=(5, samples))
    lengths = random.integers(1, 900, rewards.shape)
    draws = random.random(rewards.shape)
    texts = np.arange(rewards.size).reshape(rewards.shape).astype(str)
    for pairs in (1, 4, 40):
        selection = select_pairs(rewards, lengths, 0.001, rule=PairRule(rule, pairs, draws))
        for row in range(len(rewards)):
            of_prompt = (rewards[row], lengths[row], texts[row], [True] * samples, draws[row])
            check_prompt(selection, row, *naive_entries(rule, pairs, *of_prompt, (0.001, 0.0, math.inf)))
        assert selection.kept.sum() == (0 if samples == 1 else 5 * max(1, min(pairs, samples // 2)))


@pytest.mark.parametrize(
    ("rule", "rewards", "rejected"),
    [
        ("lowest", [9, 7, 6, 2], 3),
        ("mean-2sd", [9, 7, 6, 2], 3),
        ("lower-quartile", [9, 7, 6, 2], 2),  # 5, four places and a quarter: between 2 and 6
        ("nearest-mean", [9, 7, 6, 2], 2),
        # mean 4.5, deviation 24.6, target -44.6: the outlier is 55 away, the lowest of the others 46
        ("mean-2sd", [*range(19, 0, -1), -100], 18),
        # mean 4.9, deviation 23.3, target -41.7; with the deviation of a sample, 24.6, it would be -44.2
        ("mean-2sd", [20, 19, 18, 17, 16, 15, 14, 13, -40, -43], 9),
        ("lower-quartile", [4, 3, 2, 1, 0], 3),  # exactly the second lowest
        ("lower-quartile", [6, 4, 2], 2),  # 3, half-way between 4 and 2: the lower one
        ("nearest-mean", [0, 2, 4, 6], 1),  # 3, half-way: the lower one, whatever the order
        ("nearest-mean", [5, 5, 5, 1], 3),  # 4: the fives are nearer, and not below the chosen one
        ("lower-quartile", [5, 5, 5, 5, 5, 5, 1], 6),  # 5: the chosen one's own reward
        ("lowest", [1, 0, 0], 1),  # among equals the first
    ],
)
def test_by_hand(rule: str, rewards: list[float], rejected: int) -> None:
    selection = select_pairs([rewards], [[1] * len(rewards)], 0.0, rule=PairRule(rule))
    assert selection.rejected_index.tolist() == [rejected]
    assert selection.chosen_index.tolist() == [rewards.index(max(rewards))]


def test_pairs_of_a_prompt_share_no_sample_and_the_best_come_first() -> None:
    selection = select_pairs([[5.0, 1.0, 4.0, 2.0, 3.0]], [[1] * 5], 0.0, rule=PairRule("lowest", 3))
    assert selection.chosen_index.tolist() == [0, 2, -1]
    assert selection.rejected_index.tolist() == [1, 3, -1]
    assert selection.reason == ("", "", FEW_SAMPLES)
    assert selection.drop_counts()[FEW_SAMPLES] == 1


def dense(rewards: np.ndarray, lengths: np.ndarray, rule: PairRule, bounds: tuple[float, float]) -> float:
    """The smallest magnitude of the summed length difference at 1,001 alphas, of those at which the fewest pairs are lost."""
    found = []
    for alpha in np.linspace(*bounds, 1_001):
        selection = select_pairs(rewards, lengths, alpha, rule=rule)
        kept = np.flatnonzero(selection.kept)
        owner = kept // rule.pairs
        difference = lengths[owner, selection.chosen_index[kept]] - lengths[owner, selection.rejected_index[kept]]
        found.append((-len(kept), abs(int(difference.sum()))))
    return min(found)[1]


@pytest.mark.parametrize(
    ("rule", "pairs"), [("mean-2sd", 1), ("lower-quartile", 1), ("nearest-mean", 3), ("random", 1), ("lowest", 3)]
)
def test_alpha_against_a_dense_scan(rule: str, pairs: int) -> None:
    random = np.random.default_rng(pairs)
    lengths = random.integers(20, 400, (40, 8))
    rewards = random.normal(size=lengths.shape) + 0.004 * lengths
    asked = PairRule(rule, pairs, random.random(lengths.shape))
    fit = fit_rule_alpha(rewards, lengths, asked, (-0.02, 0.02))
    selection = select_pairs(rewards, lengths, fit.alpha, rule=asked)
    kept = np.flatnonzero(selection.kept)
    owner = kept // pairs
    difference = lengths[owner, selection.chosen_index[kept]] - lengths[owner, selection.rejected_index[kept]]
    assert difference.mean() == pytest.approx(fit.mean_length_difference, abs=1e-9), "the pairs that the rule makes"
    # What is promised: half of what the pairs of one prompt can change by. What is found: about as good as the scan.
    assert abs(difference.sum()) <= pairs * np.ptp(lengths, axis=1).max()
    assert abs(difference.sum()) <= dense(rewards, lengths, asked, (-0.02, 0.02)) + 12 * pairs
    assert abs(fit.mean_length_difference) < 0.02 * abs(fit.mean_length_difference_before)


def test_alpha_of_the_extremes_is_the_exact_one() -> None:
    random = np.random.default_rng(0)
    lengths = random.integers(20, 3000, (50, 6))
    rewards = random.normal(size=lengths.shape)
    assert fit_rule_alpha(rewards, lengths, PairRule()) == fit_alpha(rewards, lengths)


@pytest.mark.parametrize("rule", [PairRule("nearest-mean"), PairRule("lowest", 2)])
def test_alpha_of_nothing_of_ties_and_of_bounds_without_a_crossing(rule: PairRule) -> None:
    nothing = fit_rule_alpha(np.full((3, 4), np.nan), np.ones((3, 4)), rule, (0.5, 1.0))
    assert (nothing.alpha, nothing.prompts) == (0.5, 0)
    assert fit_rule_alpha(np.empty((0, 3)), np.empty((0, 3)), rule).alpha == 0.0
    assert fit_rule_alpha([[1.0, 2.0, 3.0, 4.0]] * 3, [[10] * 4] * 3, rule).alpha == 0.0
    short_is_better = fit_rule_alpha([[4.0, 3.0, 2.0, 1.0]], [[1, 2, 3, 4]], rule, (0.1, 0.2))
    assert 0.1 <= short_is_better.alpha <= 0.2
    with pytest.raises(InputError, match="lower one first"):
        fit_rule_alpha([[1.0, 2.0]], [[1, 2]], rule, (1.0, 0.0))
