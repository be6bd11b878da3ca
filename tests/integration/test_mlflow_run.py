"""`mlflow run projects`, for real: what is given with -P reaches the stage, MLflow's page shows what ran and nothing else, and nothing
but this machine is contacted."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from mlflow import MlflowClient

from icr_platform.core.config import leaves
from icr_platform.generation.config import GenerateConfig

PROJECTS = Path(__file__).parents[2] / "projects"
README = PROJECTS.parent / "README.md"
SPY = """\
import os, socket

def say(host):
    with open(os.environ["CONTACTED"], "a") as file:
        file.write(f"{host}\\n")

def spied(look, address_of):
    def call(*arguments, **named):
        host = str(address_of(arguments))
        if host not in ("None", "", "localhost", "::1", socket.gethostname()) and not host.startswith("127."):
            say(host)
        return look(*arguments, **named)
    return call

say("started")
socket.getaddrinfo = spied(socket.getaddrinfo, lambda a: a[0])
connect = socket.socket.connect
socket.socket.connect = spied(connect, lambda a: a[1][0] if isinstance(a[1], tuple) else "")
"""
"""Loaded by every Python of the command: writes down each host but this one that is looked up or connected to."""


def test_parameters_reach_the_stage_and_nothing_else_is_shown(
    tiny_model: Path, prompt_folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "mine.yaml").write_text("samples: 3\ntop_k: 5\nmax_tokens: 4\nlanguages: [es]\n")
    given = {"config": "mine.yaml", "policy": str(tiny_model), "prompts": "prompts", "languages": "", "limit": "1",
             "samples": "10", "max_model_len": "none", "output": "it's out"}  # fmt: skip
    # MLflow counts its users unless it is told not to, or sees a CI: the command of README must be what tells it.
    (switches,) = re.findall(r"pip install -e \. && ((?:\w+=\w+ )+)mlflow run", README.read_text(encoding="utf-8"))
    signs = ("MLFLOW_", "PYTEST_", "CI", "GITHUB_", "DO_NOT_TRACK", "HF_", "HTTP", "http")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(signs)}
    (tmp_path / "spy").mkdir()
    (tmp_path / "spy" / "sitecustomize.py").write_text(SPY)
    scripts = Path(sys.executable).parent  # where pip puts `icr`; MLflow starts it by name
    environment = kept | dict(switch.split("=") for switch in switches.split()) | {
        "PATH": f"{scripts}:{kept['PATH']}", "PYTHONPATH": f"{tmp_path / 'spy'}:{PROJECTS.parent}",
        "CONTACTED": str(tmp_path / "contacted.txt"),
    }  # fmt: skip
    command = [sys.executable, "-m", "mlflow", "run", str(PROJECTS), "--env-manager", "local", "-e", "generate"]
    for name, value in given.items():
        command += ["-P", f"{name}={value}"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "it's out" / "responses" / "manifest.json").is_file()

    contacted = (tmp_path / "contacted.txt").read_text().splitlines()
    assert contacted.count("started") >= 2, "mlflow and the stage"
    assert set(contacted) == {"started"}

    client = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    (run,) = client.search_runs(["0"])
    shown = dict(run.data.params)
    used = {name.removeprefix("generate."): shown.pop(name) for name in list(shown) if name.startswith("generate.")}
    assert set(shown) == set(given), "MLflow shows what was given, as it quotes it"
    assert set(used) == {name for name, _ in leaves(GenerateConfig)}
    assert {name: used[name] for name in ("samples", "top_k", "max_tokens", "languages", "limit", "policy")} == {
        "samples": "10", "top_k": "5", "max_tokens": "4", "languages": "", "limit": "1", "policy": str(tiny_model)
    }  # fmt: skip
