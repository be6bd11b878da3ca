"""From outputs and judgments to the figures of an evaluation: one row per language and metric, and their MLflow names.

Several samples and both orders of a prompt are averaged before anything else, so that standard errors count prompts, which are
independent, and not judgments, which are not.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa

from icr_platform.core.language_tags import is_english
from icr_platform.core.languages import UNDETERMINED
from icr_platform.core.schemas import SCORES
from icr_platform.engines.judging.pairwise import LOW_MASS, MODEL_FIRST, REFERENCE_FIRST
from icr_platform.evaluation.fidelity import fidelity, looping_rate, repeated_share, truncation_rate
from icr_platform.evaluation.prompt_preferences import PROMPT_KEY, SAMPLE_KEY, complete_samples, preferences_by_prompt
from icr_platform.evaluation.win_rate import (
    INCOMPLETE_DIFFICULTY,
    length_controlled_replicates,
    length_controlled_win_rate,
    win_rate,
)

UNKNOWN_END = "finish reason unknown"
MEAN, MEAN_NON_ENGLISH, ALL = "mean", "mean_non_english", "all"
JUDGED = (*SAMPLE_KEY, "order", "outcome", "preference", "mass", "input_tokens", "output_tokens")
"""What scores need of the judgments table."""
_LENGTHS = ["character_count", "reference_characters"]
_AVERAGED = (
    "win_rate", "lc_win_rate", "fidelity", "truncated", "repetition", "length/characters", "length/ratio", "thought_tokens/mean",
    "thought_language_share", "thought_cut", "line_pass_rate", "word_pass_rate",
)  # fmt: skip
_BOOTSTRAP = 500  # resamples of the prompts, each of which is refitted
_C = (
    10.0  # fixed, so that iterations compare: AlpacaEval's cross-validation jumps between values on differences of 1e-6
)


class Score(NamedTuple):
    """One figure; units in SCORES. n counts prompts for win rates, outputs for shares and lengths, judgments for failures."""

    language: str
    metric: str
    value: float | None
    standard_error: float | None
    n: int
    flag: str
    low: float | None = None
    """Ends of the 95% interval, where it is not that of the standard error."""
    high: float | None = None


class LengthControl(NamedTuple):
    """Optional inputs of the length-controlled win rate: difficulty by (language, prompt id), AlpacaEval's anchors.

    Both come from English annotations: a language without difficulties gets the minimal variant, without anchors.
    """

    difficulty: Mapping[tuple[str, str], float] | None = None
    anchors: pd.DataFrame | None = None
    cross_validation: bool = False


def output_facts(outputs: pa.Table) -> pd.DataFrame:
    """What scores need of a part of the outputs table, without the texts."""
    columns = [
        *PROMPT_KEY, "sample_index", "character_count", "token_count", "finish_reason", "detected_language", "thought_language",
        "thought_token_count",
    ]  # fmt: skip
    facts: pd.DataFrame = outputs.select(columns).to_pandas()
    facts["repeated"] = [repeated_share(text) for text in outputs["output"].to_pylist()]
    facts["has_thought"] = [thought is not None for thought in outputs["thought"].to_pylist()]
    # A thought that never ends takes all tokens. Outputs from files have none: there it is what their reader said of the end.
    took_all = (facts["thought_token_count"] >= facts["token_count"]).where(
        facts["thought_token_count"].notna(), facts["finish_reason"] == "length"
    )
    facts["thought_cut"] = facts["has_thought"] & took_all & (facts["character_count"] == 0)
    return facts


def score_outputs(facts: pd.DataFrame, unknown: Collection[str] = ()) -> list[Score]:
    """Fidelity, lengths, truncation and loops per language.

    unknown: languages that the identifier does not know, which have no fidelity.
    """
    scores = []
    for language, rows in facts.groupby("language", sort=False):
        code, n = str(language), len(rows)
        characters = rows["character_count"].to_numpy(dtype=float)
        if code in unknown:
            scores.append(Score(code, "fidelity", None, None, 0, "the identifier does not know the language"))
        else:
            scores.append(Score(code, "fidelity", fidelity(code, rows["detected_language"].tolist()), None, n, ""))
        scores.append(Score(code, "length/characters", float(characters.mean()), None, n, ""))
        # Files of outputs do not say how they ended: the share is over those that do, and absent where none does.
        known = [reason for reason in rows["finish_reason"] if isinstance(reason, str)]
        flag = f"{UNKNOWN_END} of {n - len(known)} of {n} outputs" if len(known) < n else ""
        scores.append(Score(code, "truncated", _value(truncation_rate(known)), None, len(known), flag))
        scores.append(Score(code, "repetition", looping_rate(rows["repeated"].tolist()), None, n, ""))
        if rows["has_thought"].any():
            scores += _score_thoughts(code, rows, code in unknown)
    return scores


def _score_thoughts(code: str, rows: pd.DataFrame, is_unknown: bool) -> list[Score]:
    """Length of the thoughts, percent of them in the language of the prompt, percent of the outputs that ended within one."""
    thoughts = rows[rows["has_thought"]]
    n, cut = len(thoughts), int(rows["thought_cut"].sum())
    tokens = thoughts["thought_token_count"].dropna().to_numpy(dtype=float)
    share = None if is_unknown else fidelity(code, thoughts["thought_language"].fillna(UNDETERMINED).tolist())
    scores = [
        Score(
            code,
            "thought_language_share",
            share,
            None,
            n,
            "the identifier does not know the language" if is_unknown else "",
        ),
        Score(
            code,
            "thought_cut",
            100.0 * cut / len(rows),
            None,
            len(rows),
            f"{cut} of {len(rows)} outputs" if cut else "",
        ),
    ]
    if len(tokens):  # files of outputs have no tokens
        scores.append(Score(code, "thought_tokens/mean", float(tokens.mean()), None, len(tokens), ""))
    return scores


class Judged(NamedTuple):
    """What was judged in one language or several, each of them whole.

    judgments: the columns `JUDGED` of schemas.JUDGMENTS.
    lengths: language, prompt_id, sample_index, character_count of the output, reference_characters, of every pair judged.
    """

    judgments: pd.DataFrame
    lengths: pd.DataFrame


def score_judgments(tables: Iterable[Judged], control: LengthControl) -> list[Score]:
    """Win rates, length-controlled win rates, length ratios and the judge's failures per language.

    tables: read one after the other; of each only a few numbers a judgment are kept.
    """
    scores, parts, judge = [], [], []
    for judgments, of_pairs in tables:
        lengths_of = of_pairs.groupby("language", sort=False)
        for language, of_language in judgments.groupby("language", sort=False):
            lengths = lengths_of.get_group(language)
            judged = of_language[[*SAMPLE_KEY, "preference"]].merge(
                lengths[[*SAMPLE_KEY, *_LENGTHS]], on=SAMPLE_KEY, how="left", validate="many_to_one"
            )
            parts.append(preferences_by_prompt(judged, _LENGTHS))
            scores += _score_language(str(language), parts[-1], control)
            # Of every prompt that was to be judged, also where the judge failed.
            means = lengths.groupby("prompt_id", sort=False)[_LENGTHS].mean()
            ours, theirs = (means[name].mean() for name in _LENGTHS)
            ratio, flag = (float(ours / theirs), "") if theirs else (None, "every reference output is empty")
            scores.append(Score(str(language), "length/ratio", ratio, None, len(means), flag))
            judge.append(_of_the_judge(of_language))
    if not parts:
        return []
    prompts = pd.concat(parts, ignore_index=True)
    means_of_languages = _mean_win_rates(prompts) + _mean_controlled(scores, prompts, control)
    return scores + means_of_languages + _score_judge(pd.concat(judge, ignore_index=True))


def _score_language(language: str, rows: pd.DataFrame, control: LengthControl) -> list[Score]:
    preference = rows["preference"].to_numpy()
    plain = win_rate(preference)
    ours, theirs = rows["character_count"].to_numpy(), rows["reference_characters"].to_numpy()
    difficulty, anchors = _difficulty(language, rows, control)
    strength: float | Literal["cv"] = "cv" if control.cross_validation else _C
    controlled = length_controlled_win_rate(
        preference, ours, theirs, difficulty, anchors, C=strength, bootstrap=_BOOTSTRAP
    )
    flag = " ".join((controlled.variant, *controlled.flags))
    if INCOMPLETE_DIFFICULTY in controlled.flags and difficulty is not None:
        known = int(np.isfinite(np.asarray(difficulty)[np.isfinite(preference)]).sum())
        flag += f" ({known} of {plain.n} judged prompts have a difficulty)"
    missing = f"{plain.n_missing} of {len(rows)} prompts without a judgment" if plain.n_missing else ""
    return [
        Score(language, "win_rate", _value(plain.win_rate), _value(plain.standard_error), plain.n, missing),
        Score(language, "discrete_win_rate", _value(plain.discrete_win_rate), None, plain.n, missing),
        Score(
            language,
            "lc_win_rate",
            _value(controlled.win_rate),
            _value(controlled.bootstrap_standard_error),
            plain.n,
            flag,
        ),
        Score(
            language, "lc_published_se", _value(controlled.standard_error), None, plain.n, "ignores estimation error"
        ),
    ]


def _difficulty(
    language: str, rows: pd.DataFrame, control: LengthControl
) -> tuple[list[float] | None, pd.DataFrame | None]:
    """Difficulty of each row's prompt, and the anchors; neither where no prompt of the language has a difficulty."""
    known = [(control.difficulty or {}).get((language, key), math.nan) for key in rows["prompt_id"]]
    return (None, None) if all(math.isnan(value) for value in known) else (known, control.anchors)


def _value(number: float) -> float | None:
    return None if math.isnan(number) else number


def _mean_win_rates(prompts: pd.DataFrame) -> list[Score]:
    """Means of the languages' win rates; their standard errors cluster by prompt id, which the languages share."""
    judged = prompts.dropna(subset=["preference"])
    codes = list(dict.fromkeys(judged["language"]))
    groups = {MEAN: codes, MEAN_NON_ENGLISH: [code for code in codes if not is_english(code)]}
    scores = []
    for name, members in groups.items():
        if not members:
            continue
        rows = judged[judged["language"].isin(members)]
        by_language = rows.groupby("language", sort=False)["preference"]
        # A prompt's influence on the mean of the languages' means, summed over its languages: prompts are independent, its languages not.
        means, sizes = by_language.transform("mean"), by_language.transform("size")
        influence = ((rows["preference"] - means) / (len(members) * sizes)).groupby(rows["prompt_id"]).sum().to_numpy()
        clusters, error = len(influence), None
        if clusters > 1:
            error = 100.0 * float(np.sqrt(clusters / (clusters - 1) * np.square(influence).sum()))
        scores.append(Score(name, "win_rate", 100.0 * float(by_language.mean().mean()), error, clusters, ""))
    return scores


def _mean_controlled(scores: Sequence[Score], prompts: pd.DataFrame, control: LengthControl) -> list[Score]:
    """Means of the length-controlled win rates, with standard errors from a bootstrap that draws a prompt in all languages
    at once: their errors go together. It draws from the prompts that every language has a preference on."""
    values = {row.language: row.value for row in scores if row.metric == "lc_win_rate" and row.value is not None}
    groups = {MEAN: list(values), MEAN_NON_ENGLISH: [code for code in values if not is_english(code)]}
    means = []
    for name, members in groups.items():
        if not members:
            continue
        judged = prompts[prompts["language"].isin(members)].dropna(subset=["preference"])
        counts = judged.groupby("prompt_id")["language"].nunique()
        common = sorted(counts.index[counts == len(members)])
        error = None
        if len(common) > 1 and not control.cross_validation:  # the penalty would have to be chosen on every resample
            drawn = np.random.default_rng(0).integers(0, len(common), (_BOOTSTRAP, len(common)))
            replicates = np.zeros(_BOOTSTRAP)
            for language in members:
                of_language = judged[judged["language"] == language]
                rows = of_language.set_index("prompt_id").loc[common].reset_index()
                lengths = rows["character_count"].to_numpy(), rows["reference_characters"].to_numpy()
                # The variant of the language's own figure, which is over all its prompts and not only over those in common.
                full = all((language, key) in (control.difficulty or {}) for key in of_language["prompt_id"])
                difficulty, anchors = _difficulty(language, rows, control) if full else (None, None)
                preference = rows["preference"].to_numpy()
                replicates += length_controlled_replicates(preference, *lengths, drawn, difficulty, anchors, _C)
            error = float((replicates / len(members)).std(ddof=1))
        value = float(np.mean([values[code] for code in members]))
        flag = f"standard error over the {len(common)} prompts judged in all {len(members)} languages"
        means.append(Score(name, "lc_win_rate", value, error, len(counts), flag))
    return means


def _of_the_judge(judgments: pd.DataFrame) -> pd.DataFrame:
    """What `_score_judge` needs of the judgments of a language, in few bytes each."""
    kept = judgments[["preference", "mass", "input_tokens", "output_tokens"]]
    return kept.assign(
        is_model_first=judgments["order"] == MODEL_FIRST,
        is_reference_first=judgments["order"] == REFERENCE_FIRST,
        has_failed=judgments["outcome"] != "ok",
        is_complete=complete_samples(judgments),
    )


def _score_judge(judgments: pd.DataFrame) -> list[Score]:
    """judgments: `_of_the_judge` of all languages."""
    n = len(judgments)
    failed = int(judgments["has_failed"].sum())
    scores = [  # of all judgments, those of a sample whose other order failed included
        Score(ALL, "judge/failure_rate", 100.0 * failed / n, None, n, f"{failed} of {n} judgments" if failed else "")
    ]
    mass = judgments["mass"].dropna()
    if len(mass):
        scores.append(Score(ALL, "judge/low_mass", 100.0 * float((mass < LOW_MASS).mean()), None, len(mass), ""))
    # Among the samples judged in both places: how much more often the model wins where it stands first.
    complete = judgments[judgments["is_complete"]]
    first = complete.loc[complete["is_model_first"], "preference"]
    second = complete.loc[complete["is_reference_first"], "preference"]
    if len(first) and len(second):
        bias = 100.0 * float(first.mean() - second.mean())
        scores.append(Score(ALL, "judge/position_bias", bias, None, len(first) + len(second), ""))
    for name in ("input_tokens", "output_tokens"):
        scores.append(Score(ALL, f"judge/{name}", float(judgments[name].sum()), None, n, ""))
    return scores


def with_means(scores: Sequence[Score]) -> list[Score]:
    """`scores` with the plain means over languages of every averaged metric that has none yet."""
    done = {(score.metric, score.language) for score in scores}
    extra = []
    for metric in _AVERAGED:
        rows = [score for score in scores if score.metric == metric and score.language not in (MEAN, MEAN_NON_ENGLISH)]
        groups = {MEAN: rows, MEAN_NON_ENGLISH: [score for score in rows if not is_english(score.language)]}
        for name, members in groups.items():
            values = [score.value for score in members if score.value is not None]
            if values and (metric, name) not in done:
                n = sum(score.n for score in members if score.value is not None)
                some = "" if len(values) == len(members) else f"{len(values)} of {len(members)} "
                extra.append(Score(name, metric, float(np.mean(values)), None, n, f"mean over {some}languages"))
    return [*scores, *extra]


def scores_table(scores: Iterable[Score]) -> pa.Table:
    """As schemas.SCORES."""
    return pa.Table.from_pylist([score._asdict() for score in scores], schema=SCORES.schema)


def score_metrics(scores: Iterable[Score]) -> dict[str, float]:
    """MLflow metrics: `win_rate/es`, `win_rate_se/es`, `line_pass_rate_low/es`, `length/characters/es`, `judge/failure_rate`, `win_rate_n/es`."""
    metrics: dict[str, float] = {}
    for score in scores:
        suffix = "" if score.language == ALL else f"/{score.language}"
        if score.value is not None:
            metrics[f"{score.metric}{suffix}"] = score.value
        if score.standard_error is not None:
            metrics[f"{score.metric}_se{suffix}"] = score.standard_error
        if score.low is not None and score.high is not None:
            metrics |= {f"{score.metric}_low{suffix}": score.low, f"{score.metric}_high{suffix}": score.high}
        if score.metric == "win_rate":
            metrics[f"win_rate_n{suffix}"] = float(score.n)
    return metrics


def people_table(scores: Iterable[Score]) -> pd.DataFrame:
    """Languages x metrics, rounded, for people."""
    rows = [score for score in scores if score.language != ALL]
    wide: dict[str, dict[str, object]] = {}
    for score in rows:
        row = wide.setdefault(score.language, {"language": score.language})
        row[score.metric] = None if score.value is None else round(score.value, 3)
        if score.standard_error is not None:
            row[f"{score.metric} ±"] = round(score.standard_error, 3)
        if score.low is not None and score.high is not None:
            row[f"{score.metric} 95%"] = f"{score.low:.1f} to {score.high:.1f}"
        if score.metric == "lc_win_rate":
            row["lc_win_rate note"] = score.flag
    return pd.DataFrame(list(wide.values()))
