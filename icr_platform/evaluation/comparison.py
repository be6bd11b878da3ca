"""Comparisons between two models or iterations that were judged on the same prompts.

Everything is paired by prompt id: the difference of two models on one prompt varies far less than either win rate. An example, one
language and three prompts, each judged in both orders (preferences for the model, NaN where the judge failed):

    prompt   before        after         mean before   mean after   difference
    a        0.0, 0.2      0.8, 1.0      0.1           0.9           0.8
    b        1.0, 0.8      0.4, 0.6      0.9           0.5          -0.4     a flip: win -> tie, a regression
    c        0.5, 0.5      1.0, NaN      0.5           none          -       one order alone counts for nothing: unpaired

The win rates over a and b are 50 and 70 percent, the difference is 20 points with n = 2 and n_unpaired = 1, and what is resampled
are the differences 80 and -40, never the twelve judgments: those of one prompt are not independent.

>>> before = LanguageJudgments(["a", "a", "b", "b", "c", "c"], [0.0, 0.2, 1.0, 0.8, 0.5, 0.5])
>>> after = LanguageJudgments(["a", "a", "b", "b", "c", "c"], [0.8, 1.0, 0.4, 0.6, 1.0, math.nan])
>>> found = win_rate_difference(before, after)
>>> round(found.before), round(found.after), round(found.difference), found.n, found.n_unpaired
(50, 70, 20, 2, 1)
>>> [(flip.prompt_id, flip.kind, flip.after_verdict) for flip in flipped_prompts({"es": before}, {"es": after})]
[('b', 'regression', 'tie'), ('a', 'improvement', 'win')]
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from icr_platform.core.arrays import Floats
from icr_platform.evaluation.prompt_preferences import preferences_by_prompt
from icr_platform.evaluation.win_rate import (
    Columns,
    checked_preferences,
    length_controlled_replicates,
    length_controlled_win_rate,
)

WinTieLoss = Literal["win", "tie", "loss"]
_VALUES_AT_A_TIME = 1_000_000
_OTHERS = ("candidate_length", "reference_length", "difficulty")


@dataclass(frozen=True)
class LanguageJudgments:
    """Judgments of one model in one language, one row each; rows of one prompt (orders, judges, samples) are averaged.

    A sample with a failed row is left out, see `prompt_preferences.preferences_by_prompt`.
    """

    prompt_id: Sequence[str]
    preference: ArrayLike
    """[rows] in [0, 1], 1 where the model beats the reference; NaN where the judge failed."""
    candidate_length: ArrayLike | None = None
    """[rows] characters; needed, with reference_length, for length-controlled differences only."""
    reference_length: ArrayLike | None = None
    """[rows] characters."""
    difficulty: ArrayLike | None = None
    """[rows] of the prompt; without it the length-controlled difference is of the minimal variant."""
    sample_index: Sequence[int] | None = None
    """[rows] of the prompt's output; without it all rows of a prompt judge one output."""


@dataclass(frozen=True)
class Difference:
    """After minus before over the prompts that both were judged on; rates in percent, differences in points."""

    before: float
    after: float
    difference: float
    standard_error: float
    low: float
    """Lower end of the confidence interval; NaN under two prompts or where nothing varies."""
    high: float
    p_value: float
    """Two-sided, of no difference; NaN under two prompts or where nothing varies."""
    n: int
    """Prompts compared."""
    n_unpaired: int
    """Prompts that either lacks, or has no preference on."""


@dataclass(frozen=True)
class LanguageDifference:
    language: str
    difference: Difference
    adjusted_p_value: float
    """Holm's, over the languages compared."""


@dataclass(frozen=True)
class Flip:
    """A prompt on which the verdict against the reference changed."""

    language: str
    prompt_id: str
    kind: Literal["regression", "improvement"]
    before_verdict: WinTieLoss
    after_verdict: WinTieLoss
    before: float
    """Mean preference in [0, 1] over the prompt's judgments."""
    after: float


class MeanInterval(NamedTuple):
    """A mean with its standard error, confidence interval and two-sided p-value, in the unit of the values."""

    mean: float
    standard_error: float
    low: float
    high: float
    p_value: float


class _PairedPrompts(NamedTuple):
    """Prompts both models have a preference on, in the order of the first.

    Tables [n, 4]: preference, candidate length, reference length, difficulty; NaN where not given.
    """

    prompt_id: list[str]
    before: Floats
    after: Floats
    n_unpaired: int


def win_rate_difference(
    before: LanguageJudgments,
    after: LanguageJudgments,
    *,
    confidence: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> Difference:
    """Difference of the win rates, with a studentised paired bootstrap over prompts (see `bootstrap_mean`)."""
    pairs = _pair(before, after)
    preference_before, preference_after = 100 * pairs.before[:, 0], 100 * pairs.after[:, 0]
    interval = bootstrap_mean(
        preference_after - preference_before, limits=(-100.0, 100.0),
        confidence=confidence, resamples=resamples, seed=seed,
    )  # fmt: skip
    return Difference(
        before=_mean(preference_before),
        after=_mean(preference_after),
        difference=interval.mean,
        standard_error=interval.standard_error,
        low=interval.low,
        high=interval.high,
        p_value=interval.p_value,
        n=len(pairs.prompt_id),
        n_unpaired=pairs.n_unpaired,
    )


def length_controlled_difference(
    before: LanguageJudgments,
    after: LanguageJudgments,
    *,
    anchors: Columns | None = None,
    C: float = 10.0,
    confidence: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> Difference:
    """Difference of the length-controlled win rates; both regressions are refitted on every resample of the prompts.

    The interval and the p-value are those of the percentile bootstrap.

    Raises:
        ValueError: judgments without lengths, or with difficulty on one side only.
    """
    if any(side.candidate_length is None or side.reference_length is None for side in (before, after)):
        raise ValueError("length-controlled differences need candidate_length and reference_length on both sides")
    if (before.difficulty is None) != (after.difficulty is None):
        raise ValueError("difficulty is given for one side only: the two variants do not compare")
    pairs = _pair(before, after)
    n, with_difficulty = len(pairs.prompt_id), before.difficulty is not None
    if with_difficulty and not np.isfinite([side[:, 3] for side in (pairs.before, pairs.after)]).all():
        with_difficulty, anchors = False, None  # one variant for both sides, and the one that win_rate.py fits
    rows = np.random.default_rng(seed).integers(0, max(n, 1), (resamples, n))
    rates, replicates = [], []
    for side in (pairs.before, pairs.after):
        preference, candidate, reference, difficulty = side.T
        term = difficulty if with_difficulty else None
        rates.append(length_controlled_win_rate(preference, candidate, reference, term, anchors, C).win_rate)
        replicates.append(length_controlled_replicates(preference, candidate, reference, rows, term, anchors, C))
    change = replicates[1] - replicates[0]
    varies = n > 1 and np.ptp(change) > 0
    low, high = np.quantile(change, [(1 - confidence) / 2, (1 + confidence) / 2]) if varies else (math.nan, math.nan)
    # Both the observed sample and the resamples are counted (Davison and Hinkley, 1997): a p-value is never 0.
    tail = 1 + min(int((change <= 0).sum()), int((change >= 0).sum()))
    return Difference(
        before=rates[0],
        after=rates[1],
        difference=rates[1] - rates[0],
        standard_error=float(change.std(ddof=1)) if varies else math.nan,
        low=float(low),
        high=float(high),
        p_value=min(1.0, 2 * tail / (resamples + 1)) if varies else math.nan,
        n=n,
        n_unpaired=pairs.n_unpaired,
    )


def compare_languages(
    before: Mapping[str, LanguageJudgments],
    after: Mapping[str, LanguageJudgments],
    estimate: Callable[[LanguageJudgments, LanguageJudgments], Difference] = win_rate_difference,
) -> tuple[LanguageDifference, ...]:
    """Differences in every language both models were judged in, with p-values adjusted over those languages.

    `estimate` is `win_rate_difference` or `length_controlled_difference`, with `functools.partial` for other settings.
    """
    languages = [language for language in before if language in after]
    differences = [estimate(before[language], after[language]) for language in languages]
    adjusted = holm([difference.p_value for difference in differences])
    return tuple(map(LanguageDifference, languages, differences, adjusted.tolist()))


def flipped_prompts(
    before: Mapping[str, LanguageJudgments], after: Mapping[str, LanguageJudgments]
) -> tuple[Flip, ...]:
    """Prompts whose verdict (win above one half, tie at it, loss below) changed, the greatest losses first."""
    flips = []
    for language in (language for language in before if language in after):
        pairs = _pair(before[language], after[language])
        for prompt_id, first, second in zip(pairs.prompt_id, pairs.before[:, 0], pairs.after[:, 0], strict=True):
            if _win_tie_loss(first) != _win_tie_loss(second):
                kind: Literal["regression", "improvement"] = "regression" if second < first else "improvement"
                verdicts = _win_tie_loss(first), _win_tie_loss(second)
                flips.append(Flip(language, prompt_id, kind, *verdicts, float(first), float(second)))
    return tuple(sorted(flips, key=lambda flip: flip.after - flip.before))


def head_to_head(
    judgments: LanguageJudgments, *, confidence: float = 0.95, resamples: int = 10_000, seed: int = 0
) -> MeanInterval:
    """Win rate of one model judged directly against another, in percent; the p-value is of 50."""
    return bootstrap_mean(
        100 * judged_preferences(judgments),
        null=50.0,
        limits=(0.0, 100.0),
        confidence=confidence,
        resamples=resamples,
        seed=seed,
    )


def bootstrap_mean(
    values: ArrayLike,
    *,
    null: float = 0.0,
    limits: tuple[float, float] = (-math.inf, math.inf),
    confidence: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> MeanInterval:
    """Mean of independent values [n] with a symmetric studentised bootstrap interval and p-value.

    Studentised (Hall, The Bootstrap and Edgeworth Expansion, 1992), because most prompts do not change between two
    iterations: with few changes among a hundred prompts the percentile interval is too narrow. The p-value comes from
    the same |t|, so that it falls below 1 - confidence where the interval leaves null out. Where only a handful of values
    differ from the rest it errs on the wide side, because resamples that miss them all hardly vary. Where so few do that |t| has
    no bound, the interval is what exact bounds (Clopper and Pearson, 1934) on the shares of values above and below null allow, if each
    of these went as far as `limits`.
    """
    sample = np.asarray(values, dtype=np.float64)
    n = len(sample)
    mean, spread = _mean(sample), float(sample.std(ddof=1)) if n > 1 else math.nan
    # Where nothing varies there is no statistic: either every value is the null hypothesis', or no interval can be given.
    if n < 2 or spread == 0:
        known = n > 1 and mean == null
        end, p_value = (mean, 1.0) if known else (math.nan, math.nan)
        return MeanInterval(mean, spread, end, end, p_value)
    error = spread / math.sqrt(n)
    # |t| of resamples around the sample's mean: infinite where a resample does not vary though it lies elsewhere.
    generator, centred = np.random.default_rng(seed), sample - sample.mean()
    smallest = 1e-12 * float(np.abs(centred).max())
    at_a_time = max(1, _VALUES_AT_A_TIME // n)
    parts = []
    for first in range(0, resamples, at_a_time):
        drawn = centred[generator.integers(0, n, (min(at_a_time, resamples - first), n))]
        drawn_error = drawn.std(axis=1, ddof=1) / math.sqrt(n)
        away = np.abs(drawn.mean(axis=1))
        unvarying = np.where(away > smallest, math.inf, 0.0)
        parts.append(np.divide(away, drawn_error, out=unvarying, where=drawn_error > smallest))
    statistic = np.concatenate(parts)
    reach = float(np.quantile(statistic, confidence, method="higher")) * error
    extreme = int((statistic >= abs(mean - null) / error).sum())
    ends = mean - reach, mean + reach
    if math.isinf(reach):
        ends = (
            null - _most_of((sample < null).mean(), n, confidence) * (null - min(limits[0], sample.min())),
            null + _most_of((sample > null).mean(), n, confidence) * (max(limits[1], sample.max()) - null),
        )
    return MeanInterval(mean, error, max(ends[0], limits[0]), min(ends[1], limits[1]), (1 + extreme) / (resamples + 1))


def _most_of(share: float, n: int, confidence: float) -> float:
    """The upper end of the exact interval of a share of n.

    >>> round(_most_of(0.0, 120, 0.95), 4), _most_of(1.0, 120, 0.95)
    (0.0303, 1.0)
    """
    from scipy.special import betaincinv

    count = round(share * n)
    return float(betaincinv(count + 1, n - count, (1 + confidence) / 2)) if count < n else 1.0


def holm(p_values: ArrayLike) -> Floats:
    """P-values [m] adjusted for m comparisons (Holm, 1979); NaNs stay NaN and are not counted."""
    values = np.asarray(p_values, dtype=np.float64)
    known = np.flatnonzero(~np.isnan(values))
    order = known[np.argsort(values[known], kind="stable")]
    adjusted = np.full(values.shape, np.nan)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(values[order] * np.arange(len(order), 0, -1)))
    return adjusted


def _by_prompt(judgments: LanguageJudgments) -> dict[str, Floats]:
    """The prompts with a preference, in the order of the rows: [4] preference, lengths and difficulty, see `_PairedPrompts`."""
    size = len(judgments.prompt_id)
    others = (judgments.candidate_length, judgments.reference_length, judgments.difficulty)
    columns = [np.full(size, np.nan) if column is None else np.asarray(column, dtype=np.float64) for column in others]
    table = pd.DataFrame(
        np.column_stack([checked_preferences(judgments.preference), *columns]), columns=["preference", *_OTHERS]
    )
    samples = np.zeros(size, dtype=int) if judgments.sample_index is None else list(judgments.sample_index)
    keys = {"language": "", "prompt_id": list(judgments.prompt_id), "sample_index": samples}
    means = preferences_by_prompt(table.assign(**keys), _OTHERS).dropna(subset=["preference"])
    return dict(zip(means["prompt_id"], means[["preference", *_OTHERS]].to_numpy(dtype=float), strict=True))


def judged_preferences(judgments: LanguageJudgments) -> Floats:
    """[n] preferences of the prompts that have one."""
    return np.array([row[0] for row in _by_prompt(judgments).values()])


def _pair(before: LanguageJudgments, after: LanguageJudgments) -> _PairedPrompts:
    first, second = _by_prompt(before), _by_prompt(after)
    common = [prompt_id for prompt_id in first if prompt_id in second]
    asked = {*before.prompt_id, *after.prompt_id}  # a prompt without a preference on either side counts as unpaired too
    sides = [np.array([side[prompt_id] for prompt_id in common]).reshape(-1, 4) for side in (first, second)]
    return _PairedPrompts(common, sides[0], sides[1], len(asked) - len(common))


def _mean(values: Floats) -> float:
    return float(values.mean()) if len(values) else math.nan


def _win_tie_loss(preference: float) -> WinTieLoss:
    if preference == 0.5:
        return "tie"
    return "win" if preference > 0.5 else "loss"
