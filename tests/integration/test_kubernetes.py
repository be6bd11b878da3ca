"""What MLflow's kubernetes backend makes of our files, checked against the API's own schema. The cluster alone is missing."""

from __future__ import annotations

import json
import re
import shlex
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml

from icr_platform.cli.commands import parse
from icr_platform.cli.mlproject import DOCKER, render

pytestmark = pytest.mark.skipif(
    find_spec("kubernetes") is None or find_spec("kubernetes_validate") is None,
    reason="needs kubernetes and kubernetes-validate: pip install 'icr-platform[test]'",
)
ROOT = Path(__file__).parents[2]
BACKENDS = ROOT / "projects" / "backends"


@pytest.fixture
def job(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The job that `mlflow run projects/backends/kubernetes --backend kubernetes -e generate` submits."""
    from mlflow.projects import _parse_kubernetes_config
    from mlflow.projects._project_spec import load_project
    from mlflow.projects.kubernetes import _get_kubernetes_job_definition, _get_run_command
    from mlflow.projects.utils import get_entry_point_command

    monkeypatch.chdir(ROOT)  # as README says, and as the paths in the config mean
    config = _parse_kubernetes_config(json.loads((BACKENDS / "kubernetes-config.json").read_text()))
    project = load_project(str(BACKENDS / "kubernetes"))
    assert project.docker_env["image"]
    command = get_entry_point_command(project, "generate", {"policy": "org/model", "prompts": "data/my prompts"}, None)
    definition: dict[str, Any] = _get_kubernetes_job_definition(
        project.name,
        config["repository-uri"],
        "sha256:" + "0" * 64,
        _get_run_command(command),
        {"MLFLOW_RUN_ID": "abc"},
        config["kube-job-template"],
    )
    return definition


@pytest.mark.parametrize("version", ["1.28", "1.33"])
def test_the_job_fits_the_schema(job: dict[str, Any], version: str) -> None:
    import kubernetes_validate

    kubernetes_validate.validate(job, version, strict=True)


def test_names_are_ones_kubernetes_takes(job: dict[str, Any]) -> None:
    label = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
    assert label.fullmatch(job["metadata"]["name"])
    assert len(job["metadata"]["name"]) <= 63
    assert label.fullmatch(job["spec"]["template"]["spec"]["containers"][0]["name"])


def test_the_container_runs_the_stage(job: dict[str, Any]) -> None:
    container = job["spec"]["template"]["spec"]["containers"][0]
    program, stage, *arguments = container["command"]
    config, _ = parse(stage, [shlex.split(argument)[0] for argument in arguments])
    assert (program, stage, config.policy) == ("icr", "generate", "org/model")  # type: ignore[attr-defined]
    assert {"name": "MLFLOW_RUN_ID", "value": "abc"} in container["env"]


def test_the_docker_project_has_the_entry_points_of_the_other() -> None:
    text = (BACKENDS / "kubernetes" / "MLproject").read_text()
    assert text == render(DOCKER), (
        "run `python -m icr_platform.cli.mlproject docker > projects/backends/kubernetes/MLproject`"
    )
    assert yaml.safe_load(text)["entry_points"] == yaml.safe_load(render())["entry_points"]
