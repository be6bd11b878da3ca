"""Finetuning in two processes that accelerate launches: what comes out is what one process makes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from icr_platform.core.stage_protocol import StageContext
from icr_platform.models.loading import load_model
from icr_platform.training.config import SftConfig
from icr_platform.training.sft_stage import read, run

TWO_PROCESSES = Path(__file__).parents[2] / "projects" / "conf" / "accelerate" / "cpu-2-processes.yaml"


@pytest.mark.slow
def test_two_processes_train_as_one(tiny_model: Path, tmp_path: Path) -> None:
    """Eight documents of different lengths in a step: the loss is the mean over the tokens of both processes."""
    rows = [{"instruction": f"Say {number}.", "output": "yes " * (number + 1)} for number in range(8)]
    documents = tmp_path / "documents.jsonl"
    documents.write_text("".join(json.dumps(row) + "\n" for row in rows))
    shared: dict[str, Any] = {
        "policy": str(tiny_model),
        "documents": str(documents),
        "device": "cpu",
        "learning_rate": 1e-3,
        "warmup": 0.0,
    }
    found = {}
    layouts: dict[str, dict[str, Any]] = {
        "one": {"batch_size": 8, "accumulation": 1},
        "two": {"batch_size": 2, "accumulation": 2, "accelerate_config": str(TWO_PROCESSES)},
    }
    for name, own in layouts.items():
        config = SftConfig.model_validate({**shared, **own})
        found[name] = run(read(config), StageContext(tmp_path / name, "f"))
    one, two = (load_model(str(result.artifacts["checkpoint"]), "float32", "cpu") for result in found.values())
    assert found["two"].metrics["sft/final_loss"] == pytest.approx(found["one"].metrics["sft/final_loss"], rel=1e-4)
    for (name, first), second in zip(one.named_parameters(), two.parameters(), strict=True):
        # Adam's first step is the sign of the gradient: only where it is near 0 may the two differ, and then by a step each way.
        assert float((first - second).abs().gt(1e-4).float().mean()) < 0.01, name
    assert torch.isfinite(next(two.parameters())).all()
