"""A reviewer's verdict on one item, and the table of verdicts."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa

from ui.review.reviewers import reviewer_key

CHOICES = ("left", "right", "tie", "both-bad", "skip", "withdrawn")
DECIDED = ("left", "right", "tie", "both-bad")
INSPECTOR = "inspector"
ADJUDICATION = "adjudication"
"""Queue of a lead's verdicts that settle what others disagree about."""
CHOSEN_ITEM = "chosen-item"
"""Queue of verdicts on an item that the reviewer opened by herself, from a page that shows it."""
REASONS = ("wrong language", "untrue", "rude", "truncated", "off topic", "repetitive", "unnatural", "unsafe")


@dataclass(frozen=True)
class Verdict:
    """One reviewer's judgment of one item, with what she saw and what the run thought of it at that time."""

    submission: str
    """Name that the page gave it; stored once."""
    reviewer: str
    run_id: str
    item: str
    """Identity of what was compared, see ui.review.items."""
    kind: str
    """'pair' or 'outputs'."""
    language: str
    prompt_id: str
    iteration: int
    base: int | None
    """Iteration compared with, for outputs."""
    queue: str
    left: str
    """What stood left: 'chosen', 'rejected', 'before' or 'after'."""
    right: str
    choice: str
    reasons: tuple[str, ...]
    note: str
    blind: bool
    seconds: float
    """From the moment the item was shown."""
    margin: float | None
    left_characters: int
    right_characters: int
    left_score: float | None
    """Implicit reward (length-controlled) for pairs, the judge's preference for outputs; null where there is none."""
    right_score: float | None
    created_at: str = ""
    """UTC, ISO 8601; set when stored."""
    link: str = ""
    """Id of the review link that it was given through; '' on Spot-check."""
    disclosed: bool = False
    """Whether the reviewer had been told what the run thinks of the item before she gave it; set when stored."""
    fast: bool = False
    """Whether it was given quicker than anyone reads, see ui.review.reading."""
    gold: str = ""
    """The side that is better for certain, by its name as in `left` and `right`, where the item checks attention; else ''."""
    source: str = INSPECTOR
    """Where it was given: in the inspector, or the name of what it was imported from."""


def preferred_name(verdict: Verdict) -> str:
    """'chosen', 'rejected', 'before' or 'after'; '' without a side."""
    return {"left": verdict.left, "right": verdict.right}.get(verdict.choice, "")


def is_own_word(verdict: Verdict, reviewer: str) -> bool:
    """Whether a reviewer gave a verdict here as one who reviews, not as one who adjudicates and not elsewhere."""
    is_hers = reviewer_key(verdict.reviewer) == reviewer_key(reviewer)
    return is_hers and verdict.source == INSPECTOR and verdict.queue != ADJUDICATION


COLUMNS = tuple(Verdict.__dataclass_fields__)


def verdict_in(row: Mapping[str, Any]) -> Verdict:
    """The verdict of a row as it is stored, of which the reasons are JSON."""
    return Verdict(
        **{name: row[name] for name in COLUMNS if name != "reasons"}, reasons=tuple(json.loads(row["reasons"]))
    )


VERDICTS_SCHEMA = pa.schema(
    [
        ("submission", pa.string()), ("reviewer", pa.string()), ("run_id", pa.string()), ("item", pa.string()), ("kind", pa.string()),
        ("language", pa.string()), ("prompt_id", pa.string()), ("iteration", pa.int64()), ("base", pa.int64()), ("queue", pa.string()),
        ("left", pa.string()), ("right", pa.string()), ("choice", pa.string()), ("reasons", pa.list_(pa.string())), ("note", pa.string()),
        ("blind", pa.bool_()), ("seconds", pa.float64()), ("margin", pa.float64()), ("left_characters", pa.int64()),
        ("right_characters", pa.int64()), ("left_score", pa.float64()), ("right_score", pa.float64()), ("created_at", pa.string()),
        # From here on null in tables of version 1.
        ("link", pa.string()), ("disclosed", pa.bool_()), ("fast", pa.bool_()), ("gold", pa.string()), ("source", pa.string()),
    ],
    metadata={"icr.table": "verdicts", "icr.schema_version": "2"},
)  # fmt: skip


def verdicts_table(verdicts: Sequence[Verdict]) -> pa.Table:
    """As VERDICTS_SCHEMA."""
    return pa.Table.from_pylist([{**asdict(v), "reasons": list(v.reasons)} for v in verdicts], schema=VERDICTS_SCHEMA)
