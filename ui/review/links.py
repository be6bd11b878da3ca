"""Review links: a batch of items that a lead hands to reviewers. Its address names it and is signed, so nothing of it can be edited."""

from __future__ import annotations

import json
import random
import re
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, NamedTuple

from icr_platform.core.conversations import Conversation
from icr_platform.core.errors import InputError
from ui.review.items import GOLD, Facts, Item, Side
from ui.review.queues import QUEUES
from ui.review.reviewers import reviewer_key
from ui.review.secret import Secret
from ui.review.verdicts import Verdict

MOST_ITEMS, MOST_DAYS, MOST_GOLD = 10_000, 365, 200
LONGEST_GUIDELINES = 50_000
OVERLAP, ITEMS, DAYS = 20, 30, 14
"""What a link has unless the lead says otherwise; the overlap is enough to measure whether reviewers agree."""
Place = Literal["shared", "own", "gold"]


class GoldPair(NamedTuple):
    """Two responses of which one is certainly better, mixed into a batch to see whether reviewers pay attention.

    history, english_history: (role, text) of the messages before the instruction. made: how, such as 'looped', or 'file'.
    """

    language: str
    prompt_id: str
    instruction: str
    better: str
    worse: str
    english: str = ""
    history: tuple[tuple[str, str], ...] = ()
    english_history: tuple[tuple[str, str], ...] = ()
    made: str = "file"

    @property
    def asked(self) -> Conversation:
        """The prompt."""
        return Conversation(self.instruction, self.history)

    @property
    def asked_in_english(self) -> Conversation:
        """Its English counterpart; of an empty instruction where there is none."""
        return Conversation(self.english, self.english_history)


@dataclass(frozen=True)
class ReviewLink:
    """What a reviewer who opens the link works through.

    iteration, base: of the items; base is None for pairs. items: that each reviewer gets, gold ones not counted. overlap: percent of them
    that all reviewers get. guidelines: Markdown. expires_at, created_at: UTC, ISO 8601.
    """

    id: str
    run_id: str
    language: str
    queue: str
    iteration: int
    base: int | None
    items: int
    overlap: int
    guidelines: str
    expires_at: str
    gold: tuple[GoldPair, ...]
    created_at: str

    @property
    def shared(self) -> int:
        """Items that every reviewer gets."""
        return round(self.items * self.overlap / 100)

    def has_ended(self, now: datetime | None = None) -> bool:
        """Whether the link has expired."""
        return (now or datetime.now(UTC)) >= datetime.fromisoformat(self.expires_at)

    def places(self, secret: Secret, reviewer: str) -> list[Place]:
        """What each place of a reviewer's batch brings: the same whenever she comes back, and nobody can tell it beforehand."""
        rng = random.Random(secret.alias("places", self.id, reviewer_key(reviewer)))
        drawn: list[Place] = [*["shared"] * self.shared, *["own"] * (self.items - self.shared)]  # type: ignore[list-item]
        rng.shuffle(drawn)
        # Spread over the whole batch, so that attention is looked at early and late.
        stretch = (len(drawn) + 1) / max(len(self.gold), 1)
        for number in reversed(range(len(self.gold))):
            drawn.insert(int(stretch * (number + rng.random())), "gold")
        return drawn


def new_link(
    run_id: str,
    language: str,
    queue: str,
    iteration: int,
    base: int | None,
    *,
    items: int = ITEMS,
    overlap: int = OVERLAP,
    guidelines: str = "",
    days: float = DAYS,
    gold: Sequence[GoldPair] = (),
) -> ReviewLink:
    """A link that ends after some days.

    Raises:
        InputError: a number is out of its bounds, an unknown queue, or guidelines that are too long.
    """
    for name, value, low, high in (
        ("items", items, 1, MOST_ITEMS), ("overlap", overlap, 0, 100), ("days", days, 0, MOST_DAYS), ("gold", len(gold), 0, MOST_GOLD),
    ):  # fmt: skip
        if not low <= value <= high or (name == "days" and value == 0):
            raise InputError(f"A review link's {name} is {value:g}; give a number from {low} to {high:,}.")
    if queue not in QUEUES:
        raise InputError(f"There is no queue {queue[:40]!r}; the queues are {', '.join(QUEUES)}.")
    if len(guidelines) > LONGEST_GUIDELINES:
        raise InputError(f"The guidelines have {len(guidelines):,} characters; give at most {LONGEST_GUIDELINES:,}.")
    now = datetime.now(UTC)
    return ReviewLink(
        secrets.token_hex(6), run_id, language, queue, iteration, base, items, overlap, guidelines,
        (now + timedelta(days=days)).isoformat(timespec="seconds"), tuple(gold), now.isoformat(timespec="seconds"),
    )  # fmt: skip


def address_of(link: ReviewLink, secret: Secret) -> str:
    """Path and query of the link's address."""
    return f"/review?link={signed_id(link, secret)}"


def signed_id(link: ReviewLink, secret: Secret) -> str:
    """`ID.SIGNATURE`, what the address says of the link."""
    return f"{link.id}.{secret.sign(link.id)}"


_SIGNED = re.compile(r"([0-9a-f]{12})\.([0-9a-f]{20})")
_AROUND = " \t\r\n\u200b\ufeff.,;:!?)>]}\"'“”«»"  # what mail and chat programs take into an address


def id_in(typed: str, secret: Secret) -> str:
    """Id of the link that an address names.

    Raises:
        InputError: it is not the address of a link, or it was changed or cut.
    """
    found = _SIGNED.fullmatch(typed.strip(_AROUND).lower())
    if found is None or not secret.is_signature(found[1], found[2]):
        raise InputError(
            "This review link is not complete, or was changed. Copy it again from the message in which you got it, or ask the person who "
            "sent it for a new one."
        )
    return found[1]


def to_json(pairs: Sequence[GoldPair]) -> str:
    """Gold pairs as they are stored."""
    return json.dumps([pair._asdict() for pair in pairs], ensure_ascii=False)


def from_json(text: str) -> tuple[GoldPair, ...]:
    """Gold pairs that `to_json` wrote."""
    return tuple(GoldPair(**{**row, **_histories(row)}) for row in json.loads(text))


def _histories(row: dict[str, Any]) -> dict[str, tuple[tuple[str, str], ...]]:
    return {name: tuple((role, text) for role, text in row[name]) for name in ("history", "english_history")}


def gold_item(link: ReviewLink, number: int) -> Item:
    """The item of a link's gold pair. Its id has the link's, so that a pair that two links carry is two items."""
    pair = link.gold[number]
    return Item(GOLD, link.iteration, link.base, pair.language, f"{link.id}/{pair.prompt_id}", number)


def gold_facts(link: ReviewLink, item: Item) -> Facts:
    """What a gold item shows; `first` is the side that is certainly better."""
    pair = link.gold[item.pair_index]
    sides = (Side("chosen", pair.better, None, None), Side("rejected", pair.worse, None, None))
    return Facts(pair.asked, pair.asked_in_english, *sides, None)


def given_through(history: Iterable[Verdict], link: ReviewLink) -> dict[str, Verdict]:
    """A reviewer's last word through a link on each of its items, by item, in the order in which she last gave them.

    history: of one reviewer.
    """
    found: dict[str, Verdict] = {}
    for verdict in history:
        if verdict.link == link.id:
            found.pop(verdict.item, None)
            found[verdict.item] = verdict
    return {item: verdict for item, verdict in found.items() if verdict.choice != "withdrawn"}


def as_row(link: ReviewLink) -> dict[str, Any]:
    """The link as the database keeps it."""
    return {**asdict(link), "gold": to_json(link.gold)}


def from_row(row: dict[str, Any]) -> ReviewLink:
    """The link of a row of the database."""
    return ReviewLink(**{**row, "gold": from_json(row["gold"])})
