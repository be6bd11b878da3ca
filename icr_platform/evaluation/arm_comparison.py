"""Two or more sides of a comparison, each of one or several runs (seeds), paired by prompt. Pure.

A side has values per item: a preference of 0 to 100 on a prompt, 100 or 0 for an instruction that is followed or not, the reward's 100, 50
or 0 on a labelled pair. Only items that every run of both sides has are compared. Items of one prompt are not independent, in
whichever languages they are: prompts are what is counted.

An example, one language, two prompts, and two seeds of each side; both sides have the seeds 1 and 2, so that they are paired by seed too:

    prompt   first, seeds 1 and 2   second, seeds 1 and 2   differences   mean of the prompt
    a        40, 60                 60, 70                  20, 10        15
    b        50, 50                 40, 50                  -10, 0        -5
    mean                                                    5, 5          5      (mean of each seed, mean of all)

>>> def side(*columns):
...     keys = pd.MultiIndex.from_tuples([("es", "a", ""), ("es", "b", "")], names=KEYS)
...     return Runs([pd.Series(column, keys, dtype=float) for column in columns], (1, 2))
>>> pairs = pair_items(side([40, 50], [60, 50]), side([60, 40], [70, 50]))
>>> found = difference(pairs, ["es"])
>>> found.first, found.second, found.difference, found.n, found.standard_error
(50.0, 55.0, 5.0, 2, 10.0)

The two means of 5 do not vary, so that seeds add nothing here, and the standard error is that of the prompts' means 15 and -5.

**One run on each side**: the interval and the p-value are those that the rest of the platform gives for the same numbers: a studentised
bootstrap over prompts, McNemar's exact test for prompts that follow their instructions, the exact sign-flip test for rewards. They
speak of these two runs.

**Several runs on a side**: seeds are drawn from all the seeds that one could have taken, as prompts are (crossed random effects). The
variance of the difference is that of its means per prompt, over the number of prompts, and, where it is positive, what the means per
seed vary more than the rest says they would: the moment estimate of a two-way layout without repetition. The interval is Student's
t, with Satterthwaite's degrees of freedom (Satterthwaite, 1946): two or three seeds that differ make it wide. Where both sides have the same
seeds, it is the differences that are taken by seed; else each side's seeds are independent of the other's. A side of one run, such as a
file of outputs, has no seeds to vary.

**Equivalence** within a margin: two one-sided t tests (Schuirmann, 1987) with the same standard error and degrees of freedom; the p-value
is the larger one. Where no prompt differs at all there is no standard error, and the p-value is the chance that n prompts show no
difference although enough of all prompts differ to reach the margin, (1 - margin / 100)^n at most.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd

from icr_platform.core.arrays import Floats
from icr_platform.evaluation.comparison import bootstrap_mean, holm
from icr_platform.evaluation.instruction_scores import mcnemar
from icr_platform.evaluation.reward_accuracy import paired_test
from icr_platform.evaluation.win_rate import length_controlled_replicates

KEYS = ["language", "prompt_id", "item"]
"""What names a value. item: within the prompt, '' where it has one."""
Test = Literal["bootstrap", "mcnemar", "sign-flip"]
"""The test of one language of one run on each side, see the module."""
PERCENT = (0.0, 100.0)
_RESAMPLES = 1000


@dataclass(frozen=True)
class Runs:
    """One side: values of each of its runs by KEYS, in percent or the metric's unit, and the runs' seeds (None: it has none)."""

    values: Sequence[pd.Series]
    seeds: Sequence[int | None]


@dataclass(frozen=True)
class Pairs:
    """Items that all runs of both sides have, in the order of the first.

    language, prompt: [n] of each. first: [n, runs of the first]. second: [n, runs of the second].
    by_seed: whether the columns of both are the same seeds. first_only, second_only: prompts by language that one side alone has.
    """

    language: list[str]
    prompt: list[str]
    item: list[str]
    first: Floats
    second: Floats
    by_seed: bool
    first_only: dict[str, int]
    second_only: dict[str, int]

    @property
    def languages(self) -> list[str]:
        return list(dict.fromkeys(self.language))

    def of(self, languages: Sequence[str]) -> Pairs:
        """Those of some languages."""
        kept = [index for index, language in enumerate(self.language) if language in languages]
        chosen = ([column[index] for index in kept] for column in (self.language, self.prompt, self.item))
        language, prompt, item = chosen
        return replace(
            self, language=language, prompt=prompt, item=item, first=self.first[kept], second=self.second[kept]
        )


class Compared(NamedTuple):
    """Second minus first over what both have; in percent and points, or the metric's own unit.

    low, high: 95%; NaN where nothing can be said. p_value: two-sided, of no difference. equivalence: p-value of a difference beyond the
    margin; NaN without a margin. df: degrees of freedom behind p and interval; NaN where they are not Student's.
    n: prompts compared. first_only, second_only: prompts that one side alone has a value on. better, worse: prompts on which the second is
    higher, or lower. runs: of each side. by_seed: whether paired by seed, too.
    """

    first: float
    second: float
    difference: float
    standard_error: float
    low: float
    high: float
    p_value: float
    equivalence: float
    df: float
    n: int
    first_only: int
    second_only: int
    better: int
    worse: int
    first_runs: int
    second_runs: int
    by_seed: bool


class Spread(NamedTuple):
    """Variance of an estimate and its degrees of freedom."""

    variance: float
    df: float


def pair_items(first: Runs, second: Runs) -> Pairs:
    """The items that every run of both sides has a value of. Runs of equal seeds are brought into one order."""
    same = _same_seeds(first.seeds, second.seeds)
    order = [list(second.seeds).index(seed) for seed in first.seeds] if same else range(len(second.values))
    columns = [*first.values, *(second.values[index] for index in order)]
    table = pd.concat(columns, axis=1, keys=range(len(columns)), sort=False)
    count = len(first.values)
    has = [table.iloc[:, :count].notna().all(axis=1), table.iloc[:, count:].notna().all(axis=1)]
    both = table[has[0] & has[1]]
    rows = both.to_numpy(dtype=np.float64)
    languages, prompts, items = (both.index.get_level_values(name).astype(str).tolist() for name in KEYS)
    common = set(zip(languages, prompts, strict=True))
    only = [_prompts_beside(table[side], common) for side in has]
    by_seed = same and count > 1
    return Pairs(languages, prompts, items, rows[:, :count], rows[:, count:], by_seed, only[0], only[1])


def _same_seeds(first: Sequence[int | None], second: Sequence[int | None]) -> bool:
    known = None not in first and len(set(first)) == len(first) == len(second)
    return known and set(first) == set(second)


def _prompts_beside(rows: pd.DataFrame, common: set[tuple[str, str]]) -> dict[str, int]:
    """How many prompts of each language are not among those in common."""
    counts: dict[str, int] = {}
    keys = zip(*(rows.index.get_level_values(name).astype(str) for name in KEYS[:2]), strict=True)
    for language, prompt in dict.fromkeys(keys):
        counts[language] = counts.get(language, 0) + ((language, prompt) not in common)
    return counts


def by_prompt(pairs: Pairs, values: Floats) -> tuple[list[str], Floats]:
    """Each prompt's share in the mean over languages of the languages' means: numbers whose mean it is, column by column.

    Args:
        values: [n, runs] of the items of `pairs`.

    Returns:
        prompts and [prompts, runs]. Of one language with one item a prompt they are the values themselves. In general they are the mean plus
        the prompt's influence on it, so that their standard error is the one that clusters by prompt.
    """
    language = pd.factorize(np.asarray(pairs.language, dtype=object))[0]
    prompt, names = pd.factorize(np.asarray(pairs.prompt, dtype=object))
    sizes = np.bincount(language)
    means = np.stack([np.bincount(language, weights=column) / sizes for column in values.T], axis=1)
    weight = 1.0 / (len(sizes) * sizes[language])
    away = weight[:, None] * (values - means[language])
    shares = np.stack([np.bincount(prompt, weights=column) for column in away.T], axis=1)
    return [str(name) for name in names], means.mean(axis=0) + len(names) * shares


def difference(
    pairs: Pairs,
    languages: Sequence[str],
    *,
    margin: float | None = None,
    test: Test = "bootstrap",
    limits: tuple[float, float] | None = PERCENT,
) -> Compared:
    """Second minus first: of one language, or the mean over several of the languages' differences.

    Args:
        margin: of equivalence, in the metric's unit.
        limits: between which values lie; None where they have none.
    """
    chosen = pairs.of(languages)
    only = [sum(side.get(language, 0) for language in languages) for side in (pairs.first_only, pairs.second_only)]
    if not chosen.language:
        return _nothing(pairs, only)
    (_, first), (_, second) = (by_prompt(chosen, side) for side in (chosen.first, chosen.second))
    runs = first.shape[1], second.shape[1]
    change = second.mean(axis=1) - first.mean(axis=1)
    n, mean = len(change), float(change.mean())
    error, df = _error(first, second, chosen.by_seed)
    reach = (limits[1] - limits[0]) if limits else math.inf
    if runs == (1, 1):
        ends = bootstrap_mean(change, limits=(-reach, reach))
        low, high, p_value = ends.low, ends.high, ends.p_value
        df = math.nan
        if len(languages) == 1:
            low, high, p_value = _exact(chosen, change, test, low, high, p_value)
    else:
        low, high, p_value = _student(mean, error, df, reach)
    equivalence = _equivalence(mean, error, n - 1 if math.isnan(df) else df, n, margin, reach)
    return Compared(
        first=float(first.mean()), second=float(second.mean()), difference=mean, standard_error=error, low=low, high=high,
        p_value=p_value, equivalence=equivalence, df=df, n=n, first_only=only[0], second_only=only[1],
        better=int((change > 1e-9).sum()), worse=int((change < -1e-9).sum()), first_runs=runs[0], second_runs=runs[1],
        by_seed=chosen.by_seed,
    )  # fmt: skip


def _nothing(pairs: Pairs, only: Sequence[int]) -> Compared:
    return _unknown(0, only, (pairs.first.shape[1], pairs.second.shape[1]), pairs.by_seed)


def _unknown(n: int, only: Sequence[int], runs: tuple[int, int], by_seed: bool) -> Compared:
    """What can be said of too few prompts: how many they are."""
    nan = math.nan
    return Compared(
        first=nan, second=nan, difference=nan, standard_error=nan, low=nan, high=nan, p_value=nan, equivalence=nan, df=nan, n=n,
        first_only=only[0], second_only=only[1], better=0, worse=0, first_runs=runs[0], second_runs=runs[1], by_seed=by_seed,
    )  # fmt: skip


def _exact(
    pairs: Pairs, change: Floats, test: Test, low: float, high: float, p_value: float
) -> tuple[float, float, float]:
    """The interval and p-value of one language by the test that belongs to the metric, see the module."""
    if test == "mcnemar":
        return low, high, mcnemar(int((change > 0).sum()), int((change < 0).sum()))
    if test == "sign-flip":
        found = paired_test(pairs.second[:, 0] / 100.0, pairs.first[:, 0] / 100.0, pairs.prompt)
        return found.low, found.high, found.p_value
    return low, high, p_value


def _error(first: Floats, second: Floats, by_seed: bool) -> tuple[float, float]:
    """Standard error of the mean difference of [prompts, runs], and its degrees of freedom: the seeds' part is added to the prompts'."""
    change = second.mean(axis=1) - first.mean(axis=1)
    n = len(change)
    if n < 2:
        return math.nan, math.nan
    variance = float(change.var(ddof=1)) / n
    terms = [(variance, n - 1.0)]
    for table in [second - first] if by_seed else [first, second]:
        if table.shape[1] > 1:
            variance += seed_part(table, terms)
    df = variance**2 / sum(term**2 / freedom for term, freedom in terms) if variance > 0 else n - 1.0
    return math.sqrt(variance), df


def seed_part(table: Floats, terms: list[tuple[float, float]]) -> float:
    """What seeds add to the variance of the mean of [prompts, seeds]; where they add something, its two terms are appended to `terms`.

    The means of S seeds vary by sigma_seed^2 + sigma_rest^2 / prompts, and the second is known from what neither prompt nor seed explains.
    """
    n, seeds = table.shape
    mean = float(table.mean())
    of_seeds = float(table.mean(axis=0).var(ddof=1)) / seeds
    rest = table - table.mean(axis=1, keepdims=True) - table.mean(axis=0, keepdims=True) + mean
    freedom = (n - 1) * (seeds - 1)
    of_rest = float((rest**2).sum()) / freedom / (n * seeds)
    if of_seeds <= of_rest:
        return 0.0
    terms += [(of_seeds, seeds - 1.0), (of_rest, float(freedom))]
    return float(of_seeds - of_rest)


def _student(mean: float, error: float, df: float, reach: float) -> tuple[float, float, float]:
    if not error > 0:  # NaN, or nothing varies
        known = error == 0 and mean == 0
        return (mean, mean, 1.0) if known else (math.nan, math.nan, math.nan)
    from scipy.stats import t  # a second to import

    half = float(t.ppf(0.975, df)) * error
    return max(mean - half, -reach), min(mean + half, reach), min(1.0, 2 * float(t.sf(abs(mean) / error, df)))


def _equivalence(mean: float, error: float, df: float, n: int, margin: float | None, reach: float) -> float:
    if margin is None or math.isnan(error):
        return math.nan
    if error > 0:
        from scipy.stats import t

        return float(t.sf((margin - abs(mean)) / error, df))
    # No prompt differs. Of all prompts a share of margin / reach at least would have to, for a difference of the margin.
    return max(0.0, 1 - margin / reach) ** n if mean == 0 and math.isfinite(reach) else math.nan


# Length-controlled win rates --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Judged:
    """One run's prompts of one language: [n] preference in [0, 1] and lengths in characters, by prompt id.

    difficulty: [n] of the prompts; None where they have none. anchors: AlpacaEval's, see `win_rate.length_controlled_win_rate`.
    """

    table: pd.DataFrame
    anchors: pd.DataFrame | None = None

    LENGTHS = ("candidate_length", "reference_length")


def length_controlled(
    first: Sequence[dict[str, Judged]],
    second: Sequence[dict[str, Judged]],
    languages: Sequence[str],
    *,
    by_seed: bool = False,
    margin: float | None = None,
    resamples: int = _RESAMPLES,
    seed: int = 0,
) -> Compared:
    """`difference` of length-controlled win rates, whose regressions are refitted on every resample of the prompts.

    Of several languages, the prompts that all of them have are drawn in all languages at once. Seeds add to the variance as in `difference`.

    Args:
        first, second: of each run, the prompts by language: columns prompt_id, preference, candidate_length, reference_length, difficulty.
    """
    runs = [*first, *second]
    tables = {code: [run[code].table.set_index("prompt_id") for run in runs] for code in languages}
    common = [set.intersection(*(set(table.index) for table in tables[code])) for code in languages]
    shared = set.intersection(*common)
    order = [key for key in tables[languages[0]][0].index if key in shared]
    n = len(order)
    count = len(first)
    has = [
        set.intersection(*(set(run[code].table["prompt_id"]) for code in languages for run in side))
        for side in (first, second)
    ]
    only = [len(side - shared) for side in has]
    if n < 2:
        return _unknown(n, only, (count, len(second)), by_seed)
    resampled = np.random.default_rng(seed).integers(0, n, (resamples, n))
    drawn = np.vstack([np.arange(n), resampled])  # first the prompts themselves
    rates = np.zeros((len(runs), resamples + 1))
    for code in languages:
        for index, run in enumerate(runs):
            rows = tables[code][index].loc[order]
            difficulty = rows["difficulty"].to_numpy(dtype=float)
            full = bool(np.isfinite(difficulty).all())
            candidate, reference = (rows[name].to_numpy(dtype=float) for name in Judged.LENGTHS)
            rates[index] += length_controlled_replicates(
                rows["preference"].to_numpy(dtype=float),
                candidate,
                reference,
                drawn,
                difficulty if full else None,
                run[code].anchors if full else None,
            ) / len(languages)
    sides = rates[:count], rates[count:]
    change = sides[1].mean(axis=0) - sides[0].mean(axis=0)
    replicates, mean = change[1:], float(change[0])
    variance = float(replicates.var(ddof=1))
    terms = [(variance, n - 1.0)]
    for table in [sides[1] - sides[0]] if by_seed else sides:
        if len(table) > 1:
            variance += _seed_part_of_replicates(table, n, terms)
    error = math.sqrt(variance)
    df = variance**2 / sum(term**2 / freedom for term, freedom in terms) if variance > 0 else n - 1.0
    if len(runs) == 2:
        # As `comparison.length_controlled_difference`: percentiles, and the sample itself is counted in p.
        low, high = np.quantile(replicates, [0.025, 0.975]).tolist() if variance > 0 else (math.nan, math.nan)
        tail = 1 + min(int((replicates <= 0).sum()), int((replicates >= 0).sum()))
        p_value, df = min(1.0, 2 * tail / (resamples + 1)) if variance > 0 else math.nan, math.nan
    else:
        low, high, p_value = _student(mean, error, df, 100.0)
    equivalence = _equivalence(mean, error, n - 1 if math.isnan(df) else df, n, margin, math.inf)
    return Compared(
        float(sides[0][:, 0].mean()), float(sides[1][:, 0].mean()), mean, error, low, high, p_value, equivalence, df, n, only[0], only[1],
        0, 0, count, len(second), by_seed,
    )  # fmt: skip


def _seed_part_of_replicates(rates: Floats, n: int, terms: list[tuple[float, float]]) -> float:
    """`seed_part` of [seeds, 1 + resamples] rates: what is not the seed's is seen in how the seeds' replicates differ from their mean."""
    seeds = len(rates)
    of_seeds = float(rates[:, 0].var(ddof=1)) / seeds
    around = rates[:, 1:] - rates[:, 1:].mean(axis=0)
    of_rest = float(around.var(axis=1, ddof=1).sum()) / (seeds - 1) / seeds
    if of_seeds <= of_rest:
        return 0.0
    terms += [(of_seeds, seeds - 1.0), (of_rest, float((n - 1) * (seeds - 1)))]
    return of_seeds - of_rest


# Many comparisons ---------------------------------------------------------------------------------------------------------------------


def adjusted(table: pd.DataFrame, names: Sequence[str] = ("p_value", "equivalence")) -> pd.DataFrame:
    """With `adjusted_NAME` of each p-value: Holm's, over all languages and sides of one metric; each kind of mean over its sides.

    table: columns metric, language and those of `Compared`.
    """
    means = table["language"].where(table["language"].str.startswith("mean"), "")
    for name in names:
        table = table.assign(**{f"adjusted_{name}": math.nan})
        for _, of in table.groupby([table["metric"], means], sort=False):
            table.loc[of.index, f"adjusted_{name}"] = holm(of[name].to_numpy(dtype=float))
    return table


def verdict(row: Any, alpha: float = 0.05) -> str:
    """What a row of `adjusted` shows at 5%: 'higher', 'lower', 'equivalent', '' where it is neither; both where a difference is within the margin."""
    said = "higher" if row["difference"] > 0 else "lower"
    is_clear, is_within = row["adjusted_p_value"] < alpha, row["adjusted_equivalence"] < alpha
    return (
        f"{said}, within the margin"
        if is_clear and is_within
        else said
        if is_clear
        else "equivalent"
        if is_within
        else ""
    )
