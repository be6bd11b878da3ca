"""Memory and capacity, checked and on paper: `python tests/benchmarks/bench_memory.py [--model FOLDER]... [--calibrate S] [--json PATH]`.

Checked: peak memory of each stage's process, loading included, beside `icr check`'s prediction: generate and annotate of a small run, and
training on pairs of `--tokens` tokens, with gradient checkpointing and without. Without --model: a random model with the vocabulary of
Gemma 3 (262,144 words), and a random mixture of experts. With --calibrate the stages' seconds are predicted too, from a calibration of the
machine before and after them; how far the two are apart says how noisy it was.
On paper: the paper's run (5 languages x 3000 prompts x 10 samples, 805 evaluation prompts a language) for an 8B model on 8 H100, and 100
times its prompts on 32 nodes.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import mean
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import torch

from icr_platform.core.artifacts import ArtifactWriter, open_artifact
from icr_platform.core.schemas import PREFERENCES, RESPONSES
from icr_platform.models.chat import encode_prompt
from icr_platform.models.loading import load_config, load_tokenizer, on_meta_device, parameter_count
from icr_platform.pipeline.config import IterateConfig
from icr_platform.planning.calibration import calibrate
from icr_platform.planning.capacity import (
    DEVICES,
    ModelShape,
    Prompts,
    Rates,
    Work,
    disk_of,
    idle_parameters,
    memory_of,
    model_shape,
    rates_on_paper,
    seconds_of,
    training_files,
    works,
)
from icr_platform.planning.units import duration, size
from tests.support.peak_memory import peak_bytes
from tests.support.tiny_models import chatml_tokenizer

RESPONSE_TOKENS = 500
LLAMA3_8B = SimpleNamespace(
    num_attention_heads=32, num_key_value_heads=8, head_dim=128, hidden_size=4096, intermediate_size=14336,
    num_hidden_layers=32, vocab_size=128256, tie_word_embeddings=False,
)  # fmt: skip
PROMPTS = {
    "en": [
        "Name three fruits.",
        "Explain why the sky is blue.",
        "Write a short poem about rain.",
        "What is a prime number?",
    ],
    "es": [
        "Nombra tres frutas.",
        "Explica por qué el cielo es azul.",
        "Escribe un poema sobre la lluvia.",
        "¿Qué es un primo?",
    ],
}
STAGES = ("generate", "annotate", "train")
TRAININGS: dict[str, dict[str, Any]] = {"train": {}, "train, checkpointed": {"gradient_checkpointing": True}}
RATES = ("decode", "score", "train")


def main() -> None:
    """Check the predictions, print the paper's table, write JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument(
        "--model", type=Path, action="append", help="folder of a model with a chat template; repeatable"
    )
    parser.add_argument(
        "--tokens", type=int, default=256, help="of each sequence of a training, half of them its prompt"
    )
    parser.add_argument(
        "--batch-size", type=int, default=1, help="pairs of a training that go through the model together"
    )
    parser.add_argument("--only", choices=TRAININGS, help="measure this alone")
    parser.add_argument("--calibrate", type=float, default=0.0, help="seconds; 0: predict memory alone")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        run_child(*given.child)
        return
    figures: dict[str, Any] = {"paper": on_paper()}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for number, model in enumerate(given.model or write_models(folder)):
            figures[str(model)] = checked(model, folder / str(number), given)
    if given.json:
        given.json.write_text(json.dumps(figures, indent=1) + "\n")


def checked(model: Path, folder: Path, given: argparse.Namespace) -> list[dict[str, Any]]:
    """Predict a small run, run it, and print both."""
    (folder / "prompts").mkdir(parents=True)
    for language, texts in PROMPTS.items():
        rows = [json.dumps({"instruction_id": f"p{i}", "instruction": text}) for i, text in enumerate(texts * 2)]
        (folder / "prompts" / f"{language}.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
    config = small_run(model, folder)
    print(f"\n{model.name}: {parameter_count(str(model)) / 1e6:.0f} million parameters")
    instructions = [(language, text) for language, texts in PROMPTS.items() for text in texts]
    rates = [calibrate(config, instructions, config.generate.max_tokens, given.calibrate)] if given.calibrate else []
    stages = [] if given.only else list(STAGES)
    measured = {stage: run_stage(stage, config, folder) for stage in stages}
    if rates:
        rates.append(calibrate(config, instructions, config.generate.max_tokens, given.calibrate))
        print("tokens/s before and after:", *(f"{name} {getattr(rate, name):.0f};" for rate in rates for name in RATES))
    found = compare(config, model, rates, measured, folder) if measured else []
    for name, changes in TRAININGS.items():
        if given.only in (None, name):
            found.append(long_training(name, changes, config, folder, given))
    return found


def long_training(
    name: str, changes: dict[str, Any], config: IterateConfig, folder: Path, given: argparse.Namespace
) -> dict[str, Any]:
    """Train two steps on pairs of `--tokens` tokens, in two batches a step: in the second step everything is there at once."""
    tokenizer, vocabulary = load_tokenizer(config.policy), load_config(config.policy).get_text_config().vocab_size
    length, work = given.tokens // 2, folder / name.replace(", ", "-")
    words, count = PROMPTS["en"][0], 1
    while len(encode_prompt(tokenizer, " ".join([words] * count))) < length:
        count += 1
    draw = random.Random(0)
    pairs = [[draw.randrange(10, vocabulary) for _ in range(length)] for _ in range(8 * given.batch_size)]
    rows = [
        {
            "language": "en", "prompt_id": f"p{i:03d}", "instruction": " ".join([words] * count), "english_instruction": words,
            "chosen": "-", "rejected": "-", "chosen_index": 0, "rejected_index": 1, "chosen_reward": 1.0, "rejected_reward": 0.5,
            "margin": 0.5, "length_penalty_alpha": 0.0, "chosen_characters": 1, "rejected_characters": 1,
            "chosen_token_ids": chosen, "rejected_token_ids": rejected,
        }
        for i, (chosen, rejected) in enumerate(zip(pairs[::2], pairs[1::2], strict=True))
    ]  # fmt: skip
    writer = ArtifactWriter(work / "annotate" / "preferences", PREFERENCES, "preferences")
    writer.write_part(0, pa.Table.from_pylist(rows))
    writer.close(1)
    values: dict[str, Any] = {"accumulation": 2, "batch_size": given.batch_size, "learning_rate": 1e-5} | changes
    asked = config.model_copy(
        update={
            "train": config.train.model_copy(update=values),
            "generate": config.generate.model_copy(update={"max_tokens": length}),
        }
    )
    real = run_stage("train", asked, work)
    # As long as icr check takes the longest prompt to be.
    prompt = len(encode_prompt(tokenizer, " ".join([words] * count))) / 4
    predicted = memory_of(Work("train", len(rows), prompt), asked, shape_of(config.policy), 4, None, 1)
    row = {"stage": name, "tokens": given.tokens, "predicted_bytes": predicted, **real}
    print(f"{name:<22}{size(predicted):>12} predicted{size(real['bytes']):>12} real{real['bytes'] / predicted:>8.2f}")
    return row


def shape_of(model: str) -> ModelShape:
    """What `icr check` takes a model to be."""
    config = load_config(model)
    return model_shape(config, parameter_count(model), idle_parameters(on_meta_device(model, config, False)))


def write_models(folder: Path) -> list[Path]:
    """Random models: one with Gemma 3's vocabulary and few layers, and a mixture of eight experts."""
    from transformers import Gemma3ForCausalLM, Gemma3TextConfig, MixtralConfig, MixtralForCausalLM

    tokenizer = chatml_tokenizer()
    sizes: dict[str, Any] = {
        "hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 1,
        "head_dim": 64, "bos_token_id": None, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id,
    }  # fmt: skip
    made: dict[str, Any] = {
        "words-of-gemma": lambda: Gemma3ForCausalLM(Gemma3TextConfig(**sizes, vocab_size=262_144, sliding_window=128)),
        "mixture": lambda: MixtralForCausalLM(
            MixtralConfig(**sizes, vocab_size=16_384, num_local_experts=8, num_experts_per_tok=2)
        ),
    }
    for name, make in made.items():
        torch.manual_seed(0)
        make().save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    return [folder / name for name in made]


def small_run(model: Path, folder: Path) -> IterateConfig:
    """Two languages x 8 prompts x 8 samples of at most 96 tokens."""
    return IterateConfig.model_validate(
        {
            "policy": str(model), "reference": str(model), "prompts": str(folder / "prompts"),
            "generate": {"samples": 8, "max_tokens": 96, "batch_size": 64},
            "annotate": {"drop_truncated": False, "drop_wrong_language": False},
            "train": {"accumulation": 4, "precompute_reference": "yes"},
        }
    )  # fmt: skip


def compare(
    config: IterateConfig, model: Path, rates: list[Rates], measured: dict[str, dict[str, Any]], folder: Path
) -> list[dict[str, Any]]:
    """One row per stage: predicted and real bytes, and seconds where there are rates."""
    responses = open_artifact(folder / "generate" / "responses", RESPONSES).read(["token_count"])
    length, pairs = float(pc.mean(responses["token_count"]).as_py()), measured["annotate"]["pairs"]
    tokenizer, texts = load_tokenizer(str(model)), [text for texts in PROMPTS.values() for text in texts]
    prompts = Prompts(2 * len(texts), mean(len(encode_prompt(tokenizer, text)) for text in texts))
    rows = []
    for work in works(config, prompts, None, length):
        real = measured[work.stage]
        memory = memory_of(work, config, shape_of(str(model)), 4, None, 1)
        row = {"stage": work.stage, "predicted_bytes": memory, **real}
        name = "train, short" if work.stage == "train" else work.stage
        line = f"{name:<22}{size(memory):>12} predicted{size(real['bytes']):>12} real{real['bytes'] / memory:>8.2f}"
        if rates:
            rate = Rates(**{name: mean(getattr(one, name) for one in rates) for name in RATES})
            share = pairs / prompts.rows if work.stage == "train" else 1
            row["predicted_seconds"] = seconds_of(work, rate, 1, 1) * share
            line += f"{duration(row['predicted_seconds']):>12} predicted{duration(real['seconds']):>10} real"
        rows.append(row)
        print(line)
    return rows


def run_stage(stage: str, config: IterateConfig, folder: Path) -> dict[str, Any]:
    """Run a stage in a process of its own; its seconds and peak bytes, loading included."""
    job = folder / f"{stage}.json"
    job.write_text(config.model_dump_json(), encoding="utf-8")
    command = [sys.executable, __file__, "--child", stage, str(folder)]
    answer = subprocess.run(command, check=True, capture_output=True, text=True, env=os.environ).stdout
    return dict(json.loads(answer.splitlines()[-1]))


def run_child(stage: str, name: str) -> None:
    """One stage, from the job file of `run_stage`."""
    from icr_platform.annotation import stage as annotate
    from icr_platform.annotation.config import AnnotateConfig
    from icr_platform.core.stage_protocol import StageContext
    from icr_platform.generation import stage as generate
    from icr_platform.generation.config import GenerateConfig
    from icr_platform.training import stage as train
    from icr_platform.training.config import TrainConfig

    folder = Path(name)
    config = IterateConfig.model_validate_json((folder / f"{stage}.json").read_text(encoding="utf-8"))
    context = StageContext(folder / stage, stage)
    shared = {"policy": config.policy, "device": "cpu"}
    start = time.monotonic()
    if stage == "generate":
        prompts = {"prompts": config.prompts}
        result = generate.run(generate.read(GenerateConfig(**dict(config.generate) | shared | prompts)), context)
    elif stage == "annotate":
        inputs = {
            "reference": config.reference,
            "prompts": config.prompts,
            "responses": str(folder / "generate/responses"),
        }
        # A policy that is its own reference has no margins: the random kind pairs.
        kinds = {"reward_kind": ("random", "cross-lingual")}
        result = annotate.run(
            annotate.read(AnnotateConfig(**dict(config.annotate) | shared | kinds, **inputs)), context
        )
    else:
        preferences = str(folder / "annotate/preferences")
        result = train.run(train.read(TrainConfig(**dict(config.train) | shared, preferences=preferences)), context)
    seconds = time.monotonic() - start
    pairs = sum(
        int(value) for name, value in result.metrics.items() if name.startswith("pairs/") and not name.endswith("mean")
    )
    print(json.dumps({"seconds": seconds, "bytes": peak_bytes(), "pairs": pairs}))


def on_paper() -> list[dict[str, Any]]:
    """The paper's run on one node of 8 H100, and 100 times its prompts on 32 such nodes."""
    config = IterateConfig.model_validate(
        {
            "generate": {"sampler": "vllm", "samples": 10, "max_tokens": 2400, "gpu_memory": 0.9},
            "annotate": {"batch_tokens": 65536},
            "train": {"gradient_checkpointing": True, "precompute_reference": "yes", "max_length": 4096},
            "eval": {"sampler": "vllm", "judge": "openai", "judge_concurrency": 64},
        }
    )
    head = SimpleNamespace(get_text_config=lambda: LLAMA3_8B)
    shape = model_shape(head, 8_030_261_248)
    device = DEVICES["H100"]
    rates = rates_on_paper(shape, device, 150 + RESPONSE_TOKENS / 2, True)
    print(
        f"one H100, 8B: {rates.decode:,.0f} tokens/s decoded, {rates.score:,.0f} scored, {rates.train:,.0f} trained on"
    )
    rows = []
    for name, factor, gpus in (("the paper's run", 1, 8), ("100 times its prompts", 100, 256)):
        training, evaluation = Prompts(15_000 * factor, 150.0), Prompts(805 * 5, 60.0)
        print(f"{name}, {gpus} H100, one iteration")
        files = training_files(config.train, training.rows, shape.parameters, 0, 2, {"num_processes": gpus})
        for work in works(config, training, evaluation, RESPONSE_TOKENS):
            row: dict[str, Any] = {
                "run": name,
                "stage": work.stage,
                "gpus": gpus,
                "tokens": work.tokens,
                "seconds": seconds_of(work, rates, gpus, config.eval.judge_concurrency),
                "gpu_bytes": memory_of(work, config, shape, 2, device, 8),
                "disk_bytes": disk_of(work, files)[1],
            }
            rows.append(row)
            print(
                f"  {work.stage:<10}{work.tokens / 1e6:>10,.1f} M tokens{duration(row['seconds']):>10}"
                f"{size(row['gpu_bytes']):>10} a GPU{size(row['disk_bytes']):>10} on disk at most"
            )
    return rows


if __name__ == "__main__":
    main()
