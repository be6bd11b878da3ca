"""Stages whose parts forks of the process make, over one model in memory: the tables of a local run, also after `kill -9`."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from icr_platform.annotation import stage as annotation
from icr_platform.annotation.config import AnnotateConfig
from icr_platform.core import part_job
from icr_platform.core.stage_protocol import StageContext
from icr_platform.engines.execution import forks
from icr_platform.evaluation import stage as evaluation
from icr_platform.evaluation.config import EvalConfig
from icr_platform.generation import stage as generation
from icr_platform.generation.config import GenerateConfig
from tests.support.files import files_of

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks are for Linux")
SAMPLING: dict[str, Any] = {"samples": 4, "max_tokens": 24, "shard_prompts": 2, "device": "cpu"}
FORKED = {"execution": "processes", "concurrency": 3}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """As forks have: more threads add floats in another order."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def makers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A folder in which every process that writes a part leaves its id."""
    folder = tmp_path / "makers"
    folder.mkdir()

    def write(*given: Any) -> None:
        (folder / str(os.getpid())).touch()
        part_job.write_part(*given)

    monkeypatch.setattr(forks, "write_part", write)
    return folder


def assert_same(folder: Path, expected: Path) -> None:
    found, wanted = (files_of(each, hidden=False) for each in (folder, expected))
    assert sorted(found) == sorted(wanted)
    assert [name for name in wanted if found[name] != wanted[name]] == []


def test_stages_give_the_tables_of_a_local_run(
    tiny_models: tuple[Path, Path], prompt_folder: Path, tmp_path: Path, makers: Path
) -> None:
    generate = GenerateConfig(policy=str(tiny_models[0]), prompts=str(prompt_folder), **SAMPLING)
    local = generation.run(generation.read(generate), StageContext(tmp_path / "local", "f"))
    generation.run(generation.read(generate.model_copy(update=FORKED)), StageContext(tmp_path / "forked", "f"))
    assert_same(tmp_path / "forked", tmp_path / "local")
    samplers = {path.name for path in makers.iterdir()}
    assert 1 < len(samplers) <= 3

    annotate = AnnotateConfig(
        policy=str(tiny_models[0]), reference=str(tiny_models[1]), prompts=str(prompt_folder), device="cpu",
        responses=str(local.artifacts["responses"]), reward_kind=("cross-lingual", "multilingual"),
        drop_wrong_language=False, drop_truncated=False,
    )  # fmt: skip
    annotation.run(annotation.read(annotate), StageContext(tmp_path / "local-annotate", "f"))
    forked = annotation.read(annotate.model_copy(update=FORKED))
    annotation.run(forked, StageContext(tmp_path / "forked-annotate", "f"))
    assert_same(tmp_path / "forked-annotate", tmp_path / "local-annotate")
    scorers = {path.name for path in makers.iterdir()} - samplers
    assert 1 < len(scorers) <= 2 * 3  # under each of two models

    measured = EvalConfig(policy=str(tiny_models[0]), prompts=str(prompt_folder), **SAMPLING)
    evaluation.run(evaluation.read(measured), StageContext(tmp_path / "local-eval", "f"))
    evaluation.run(evaluation.read(measured.model_copy(update=FORKED)), StageContext(tmp_path / "forked-eval", "f"))
    assert_same(tmp_path / "forked-eval", tmp_path / "local-eval")


DRIVER = """
import json, sys
from pathlib import Path
from icr_platform.generation.config import GenerateConfig
from icr_platform.generation.stage import read, run
from icr_platform.core.stage_protocol import StageContext
run(read(GenerateConfig(**json.loads(sys.argv[1]))), StageContext(Path(sys.argv[2]), "f"))
"""


def test_kill_minus_nine_ends_all_forks_and_the_work_goes_on(
    tiny_models: tuple[Path, Path], prompt_folder: Path, tmp_path: Path
) -> None:
    config = GenerateConfig(
        policy=str(tiny_models[0]),
        prompts=str(prompt_folder),
        samples=16,
        max_tokens=200,
        shard_prompts=1,
        device="cpu",
    )
    command = [
        sys.executable,
        "-c",
        DRIVER,
        config.model_copy(update=FORKED).model_dump_json(),
        str(tmp_path / "forked"),
    ]
    driver = subprocess.Popen(command)
    deadline, workers = time.monotonic() + 120, list[psutil.Process]()
    while len(list((tmp_path / "forked").glob("responses/part-*.parquet"))) < 3:
        assert time.monotonic() < deadline
        assert driver.poll() is None
        workers = psutil.Process(driver.pid).children() or workers
        time.sleep(0.01)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    assert len(workers) == 3
    assert psutil.wait_procs(workers, timeout=10)[1] == []

    generation.run(generation.read(config), StageContext(tmp_path / "local", "f"))
    generation.run(generation.read(config.model_copy(update=FORKED)), StageContext(tmp_path / "forked", "f"))
    assert_same(tmp_path / "forked", tmp_path / "local")
