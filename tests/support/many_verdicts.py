"""A database of many verdicts on a large synthetic run."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import sqlalchemy as sql

from ui.review.verdict_store import VerdictStore, item_key

LANGUAGES = ("en", "bn", "de", "es", "fr", "ru", "sw", "th", "zh")
_REASONS = ('["untrue", "rude"]', "[]", '["off topic"]')
_AT_ONCE = 10_000


def fill(database: Path, run_id: str, prompts: int, verdicts: int) -> None:
    """Rows as the inspector stores them, at random and the same every time; one by one they would take an hour.

    Ten reviewers judge pairs of `prompts` prompts a language, each pair by one to five; a third of the verdicts is not blind, of a targeted
    queue, withdrawn or of a pair that is not there.
    """
    rng = random.Random(7)
    VerdictStore(str(database))
    table = sql.Table(
        "icr_verdicts", sql.MetaData(), autoload_with=(engine := sql.create_engine(f"sqlite:///{database}"))
    )
    rows: list[dict[str, Any]] = []
    while len(rows) < verdicts:
        number = rng.randrange(prompts) if rng.random() > 0.001 else prompts + 7
        language, prompt_id = rng.choice(LANGUAGES), f"prompt-{number:06d}"
        item = f"pair:1::{language}:{prompt_id}"
        for reviewer in rng.sample(range(10), rng.choice((1, 1, 2, 3, 5))):
            rows.append(
                {
                    "submission": f"{len(rows):032x}", "item_key": item_key(run_id, item), "item": item, "kind": "pair", "language": language,
                    "prompt_id": prompt_id, "queue": "random" if rng.random() > 0.2 else "smallest-margin", "left": "chosen",
                    "right": "rejected", "reviewer": f"Reviewer {chr(65 + reviewer)}", "run_id": run_id,
                    "choice": rng.choice(("left", "left", "right", "tie", "both-bad", "skip", "withdrawn")),
                    "reasons": rng.choice(_REASONS), "note": "A note of a few words, as people write them." if rng.random() < 0.2 else "",
                    "created_at": f"2026-01-{1 + len(rows) // 5000 % 28:02d}T10:00:00.000000+00:00", "link": "", "gold": "", "source": "inspector",
                    "iteration": 1, "base": None, "left_characters": 800, "right_characters": 700, "seconds": 20.0, "margin": 1.0,
                    "left_score": 1.0, "right_score": 0.0, "blind": rng.random() > 0.1, "disclosed": False, "fast": False,
                }
            )  # fmt: skip
    with engine.begin() as connection:
        for start in range(0, verdicts, _AT_ONCE):
            connection.execute(sql.insert(table), rows[start : min(start + _AT_ONCE, verdicts)])
