"""train against bare TRL on the same pairs: `python tests/benchmarks/bench_train.py [--model FOLDER] [--pairs N] [--out FILE]`.

Paired runs in one process, in turns, imports excluded: wall-clock and CPU seconds of the whole stage (validation, reference,
training, model card, checkpoint with digests) beside what a user of TRL writes (DPOTrainer on texts, train, save_model).
Without --model: a random Llama of 0.9M parameters, 240 pairs, the shape of the demo.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from icr_platform.core.artifacts import open_artifact
from icr_platform.core.schemas import PREFERENCES
from icr_platform.core.stage_protocol import StageContext
from icr_platform.training.config import TrainConfig
from icr_platform.training.stage import read, run
from tests.support.small_tables import write_preferences
from tests.support.tiny_models import chatml_tokenizer


def main() -> None:
    """Measure, print a table and write JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument(
        "--model", type=Path, help="folder of a model with a chat template; default: a random small Llama"
    )
    parser.add_argument("--pairs", type=int, default=240)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--epochs", type=float, default=2.0)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--out", type=Path, help="JSON file of the figures")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        model = given.model or write_small_model(work / "model")
        values = {
            "policy": str(model), "preferences": str(write_preferences(work / "preferences", model, given.pairs)),
            "device": "cpu", "learning_rate": 1e-4, "epochs": given.epochs, "batch_size": given.batch_size, "accumulation": 1,
        }  # fmt: skip
        config = TrainConfig.model_validate(values)
        contenders: dict[str, Callable[[Path], None]] = {
            "icr train, pairs scored before": lambda folder: train_ours(config, folder, "yes"),
            "icr train, reference in every step": lambda folder: train_ours(config, folder, "no"),
            "bare TRL": lambda folder: train_bare(config, folder, precompute=False),
            "bare TRL, precompute_ref_log_probs": lambda folder: train_bare(config, folder, precompute=True),
        }
        figures = measure(contenders, work, given.runs)
    for contender, row in figures.items():
        print(
            f"{contender:<36} {row['wall_s']:8.2f} s {row['cpu_s']:8.2f} CPU s {row['cpu_ratio_to_bare']:6.3f} x bare TRL's CPU"
        )
    if given.out:
        given.out.write_text(json.dumps(figures, indent=1) + "\n")


def measure(contenders: dict[str, Callable[[Path], None]], work: Path, runs: int) -> dict[str, dict[str, float]]:
    """Medians over `runs` rounds; the ratio is the median of ratios within a round. Round 0 warms up and is not counted."""
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in contenders}
    for round_ in range(runs + 1):
        for name, train in contenders.items():
            folder = work / "out"
            shutil.rmtree(folder, ignore_errors=True)
            wall, cpu = time.perf_counter(), time.process_time()
            train(folder)
            if round_:
                seconds[name].append((time.perf_counter() - wall, time.process_time() - cpu))
    bare = [cpu for _, cpu in seconds["bare TRL"]]
    return {
        name: {
            "wall_s": statistics.median(wall for wall, _ in rows),
            "cpu_s": statistics.median(cpu for _, cpu in rows),
            "cpu_ratio_to_bare": statistics.median(cpu / other for (_, cpu), other in zip(rows, bare, strict=True)),
        }
        for name, rows in seconds.items()
    }


def train_ours(config: TrainConfig, folder: Path, precompute: str) -> None:
    run(read(config.model_copy(update={"precompute_reference": precompute})), StageContext(folder, "bench"))


def train_bare(config: TrainConfig, folder: Path, precompute: bool) -> None:
    """What TRL's documentation says to write, with the same objective and steps."""
    from datasets import Dataset
    from trl.trainer.dpo_config import DPOConfig
    from trl.trainer.dpo_trainer import DPOTrainer

    rows = open_artifact(Path(config.preferences), PREFERENCES).read(["instruction", "chosen", "rejected"]).to_pylist()
    conversations = [
        {
            "prompt": [{"role": "user", "content": row["instruction"]}],
            "chosen": [{"role": "assistant", "content": row["chosen"]}],
            "rejected": [{"role": "assistant", "content": row["rejected"]}],
        }
        for row in rows
    ]
    arguments: dict[str, Any] = {"lr_scheduler_type": "linear", "warmup_steps": config.warmup, "seed": config.seed}
    trainer = DPOTrainer(
        model=config.policy,
        args=DPOConfig(
            output_dir=str(folder), loss_type=["sigmoid", "sft"], loss_weights=[1.0, config.gamma], beta=config.beta,
            learning_rate=config.learning_rate, num_train_epochs=config.epochs, gradient_checkpointing=False, bf16=False,
            per_device_train_batch_size=config.batch_size, gradient_accumulation_steps=config.accumulation, use_cpu=True,
            precompute_ref_log_probs=precompute, report_to=[], disable_tqdm=True, logging_steps=1, save_strategy="no",
            **arguments,
        ),
        train_dataset=Dataset.from_list(conversations),
    )  # fmt: skip
    trainer.train()
    trainer.save_model(str(folder / "checkpoint"))


def write_small_model(folder: Path) -> Path:
    """A random Llama of 0.9M parameters."""
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = chatml_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=128, intermediate_size=384, num_hidden_layers=4, num_attention_heads=4,
        max_position_embeddings=512, tie_word_embeddings=True, bos_token_id=None, eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


if __name__ == "__main__":
    main()
