"""Preference pairs: of each prompt the responses with the highest and the lowest length-controlled reward."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from icr_platform.annotation.length_control import extremes, length_controlled
from icr_platform.core.arrays import Bools, Floats, Ints, Strings

NO_SURVIVOR = "no-survivor"
ONE_SURVIVOR = "one-survivor"
NOT_FINITE = "nan"
IDENTICAL = "identical"
MARGIN = "margin"
UPPER_BOUND = "upper-bound"
DROP_REASONS = (NO_SURVIVOR, ONE_SURVIVOR, NOT_FINITE, IDENTICAL, MARGIN, UPPER_BOUND)


@dataclass(frozen=True)
class PairSelection:
    """One entry per prompt, kept or dropped: `kept.sum() + sum(drop_counts().values()) == P`."""

    reason: tuple[str, ...]
    """[P] why the prompt gives no pair, one of DROP_REASONS; empty for a kept one."""
    chosen_index: Ints
    """[P] column of the chosen sample, -1 where dropped."""
    rejected_index: Ints
    """[P] column of the rejected sample, -1 where dropped."""
    chosen_reward: Floats
    """[P] length-controlled reward of the chosen sample, NaN where dropped."""
    rejected_reward: Floats
    """[P] length-controlled reward of the rejected sample, NaN where dropped."""
    duplicate: Bools
    """[P, N] samples that are not candidates because an earlier candidate of the prompt has the same text."""

    @property
    def kept(self) -> Bools:
        """[P] prompts that give a pair."""
        return self.chosen_index >= 0

    @property
    def margin(self) -> Floats:
        """[P] chosen minus rejected length-controlled reward, > 0; NaN where dropped."""
        return self.chosen_reward - self.rejected_reward

    def drop_counts(self) -> dict[str, int]:
        """Dropped prompts by reason, reasons that did not occur included."""
        return {reason: self.reason.count(reason) for reason in DROP_REASONS}


class _Ends(NamedTuple):
    """Columns and values of each row's ends, each [P]; -inf and inf where a row has no such sample."""

    chosen: Ints
    best: Floats
    """Of the highest candidate below the upper bound."""
    rejected: Ints
    worst: Floats
    """Of the lowest candidate."""
    highest: Floats
    """Of the highest candidate, whatever the bound."""


def select_pairs(
    rewards: ArrayLike,
    lengths: ArrayLike,
    alpha: float,
    *,
    eligible: ArrayLike | None = None,
    text_codes: ArrayLike | None = None,
    minimal_margin: float = 0.0,
    upper_bound: float = math.inf,
) -> PairSelection:
    """Chosen = argmax, rejected = argmin of `rewards - alpha * lengths` (ICR, arXiv 2503.04647, section 3).

    Candidates are eligible samples with a finite reward; of samples with one text only the first is a candidate, so
    that chosen and rejected differ in text. Among equal rewards the first column wins. A prompt is dropped by the first
    reason that holds: `no-survivor` (nothing eligible), `one-survivor`, `nan` (under two finite rewards), `identical`
    (one text only), `margin` (all rewards equal, or the margin is not above minimal_margin), `upper-bound` (nothing
    better than the rejected sample lies below the bound).

    Args:
        rewards: [P, N] implicit rewards, columns in the order of sample_index; NaN where a sample was not scored.
        lengths: [P, N] characters.
        alpha: reward per character, from `fit_alpha`; 0 switches length control off.
        eligible: [P, N] false where a sample filter dropped the sample; all true when left out.
        text_codes: [P, N] equal within a row where texts are equal (see `text_codes`); all distinct when left out.
        minimal_margin: a pair's margin must be above it.
        upper_bound: a chosen sample must have a length-controlled reward below it.

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
        nothing, none = np.full(len(reward), -1), np.full(len(reward), np.nan)
        return PairSelection((NO_SURVIVOR,) * len(reward), nothing, nothing, none, none, usable)
    controlled = length_controlled(reward, lengths, alpha)
    finite = usable & np.isfinite(reward)
    candidates = pair_candidates(reward, eligible=usable, text_codes=text_codes)
    ends = _ends(controlled, candidates, upper_bound)
    reason = _reasons(usable, finite, candidates, ends, minimal_margin)
    kept = reason == ""
    return PairSelection(
        reason=tuple(reason.tolist()),
        chosen_index=np.where(kept, ends.chosen, -1),
        rejected_index=np.where(kept, ends.rejected, -1),
        chosen_reward=np.where(kept, ends.best, np.nan),
        rejected_reward=np.where(kept, ends.worst, np.nan),
        duplicate=finite & ~candidates,
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
    duplicate = np.zeros(candidates.shape, dtype=bool)
    for column in range(1, code.shape[1]):
        # A dropped sample does not stand for its text: only earlier candidates make a later one a duplicate.
        same = (code[:, :column] == code[:, column, None]) & candidates[:, :column]
        duplicate[:, column] = same.any(axis=1)
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


def _ends(controlled: Floats, candidates: Bools, upper_bound: float) -> _Ends:
    """Find both ends of every prompt; the bound limits the chosen end alone."""
    bounded = candidates & (controlled < upper_bound)
    chosen = extremes(controlled, bounded).highest
    rejected = extremes(controlled, candidates).lowest
    rows = np.arange(len(controlled))
    return _Ends(
        chosen=chosen,
        best=np.where(bounded[rows, chosen], controlled[rows, chosen], -np.inf),
        rejected=rejected,
        worst=np.where(candidates[rows, rejected], controlled[rows, rejected], np.inf),
        highest=np.where(candidates, controlled, -np.inf).max(axis=1),
    )


def _reasons(usable: Bools, finite: Bools, candidates: Bools, ends: _Ends, minimal_margin: float) -> Strings:
    """[P] the first reason that holds, empty for a kept prompt."""
    conditions = [
        (NO_SURVIVOR, usable.sum(axis=1) == 0),
        (ONE_SURVIVOR, usable.sum(axis=1) == 1),
        (NOT_FINITE, finite.sum(axis=1) < 2),
        (IDENTICAL, candidates.sum(axis=1) < 2),
        # Whether the margin would be wide enough without the bound comes before the bound: the first reason is the one to act on.
        (MARGIN, ~(ends.highest - ends.worst > minimal_margin)),
        (UPPER_BOUND, ~(ends.best > ends.worst)),
        (MARGIN, ~(ends.best - ends.worst > minimal_margin)),
    ]
    return np.select([holds for _, holds in conditions], [reason for reason, _ in conditions], default="")
