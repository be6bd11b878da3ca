"""The page behind a review link: guidelines, one item after the other, blind, and at the end what the run preferred."""

from __future__ import annotations

import sys
import traceback
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from markupsafe import Markup

from icr_platform.core.errors import IcrError, InputError
from ui.html.rendering import message, render
from ui.pages.inspector import Inspector
from ui.pages.keys import KEYS
from ui.pages.shell import SignedIn
from ui.review import batches, recording
from ui.review.items import Item, is_first_left
from ui.review.links import ReviewLink, address_of, given_through
from ui.tables.runs import ArmRecord


class Asked(NamedTuple):
    """What a page is made for.

    typed: the link as the address has it. signed_in: who has logged in, None where `reviewer` is a name that she typed.
    begins: whether to show the guidelines first, though she has begun. goes_on: whether she has read them just now.
    """

    typed: str
    reviewer: str
    signed_in: SignedIn | None = None
    begins: bool = False
    goes_on: bool = False


class Offer(NamedTuple):
    """HTML of the page, and the token that comes back with the verdict ('' when there is nothing to judge)."""

    html: str
    token: str


@dataclass
class _Page:
    """Fields of the template."""

    state: str = "closed"
    address: str = "/review"
    token: str = ""
    problems: list[Markup] = field(default_factory=list)
    fields: dict[str, Any] = field(default_factory=dict)


def offer(inspector: Inspector, asked: Asked, wanted: Item | None = None) -> Offer:
    """The page of a link for a reviewer: its next item, or `wanted`. Never raises: what goes wrong is said in the page.

    What the page says, its attributes and its token disclose nothing about rewards, samples and iterations before the batch is done.
    """
    page = _Page()
    try:
        link = inspector.links.opened(asked.typed)
        page.address = address_of(link, inspector.links.secret)
        if link.has_ended():
            said = f"This review link ended on {link.expires_at[:10]}. Your verdicts are stored. Ask the person who sent it for a new one."
            raise InputError(said)
        _fill(page, inspector, link, asked, wanted)
    except IcrError as error:
        page.state = "closed"
        page.problems.append(message(str(error), kind="error"))
        page.fields["asks_again"] = not isinstance(error, InputError)  # a store that is away comes back
    except Exception:  # noqa: BLE001 - a person gets a sentence, the terminal the traceback
        traceback.print_exc(file=sys.stderr)
        page.state = "closed"
        said = "Something went wrong in the inspector. Your verdicts are stored; load the page again in a minute."
        page.problems.append(message(said, kind="error"))
    shared = {
        "asks_again": False,
        "progress": None,
        "guidelines": "",
        "reviewer": asked.reviewer,
        "signed_in": asked.signed_in,
    }
    html = render(
        "review", state=page.state, address=page.address, problems=page.problems, keys=KEYS, **{**shared, **page.fields}
    )
    return Offer(html, page.token if page.state == "item" else "")


def _fill(page: _Page, inspector: Inspector, link: ReviewLink, asked: Asked, wanted: Item | None) -> None:
    arm, reviewer = arm_of(inspector, link), asked.reviewer
    page.fields["guidelines"] = link.guidelines
    history = inspector.verdicts.history(link.run_id, reviewer) if reviewer else []
    given = given_through(history, link)
    if not reviewer or asked.begins or not (given or asked.goes_on or wanted):
        page.state = "start"
        progress = batches.begun(inspector, inspector.verdicts, arm, link, reviewer)
        page.fields |= {"total": progress.total, "language": link.language}
        return
    batch = batches.batch_of(inspector, inspector.verdicts, arm, link, inspector.links.secret, reviewer)
    page.fields["progress"] = batch.progress
    item = wanted or batch.item
    if item is not None:
        _show_item(page, inspector, link, item, reviewer)
    elif batch.is_done:
        # From now on she knows what the run prefers: what she changes is not blind any more.
        inspector.verdicts.tell(link.id, reviewer)
        page.state = "done"
        page.fields |= _results([recording.reveal_of(verdict) for verdict in batch.given.values()])
    else:
        page.state = "waiting"


def _show_item(page: _Page, inspector: Inspector, link: ReviewLink, item: Item, reviewer: str) -> None:
    secret = inspector.links.secret
    facts = recording.facts_in(inspector, link, item)
    _, left, right = recording.in_order(facts, is_first_left(secret, reviewer, item, blind=True))
    page.state = "item"
    page.token = recording.new_token(secret, item, link.run_id, link.queue, True, left.name, reviewer, link.id)
    page.fields |= {
        "alias": secret.alias(item.key), "facts": facts, "left": left, "right": right, "item_language": item.language,
    }  # fmt: skip


def _results(told: list[recording.Reveal]) -> dict[str, Any]:
    """What the page says when the batch is done. Gold pairs are the lead's, and no preference of the run's."""
    agreed = [found.is_agreed for found in told if not found.verdict.gold and found.is_agreed is not None]
    about = next((found.about for found in told if not found.verdict.gold), "")
    return {"told": told, "both": len(agreed), "same": sum(agreed), "about": about}


def arm_of(inspector: Inspector, link: ReviewLink) -> ArmRecord:
    """The run behind a link.

    Raises:
        InputError: it was deleted.
        IcrError: the store does not answer.
    """
    try:
        return inspector.catalogue.arm(link.run_id)
    except InputError as error:
        raise InputError(
            "What this review link is about was deleted, so there is nothing to judge any more. Your verdicts are stored. Tell the person who "
            "sent you the link."
        ) from error
    except IcrError as error:
        print(f"review link {link.id}: {error}", file=sys.stderr)
        raise IcrError(
            "The inspector cannot read its runs at the moment. Your verdicts are stored; load the page again in a minute."
        ) from error
