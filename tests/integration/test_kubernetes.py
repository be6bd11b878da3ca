"""What MLflow's kubernetes backend makes of our files, checked against the API's own schema. The cluster alone is missing."""

from __future__ import annotations

import json
import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml

from icr_platform.cli import commands
from icr_platform.cli.flags import parse

pytestmark = pytest.mark.skipif(
    find_spec("kubernetes") is None or find_spec("kubernetes_validate") is None,
    reason="needs kubernetes and kubernetes-validate: pip install 'icr-platform[test]'",
)
ROOT = Path(__file__).parents[2]
BACKENDS = ROOT / "projects" / "backends"
GIVEN = {"policy": "org/model", "prompts": "data/it's mine", "alpha_min": "-1e-3", "near_duplicate": ""}


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
    command = get_entry_point_command(project, "annotate", GIVEN, None)
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


def test_the_container_runs_the_stage(job: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """With the words of its command as they are: no shell is there to take quotes off."""
    container = job["spec"]["template"]["spec"]["containers"][0]
    assert {"name": "MLFLOW_RUN_ID", "value": "abc"} in container["env"]
    called: list[tuple[str, list[str]]] = []
    monkeypatch.setattr(commands, "_configured", lambda command, given: called.append((command.name, given)) or 0)
    program, *words = container["command"]
    assert (program, commands.run(words)) == ("icr", 0)
    ((stage, given),) = called
    config, _ = parse(stage, given)
    assert stage == "annotate"
    assert {name: getattr(config, name) for name in GIVEN} == {
        "policy": "org/model", "prompts": "data/it's mine", "alpha_min": -1e-3, "near_duplicate": None
    }  # fmt: skip


def test_the_docker_project_has_the_entry_points_of_the_other() -> None:
    one, other = (
        yaml.safe_load((folder / "MLproject").read_text()) for folder in (ROOT / "projects", BACKENDS / "kubernetes")
    )
    for entry_point in one["entry_points"].values():
        entry_point["command"] = entry_point["command"].replace("icr ", "icr --unquote ", 1)
    assert other["entry_points"] == one["entry_points"]
    assert other["name"] == one["name"]
