"""What models passed is not checked again until they, the settings or the code are others."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from icr_platform.core.errors import InputError
from icr_platform.pipeline import model_checks
from icr_platform.pipeline.config import IterateConfig


@pytest.fixture
def session(tmp_path: Path) -> Any:
    return SimpleNamespace(work=tmp_path / ".icr", resolver=SimpleNamespace(local=lambda path, seed: path))


@pytest.fixture
def checks(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names a policy at each check that is made."""
    made: list[str] = []
    real = model_checks.check_models

    def counted(session: Any, config: IterateConfig) -> tuple[str, ...]:
        made.append(config.policy)
        return real(session, config)

    monkeypatch.setattr(model_checks, "check_models", counted)
    return made


def test_models_that_passed_are_checked_again_once_something_is_another(
    session: Any, checks: list[str], tiny_model: Path, tmp_path: Path
) -> None:
    policy, reference = (Path(shutil.copytree(tiny_model, tmp_path / name)) for name in ("policy", "reference"))
    config = IterateConfig(policy=str(policy), reference=str(reference))
    for _ in range(2):
        model_checks.check_models_once(session, config)
    assert len(checks) == 1
    model_checks.check_models_once(session, config.model_copy(update={"system_prompt": "Be brief."}))
    assert len(checks) == 2
    template = reference / "tokenizer_config.json"
    template.write_text(json.dumps(json.loads(template.read_text()) | {"chat_template": "{{ messages }}"}))
    (reference / "chat_template.jinja").unlink(missing_ok=True)
    for number in (3, 4):  # what is refused is not remembered
        with pytest.raises(InputError):
            model_checks.check_models_once(session, config)
        assert len(checks) == number


def test_nothing_is_remembered_where_nothing_can_be_written(session: Any, checks: list[str], tiny_model: Path) -> None:
    session.work.write_text("a file")
    for number in (1, 2):
        model_checks.check_models_once(session, IterateConfig(policy=str(tiny_model), reference=str(tiny_model)))
        assert len(checks) == number
