"""Checkpoints of every kind go through generate, annotate, one training step and eval, and are the same kind afterwards."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForMultimodalLM

from icr_platform.models.loading import load_model, parameter_count
from icr_platform.models.multimodal import towers
from tests.benchmarks.bench_architectures import STAGES, Data, Outcome, run_stages
from tests.support.tiny_models import MULTIMODAL, save_tiny_multimodal

IDS = torch.arange(20, 60)[None]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Data:
    return Data(tmp_path_factory.mktemp("data"))


def through(policy: Path, reference: Path, data: Data, work: Path, **training: object) -> Path:
    """Run all stages; return the checkpoint."""
    outcome = Outcome(policy.name)
    run_stages(outcome, str(policy), str(reference), data, work, training_settings=training)
    assert [getattr(outcome, stage) for stage in STAGES] == ["pass"] * len(STAGES), outcome.because
    return work / "train" / "checkpoint"


@torch.inference_mode()
def logits(model: object) -> torch.Tensor:
    found: torch.Tensor = model(input_ids=IDS, use_cache=False).logits  # type: ignore[operator]
    return found


@pytest.mark.parametrize("family", [family for family in MULTIMODAL if family != "aya_vision"])
def test_a_multimodal_checkpoint_is_used_as_a_model_of_text_and_stays_what_it_is(
    family: str, data: Data, tmp_path: Path
) -> None:
    policy, reference = tmp_path / "policy", tmp_path / "reference"
    before = save_tiny_multimodal(policy, family, seed=1)
    save_tiny_multimodal(reference, family, seed=2)
    rank = {"lora_rank": 2} if family in ("gemma3", "smolvlm") else {}
    checkpoint = through(policy, reference, data, tmp_path, **rank)

    after = AutoModelForMultimodalLM.from_pretrained(checkpoint, dtype=torch.float32).eval()
    assert type(after) is type(before)
    in_towers = tuple(f"{name}." for name in towers(before))
    trained = {
        name for name, tensor in before.state_dict().items() if not torch.equal(tensor, after.state_dict()[name])
    }
    assert trained
    assert not any(name.startswith(in_towers) for name in trained), "the towers are saved as they were"
    assert (checkpoint / "preprocessor_config.json").exists(), "vLLM asks for the processor of such a checkpoint"

    loaded = load_model(str(checkpoint), "float32", "cpu")
    assert torch.allclose(logits(loaded), logits(after), atol=1e-5)
    assert not torch.allclose(logits(loaded), logits(before), atol=1e-5)
    kept = sum(parameter.numel() for parameter in loaded.parameters())
    whole = sum(parameter.numel() for parameter in before.parameters())
    assert towers(loaded) == []
    assert kept == parameter_count(str(policy)) < whole, "predictions count what a text passes"


def test_logits_of_a_vision_model_are_scaled_as_those_of_its_text(tmp_path: Path) -> None:
    """transformers forgets `logit_scale` in Aya Vision; vLLM samples with it and TRL trains with it."""
    from transformers import Cohere2ForCausalLM

    whole = save_tiny_multimodal(tmp_path / "aya", "aya_vision")
    text = Cohere2ForCausalLM(whole.config.text_config).eval()
    text.model.load_state_dict(whole.get_decoder().state_dict())
    text.tie_weights()
    assert torch.allclose(logits(load_model(str(tmp_path / "aya"), "float32", "cpu")), logits(text), atol=1e-5)
    assert not torch.allclose(logits(whole), logits(text), atol=1e-3)
