"""Predictions against counts made the long way round."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from icr_platform.capacity import DEVICES, Prompts, Rates, model_shape, rates_on_paper, seconds_of, works
from icr_platform.config import IterateConfig
from icr_platform.models import load_config, parameter_count


@pytest.mark.parametrize("tied", [True, False])
def test_matmul_parameters_are_what_a_token_is_multiplied_by(
    make_tiny_model: Callable[..., Path], tmp_path: Path, tied: bool
) -> None:
    model = make_tiny_model(tmp_path / "model")
    config = load_config(str(model))
    config.tie_word_embeddings = tied
    config.save_pretrained(model)
    loaded = AutoModelForCausalLM.from_config(config).eval()  # untied, it has a head that the tied one's files lack
    multiplied = sum(m.weight.numel() for m in loaded.modules() if isinstance(m, torch.nn.Linear))
    norms = sum(p.numel() for p in loaded.parameters() if p.dim() == 1)
    shape = model_shape(config, parameter_count(str(model)))
    assert shape.matmul == multiplied + norms
    cache = loaded(torch.tensor([[1, 2, 3]]), use_cache=True).past_key_values
    kept = sum(layer.keys.numel() + layer.values.numel() for layer in cache.layers)
    assert kept == 3 * shape.layers * shape.key_value


def test_tokens_are_counted_stage_by_stage() -> None:
    config = IterateConfig.model_validate(
        {"generate": {"samples": 4, "max_tokens": 50}, "eval": {"max_tokens": 7, "judge": "openai"}}
    )
    generate, annotate, train, evaluate = works(config, Prompts(10, 5.0), Prompts(3, 6.0), None)
    assert generate.tokens == 10 * 4 * 50
    assert annotate.tokens == 2 * (10 * 4 * 50 + 10 * 5)  # two models; a prompt's samples share its computation
    assert (train.scored, train.trained) == (2 * 10 * 55, 2 * 10 * 55)
    assert (evaluate.decoded, evaluate.requests) == (3 * 7, 3 * 2)
    assert works(config, Prompts(10, 5.0), None, 20)[0].tokens == 10 * 4 * 20
    assert works(config, Prompts(10, 5.0), None, 80)[0].tokens == generate.tokens  # no response is longer than allowed


def test_time_falls_with_devices_and_faster_ones() -> None:
    work = works(IterateConfig(), Prompts(100, 50.0), None, 300)[0]
    rates = Rates(decode=1000.0, score=1.0, train=1.0)
    assert seconds_of(work, rates, 1, 1) == pytest.approx(work.decoded / 1000)
    assert seconds_of(work, rates, 4, 1) == pytest.approx(work.decoded / 4000)


def test_rates_on_paper_stay_below_the_data_sheet(make_tiny_model: Callable[..., Path], tmp_path: Path) -> None:
    model = make_tiny_model(tmp_path / "model")
    shape = model_shape(load_config(str(model)), parameter_count(str(model)))
    for device in DEVICES.values():
        rates = rates_on_paper(shape, device, 300, checkpointing=True)
        assert rates.decode < device.bandwidth / (2 * shape.parameters) * 256
        assert rates.train < rates.score < device.flops / (2 * shape.matmul)
