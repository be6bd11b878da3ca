"""Making a review link from what a lead asks for: what she leaves out is filled in, what cannot work is said at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from dataclasses import fields as dataclass_fields
from typing import Any, NamedTuple

from icr_platform.core.errors import InputError
from icr_platform.core.language_tags import find_name
from ui.review.gold import gold_from_file, gold_from_run
from ui.review.link_store import LinkStore
from ui.review.links import DAYS, ITEMS, MOST_GOLD, OVERLAP, GoldPair, ReviewLink, new_link
from ui.review.queues import QUEUES, Assignment, assignment, ordered
from ui.tables.run_tables import RunTables
from ui.tables.runs import ArmRecord


@dataclass(frozen=True)
class AskedLink:
    """What a lead asks for. language: '' where the run has one only. iteration: None for the last one that has the queue's tables.

    base: None for the one evaluated before it. gold: how many pairs to make of the run's responses, or a file of labelled pairs.
    """

    language: str = ""
    queue: str = "random"
    iteration: int | None = None
    base: int | None = None
    items: int = ITEMS
    overlap: int = OVERLAP
    guidelines: str = ""
    days: float = DAYS
    gold: str = ""


def asked_link(fields: Mapping[str, str]) -> AskedLink:
    """What the fields of a form, or of a command, ask for; '' is not asked for.

    Raises:
        InputError: a field that takes a number has something else.

    >>> asked_link({"language": "es", "items": "12", "iteration": ""})
    AskedLink(language='es', queue='random', iteration=None, base=None, items=12, overlap=20, guidelines='', days=14, gold='')
    """
    values: dict[str, Any] = {}
    for field in dataclass_fields(AskedLink):
        text = fields.get(field.name, "")
        if not text.strip():
            continue
        if field.type != "str":
            try:
                values[field.name] = float(text) if field.type == "float" else int(text)
            except ValueError:
                raise InputError(f"A review link's {field.name} is a number, not {text[:40]!r}.") from None
            continue
        values[field.name] = text
    return AskedLink(**values)


class MadeLink(NamedTuple):
    """A stored link, and lines on what the lead may not expect."""

    link: ReviewLink
    notes: tuple[str, ...]


def make_link(tables: RunTables, links: LinkStore, arm: ArmRecord, asked: AskedLink) -> MadeLink:
    """Store a link into a run.

    Raises:
        InputError: the run has no such language, iteration or queue, nothing to judge there, or gold pairs cannot be made.
        IcrError: a store does not answer; nothing was stored.
    """
    if asked.queue not in QUEUES:
        raise InputError(f"There is no queue {asked.queue[:40]!r}; the queues are {', '.join(QUEUES)}.")
    language = _language(arm, asked.language)
    work = assignment(arm, asked.queue, asked.iteration, asked.base, language, asked.overlap)
    gold = _gold(tables, arm, work, asked.gold.strip())
    link = new_link(
        arm.run.run_id, language, asked.queue, work.iteration, work.base, items=asked.items, overlap=asked.overlap,
        guidelines=asked.guidelines, days=asked.days, gold=gold,
    )  # fmt: skip
    there = ordered(tables, arm, work, without={pair.prompt_id for pair in gold}).total
    if not there:
        raise InputError(
            f"The queue '{QUEUES[asked.queue]}' has nothing to judge in {language}; choose another queue, language or iteration."
        )
    notes = []
    if there < link.items:
        notes.append(f"the queue has {there:,} items, so a reviewer gets {there:,} at most, not {link.items:,}")
    elif (own := link.items - link.shared) > 0 and (there - link.shared) // own < 2:
        notes.append(
            f"the queue has {there:,} items: enough for one reviewer with items of her own; raise --overlap for more reviewers"
        )
    return MadeLink(links.add(link), tuple(notes))


def _language(arm: ArmRecord, asked: str) -> str:
    there = arm.languages()
    known = ", ".join(there) or "none yet"
    if not asked.strip():
        if len(there) == 1:
            return there[0]
        raise InputError(f"Say in which language the reviewers read; this run has: {known}.")
    name = find_name(asked.strip(), there)
    if name is None:
        raise InputError(f"This run has no language {asked[:40]!r}; it has: {known}.")
    return name


def _gold(tables: RunTables, arm: ArmRecord, work: Assignment, asked: str) -> tuple[GoldPair, ...]:
    if not asked or asked == "0":
        return ()
    if asked.isascii() and asked.isdigit():
        count = int(asked[:9])
        if count > MOST_GOLD:
            raise InputError(f"A review link carries at most {MOST_GOLD} gold pairs, not {count:,}.")
        return gold_from_run(tables, arm, work, count)
    return gold_from_file(asked, work.language)
