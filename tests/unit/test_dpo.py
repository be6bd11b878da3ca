"""The training objective and its gradients against computations done by hand, on a tiny Llama in float32."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from icr_platform.artifacts import open_artifact
from icr_platform.chat import encode_prompt
from icr_platform.config import TrainConfig
from icr_platform.models import load_model, load_tokenizer
from icr_platform.schemas import PREFERENCES
from icr_platform.training.dataset import TrainingPairs, load_pairs
from icr_platform.training.dpo import PairTrainer, build_trainer
from icr_platform.training.reference import score_pairs
from icr_platform.training.weights import load_trainable, write_model


@pytest.fixture(scope="module")
def pairs(
    tiny_model: Path, make_preferences: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> TrainingPairs:
    folder = make_preferences(tmp_path_factory.mktemp("dpo") / "preferences", tiny_model, 12)
    return load_pairs(open_artifact(folder, PREFERENCES), load_tokenizer(str(tiny_model)), 4096)


def config_for(models: tuple[Path, Path], **changes: Any) -> TrainConfig:
    values: dict[str, Any] = {"policy": str(models[0]), "reference": str(models[1]), "dpo_reference": "initial",
                              "preferences": "-", "device": "cpu", "batch_size": 4, "accumulation": 1}  # fmt: skip
    return TrainConfig.model_validate(values | changes)


def naive_token_logprobs(model: Any, prompt: list[int], completion: list[int]) -> torch.Tensor:
    """[len(completion)] nats, one unpadded sequence at a time, full log-softmax."""
    logits = model(torch.tensor([[*prompt, *completion]])).logits[0].double().log_softmax(-1)
    return torch.stack([logits[len(prompt) - 1 + i, token] for i, token in enumerate(completion)])


def first_batch(trainer: PairTrainer, size: int) -> dict[str, torch.Tensor]:
    batch: dict[str, torch.Tensor] = trainer.data_collator([trainer.train_dataset[i] for i in range(size)])
    return batch


def test_sampled_ids_are_trained_on_as_they_are(
    tiny_models: tuple[Path, Path], pairs: TrainingPairs, tmp_path: Path
) -> None:
    trainer = build_trainer(config_for(tiny_models), pairs, np.zeros((len(pairs), 2)), tmp_path)
    batch = first_batch(trainer, 4)
    for row in range(8):
        response = (pairs.chosen_ids if row < 4 else pairs.rejected_ids)[row % 4]
        sequence = [*pairs.prompt_ids[row % 4], *response]
        assert batch["input_ids"][row, : len(sequence)].tolist() == sequence
        assert batch["completion_mask"][row].nonzero().flatten().tolist() == list(
            range(len(pairs.prompt_ids[row % 4]), len(sequence))
        )


@pytest.mark.parametrize("gamma", [0.0, 0.7])
def test_loss_of_a_step_is_dpo_plus_gamma_times_the_mean_token_likelihood(
    tiny_models: tuple[Path, Path], pairs: TrainingPairs, tmp_path: Path, gamma: float
) -> None:
    policy, reference = (load_model(str(path), "float32", "cpu") for path in tiny_models)
    margins, chosen_tokens = [], []
    with torch.no_grad():
        for i in range(4):
            ids = (pairs.prompt_ids[i], pairs.chosen_ids[i], pairs.rejected_ids[i])
            prompt, chosen, rejected = (list(part) for part in ids)
            ours = [naive_token_logprobs(policy, prompt, part) for part in (chosen, rejected)]
            theirs = [naive_token_logprobs(reference, prompt, part) for part in (chosen, rejected)]
            margins.append((ours[0].sum() - theirs[0].sum()) - (ours[1].sum() - theirs[1].sum()))
            chosen_tokens.append(ours[0])
    dpo = -torch.nn.functional.logsigmoid(0.3 * torch.stack(margins)).mean()
    likelihood = -torch.cat(chosen_tokens).mean()  # over tokens, not over responses

    trainer = build_trainer(config_for(tiny_models, beta=0.3, gamma=gamma), pairs, None, tmp_path)
    seen = trainer.compute_loss(trainer.model, first_batch(trainer, 4))
    assert float(seen.detach()) == pytest.approx(float(dpo + gamma * likelihood), abs=1e-5)


def gradients(trainer: PairTrainer, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    trainer.compute_loss(trainer.model, batch).backward()
    return {name: p.grad for name, p in trainer.model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("reference", ["initial", "policy"])
def test_gradients_with_our_reference_logprobs_equal_trls_own(
    tiny_models: tuple[Path, Path], pairs: TrainingPairs, tmp_path: Path, reference: str
) -> None:
    config = config_for(tiny_models, dpo_reference=reference)
    model = load_trainable(config.reference if reference == "initial" else config.policy, config)
    ours = build_trainer(config, pairs, score_pairs(config, pairs, model), tmp_path / "ours")
    theirs = build_trainer(config, pairs, None, tmp_path / "theirs")
    seen, expected = gradients(ours, first_batch(ours, 4)), gradients(theirs, first_batch(theirs, 4))
    assert seen.keys() == expected.keys()
    worst = max(float((seen[name] - expected[name]).abs().max()) for name in expected)
    assert max(float(gradient.abs().max()) for gradient in expected.values()) > 1e-2
    assert worst < 1e-5


def test_merged_lora_model_equals_the_adapted_one(
    tiny_models: tuple[Path, Path], pairs: TrainingPairs, tmp_path: Path
) -> None:
    from peft import get_peft_model_state_dict

    config = config_for(tiny_models, lora_rank=3, lora_alpha=12.0, dpo_reference="policy")
    trainer = build_trainer(config, pairs, None, tmp_path / "work")
    with torch.no_grad():
        for name, parameter in trainer.model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    write_model(config, get_peft_model_state_dict(trainer.model), tmp_path / "model")
    ids = torch.tensor([[*pairs.prompt_ids[0], *pairs.chosen_ids[0]]])
    with torch.no_grad():
        adapted = trainer.model(ids).logits
        merged = load_model(str(tmp_path / "model"), "float32", "cpu")(ids).logits
        before = load_model(config.policy, "float32", "cpu")(ids).logits
    assert float((merged - adapted).abs().max()) < 1e-4
    assert float((merged - before).abs().max()) > 0.1


def test_written_model_keeps_the_policys_configs_and_dtype(
    tiny_model: Path, pairs: TrainingPairs, tmp_path: Path
) -> None:
    policy = tmp_path / "policy"
    model = load_model(str(tiny_model), "bfloat16", "cpu")
    model.config.pad_token_id = model.generation_config.pad_token_id = None
    model.save_pretrained(policy)
    tokenizer = load_tokenizer(str(tiny_model))
    tokenizer.pad_token = None  # TRL takes <|im_end|> then, which must not become padding in the checkpoint
    tokenizer.save_pretrained(policy)
    config = config_for((policy, policy), dpo_reference="policy")
    trainer = build_trainer(config, pairs, np.zeros((len(pairs), 2)), tmp_path / "work")
    assert trainer.model.config.pad_token_id is not None
    assert trainer.model.dtype == torch.float32
    write_model(config, trainer.model.state_dict(), tmp_path / "model")
    for name in ("config.json", "generation_config.json", "tokenizer_config.json", "chat_template.jinja"):
        assert (tmp_path / "model" / name).read_text() == (policy / name).read_text()
    before, after = (load_model(str(path), "auto", "cpu").state_dict() for path in (policy, tmp_path / "model"))
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_mixed_precision_training_leaves_none_behind(
    tiny_models: tuple[Path, Path], pairs: TrainingPairs, tmp_path: Path
) -> None:
    reference = np.zeros((len(pairs), 2))
    mixed = build_trainer(config_for(tiny_models, dtype="bfloat16"), pairs, reference, tmp_path / "mixed")
    assert mixed.accelerator.mixed_precision == "bf16"
    assert next(mixed.model.parameters()).dtype == torch.float32
    whole = build_trainer(config_for(tiny_models, dtype="float32"), pairs, reference, tmp_path / "whole")
    assert whole.accelerator.mixed_precision == "no"


def test_long_pairs_are_left_out_whole_and_counted(
    tiny_model: Path, make_preferences: Callable[..., Path], tmp_path: Path
) -> None:
    preferences = open_artifact(make_preferences(tmp_path / "preferences", tiny_model, 12), PREFERENCES)
    tokenizer = load_tokenizer(str(tiny_model))
    rows = preferences.read().to_pylist()
    lengths = [
        len(encode_prompt(tokenizer, row["instruction"]))
        + max(len(row["chosen_token_ids"]), len(row["rejected_token_ids"]))
        for row in rows
    ]
    limit = sorted(lengths)[5]
    pairs = load_pairs(preferences, tokenizer, limit)
    kept = [row for row, length in zip(rows, lengths, strict=True) if length <= limit]
    assert list(pairs.chosen_ids) == [row["chosen_token_ids"] for row in kept]
    assert len(pairs) + sum(pairs.left_out.values()) == len(rows)
