"""What a run of the paper's size costs on 1, 8 and 64 GPUs: `python tests/benchmarks/bench_paper_cost.py` writes the sheet into projects/README.md.

The run is `projects/conf/paper-llama3-8b.yaml`: 3,000 prompts in five languages, ten samples, two iterations and three evaluations.
Responses are taken to have 400 tokens and prompts 190, as UltraFeedback's have. Scoring and training go at the share of the data sheet's
FLOP/s that `gpu_rehearsal.jsonl` has measured (training at the 1B shape); decoding, of which there is no measurement, at what reading
weights and cache from memory allows, by half (`planning.capacity`). Loading of models, reading, MLflow and a judge come on top.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from transformers import LlamaConfig

from icr_platform.pipeline.config import IterateConfig, load_preset
from icr_platform.planning.capacity import (
    DEVICES,
    ModelShape,
    Prompts,
    Rates,
    Work,
    memory_of,
    model_shape,
    rates_on_paper,
    seconds_of,
    works,
)
from icr_platform.planning.units import duration
from tests.benchmarks.gpu_rehearsal import lines_in
from tests.support.readme_tables import put_table

ROOT = Path(__file__).parents[2]
README = ROOT / "projects" / "README.md"
MEASURED = Path(__file__).with_name("gpu_rehearsal.jsonl")
GPU, GPUS = "H100", (1, 8, 64)
PARAMETERS = 8_030_261_248  # Llama 3 8B
PROMPT_TOKENS, RESPONSE_TOKENS = 190.0, 400.0
LANGUAGES, EVALUATED = 5, 805
STEP = 32  # pairs of an optimizer step, as in the paper
CARRIED = {
    "generate": "an engine of vLLM on each GPU, as actors of Ray; parts of 250 prompts go to whoever is free",
    "annotate": "a scorer on each GPU, as actors of Ray",
    "train": "accelerate with FSDP 2; each GPU has a pair of the step",
    "eval": "as generate, for each of three policies",
}


def main() -> None:
    table = sheet()
    put_table(README, "bench_paper_cost", table)
    print(table)


def sheet() -> str:
    """The table in Markdown: a row a stage, over all iterations."""
    config = IterateConfig.model_validate(load_preset(ROOT / "projects" / "conf" / "paper-llama3-8b.yaml", "iterate"))
    shape, rates = shape_of_llama(), measured_rates()
    assert config.limit is not None
    training = Prompts(config.limit * LANGUAGES, PROMPT_TOKENS, config.limit)
    evaluation = Prompts(EVALUATED * LANGUAGES, PROMPT_TOKENS)
    rows = [
        f"| stage | tokens | {' | '.join(f'{count} {GPU}' for count in GPUS)} | carried by |",
        "|---|---|---|---|---|---|",
    ]
    totals: dict[int, float | None] = dict.fromkeys(GPUS, 0.0)
    for work in works(config, training, evaluation, RESPONSE_TOKENS):
        times = config.iterations + (work.stage == "eval")
        cells = []
        for count in GPUS:
            seconds = seconds_on(config, work, shape, rates, count)
            cells.append("-" if seconds is None else duration(times * seconds))
            before = totals[count]
            totals[count] = None if seconds is None or before is None else before + times * seconds
        rows.append(
            f"| {work.stage}, {times} times | {times * work.tokens / 1e6:,.0f} million | {' | '.join(cells)} | {CARRIED[work.stage]} |"
        )
    hours = [
        ("-" if total is None else f"{duration(total)}, {count * total / 3600:,.0f} GPU hours")
        for count, total in totals.items()
    ]
    rows.append(f"| all | | {' | '.join(hours)} | |")
    return "\n".join(rows)


def seconds_on(config: Any, work: Work, shape: ModelShape, rates: Rates, count: int) -> float | None:
    """Seconds of a stage on so many GPUs; None where it does not fit. Training keeps as many busy as a step has pairs."""
    busy = min(count, STEP) if work.stage == "train" else count
    shards = busy if work.stage == "train" else 1
    if memory_of(work, config, shape, 2, DEVICES[GPU], shards) > DEVICES[GPU].memory:
        return None
    return seconds_of(work, rates, busy, 1)


def shape_of_llama() -> ModelShape:
    config = LlamaConfig(
        vocab_size=128256, hidden_size=4096, intermediate_size=14336, num_hidden_layers=32, num_attention_heads=32, num_key_value_heads=8
    )  # fmt: skip
    return model_shape(config, PARAMETERS)


def measured_rates() -> Rates:
    """Tokens per second of one GPU: those of its data sheet, with the shares of its FLOP/s that were measured."""
    lines = {line["part"]: line for line in lines_in(MEASURED)}
    shape, device = shape_of_llama(), DEVICES[GPU]
    reached = lines["machine"]["tflops"] * 1e12 / device.flops  # by a matrix product, of the sheet's
    paper = rates_on_paper(shape, device, PROMPT_TOKENS + RESPONSE_TOKENS / 2, checkpointing=True)
    return replace(
        paper,
        score=lines["score-8B"]["mfu_of_product_rate"] * reached * device.flops / (2 * shape.matmul),
        train=lines["train-1B"]["mfu_of_product_rate"] * reached * device.flops / (6 * shape.matmul),
    )


if __name__ == "__main__":
    main()
