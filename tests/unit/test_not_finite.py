"""A model whose outputs are NaN is found at its first batch by every engine; one text that overflows is one row that is dropped."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from icr_platform.core.errors import IcrError
from icr_platform.core.faults import NOT_FINITE, UNKNOWN_TOKEN
from icr_platform.engines.judging.local_judge import LocalJudge
from icr_platform.engines.judging.pairwise import Pair, Template
from icr_platform.engines.sampling.sampler import Dropped, Request
from icr_platform.engines.sampling.settings import SamplingSettings
from icr_platform.engines.sampling.transformers_sampler import TransformersSampler
from icr_platform.engines.scoring.logprobs import CompletionScorer, Group
from icr_platform.models.chat import encode_prompt
from icr_platform.models.loading import load_model, load_tokenizer

EMBEDDING, NORM = "model.embed_tokens.weight", "model.norm.weight"
FRUIT, RED = "Name a fruit.", "What is red?"


def broken(folder: Path, where: Path, name: str, change: Callable[[torch.Tensor], object]) -> str:
    """A copy of a model, one of whose tensors is changed."""
    copied = Path(shutil.copytree(folder, where))
    tensors = load_file(copied / "model.safetensors")
    change(tensors[name])
    save_file(tensors, copied / "model.safetensors", metadata={"format": "pt"})
    return str(copied)


def nan(tensor: torch.Tensor) -> None:
    tensor.fill_(float("nan"))


def sampler(model: str, **settings: Any) -> TransformersSampler:
    tokenizer = load_tokenizer(model)
    return TransformersSampler(
        load_model(model, "float32", "cpu"), tokenizer, SamplingSettings(max_tokens=4, **settings), ()
    )


def judge(model: str) -> LocalJudge:
    template = Template((("user", "{instruction}\nm: {output_m}\nM: {output_M}"),))
    return LocalJudge(model, template, True, 0, "float32", "cpu", 0.0)


def sampled(model: str) -> object:
    return sampler(model).sample([Request("en", "p0", FRUIT), Request("en", "p1", RED)], 2, seed=0)


def scored(model: str) -> object:
    return CompletionScorer(load_model(model, "float32", "cpu")).score([Group([5, 6], [[7, 8], [9]])])


def judged(model: str) -> object:
    return list(judge(model).judge([[Pair("en", "p0", 0, FRUIT, "An apple.", "A horse.")]]))


ENGINES = pytest.mark.parametrize("engine", [sampled, scored, judged])


@ENGINES
def test_broken_weights_are_named(engine: Callable[[str], object], tiny_model: Path, tmp_path: Path) -> None:
    engine(str(tiny_model))
    model = broken(tiny_model, tmp_path / "model", NORM, nan)
    with pytest.raises(IcrError, match=rf"{model}: its logits .* its weights are not either, such as {NORM}; fetch"):
        engine(model)


@ENGINES
def test_weights_that_overflow_are_told_from_broken_ones(
    engine: Callable[[str], object], tiny_model: Path, tmp_path: Path
) -> None:
    model = broken(tiny_model, tmp_path / "model", NORM, lambda tensor: tensor.fill_(3e38))
    with pytest.raises(IcrError, match="not finite numbers in float32, though its weights are"):
        engine(model)


def test_float16_is_named_where_it_overflows(tiny_model: Path, tmp_path: Path) -> None:
    model = broken(tiny_model, tmp_path / "model", NORM, lambda tensor: tensor.fill_(6e4))
    groups = [Group([5, 6], [[7, 8], [9]])]
    assert np.isfinite(np.concatenate(CompletionScorer(load_model(model, "float32", "cpu")).score(groups))).all()
    with pytest.raises(IcrError, match="overflow in float16, though its weights are; give --dtype bfloat16 or float32"):
        CompletionScorer(load_model(model, "float16", "cpu")).score(groups)


def only_in(text: str, other: str, model: Path) -> int:
    """A token of the prompt of one text that is not in that of another."""
    tokenizer = load_tokenizer(str(model))
    return next(iter(set(encode_prompt(tokenizer, text)) - set(encode_prompt(tokenizer, other))))


def test_one_prompt_that_overflows_is_dropped(tiny_model: Path, tmp_path: Path) -> None:
    token = only_in(RED, FRUIT, tiny_model)
    model = broken(tiny_model, tmp_path / "model", EMBEDDING, lambda tensor: nan(tensor[token]))
    told: list[int] = []
    alone = sampler(str(tiny_model)).sample([Request("en", "p0", FRUIT)], 2, seed=0)
    requests = [Request("en", "p0", FRUIT), Request("en", "p1", RED)]
    # The head is tied to the embedding: the token has no finite logit, so that it is given another row.
    one = sampler(model)
    one.model.set_output_embeddings(torch.nn.Linear(64, 400, bias=False))
    one.model.get_output_embeddings().weight = (
        load_model(str(tiny_model), "float32", "cpu").get_output_embeddings().weight
    )
    fine, dropped = one.sample(requests, 2, seed=0, advance=lambda rows, tokens: told.append(rows))
    assert fine == alone[0]
    assert isinstance(dropped, Dropped)
    assert dropped.reason == NOT_FINITE
    assert sum(told) == 2


def test_a_token_without_an_embedding_is_one_row(tiny_model: Path) -> None:
    scorer = CompletionScorer(load_model(str(tiny_model), "float32", "cpu"))
    [[expected]] = scorer.score([Group([5, 6], [[7, 8]])])
    groups = [Group([5, 6], [[7, 8], [7, 400]]), Group([5, 401], [[7]])]
    (first, second), (third,) = scorer.score(groups)
    assert first == pytest.approx(expected, abs=1e-5)
    assert np.isnan([second, third]).all()

    sampling = sampler(str(tiny_model))
    sampling.embeddings = only_in(RED, FRUIT, tiny_model)
    found = sampling.sample([Request("en", "p1", RED)], 2, seed=0)
    assert isinstance(found[0], Dropped)
    assert found[0].reason == UNKNOWN_TOKEN


def test_a_row_that_overflows_after_others_worked_stays_a_row(tiny_model: Path) -> None:
    scorer = CompletionScorer(load_model(str(tiny_model), "float32", "cpu"))
    scorer.score([Group([5, 6], [[7, 8]])])
    with torch.no_grad():
        embeddings = scorer.model.get_input_embeddings()
        assert isinstance(embeddings, torch.nn.Embedding)
        embeddings.weight[30] = float("inf")
    ((found,),) = scorer.score([Group([5, 30], [[7]])])
    assert np.isnan(found)
