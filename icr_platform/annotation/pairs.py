"""Preference pairs: of each prompt the responses with the highest and the lowest length-controlled reward, or as a rule says."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from icr_platform.annotation.length_control import length_controlled
from icr_platform.annotation.pair_rules import PairRule, at_columns, pair_ends
from icr_platform.core.arrays import Bools, Floats, Ints, Strings

NO_SURVIVOR = "no-survivor"
ONE_SURVIVOR = "one-survivor"
NOT_FINITE = "nan"
IDENTICAL = "identical"
MARGIN = "margin"
UPPER_BOUND = "upper-bound"
DROP_REASONS = (NO_SURVIVOR, ONE_SURVIVOR, NOT_FINITE, IDENTICAL, MARGIN, UPPER_BOUND)
FEW_SAMPLES = "few-samples"
"""Of a prompt's second pair and those after it only: its samples make fewer."""
EXTREMES = PairRule()
"""The paper's pair: the highest and the lowest sample of a prompt."""


@dataclass(frozen=True)
class PairSelection:
    """One entry per prompt and pair that was asked for, kept or dropped: `kept.sum() + sum(drop_counts().values()) == P * K`.

    Pair i of prompt p is entry `p * K + i`; with one pair a prompt, K = 1, there is one entry per prompt. A first pair that is dropped
    leaves the others.
    """

    reason: tuple[str, ...]
    """[P * K] why there is no such pair, one of DROP_REASONS or FEW_SAMPLES; empty for a kept one."""
    chosen_index: Ints
    """[P * K] column of the chosen sample, -1 where dropped."""
    rejected_index: Ints
    """[P * K] column of the rejected sample, -1 where dropped."""
    chosen_reward: Floats
    """[P * K] length-controlled reward of the chosen sample, NaN where dropped."""
    rejected_reward: Floats
    """[P * K] length-controlled reward of the rejected sample, NaN where dropped."""
    duplicate: Bools
    """[P, N] samples that are not candidates because an earlier candidate of the prompt has the same text."""
    pairs_per_prompt: int = 1
    """K, the pairs of a prompt that were asked for."""

    @property
    def kept(self) -> Bools:
        """[P * K] entries that are pairs."""
        return self.chosen_index >= 0

    @property
    def margin(self) -> Floats:
        """[P * K] chosen minus rejected length-controlled reward, > 0; NaN where dropped."""
        return self.chosen_reward - self.rejected_reward

    def drop_counts(self) -> dict[str, int]:
        """Dropped entries by reason, reasons that did not occur included."""
        possible = DROP_REASONS if self.pairs_per_prompt == 1 else (*DROP_REASONS, FEW_SAMPLES)
        return {reason: self.reason.count(reason) for reason in possible}


class _Pairs(NamedTuple):
    """Pairs of each prompt, each [P, K]: columns, and the rewards in them, NaN where there is no such pair."""

    chosen: Ints
    rejected: Ints
    best: Floats
    worst: Floats

    @property
    def margin(self) -> Floats:
        return self.best - self.worst


def select_pairs(
    rewards: ArrayLike,
    lengths: ArrayLike,
    alpha: float,
    *,
    eligible: ArrayLike | None = None,
    text_codes: ArrayLike | None = None,
    minimal_margin: float = 0.0,
    upper_bound: float = math.inf,
    rule: PairRule = EXTREMES,
) -> PairSelection:
    """Chosen = argmax, rejected = argmin of `rewards - alpha * lengths` (ICR, arXiv 2503.04647, section 3), or as `rule` says.

    Candidates are eligible samples with a finite reward; of samples with one text only the first is a candidate, so
    that chosen and rejected differ in text. Among equal rewards the first column wins. A pair is dropped by the first
    reason that holds: `no-survivor` (nothing eligible), `one-survivor`, `nan` (under two finite rewards), `identical`
    (one text only), `few-samples` (a further pair for which no two samples are left), `margin` (all rewards equal, or the margin is not
    above minimal_margin), `upper-bound` (nothing better than the rejected sample lies below the bound).

    Args:
        rewards: [P, N] rewards, columns in the order of sample_index; NaN where a sample was not scored.
        lengths: [P, N] characters.
        alpha: reward per character, from `fit_alpha`; 0 switches length control off.
        eligible: [P, N] false where a sample filter dropped the sample; all true when left out.
        text_codes: [P, N] equal within a row where texts are equal (see `text_codes`); all distinct when left out.
        minimal_margin: a pair's margin must be above it.
        upper_bound: a chosen sample must have a length-controlled reward below it.
        rule: what the chosen samples are paired with, and how many pairs a prompt gives at most (see `pair_rules`).

    Raises:
        ValueError: the arrays differ in shape, or minimal_margin is negative.
    """
    reward = np.asarray(rewards, dtype=np.float64)
    usable = np.ones(reward.shape, dtype=bool) if eligible is None else np.asarray(eligible, dtype=bool)
    if reward.ndim != 2 or not reward.shape == np.shape(lengths) == usable.shape:
        raise ValueError(f"rewards {reward.shape}, lengths {np.shape(lengths)} and eligible {usable.shape} must match")
    if not minimal_margin >= 0:
        raise ValueError(f"minimal_margin is {minimal_margin}: it must be at least 0, so that chosen beats rejected")
    if not reward.size:
        entries = len(reward) * rule.pairs
        nothing, none = np.full(entries, -1), np.full(entries, np.nan)
        return PairSelection((NO_SURVIVOR,) * entries, nothing, nothing, none, none, usable, rule.pairs)
    controlled = length_controlled(reward, lengths, alpha)
    finite = usable & np.isfinite(reward)
    candidates = pair_candidates(reward, eligible=usable, text_codes=text_codes)
    pairs = _pairs(controlled, candidates, rule, upper_bound)
    whole = pairs if upper_bound == math.inf else _pairs(controlled, candidates, rule, math.inf)
    reason = _reasons(usable, finite, candidates, (whole, pairs), minimal_margin)
    kept = reason == ""
    return PairSelection(
        reason=tuple(reason.ravel().tolist()),
        chosen_index=np.where(kept, pairs.chosen, -1).ravel(),
        rejected_index=np.where(kept, pairs.rejected, -1).ravel(),
        chosen_reward=np.where(kept, pairs.best, np.nan).ravel(),
        rejected_reward=np.where(kept, pairs.worst, np.nan).ravel(),
        duplicate=finite & ~candidates,
        pairs_per_prompt=rule.pairs,
    )


def pair_candidates(
    rewards: ArrayLike, *, eligible: ArrayLike | None = None, text_codes: ArrayLike | None = None
) -> Bools:
    """[P, N] the samples that pairs are selected among: eligible, with a finite reward, the first of their text.

    `fit_alpha` gets NaN for all others, or alpha would make other pairs equally long than those that are selected.
    Arguments as of `select_pairs`.
    """
    reward = np.asarray(rewards, dtype=np.float64)
    candidates: Bools = np.isfinite(reward)
    if eligible is not None:
        candidates &= np.asarray(eligible, dtype=bool)
    if text_codes is None:
        return candidates
    code = np.asarray(text_codes)
    if code.shape != candidates.shape:
        raise ValueError(f"text_codes {code.shape} must have the shape of rewards {candidates.shape}")
    # Equal codes side by side, candidates before the others: a dropped sample does not stand for its text, so that only an earlier
    # candidate makes a later one a duplicate. Sorting takes no more time for the thousand columns of a pool than for each of them.
    order = np.lexsort((~candidates, code))
    same = np.take_along_axis(code, order, axis=1)
    taken = np.take_along_axis(candidates, order, axis=1)
    repeated = np.zeros(candidates.shape, dtype=bool)
    repeated[:, 1:] = (same[:, 1:] == same[:, :-1]) & taken[:, 1:] & taken[:, :-1]
    duplicate = np.zeros(candidates.shape, dtype=bool)
    np.put_along_axis(duplicate, order, repeated, axis=1)
    candidates[duplicate] = False
    return candidates


def text_codes(texts: Sequence[Sequence[str]]) -> Ints:
    """[P, N] codes of P rows of N texts: the first column of the row with the same text."""
    codes = []
    for row in texts:
        first: dict[str, int] = {}
        codes.append([first.setdefault(text, column) for column, text in enumerate(row)])
    return np.asarray(codes, dtype=np.int64)


def near_duplicate(chosen: str, rejected: str, threshold: float) -> bool:
    """Whether two texts are at least threshold (0 to 1) similar: `1 - edits / (|chosen| + |rejected|)`.

    Edits are insertions and deletions of characters (normalised Indel similarity; difflib's `ratio` approximates it).
    """
    from rapidfuzz.distance import Indel

    return Indel.normalized_similarity(chosen, rejected, score_cutoff=threshold) >= threshold


def _pairs(controlled: Floats, candidates: Bools, rule: PairRule, upper_bound: float) -> _Pairs:
    """The pairs of every prompt; the bound limits the chosen end alone."""
    chosen, rejected = pair_ends(controlled, candidates, rule, upper_bound)
    return _Pairs(chosen, rejected, at_columns(controlled, chosen), at_columns(controlled, rejected))


def _reasons(
    usable: Bools, finite: Bools, candidates: Bools, pairs: tuple[_Pairs, _Pairs], minimal_margin: float
) -> Strings:
    """[P, K] the first reason that holds, empty for a pair that is kept. pairs: without the upper bound, and with it."""
    whole, bounded = pairs
    further = np.arange(bounded.chosen.shape[1])[None, :]
    conditions = [
        (NO_SURVIVOR, usable.sum(axis=1, keepdims=True) == 0),
        (ONE_SURVIVOR, usable.sum(axis=1, keepdims=True) == 1),
        (NOT_FINITE, finite.sum(axis=1, keepdims=True) < 2),
        (IDENTICAL, candidates.sum(axis=1, keepdims=True) < 2),
        (FEW_SAMPLES, further >= np.maximum(candidates.sum(axis=1, keepdims=True) // 2, 1)),
        # Whether the margin would be wide enough without the bound comes before the bound: the first reason is the one to act on.
        (MARGIN, ~(whole.margin > minimal_margin)),
        (UPPER_BOUND, ~(bounded.margin > 0)),
        (MARGIN, ~(bounded.margin > minimal_margin)),
    ]
    shape = bounded.chosen.shape
    every = [np.broadcast_to(holds, shape) for _, holds in conditions]
    return np.select(every, [reason for reason, _ in conditions], default="")
