"""The training objective and its gradients against computations done by hand, on a tiny Llama in float32."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from accelerate.data_loader import BatchSamplerShard
from safetensors import safe_open
from torch._inductor.exc import InductorError
from torch.utils.data import BatchSampler, SequentialSampler

from icr_platform.core.artifacts import ArtifactWriter, open_artifact
from icr_platform.core.errors import IcrError, InputError
from icr_platform.core.schemas import PREFERENCES
from icr_platform.core.stage_protocol import ignore_metrics
from icr_platform.engines.scoring.cpu_linear import has_onednn
from icr_platform.models.chat import encode_prompt
from icr_platform.models.devices import NOT_COMPILED
from icr_platform.models.loading import load_model, load_tokenizer
from icr_platform.training.config import TrainConfig
from icr_platform.training.curve import Curve
from icr_platform.training.dataset import TrainingPairs, check_pairs, load_pairs
from icr_platform.training.dpo import PairTrainer, build_trainer, train
from icr_platform.training.margins import sampled
from icr_platform.training.reference_logprobs import score_pairs
from icr_platform.training.trainer import _compile_layers, _gathered_state, rate_shares
from icr_platform.training.weights import load_trainable, save_model, trained_model


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


def model_of(trainer: PairTrainer) -> Any:
    """The model that is trained; the base class also allows None."""
    assert trainer.model is not None
    return trainer.model


def first_batch(trainer: PairTrainer, size: int) -> dict[str, torch.Tensor]:
    rows: Any = trainer.train_dataset
    batch: dict[str, torch.Tensor] = trainer.data_collator([rows[i] for i in range(size)])
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


def loss_by_hand(policy: Any, reference: Any, pairs: TrainingPairs, rows: range, config: TrainConfig) -> torch.Tensor:
    """Mean over pairs of the DPO term plus gamma times the likelihood, one unpadded sequence at a time."""
    per_pair, chosen_tokens = [], []
    for i in rows:
        prompt, chosen, rejected = (list(ids[i]) for ids in (pairs.prompt_ids, pairs.chosen_ids, pairs.rejected_ids))
        ours = [naive_token_logprobs(policy, prompt, part) for part in (chosen, rejected)]
        with torch.no_grad():
            theirs = [naive_token_logprobs(reference, prompt, part).sum() for part in (chosen, rejected)]
        margin = (ours[0].sum() - theirs[0]) - (ours[1].sum() - theirs[1])
        likelihood = -ours[0].mean() if config.likelihood == "pairs" else 0.0
        per_pair.append(-torch.nn.functional.logsigmoid(config.beta * margin) + config.gamma * likelihood)
        chosen_tokens.append(ours[0])
    loss = torch.stack(per_pair).mean()
    return loss - config.gamma * torch.cat(chosen_tokens).mean() if config.likelihood == "tokens" else loss


@pytest.mark.parametrize("likelihood", ["pairs", "tokens"])
@pytest.mark.parametrize("gamma", [0.0, 0.7])
def test_loss_of_a_batch_is_dpo_plus_gamma_times_the_likelihood(
    tiny_models: tuple[Path, Path], pairs: TrainingPairs, tmp_path: Path, gamma: float, likelihood: str
) -> None:
    config = config_for(tiny_models, beta=0.3, gamma=gamma, likelihood=likelihood)
    policy, reference = (load_model(str(path), "float32", "cpu") for path in tiny_models)
    expected = loss_by_hand(policy, reference, pairs, range(4), config)
    trainer = build_trainer(config, pairs, None, tmp_path)
    seen = trainer.compute_loss(trainer.model, first_batch(trainer, 4))
    assert float(seen.detach()) == pytest.approx(float(expected.detach()), abs=1e-5)


@pytest.fixture(scope="module")
def mixture(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny mixture of experts whose config asks for its router's loss, as Mixtral's users leave it."""
    from transformers import MixtralConfig, MixtralForCausalLM

    folder = tmp_path_factory.mktemp("mixture")
    tokenizer = load_tokenizer(str(tiny_model))
    torch.manual_seed(0)
    config = MixtralConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, num_local_experts=4, num_experts_per_tok=2, router_aux_loss_coef=0.5, initializer_range=0.1,
        bos_token_id=None, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
        output_router_logits=True,
    )  # fmt: skip
    MixtralForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def gradients_of_the_first_step(config: TrainConfig, pairs: TrainingPairs, work: Path) -> dict[str, torch.Tensor]:
    """What the optimizer is given, before it is clipped."""
    seen: dict[str, torch.Tensor] = {}
    trainer = build_trainer(config, pairs, None, work)
    trainer._clip_grad_norm = lambda model: seen.update(  # type: ignore[method-assign]
        {name: p.grad.clone() for name, p in model.named_parameters() if not seen and p.grad is not None}
    )
    trainer.train()
    return seen


@pytest.mark.parametrize("kind", ["dense", "mixture of experts"])
def test_the_gradient_of_a_step_does_not_know_how_its_pairs_were_batched(
    tiny_models: tuple[Path, Path], mixture: Path, pairs: TrainingPairs, tmp_path: Path, kind: str
) -> None:
    """Eleven pairs of different lengths: the last batch, or the last accumulation, is an incomplete one."""
    eleven = TrainingPairs(
        pairs.languages[:11], pairs.prompt_ids[:11], pairs.chosen_ids[:11], pairs.rejected_ids[:11], {}
    )
    assert len({len(ids) for ids in eleven.chosen_ids}) > 3
    models = tiny_models if kind == "dense" else (mixture, mixture)
    policy, reference = (load_model(str(path), "float32", "cpu").double() for path in models)
    for model in (policy, reference):
        model.config.output_router_logits = False  # our loss does not depend on which of its losses a model reports
        model.set_experts_implementation("eager")  # the grouped one has no float64
    config = config_for(models, beta=0.3, gamma=0.7)
    loss_by_hand(policy, reference, eleven, range(11), config).backward()
    expected = {name: p.grad for name, p in policy.named_parameters() if p.grad is not None}
    scale = max(float(gradient.abs().max()) for gradient in expected.values())
    for batch_size, accumulation in ((1, 16), (2, 8), (4, 4), (16, 1)):
        batched = config.model_copy(update={"batch_size": batch_size, "accumulation": accumulation})
        seen = gradients_of_the_first_step(batched, eleven, tmp_path / f"{batch_size}")
        assert seen.keys() == expected.keys()
        worst = max(float((seen[name] - expected[name]).abs().max()) for name in expected)
        assert worst < 2e-6 * scale, f"batch_size {batch_size}, accumulation {accumulation}"


def gradients(trainer: PairTrainer, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    trainer.compute_loss(trainer.model, batch).backward()
    return {name: p.grad for name, p in model_of(trainer).named_parameters() if p.grad is not None}


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


@pytest.mark.skipif(not has_onednn(), reason="torch has no oneDNN for this machine")
@pytest.mark.parametrize("changes", [{}, {"lora_rank": 2}, {"gradient_checkpointing": True}], ids=str)
def test_onednn_has_the_gradients_of_torchs_own_products(
    tiny_models: tuple[Path, Path], pairs: TrainingPairs, tmp_path: Path, changes: dict[str, Any]
) -> None:
    """Of layers, embeddings and head, with the reference in the step; and what it multiplies is oneDNN's."""
    found = []
    for library in ("torch", "onednn"):
        config = config_for(tiny_models, **changes, cpu_library=library)
        trainer = build_trainer(config, pairs, None, tmp_path / library)
        batch = first_batch(trainer, 4)
        with torch.profiler.profile() as profile:
            found.append(gradients(trainer, batch))
        kernels = {event.key for event in profile.key_averages()}
        assert ("mkldnn::_linear_pointwise" in kernels) == (library == "onednn")
    theirs, ours = found
    assert theirs.keys() == ours.keys()
    scale = max(float(gradient.abs().max()) for gradient in theirs.values())
    for name, gradient in theirs.items():
        assert float((ours[name] - gradient).abs().max()) < 1e-5 * scale, name


def test_merged_lora_model_equals_the_adapted_one(
    tiny_models: tuple[Path, Path], pairs: TrainingPairs, tmp_path: Path
) -> None:
    from peft import get_peft_model_state_dict

    config = config_for(tiny_models, lora_rank=3, lora_alpha=12.0, dpo_reference="policy")
    trainer = build_trainer(config, pairs, None, tmp_path / "work")
    with torch.no_grad():
        for name, parameter in model_of(trainer).named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    save_model(config, trained_model(config, get_peft_model_state_dict(trainer.model), []), tmp_path / "model")
    ids = torch.tensor([[*pairs.prompt_ids[0], *pairs.chosen_ids[0]]])
    with torch.no_grad():
        adapted = model_of(trainer)(ids).logits
        merged = load_model(str(tmp_path / "model"), "float32", "cpu")(ids).logits
        before = load_model(config.policy, "float32", "cpu")(ids).logits
    assert float((merged - adapted).abs().max()) < 1e-4
    assert float((merged - before).abs().max()) > 0.1


@pytest.mark.parametrize(("processes", "batch_size"), [(1, 4), (2, 1), (2, 4), (3, 2), (8, 4)])
def test_each_pair_of_a_step_weighs_the_same_in_however_many_processes(
    tiny_models: tuple[Path, Path], pairs: TrainingPairs, tmp_path: Path, processes: int, batch_size: int
) -> None:
    """Over accelerate's own division of the 12 pairs, which repeats pairs where they do not go round."""
    weights = [0.0] * len(pairs)
    sampler = BatchSampler(SequentialSampler(range(len(pairs))), batch_size, drop_last=False)
    for rank in range(processes):
        trainer = build_trainer(config_for(tiny_models, batch_size=batch_size), pairs, None, tmp_path)
        trainer.accelerator = SimpleNamespace(gradient_state=SimpleNamespace(end_of_dataloader=True))
        trainer.args = SimpleNamespace(
            per_device_train_batch_size=batch_size, world_size=processes, process_index=rank, device="cpu"
        )  # type: ignore[assignment]
        rows = list(BatchSamplerShard(sampler, processes, rank))
        batches = [{"input_ids": torch.zeros(2 * len(some), 3)} for some in rows]
        trainer.get_batch_samples(iter(batches), len(batches), torch.device("cpu"))
        for some, batch in zip(rows, batches, strict=True):
            for row, weight in zip(some, batch["pair_weight"].tolist(), strict=True):
                weights[row] += weight / len(batches) / processes  # what the trainer and the average over processes do
    assert weights == pytest.approx([1 / len(pairs)] * len(pairs))


def moved(model: Any) -> dict[str, torch.Tensor]:
    """Trained weights: one of them a step of training away, which bfloat16 does not show, the others where they were."""
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state["model.norm.weight"] += 1e-4
    return state


@pytest.mark.parametrize("save_dtype", ["trained", "stored"])
def test_written_model_keeps_the_policys_configs_but_for_the_dtype_it_has(
    tiny_model: Path, pairs: TrainingPairs, tmp_path: Path, save_dtype: str
) -> None:
    policy = tmp_path / "policy"
    model = load_model(str(tiny_model), "bfloat16", "cpu")
    model.config.pad_token_id = model.generation_config.pad_token_id = None
    model.save_pretrained(policy)
    tokenizer = load_tokenizer(str(tiny_model))
    tokenizer.pad_token = None  # TRL takes <|im_end|> then, which must not become padding in the checkpoint
    tokenizer.save_pretrained(policy)
    config = config_for((policy, policy), dpo_reference="policy", save_dtype=save_dtype)
    trainer = build_trainer(config, pairs, np.zeros((len(pairs), 2)), tmp_path / "work")
    assert model_of(trainer).config.pad_token_id is not None
    assert model_of(trainer).dtype == torch.float32
    state = moved(trainer.model)
    if save_dtype == "stored":
        state["model.norm.weight"][0] += 1.0
    save_model(config, trained_model(config, state, []), tmp_path / "model")
    held = "float32" if save_dtype == "trained" else "bfloat16"
    for name in ("config.json", "generation_config.json", "tokenizer_config.json", "chat_template.jinja"):
        expected = (policy / name).read_text()
        if name == "config.json":
            expected = expected.replace('"dtype": "bfloat16"', f'"dtype": "{held}"')
        assert (tmp_path / "model" / name).read_text() == expected
    with safe_open(tmp_path / "model" / "model.safetensors", "pt") as file:
        seen = {name: file.get_tensor(name) for name in state if name in set(file.keys())}  # tied ones are stored once
    assert {str(tensor.dtype) for tensor in seen.values()} == {f"torch.{held}"}
    assert all(torch.equal(tensor, state[name].to(tensor.dtype)) for name, tensor in seen.items())


def test_weights_that_did_not_move_are_an_error_with_the_reason(
    tiny_models: tuple[Path, Path], pairs: TrainingPairs, tmp_path: Path
) -> None:
    config = config_for(tiny_models, learning_rate=1e-12)
    state = load_model(config.policy, "float32", "cpu").state_dict()
    with pytest.raises(IcrError, match=r"2 steps changed no weight.*--learning-rate 1e-12 .*float32.*raise it"):
        trained_model(config, state, [{"step": 2, "train/grad_norm": 0.3}])
    with pytest.raises(IcrError, match=r"every gradient is 0.*give --gamma"):
        trained_model(config, state, [{"step": 2, "train/grad_norm": 0.0}])
    with pytest.raises(IcrError, match="overflow in float16"):
        trained_model(config, state, [{"step": 2, "train/grad_norm": float("inf")}])


@pytest.mark.parametrize("weight", [0.0, 1e-30])
def test_adapters_that_change_no_weight_are_an_error(
    tiny_models: tuple[Path, Path], pairs: TrainingPairs, tmp_path: Path, weight: float
) -> None:
    from peft import get_peft_model_state_dict

    config = config_for(tiny_models, lora_rank=2, dpo_reference="policy")
    trainer = build_trainer(config, pairs, None, tmp_path / "work")
    state = get_peft_model_state_dict(trainer.model)
    state = {name: torch.full_like(tensor, weight) if "lora_B" in name else tensor for name, tensor in state.items()}
    with pytest.raises(IcrError, match=r"changed no weight.*--lora-alpha"):
        trained_model(config, state, [{"step": 2, "train/grad_norm": 0.3}])


def test_changes_that_the_stored_precision_cannot_hold_are_an_error(tiny_model: Path, tmp_path: Path) -> None:
    policy = tmp_path / "policy"
    load_model(str(tiny_model), "bfloat16", "cpu").save_pretrained(policy)
    load_tokenizer(str(tiny_model)).save_pretrained(policy)
    config = config_for((policy, policy), save_dtype="stored")
    model = trained_model(config, moved(load_model(str(policy), "float32", "cpu")), [])
    with pytest.raises(IcrError, match=r"bfloat16.*--save-dtype trained"):
        save_model(config, model, tmp_path / "model")
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize("schedule", ["linear", "cosine", "constant"])
def test_no_step_has_rate_0_and_one_has_the_whole_rate(schedule: str) -> None:
    for steps in (1, 2, 3, 7, 100):
        for warmup in (0.0, 0.1, 0.5, 0.99):
            share = rate_shares(schedule, warmup, steps)
            shares = [share(step) for step in range(steps)]
            peak = shares.index(max(shares))
            assert min(shares) > 0
            assert max(shares) == 1.0
            assert peak == min(int(np.ceil(warmup * steps)), steps - 1)
            assert shares[: peak + 1] == sorted(shares[: peak + 1])
            assert shares[peak:] == sorted(shares[peak:], reverse=True)


def test_the_trainer_has_the_schedule_in_every_step(
    tiny_models: tuple[Path, Path], pairs: TrainingPairs, tmp_path: Path
) -> None:
    for count, accumulation in ((1, 32), (12, 32), (12, 2)):
        config = config_for(tiny_models, batch_size=1, accumulation=accumulation, learning_rate=1e-3)
        some = TrainingPairs(pairs.languages[:count], pairs.prompt_ids[:count], pairs.chosen_ids[:count],
                             pairs.rejected_ids[:count], {})  # fmt: skip
        curve = Curve(tmp_path / f"curve-{count}-{accumulation}", ignore_metrics)
        train(config, some, np.zeros((count, 2)), tmp_path / f"{count}-{accumulation}", curve)
        share = rate_shares("linear", 0.1, len(curve.rows))
        assert len(curve.rows) == -(-count // accumulation)
        assert [row["train/learning_rate"] for row in curve.rows] == pytest.approx(
            [1e-3 * share(step) for step in range(len(curve.rows))]
        )


def test_deepspeed_hands_over_the_weights_its_optimizer_steps_in(
    tiny_models: tuple[Path, Path], pairs: TrainingPairs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """accelerate gathers the bfloat16 copies; every name has its float32 weight, tied ones share theirs."""
    trainer: Any = build_trainer(config_for(tiny_models), pairs, None, tmp_path)
    exact = {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}
    fake = SimpleNamespace(safe_get_full_fp32_param=lambda parameter: parameter)
    monkeypatch.setitem(sys.modules, "deepspeed", SimpleNamespace(utils=fake))
    monkeypatch.setitem(sys.modules, "deepspeed.utils", fake)
    rounded = {name: tensor.bfloat16() for name, tensor in exact.items()}
    monkeypatch.setattr(trainer.accelerator, "get_state_dict", lambda _: rounded)
    monkeypatch.setattr(trainer.accelerator, "unwrap_model", lambda model: model)
    trainer.is_deepspeed_enabled, trainer.model_wrapped = True, trainer.model
    state = _gathered_state(trainer)
    assert state.keys() == exact.keys()
    assert all(torch.equal(state[name], exact[name]) for name in exact)
    assert state["lm_head.weight"] is state["model.embed_tokens.weight"]


def test_log_probabilities_stay_float32_where_deepspeed_casts_inputs(
    tiny_models: tuple[Path, Path], pairs: TrainingPairs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference = np.full((len(pairs), 2), -412.37)
    trainer = build_trainer(config_for(tiny_models), pairs, reference, tmp_path)
    cast = type(trainer)._prepare_input

    def as_deepspeed(self: Any, data: Any) -> Any:
        is_float = isinstance(data, torch.Tensor) and data.is_floating_point()
        return data.to(torch.bfloat16) if is_float else cast(self, data)

    monkeypatch.setattr(type(trainer), "_prepare_input", as_deepspeed)
    prepared = trainer._prepare_inputs(first_batch(trainer, 4))
    assert prepared["ref_chosen_logps"].tolist() == pytest.approx([-412.37] * 4, abs=1e-4)


def test_a_mixed_precision_training_leaves_none_behind(
    tiny_models: tuple[Path, Path], pairs: TrainingPairs, tmp_path: Path
) -> None:
    reference = np.zeros((len(pairs), 2))
    mixed = build_trainer(config_for(tiny_models, dtype="bfloat16"), pairs, reference, tmp_path / "mixed")
    assert mixed.accelerator.mixed_precision == "bf16"
    assert next(model_of(mixed).parameters()).dtype == torch.float32
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


def thoughtful(pairs: TrainingPairs) -> TrainingPairs:
    """Pairs whose responses begin with a thought of some tokens, or none."""
    chosen = [row % 3 for row in range(len(pairs))]
    rejected = [min(2 * (row % 2), len(ids) - 1) for row, ids in enumerate(pairs.rejected_ids)]
    return replace(pairs, chosen_starts=chosen, rejected_starts=rejected)


def test_thoughts_are_context_in_every_term_of_the_loss(
    tiny_models: tuple[Path, Path], pairs: TrainingPairs, tmp_path: Path
) -> None:
    """The mask, TRL's own reference, precomputed ones and the margins, against sums over the answer's tokens alone."""
    thinking, config = thoughtful(pairs), config_for(tiny_models, beta=0.3, gamma=0.7)
    policy, reference = (load_model(str(path), "float32", "cpu") for path in tiny_models)
    per_pair, theirs = [], []
    for i in range(4):
        sides = (
            (thinking.chosen_ids[i], thinking.chosen_starts[i]),
            (thinking.rejected_ids[i], thinking.rejected_starts[i]),
        )
        with torch.no_grad():
            ours, refs = (
                [naive_token_logprobs(model, list(pairs.prompt_ids[i]), list(ids))[start:] for ids, start in sides]
                for model in (policy, reference)
            )
        theirs.append([float(ref.sum()) for ref in refs])
        margin = (ours[0].sum() - refs[0].sum()) - (ours[1].sum() - refs[1].sum())
        per_pair.append(-torch.nn.functional.logsigmoid(0.3 * margin) - 0.7 * ours[0].mean())
    expected = float(torch.stack(per_pair).mean())

    scored = score_pairs(config, thinking, reference)
    np.testing.assert_allclose(scored[:4], theirs, atol=1e-4)
    for name, logprobs in (("in every step", None), ("precomputed", scored)):
        trainer = build_trainer(config, thinking, logprobs, tmp_path / name)
        batch = first_batch(trainer, 4)
        for row, (ids, start) in enumerate(zip(thinking.chosen_ids[:4], thinking.chosen_starts[:4], strict=True)):
            first = len(pairs.prompt_ids[row])
            assert batch["completion_mask"][row].nonzero().flatten().tolist() == [
                *range(first + start, first + len(ids))
            ]
            assert int(batch["attention_mask"][row].sum()) == first + len(ids), "a thought is seen"
        assert float(trainer.compute_loss(trainer.model, batch).detach()) == pytest.approx(expected, abs=1e-5)
        trainer.train()  # the loader keeps the columns that it needs
    assert [group.starts for group in sampled(thinking).groups] == list(
        zip(thinking.chosen_starts, thinking.rejected_starts, strict=True)
    )


def test_the_loss_mask_follows_score(tiny_model: Path, make_preferences: Callable[..., Path], tmp_path: Path) -> None:
    folder = make_preferences(tmp_path / "preferences", tiny_model, 6)
    rows = open_artifact(folder, PREFERENCES).read().to_pylist()
    for number, row in enumerate(rows):
        row["chosen_answer_start"] = 1 if number % 2 else None

    def artifact(name: str) -> Any:
        writer = ArtifactWriter(tmp_path / name, PREFERENCES, "of the test")
        writer.write_part(0, pa.Table.from_pylist(rows, schema=PREFERENCES.schema))
        return writer.close(1)

    thinking, tokenizer = artifact("thinking"), load_tokenizer(str(tiny_model))
    read = load_pairs(thinking, tokenizer, 4096)
    assert list(read.chosen_starts) == [number % 2 for number in range(len(rows))]
    assert set(read.rejected_starts) == {0}
    whole = load_pairs(thinking, tokenizer, 4096, "whole")
    assert whole.chosen_starts == ()
    assert whole == load_pairs(open_artifact(folder, PREFERENCES), tokenizer, 4096)
    check_pairs(thinking, len(tokenizer))
    rows[2]["rejected_answer_start"] = len(rows[2]["rejected_token_ids"])
    with pytest.raises(
        InputError, match=r"row 2: field 'rejected_answer_start' is \d+, and 'rejected_token_ids' has \d+ tokens"
    ):
        check_pairs(artifact("empty"), len(tokenizer))


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
def test_compiled_layers_share_one_graph_and_have_the_same_gradients_and_names(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torch._dynamo.utils import counters

    config = TrainConfig(policy=str(tiny_model), preferences="-", device="cpu", torch_compile=True)
    model: Any = load_trainable(str(tiny_model), config).train()

    def gradients(length: int) -> dict[str, torch.Tensor]:
        ids = torch.arange(2 * length).view(2, length) % 97
        mask = torch.ones_like(ids)
        mask[1, length // 2 :] = 0
        model.zero_grad()
        model(
            input_ids=ids, attention_mask=mask, labels=ids.masked_fill(mask == 0, -100), use_cache=False
        ).loss.backward()
        return {
            name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None
        }

    expected, names = {length: gradients(length) for length in (9, 17)}, list(model.state_dict())
    monkeypatch.setattr("icr_platform.training.trainer.is_cpu", lambda _: False)
    _compile_layers(model, config)
    before = counters["stats"]["unique_graphs"]
    for length, own in expected.items():
        torch.testing.assert_close(gradients(length), own, atol=1e-5, rtol=1e-3)
    assert counters["stats"]["unique_graphs"] - before == 1
    assert list(model.state_dict()) == names
    with pytest.raises(InputError, match="train without --torch-compile"):
        _compile_layers(torch.nn.Linear(2, 2), config)


def test_on_a_cpu_nothing_is_compiled_and_that_is_said(
    tiny_models: tuple[Path, Path], pairs: TrainingPairs, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trainer = build_trainer(config_for(tiny_models, torch_compile=True), pairs, np.zeros((len(pairs), 2)), tmp_path)
    assert not [module for module in model_of(trainer).modules() if module._compiled_call_impl]
    assert NOT_COMPILED in caplog.messages


def test_what_torch_cannot_compile_is_said_in_a_line(
    tiny_models: tuple[Path, Path], pairs: TrainingPairs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise InductorError(RuntimeError("Failed to find C compiler.\nmore"), None)

    monkeypatch.setattr(PairTrainer, "train", refuse)
    with pytest.raises(IcrError) as raised:
        train(
            config_for(tiny_models),
            pairs,
            np.zeros((len(pairs), 2)),
            tmp_path,
            Curve(tmp_path / "curve.jsonl", ignore_metrics),
        )
    said = str(raised.value)
    assert said.startswith("train: torch does not compile the layers (")
    assert "Failed to find C compiler" in said
    assert said.endswith("train without --torch-compile")
    assert "\n" not in said
