"""What a rehearsed stage was seen to do, in a line, and what of it looks wrong."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import pandas as pd

from icr_platform.annotation.selection import POOLED
from icr_platform.core.artifacts import open_artifact
from icr_platform.core.languages import UNDETERMINED, counts_as, language_name
from icr_platform.core.schemas import (
    DROPS,
    INSTRUCTION_CHECKS,
    JUDGMENTS,
    OUTPUTS,
    PREFERENCES,
    RESPONSES,
    REWARDS,
    TEXT_TRANSLATIONS,
)
from icr_platform.core.stage_protocol import StageResult
from icr_platform.pipeline.config import IterateConfig

_SHOWN = 100  # characters of a text


@dataclass(frozen=True)
class Seen:
    """told: what happened, in one line. warnings: what looks wrong, a line each. texts: the first one, shortened, by language."""

    told: str
    warnings: tuple[str, ...] = ()
    texts: Mapping[str, str] = field(default_factory=dict)


def seen(stage: str, config: IterateConfig, tokens: int, result: StageResult) -> Seen:
    """What a stage of a rehearsal gave.

    config: the one that is rehearsed, with its own number of tokens. tokens: of a response, at most, in the rehearsal.
    """
    return _BY_STAGE[stage](config, tokens, result)


def _generated(config: IterateConfig, tokens: int, result: StageResult) -> Seen:
    columns = ["language", "response", "finish_reason", "token_count", "detected_language", "thought"]
    responses = open_artifact(result.artifacts["responses"], RESPONSES)
    rows = responses.read(columns).to_pandas()
    dropped = open_artifact(result.artifacts["generation_drops"], DROPS).read(["reason"])["reason"].to_pylist()
    unknown = responses.extra["languages"]["unknown"]
    return _texts(rows, "response", dropped, unknown, tokens, config.generate.max_tokens)


def _evaluated(config: IterateConfig, tokens: int, result: StageResult) -> Seen:
    columns = ["language", "output", "finish_reason", "token_count", "detected_language", "thought"]
    rows = open_artifact(result.artifacts["outputs"], OUTPUTS).read(columns).to_pandas()
    drops = result.artifacts.get("output_drops")
    dropped = open_artifact(drops, DROPS).read(["reason"])["reason"].to_pylist() if drops else []
    known = {name.partition("/")[2] for name in result.metrics if name.startswith("fidelity/")}
    unknown = [language for language in rows["language"].unique() if language not in known]
    texts = _texts(rows, "output", dropped, unknown, tokens, config.eval.max_tokens)
    if config.eval.judge == "none":
        return Seen(f"{texts.told}; no judge", texts.warnings)
    judged = open_artifact(result.artifacts["judgments"], JUDGMENTS).read(["outcome", "detail"]).to_pandas()
    failed = judged[judged["outcome"] != "ok"]
    told = f"{texts.told}; {len(judged)} judgments"
    if "win_rate/mean" in result.metrics:
        told += f", win rate {result.metrics['win_rate/mean']:.0f}% (of so few it says nothing)"
    if failed.empty:
        return Seen(told, texts.warnings)
    by_outcome = _counted(failed["outcome"])
    warning = f"{len(failed)} of {len(judged)} judgments failed ({by_outcome}), the first: {failed['detail'].iloc[0]}"
    return Seen(f"{told}, {len(failed)} failed", (*texts.warnings, warning))


def _texts(
    rows: pd.DataFrame, column: str, dropped: list[str], unknown: Iterable[str], tokens: int, allowed: int
) -> Seen:
    """What was seen of sampled texts. unknown: languages that the identifier does not know. allowed: tokens in the real run."""
    noun = f"{column}s"
    if rows.empty:
        return Seen(f"no {noun}", (f"no prompt was answered: {_counted(dropped) or 'none was asked'}",))
    is_cut, is_empty = rows["finish_reason"] == "length", rows[column].str.strip() == ""
    was_thinking = is_cut & is_empty & rows["thought"].notna()
    told = [f"{len(rows)} {noun}, {rows['token_count'].mean():.0f} tokens each"]
    if is_cut.any():
        expected = " (to be expected)" if tokens < allowed else ""
        told.append(f"{is_cut.sum()} cut at {tokens} tokens{expected}")
    if dropped:
        told.append(f"{len(dropped)} prompts dropped ({_counted(dropped)})")
    warnings = []
    if dropped:
        warnings.append(f"{len(dropped)} prompts have no {column}: {_counted(dropped)}")
    if was_thinking.any():
        told.append(f"{was_thinking.sum()} were still thinking")
        warnings.append(
            f"{was_thinking.sum()} of {len(rows)} {noun} were still thinking after {tokens} tokens"
            + ("; --rehearse-tokens N with a larger N shows whether thoughts end" if tokens < allowed else "")
        )
    elif is_empty.all():
        warnings.append(f"all {noun} are empty")
    if is_cut.all() and tokens >= allowed:
        warnings.append(f"no {column} ended within max_tokens {allowed}: each is dropped where drop_truncated is set")
    foreign = []
    for language, own in rows[~is_empty].groupby("language", sort=False):
        told_apart = own[own["detected_language"] != UNDETERMINED]
        right = sum(counts_as(str(language), code) for code in told_apart["detected_language"])
        if str(language) in unknown or not len(told_apart):
            continue
        foreign.append(f"{language} {right}/{len(told_apart)}")
        if not right:
            most = told_apart["detected_language"].mode()[0]
            warnings.append(
                f"{language}: none of {len(told_apart)} {noun} is in {language_name(str(language))}, most are in {most}"
            )
    if foreign:
        told.append(f"in their language: {', '.join(foreign)}")
    firsts = {
        str(language): _short(text) for language, text in rows.groupby("language", sort=False)[column].first().items()
    }
    return Seen("; ".join(told), tuple(warnings), firsts)


def _translated(config: IterateConfig, tokens: int, result: StageResult) -> Seen:
    columns = ["language", "translation", "outcome"]
    rows = open_artifact(result.artifacts["text_translations"], TEXT_TRANSLATIONS).read(columns).to_pandas()
    lost = rows.loc[rows["translation"].isna(), "outcome"]
    told = [f"{len(rows) - len(lost)} of {len(rows)} texts translated"]
    if len(lost):
        told.append(f"{len(lost)} not ({_counted(lost)})")
    warnings = [
        f"{language}: none of {len(own)} texts has a translation ({_counted(own['outcome'])})"
        for language, own in rows.groupby("language", sort=False)
        if own["translation"].isna().all()
    ]
    firsts = rows.dropna().groupby("language", sort=False)["translation"].first()
    return Seen("; ".join(told), tuple(warnings), {str(code): _short(text) for code, text in firsts.items()})


def _annotated(config: IterateConfig, tokens: int, result: StageResult) -> Seen:
    columns = ["language", "sample_index", "reason", "pair_index"]
    drops = open_artifact(result.artifacts["drops"], DROPS).read(columns).to_pandas()
    preferences = open_artifact(result.artifacts["preferences"], PREFERENCES)
    pairs = preferences.read(["language", "prompt_id", "margin"]).to_pandas()
    rewards = open_artifact(result.artifacts["rewards"], REWARDS)
    scored = rewards.read(["policy_logprob", "reference_logprob"]).to_pandas().dropna()
    of_prompts = drops[drops["sample_index"].isna() & drops["pair_index"].isna()]
    with_pairs = len(pairs[["language", "prompt_id"]].drop_duplicates())
    told = [f"{len(pairs)} pairs of {with_pairs + len(of_prompts)} prompts"]
    of_prompts = of_prompts[of_prompts["reason"] != POOLED]  # whose pair is in another language
    if pairs["margin"].notna().any():
        told.append(f"median margin {pairs['margin'].median():.2g}")
    of_samples = drops[drops["sample_index"].notna()]
    if len(of_samples):
        told.append(f"{len(of_samples)} responses dropped ({_counted(of_samples['reason'])})")
    warnings = []
    if len(scored) and (scored["policy_logprob"] == scored["reference_logprob"]).all():
        warnings.append("policy and reference give every response the same probability: are they the same model?")
    for language, own in of_prompts.groupby("language", sort=False):
        if language not in set(pairs["language"]):
            reasons = pd.concat([of_samples.loc[of_samples["language"] == language, "reason"], own["reason"]])
            warnings.append(f"{language}: none of {len(own)} prompts gives a pair ({_counted(reasons)})")
    return Seen("; ".join(told), tuple(warnings))


def _trained(config: IterateConfig, tokens: int, result: StageResult) -> Seen:
    metrics = result.metrics
    told = [f"{metrics['train/pairs']:.0f} pairs", "one step", f"loss {metrics['train/final_loss']:.3g}"]
    left_out = int(metrics["train/pairs_left_out"])
    warnings = (f"{left_out} pairs are longer than training takes and were left out",) if left_out else ()
    return Seen(", ".join(told), warnings)


def _benched(config: IterateConfig, tokens: int, result: StageResult) -> Seen:
    """Accuracies on given pairs, or on the policy's own samples, of whatever languages there are means over."""
    told = []
    for metric, of in (("reward_accuracy", "labelled pairs"), ("own_reward_accuracy", "own samples")):
        # The mean over languages comes last, and replaces them.
        found = ((name.split("/"), value) for name, value in result.metrics.items())
        shares = {parts[1]: value for parts, value in found if parts[0] == metric and parts[2] != "mean_non_english"}
        if shares:
            told.append(f"{of} ranked right: {', '.join(f'{kind} {value:.0f}%' for kind, value in shares.items())}")
    if not told:
        return Seen("no pair was compared", ("the reward was compared on no pair: see the notes of reward_bench",))
    return Seen(f"{'; '.join(told)} (of so few it says nothing)")


def _followed(config: IterateConfig, tokens: int, result: StageResult) -> Seen:
    columns = ["language", "output", "finish_reason", "token_count", "detected_language", "thought"]
    rows = open_artifact(result.artifacts["instruction_outputs"], OUTPUTS).read(columns).to_pandas()
    checks = open_artifact(result.artifacts["instruction_checks"], INSTRUCTION_CHECKS).read(["strict", "reason"])
    verdicts, reasons = checks["strict"].to_pylist(), checks["reason"].to_pylist()
    # Instructions ask for lengths, cases and languages of all kinds: what language an answer is in is looked at in `eval`.
    texts = _texts(rows, "output", [], rows["language"].unique(), tokens, config.instructions.max_tokens)
    unverified = [reason for reason, verdict in zip(reasons, verdicts, strict=True) if verdict is None]
    told = f"{texts.told}; {verdicts.count(True)} of {len(verdicts) - len(unverified)} instructions followed"
    if not unverified:
        return Seen(told, texts.warnings, texts.texts)
    told += f", {len(unverified)} unverified"
    warnings = texts.warnings
    if len(unverified) == len(verdicts):
        warnings += (f"no instruction can be verified: {_counted(unverified)}",)
    return Seen(told, warnings, texts.texts)


def _asked(config: IterateConfig, tokens: int, result: StageResult) -> Seen:
    shares = [value for name, value in result.metrics.items() if name.startswith("benchmark/")]
    return Seen(f"{len(shares)} figures of benchmarks (of so few documents they say nothing)")


_BY_STAGE: dict[str, Callable[[IterateConfig, int, StageResult], Seen]] = {
    "generate": _generated,
    "translate": _translated,
    "annotate": _annotated,
    "train": _trained,
    "eval": _evaluated,
    "reward_bench": _benched,
    "instructions": _followed,
    "benchmarks": _asked,
}


def _counted(reasons: Iterable[str]) -> str:
    """
    >>> _counted(["empty", "truncated", "empty"])
    '2 empty, 1 truncated'
    """
    return ", ".join(f"{count} {reason}" for reason, count in Counter(reasons).most_common())


def _short(text: str) -> str:
    line = " ".join(text[: 4 * _SHOWN].split())
    return line if len(line) <= _SHOWN else f"{line[: _SHOWN - 3]}..."
