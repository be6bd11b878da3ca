"""Capacity on paper and checked: `python tests/benchmarks/bench_capacity.py --model FOLDER [--calibrate S] [--json PATH]`.

Checked: `icr check`'s prediction from a calibration on this machine, beside what the stages take (seconds of the whole stage,
loading included, and peak memory of its process), on a small run of a real model. The machine is calibrated before and after
the stages and the mean of both counts; how far the two are apart says how noisy it was. On paper: the paper's run (5 languages x 3000
prompts x 10 samples, 805 evaluation prompts a language) for an 8B model on 8 H100, and 100 times its prompts on 32 nodes.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import mean
from types import SimpleNamespace
from typing import Any

import pyarrow.compute as pc

from icr_platform.core.artifacts import open_artifact
from icr_platform.core.schemas import RESPONSES
from icr_platform.models.chat import encode_prompt
from icr_platform.models.loading import load_config, load_tokenizer, parameter_count
from icr_platform.pipeline.config import IterateConfig
from icr_platform.planning.calibration import calibrate
from icr_platform.planning.capacity import (
    DEVICES,
    Prompts,
    Rates,
    disk_of,
    memory_of,
    model_shape,
    rates_on_paper,
    seconds_of,
    training_files,
    works,
)
from icr_platform.planning.units import duration, size
from tests.support.peak_memory import peak_bytes

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
RATES = ("decode", "score", "train")


def main() -> None:
    """Check the prediction where a model is given, print the paper's table, write JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", type=Path, help="folder of a model with a chat template")
    parser.add_argument("--calibrate", type=float, default=30.0)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        run_child(*given.child)
        return
    figures: dict[str, Any] = {"paper": on_paper()}
    if given.model:
        with tempfile.TemporaryDirectory() as folder:
            figures["checked"] = checked(given.model, Path(folder), given.calibrate)
    if given.json:
        given.json.write_text(json.dumps(figures, indent=1) + "\n")


def checked(model: Path, folder: Path, seconds: float) -> list[dict[str, Any]]:
    """Predict a small run, run it, and print both."""
    (folder / "prompts").mkdir()
    for language, texts in PROMPTS.items():
        rows = [json.dumps({"instruction_id": f"p{i}", "instruction": text}) for i, text in enumerate(texts * 2)]
        (folder / "prompts" / f"{language}.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
    config = small_run(model, folder)
    instructions = [(language, text) for language, texts in PROMPTS.items() for text in texts]
    before = calibrate(config, instructions, config.generate.max_tokens, seconds)
    measured = [run_stage(stage, config, folder) for stage in STAGES]
    after = calibrate(config, instructions, config.generate.max_tokens, seconds)
    responses = open_artifact(folder / "generate" / "responses", RESPONSES).read(["token_count"])
    length = float(pc.mean(responses["token_count"]).as_py())
    pairs = measured[1]["pairs"]
    tokenizer = load_tokenizer(str(model))
    prompts = Prompts(2 * len(instructions), mean(len(encode_prompt(tokenizer, text)) for _, text in instructions))
    print(
        "tokens/s before and after:",
        *(f"{name} {getattr(before, name):.0f}, {getattr(after, name):.0f};" for name in RATES),
    )
    rates = Rates(**{name: mean([getattr(before, name), getattr(after, name)]) for name in RATES})
    return compare(config, model, rates, prompts, length, pairs, measured)


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
    config: IterateConfig,
    model: Path,
    rates: Rates,
    prompts: Prompts,
    length: float,
    pairs: int,
    measured: list[dict[str, Any]],
) -> list[dict[str, Any]]:
    """One row per stage: predicted and real seconds and bytes."""
    shape = model_shape(load_config(str(model)), parameter_count(str(model)))
    rows = []
    print(f"{'stage':<10}{'predicted':>12}{'real':>10}{'ratio':>8}{'memory predicted':>18}{'real':>10}")
    for work, real in zip(works(config, prompts, None, length), measured, strict=True):
        predicted = seconds_of(work, rates, 1, 1) * (pairs / prompts.rows if work.stage == "train" else 1)
        memory = memory_of(work, config, shape, 4, None, 1)
        rows.append({"stage": work.stage, "predicted_seconds": predicted, "predicted_bytes": memory, **real})
        print(
            f"{work.stage:<10}{duration(predicted):>12}{duration(real['seconds']):>10}{real['seconds'] / predicted:>8.2f}"
            f"{size(memory):>18}{size(real['bytes']):>10}"
        )
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
