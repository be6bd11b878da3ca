"""Training on a GPU with compiled layers, beside the same training without."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from icr_platform.core.artifacts import open_artifact
from icr_platform.core.schemas import PREFERENCES
from icr_platform.models.loading import load_tokenizer
from icr_platform.training.config import TrainConfig
from icr_platform.training.dataset import load_pairs
from icr_platform.training.dpo import build_trainer

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.mark.parametrize("changes", [
    {}, {"gradient_checkpointing": True}, {"lora_rank": 4}, {"precompute_reference": "no"}
])  # fmt: skip
def test_compiled_layers_train_as_the_others_do(
    tiny_models: tuple[Path, Path], make_preferences: Callable[..., Path], tmp_path: Path, changes: dict[str, Any]
) -> None:
    folder = make_preferences(tmp_path / "preferences", tiny_models[0], 24)
    pairs = load_pairs(open_artifact(folder, PREFERENCES), load_tokenizer(str(tiny_models[0])), 4096)
    losses = []
    for is_compiled in (False, True):
        config = TrainConfig.model_validate({
            "policy": str(tiny_models[0]), "reference": str(tiny_models[1]), "dpo_reference": "initial", "preferences": "-",
            "device": "cuda", "batch_size": 4, "accumulation": 1, "learning_rate": 1e-3, "torch_compile": is_compiled, **changes,
        })  # fmt: skip
        scored = None if "precompute_reference" in changes else np.full((len(pairs), 2), -20.0)
        trainer = build_trainer(config, pairs, scored, tmp_path / f"work-{is_compiled}")
        trainer.train()
        losses.append([row["loss"] for row in trainer.state.log_history if "loss" in row])
        models = [model for model in (trainer.model, getattr(trainer, "ref_model", None)) if model is not None]
        assert all(any(module._compiled_call_impl for module in model.modules()) is is_compiled for model in models)
    assert len(losses[0]) > 3
    assert losses[1] == pytest.approx(losses[0], abs=0.05)
