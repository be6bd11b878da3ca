"""Stages over a real Ray cluster of several nodes: the tables of a local run, also after nodes and drivers are killed."""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from icr_platform.annotation import stage as annotation
from icr_platform.annotation.config import AnnotateConfig
from icr_platform.cli.commands import run as icr
from icr_platform.core.artifacts import ArtifactWriter
from icr_platform.core.schemas import RESPONSES
from icr_platform.core.stage_protocol import StageContext
from icr_platform.engines.execution.shared_folder import SharedFolder
from icr_platform.evaluation import stage as evaluation
from icr_platform.evaluation.config import EvalConfig
from icr_platform.generation import stage as generation
from icr_platform.generation.config import GenerateConfig
from tests.support.fault_server import KEY, Behaviour, fault_servers
from tests.support.files import files_of
from tests.support.s3_server import s3_server

pytest.importorskip("ray", reason="needs Ray: pip install 'icr-platform[ray]'")
SAMPLING: dict[str, Any] = {"samples": 4, "max_tokens": 24, "shard_prompts": 2}
BUCKET = "icr-test"


@pytest.fixture(scope="module")
def store() -> Iterator[str]:
    """URL of a folder in a real S3-compatible server, for this process and those it starts."""
    with s3_server() as server:
        from pyarrow import fs

        fs.S3FileSystem(endpoint_override=server.url, allow_bucket_creation=True).create_dir(BUCKET)
        yield f"s3://{BUCKET}/runs"


@pytest.fixture(scope="module")
def cluster(request: pytest.FixtureRequest) -> Iterator[Any]:
    """A head without CPUs and two nodes of one CPU each, with this process as a driver."""
    import ray
    from ray.cluster_utils import Cluster

    if find_spec("moto"):
        request.getfixturevalue("store")  # nodes hand their environment on to workers
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as workers of one CPU have
    memory = 100 * 2**20
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPENAI_API_KEY", KEY)
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "object_store_memory": memory})
        for _ in range(2):
            cluster.add_node(num_cpus=1, object_store_memory=memory)
        ray.init(address=cluster.address, logging_level=logging.ERROR)
        yield cluster
        ray.shutdown()
        cluster.shutdown()
    torch.set_num_threads(threads)


@pytest.fixture
def serve() -> Iterator[Callable[..., tuple[Behaviour, str]]]:
    """`serve(seconds=...)` starts an endpoint in a thread and gives its behaviour and its base URL."""
    with fault_servers() as start:
        yield start


def assert_same(folder: Path, expected: Path) -> None:
    found, wanted = (files_of(each, hidden=False) for each in (folder, expected))
    assert sorted(found) == sorted(wanted)
    assert [name for name in wanted if found[name] != wanted[name]] == []


def wait_for_parts(folder: Path, count: int) -> None:
    deadline = time.monotonic() + 120
    while len(list(folder.glob("part-*.parquet"))) < count:
        assert time.monotonic() < deadline, f"{folder}: no {count} parts"
        time.sleep(0.02)


def test_generate_and_annotate_give_the_tables_of_a_local_run(
    cluster: Any, tiny_models: tuple[Path, Path], prompt_folder: Path, tmp_path: Path
) -> None:
    generate = GenerateConfig(policy=str(tiny_models[0]), prompts=str(prompt_folder), **SAMPLING)
    local = generation.run(generation.read(generate), StageContext(tmp_path / "local", "f"))
    ray = {"execution": "ray"}
    generation.run(generation.read(generate.model_copy(update=ray)), StageContext(tmp_path / "ray", "f"))
    assert_same(tmp_path / "ray", tmp_path / "local")

    annotate = AnnotateConfig(
        policy=str(tiny_models[0]), reference=str(tiny_models[1]), prompts=str(prompt_folder),
        responses=str(local.artifacts["responses"]), reward_kind=("cross-lingual", "multilingual"),
        drop_wrong_language=False, drop_truncated=False,
    )  # fmt: skip
    annotation.run(annotation.read(annotate), StageContext(tmp_path / "local-annotate", "f"))
    annotation.run(annotation.read(annotate.model_copy(update=ray)), StageContext(tmp_path / "ray-annotate", "f"))
    assert_same(tmp_path / "ray-annotate", tmp_path / "local-annotate")


@pytest.fixture
def evaluation_settings(tiny_models: tuple[Path, Path], prompt_folder: Path, tmp_path: Path) -> dict[str, Any]:
    outputs = tmp_path / "reference"
    outputs.mkdir()
    for path in prompt_folder.glob("*.jsonl"):
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        answers = [{"id": row["id"], "instruction": row["instruction"], "output": f"{path.stem} 1."} for row in rows]
        (outputs / f"{path.stem}.json").write_text(json.dumps(answers), encoding="utf-8")
    template = tmp_path / "judge.yaml"
    template.write_text("- role: user\n  content: '{instruction} m: {output_m} M: {output_M}'\n")
    return {
        "policy": str(tiny_models[0]), "prompts": str(prompt_folder), "reference_outputs": str(outputs),
        "max_tokens": 12, "shard_prompts": 2, "judge_template": str(template), "judge_min_mass": 0.0,
    }  # fmt: skip


def test_eval_gives_the_tables_of_a_local_run_with_either_judge(
    cluster: Any, evaluation_settings: dict[str, Any], tiny_models: tuple[Path, Path], tmp_path: Path,
    serve: Callable[..., tuple[Behaviour, str]],
) -> None:  # fmt: skip
    config = EvalConfig(**evaluation_settings, judge="logprob", judge_model=str(tiny_models[1]))
    local = evaluation.run(evaluation.read(config), StageContext(tmp_path / "local", "f"))
    evaluation.run(evaluation.read(config.model_copy(update={"execution": "ray"})), StageContext(tmp_path / "ray", "f"))
    assert_same(tmp_path / "ray", tmp_path / "local")

    behaviour, url = serve(seconds=0.05)
    config = EvalConfig(
        **evaluation_settings, outputs=str(local.artifacts["outputs"]), judge="openai", judge_api_model="judge-1",
        judge_url=url, judge_concurrency=4, judge_cache=str(tmp_path / "cache-ray"), execution="ray",
    )  # fmt: skip
    evaluation.run(evaluation.read(config), StageContext(tmp_path / "ray-api", "f"))
    assert behaviour.most_at_once <= 4
    asked = behaviour.requests
    update = {"execution": "local", "judge_cache": str(tmp_path / "cache-local")}
    evaluation.run(evaluation.read(config.model_copy(update=update)), StageContext(tmp_path / "local-api", "f"))
    assert behaviour.requests == 2 * asked
    assert_same(tmp_path / "ray-api", tmp_path / "local-api")


@pytest.fixture
def served(
    tiny_model: Path, prompt_folder: Path, serve: Callable[..., tuple[Behaviour, str]]
) -> tuple[Behaviour, GenerateConfig]:
    """A job that waits on an engine: 18 parts of half a second each."""
    behaviour, url = serve(seconds=0.25)
    config = GenerateConfig(
        policy=str(tiny_model), prompts=str(prompt_folder), samples=2, shard_prompts=1, sampler="server", server_url=url,
        server_concurrency=1, execution="ray", concurrency=2,
    )  # fmt: skip
    return behaviour, config


def generate_locally(config: GenerateConfig, folder: Path) -> None:
    update = {"execution": "local", "server_concurrency": 32, "shared_folder": ""}
    generation.run(generation.read(config.model_copy(update=update)), StageContext(folder, "f"))


def test_a_node_that_dies_midway_costs_nothing_but_time(
    cluster: Any, served: tuple[Behaviour, GenerateConfig], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    _, config = served
    generate_locally(config, tmp_path / "local")
    node = cluster.list_all_nodes()[-1]

    def kill() -> None:
        wait_for_parts(tmp_path / "ray" / "responses", 4)
        cluster.remove_node(node, allow_graceful=False)

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        generation.run(generation.read(config), StageContext(tmp_path / "ray", "f"))
    finally:
        killer.join()
        cluster.add_node(num_cpus=1, object_store_memory=100 * 2**20)
    assert "a Ray worker died; its parts go to others" in capfd.readouterr().err
    assert_same(tmp_path / "ray", tmp_path / "local")


DRIVER = """
import json, sys
from pathlib import Path
from icr_platform.generation.config import GenerateConfig
from icr_platform.generation.stage import read, run
from icr_platform.core.stage_protocol import StageContext
run(read(GenerateConfig(**json.loads(sys.argv[1]))), StageContext(Path(sys.argv[2]), "f"))
"""


def test_a_driver_that_is_killed_goes_on_with_what_workers_handed_over(
    cluster: Any, store: str, served: tuple[Behaviour, GenerateConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    behaviour, config = served
    config = config.model_copy(update={"shared_folder": store, "ray_address": cluster.address})
    generate_locally(config, tmp_path / "local")

    command = [sys.executable, "-c", DRIVER, config.model_dump_json(), str(tmp_path / "ray")]
    driver = subprocess.Popen(command, start_new_session=True)
    wait_for_parts(tmp_path / "ray" / "responses", 3)
    os.killpg(driver.pid, signal.SIGKILL)
    driver.wait()
    whole = ArtifactWriter(tmp_path / "local" / "responses", RESPONSES, "f")
    SharedFolder(store).put(whole, 17)  # as a worker does whose driver dies before it can look

    asked, collected = behaviour.requests, []
    collect = SharedFolder.collect

    def counted(folder: SharedFolder, writer: ArtifactWriter, part: int) -> bool:
        collected.append((writer.folder.name, part))
        return collect(folder, writer, part)

    monkeypatch.setattr(SharedFolder, "collect", counted)
    generation.run(generation.read(config), StageContext(tmp_path / "ray", "f"))
    assert_same(tmp_path / "ray", tmp_path / "local")
    parts = [part for name, part in collected if name == "responses"]
    assert 17 in parts
    assert len(set(parts)) == len(parts) <= 15
    assert behaviour.requests - asked <= 2 * (len(parts) - 1)
    assert SharedFolder(store).finished(whole) == set()


def test_what_is_wrong_in_a_worker_is_one_line(
    cluster: Any,
    tiny_model: Path,
    prompt_folder: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """What the stage could not read beforehand: weights that are broken."""
    from safetensors.torch import load_file, save_file

    model = shutil.copytree(tiny_model, tmp_path / "model")
    tensors = load_file(model / "model.safetensors")
    tensors["model.norm.weight"].fill_(float("nan"))
    save_file(tensors, model / "model.safetensors", metadata={"format": "pt"})
    command = [
        "generate", f"--policy={model}", f"--prompts={prompt_folder}", "--languages=en", f"--output={tmp_path / 'out'}",
        "--no-tracking", "--execution=ray",
    ]  # fmt: skip
    assert icr(command) == 1
    error = capfd.readouterr().err
    assert error.count("icr: ") == 1
    assert f"icr: {model}: " in error
    assert "model.norm.weight" in error
    assert "Traceback" not in error
