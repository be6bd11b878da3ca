"""`mlflow run projects`, for real: what is given with -P reaches the stage, and MLflow's page shows what ran and nothing else."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from mlflow import MlflowClient

from icr_platform.core.config import leaves
from icr_platform.generation.config import GenerateConfig

PROJECTS = Path(__file__).parents[2] / "projects"


def test_parameters_reach_the_stage_and_nothing_else_is_shown(
    tiny_model: Path, prompt_folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "mine.yaml").write_text("samples: 3\ntop_k: 5\nmax_tokens: 4\nlanguages: [es]\n")
    given = {"config": "mine.yaml", "policy": str(tiny_model), "prompts": "prompts", "languages": "", "limit": "1",
             "samples": "10", "max_model_len": "none", "output": "it's out"}  # fmt: skip
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
    scripts = Path(sys.executable).parent  # where pip puts `icr`; MLflow starts it by name
    environment = kept | {"PATH": f"{scripts}:{kept['PATH']}", "MLFLOW_DISABLE_TELEMETRY": "true",
                          "PYTHONPATH": str(PROJECTS.parent)}  # fmt: skip
    command = [sys.executable, "-m", "mlflow", "run", str(PROJECTS), "--env-manager", "local", "-e", "generate"]
    for name, value in given.items():
        command += ["-P", f"{name}={value}"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "it's out" / "responses" / "manifest.json").is_file()

    client = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    (run,) = client.search_runs(["0"])
    shown = dict(run.data.params)
    used = {name.removeprefix("generate."): shown.pop(name) for name in list(shown) if name.startswith("generate.")}
    assert set(shown) == set(given), "MLflow shows what was given, as it quotes it"
    assert set(used) == {name for name, _ in leaves(GenerateConfig)}
    assert {name: used[name] for name in ("samples", "top_k", "max_tokens", "languages", "limit", "policy")} == {
        "samples": "10", "top_k": "5", "max_tokens": "4", "languages": "", "limit": "1", "policy": str(tiny_model)
    }  # fmt: skip
