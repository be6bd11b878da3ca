"""Win rates against reference outputs, raw and length-controlled, as AlpacaEval 2 defines them.

Length control: "Length-Controlled AlpacaEval", arXiv 2404.04475. The preference for a model on a prompt is modelled as
`sigma(a * t + b * d + c)` with `t = tanh((reference length - candidate length) / sd)` and d the prompt's difficulty;
the length-controlled win rate is the mean prediction at `t = 0`.

An example without difficulties: eight prompts, outputs of 400 and 200 characters against references of 300.

    candidate is    prompts   won   t        log-odds of winning   of the fit a * t + c
    longer          5         4     -0.747   log(4 / 1) = 1.386    1.246
    shorter         3         1     +0.747   log(1 / 2) = -0.693   -0.668

Raw the candidate wins 5 of 8. Half-way between the two kinds, at t = 0, the log-odds are (1.386 - 0.693) / 2 = 0.347, which is 58.6%;
the L1 penalty of C = 10 draws both coefficients toward 0 (a = -1.281, c = 0.289) and makes it 57.2%.

>>> won, length = [1, 1, 1, 1, 0, 1, 0, 0], [400] * 5 + [200] * 3
>>> controlled = length_controlled_win_rate(won, length, [300] * 8)
>>> controlled.raw.win_rate, round(controlled.win_rate, 1), round(controlled.length_coefficient, 3)
(62.5, 57.2, -1.281)
"""

import math
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import ArrayLike

from icr_platform.core.arrays import Floats, Ints
from icr_platform.core.errors import InputError
from icr_platform.evaluation.l1_logistic import fit_l1_logistic, logistic

NO_PREFERENCES = "no-preferences"
TOO_FEW_PROMPTS = "too-few-prompts"
CONSTANT_PREFERENCE = "constant-preference"
MISSING_LENGTHS = "missing-lengths"
EQUAL_LENGTHS = "equal-length-differences"
INCOMPLETE_DIFFICULTY = "incomplete-difficulty"
ZERO_MODEL_TERM = "zero-model-term"

CROSS_VALIDATED = "cv"
_ANCHOR_COLUMNS = ("preference", "std_delta_len", "instruction_difficulty")
_ANCHOR_WEIGHT = 0.1  # AlpacaEval's regularize_to_baseline_lambda of 0.2, shared by its two gamed baselines
_FOLDS = 5
_CV_CANDIDATES = np.logspace(-4, 4, 10)
_REPLICATES_AT_A_TIME = 25


class Columns(Protocol):
    """A table by column name: a pandas or pyarrow table, or a mapping of arrays."""

    def __getitem__(self, name: str, /) -> Any: ...


@dataclass(frozen=True)
class WinRate:
    """Percent of prompts on which the candidate is preferred; every prompt is in n or in n_missing."""

    win_rate: float
    """Mean preference in percent; NaN without preferences."""
    standard_error: float
    """Sample standard deviation over sqrt(n), in percent; NaN for n < 2."""
    discrete_win_rate: float
    """Percent of preferences above one half, ties counted half."""
    wins: int
    ties: int
    losses: int
    n: int
    """Prompts with a preference."""
    n_missing: int
    """Prompts whose preference is NaN (the judge failed): left out of every rate."""


@dataclass(frozen=True)
class LengthControlledWinRate:
    """The win rate a candidate would have if its outputs were as long as the reference's."""

    win_rate: float
    """Percent; the raw win rate where `is_length_controlled` is false."""
    standard_error: float
    """Percent, as AlpacaEval publishes it: spread of the predictions over prompts. It ignores that the coefficients are
    estimated, and is 0 in the minimal variant, whose prediction is one number: see bootstrap_standard_error."""
    bootstrap_standard_error: float
    """Percent, over resampled prompts with the regression refitted; NaN when no bootstrap was asked for."""
    interval: tuple[float, float]
    """95% percentile interval of the bootstrap, in percent; NaNs when no bootstrap was asked for."""
    raw: WinRate
    variant: Literal["full", "minimal"]
    """`minimal` has no difficulty term; where difficulties are incomplete it has no anchors either."""
    flags: tuple[str, ...]
    """What was unusual about the input, e.g. `equal-length-differences`; usually empty."""
    is_length_controlled: bool
    """False where the input was degenerate and win_rate is the raw one; flags say why."""
    C: float
    """Inverse L1 penalty that was used, also where cross-validation chose it; NaN where nothing was fitted."""
    length_coefficient: float
    difficulty_coefficient: float
    model_coefficient: float
    anchors: int
    """Anchor rows in the fit."""


class _Regression(NamedTuple):
    """The prompts with a preference, and the anchors: features [m, K], targets [m]."""

    preference: Floats
    length_difference: Floats
    difficulty: Floats | None
    anchor_features: Floats
    anchor_targets: Floats

    @property
    def terms(self) -> int:
        return 2 if self.difficulty is None else 3


class _Estimate(NamedTuple):
    """A fit to the whole sample; coefficients [K] and C are NaN, and the rates raw, where the input is degenerate."""

    win_rate: float
    standard_error: float
    C: float
    coefficients: Floats


def win_rate(preference: ArrayLike) -> WinRate:
    """Win rate of preferences in [0, 1] (1: the candidate wins); NaN where the judge gave none.

    Raises:
        InputError: a preference lies outside [0, 1].
    """
    values = checked_preferences(preference)
    scored = values[np.isfinite(values)]
    n, wins, ties = len(scored), int((scored > 0.5).sum()), int((scored == 0.5).sum())
    return WinRate(
        win_rate=100 * float(scored.mean()) if n else math.nan,
        standard_error=_standard_error(scored),
        discrete_win_rate=100 * (wins + ties / 2) / n if n else math.nan,
        wins=wins,
        ties=ties,
        losses=n - wins - ties,
        n=n,
        n_missing=len(values) - n,
    )


def length_controlled_win_rate(
    preference: ArrayLike,
    candidate_length: ArrayLike,
    reference_length: ArrayLike,
    difficulty: ArrayLike | None = None,
    anchors: Columns | None = None,
    C: float | Literal["cv"] = 10.0,
    *,
    bootstrap: int = 0,
    seed: int = 0,
) -> LengthControlledWinRate:
    """AlpacaEval 2's length-controlled win rate, in percent.

    Degenerate input (no or constant preferences, no more prompts than coefficients, missing lengths, one and the same
    length difference everywhere) gives the raw win rate with a flag.

    Args:
        preference: [n] in [0, 1], 1 where the candidate wins; NaN rows are left out and counted.
        candidate_length: [n] characters of the candidate's outputs.
        reference_length: [n] characters of the reference outputs.
        difficulty: [n] of each row's prompt (join by prompt id); without it, or where a row with a preference has none, the
            `minimal` variant is fitted.
        anchors: AlpacaEval's gamed baselines, columns preference in [0, 1], std_delta_len, instruction_difficulty. They leave with a
            difficulty term that is dropped, for their preferences follow from difficulty as well as from length.
        C: inverse strength of the L1 penalty; "cv" chooses it as AlpacaEval does, by 5-fold cross-validation over 10
            values, a choice that flips on differences of 1e-6 in the preferences.
        bootstrap: resamples of the prompts for bootstrap_standard_error and interval; the anchors stay as they are,
            and C as well.
        seed: of the bootstrap.

    Raises:
        InputError: a preference outside [0, 1], an anchor column missing or not a number, C not above 0.
        ValueError: arrays of different lengths.
    """
    raw = win_rate(preference)
    problem, flags = _regression(preference, candidate_length, reference_length, difficulty, anchors)
    fit, reason = _estimate(problem, raw, C)
    rows = np.random.default_rng(seed).integers(0, max(raw.n, 1), (bootstrap, raw.n))
    replicates = _replicates(problem, rows, fit.C, None if reason else fit.coefficients)
    low, high = np.quantile(replicates, [0.025, 0.975]) if bootstrap else (math.nan, math.nan)
    return LengthControlledWinRate(
        win_rate=fit.win_rate,
        standard_error=fit.standard_error,
        bootstrap_standard_error=float(replicates.std(ddof=1)) if bootstrap > 1 else math.nan,
        interval=(float(low), float(high)),
        raw=raw,
        variant="minimal" if problem.difficulty is None else "full",
        flags=(*flags, *([reason] if reason else []), *([ZERO_MODEL_TERM] if fit.coefficients[-1] == 0 else [])),
        is_length_controlled=not reason,
        C=fit.C,
        length_coefficient=float(fit.coefficients[0]),
        difficulty_coefficient=math.nan if problem.difficulty is None else float(fit.coefficients[1]),
        model_coefficient=float(fit.coefficients[-1]),
        anchors=len(problem.anchor_targets),
    )


def length_controlled_replicates(
    preference: ArrayLike,
    candidate_length: ArrayLike,
    reference_length: ArrayLike,
    rows: Ints,
    difficulty: ArrayLike | None = None,
    anchors: Columns | None = None,
    C: float = 10.0,
) -> Floats:
    """Length-controlled win rates [B], in percent, of resamples rows [B, n] of n prompts, each refitted.

    Every preference must be finite; arguments are those of `length_controlled_win_rate`. Where the whole sample is
    degenerate, the resamples' raw win rates. Two models resampled with the same rows give paired replicates.
    """
    problem, _ = _regression(preference, candidate_length, reference_length, difficulty, anchors)
    if len(problem.preference) != len(np.asarray(preference)):
        raise ValueError("resampled preferences must be finite: leave prompts without one out first")
    if _degenerate(problem):
        return _replicates(problem, rows, math.nan)
    start = _fit(problem, np.arange(len(problem.preference))[None], _positive(C))[0]
    return _replicates(problem, rows, C, start)


def checked_preferences(preference: ArrayLike) -> Floats:
    """Preferences [n] as float64, NaN included; InputError where one lies outside [0, 1]."""
    values = np.asarray(preference, dtype=np.float64)
    if values.ndim != 1:
        raise ValueError(f"preference has shape {values.shape}: give one value a prompt")
    wrong = np.flatnonzero((values < 0) | (values > 1))
    if len(wrong):
        row = int(wrong[0])
        raise InputError(f"row {row}: preference is {values[row]}: give it in [0, 1], 1 where the candidate wins")
    return values


def _positive(C: float | str) -> float:
    if isinstance(C, str) or not C > 0:
        raise InputError(f'C is {C!r}: give a number above 0, or "cv"')
    return float(C)


def _standard_error(values: Floats) -> float:
    """Of the mean, in percent."""
    return 100 * float(values.std(ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else math.nan


def _regression(
    preference: ArrayLike,
    candidate_length: ArrayLike,
    reference_length: ArrayLike,
    difficulty: ArrayLike | None,
    anchors: Columns | None,
) -> tuple[_Regression, tuple[str, ...]]:
    """The regression of the prompts that have a preference, and flags of what is left out of it."""
    values = checked_preferences(preference)
    scored = np.isfinite(values)
    columns = [np.asarray(column, dtype=np.float64) for column in (candidate_length, reference_length)]
    term = None if difficulty is None else np.asarray(difficulty, dtype=np.float64)
    if any(column.shape != values.shape for column in [*columns, *([] if term is None else [term])]):
        raise ValueError(f"lengths and difficulty must have one value for each of the {len(values)} preferences")
    flags: tuple[str, ...] = ()
    features, targets = _anchor_rows(anchors, with_difficulty=term is not None)
    if term is not None and not np.isfinite(term[scored]).all():
        # The anchors go with the term: their preferences follow from difficulty as well, and would bend the length coefficient.
        term, flags = None, (INCOMPLETE_DIFFICULTY,)
        features, targets = _anchor_rows(None, with_difficulty=False)
    difference = (columns[1] - columns[0])[scored]
    return _Regression(values[scored], difference, None if term is None else term[scored], features, targets), flags


def check_anchors(anchors: Columns) -> None:
    """Raise InputError where `length_controlled_win_rate` would, that is, after everything was judged."""
    if not len(_anchor_rows(anchors, with_difficulty=True)[1]):
        raise InputError("anchors: no rows: give the baselines' annotations")


def _anchor_rows(anchors: Columns | None, with_difficulty: bool) -> tuple[Floats, Floats]:
    """Features [m, K] and targets [m] of the anchors; their model term is 0."""
    if anchors is None:
        return np.empty((0, 3 if with_difficulty else 2)), np.empty(0)
    columns = {}
    for name in _ANCHOR_COLUMNS if with_difficulty else _ANCHOR_COLUMNS[:2]:
        try:
            columns[name] = np.asarray(anchors[name], dtype=np.float64)
        except (KeyError, ValueError, TypeError) as error:
            raise InputError(
                f"anchors: column {name} is missing or not a number: {', '.join(_ANCHOR_COLUMNS)} are needed"
            ) from error
        if not np.isfinite(columns[name]).all():
            row = int(np.flatnonzero(~np.isfinite(columns[name]))[0])
            raise InputError(f"anchors: row {row}: {name} is not a finite number")
    targets = columns.pop("preference")
    wrong = np.flatnonzero((targets < 0) | (targets > 1))
    if len(wrong):  # AlpacaEval's annotations count from 1 to 2
        raise InputError(
            f"anchors: row {wrong[0]}: preference is {targets[wrong[0]]}: give it in [0, 1], 1 where the baseline wins"
        )
    columns["std_delta_len"] = np.tanh(columns["std_delta_len"])  # standardised in the file already
    return np.column_stack([*columns.values(), np.zeros(len(targets))]), targets


def _estimate(problem: _Regression, raw: WinRate, C: float | Literal["cv"]) -> tuple[_Estimate, str]:
    """The estimate, and why it is the raw win rate (empty where it is not)."""
    strength = C if C == CROSS_VALIDATED else _positive(C)
    reason = _degenerate(problem)
    if reason:
        return _Estimate(raw.win_rate, raw.standard_error, math.nan, np.full(problem.terms, math.nan)), reason
    used = _cross_validate(problem) if isinstance(strength, str) else strength
    rows = np.arange(raw.n)[None]
    coefficients = _fit(problem, rows, used)[0]
    predictions = _predict(problem, rows, coefficients)[0]
    return _Estimate(100 * float(predictions.mean()), _standard_error(predictions), used, coefficients), ""


def _degenerate(problem: _Regression) -> str:
    """Why no length-controlled win rate can be fitted; empty where it can."""
    if not len(problem.preference):
        return NO_PREFERENCES
    if len(problem.preference) <= problem.terms:
        return TOO_FEW_PROMPTS
    if np.ptp(problem.preference) == 0:
        return CONSTANT_PREFERENCE
    if not np.isfinite(problem.length_difference).all():
        return MISSING_LENGTHS
    return EQUAL_LENGTHS if np.ptp(problem.length_difference) == 0 else ""


def _design(problem: _Regression, rows: Ints) -> tuple[Floats, Floats, Floats]:
    """Features [B, m + n, K], targets [B, m + n] and weights [1, m + n] of resamples rows [B, n], anchors first."""
    # Each resample is standardised by its own spread, as AlpacaEval standardises the whole sample.
    difference = problem.length_difference[rows]
    spread = difference.std(axis=1, ddof=1, keepdims=True)
    terms = [np.tanh(np.divide(difference, spread, out=np.zeros_like(difference), where=spread > 0))]
    if problem.difficulty is not None:
        terms.append(problem.difficulty[rows])
    own = np.stack([*terms, np.ones(rows.shape)], axis=-1)
    anchors, count = problem.anchor_features, len(problem.anchor_targets)
    features = np.concatenate([np.broadcast_to(anchors, (len(rows), *anchors.shape)), own], axis=1)
    anchor_targets = np.broadcast_to(problem.anchor_targets, (len(rows), count))
    targets = np.concatenate([anchor_targets, problem.preference[rows]], axis=1)
    weights = np.concatenate([np.full(count, _ANCHOR_WEIGHT), np.ones(rows.shape[1])])[None]
    return features, targets, weights


def _fit(problem: _Regression, rows: Ints, C: float, start: Floats | None = None) -> Floats:
    """Coefficients [B, K] (length, difficulty unless minimal, model) of resamples rows [B, n]."""
    return fit_l1_logistic(*_design(problem, rows), np.full(len(rows), 1 / C), start)


def _predict(problem: _Regression, rows: Ints, coefficients: Floats) -> Floats:
    """Preferences [B, n] at equal lengths under coefficients [K] or [B, K]."""
    # t = 0: the length term drops out, whatever its coefficient.
    score = np.broadcast_to(coefficients[..., -1:], rows.shape)
    if problem.difficulty is not None:
        score = score + problem.difficulty[rows] * coefficients[..., 1:2]
    return logistic(score)


def _replicates(problem: _Regression, rows: Ints, C: float, start: Floats | None = None) -> Floats:
    """Length-controlled win rates [B] of resamples in percent; raw ones without a starting fit."""
    rates = np.empty(len(rows))
    for first in range(0, len(rows), _REPLICATES_AT_A_TIME):
        some = rows[first : first + _REPLICATES_AT_A_TIME]
        if start is None:
            predictions = problem.preference[some]
        else:
            predictions = _predict(problem, some, _fit(problem, some, C, start))
        rates[first : first + len(some)] = 100 * predictions.mean(axis=1) if some.size else math.nan
    return rates


def _cross_validate(problem: _Regression) -> float:
    """AlpacaEval's choice: scikit-learn's GroupKFold over anchors and prompts, the lowest mean log loss wins."""
    features, targets, weights = _design(problem, np.arange(len(problem.preference))[None])
    rows = targets.shape[1]
    # Groups of equal size: GroupKFold deals them out from the last to the first, in turn.
    fold = (rows - 1 - np.arange(rows)) % _FOLDS
    held_out = fold == np.arange(_FOLDS)[:, None]
    penalty = np.tile(1 / _CV_CANDIDATES, _FOLDS)
    # All folds and candidates are fitted at once; a row that is held out weighs nothing.
    training = np.repeat(np.where(held_out, 0.0, weights), len(_CV_CANDIDATES), axis=0)
    coefficients = fit_l1_logistic(features, targets, training, penalty)
    predicted = np.clip(logistic(features[0] @ coefficients.T).T, 1e-15, 1 - 1e-15)
    loss = -weights * (targets * np.log(predicted) + (1 - targets) * np.log1p(-predicted))
    by_fold = loss.reshape(_FOLDS, len(_CV_CANDIDATES), rows)
    means = (by_fold * held_out[:, None]).sum(axis=2) / held_out.sum(axis=1)[:, None]
    return float(_CV_CANDIDATES[means.mean(axis=0).argmin()])
