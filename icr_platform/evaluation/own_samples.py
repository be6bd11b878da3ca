"""How well a reward ranks a policy's own samples, wherever an exact checker says which of them are right. Pure; no model is needed.

Labelled pairs from elsewhere say how good a reward is on other people's texts. What an iteration works with is the policy's own samples:
those of one prompt differ less, and the pairs that are trained on are the two ends of the reward itself. So, beside the accuracy on given
pairs: the accuracy over all pairs of samples of a prompt of which one is better by the checker, the AUC within a prompt, both before and
after length control, and what the selected pairs are: right, wrong, both right, or neither.

A checker is called with (language, prompt, text) and returns how well the text does in [0, 1], true or false, or None where it cannot
tell; or a mapping from each kind of instruction in the prompt to that. `prompt` is a row of the prompts table.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from icr_platform.core.arrays import Floats
from icr_platform.core.errors import IcrError, InputError
from icr_platform.core.language_tags import is_english
from icr_platform.evaluation.reward_accuracy import (
    Accuracy,
    PromptAuc,
    accuracy,
    auc_within_prompts,
    is_right,
    mean_accuracy,
)
from icr_platform.evaluation.reward_bench_config import LENGTH

Prompt = Mapping[str, Any]
Score = float | bool | None
Checker = Callable[[str, Prompt, str], Score | Mapping[str, Score]]
ALL = ""
"""The kind of instruction under which a prompt's instructions count together: a sample is as good as its worst one."""
COMPLIES = 0.5
"""A score from here on counts as right where both samples of a pair have the same one."""
_PROMPT, _SAMPLE = ["language", "prompt_id"], ["language", "prompt_id", "sample_index"]
_OUTCOMES = ("right", "wrong", "both", "neither")


class RankedSamples(NamedTuple):
    """How one reward ranks the samples of one language, over prompts with one kind of instruction.

    language: or 'mean', or 'mean_non_english', over languages without weights. instruction_kind: ALL for all together.
    kind: of the reward, or LENGTH. is_controlled: after length control.
    accuracy: over all pairs of samples of a prompt with different scores. auc: of each prompt, averaged over prompts; None for means.
    """

    language: str
    kind: str
    instruction_kind: str
    is_controlled: bool
    accuracy: Accuracy
    auc: PromptAuc | None


class SelectedPairs(NamedTuple):
    """What a language's chosen and rejected samples are by the checker: counts of pairs.

    right: the chosen one has the higher score. wrong: the rejected one has. both, neither: they have the same one, which is right or not.
    unknown: the checker does not say of one of them. accuracy: of right among right and wrong.
    """

    language: str
    right: int
    wrong: int
    both: int
    neither: int
    unknown: int
    accuracy: Accuracy


@dataclass(frozen=True)
class OwnSamples:
    """Every figure, and what it is not about.

    unchecked: samples by language about which the checker says nothing. unscored: samples by language and kind without a reward.
    """

    ranked: tuple[RankedSamples, ...]
    selected: tuple[SelectedPairs, ...]
    unchecked: Mapping[str, int]
    unscored: Mapping[tuple[str, str], int]


def checked_samples(
    checker: Checker, named: str, prompts: Mapping[tuple[str, str], Prompt], responses: Iterable[Mapping[str, Any]]
) -> pd.DataFrame:
    """Ask the checker about every sample.

    Args:
        named: what the setting calls the checker, for messages.
        prompts: rows of the prompts table by (language, prompt_id).
        responses: rows of the responses table: language, prompt_id, sample_index, response.

    Returns:
        language, prompt_id, sample_index, instruction_kind, score (NaN where the checker cannot tell), characters; one row for ALL, and one
        for each kind of instruction that the checker names. Where it names none, the source of the prompt is the kind.

    Raises:
        InputError: the checker raised, or returned something else; the message names the sample.
    """
    rows = []
    for row in responses:
        key = (row["language"], row["prompt_id"])
        prompt = prompts[key]
        where = f"prompt {key[1]!r} in {key[0]!r}, sample {row['sample_index']}"
        try:
            said = checker(key[0], prompt, row["response"])
        except IcrError:
            raise
        except Exception as error:  # a checker of anyone's own may raise anything
            reason = " ".join(str(error).split())
            raise InputError(
                f"checker {named}: raised {type(error).__name__} on {where} ({reason}); correct it"
            ) from error
        by_kind = said if isinstance(said, Mapping) else {prompt.get("source") or ALL: said}
        scores = {str(kind): _score(value, named, where) for kind, value in by_kind.items()}
        # A sample that fails one instruction fails, whatever cannot be told of the others.
        known = [value for value in scores.values() if not math.isnan(value)]
        is_decided = len(known) == len(scores) or min(known, default=1.0) < COMPLIES
        scores[ALL] = min(known) if known and is_decided else math.nan
        rows += [
            (*key, row["sample_index"], kind, score, len(row["response"])) for kind, score in sorted(scores.items())
        ]
    return pd.DataFrame(rows, columns=[*_SAMPLE, "instruction_kind", "score", "characters"])


def own_samples(checked: pd.DataFrame, rewards: pd.DataFrame, preferences: pd.DataFrame | None = None) -> OwnSamples:
    """Compare every reward, and the pairs that were selected by one of them, with the checker.

    Args:
        checked: see `checked_samples`.
        rewards: language, prompt_id, sample_index, kind, reward (NaN or null where a sample was not scored: it takes no part).
        preferences: rows of the preferences table that was selected from these rewards. They say the penalty of length control in each
            language, which belongs to the kind of reward that they were selected by: no other kind has figures after length control, nor
            has any without this table.
    """
    whole = checked[checked["instruction_kind"] == ALL]
    scored = rewards[rewards["reward"].notna()]
    # Length ranks the samples that rewards rank, or the two would be compared on different ones.
    longest = scored.drop_duplicates(_SAMPLE).merge(whole[[*_SAMPLE, "characters"]], on=_SAMPLE, validate="one_to_one")
    length = longest.assign(kind=LENGTH, reward=longest["characters"].astype(float))[list(scored.columns)]
    both = checked.merge(pd.concat([scored, length], ignore_index=True), on=_SAMPLE)

    of_pairs, alphas = None, pd.Series(dtype=float)
    if preferences is not None:
        of_pairs = kind_of_the_pairs(rewards, preferences)
        # A pool has one penalty for all its languages, also those in which no pair's prompt is.
        penalties = preferences["length_penalty_alpha"].to_numpy()
        ends = pd.concat([_ends_of(preferences, end).assign(alpha=penalties) for end in ("chosen", "rejected")])
        alphas = ends.drop_duplicates("language").set_index("language")["alpha"]
    ranked: list[RankedSamples] = []
    for (kind, instruction_kind), rows in both.groupby(["kind", "instruction_kind"], sort=True):
        reward = rows["reward"].to_numpy(float)
        ranked += _ranked(rows, reward, str(kind), str(instruction_kind), is_controlled=False)
        if kind == of_pairs:
            penalised = rows[rows["language"].isin(alphas.index)]
            alpha, length_of = (
                penalised["language"].map(alphas).to_numpy(float),
                penalised["characters"].to_numpy(float),
            )
            controlled = penalised["reward"].to_numpy(float) - alpha * length_of
            ranked += _ranked(penalised, controlled, str(kind), str(instruction_kind), is_controlled=True)
    unchecked = Counter(whole.loc[whole["score"].isna(), "language"])
    unscored = Counter(rewards.loc[rewards["reward"].isna(), ["language", "kind"]].itertuples(index=False, name=None))
    pairs = () if preferences is None else selected_pairs(checked, preferences)
    return OwnSamples(tuple(ranked), pairs, unchecked, unscored)


def kind_of_the_pairs(rewards: pd.DataFrame, preferences: pd.DataFrame) -> str | None:
    """The kind of reward that the pairs were selected by: the one whose reward of the chosen samples is what the pairs say of them."""
    chosen = _ends_of(preferences, "chosen").assign(chosen_reward=preferences["chosen_reward"].to_numpy())
    for kind, rows in rewards.groupby("kind", sort=False):
        found = chosen.merge(rows, on=_SAMPLE)
        if len(found) == len(chosen) > 0 and (found["reward"] == found["chosen_reward"]).all():
            return str(kind)
    return None


def _ends_of(preferences: pd.DataFrame, end: str) -> pd.DataFrame:
    """The samples, by key, that are chosen or rejected in each row."""
    ends = (
        preferences[[*_PROMPT, f"{end}_index"]].rename(columns={f"{end}_index": "sample_index"}).reset_index(drop=True)
    )
    if f"{end}_language" in preferences:
        ends["language"] = preferences[f"{end}_language"].reset_index(drop=True).fillna(ends["language"])
    return ends


def selected_pairs(checked: pd.DataFrame, preferences: pd.DataFrame) -> tuple[SelectedPairs, ...]:
    """What the pairs that were selected are by the checker, in every language that has any.

    Args:
        checked: see `checked_samples`. preferences: language, prompt_id, chosen_index, rejected_index, and of a pool chosen_language and
            rejected_language, null where they are the row's; a prompt may have several rows.
    """
    scores = checked[checked["instruction_kind"] == ALL][[*_SAMPLE, "score"]]
    pairs = preferences[["language"]].reset_index(drop=True)
    for end in ("chosen", "rejected"):
        # No sample is in two pairs: a second row of one is a fault of the tables.
        scored = _ends_of(preferences, end).merge(scores, on=_SAMPLE, how="left", validate="one_to_one")
        pairs[end] = scored["score"].to_numpy()
    found = []
    for language, rows in pairs.groupby("language", sort=False):
        seen = Counter(_outcome(*ends) for ends in zip(rows["chosen"], rows["rejected"], strict=True))
        decided = [1.0] * seen["right"] + [0.0] * seen["wrong"]
        right, wrong, both, neither = (seen[name] for name in _OUTCOMES)
        found.append(SelectedPairs(str(language), right, wrong, both, neither, seen["unknown"], accuracy(decided)))
    return tuple(found)


def own_sample_metrics(found: OwnSamples) -> dict[str, float]:
    """`own_reward_accuracy/KIND/LANG` and `own_reward_auc/KIND/LANG` after length control, the same with `_raw` before it, and of the
    selected pairs `selected_right/LANG`, `_wrong`, `_both` and `_neither`, and `selected_accuracy/LANG`; all in percent, accuracies with
    the ends of their intervals (`own_reward_accuracy_low/KIND/LANG`, `_high`).

    The length of a sample is compared before length control only, and stands beside both: `own_reward_accuracy/length/LANG`.
    """
    metrics: dict[str, float] = {}
    for row in found.ranked:
        if row.instruction_kind == ALL and row.accuracy.n:
            suffixes = ("", "_raw") if row.kind == LENGTH else ("",) if row.is_controlled else ("_raw",)
            for suffix in suffixes:
                metrics |= _with_ends(f"own_reward_accuracy{suffix}", f"{row.kind}/{row.language}", row.accuracy)
                if row.auc is not None:
                    metrics[f"own_reward_auc{suffix}/{row.kind}/{row.language}"] = row.auc.auc
    aucs: dict[tuple[str, str], list[tuple[str, float]]] = {}
    for name, value in metrics.items():
        measure, kind, language = name.split("/")
        if measure.startswith("own_reward_auc"):
            aucs.setdefault((measure, kind), []).append((language, value))
    for (measure, kind), values in aucs.items():
        for mean, chosen in _means([language for language, _ in values]).items():
            metrics[f"{measure}/{kind}/{mean}"] = float(np.mean([value for code, value in values if code in chosen]))
    for pairs in found.selected:
        known = sum(getattr(pairs, name) for name in _OUTCOMES)
        if known:
            metrics |= {f"selected_{name}/{pairs.language}": 100.0 * getattr(pairs, name) / known for name in _OUTCOMES}
        if pairs.accuracy.n:
            metrics |= _with_ends("selected_accuracy", pairs.language, pairs.accuracy)
    return metrics


def _with_ends(metric: str, rest: str, found: Accuracy) -> dict[str, float]:
    return {f"{metric}{end}/{rest}": value for end, value in zip(("", "_low", "_high"), found[:3], strict=True)}


def upside_down_notes(found: OwnSamples) -> list[str]:
    """A line for each language and kind of instruction that the reward ranks the wrong way round, by the whole of its interval."""
    controlled = {(row.kind, row.language) for row in found.ranked if row.is_controlled}
    return [
        f"{row.language}: {row.kind} ranks the samples {f'by {row.instruction_kind!r} ' if row.instruction_kind else ''}upside down: right "
        f"in {row.accuracy.accuracy:.0f}% of {row.accuracy.n} pairs of samples (95% interval {row.accuracy.low:.0f} to "
        f"{row.accuracy.high:.0f}); an iteration would train the policy away from it"
        for row in found.ranked
        if row.auc is not None and row.kind != LENGTH and row.accuracy.n and row.accuracy.high < 50
        if row.is_controlled or (row.kind, row.language) not in controlled
    ]


def _score(value: Any, named: str, where: str) -> float:
    number = (
        math.nan if value is None else float(value) if isinstance(value, (int, float, np.bool_, np.number)) else 2.0
    )
    if not (math.isnan(number) or 0 <= number <= 1):
        raise InputError(
            f"checker {named}: returned {value!r} for {where}; return a number in [0, 1], true, false or None"
        )
    return number


def _ranked(
    rows: pd.DataFrame, values: Floats, kind: str, instruction_kind: str, is_controlled: bool
) -> Iterator[RankedSamples]:
    """The figures of every language, then the means over them."""
    languages: list[str] = []
    prompts: list[str] = []
    right: list[Floats] = []
    labels, keys = rows["score"].to_numpy(float), rows["prompt_id"].to_numpy()
    for language, places in rows.groupby("language", sort=False).indices.items():
        known = places[~np.isnan(labels[places])]
        by_prompt = pd.Series(known).groupby(keys[known], sort=False).indices
        observed = {str(prompt): _pairs(values[known[own]], labels[known[own]]) for prompt, own in by_prompt.items()}
        here = np.concatenate([np.empty(0), *observed.values()])
        of_each = [prompt for prompt, pairs in observed.items() for _ in pairs]
        auc = auc_within_prompts(values[known], labels[known], keys[known].tolist())
        yield RankedSamples(str(language), kind, instruction_kind, is_controlled, accuracy(here, of_each), auc)
        right.append(here)
        prompts += of_each
        languages += [str(language)] * len(here)
    every = np.concatenate([np.empty(0), *right])
    for mean, chosen in _means(languages).items():
        taken = [index for index, language in enumerate(languages) if language in chosen]
        figure = mean_accuracy(every[taken], [languages[i] for i in taken], [prompts[i] for i in taken])
        yield RankedSamples(mean, kind, instruction_kind, is_controlled, figure, None)


def _pairs(values: Floats, labels: Floats) -> Floats:
    """Observations of all pairs of one prompt's samples whose labels differ."""
    better, worse = np.nonzero(labels[:, None] > labels[None, :])
    return is_right(values[better], values[worse])


def _means(languages: Sequence[str]) -> dict[str, set[str]]:
    """The languages of each mean; there is none of a single language."""
    every = set(languages)
    means = {"mean": every, "mean_non_english": {language for language in every if not is_english(language)}}
    return {name: chosen for name, chosen in means.items() if len(every) > 1 and chosen}


def _outcome(chosen: float, rejected: float) -> str:
    if math.isnan(chosen) or math.isnan(rejected):
        return "unknown"
    if chosen != rejected:
        return "right" if chosen > rejected else "wrong"
    return "both" if chosen >= COMPLIES else "neither"
