"""The wheel: built from this tree and installed without it, it has all that the commands need."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

pytest.importorskip("hatchling", reason="builds the wheel: pip install 'icr-platform[test]'")
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def site(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the unpacked wheel alone, which goes before whatever else Python finds."""
    folder = tmp_path_factory.mktemp("site")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def icr(site: Path, cwd: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
    environment = kept | {"PYTHONPATH": str(site), "HF_HUB_OFFLINE": "1"}
    return subprocess.run(
        [sys.executable, "-m", "icr_platform", *arguments], cwd=cwd, env=environment, capture_output=True, text=True
    )


def test_the_wheel_has_the_presets_the_recipes_and_the_licence(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        metadata = archive.read(next(name for name in names if name.endswith("dist-info/METADATA"))).decode()
    presets = {path.relative_to(ROOT / "projects" / "conf") for path in (ROOT / "projects" / "conf").rglob("*.yaml")}
    assert {f"icr_platform/pipeline/presets/{path}" for path in presets} <= names
    assert {"icr_platform/LICENSE", "icr_platform/py.typed"} <= names
    assert any(name.endswith("dist-info/licenses/icr_platform/LICENSE") for name in names)
    assert "License-Expression: Apache-2.0" in metadata
    assert not any(name.startswith(("tests/", "projects/")) for name in names)


def test_icr_check_demo_works_in_an_empty_folder(site: Path, tmp_path: Path) -> None:
    done = icr(site, tmp_path, "check", "demo")
    assert done.returncode == 0, done.stderr
    assert "training prompts: en 70, es 70" in done.stdout
    assert str(ROOT) not in done.stdout + done.stderr


def test_presets_and_recipes_are_found_by_name(site: Path, tmp_path: Path) -> None:
    """The paper's preset names an accelerate recipe; what it cannot have here, its models, is what is missing."""
    found = icr(site, tmp_path, "check", "paper-llama3-8b", "--no-tracking")
    assert found.returncode == 2
    assert "princeton-nlp" in found.stderr
    assert "accelerate" not in found.stderr
    said = icr(site, tmp_path, "check", "papers").stderr
    assert "no such preset" in said
    assert {"demo", "paper-llama3-8b", "croco"} <= set(said.split("one of ")[1].strip().split(", "))


@pytest.mark.slow
def test_the_demo_runs_in_an_empty_folder(site: Path, tmp_path: Path) -> None:
    done = icr(site, tmp_path, "iterate", "--config", "demo")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "report-icr.html").is_file()
    assert "icr inspect" in done.stdout
    assert "mlflow ui" in done.stdout
