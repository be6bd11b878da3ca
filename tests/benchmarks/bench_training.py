"""Training on the same pairs by four ways: `python tests/benchmarks/bench_training.py [--model FOLDER | --shape 1B] [--pairs N] [--json FILE]`.

In each round, in turns, from the same weights and over the same batches: the platform, with the pairs scored under the reference before
training and with the reference in every step, on a CPU also by torch's own matrix products, on a GPU with compiled layers; TRL's own DPOTrainer; a plain loop over padded
batches with whole logits. Beside them the floor: 2 FLOPs a weight and token forward and 4 backward, of every token once, 2 more under the reference,
at the rate of `torch.nn.functional.linear` with the model's own shapes in the same round, and on a CPU also at that of oneDNN. Loading, and what the stage does around the training, is left out. On a CPU all is in
float32, and seconds are of the processor, over all threads, so that other work on the machine shows little; on a GPU weights are float32,
computed with in bfloat16, and seconds are those of the clock. Medians over rounds, after one that is not counted.

Without --model: a random Llama of 8M parameters with 16,384 words, or of --shape 1B, that of Llama 3.2 1B, of which --layers keeps the first
few: all ways multiply by matrices of the same sizes then. Every way's losses are compared with the plain loop's, step by step.
"""

from __future__ import annotations

import argparse
import copy
import json
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.nn.functional import linear, logsigmoid
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PrinterCallback,
)
from transformers.trainer_utils import SaveStrategy
from trl.trainer.dpo_config import DPOConfig
from trl.trainer.dpo_trainer import DPOTrainer

from icr_platform.engines.scoring.cpu_linear import has_onednn, product
from icr_platform.models.chat import encode_prompt, encode_response
from icr_platform.training.config import TrainConfig
from icr_platform.training.dataset import TrainingPairs
from icr_platform.training.dpo import build_trainer
from icr_platform.training.reference_logprobs import score_pairs
from icr_platform.training.weights import autocast
from tests.benchmarks.gpu_rehearsal import SHAPES
from tests.support.tiny_models import PROMPTS, RESPONSES, chatml_tokenizer

_ROWS = {"cpu": 512, "cuda": 4096}  # of the matrix products whose rate is the floor's
_WAYS = (
    "platform",
    "platform, reference in every step",
    "platform, torch's products",
    "platform, compiled",
    "TRL",
    "plain loop",
)
_ELSEWHERE = {"cpu": "platform, compiled", "cuda": "platform, torch's products"}


class Trained(NamedTuple):
    """Seconds of a training, and the loss of each optimizer step."""

    seconds: float
    losses: list[float]


def main() -> None:
    """Measure, print a table, write JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", type=Path, help="folder of a model with a chat template")
    parser.add_argument("--shape", choices=("8M", *SHAPES), default="8M", help="of a model with random weights")
    parser.add_argument("--layers", type=int, help="of --shape, at most")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--pairs", type=int, default=16)
    parser.add_argument("--prompt-words", type=int, default=60, help="in a prompt, on average")
    parser.add_argument("--response-words", type=int, default=120, help="in a response, on average")
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--accumulation", type=int, default=2)
    parser.add_argument("--gradient-checkpointing", action="store_true")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    with tempfile.TemporaryDirectory() as name:
        folder = given.model or write_random_model(Path(name) / "model", given.shape, given.layers)
        config = TrainConfig.model_validate({
            "policy": str(folder), "preferences": "-", "device": given.device, "learning_rate": 1e-5,
            "dtype": "float32" if given.device == "cpu" else "bfloat16",
            "schedule": "constant", "warmup": 0.0, "likelihood": "tokens", "batch_size": given.batch_size,
            "accumulation": given.accumulation, "gradient_checkpointing": given.gradient_checkpointing,
        })  # fmt: skip
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        pairs = write_pairs(folder, given.pairs, given.prompt_words, given.response_words)
        report = measure(config, model, pairs, Path(name), given.rounds)
    report |= {
        "model": str(given.model or given.shape),
        "device": given.device,
        "threads": given.threads,
        "torch": torch.__version__,
    } | {key: value for key, value in vars(given).items() if isinstance(value, int)}
    if given.json:
        given.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def measure(
    config: TrainConfig, model: PreTrainedModel, pairs: TrainingPairs, work: Path, rounds: int
) -> dict[str, Any]:
    """Run every way in turns and print what each took."""
    ways: Sequence[Callable[[PreTrainedModel], list[float]]] = (
        lambda policy: train_ours(config, policy, pairs, work, True),
        lambda policy: train_ours(config, policy, pairs, work, False),
        lambda policy: train_ours(config.model_copy(update={"cpu_library": "torch"}), policy, pairs, work, True),
        lambda policy: train_ours(config.model_copy(update={"torch_compile": True}), policy, pairs, work, True),
        lambda policy: train_with_trl(config, policy, model, pairs, work),
        lambda policy: train_plainly(config, policy, model, pairs, work),
    )
    found: dict[str, list[Trained]] = {name: [] for name in _WAYS}
    products = {"linear": linear} | ({"oneDNN": product} if config.device == "cpu" and has_onednn() else {})
    floors: dict[str, list[float]] = {name: [] for name in products}
    for round_ in range(rounds + 1):
        for name, multiply in products.items():
            floors[name].append(needed_operations(model, pairs) / product_rate(model, config.device, multiply))
        for name, train in zip(_WAYS, ways, strict=True):
            if name == _ELSEWHERE[config.device]:
                continue
            policy: Any = copy.deepcopy(model)
            policy = policy.to(config.device)
            start = seconds(config.device)
            losses = train(policy)
            if round_:
                found[name].append(Trained(seconds(config.device) - start, losses))
            del policy
    least = {name: statistics.median(of[1:]) for name, of in floors.items()}
    prompt, chosen, rejected = (
        sum(map(len, part)) for part in (pairs.prompt_ids, pairs.chosen_ids, pairs.rejected_ids)
    )
    tokens = 2 * prompt + chosen + rejected
    print(f"{len(pairs)} pairs, {tokens} tokens of both sequences, {prompt + chosen + rejected} that differ")
    print(
        f"{'way':<36}{'CPU s' if config.device == 'cpu' else 's':>9}{'tokens/s':>10}{'of floor':>10}{'loss differs by':>18}"
    )
    rows: dict[str, dict[str, float]] = {}
    plain = found["plain loop"][0].losses
    for name, runs in found.items():
        if not runs:
            continue
        taken = statistics.median(run.seconds for run in runs)
        shares = [floor / run.seconds for floor, run in zip(floors["linear"][1:], runs, strict=True)]
        off = max(abs(one - other) for one, other in zip(runs[0].losses, plain, strict=True))
        share = statistics.median(shares)
        rows[name] = {"seconds": taken, "tokens_per_s": tokens / taken, "of_floor": share, "loss_off": off}
        print(f"{name:<36}{taken:>9.2f}{tokens / taken:>10.0f}{share:>10.1%}{off:>18.1e}")
    for name, taken in least.items():
        print(f"{'floor, ' + name:<36}{taken:>9.2f}{tokens / taken:>10.0f}{least['linear'] / taken:>10.1%}")
    return {"ways": rows, "floor_s": least["linear"], "floors_s": least, "tokens": tokens, "losses": plain}


def seconds(device: str) -> float:
    """Of the processor, or of the clock where a GPU is waited for."""
    if device == "cpu":
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def train_ours(
    config: TrainConfig, policy: PreTrainedModel, pairs: TrainingPairs, work: Path, is_scored: bool
) -> list[float]:
    reference = score_pairs(config, pairs, policy) if is_scored else None
    trainer = build_trainer(config, pairs, reference, work / "ours", policy)
    trainer.args.save_strategy = SaveStrategy.NO  # the stage has no resume point after the last step
    trainer.train()
    return [row["loss"] for row in trainer.state.log_history if "loss" in row]


class GivenIds(DPOTrainer):
    """TRL's trainer, over token ids that it would otherwise make itself."""

    def _prepare_dataset(self, dataset: Any, *_: Any) -> Any:
        return dataset


def train_with_trl(
    config: TrainConfig, policy: PreTrainedModel, reference: PreTrainedModel, pairs: TrainingPairs, work: Path
) -> list[float]:
    """Train as TRL's documentation says, with the same objective, batches and steps."""
    from datasets import Dataset

    rows = {"prompt_ids": pairs.prompt_ids, "chosen_ids": pairs.chosen_ids, "rejected_ids": pairs.rejected_ids}
    arguments: dict[str, Any] = {
        "loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, config.gamma], "lr_scheduler_type": "constant",
        "seed": config.seed, "data_seed": config.seed, "bf16": config.device != "cpu", "use_cpu": config.device == "cpu",
    }  # fmt: skip
    trainer = GivenIds(
        model=policy,
        ref_model=copy.deepcopy(reference),
        args=DPOConfig(
            output_dir=str(work / "trl"), beta=config.beta, learning_rate=config.learning_rate,
            per_device_train_batch_size=config.batch_size, gradient_accumulation_steps=config.accumulation,
            gradient_checkpointing=config.gradient_checkpointing, num_train_epochs=1, max_length=None,
            report_to=[], disable_tqdm=True, logging_steps=1, save_strategy="no", **arguments,
        ),
        train_dataset=Dataset.from_dict(rows),
        processing_class=AutoTokenizer.from_pretrained(config.policy),
    )  # fmt: skip
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    return [row["loss"] for row in trainer.state.log_history if "loss" in row]


def train_plainly(
    config: TrainConfig, policy: PreTrainedModel, reference: PreTrainedModel, pairs: TrainingPairs, work: Path
) -> list[float]:
    """Train as a loop of one's own does: padded batches, whole logits, the reference in every step."""
    asked = build_trainer(config, pairs, torch.zeros(len(pairs), 2).numpy(), work / "order", copy.deepcopy(policy))
    batches = list(asked.get_train_dataloader())
    optimizer = torch.optim.AdamW(policy.parameters(), lr=config.learning_rate, weight_decay=0.0, fused=True)
    if config.device != "cpu":
        reference = copy.deepcopy(reference).to(config.device)  # type: ignore[arg-type]
    if config.gradient_checkpointing:
        policy.gradient_checkpointing_enable({"use_reentrant": False})
    policy.train()
    losses = []
    for first in range(0, len(batches), config.accumulation):
        step, total = batches[first : first + config.accumulation], 0.0
        for batch in step:
            with torch.no_grad(), autocast(config):
                before = sequence_logprobs(reference, batch)
            with autocast(config):
                logprobs = sequence_logprobs(policy, batch)
            (won, lost), (won_before, lost_before) = logprobs.chunk(2), before.chunk(2)
            tokens = batch["completion_mask"][: len(won)].sum()
            loss = -logsigmoid(config.beta * (won - won_before - lost + lost_before)).mean()
            loss = (loss - config.gamma * won.sum() / tokens) / len(step)
            loss.backward()
            total += float(loss.detach())
        torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(total)
    return losses


def sequence_logprobs(model: PreTrainedModel, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False).logits
    chosen = logits[:, :-1].log_softmax(-1).gather(-1, batch["input_ids"][:, 1:, None])[..., 0]
    return (chosen * batch["completion_mask"][:, 1:]).sum(1)


def needed_operations(model: PreTrainedModel, pairs: TrainingPairs) -> float:
    """FLOPs of the pairs' tokens, each once, and of the LM head where a response is predicted: 6 trained and 2 under the reference."""
    embeddings: Any = model.get_output_embeddings()
    head = embeddings.weight.numel()
    linears = sum(module.weight.numel() for module in model.modules() if isinstance(module, torch.nn.Linear))
    responses = sum(len(ids) for part in (pairs.chosen_ids, pairs.rejected_ids) for ids in part)
    return 8.0 * ((linears - head) * (responses + sum(map(len, pairs.prompt_ids))) + head * responses)


def product_rate(
    model: PreTrainedModel, device: str = "cpu", multiply: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] = linear
) -> float:
    """FLOPs in a second of the products by one layer's matrices."""
    shapes = {module.weight.shape for module in model.base_model.modules() if isinstance(module, torch.nn.Linear)}
    dtype, count = torch.float32 if device == "cpu" else torch.bfloat16, _ROWS[device]
    with torch.no_grad():
        operands = [
            (torch.randn(count, shape[1], device=device, dtype=dtype), torch.randn(shape, device=device, dtype=dtype))
            for shape in shapes
        ]
        taken = []
        for _ in range(5):
            start = seconds(device)
            for rows, weight in operands:
                multiply(rows, weight)
            taken.append(seconds(device) - start)
    return 2.0 * count * sum(shape.numel() for shape in shapes) / statistics.median(taken)


def write_pairs(model: Path, count: int, prompt_words: int, response_words: int) -> TrainingPairs:
    """Pairs of which prompts and responses have half to one and a half times as many words."""
    draw, tokenizer = random.Random(0), AutoTokenizer.from_pretrained(model)
    words = [
        [word for texts in table.values() for text in texts for word in text.split()] for table in (PROMPTS, RESPONSES)
    ]

    def text(of: list[str], length: int) -> str:
        return " ".join(draw.choices(of, k=draw.randint(length // 2, length + length // 2)))

    prompts = [encode_prompt(tokenizer, text(words[0], prompt_words)) for _ in range(count)]
    sides = [[encode_response(tokenizer, text(words[1], response_words)) for _ in range(count)] for _ in range(2)]
    return TrainingPairs(["en"] * count, prompts, sides[0], sides[1], {})


def write_random_model(folder: Path, shape: str, layers: int | None) -> Path:
    """A Llama with random weights: of 8M parameters, half of them words, or of a shape, or its first layers."""
    tokenizer = chatml_tokenizer()
    small = {"vocab_size": 16_384, "hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 5, "num_attention_heads": 4,
             "tie_word_embeddings": True}  # fmt: skip
    values = SHAPES.get(shape, small)
    config = LlamaConfig(
        **values | {"num_hidden_layers": min(layers or 1000, values["num_hidden_layers"])}, max_position_embeddings=2048,
        bos_token_id=None, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


if __name__ == "__main__":
    main()
