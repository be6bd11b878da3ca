"""Checkpoints of every kind go through generate, annotate, one training step and eval, and are the same kind afterwards."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForMultimodalLM

from icr_platform.core.errors import InputError
from icr_platform.engines.sampling import server_sampler
from icr_platform.engines.sampling.settings import SamplingSettings
from icr_platform.engines.scoring.logprobs import CompletionScorer, Group
from icr_platform.models.left_padding import find_batching
from icr_platform.models.loading import check_weights, load_model, parameter_count
from icr_platform.models.model_identity import model_identity
from icr_platform.models.multimodal import towers
from icr_platform.models.quantised import keep_precision
from icr_platform.models.quantised import plain as as_plain
from tests.benchmarks.bench_architectures import STAGES, Data, Outcome, run_stages
from tests.support.tiny_models import MULTIMODAL, save_tiny_multimodal

IDS = torch.arange(20, 60)[None]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Data:
    return Data(tmp_path_factory.mktemp("data"))


def through(
    policy: Path, reference: Path, data: Data, work: Path, common: dict[str, str] | None = None, **training: object
) -> Path:
    """Run all stages; return the checkpoint."""
    outcome = Outcome(policy.name)
    run_stages(outcome, str(policy), str(reference), data, work, common or {}, training)
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
    rank: dict[str, Any] = {"lora_rank": 2} if family in ("gemma3", "smolvlm") else {}
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


def quantised(folder: Path, model: Path, **bits: object) -> Path:
    """Save a model as bitsandbytes quantises it."""
    from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed (extra `quantized`)")
    settings = BitsAndBytesConfig(**bits)
    loaded = AutoModelForCausalLM.from_pretrained(model, quantization_config=settings, dtype=torch.float32)
    loaded.save_pretrained(folder)
    AutoTokenizer.from_pretrained(model).save_pretrained(folder)
    return folder


NF4 = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": torch.float32}
GROUPS = [Group(list(range(20, 30)), ([31, 32, 33, 34], [35], list(range(40, 60)))), Group([9, 8], ([7, 6, 5],))]


def scores_one_by_one(model: object) -> list[float]:
    found = []
    for group in GROUPS:
        prompt = group.prompt_ids
        for completion in group.completions:
            ids = torch.tensor([[*prompt, *completion]])
            with torch.inference_mode():
                logprobs = model(input_ids=ids, use_cache=False).logits.double().log_softmax(-1)[0]  # type: ignore[operator]
            found.append(sum(float(logprobs[len(prompt) - 1 + i, token]) for i, token in enumerate(completion)))
    return found


@pytest.mark.parametrize("quantization", ["nf4", "int8"])
def test_a_model_is_quantised_while_it_is_loaded(
    quantization: str, data: Data, tiny_model: Path, tmp_path: Path
) -> None:
    """QLoRA: adapters over the bits are added to the weights that were quantised."""
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed (extra `quantized`)")
    checkpoint = through(tiny_model, tiny_model, data, tmp_path, {"quantization": quantization}, lora_rank=2)
    plain, policy = load_model(str(checkpoint), "float32", "cpu"), load_model(str(tiny_model), "float32", "cpu")
    in_bits = load_model(str(tiny_model), "float32", "cpu", quantization=quantization)
    assert not hasattr(plain.config, "quantization_config")
    assert not torch.equal(logits(plain), logits(policy))
    assert float((logits(in_bits) - logits(policy)).abs().max()) > 1e-4, "the bits round"
    scorer = CompletionScorer(in_bits)
    assert scorer.packed
    packed = [float(score) for group in scorer.score(GROUPS) for score in group]
    assert packed == pytest.approx(scores_one_by_one(in_bits), abs=1e-3), "a score does not depend on its batch"
    assert find_batching(in_bits).rows is None
    name = "model.layers.0.mlp.up_proj.weight"
    meant, given = as_plain(in_bits, torch.float32).state_dict()[name], policy.state_dict()[name]
    assert 0 < float((meant - given).norm() / given.norm()) < 0.15, "the bits round, and not more than that"


def test_a_checkpoint_in_4_bits_is_scored_sampled_and_gets_adapters(
    data: Data, tiny_model: Path, tmp_path: Path
) -> None:
    policy = quantised(tmp_path / "policy", tiny_model, **NF4)
    checkpoint = through(policy, tiny_model, data, tmp_path, lora_rank=2)
    plain, in_bits = load_model(str(checkpoint), "float32", "cpu"), load_model(str(policy), "float32", "cpu")
    assert not hasattr(plain.config, "quantization_config")
    assert not torch.equal(logits(plain), logits(in_bits))
    meant = as_plain(load_model(str(policy), "float32", "cpu"), torch.float32)
    assert torch.allclose(logits(meant), logits(in_bits), atol=1e-4), "adapters are added to what the bits mean"
    assert model_identity(str(policy)) != model_identity(str(tiny_model))


def test_an_adapter_over_4_bits_stays_beside_them(tiny_model: Path, tmp_path: Path) -> None:
    from peft import LoraConfig, PeftModel, get_peft_model
    from transformers import AutoModelForCausalLM

    base = quantised(tmp_path / "base", tiny_model, **NF4)
    settings = LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM")
    opened = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    get_peft_model(opened, settings).save_pretrained(str(tmp_path / "adapter"))
    expected = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), str(tmp_path / "adapter")
    )
    keep_precision(expected)
    loaded = load_model(str(tmp_path / "adapter"), "float32", "cpu")
    assert torch.allclose(logits(loaded), logits(expected.eval()), atol=1e-5)
    scores = [float(score) for group in CompletionScorer(loaded).score(GROUPS) for score in group]
    assert scores == pytest.approx(scores_one_by_one(loaded), abs=1e-3)


def test_rows_that_outliers_would_mix_are_not_batched(tiny_model: Path, tmp_path: Path) -> None:
    loaded = load_model(str(quantised(tmp_path / "int8", tiny_model, load_in_8bit=True)), "float32", "cpu")
    assert "outlier" in str(CompletionScorer(loaded).why_not_packed)
    assert "outlier" in str(find_batching(loaded).rows)


def test_what_bits_cannot_do_is_refused_in_one_line(data: Data, tiny_model: Path, tmp_path: Path) -> None:
    from icr_platform.training import stage
    from icr_platform.training.config import TrainConfig

    policy = quantised(tmp_path / "policy", tiny_model, **NF4)
    common = {"preferences": str(data.preferences), "device": "cpu"}
    for values in ({"policy": str(policy)}, {"policy": str(tiny_model), "quantization": "nf4"}):
        with pytest.raises(InputError, match="--lora-rank 16"):
            stage.read(TrainConfig.model_validate(common | values))
    with pytest.raises(InputError, match=r"is quantised already, by bitsandbytes.*leave --quantization out"):
        check_weights(str(policy), quantization="nf4")
    settings = SamplingSettings(sampler="server", server_url="http://localhost:1/v1", quantization="nf4")
    with pytest.raises(InputError, match="'quantization' is 'nf4', and the endpoint decides"):
        server_sampler.check(settings, str(tiny_model), None)  # type: ignore[arg-type]


def test_without_bitsandbytes_the_setting_is_refused_before_work(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "transformers.quantizers.quantizer_bnb_4bit.is_bitsandbytes_available", lambda: False, raising=False
    )
    with pytest.raises(InputError, match=r"weights in nf4 could not be loaded .*install"):
        check_weights(str(tiny_model), quantization="nf4")


@pytest.mark.parametrize(("family", "reached"), [("Mixtral", True), ("GptOss", False)])
def test_lora_reaches_the_fused_experts_of_a_mixture_or_says_that_it_does_not(
    family: str, reached: bool, data: Data, tmp_path: Path
) -> None:
    import json

    import transformers

    from tests.benchmarks.bench_architectures import save

    kind, config = getattr(transformers, f"{family}ForCausalLM"), getattr(transformers, f"{family}Config")
    policy = save(tmp_path / "policy", kind, config, 1)
    checkpoint = through(policy, policy, data, tmp_path, lora_rank=2)
    before, after = (load_model(str(model), "float32", "cpu").state_dict() for model in (policy, checkpoint))
    moved = {name for name, tensor in before.items() if not torch.equal(tensor, after[name])}
    assert any("self_attn" in name for name in moved)
    assert any(name.endswith("experts.gate_up_proj") for name in moved) is reached
    notes = [one for one in json.loads((checkpoint / "manifest.json").read_text())["extra"]["notes"] if "LoRA" in one]
    assert len(notes) == (0 if reached else 1)
    assert reached or "fused into tensors that it does not reach" in notes[0]


def test_adapters_on_fused_experts_are_merged_into_them() -> None:
    from peft import get_peft_model
    from transformers import MixtralConfig, MixtralForCausalLM

    from icr_platform.models.adapters import adapters_alone, merge_trained, new_adapters
    from icr_platform.models.small_copy import build_random, small_config

    small = small_config(MixtralConfig())
    wrapped = get_peft_model(build_random(MixtralForCausalLM, small), new_adapters(2, 4.0))
    for name, parameter in wrapped.named_parameters():
        if ".lora_" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    merged, moved = merge_trained(
        build_random(MixtralForCausalLM, small), new_adapters(2, 4.0), adapters_alone(wrapped, wrapped.state_dict())
    )
    assert moved
    assert torch.allclose(logits(merged), logits(wrapped.eval()), atol=1e-4)
