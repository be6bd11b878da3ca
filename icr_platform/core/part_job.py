"""Work that is cut into an artifact's parts: what a part is made from, by which engine, and where it is written."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import pyarrow as pa

from icr_platform.core.artifacts import ArtifactWriter
from icr_platform.core.spending import Use

Advance = Callable[[int, int], None]
"""Is called with (rows, tokens) as they are made."""
Make = Callable[[Iterable[Any], Advance], Iterator[Sequence[pa.Table]]]
"""Shards -> each one's tables, in order."""


@dataclass(frozen=True)
class PartJob:
    """Parts to make.

    label: what is done, for the progress line.
    writers: the artifacts that get the part; its tables come in their order. The last one's says that the part is finished;
        the others get none where the table is empty.
    parts: numbers of those to make. Parts that are there already are made again.
    shard: part -> what it is made from; called here when its turn comes, and small enough to travel.
    load: loads an engine and returns `make(shards, advance)`, which yields the tables of each shard in order and may work
        ahead; called once per engine, and not without parts. It can be pickled, and what is yielded for a shard depends on
        that shard alone.
    rows: that the progress counts to, `done` of which an earlier run finished.
    gpus: that an engine spans where there are any.
    use: what the tokens that it counts are spent on.
    is_shared: whether forks of the process that loaded the engine can go on with it. They can with a model on a CPU; they cannot with
        connections, threads or a GPU.
    take: part -> its tables where earlier work has all its rows, so that no engine is needed; None where it has not.
    """

    label: str
    writers: tuple[ArtifactWriter, ...]
    parts: Sequence[int]
    shard: Callable[[int], Any]
    load: Callable[[], Make]
    rows: int
    done: int
    gpus: int = 0
    take: Callable[[int], TakenPart | None] | None = None
    use: Use | None = None
    is_shared: bool = False


class TakenPart(NamedTuple):
    """A part whose rows earlier work has, a table for each artifact, and what it counts for in the job's progress."""

    tables: Sequence[pa.Table]
    counted: int


class Throughput(NamedTuple):
    """Tokens that were made, and seconds without loading the (first) engine. Both 0 when nothing was left to do."""

    tokens: int
    seconds: float


def write_part(writers: Sequence[ArtifactWriter], part: int, tables: Sequence[pa.Table]) -> None:
    """Write one part of each artifact, in order; empty tables only to the last, or over what a killed run left."""
    for writer, table in zip(writers, tables, strict=True):
        if table.num_rows or writer is writers[-1] or writer.has_part(part):
            writer.write_part(part, table)
