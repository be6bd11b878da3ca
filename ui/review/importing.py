"""Votes from elsewhere become verdicts of a run, under the name of what they are from, and count with no others unless asked for."""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from icr_platform.core.artifacts import text_digest
from icr_platform.core.errors import InputError
from ui.review.items import Item
from ui.review.verdict_store import LONGEST_NOTE, VerdictStore
from ui.review.verdicts import INSPECTOR, REASONS, Verdict
from ui.tables.matched_votes import BATCH, Matched, Unmatched, matched_votes
from ui.tables.run_tables import RunTables
from ui.tables.runs import ArmRecord

IMPORTED = "imported"
"""Queue of votes that do not say in which one they were given."""
_NAMED = 3  # rows named for each reason
_LONGEST_SOURCE = 80


@dataclass
class Imported:
    """What became of a file. added: votes that are new. known: that were here already. reasons: why others were left out, and where."""

    path: str
    run_id: str
    source: str
    added: int = 0
    known: int = 0
    reasons: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    left_out: Counter[str] = field(default_factory=Counter)

    def leave_out(self, found: Unmatched) -> None:
        """Count a vote that belongs to no item."""
        self.left_out[found.reason] += 1
        if len(self.reasons[found.reason]) < _NAMED:
            self.reasons[found.reason].append(found.where)

    @property
    def lines(self) -> list[str]:
        """In plain lines, for a terminal."""
        again = f"; {self.known:,} were here already" if self.known else ""
        said = [f"imported {self.added:,} votes of {self.path} to run {self.run_id} as {self.source!r}{again}"]
        if total := self.left_out.total():
            said.append(f"{total:,} votes were left out:")
        for reason, count in self.left_out.most_common():
            more = " ..." if count > _NAMED else ""
            said.append(f"  {count:,}: {reason} ({'; '.join(self.reasons[reason])}{more})")
        return said


def import_votes(tables: RunTables, verdicts: VerdictStore, arm: ArmRecord, path: str, source: str = "") -> Imported:
    """Store the votes of a file as verdicts of a run. What was imported before is not stored again.

    source: name of what they are from; '' takes the file's.

    Raises:
        InputError: the file cannot be read, or not one of its votes belongs to an item of the run; nothing is stored then.
        IcrError: the store does not answer; what was stored before stays, and importing again goes on there.
    """
    name = source.strip() or Path(path).name.partition(".")[0]
    if name.lower() == INSPECTOR or not name or len(name) > _LONGEST_SOURCE:
        raise InputError(
            f"--source {name[:40]!r}: give another name for what is imported, of at most {_LONGEST_SOURCE} characters"
        )
    done = Imported(path, arm.run.run_id, name)
    unnamed = _Unnamed(verdicts, arm.run.run_id, name)
    found = matched_votes(tables, arm, path)
    while batch := list(itertools.islice(found, BATCH)):
        matched = [one for one in batch if isinstance(one, Matched)]
        for one in batch:
            if isinstance(one, Unmatched):
                done.leave_out(one)
        known = verdicts.submissions({sub for one in matched for sub in _names(one, arm.run.run_id, 0)})
        rows = [row for one in matched if (row := unnamed.verdict(one, known)) is not None]
        added = verdicts.add(rows)
        done.added += added
        done.known += len(matched) - added
    if not done.added + done.known:
        said = "; ".join(line.strip() for line in done.lines[2:4]) or "the file has no rows"
        raise InputError(f"{path}: not one vote belongs to run {arm.run.run_id}: {said}")
    return done


def _names(found: Matched, run_id: str, times: int) -> tuple[str, ...]:
    """Under which submissions a vote may be here already: the last one is its own."""
    own = f"import-{text_digest(run_id, found.vote.digest, str(times) if times else '')[:50]}"
    return (str(found.vote.own["submission"]), own) if found.vote.own.get("submission") else (own,)


@dataclass
class _Unnamed:
    """Makes verdicts of votes. Votes of nobody are those of different people, numbered item by item."""

    verdicts: VerdictStore
    run_id: str
    source: str
    _times: Counter[str] = field(default_factory=Counter)
    _voters: Counter[str] = field(default_factory=Counter)

    def verdict(self, found: Matched, known: Iterable[str]) -> Verdict | None:
        """The verdict of a vote; None where it is here already. known: submissions that are."""
        vote, row = found.vote, found.item
        item = Item(row["kind"], row["iteration"], row["base"], row["language"], row["prompt_id"], row["number"])
        times = 0
        reviewer = vote.voter
        if not reviewer:
            # Two people who say the same write the same row: the second one is another vote.
            times = self._times[vote.digest]
            self._times[vote.digest] += 1
            self._voters[item.key] += 1
            reviewer = f"{self.source}, voter {self._voters[item.key]}"
        names = _names(found, self.run_id, times)
        if set(names) & set(known):
            return None
        first, second = ("chosen", "rejected") if item.kind == "pair" else ("after", "before")
        order = (1, -1)[not found.is_first_left]
        reasons = tuple(reason for reason in vote.reasons if reason in REASONS)
        others = [reason for reason in vote.reasons if reason not in REASONS]
        note = "\n".join([*([vote.note] if vote.note else []), *([f"Reasons: {', '.join(others)}"] if others else [])])
        left, right = (first, second)[::order]
        scores = (row["first_score"], row["second_score"])[::order]
        characters = (row["first_characters"], row["second_characters"])[::order]
        return Verdict(
            submission=names[-1], reviewer=reviewer[:200], run_id=self.run_id, item=item.key, kind=item.kind, language=item.language,
            prompt_id=item.prompt_id, iteration=item.iteration, base=item.base, queue=str(vote.own.get("queue") or IMPORTED), left=left,
            right=right, choice=vote.choice, reasons=reasons, note=note[:LONGEST_NOTE], blind=vote.blind, seconds=vote.seconds,
            margin=row["margin"], left_characters=characters[0], right_characters=characters[1], left_score=scores[0], right_score=scores[1],
            created_at=vote.created_at, disclosed=bool(vote.own.get("disclosed")), fast=bool(vote.own.get("fast")), source=self.source,
        )  # fmt: skip
