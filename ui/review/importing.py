"""Votes from elsewhere become verdicts of a run, under the name of what they are from, and count with no others unless asked for."""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from icr_platform.core.artifacts import text_digest
from icr_platform.core.errors import InputError
from ui.review.items import Item
from ui.review.reviewers import LONGEST_NAME
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
    reader = _Rows(verdicts, arm.run.run_id, name)
    found = matched_votes(tables, arm, path)
    while batch := list(itertools.islice(found, BATCH)):
        matched = [one for one in batch if isinstance(one, Matched)]
        for one in batch:
            if isinstance(one, Unmatched):
                done.leave_out(one)
        added = verdicts.add(reader.new_ones(matched))
        done.added += added
        done.known += len(matched) - added
    if not done.added + done.known:
        said = "; ".join(line.strip() for line in done.lines[2:4]) or "the file has no rows"
        raise InputError(f"{path}: not one vote belongs to run {arm.run.run_id}: {said}")
    return done


@dataclass
class _Rows:
    """Makes verdicts of votes."""

    verdicts: VerdictStore
    run_id: str
    source: str
    _times: Counter[str] = field(default_factory=Counter)

    def new_ones(self, batch: Sequence[Matched]) -> list[Verdict]:
        """Verdicts of the votes that are not here yet."""
        names = [self._names(found) for found in batch]
        known = self.verdicts.submissions({name for both in names for name in both})
        new = [(found, both[-1]) for found, both in zip(batch, names, strict=True) if not known & {*both}]
        items = {_item(found).key for found, _ in new if not found.vote.voter}
        # Votes of nobody are those of different people, numbered item by item: none takes the place of another.
        voters = Counter(
            verdict.item
            for verdict in (self.verdicts.on_items(self.run_id, items) if items else ())
            if verdict.source == self.source and verdict.reviewer.startswith(self._unnamed(""))
        )
        made = []
        for found, submission in new:
            reviewer, item = found.vote.voter, _item(found)
            if not reviewer:
                voters[item.key] += 1
                reviewer = self._unnamed(voters[item.key])
            made.append(_verdict(found, item, submission, reviewer[:LONGEST_NAME], self.run_id, self.source))
        return made

    def _unnamed(self, number: int | str) -> str:
        return f"{self.source}, voter {number}"

    def _names(self, found: Matched) -> tuple[str, ...]:
        """Under which submissions a vote may be here already: the last one is its own."""
        vote, times = found.vote, 0
        if not vote.voter:  # two people who say the same write the same row: the second one is another vote
            times = self._times[vote.digest]
            self._times[vote.digest] += 1
        own = f"import-{text_digest(self.run_id, vote.digest, str(times or ''))[:50]}"
        return (str(vote.own["submission"]), own) if vote.own.get("submission") else (own,)


def _item(found: Matched) -> Item:
    row = found.item
    return Item(row["kind"], row["iteration"], row["base"], row["language"], row["prompt_id"], row["number"])


def _verdict(found: Matched, item: Item, submission: str, reviewer: str, run_id: str, source: str) -> Verdict:
    vote, row = found.vote, found.item
    order = 1 if found.is_first_left else -1
    left, right = (("chosen", "rejected") if item.kind == "pair" else ("after", "before"))[::order]
    scores = (row["first_score"], row["second_score"])[::order]
    characters = (row["first_characters"], row["second_characters"])[::order]
    others = [reason for reason in vote.reasons if reason not in REASONS]
    note = "\n".join([*([vote.note] if vote.note else []), *([f"Reasons: {', '.join(others)}"] if others else [])])
    return Verdict(
        submission=submission, reviewer=reviewer, run_id=run_id, item=item.key, kind=item.kind, language=item.language,
        prompt_id=item.prompt_id, iteration=item.iteration, base=item.base, queue=str(vote.own.get("queue") or IMPORTED), left=left,
        right=right, choice=vote.choice, reasons=tuple(reason for reason in vote.reasons if reason in REASONS), note=note[:LONGEST_NOTE],
        blind=vote.blind, seconds=vote.seconds, margin=row["margin"], left_characters=characters[0], right_characters=characters[1],
        left_score=scores[0], right_score=scores[1], created_at=vote.created_at, disclosed=bool(vote.own.get("disclosed")),
        fast=bool(vote.own.get("fast")), source=source,
    )  # fmt: skip
