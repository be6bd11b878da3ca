"""Verdicts against the run: accuracy by language and margin, agreement between reviewers, exports and what is published. Pure but for files."""

from __future__ import annotations

import csv
import io
import itertools
import json
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass

from ui.review.reliability import Interval, krippendorff_alpha, pairwise_kappas, verdicts_needed, wilson
from ui.review.verdicts import COLUMNS, DECIDED, Verdict

SOURCES = {"reward": "Implicit reward", "judge": "Judge", "length": "Longer one"}
TARGET_HALF_WIDTH = 0.05


@dataclass(frozen=True)
class Judged:
    """One item and the side most reviewers preferred, by name ('chosen', 'before', ...); '' for ties, both bad and draws."""

    verdict: Verdict
    preferred: str
    reviewers: int


@dataclass(frozen=True)
class Accuracy:
    """How often a source prefers what people prefer, over items on which both have a side."""

    source: str
    group: str
    interval: Interval
    needed: int
    """More items until the 95% interval is +- 5 points."""


def by_item(verdicts: Iterable[Verdict]) -> list[Judged]:
    """Majority per item: several reviewers of one item are one observation, or intervals would be too narrow."""
    groups: dict[tuple[str, str], list[Verdict]] = defaultdict(list)
    for verdict in verdicts:
        if verdict.choice in DECIDED:
            groups[verdict.run_id, verdict.item].append(verdict)
    return [Judged(group[0], _majority(group), len(group)) for group in groups.values()]


def _majority(group: Sequence[Verdict]) -> str:
    votes = Counter(preferred_name(verdict) for verdict in group)
    ranked = votes.most_common(2)
    return "" if len(ranked) == 2 and ranked[0][1] == ranked[1][1] else ranked[0][0]


def preferred_name(verdict: Verdict) -> str:
    """'chosen', 'rejected', 'before' or 'after'; '' without a side."""
    return {"left": verdict.left, "right": verdict.right}.get(verdict.choice, "")


def source_name(verdict: Verdict, source: str) -> str:
    """The side a source prefers, '' where it has none: the judge knows outputs, the reward pairs."""
    if source == "length":
        left, right = float(verdict.left_characters), float(verdict.right_characters)
    elif (
        (source == "reward") == (verdict.kind == "pair")
        and verdict.left_score is not None
        and verdict.right_score is not None
    ):
        left, right = verdict.left_score, verdict.right_score
    else:
        return ""
    return "" if left == right else verdict.left if left > right else verdict.right


def accuracies(items: Sequence[Judged], groups: dict[str, list[Judged]]) -> list[Accuracy]:
    """Every source over all items and over each group; groups without an item on which both have a side are left out."""
    found = []
    for name, members in {"all": list(items), **groups}.items():
        for source in SOURCES:
            sides = [(item.preferred, source_name(item.verdict, source)) for item in members]
            both = [(ours, theirs) for ours, theirs in sides if ours and theirs]
            if both:
                hits = sum(ours == theirs for ours, theirs in both)
                found.append(
                    Accuracy(source, name, wilson(hits, len(both)), verdicts_needed(hits, len(both), TARGET_HALF_WIDTH))
                )
    return found


def by_language(items: Sequence[Judged]) -> dict[str, list[Judged]]:
    groups: dict[str, list[Judged]] = defaultdict(list)
    for item in items:
        groups[item.verdict.language].append(item)
    return dict(sorted(groups.items(), key=lambda entry: (entry[0] != "en", entry[0])))


def by_margin(items: Sequence[Judged], bins: int = 4) -> dict[str, list[Judged]]:
    """Judged pairs in bins of equal size by margin; {} with fewer than two items a bin."""
    pairs = sorted(
        (item for item in items if item.verdict.margin is not None), key=lambda item: item.verdict.margin or 0.0
    )
    if len(pairs) < 2 * bins:
        return {}
    cuts = statistics.quantiles([item.verdict.margin or 0.0 for item in pairs], n=bins)
    groups: dict[str, list[Judged]] = {}
    edges = [0.0, *cuts, float("inf")]
    for low, high in itertools.pairwise(edges):
        name = f"margin {low:.2f} to {high:.2f}" if high < float("inf") else f"margin above {low:.2f}"
        groups[name] = [item for item in pairs if low <= (item.verdict.margin or 0.0) < high]
    return groups


@dataclass(frozen=True)
class Reliability:
    """Agreement between reviewers over items that several judged."""

    shared_items: int
    alpha: float
    kappas: dict[tuple[str, str], tuple[float, int]]


def reliability(verdicts: Iterable[Verdict]) -> Reliability:
    """Krippendorff's alpha and pairwise kappas of the verdicts by name: 'chosen', 'rejected', 'tie', 'both-bad', ..."""
    ratings: dict[tuple[str, str], dict[str, str]] = defaultdict(dict)
    for verdict in verdicts:
        if verdict.choice in DECIDED:
            ratings[verdict.run_id, verdict.item][verdict.reviewer] = preferred_name(verdict) or verdict.choice
    several = [ratings for ratings in ratings.values() if len(ratings) > 1]
    return Reliability(len(several), krippendorff_alpha(several), pairwise_kappas(several))


def metrics_of(verdicts: Sequence[Verdict]) -> dict[str, float]:
    """MLflow metrics, in percent: `human_agreement/es` (with the reward), `human_judge_agreement/es`, their `_n/es`, and `/all`."""
    items = by_item(verdicts)
    names = {"reward": "human_agreement", "judge": "human_judge_agreement", "length": "human_length_agreement"}
    metrics: dict[str, float] = {}
    for found in accuracies(items, by_language(items)):
        metrics[f"{names[found.source]}/{found.group}"] = 100.0 * found.interval.share
        metrics[f"{names[found.source]}_n/{found.group}"] = float(found.interval.n)
    agreed = reliability(verdicts)
    if agreed.alpha == agreed.alpha:
        metrics["human_reliability/krippendorff_alpha"] = agreed.alpha
    return metrics


def to_csv(verdicts: Iterable[Verdict]) -> str:
    """One line a verdict. Text that a spreadsheet would take for a formula gets a quote in front."""
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(COLUMNS)
    for verdict in verdicts:
        values = {**asdict(verdict), "reasons": "|".join(verdict.reasons)}
        writer.writerow([_plain(values[name]) for name in COLUMNS])
    return out.getvalue()


def _plain(value: object) -> object:
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")) else value


def trl_row(instruction: str, texts: dict[str, str], preferred: str) -> str:
    """One line of TRL's conversational preference format: prompt, chosen, rejected, each a list of messages."""
    (rejected,) = [text for name, text in texts.items() if name != preferred]
    return json.dumps(
        {
            "prompt": [{"role": "user", "content": instruction}],
            "chosen": [{"role": "assistant", "content": texts[preferred]}],
            "rejected": [{"role": "assistant", "content": rejected}],
        },
        ensure_ascii=False,
    )
