"""Renders `projects/MLproject` from the configurations: `python -m icr_platform.cli.mlproject > projects/MLproject`.

With the argument `docker`: `projects/backends/kubernetes/MLproject`, the same entry points in a Docker environment.

The file is written by this module so that parameters and defaults never drift from the stages' own; a test holds them together.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Any

from pydantic.fields import FieldInfo

from icr_platform.cli.commands import UNSET, default_text
from icr_platform.core.config import Config, kind_name, leaves, role
from icr_platform.pipeline.stages import CONFIGURED

HEADER = """\
# Written by `python -m icr_platform.cli.mlproject`; change icr_platform/core/config.py instead.
# Run with `mlflow run projects -e STAGE --env-manager local -P name=value ...`. A parameter left at its default yields to the
# preset in `config`; `-` means 'not given'. Fields that are not listed here can be given with -P all the same.
name: icr-platform
{environment}
entry_points:
"""
PYTHON = "python_env: python_env.yaml"
# The kubernetes backend only takes a Docker environment, and MLflow one environment per MLproject.
DOCKER = "docker_env: {image: icr-platform:latest}  # your image, such as that of the Dockerfile beside this folder"


def parameters(config: type[Config]) -> Iterator[tuple[str, FieldInfo]]:
    """The fields MLproject lists, by dotted name: all but where-to-run details of nested stages (MLflow logs at most 100)."""
    for name, info in leaves(config):
        if "." not in name or role(info) != "place":
            yield name, info


def default_yaml(info: FieldInfo) -> str:
    """The field's default as YAML: a number for numbers, quoted text for everything else."""
    default: Any = info.default
    is_finite_number = (
        isinstance(default, (int, float)) and not isinstance(default, bool) and abs(default) < float("inf")
    )
    return repr(default) if is_finite_number else json.dumps(default_text(default), ensure_ascii=False)


def render(environment: str = PYTHON) -> str:
    """The whole MLproject file, for an environment: PYTHON or DOCKER."""
    stages = {name: name for name in CONFIGURED}
    return HEADER.format(environment=environment) + "".join(
        _entry_point(name, stage) for name, stage in {"main": "iterate", **stages}.items()
    )


def _entry_point(name: str, stage: str) -> str:
    preset = "demo" if name == "main" else UNSET
    lines = [
        f"  {name}:  # {CONFIGURED[stage].help}" + ("; the demo" if name == "main" else ""),
        "    parameters:",
        f'      config: {{type: string, default: "{preset}"}}  # YAML preset, a file or the name of one in conf/',
    ]
    flags = ["--config={config}"]
    for field, info in parameters(CONFIGURED[stage].config):
        key = field.replace(".", "_")
        lines.append(f"      {key}: {{type: {kind_name(info)}, default: {default_yaml(info)}}}  # {info.description}")
        flags.append(f"--{key.replace('_', '-')}={{{key}}}")
    lines.append(f'    command: "icr {CONFIGURED[stage].command} --project-defaults {" ".join(flags)}"')
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(render(DOCKER if sys.argv[1:] == ["docker"] else PYTHON), end="")
