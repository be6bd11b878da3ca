"""What someone may see of the verdicts of others.

A lead sees them all, with names. A reviewer sees those on items that she has judged herself, with numbers for names, as they are published.
Nobody sees those on items of a review link that she is working through: she is still to judge them blind.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from ui.review.batches import work_of
from ui.review.items import Item
from ui.review.link_store import LinkStore
from ui.review.queues import Assignment
from ui.review.reviewers import numbered, reviewer_key
from ui.review.verdict_store import VerdictStore


class Viewer(NamedTuple):
    """Who looks at a page. name: of who has logged in, '' without a login. is_lead: as `ui.server.roles` has it."""

    name: str = ""
    is_lead: bool = False


NOBODY = Viewer()


@dataclass(frozen=True)
class Sight:
    """What a viewer may see of a run's verdicts.

    own: key of the reviewer who sees only items that she judged; '' for a lead. hidden: work of the links that she is working through.
    names: what each reviewer is called for her, by the reviewer's key, in the order of first verdicts.
    """

    own: str
    hidden: tuple[Assignment, ...]
    names: Mapping[str, str]

    def shows(self, item: Item, judged_by: set[str]) -> bool:
        """Whether she may see the verdicts on an item. judged_by: keys of those who judged it."""
        return (not self.own or self.own in judged_by) and not any(work.covers(item) for work in self.hidden)


def sight_of(verdicts: VerdictStore, links: LinkStore, run_id: str, viewer: Viewer) -> Sight | None:
    """What a viewer may see of a run's verdicts; None for nothing, as where nobody knows who she is.

    Raises:
        IcrError: the store does not answer.
    """
    own = reviewer_key(viewer.name)
    if not own and not viewer.is_lead:
        return None
    typed = verdicts.reviewers(run_id)
    names = {reviewer_key(name): shown for name, shown in numbered(typed).items()}
    if viewer.is_lead:
        names = {reviewer_key(name): name for name in typed}
    elif own in names:
        names[own] = "you"
    hidden: tuple[Assignment, ...] = ()
    if own:
        begun = {verdict.link for verdict in verdicts.history(run_id, viewer.name) if verdict.link}
        unfinished = begun - verdicts.told_links(viewer.name)
        hidden = tuple(work_of(link) for link in links.of_run(run_id) if link.id in unfinished and not link.has_ended())
    return Sight("" if viewer.is_lead else own, hidden, names)
