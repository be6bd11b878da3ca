"""A LoRA adapter's folder wherever a model is named: loaded, scored, sampled from and trained on as the model it makes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM

from icr_platform.core.errors import InputError
from icr_platform.core.stage_protocol import StageContext
from icr_platform.engines.sampling.choice import make_sampler
from icr_platform.engines.sampling.sampler import Request
from icr_platform.engines.sampling.settings import SamplingSettings
from icr_platform.models.adapters import read_adapter
from icr_platform.models.loading import (
    check_same_tokenisation,
    generation_eos,
    load_model,
    load_tokenizer,
    parameter_count,
)
from icr_platform.models.model_identity import model_identity
from icr_platform.training.config import TrainConfig
from tests.support.answers import answers


@pytest.fixture
def adapter(tiny_model: Path, tmp_path: Path) -> Path:
    """LoRA weights that change what the tiny model says, beside a copy of it."""
    base = shutil.copytree(tiny_model, tmp_path / "base")
    torch.manual_seed(0)
    settings = LoraConfig(
        r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False,
        rank_pattern={"q_proj": 6},
    )  # fmt: skip
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), settings)
    model.save_pretrained(str(tmp_path / "adapter"))
    return tmp_path / "adapter"


@torch.inference_mode()
def test_it_is_the_model_that_base_and_adapter_make(adapter: Path) -> None:
    base = str(adapter.parent / "base")
    ids = torch.arange(3, 40)[None]
    expected = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), str(adapter))(ids).logits
    loaded = load_model(str(adapter), "float32", "cpu")
    assert torch.allclose(loaded(ids).logits, expected, atol=1e-4)
    assert not torch.allclose(load_model(base, "float32", "cpu")(ids).logits, expected, atol=0.1)
    assert not any("lora" in name for name, _ in loaded.named_modules()), "a plain model, as fast as any"
    assert load_model(str(adapter), "bfloat16", "cpu").dtype == torch.bfloat16
    found = read_adapter(str(adapter))
    assert found is not None
    assert (found.base, found.rank) == (base, 6)
    assert read_adapter(base) is None


def test_its_tokenizer_and_configuration_are_its_base_models(adapter: Path) -> None:
    base = str(adapter.parent / "base")
    check_same_tokenisation(str(adapter), base)
    assert generation_eos(str(adapter)) == generation_eos(base)
    assert parameter_count(str(adapter)) == parameter_count(base)
    tokenizer = load_tokenizer(base)
    tokenizer.chat_template = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
    tokenizer.save_pretrained(adapter)
    with pytest.raises(InputError, match="chat_template"):
        check_same_tokenisation(str(adapter), base)  # its own tokenizer, once it has one


def test_its_identity_is_that_of_both(adapter: Path) -> None:
    base = adapter.parent / "base"
    identities = {model_identity(str(adapter)), model_identity(str(base))}
    (base / "config.json").write_text((base / "config.json").read_text().replace("10000", "10001"))
    identities.add(model_identity(str(adapter)))
    change(adapter, lora_alpha=9)
    identities.add(model_identity(str(adapter)))
    assert len(identities) == 4
    moved = base.rename(base.with_name("moved"))
    change(adapter, base_model_name_or_path=str(moved))
    assert model_identity(str(adapter)) in identities, "where its base lies does not count"


def test_its_base_may_be_named_from_its_own_folder(adapter: Path) -> None:
    change(adapter, base_model_name_or_path="../base")
    samples = answers(
        make_sampler(SamplingSettings(max_tokens=5), str(adapter)).sample([Request("en", "p0", "Hi")], 2, 0)
    )
    assert len(samples[0]) == 2


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"base_model_name_or_path": "/nowhere"}, r"adapter_config.json: field 'base_model_name_or_path' '/nowhere': no such"),
        ({"base_model_name_or_path": None}, r"adapter_config.json: fields 'peft_type' 'LORA' and 'base_model_name_or_path' None"),
        ({"peft_type": "IA3"}, r"fields 'peft_type' 'IA3'.*give a LoRA adapter"),
    ],
)  # fmt: skip
def test_what_it_lacks_is_named(adapter: Path, values: dict[str, object], message: str) -> None:
    change(adapter, **values)
    with pytest.raises(InputError, match=message):
        load_tokenizer(str(adapter))


def test_an_adapter_that_does_not_fit_its_base_is_bad_input(adapter: Path) -> None:
    change(adapter, r=8)
    with pytest.raises(
        InputError, match=r"adapter: the adapter does not fit .*base \(.*give the model it was made for"
    ):
        load_model(str(adapter))


def test_training_goes_on_from_it(adapter: Path, make_preferences: Callable[..., Path], tmp_path: Path) -> None:
    from icr_platform.training.stage import read, run

    preferences = make_preferences(tmp_path / "preferences", adapter.parent / "base", count=6)
    for rank in (0, 4):
        config = TrainConfig(
            policy=str(adapter), preferences=str(preferences), device="cpu", accumulation=1, learning_rate=1e-9,
            lora_rank=rank,
        )  # fmt: skip
        trained = run(read(config), StageContext(tmp_path / f"out{rank}", "f")).artifacts["checkpoint"]
        ids = torch.arange(3, 40)[None]
        with torch.inference_mode():
            after = load_model(str(trained), "float32", "cpu")(ids).logits
            before = load_model(str(adapter), "float32", "cpu")(ids).logits
        assert torch.allclose(after, before, atol=1e-3)


def change(adapter: Path, **values: object) -> None:
    path = adapter / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))
