"""Several people's votes on one item become one row, by a rule that is chosen. Pure.

The majority's answer is that of most reviewers; where the two most frequent answers are level it is a draw. A lead's adjudication is the
answer where that is asked for, and the majority's where there is none. Skipped items have no vote.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from icr_platform.core.errors import InputError
from ui.review.verdicts import ADJUDICATION, DECIDED, Verdict, preferred_name

RULES = ("majority", "adjudicated", "all")
"""What several votes on an item become: most reviewers' answer; a lead's, or else most reviewers'; a row for each vote."""


@dataclass(frozen=True)
class ItemRow:
    """An item and its answer.

    answer: the name of the side that is better ('chosen', 'before', ...), 'tie', 'both-bad', or 'draw' where reviewers are divided.
    decided_by: 'majority', 'adjudication' or 'vote' (a row for each). votes: the reviewers' that it rests on, in the order given; with
    an adjudication they may be none.
    """

    verdict: Verdict
    """Of the votes the first, or the adjudication: it knows what the run thought of the item."""
    answer: str
    decided_by: str
    votes: tuple[Verdict, ...]

    @property
    def preferred(self) -> str:
        """The name of the side that is better; '' without one."""
        return self.answer if self.answer in (self.verdict.left, self.verdict.right) else ""


def item_rows(verdicts: Iterable[Verdict], rule: str) -> list[ItemRow]:
    """A row for each item that has an answer, or for each vote, in the order in which items were first voted on.

    verdicts: the last word of each reviewer on each item, of one kind (see `ui.review.counted`), with adjudications where the rule needs
    them.

    Raises:
        InputError: there is no such rule.
    """
    if rule not in RULES:
        raise InputError(f"There is no rule {rule[:40]!r} for several votes; the rules are {', '.join(RULES)}.")
    groups: dict[tuple[str, str], list[Verdict]] = defaultdict(list)
    for verdict in verdicts:
        if verdict.choice in DECIDED:
            groups[verdict.run_id, verdict.item].append(verdict)
    return [row for group in groups.values() for row in _rows(group, rule)]


def _rows(group: Sequence[Verdict], rule: str) -> list[ItemRow]:
    """Rows of one item."""
    votes = tuple(verdict for verdict in group if verdict.queue != ADJUDICATION)
    leads = [verdict for verdict in group if verdict.queue == ADJUDICATION]
    if rule == "all":
        return [ItemRow(vote, answer_of(vote), "vote", (vote,)) for vote in votes]
    if rule == "adjudicated" and leads:
        return [ItemRow(leads[-1], answer_of(leads[-1]), "adjudication", votes)]
    return [ItemRow(votes[0], _majority(votes), "majority", votes)] if votes else []


def answer_of(verdict: Verdict) -> str:
    """The side that one verdict prefers, by its name, or 'tie' or 'both-bad'."""
    return preferred_name(verdict) or verdict.choice


def _majority(votes: Sequence[Verdict]) -> str:
    # Who calls both equal and who calls both bad prefers neither: together they may outvote a side.
    ranked = Counter(preferred_name(vote) for vote in votes).most_common(2)
    if len(ranked) == 2 and ranked[0][1] == ranked[1][1]:
        return "draw"
    bad = sum(vote.choice == "both-bad" for vote in votes)
    ties = sum(vote.choice == "tie" for vote in votes)
    return ranked[0][0] or ("both-bad" if bad > ties else "tie")
