"""`iterate` on a local store, S3 and PostgreSQL: finished work is found from MLflow's rows alone, nothing is copied or downloaded."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml

from icr_platform.cli.flags import parse
from icr_platform.demo import IDENTIFIER
from icr_platform.pipeline.arm import Arm
from icr_platform.pipeline.iterate import iterate
from icr_platform.pipeline.session import open_session
from icr_platform.tracking.tracker import Tracker
from tests.support.fault_server import KEY, fault_servers
from tests.support.postgres import empty_schema
from tests.support.s3_server import s3_server

MEGABYTE = 2**20
BUCKET = "icr-store"


@dataclass
class Store:
    """A store under test. artifacts: folder of a local one. requests: (method, path, query) that an S3 server answered."""

    uri: str
    artifacts: Path | None
    requests: list[tuple[str, str, str]] = field(default_factory=list)

    def fetched(self) -> list[str]:
        """Objects that were downloaded since the last call; listings are not."""
        gets = [path for method, path, query in self.requests if method == "GET" and "list-type" not in query]
        self.requests.clear()
        return gets

    def size(self) -> int:
        if self.artifacts is not None:
            return sum(file.stat().st_size for file in self.artifacts.rglob("*") if file.is_file())
        import boto3

        pages = boto3.client("s3").get_paginator("list_objects_v2").paginate(Bucket=BUCKET)
        return sum(item["Size"] for page in pages for item in page.get("Contents", ()))


@pytest.fixture
def s3() -> Iterator[list[tuple[str, str, str]]]:
    """A bucket of a real S3-compatible server; gives the requests that the server has answered."""
    with s3_server() as server:
        import boto3

        boto3.client("s3").create_bucket(Bucket=BUCKET)
        server.requests.clear()
        yield server.requests


@pytest.fixture
def postgres() -> Iterator[str]:
    """URL of an empty schema of a PostgreSQL database."""
    with empty_schema() as url:
        yield url


@pytest.fixture(params=["sqlite", "s3", "postgresql"])
def store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """A store with an experiment `icr`, and a temporary folder of its own."""
    uri = request.getfixturevalue("postgres") if request.param == "postgresql" else f"sqlite:///{tmp_path}/mlflow.db"
    requests = request.getfixturevalue("s3") if request.param == "s3" else []
    artifacts = None if request.param == "s3" else tmp_path / "a store%20" / "mlruns"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)
    client = Tracker("another").client
    client.create_experiment("icr", f"s3://{BUCKET}/mlruns" if artifacts is None else artifacts.as_uri())
    (tmp_path / "temporary").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return Store(uri, artifacts, requests)


@pytest.fixture
def judge(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """URL of a judge."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with fault_servers() as serve:
        yield serve()[1]


@pytest.fixture
def preset(tmp_path: Path, tiny_models: tuple[Path, Path], prompt_folder: Path, judge: str) -> Path:
    """A preset of one iteration on tiny models, evaluated by the judge against outputs written here."""
    references = tmp_path / "references"
    references.mkdir()
    for language, answer in {"en": "I do not know the answer.", "es": "No sé la respuesta."}.items():
        lines = (prompt_folder / f"{language}.jsonl").read_text(encoding="utf-8").splitlines()
        rows = [json.loads(line) | {"output": answer} for line in lines]
        (references / f"{language}.json").write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")
    policy, reference = tiny_models
    values = {
        "iterations": 1, "policy": str(policy), "reference": str(reference), "prompts": str(prompt_folder), "seed": 1,
        "languages": ["en", "es"], "eval_languages": ["en", "es"], "eval_prompts": str(prompt_folder),
        "reference_outputs": str(references),
        "generate": {"samples": 4, "max_tokens": 16, "language_identifier": IDENTIFIER},
        "annotate": {"drop_wrong_language": False, "drop_truncated": False},
        "train": {"learning_rate": 1e-4, "batch_size": 4, "accumulation": 1},
        "eval": {"max_tokens": 16, "language_identifier": IDENTIFIER, "judge": "openai", "judge_api_model": "judge-1",
                 "judge_url": judge, "judge_cache": str(tmp_path / "verdicts")},
    }  # fmt: skip
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    return path


def run(preset: Path, *flags: str) -> Arm:
    config, options = parse("iterate", [f"--config={preset}", *flags])
    return iterate(open_session(options), config)  # type: ignore[arg-type]


def files(folder: Path) -> dict[str, int]:
    found = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.stat().st_size for path in found}


def test_a_finished_iterate_called_again(
    store: Store, preset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("here", "elsewhere"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "here")
    first = run(preset)
    assert first.run is not None
    temporary, size = files(tmp_path / "temporary"), store.size()
    store.fetched()
    for folder in ("here", "elsewhere"):  # the second as on another machine, which has only the store
        monkeypatch.chdir(tmp_path / folder)
        before = files(tmp_path)
        capsys.readouterr()
        again = run(preset)
        assert all(stage.reused for stage in again.stages.values())
        assert again.metrics == first.metrics
        assert any(name.startswith("win_rate_change/") for name in again.metrics[1])
        assert store.fetched() == []
        assert files(tmp_path / "temporary") == temporary
        own = {name for name in files(tmp_path) if name not in before and "mlflow.db" not in name}
        assert sum((tmp_path / name).stat().st_size for name in own) < MEGABYTE
        assert store.size() - size < MEGABYTE
        size = store.size()
        assert again.run is not None
        tracker = Tracker()
        arm = tracker.client.get_run(again.run.run_id)
        assert arm.data.metrics["win_rate/es"] == first.metrics[1]["win_rate/es"]
        assert arm.data.tags["icr.report_run"] == first.run.run_id
        shown = capsys.readouterr().out
        assert "Spanish" in shown
        assert f"report: {tmp_path / 'here'}" in shown if folder == "here" else "report-icr.html" in shown


@pytest.mark.parametrize("store", ["s3"], indirect=True)
def test_work_goes_on_where_only_the_store_has_it(
    store: Store, preset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import boto3

    values = yaml.safe_load(preset.read_text(encoding="utf-8"))
    preset.write_text(yaml.safe_dump({name: value for name, value in values.items() if name != "eval_prompts"}))
    for name in ("here", "elsewhere"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "here")
    first = run(preset)
    temporary = files(tmp_path / "temporary")
    monkeypatch.chdir(tmp_path / "elsewhere")
    store.fetched()
    more = run(preset, "--iterations=2")
    assert [stage.reused for (iteration, _), stage in more.stages.items() if iteration == 1] == [True] * 3
    gets = store.fetched()
    assert sum(name.endswith("/checkpoint/model.safetensors") for name in gets) == 1, (
        "three stages of the second iteration read it"
    )
    assert not any("/responses/" in name for name in gets), "nobody needs them"
    assert files(tmp_path / "temporary") == temporary
    assert list(files(tmp_path / "elsewhere" / ".icr" / "artifacts")) == [".lock"]

    trained = more.stages[2, "train"].run
    generated = first.stages[1, "generate"].run
    assert trained is not None
    assert generated is not None
    tracker = Tracker()
    assert tracker.find_stored("models:/icr-policy@iteration-2").uri == f"runs:/{trained.run_id}/checkpoint"
    name = f"mlruns/{generated.run_id}/artifacts/responses/part-00000.parquet"
    boto3.client("s3").delete_object(Bucket=BUCKET, Key=name)
    repaired = run(preset)
    assert {stage for (_, stage), done in repaired.stages.items() if not done.reused} == {"generate"}, (
        "a part of it was lost"
    )
    assert tracker.client.get_registered_model("icr-policy").aliases.keys() == {"iteration-1"}, (
        "there is one iteration now"
    )
