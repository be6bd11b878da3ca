"""Publishing: a run's verdicts become a table and metrics of its MLflow run. What will be published is shown first.

Who reads the run need not know who judged: reviewers are published as 'reviewer 1', 'reviewer 2' and so on, in the order in which their
first verdicts on the run were stored. History only grows, so that the numbers stay when the run is published again; only the verdict
database says whose they are, and in another run the same person has another number.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from icr_platform.core.artifacts import ArtifactWriter, text_digest
from icr_platform.core.errors import InputError
from ui.review.counted import counted
from ui.review.exports import VERDICTS
from ui.review.reviewers import left_out_keys, numbered, reviewer_key
from ui.review.verdict_store import VerdictStore
from ui.review.verdict_summary import verdict_metrics
from ui.review.verdicts import Verdict, verdicts_table
from ui.tables.run_tables import RunTables


@dataclass(frozen=True)
class Publication:
    """What is, or would be, published of a run."""

    run_id: str
    history: Sequence[Verdict]
    """Rows of the table: every verdict ever given, withdrawn ones included, with reviewers as they are published."""
    reviewers: Mapping[str, tuple[str, int]]
    """Name in the table, and number of rows, by the name that the reviewer gave."""
    metrics: Mapping[str, float]
    """Figures by metric name; each reviewer's last word on each item counts."""
    has_names: bool
    notes: int
    """Rows with a note, which is published as it was written."""
    left_out: Sequence[str] = ()
    """Names of the reviewers who are in no figure and no row."""

    @property
    def version(self) -> str:
        """Changes whenever something else would be published."""
        return text_digest(
            self.run_id, str(self.has_names), *self.left_out, *(verdict.submission for verdict in self.history)
        )[:16]


def publication(
    tables: RunTables, verdicts: VerdictStore, run_id: str, names: bool = False, leave_out: Collection[str] = ()
) -> Publication:
    """What publishing a run would add to it.

    Args:
        names: reviewers' own names instead of numbers. leave_out: reviewers who are in no figure and no row, however they are spelled;
            the others keep their numbers.

    Raises:
        InputError: no such run, it has no verdict, or nobody is called as one of `leave_out`.
        IcrError: the store does not answer.
    """
    run_id = tables.catalogue.arm(run_id).run.run_id
    history = verdicts.history(run_id)
    if not history:
        raise InputError(f"Run {run_id} has no verdicts yet; record some on Spot-check.")
    typed = [verdict.reviewer for verdict in history]  # the store shows all spellings of a name as one
    shown = {name: name for name in typed} if names else numbered(typed)
    left_out = left_out_keys(leave_out, typed)
    history = [verdict for verdict in history if reviewer_key(verdict.reviewer) not in left_out]
    if not history:
        raise InputError("Every reviewer is left out, so there is nothing to publish.")
    rows = Counter(verdict.reviewer for verdict in history)
    return Publication(
        run_id,
        [replace(verdict, reviewer=shown[verdict.reviewer]) for verdict in history],
        {name: (shown[name], count) for name, count in rows.items()},
        verdict_metrics(counted(verdicts.current(run_id), left_out)),
        names,
        sum(bool(verdict.note) for verdict in history),
        tuple(dict.fromkeys(name for name in typed if reviewer_key(name) in left_out)),
    )


def publish(tables: RunTables, found: Publication) -> int:
    """Add a publication to its MLflow run: the history as table `verdicts`, and agreement as metrics.

    Returns:
        How many rows of history were published.

    Raises:
        IcrError: the store or the server does not answer; what was published before stays.
    """
    with tempfile.TemporaryDirectory(prefix="icr-verdicts-") as folder:
        # Written as every artifact is, so that the platform's own readers check and read it.
        place = Path(folder) / "verdicts"
        writer = ArtifactWriter(place, VERDICTS, fingerprint=f"{found.run_id}/{len(found.history)}")
        writer.write_part(0, verdicts_table(found.history))
        writer.close(1)
        tables.catalogue.reader.attach(found.run_id, place, "verdicts", found.metrics)
    return len(found.history)


def preview_lines(found: Publication) -> list[str]:
    """A publication in plain lines, for a terminal."""
    people = [
        f"  {shown}{'' if found.has_names else f'  (is {name!r}; only this preview says so)'}: {count} rows"
        for name, (shown, count) in found.reviewers.items()
    ]
    figures = [f"  {name} = {value:.6g}" for name, value in sorted(found.metrics.items())]
    return [
        f"To run {found.run_id} would be added:",
        f"table 'verdicts' of {len(found.history)} rows, withdrawn verdicts included, {found.notes} with a note as it was written",
        "reviewers:",
        *people,
        *(f"  {name!r} is left out of the table and of every figure" for name in found.left_out),
        "metrics, of each reviewer's last word on each item:",
        *figures,
    ]
