"""Which verdicts count for what: the one place that says so. Agreement, published metrics and exports take their verdicts from here. Pure.

Blind verdicts of random queues are a fair sample of a run, and say how often people prefer what it prefers. The other kinds answer other
questions and are shown apart, never added to them: queues that look for hard items on purpose are no sample of the run, whoever has seen the
scores may follow them, the answer to a gold item was known before, a lead who adjudicates has read what the others said, and imported votes
were given somewhere else.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field, replace

from ui.review.reviewers import first_typed, reviewer_key
from ui.review.verdicts import ADJUDICATION, INSPECTOR, Verdict

FAIR_QUEUES = ("random",)
"""Queues in which every item of the run has the same chance."""


@dataclass(frozen=True)
class Counted:
    """Verdicts by what they count for; each is in exactly one of these."""

    blind: list[Verdict]
    """Of random queues, and given before anything was disclosed: what agreement and published metrics are about."""
    targeted: list[Verdict]
    """As blind, of queues that choose their items by margin, by what the judge saw or by who disagrees."""
    open: list[Verdict]
    """Given by someone who saw the scores, or changed by her after she was told."""
    gold: list[Verdict]
    """On items whose answer is certain: they say how attentive reviewers are."""
    adjudicated: list[Verdict] = field(default_factory=list)
    """A lead's answers on items about which others disagree, in the order given; the last one on an item is its answer."""
    imported: list[Verdict] = field(default_factory=list)
    """Given elsewhere, and not asked for."""


def counted(verdicts: Iterable[Verdict], excluded: Collection[str] = (), with_imported: bool = False) -> Counted:
    """Sort verdicts (the last word of each reviewer on each item) by what they count for.

    excluded: names of reviewers whose verdicts are left out, however they are spelled. with_imported: sort imported votes among the others.
    """
    verdicts, left_out = list(verdicts), {reviewer_key(name) for name in excluded}
    shown = first_typed(verdict.reviewer for verdict in verdicts)
    found = Counted([], [], [], [])
    for verdict in verdicts:
        if reviewer_key(verdict.reviewer) in left_out:
            continue
        if verdict.source != INSPECTOR and not with_imported:
            kind = found.imported
        elif verdict.queue == ADJUDICATION:
            kind = found.adjudicated
        elif verdict.gold:
            kind = found.gold
        elif not verdict.blind or verdict.disclosed:
            kind = found.open
        else:
            kind = found.blind if verdict.queue in FAIR_QUEUES else found.targeted
        name = shown[verdict.reviewer]
        kind.append(verdict if verdict.reviewer == name else replace(verdict, reviewer=name))
    return found
