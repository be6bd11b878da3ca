"""Parts in process and handed over, and the checks before anything is started. (`test_ray.py` has a real cluster.)"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Iterator
from pathlib import Path

import pyarrow as pa
import pytest

from icr_platform import __version__
from icr_platform.core.artifacts import ArtifactWriter
from icr_platform.core.errors import InputError
from icr_platform.core.part_job import Advance, Make, PartJob
from icr_platform.core.schemas import DROPS, LOGPROBS
from icr_platform.engines.execution.map_parts import check_execution, map_parts
from icr_platform.engines.execution.part_worker import Driver, PartWorker, Seen
from icr_platform.engines.execution.ray_pool import connect
from icr_platform.engines.execution.settings import ExecutionSettings
from icr_platform.engines.execution.shared_folder import SharedFolder
from tests.support.files import files_of


def logprobs(part: int) -> pa.Table:
    rows = [
        {"language": "en", "prompt_id": f"p{part}", "sample_index": i, "kind": "x", "logprob": -1.5} for i in (0, 1)
    ]
    return pa.Table.from_pylist(rows, schema=LOGPROBS.schema)


def load() -> Make:
    """Parts of two rows; every third has a drop too."""

    def make(shards: Iterable[int], advance: Advance) -> Iterator[tuple[pa.Table, pa.Table]]:
        for shard in shards:
            drop = {"language": "en", "prompt_id": f"d{shard}", "sample_index": None, "reason": "x", "detail": ""}
            advance(2, 10)
            yield pa.Table.from_pylist([drop][: shard % 3 == 0], schema=DROPS.schema), logprobs(shard)

    return make


def job(folder: Path, parts: list[int]) -> PartJob:
    writers = (ArtifactWriter(folder / "drops", DROPS, "f"), ArtifactWriter(folder / "logprobs", LOGPROBS, "f"))
    return PartJob("test", writers, parts, lambda part: part, load, rows=2 * len(parts), done=0)


def test_empty_tables_are_written_only_where_they_say_that_a_part_is_finished(tmp_path: Path) -> None:
    throughput = map_parts(job(tmp_path, [0, 1, 2, 3]), ExecutionSettings())
    assert throughput.tokens == 40
    assert sorted(path.name for path in (tmp_path / "drops").glob("*.parquet")) == [
        "part-00000.parquet",
        "part-00003.parquet",
    ]
    assert len(list((tmp_path / "logprobs").glob("*.parquet"))) == 4


def test_parts_that_are_handed_over_arrive_byte_for_byte(tmp_path: Path) -> None:
    map_parts(job(tmp_path / "local", [0, 1, 2]), ExecutionSettings())
    remote = job(tmp_path / "remote", [0, 1, 2])
    settings = ExecutionSettings(execution="ray", shared_folder=f"file://{tmp_path}/shared")
    worker = PartWorker(remote, settings, Driver(__version__, "elsewhere", {}))
    worker.load()
    assert worker.make_parts((0, 1, 2), 0, 1, 2) == Seen(parts=3, written=6, rows=6, tokens=30)
    worker.close()
    assert not list((tmp_path / "remote").rglob("*.parquet"))

    shared = SharedFolder(settings.shared_folder)
    assert [shared.finished(writer) for writer in remote.writers] == [{0}, {0, 1, 2}]
    found = [[shared.collect(writer, part) for part in (0, 1, 2)] for writer in remote.writers]
    assert found == [[True, False, False], [True, True, True]]
    assert files_of(tmp_path / "remote") == files_of(tmp_path / "local")
    shared.clear(remote.writers)
    assert [shared.finished(writer) for writer in remote.writers] == [set(), set()]


def test_a_worker_that_cannot_do_its_part_says_so_before_it_loads(tmp_path: Path) -> None:
    settings = ExecutionSettings(execution="ray")
    old = PartWorker(job(tmp_path, [0]), settings, Driver("0.0.0", "elsewhere", {}))
    with pytest.raises(InputError, match=r"icr_platform is .* here and 0\.0\.0 at the driver; .* \[Ray node .*\]"):
        old.load()
    there = job(tmp_path / "there", [0])
    (tmp_path / "there" / "drops" / "plan.json").unlink()  # as on a node that has another disk
    with pytest.raises(InputError, match=r"drops: not the driver's folder here; .*--shared-folder"):
        PartWorker(there, settings, Driver(__version__, "elsewhere", {})).load()


@pytest.mark.parametrize(
    ("folder", "message"),
    [
        ("results", r"field 'shared_folder' is 'results'; give an address such as s3://"),
        ("s3://key:secret@bucket/x", r"field 'shared_folder' holds a secret"),
    ],
)
def test_a_bad_shared_folder_is_named(folder: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("icr_platform.engines.execution.map_parts.find_spec", lambda name: name)
    with pytest.raises(InputError, match=message) as caught:
        check_execution(ExecutionSettings(execution="ray", shared_folder=folder))
    assert "secret@" not in str(caught.value)


def test_an_address_where_nothing_listens_is_named_at_once() -> None:
    pytest.importorskip("ray", reason="needs Ray: pip install 'icr-platform[ray]'")
    with pytest.raises(InputError, match=r"field 'ray_address' is '127\.0\.0\.1:1', where no Ray cluster answers"):
        connect(ExecutionSettings(execution="ray", ray_address="127.0.0.1:1"))


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        "icr_platform.engines.execution.map_parts.find_spec", lambda name: None if name == "ray" else find(name)
    )
    with pytest.raises(InputError, match=r"pip install 'icr-platform\[ray\]'"):
        check_execution(ExecutionSettings(execution="ray"))
