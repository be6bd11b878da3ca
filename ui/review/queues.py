"""In which order a reviewer gets items, and which of them she gets alone."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, NamedTuple

from icr_platform.core.errors import InputError
from ui.review.items import Item, fraction_of, item_of
from ui.review.verdict_store import VerdictStore
from ui.review.verdicts import INSPECTOR
from ui.tables import pairs_data, value_tables
from ui.tables.run_tables import RunTables, latest
from ui.tables.runs import ArmRecord

QUEUES = {
    "random": "Random pairs",
    "smallest-margin": "Smallest margin first",
    "largest-margin": "Largest margin first",
    "regressions": "Regressions: where the judge saw the largest loss",
    "disagree": "Judge and reward disagree",
}
_PAIR_ORDERS = {
    # As good as random, and the same at every request, so that the next batch continues the last one.
    "random": "md5('{seed}' || language || '/' || prompt_id || coalesce('/' || pair_index, ''))",
    "smallest-margin": "margin ASC",
    "largest-margin": "margin DESC",
}
BATCH = 200  # keys; most reviewers find their next item among the first


@dataclass(frozen=True)
class Assignment:
    """What a reviewer works on. overlap: percent of items that every reviewer gets; each other item goes to one reviewer."""

    iteration: int
    base: int | None
    language: str
    queue: str
    overlap: int

    @property
    def kind(self) -> str:
        """Kind of the queue's items."""
        return "outputs" if self.queue in ("regressions", "disagree") else "pair"

    def covers(self, item: Item) -> bool:
        """Whether an item belongs to this work, whichever queue brought it."""
        place = (item.kind, item.iteration, item.base)
        return place == (self.kind, self.iteration, self.base) and self.language in ("", item.language)


def assignment(
    arm: ArmRecord, queue: str, iteration: int | None, base: int | None, language: str, overlap: int
) -> Assignment:
    """A queue with its iterations filled in: the last one that was finished, and the one evaluated before it.

    Raises:
        InputError: no iteration has finished what the queue reads, or there is none to compare with.
    """
    stage = "eval" if queue in ("regressions", "disagree") else "annotate"
    number = iteration if iteration is not None else latest(arm, stage)
    if stage != "eval":
        return Assignment(number, None, language, queue, overlap)
    earlier = [t.number for t in arm.iterations if "eval" in t.stages and t.number < number]
    compared = base if base is not None else earlier[-1] if earlier else None
    if compared is None:
        raise InputError(
            f"This queue compares two iterations, and none was evaluated before iteration {number}; choose a later iteration or another "
            "queue."
        )
    return Assignment(number, compared, language, queue, overlap)


class Progress(NamedTuple):
    """Items that a reviewer has judged, of all in the queue."""

    done: int
    total: int


def is_shared(run_id: str, item: Item, overlap: int) -> bool:
    """Whether every reviewer gets the item; the same for all of them, and about `overlap` percent of items."""
    return fraction_of(run_id, item.key) * 100 < overlap


def next_item(
    tables: RunTables, verdicts: VerdictStore, arm: ArmRecord, work: Assignment, reviewer: str
) -> tuple[Item | None, Progress]:
    """The first item of the queue that this reviewer has not judged and that is not another's, and how far she is."""
    run_id = arm.run.run_id
    done = [item_of(verdict) for verdict in verdicts.current(run_id, reviewer) if verdict.source == INSPECTOR]
    judged = {item.key for item in done if work.covers(item)}
    order = ordered(tables, arm, work)
    for start in range(0, order.total, BATCH):
        items = [item for item in order.items(start, BATCH) if item.key not in judged]
        # Claiming is one transaction of the store, so that two who ask at the same moment get different items.
        offers = [(item.key, is_shared(run_id, item, work.overlap)) for item in items]
        place = verdicts.claim(run_id, offers, reviewer) if offers else None
        if place is not None:
            return items[place], Progress(len(judged), order.total)
    return None, Progress(len(judged), order.total)


@dataclass(frozen=True)
class Ordered:
    """The items of a queue in its order. total: how many there are. rows: SQL of their keys, which takes `values`, without LIMIT."""

    tables: RunTables
    work: Assignment
    total: int
    rows: str
    values: list[Any]

    def items(self, start: int, count: int) -> list[Item]:
        """`count` items from `start` on."""
        rows = self.tables.engine.select(f"{self.rows} LIMIT ? OFFSET ?", [*self.values, count, start])
        place = (self.work.kind, self.work.iteration, self.work.base)
        return [Item(*place, row["language"], row["prompt_id"], row["pair_index"] or 0) for row in rows]


def ordered(
    tables: RunTables, arm: ArmRecord, work: Assignment, seed: str = "", without: Collection[str] = ()
) -> Ordered:
    """The queue of some work.

    Args:
        seed: of the random queue, hex; another seed is another order. without: ids of prompts to leave out.
    """
    queue = _pair_queue(tables, arm, work, seed) if work.kind == "pair" else _output_queue(tables, arm, work)
    where = "(? = '' OR language = ?) AND NOT list_contains(CAST(? AS VARCHAR[]), prompt_id)"
    values: list[Any] = [work.language, work.language, list(without)]
    total = tables.engine.select(f"SELECT count(*) AS n FROM ({queue.rows}) WHERE {where}", values)[0]["n"]
    sql = f"SELECT language, prompt_id, pair_index FROM ({queue.rows}) WHERE {where} ORDER BY {queue.order}"
    return Ordered(tables, work, total, sql, values)


class _Queue(NamedTuple):
    """SQL of rows with language, prompt_id and pair_index, and of their order."""

    rows: str
    order: str


def _pair_queue(tables: RunTables, arm: ArmRecord, work: Assignment, seed: str) -> _Queue:
    # The index has dropped prompts, too; they have no margin.
    index = pairs_data.pair_index(tables.engine, tables.pair_tables(arm.iteration(work.iteration)))
    return _Queue(
        f"SELECT * FROM {index} WHERE part IS NOT NULL", f"{_PAIR_ORDERS[work.queue].format(seed=seed)}, position"
    )


def _output_queue(tables: RunTables, arm: ArmRecord, work: Assignment) -> _Queue:
    """Prompts that both iterations answered, the largest change for the worse, or against the reward, first."""
    if work.base is None:
        raise InputError("This queue compares two policies; choose the iteration to compare with.")
    engine, catalogue = tables.engine, tables.catalogue
    both = [arm.iteration(work.base), arm.iteration(work.iteration)]
    before, after = (value_tables.judged_prompts(engine, catalogue.artifact(t, "judgments")) for t in both)
    if work.queue == "regressions":
        rows = f"""SELECT a.language, a.prompt_id, NULL AS pair_index, b.value - a.value AS change FROM {before} AS a JOIN {after} AS b USING (language, prompt_id)
                   WHERE b.value < a.value"""
        return _Queue(rows, "change, language, prompt_id")
    # The judge sees evaluation prompts and the reward training prompts: only those that are both can disagree.
    reward_before, reward_after = (
        value_tables.rewarded_prompts(engine, catalogue.artifact(t, "rewards")) for t in both
    )
    rows = f"""SELECT a.language, a.prompt_id, NULL AS pair_index, -abs(b.value - a.value) AS change
               FROM {before} AS a JOIN {after} AS b USING (language, prompt_id)
               JOIN {reward_before} AS c USING (language, prompt_id) JOIN {reward_after} AS d USING (language, prompt_id)
               WHERE sign(b.value - a.value) * sign(d.value - c.value) < 0"""
    return _Queue(rows, "change, language, prompt_id")
