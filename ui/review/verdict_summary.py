"""Verdicts in sum: how often the reward, the judge and length prefer what people prefer, and people what other people prefer. Pure."""

from __future__ import annotations

import itertools
import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from icr_platform.core.intervals import Interval, wilson
from icr_platform.core.language_tags import is_english
from ui.review.counted import Counted
from ui.review.item_rows import answer_of, item_rows
from ui.review.reliability import krippendorff_alpha, pairwise_kappas, verdicts_needed
from ui.review.verdicts import CHOICES, DECIDED, Verdict, preferred_name

SOURCES = {"reward": "Implicit reward", "judge": "Judge", "length": "Longer text"}
TARGET_HALF_WIDTH = 0.05


@dataclass(frozen=True)
class Judged:
    """One item and the side that most reviewers prefer, by name ('chosen', 'before', ...); '' for ties, both bad and draws.

    verdict: any reviewer's on the item; it knows what the run thought.
    """

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
    return [Judged(row.verdict, row.preferred, len(row.votes)) for row in item_rows(verdicts, "majority")]


def source_name(verdict: Verdict, source: str) -> str:
    """The side that a source prefers; '' where it prefers none: the judge knows outputs, the reward pairs."""
    names = (verdict.left, verdict.right)
    if source == "length":
        return higher((verdict.left_characters, verdict.right_characters), names)
    is_about = verdict.kind == {"reward": "pair", "judge": "outputs"}[source]
    return higher((verdict.left_score, verdict.right_score), names) if is_about else ""


def higher(scores: tuple[float | None, float | None], names: tuple[str, str]) -> str:
    """Name with the higher of two scores; '' where one is missing or both are equal."""
    left, right = scores
    if left is None or right is None or left == right:
        return ""
    return names[0] if left > right else names[1]


def accuracies(items: Sequence[Judged], groups: dict[str, list[Judged]]) -> list[Accuracy]:
    """Every source over all items and over each group; groups without an item on which both have a side are left out."""
    found = []
    for name, members in {"all": list(items), **groups}.items():
        for source in SOURCES:
            sides = [(item.preferred, source_name(item.verdict, source)) for item in members]
            # Who prefers neither side can neither agree nor disagree.
            both = [(ours, theirs) for ours, theirs in sides if ours and theirs]
            if both:
                hits = sum(ours == theirs for ours, theirs in both)
                found.append(
                    Accuracy(source, name, wilson(hits, len(both)), verdicts_needed(hits, len(both), TARGET_HALF_WIDTH))
                )
    return found


def by_language(items: Sequence[Judged]) -> dict[str, list[Judged]]:
    """Judged items of each language, English first."""
    groups: dict[str, list[Judged]] = defaultdict(list)
    for item in items:
        groups[item.verdict.language].append(item)
    return dict(sorted(groups.items(), key=lambda entry: (not is_english(entry[0]), entry[0])))


def by_margin(items: Sequence[Judged], bins: int = 4) -> dict[str, list[Judged]]:
    """Judged pairs in bins of equal size by margin; {} with fewer than two items a bin."""
    pairs = sorted(
        (item for item in items if item.verdict.margin is not None), key=lambda item: item.verdict.margin or 0.0
    )
    if len(pairs) < 2 * bins:
        return {}
    # Margins are above 0, so the first bin begins there.
    cuts = statistics.quantiles([item.verdict.margin or 0.0 for item in pairs], n=bins)
    groups: dict[str, list[Judged]] = {}
    edges = [0.0, *cuts, float("inf")]
    for low, high in itertools.pairwise(edges):
        name = f"margin {low:.2f} to {high:.2f}" if high < float("inf") else f"margin above {low:.2f}"
        groups[name] = [item for item in pairs if low <= (item.verdict.margin or 0.0) < high]
    return groups


@dataclass(frozen=True)
class ReviewerRow:
    """One reviewer: her blind verdicts of random queues, how often she chose what, her median seconds, and what is counted apart.

    fast: of all her verdicts, those that were given quicker than anyone reads. gold_right: of her gold items, those that she judged right.
    """

    name: str
    verdicts: int
    choices: dict[str, int]
    seconds: float | None
    fast: int
    targeted: int
    open: int
    gold: int
    gold_right: int


def by_reviewer(found: Counted) -> list[ReviewerRow]:
    """A row per reviewer, by name."""
    kinds = (found.blind, found.targeted, found.open, found.gold)
    given: list[dict[str, list[Verdict]]] = [defaultdict(list) for _ in kinds]
    for of_kind, kind in zip(given, kinds, strict=True):
        for verdict in kind:
            of_kind[verdict.reviewer].append(verdict)

    def row(name: str) -> ReviewerRow:
        blind, targeted, shown, gold = (of_kind.get(name, []) for of_kind in given)
        return ReviewerRow(
            name,
            len(blind),
            {choice: sum(verdict.choice == choice for verdict in blind) for choice in CHOICES},
            statistics.median(verdict.seconds for verdict in blind) if blind else None,
            fast=sum(verdict.fast for verdict in (*blind, *targeted, *shown, *gold)),
            targeted=len(targeted),
            open=len(shown),
            gold=len(gold),
            gold_right=sum(preferred_name(verdict) == verdict.gold for verdict in gold),
        )

    return [row(name) for name in sorted({name for of_kind in given for name in of_kind})]


@dataclass(frozen=True)
class Reliability:
    """Agreement between reviewers over the items that several judged. kappas: per pair of reviewers, with its number of items."""

    shared_items: int
    alpha: float
    kappas: dict[tuple[str, str], tuple[float, int]]


def reliability(verdicts: Iterable[Verdict]) -> Reliability:
    """Krippendorff's alpha and pairwise kappas of the verdicts by name: 'chosen', 'rejected', 'tie', 'both-bad', ..."""
    ratings: dict[tuple[str, str], dict[str, str]] = defaultdict(dict)
    for verdict in verdicts:
        if verdict.choice in DECIDED:
            ratings[verdict.run_id, verdict.item][verdict.reviewer] = answer_of(verdict)
    # An item that one reviewer judged says nothing about agreement.
    several = [ratings for ratings in ratings.values() if len(ratings) > 1]
    return Reliability(len(several), krippendorff_alpha(several), pairwise_kappas(several))


_METRICS = {"reward": "human_agreement", "judge": "human_judge_agreement", "length": "human_length_agreement"}


def verdict_metrics(found: Counted) -> dict[str, float]:
    """MLflow metrics, in percent: `human_agreement/es` (with the reward), `human_judge_agreement/es`, their `_n/es`, and `/all`.

    Of blind verdicts of random queues alone. Those of targeted queues and open ones stand apart, as `human_agreement_targeted/es` and
    `human_agreement_open/es`; `human_verdicts/KIND` says how many there are of each kind.
    """
    metrics: dict[str, float] = {}
    for end, verdicts in (("", found.blind), ("_targeted", found.targeted), ("_open", found.open)):
        items = by_item(verdicts)
        for row in accuracies(items, by_language(items)):
            metrics[f"{_METRICS[row.source]}{end}/{row.group}"] = 100.0 * row.interval.share
            metrics[f"{_METRICS[row.source]}{end}_n/{row.group}"] = float(row.interval.n)
    # MLflow keeps a metric's last value: that an agreement which was published before has nothing to rest on now has to be said.
    metrics.setdefault("human_agreement_n/all", 0.0)
    agreed = reliability(found.blind)
    if agreed.alpha == agreed.alpha:  # NaN, and left out, when no two reviewers judged the same item
        metrics["human_reliability/krippendorff_alpha"] = agreed.alpha
    kinds = {
        "blind": found.blind, "targeted": found.targeted, "open": found.open, "gold": found.gold, "adjudicated": found.adjudicated,
        "imported": found.imported,
    }  # fmt: skip
    return metrics | {f"human_verdicts/{kind}": float(len(verdicts)) for kind, verdicts in kinds.items() if verdicts}
