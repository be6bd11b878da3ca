"""Rows that earlier work made of the same inputs, by the same computation: taken instead of made again.

What computes a row (settings, models, judge, code) has a key, without the rows that it computes (`Identity.rows`). Finished runs and
unfinished folders of that key are *sources*. A row is taken from them by its `input_digest`, which holds language, prompt id
and everything else that the row was made from. So adding or removing a language, or some prompts, keeps all other work, and of an
artifact with a damaged part the rest is kept.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from icr_platform.core.arrays import Hashes, Int32s, Ints
from icr_platform.core.artifacts import damaged_files, read_parquet
from icr_platform.core.errors import InputError
from icr_platform.core.part_job import Advance, Make, PartJob, TakenPart
from icr_platform.core.schemas import TableSchema

DIGEST = "input_digest"
_BYTES = 16


class Source(NamedTuple):
    """A folder of Parquet parts, finished or not, and the column that holds the value that is looked for ('' for whole rows).

    digest: the column that says what the value was made from.
    """

    folder: Path
    column: str = ""
    digest: str = DIGEST


class Place(NamedTuple):
    """Where rows lie in a stage's folder: see `Source`, which a folder of the stage makes of it."""

    name: str
    column: str = ""
    digest: str = DIGEST


PLACES: dict[str, tuple[Place, ...]] = {
    "responses": (Place("responses"),),
    "translations": (Place("translations"), Place("pair_translations")),
    "text_translations": (Place("text_translations"),),
    "policy-logprobs": (Place("rewards", "policy_logprob"), Place("work/policy-logprobs", "logprob")),
    "reference-logprobs": (Place("rewards", "reference_logprob"), Place("work/reference-logprobs", "logprob")),
    # A digest has the kind in it: rewards of other kinds, which stand in the same column, are not found.
    "reward-scores": (Place("rewards", "reward"), Place("work/reward-scores", "logprob")),
    "outputs": (Place("outputs"),),
    "judgments": (Place("judgments"),),
    "ratings": (Place("ratings"),),
    "instruction_outputs": (Place("instruction_outputs"),),
    "benchmarks": (Place("benchmarks"),),
    "pairs-policy-logprobs": (
        Place("reward_bench", "chosen_policy_logprob", "chosen_digest"),
        Place("reward_bench", "rejected_policy_logprob", "rejected_digest"),
        Place("reward_bench_work/policy-logprobs", "logprob"),
    ),
    "pairs-reference-logprobs": (
        Place("reward_bench", "chosen_reference_logprob", "chosen_digest"),
        Place("reward_bench", "rejected_reference_logprob", "rejected_digest"),
        Place("reward_bench_work/reference-logprobs", "logprob"),
    ),
    "pairs-reward-scores": (
        Place("reward_bench", "chosen_reward", "chosen_digest"),
        Place("reward_bench", "rejected_reward", "rejected_digest"),
        Place("reward_bench_work/reward-scores", "logprob"),
    ),
}
"""Where a stage's folder holds the rows of each kind of computation (`Identity.rows`): folder, and column of the value."""
SAME_COMPUTATION = {
    "policy-logprobs": ("reference-logprobs",),
    "reference-logprobs": ("policy-logprobs",),
    "pairs-policy-logprobs": ("pairs-reference-logprobs",),
    "pairs-reference-logprobs": ("pairs-policy-logprobs",),
}
"""A model's log-probabilities are the same whichever of the two models it is."""


class _Index(NamedTuple):
    """Sorted by digest: [R] the first 8 bytes of each row's digest, and where the row is."""

    key: Hashes
    part: Int32s
    row: Ints


class EarlierRows:
    """Rows of some sources, found by digest. Holds 20 bytes of each row and reads the rest when it is asked for.

    table: shape of the rows that come back; a column that a source names becomes `logprob`.
    never: column and values of rows, such as judgments that failed, whose items are not taken.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        table: TableSchema,
        never: tuple[str, *tuple[str, ...]] | None = None,
    ) -> None:
        self._table, self._never = table, never
        self._parts = [(path, source) for source in sources for path in _readable_parts(source.folder)]
        self._read = lru_cache(maxsize=4)(self._rows_of)
        self._index: _Index | None = None
        self._gone: set[int] = set()

    def __bool__(self) -> bool:
        return bool(self._parts)

    def take(self, digests: Sequence[bytes | None]) -> Taken:
        """The rows of the items with these digests, in the order of the items; None is an item that nobody has.

        All rows of an item come from one part of one source, the first that has it.
        """
        empty = self._table.schema.empty_table()
        if not self._parts:
            return Taken(empty, np.empty(0, np.int64))
        index = self._index = self._index or self._build()
        known = np.array([item for item, digest in enumerate(digests) if digest is not None], np.int64)
        wanted = _keys([digest for digest in digests if digest is not None])
        first = np.searchsorted(index.key, wanted, side="left")
        last = np.searchsorted(index.key, wanted, side="right")
        by_part: dict[int, tuple[list[int], list[int]]] = {}
        for item, start, end in zip(known.tolist(), first.tolist(), last.tolist(), strict=True):
            if start < end:
                part = int(index.part[start:end].min())
                rows = np.sort(index.row[start:end][index.part[start:end] == part]).tolist()
                items, listed = by_part.setdefault(part, ([], []))
                items += [item] * len(rows)
                listed += rows
        tables, places = [empty], [np.empty(0, np.int64)]
        for part, (items, rows) in by_part.items():
            read = self._now(part, self._read)
            if read is None or read.num_rows <= max(rows):
                continue
            found = read.take(pa.array(rows))
            # Half of the digest found the row; all of it must be that of the item.
            right = np.array(
                [digests[item] == own for item, own in zip(items, found.column(DIGEST).to_pylist(), strict=True)], bool
            )
            tables.append(found.filter(pa.array(right)))
            places.append(np.array(items, np.int64)[right])
        item = np.concatenate(places)
        order = np.argsort(item, kind="stable")
        return Taken(pa.concat_tables(tables).take(pa.array(order)), item[order])

    def _build(self) -> _Index:
        keys, parts, rows = [np.empty(0, np.uint64)], [np.empty(0, np.int32)], [np.empty(0, np.int64)]
        for part in range(len(self._parts)):
            table = self._now(part, self._digests_of)
            if table is None:
                continue
            mask = pc.is_valid(table.column(DIGEST))
            if self._never is not None:
                column, *values = self._never
                failed = table.filter(pc.is_in(table.column(column), pa.array(values)))
                # One order of a pair that failed takes the other with it: an item is taken whole or not at all.
                mask = pc.and_(mask, pc.invert(pc.is_in(table.column(DIGEST), failed.column(DIGEST).combine_chunks())))
            row = np.flatnonzero(mask.to_numpy(zero_copy_only=False))
            keys.append(_keys(table.column(DIGEST).take(pa.array(row)).to_pylist()))
            parts.append(np.full(len(row), part, np.int32))
            rows.append(row.astype(np.int64))
        key = np.concatenate(keys)
        order = np.argsort(key, kind="stable")
        return _Index(key[order], np.concatenate(parts)[order], np.concatenate(rows)[order])

    def _now(self, part: int, read: Callable[[int], pa.Table]) -> pa.Table | None:
        """What is read of a part; None once another command, whose work it is, has finished or set it aside."""
        if part in self._gone:
            return None
        try:
            return read(part)
        except (InputError, OSError, pa.ArrowException) as error:
            print(
                f"{self._parts[part][0]}: gone or unreadable ({type(error).__name__}); its rows are made again",
                file=sys.stderr,
                flush=True,
            )
            self._gone.add(part)
            return None

    def _digests_of(self, part: int) -> pa.Table:
        path, source = self._parts[part]
        return _with_digest(path, [self._never[0]] if self._never else [], source.digest)

    def _rows_of(self, part: int) -> pa.Table:
        path, (_, column, digest) = self._parts[part]
        if not column:
            return read_parquet(path, table=self._table)
        names = [*(name for name in self._table.schema.names if name not in ("logprob", DIGEST)), column]
        return _with_digest(path, names, digest).rename_columns({column: "logprob"}).select(self._table.schema.names)


class Taken(NamedTuple):
    """rows: [R] of earlier work. item: [R] which of the digests asked for each belongs to, ascending."""

    rows: pa.Table
    item: Ints


def _with_digest(path: Path, names: Sequence[str], digest: str = DIGEST) -> pa.Table:
    """The columns `names`, and the one called `digest` as DIGEST; null where an older table has none."""
    import pyarrow.parquet as pq

    if digest in pq.read_schema(path).names:
        return read_parquet(path, [*names, digest]).rename_columns({digest: DIGEST})
    rows = read_parquet(path, names)
    return rows.append_column(DIGEST, pa.nulls(rows.num_rows, pa.binary(_BYTES)))


def _readable_parts(folder: Path) -> Iterator[Path]:
    """Parts of an artifact, finished or not, in order; damaged ones are named and left out."""
    try:
        damaged = {path.name: reason for path, reason in damaged_files(folder)}
    except InputError as error:
        print(f"{error}; its rows are made again", file=sys.stderr, flush=True)
        return
    for path in sorted(folder.glob("part-*.parquet")):
        if path.name in damaged:
            print(f"{path}: {damaged[path.name]}; its rows are made again", file=sys.stderr, flush=True)
            continue
        try:
            read_parquet(path, [])
        except InputError as error:
            print(f"{error}; its rows are made again", file=sys.stderr, flush=True)
            continue
        yield path


def _keys(digests: Sequence[bytes]) -> Hashes:
    return np.frombuffer(b"".join(digests), np.uint64)[:: _BYTES // 8]


class Partial(NamedTuple):
    """A shard of which earlier work has some rows.

    rest: what is left to make. found: rows of schemas.X that are there. order: digests of all items, in the part's order.
    counted: what of the job's progress the found rows stand for.
    """

    rest: Any
    found: pa.Table
    order: Sequence[bytes]
    counted: int


def merging(load: Callable[[], Make]) -> Make:
    """Load an engine that makes the rest of shards that are `Partial`, and puts its rows among those that are there."""
    make = load()

    def make_parts(shards: Iterable[Partial], advance: Advance) -> Iterator[tuple[pa.Table, ...]]:
        waiting: deque[Partial] = deque()

        def rests() -> Iterator[Any]:
            for shard in shards:
                waiting.append(shard)
                yield shard.rest

        for tables in make(rests(), advance):
            shard = waiting.popleft()
            advance(shard.counted, 0)
            yield (*tables[:-1], merge(shard.found, tables[-1], shard.order))

    return make_parts


def merge(found: pa.Table, fresh: pa.Table, order: Sequence[bytes]) -> pa.Table:
    """Rows of both tables by item in `order`; an item's own rows stay in theirs."""
    if not found.num_rows:
        return fresh
    place = {digest: item for item, digest in enumerate(order)}
    both = pa.concat_tables([found.select(fresh.column_names).cast(fresh.schema), fresh])
    items = np.array([place[digest] for digest in both.column(DIGEST).to_pylist()], np.int64)
    return both.take(pa.array(np.argsort(items, kind="stable")))


def with_earlier(
    job: PartJob,
    rows: EarlierRows,
    digests: Callable[[Any], Sequence[bytes]],
    subset: Callable[[Any, Sequence[int]], Any],
    counts_items: bool = False,
) -> PartJob:
    """The job, less what `rows` has of the last of its artifacts.

    Args:
        digests: shard -> the `input_digest` of each of its items.
        subset: shard, positions -> a shard of these items only.
        counts_items: the job's progress counts items; else it counts rows.
    """
    if not rows:
        return job
    shard, last = job.shard, job.writers[-1]

    def partial_shard(part: int) -> Partial:
        whole = shard(part)
        order = digests(whole)
        taken = rows.take(order)
        have = set(taken.item.tolist())
        left = [item for item in range(len(order)) if item not in have]
        counted = len(have) if counts_items else taken.rows.num_rows
        return Partial(subset(whole, left) if left else None, taken.rows, order, counted)

    def take(part: int) -> TakenPart | None:
        found = partial_shard(part)
        if found.rest is not None or not found.order:
            return None
        others = [writer.table.schema.empty_table() for writer in job.writers[:-1]]
        return TakenPart((*others, found.found.cast(last.table.schema)), found.counted)

    return replace(job, shard=partial_shard, take=take, load=partial(merging, job.load))


@dataclass(frozen=True)
class Earlier:
    """Sources of earlier work, by kind of computation (PLACES)."""

    sources: Mapping[str, tuple[Source, ...]] = field(default_factory=dict)

    def rows(
        self, name: str, table: TableSchema, never: tuple[str, *tuple[str, ...]] | None = None, own: Path | None = None
    ) -> EarlierRows:
        """own: the stage's own folder, where parts of it are made again for the sake of some of their rows."""
        sources = self.sources.get(name, ())
        return EarlierRows((Source(own), *sources) if own else sources, table, never)
