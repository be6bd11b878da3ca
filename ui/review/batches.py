"""Which item of a review link a reviewer gets next, how far she is, and when her batch is done."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from ui.review import links, queues
from ui.review.items import Item, item_of
from ui.review.links import Place, ReviewLink, gold_item
from ui.review.queues import Assignment, Progress
from ui.review.secret import Secret
from ui.review.verdict_store import VerdictStore
from ui.review.verdicts import INSPECTOR, Verdict
from ui.tables.run_tables import RunTables
from ui.tables.runs import ArmRecord


@dataclass(frozen=True)
class Batch:
    """A reviewer's share of a link. given: her verdicts by item. item: to judge next, None where there is none.

    is_done: all of it is judged. Where nothing is left though it is not done, other reviewers have what is left.
    """

    given: dict[str, Verdict]
    item: Item | None
    progress: Progress

    @property
    def is_done(self) -> bool:
        """Whether she has judged every item of her batch."""
        return self.progress.done >= self.progress.total


def work_of(link: ReviewLink) -> Assignment:
    """The queue behind a link."""
    return Assignment(link.iteration, link.base, link.language, link.queue, link.overlap)


def begun(tables: RunTables, verdicts: VerdictStore, arm: ArmRecord, link: ReviewLink, reviewer: str) -> Progress:
    """How far a reviewer is, without keeping an item for her."""
    return _standing(tables, verdicts, arm, link, reviewer).progress


def batch_of(
    tables: RunTables, verdicts: VerdictStore, arm: ArmRecord, link: ReviewLink, secret: Secret, reviewer: str
) -> Batch:
    """What a reviewer has judged of a link, and the item that comes next, which is kept for her."""
    found = _standing(tables, verdicts, arm, link, reviewer)
    if found.progress.done >= found.progress.total:
        return Batch(found.given, None, found.progress)
    counts, passed = Counter(found.kinds.values()), Counter[Place]()
    empty: set[Place] = set()
    for place in link.places(secret, reviewer):
        passed[place] += 1
        if passed[place] <= counts[place] or place in empty:
            continue
        item = _item_for(place, found, link, verdicts, reviewer)
        if item is not None:
            return Batch(found.given, item, found.progress)
        empty.add(place)
    return Batch(found.given, None, found.progress)


@dataclass(frozen=True)
class _Standing:
    """given: verdicts through the link by item. kinds: what place each filled. shared, own: the items of such places, in order.

    elsewhere: items that she judged, but not through the link.
    """

    given: dict[str, Verdict]
    kinds: dict[str, Place]
    shared: list[Item]
    own: queues.Ordered
    elsewhere: frozenset[str]
    progress: Progress


def _standing(tables: RunTables, verdicts: VerdictStore, arm: ArmRecord, link: ReviewLink, reviewer: str) -> _Standing:
    history = verdicts.history(link.run_id, reviewer) if reviewer else []  # without a name it would be everyone's
    given = links.given_through(history, link)
    # What she judged on Spot-check or through another link is not asked again: there she was told what the run prefers.
    before = [verdict for verdict in history if verdict.link != link.id and verdict.source == INSPECTOR]
    elsewhere = frozenset(verdict.item for verdict in before)
    work = work_of(link)
    order = queues.ordered(tables, arm, work, seed=link.id, without={pair.prompt_id for pair in link.gold})
    shared = order.items(0, link.shared)
    keys = {item.key for item in shared}
    kinds: dict[str, Place] = {
        item: "gold" if verdict.gold else "shared" if item in keys else "own" for item, verdict in given.items()
    }
    taken = {verdict.item for verdict in before if work.covers(item_of(verdict))} - given.keys()
    from_shared = min(link.shared, order.total) - len(taken & keys)
    from_own = min(link.items - link.shared, max(order.total - link.shared - len(taken - keys), 0))
    total = from_shared + from_own + len(link.gold)
    return _Standing(given, kinds, shared, order, elsewhere, Progress(len(given), max(total, len(given))))


def _item_for(place: Place, found: _Standing, link: ReviewLink, verdicts: VerdictStore, reviewer: str) -> Item | None:
    """The first item of a kind that she has not judged and that is not another's."""
    if place == "gold":
        golds = (gold_item(link, number) for number in range(len(link.gold)))
        return next((item for item in golds if item.key not in found.given), None)
    judged = found.given.keys() | found.elsewhere
    if place == "shared":
        return next((item for item in found.shared if item.key not in judged), None)
    for start in range(link.shared, found.own.total, queues.BATCH):
        items = [item for item in found.own.items(start, queues.BATCH) if item.key not in judged]
        # Claiming is one transaction of the store, so that two who ask at the same moment get different items.
        kept = verdicts.claim(link.run_id, [(item.key, False) for item in items], reviewer) if items else None
        if kept is not None:
            return items[kept]
    return None
