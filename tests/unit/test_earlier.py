"""Single rows of earlier work: what comes back is what a run from scratch makes, whatever was there before."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from icr_platform.core.artifacts import ArtifactWriter, row_digest
from icr_platform.core.earlier import EarlierRows, Source, with_earlier
from icr_platform.core.part_job import Advance, Make, PartJob
from icr_platform.core.schemas import JUDGMENTS
from icr_platform.engines.execution.map_parts import map_parts
from icr_platform.engines.execution.settings import ExecutionSettings

Item = tuple[str, int]
"""A prompt and its version: an edited instruction is another version under the same id."""


def table(items: Iterable[Item], outcome: str = "ok") -> pa.Table:
    """Two judgments an item, as both orders have."""
    rows = [
        {"language": "es", "prompt_id": prompt_id, "sample_index": 0, "order": order, "preference": version / 10,
         "mass": 1.0, "outcome": outcome, "judge": "x", "input_tokens": 1, "output_tokens": 1, "detail": f"{version}",
         "input_digest": row_digest(prompt_id, version)}
        for prompt_id, version in items
        for order in ("model-first", "reference-first")
    ]  # fmt: skip
    return pa.Table.from_pylist(rows, schema=JUDGMENTS.schema)


def write(folder: Path, parts: Sequence[Sequence[Item]], outcome: str = "ok", close: bool = True) -> Path:
    writer = ArtifactWriter(folder, JUDGMENTS, "f")
    for number, items in enumerate(parts):
        writer.write_part(number, table(items, outcome))
    if close:
        writer.close(len(parts))
    return folder


class Engine:
    """Makes the rows it is asked for and remembers which; `loaded` counts engines."""

    def __init__(self) -> None:
        self.made: list[Item] = []
        self.loaded = 0

    def load(self) -> Make:
        self.loaded += 1

        def make(shards: Iterable[list[Item]], advance: Advance) -> Iterator[tuple[pa.Table]]:
            for shard in shards:
                self.made += shard
                advance(len(shard), 0)
                yield (table(shard),)

        return make


def run(folder: Path, parts: Sequence[list[Item]], rows: EarlierRows) -> tuple[pa.Table, Engine]:
    engine, writer = Engine(), ArtifactWriter(folder, JUDGMENTS, "g")
    job = PartJob("test", (writer,), range(len(parts)), parts.__getitem__, engine.load, sum(map(len, parts)), 0)
    job = with_earlier(
        job,
        rows,
        lambda items: [row_digest(*item) for item in items],
        lambda items, wanted: [items[item] for item in wanted],
        counts_items=True,
    )
    map_parts(job, ExecutionSettings())
    return writer.close(len(parts)).read(), engine


prompts = st.lists(
    st.tuples(st.sampled_from("abcdefgh"), st.integers(0, 2)), max_size=8, unique_by=lambda item: item[0]
)
layouts = st.lists(prompts, max_size=4)


@settings(max_examples=60, deadline=None)
@given(earlier=st.lists(layouts, max_size=3), wanted=prompts, size=st.integers(1, 4))
def test_rows_are_those_of_a_run_from_scratch_and_only_missing_ones_are_made(
    earlier: list[list[list[Item]]], wanted: list[Item], size: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("rows")
    sources = [
        Source(write(folder / f"{number}", parts, close=number % 2 == 0)) for number, parts in enumerate(earlier)
    ]
    parts = [wanted[start : start + size] for start in range(0, len(wanted), size)]
    found, engine = run(folder / "new", parts, EarlierRows(sources, JUDGMENTS))
    assert found.equals(table(wanted))
    there = {item for layout in earlier for part in layout for item in part}
    assert engine.made == [item for item in wanted if item not in there]
    assert engine.loaded == bool(engine.made)


def test_rows_of_a_kind_that_is_never_taken_are_made_again(tmp_path: Path) -> None:
    failed = write(tmp_path / "failed", [[("a", 0), ("b", 0)]], "api_error")
    right = write(tmp_path / "right", [[("b", 0)]])
    rows = EarlierRows([Source(failed), Source(right)], JUDGMENTS, never=("outcome", "api_error"))
    found, engine = run(tmp_path / "new", [[("a", 0), ("b", 0)]], rows)
    assert found.equals(table([("a", 0), ("b", 0)]))
    assert engine.made == [("a", 0)]


def test_an_item_of_which_one_row_failed_is_made_again_whole(tmp_path: Path) -> None:
    rows = table([("a", 0), ("b", 0)]).to_pylist()
    rows[1]["outcome"] = "api_error"
    writer = ArtifactWriter(tmp_path / "old", JUDGMENTS, "f")
    writer.write_part(0, pa.Table.from_pylist(rows, schema=JUDGMENTS.schema))
    found, engine = run(
        tmp_path / "new",
        [[("a", 0), ("b", 0)]],
        EarlierRows([Source(tmp_path / "old")], JUDGMENTS, never=("outcome", "api_error")),
    )
    assert found.equals(table([("a", 0), ("b", 0)]))
    assert engine.made == [("a", 0)]


def test_a_damaged_part_gives_nothing_and_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write(tmp_path / "old", [[("a", 0)], [("b", 0)], [("c", 0)]])
    edited, cut = folder / "part-00000.parquet", folder / "part-00001.parquet"
    data = bytearray(edited.read_bytes())
    data[len(data) // 2] ^= 255
    edited.write_bytes(data)  # of the same size
    cut.write_bytes(cut.read_bytes()[:-9])
    found, engine = run(tmp_path / "new", [[("a", 0), ("b", 0), ("c", 0)]], EarlierRows([Source(folder)], JUDGMENTS))
    assert found.equals(table([("a", 0), ("b", 0), ("c", 0)]))
    assert engine.made == [("a", 0), ("b", 0)]
    said = capsys.readouterr().err
    assert "part-00000.parquet: other bytes" in said
    assert "part-00001.parquet: " in said


@pytest.mark.parametrize("read_before", [False, True])
def test_parts_that_another_command_takes_away_meanwhile_give_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], read_before: bool
) -> None:
    """Its own work folder goes when that command has finished."""
    items = [("a", 0), ("b", 0)]
    folder = write(tmp_path / "old", [items[:1], items[1:]])
    rows = EarlierRows([Source(folder)], JUDGMENTS)
    if read_before:
        assert rows.take([row_digest("a", 0)]).rows.num_rows == 2
    (folder / "part-00001.parquet").unlink()
    made, engine = run(tmp_path / "new", [items], rows)
    assert engine.made == [("b", 0)]
    assert made.equals(table(items))
    assert "part-00001.parquet" in capsys.readouterr().err
