"""Parts made by forks: the tables of one process, whoever makes them; an error, and a fork that dies, cost the parts that are not finished."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pyarrow as pa
import pytest
import torch

from icr_platform.core import cores
from icr_platform.core.artifacts import ArtifactWriter
from icr_platform.core.errors import IcrError, InputError
from icr_platform.core.part_job import Advance, Make, PartJob
from icr_platform.core.schemas import LOGPROBS
from icr_platform.engines.execution.forks import done_beside
from icr_platform.engines.execution.map_parts import map_parts
from icr_platform.engines.execution.settings import ExecutionSettings
from tests.support.files import files_of

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks are for Linux")
PARTS = list(range(12))


def job(folder: Path, on_part: Callable[[int], None] = lambda part: None, is_shared: bool = True) -> PartJob:
    """Twelve parts of two rows; the processes that make them leave their ids."""
    pids, loaded = folder / "pids", os.getpid()
    pids.mkdir(parents=True, exist_ok=True)

    def load() -> Make:
        assert os.getpid() == loaded

        def make(shards: Iterable[int], advance: Advance) -> Iterator[tuple[pa.Table]]:
            for shard in shards:
                (pids / f"{os.getpid()}-{torch.get_num_threads()}").touch()
                on_part(shard)
                rows = [
                    {"language": "en", "prompt_id": f"p{shard}", "sample_index": i, "kind": "x", "logprob": -1.5}
                    for i in (0, 1)
                ]
                advance(2, 10)
                yield (pa.Table.from_pylist(rows, schema=LOGPROBS.schema),)

        return make

    writers = (ArtifactWriter(folder / "logprobs", LOGPROBS, "f"),)
    return PartJob("test", writers, PARTS, lambda part: part, load, 2 * len(PARTS), 0, is_shared=is_shared)


def processes(folder: Path) -> set[str]:
    return {path.name for path in (folder / "pids").iterdir()}


def forked(count: int) -> ExecutionSettings:
    return ExecutionSettings(execution="processes", concurrency=count)


@pytest.mark.parametrize("count", [2, 5, 40])
def test_forks_make_the_tables_of_one_process(tmp_path: Path, count: int) -> None:
    threads = torch.get_num_threads()
    map_parts(job(tmp_path / "local"), ExecutionSettings())
    # Slow enough for each to get some.
    throughput = map_parts(job(tmp_path / "forked", lambda _: time.sleep(0.05)), forked(count))
    assert throughput.tokens == 10 * len(PARTS)
    assert files_of(tmp_path / "forked" / "logprobs") == files_of(tmp_path / "local" / "logprobs")
    made_by = processes(tmp_path / "forked")
    assert 1 < len(made_by) <= min(count, len(PARTS))
    assert all(name.endswith("-1") for name in made_by)
    assert f"{os.getpid()}-1" not in made_by
    assert torch.get_num_threads() == threads


def test_threads_that_the_parent_had_are_not_waited_for(tmp_path: Path) -> None:
    """Neither where an engine asks for several, as `cpu_threads` does."""
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    left = torch.ones(600, 600)
    expected = (left @ left).exp_().sum()

    def multiply(part: int) -> None:
        torch.set_num_threads(2)
        assert torch.equal((left @ left).exp_().sum(), expected)

    try:
        map_parts(job(tmp_path, multiply), forked(2))
    finally:
        torch.set_num_threads(threads)
    assert all(name.endswith("-1") for name in processes(tmp_path))


@pytest.mark.parametrize(("count", "is_shared"), [(1, True), (4, False)])
def test_one_process_and_an_engine_that_cannot_be_shared_stay_here(tmp_path: Path, count: int, is_shared: bool) -> None:
    map_parts(job(tmp_path, is_shared=is_shared), forked(count))
    assert processes(tmp_path) == {f"{os.getpid()}-{torch.get_num_threads()}"}


@pytest.mark.parametrize(
    "error", [InputError("row 7: wrong"), IcrError("no"), OSError(28, "No space left on device"), ValueError("what")]
)
def test_an_error_in_a_fork_is_raised_here_and_finished_parts_stay(tmp_path: Path, error: Exception) -> None:
    def fail(part: int) -> None:
        if part == 7:
            raise error

    broken = job(tmp_path, fail)
    with pytest.raises(type(error)) as raised:
        map_parts(broken, forked(2))
    assert str(raised.value) == str(error)
    has_place = any("on_part(shard)" in note for note in getattr(raised.value, "__notes__", []))
    assert has_place == (not isinstance(error, IcrError))
    assert not broken.writers[0].has_part(7)
    assert broken.writers[0].has_part(0)


def test_an_error_that_cannot_travel_says_what_it_was(tmp_path: Path) -> None:
    class LocalError(Exception):
        pass

    def fail(part: int) -> None:
        raise LocalError(f"part {part}")

    with pytest.raises(RuntimeError, match="LocalError: part"):
        map_parts(job(tmp_path, fail), forked(2))


def test_a_fork_that_is_killed_is_one_line_and_the_same_job_goes_on(tmp_path: Path) -> None:
    def die(part: int) -> None:
        if part == 5:
            os.kill(os.getpid(), signal.SIGKILL)

    broken = job(tmp_path, die)
    with pytest.raises(IcrError, match=r"^test: a process that made parts died \(SIGKILL; out of memory\?\); finished"):
        map_parts(broken, forked(3))
    left = [part for part in PARTS if not broken.writers[0].has_part(part)]
    assert 5 in left
    assert len(left) < len(PARTS)


@pytest.mark.parametrize(
    ("work", "says"), [("raise ValueError", "exit status 1"), ("os.kill(os.getpid(), signal.SIGKILL)", "SIGKILL")]
)
def test_what_is_done_beside_is_done_when_the_block_ends(
    tmp_path: Path, work: str, says: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with done_beside(lambda: (time.sleep(0.2), (tmp_path / "made").write_text(str(os.getpid())))[0], "it"):
        assert not (tmp_path / "made").exists()
    assert (tmp_path / "made").read_text() != str(os.getpid())
    with (
        pytest.raises(IcrError, match=f"it: the process that made it died .{says}"),
        done_beside(lambda: exec(work), "it"),
    ):
        pass


@pytest.mark.parametrize(
    ("quota", "expected"), [("max 100000", 3), ("150000 100000", 2), ("10000 100000", 1), ("900000 100000", 3)]
)
def test_a_containers_share_counts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, quota: str, expected: int) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2})
    (tmp_path / "cpu.max").write_text(quota)
    monkeypatch.setattr(cores, "_QUOTA", tmp_path / "cpu.max")
    assert cores.usable_cores() == expected
