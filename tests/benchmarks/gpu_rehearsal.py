"""The platform on one GPU, in ten minutes.

    python tests/benchmarks/gpu_rehearsal.py [--tiny] [--parts NAME,NAME] [--out FILE]     # FILE goes on where it was stopped
    python tests/benchmarks/gpu_rehearsal.py --table FILE                                  # its lines become README's table

Each part runs in a process of its own, bounded in time, prints one JSON line, and is followed by the next whatever became of it:
`{"part", "ok", "seconds", ...figures}`, or `{"part", "ok": false, "why"}`. Parts that FILE has already, with figures, are not run again.
Models have random weights in the shapes of Llama 3.2 1B and Llama 3 8B, in bfloat16; nothing is downloaded. Model FLOPs are 2 per weight and
token that must be computed (6 in training, 4 with LoRA), the LM head for what predicts a response token only; MFU is their share of the rate
that a matrix product of 8192 x 8192 x 8192 reaches in the same part. With --tiny the same code runs small models on the CPU, two parts
at once, to show that it works before a GPU is at hand.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from icr_platform.engines.scoring.logprobs import CompletionScorer, Group
from icr_platform.models.chat import encode_prompt
from tests.benchmarks.bench_scoring import needed_operations, score_naively
from tests.support.readme_tables import put_table
from tests.support.tiny_models import chatml_tokenizer

SECONDS = 150  # of one part, at most
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SHAPES: dict[str, dict[str, Any]] = {
    "1B": {"vocab_size": 128256, "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 32,
           "num_key_value_heads": 8, "head_dim": 64, "tie_word_embeddings": True},
    "8B": {"vocab_size": 128256, "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32,
           "num_key_value_heads": 8, "head_dim": 128, "tie_word_embeddings": False},
    "tiny": {"vocab_size": 500, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
             "num_key_value_heads": 2, "head_dim": 16, "tie_word_embeddings": True},
}  # fmt: skip


class Size(NamedTuple):
    """What the parts work on. shape: of SHAPES; the other numbers are of prompts, samples, and tokens of each."""

    shape: str
    prompts: int
    samples: int
    prompt_tokens: int
    response_tokens: int


Figures = dict[str, Any]


def main() -> None:
    """Run the parts one after the other, or one of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="small models and texts, on the CPU too")
    parser.add_argument("--parts", default=",".join(PARTS), help=f"of {', '.join(PARTS)}")
    parser.add_argument("--out", type=Path, help="file to which the lines are appended")
    parser.add_argument(
        "--table", type=Path, help="print a Markdown table of this file's lines, and put it into README.md"
    )
    parser.add_argument("--readme", type=Path, default=Path(__file__).with_name("README.md"), help=argparse.SUPPRESS)
    parser.add_argument("--only", choices=PARTS, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.only:
        print(json.dumps(PARTS[given.only](given.tiny)))
    elif given.table:
        table = table_of(lines_in(given.table))
        put_table(given.readme, "gpu_rehearsal", table)
        print(table)
    else:
        if DEVICE == "cpu" and not given.tiny:
            sys.exit("skipped: needs a CUDA device; --tiny runs the same parts small, on the CPU")
        names = given.parts.split(",")
        if unknown := [name for name in names if name not in PARTS]:
            parser.error(f"there is no part {unknown[0]!r}; the parts are {', '.join(PARTS)}")
        run_parts(names, given.tiny, given.out)


def run_parts(names: Sequence[str], tiny: bool, out: Path | None) -> None:
    """Run parts and print their lines in that order. out: receives the lines; what it has is not run again."""
    done = {line["part"] for line in lines_in(out) if line["ok"]} if out and out.exists() else set()
    wanted = [name for name in names if name not in done]
    with ThreadPoolExecutor(2 if tiny and DEVICE == "cpu" else 1) as pool:  # each waits for a process
        for figures in pool.map(lambda name: in_its_own_process(name, tiny), wanted):
            line = json.dumps(figures)
            print(line, flush=True)
            if out:
                with out.open("a", encoding="utf-8") as lines:
                    lines.write(line + "\n")


def lines_in(path: Path) -> list[Figures]:
    """A file's lines, the last of each part."""
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    return list({line["part"]: line for line in lines}.values())


def table_of(lines: Sequence[Figures]) -> str:
    """Rows of what was measured, as README has them, and why parts have no figures."""
    rows = ["| on | part | tokens/s | MFU | beside it |", "|---|---|---|---|---|"]
    for line in lines:
        device = re.sub(r"^NVIDIA (\S+).*", r"\1", line["device"])
        if not line["ok"]:
            rows.append(f"| {device} | {line['part']} | | | failed: {line['why'][:200]} |".replace("\n", " "))
        elif line["part"] in ROWS:
            rows.append(f"| {device} {ROWS[line['part']](line)}")
    return "\n".join(rows)


def row_of_scoring(line: Figures) -> str:
    compiled = f"; {line['compiled_tokens_per_s']:,} compiled" if "compiled_tokens_per_s" in line else ""
    return (
        f"| annotate, {line['shape']} shape, bfloat16 | {line['tokens_per_s']:,} response tokens | {line['mfu_of_product_rate']:.0%} | "
        f"{line['times_naive']} times the naive loop (batches of 3, padded), which computes each prompt anew{memory_of_line(line)}{compiled} |"
    )


def row_of_training(line: Figures) -> str:
    weights = f"LoRA of rank {line['lora_rank']}" if line["lora_rank"] else "all weights"
    weights += ", compiled" * line.get("is_compiled", False)
    return (
        f"| train, {line['shape']} shape, {weights}, checkpointing | {line['tokens_per_s']:,} | {line['mfu_of_product_rate']:.0%} | "
        f"{line['step_s']:.2f} s a step of 8 pairs{memory_of_line(line)} |"
    )


def row_of_sampling(line: Figures) -> str:
    vllm = line["vllm"] if isinstance(line["vllm"], str) else f"{line['vllm']['tokens_per_s']:,} tokens/s"
    speed = line["transformers"]["tokens_per_s"]
    return f"| generate, {line['shape']} shape, built-in sampler, 128 rows | {speed:,} | | vLLM: {vllm} |"


def row_of_attention(line: Figures) -> str:
    others = ", ".join(f"{name} {speed:,}" for name, speed in line["own_tokens_per_s"].items())
    return f"| attention, {line['shape']} shape, packed | {line['packed_tokens_per_s']:,} response tokens | | the naive loop with {others} |"


def row_of_iteration(line: Figures) -> str:
    return f"| one iteration of the demo | | | {line['iterate_s']} s, MLflow included |"


def memory_of_line(line: Figures) -> str:
    if line.get("peak_gb") is None:
        return ""
    predicted = f", {line['predicted_gb']} predicted" if "predicted_gb" in line else ""
    return f"; {line['peak_gb']} GB{predicted}"


def in_its_own_process(part: str, tiny: bool) -> Figures:
    """What the part prints, or why it printed nothing. Its memory is free again afterwards."""
    command = [sys.executable, "-m", "tests.benchmarks.gpu_rehearsal", "--only", part, *(["--tiny"] * tiny)]
    started = time.perf_counter()
    head: Figures = {"part": part, "device": torch.cuda.get_device_name() if DEVICE == "cuda" else "cpu"}
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, cwd=Path(__file__).parents[2])
    except subprocess.TimeoutExpired:
        return head | {"ok": False, "why": f"not done within {SECONDS} s"}
    seconds = round(time.perf_counter() - started, 1)
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.strip()]
        return head | {"ok": False, "seconds": seconds, "why": " | ".join(said[-3:])[-600:]}
    return head | {"ok": True, "seconds": seconds} | json.loads(done.stdout.splitlines()[-1])


def size_of(tiny: bool, shape: str) -> Size:
    return Size("tiny", 3, 3, 12, 20) if tiny else Size(shape, 16, 10, 200, 400)


def random_model(shape: str, dtype: torch.dtype, layers: int | None = None) -> PreTrainedModel:
    """A Llama of that shape whose weights were never trained."""
    values = SHAPES[shape] | ({"num_hidden_layers": layers} if layers else {})
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(DEVICE):
            model = LlamaForCausalLM(LlamaConfig(**values, max_position_embeddings=8192, rope_parameters={"rope_type": "default", "rope_theta": 5e5}))  # fmt: skip
    finally:
        torch.set_default_dtype(before)
    return model.eval()


def random_groups(size: Size) -> list[Group]:
    """Prompts with their responses; lengths spread by a half around the mean, as real ones do."""
    rng, vocabulary = np.random.default_rng(0), SHAPES[size.shape]["vocab_size"]

    def ids(mean: int) -> list[int]:
        tokens = rng.integers(0, vocabulary, int(rng.integers(mean // 2, mean * 3 // 2 + 1)))
        return [int(token) for token in tokens]

    return [Group(ids(size.prompt_tokens), [ids(size.response_tokens) for _ in range(size.samples)]) for _ in range(size.prompts)]  # fmt: skip


def seconds_of(run: Callable[[], Any], rounds: int = 3) -> float:
    """Median over rounds, the device's work included, after one to warm up."""
    taken = []
    for _ in range(rounds + 1):
        wait()
        started = time.perf_counter()
        run()
        wait()
        taken.append(time.perf_counter() - started)
    return statistics.median(taken[1:])


def wait() -> None:
    if DEVICE == "cuda":
        torch.cuda.synchronize()


def product_rate(tiny: bool) -> float:
    """FLOP/s of a large bfloat16 matrix product on random numbers."""
    side = 512 if tiny else 8192
    left, right = (torch.randn(side, side, device=DEVICE, dtype=torch.bfloat16) for _ in range(2))
    return 2 * side**3 / seconds_of(lambda: left @ right, 10)


def peak_gb() -> float | None:
    return round(torch.cuda.max_memory_allocated() / 1e9, 2) if DEVICE == "cuda" else None


@contextlib.contextmanager
def freshly_counted() -> Iterator[None]:
    gc.collect()
    if DEVICE == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    yield


def machine(tiny: bool) -> Figures:
    """What the device is and what it reaches: product FLOP/s, and bytes per second of a copy, read and written."""
    numbers = torch.empty(10**6 if tiny else 2 * 10**9, device=DEVICE, dtype=torch.bfloat16)
    copied = torch.empty_like(numbers)
    copy = 2 * numbers.nbytes / seconds_of(lambda: copied.copy_(numbers), 5)
    versions = {name: version(name) for name in ("torch", "transformers", "trl", "peft")}
    return {"tflops": round(product_rate(tiny) / 1e12, 1), "copy_tb_s": round(copy / 1e12, 2), **versions}


def correctness(tiny: bool) -> Figures:
    """Largest deviations in nats per token: packs from the model's own forward in float32 (the bound is 2e-5), and in bfloat16."""
    size = Size("tiny", 3, 3, 12, 20) if tiny else Size("1B", 4, 4, 200, 400)
    groups = random_groups(size)
    lengths = np.array([len(y) for group in groups for y in group.completions])
    model: Any = random_model(size.shape, torch.float32)
    scorer = CompletionScorer(model)
    own = np.concatenate(score_naively(model, groups))
    packed = np.concatenate(scorer.score(groups))
    model = model.to(torch.bfloat16)
    half = CompletionScorer(model)
    half_packed, half_own = np.concatenate(half.score(groups)), np.concatenate(score_naively(model, groups))

    def largest(one: Any, other: Any) -> float:
        return float(f"{(np.abs(one - other) / lengths).max():.2g}")

    return {
        "packed": scorer.packed and half.packed, "why_not_packed": scorer.why_not_packed or half.why_not_packed,
        "float32_from_own": largest(packed, own), "bfloat16_from_own": largest(half_packed, half_own),
        "bfloat16_from_float32": largest(half_packed, packed), "own_bfloat16_from_float32": largest(half_own, packed),
    }  # fmt: skip


def scoring(shape: str) -> Callable[[bool], Figures]:
    """Packs beside the loop that users write (batches of three in data order, padded on the right), on the same texts."""

    def measure(tiny: bool) -> Figures:
        from icr_platform.annotation.config import AnnotateConfig
        from icr_platform.planning.capacity import Work

        size = size_of(tiny, shape)
        groups, rate = random_groups(size), product_rate(tiny)
        model = random_model(size.shape, torch.bfloat16)
        scorer = CompletionScorer(model)
        operations = needed_operations(model, groups)
        with freshly_counted():
            ours = seconds_of(lambda: scorer.score(groups), 2)
            peak = peak_gb()
        scorer.compile_blocks()
        compiled = seconds_of(lambda: scorer.score(groups), 2)
        few = groups[:3]
        naive = seconds_of(lambda: score_naively(model, few), 1) * operations / needed_operations(model, few)
        tokens = sum(len(y) for group in groups for y in group.completions)

        work = Work("annotate", tokens, size.prompt_tokens, scored=tokens)
        predicted = predicted_gb(work, {"annotate": AnnotateConfig()}, model.config, 2)
        return {
            "shape": size.shape, "packed": scorer.packed, "response_tokens": tokens, "tokens_per_s": round(tokens / ours),
            "compiled_tokens_per_s": round(tokens / compiled), "mfu_of_product_rate": round(operations / ours / rate, 3), "times_naive": round(naive / ours, 2),
            "peak_gb": peak, "predicted_gb": predicted, "pack_tokens": scorer.pack_tokens,
        }  # fmt: skip

    return measure


def predicted_gb(work: Any, stages: Mapping[str, Any], config: Any, weight_bytes: int) -> float:
    """What `icr check` predicts as the peak of a stage on this device. stages: settings of the stages that the prediction looks at."""
    from icr_platform.planning.capacity import DEVICES, memory_of, model_shape

    with torch.device("meta"):
        parameters = sum(parameter.numel() for parameter in LlamaForCausalLM(config).parameters())
    device = None if DEVICE == "cpu" else DEVICES["H100"]  # whatever the GPU is: its size does not enter
    return round(
        memory_of(work, SimpleNamespace(**stages), model_shape(config, parameters), weight_bytes, device, 1) / 1e9, 2
    )


def attention(tiny: bool) -> Figures:
    """Response tokens per second of packs, and of the naive loop with each attention that transformers has here."""
    size = size_of(tiny, "1B")
    groups, model = random_groups(size), random_model(size.shape, torch.bfloat16)
    scorer = CompletionScorer(model)

    def speed(score: Callable[[Sequence[Group]], Any], some: Sequence[Group]) -> int:
        tokens = sum(len(completion) for group in some for completion in group.completions)
        return round(tokens / seconds_of(lambda: score(some), 1))

    packed, own = speed(scorer.score, groups), {}
    for name in ("eager", "sdpa", "flash_attention_2"):
        if name == "flash_attention_2" and not find_spec("flash_attn"):
            continue
        model.set_attn_implementation(name)
        own[name] = speed(lambda some: score_naively(model, some), groups[:2])
    return {
        "shape": size.shape, "packed": scorer.packed, "packed_tokens_per_s": packed, "own_tokens_per_s": own,
        "fastest": max({"packed": packed, **own}.items(), key=lambda pair: pair[1])[0],
    }  # fmt: skip


def write_model(folder: Path, shape: str) -> Path:
    """A model folder with a tokenizer whose ids are the first of the vocabulary."""
    model = random_model(shape, torch.bfloat16)
    tokenizer = chatml_tokenizer()
    model.config.eos_token_id, model.config.pad_token_id = tokenizer.eos_token_id, tokenizer.pad_token_id
    model.generation_config.eos_token_id, model.generation_config.pad_token_id = tokenizer.eos_token_id, tokenizer.pad_token_id  # fmt: skip
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def sampling(tiny: bool) -> Figures:
    """Tokens per second of the built-in sampler, and of vLLM's own `generate` where vLLM is installed."""
    from icr_platform.core.config import CHAT_DEFAULTS
    from icr_platform.engines.sampling.choice import make_sampler
    from icr_platform.engines.sampling.sampler import Dropped, Request
    from icr_platform.engines.sampling.settings import SamplingSettings

    count, tokens = (4, 12) if tiny else (32, 256)
    found: Figures = {"shape": "tiny" if tiny else "1B", "prompts": count, "max_tokens": tokens}
    with tempfile.TemporaryDirectory() as work:
        policy = str(write_model(Path(work) / "model", found["shape"]))
        requests = [Request("en", f"p{i}", f"Say a number, such as {i}.") for i in range(count)]
        for engine in ("transformers", "vllm"):
            if engine == "vllm" and not find_spec("vllm"):
                found["vllm"] = "not installed"
                continue
            values = {"sampler": engine, "samples": 4, "max_tokens": tokens, "device": DEVICE, "batch_size": 128}
            sampler = make_sampler(SamplingSettings.model_validate(values), policy, CHAT_DEFAULTS)
            list(sampler.sample_shards(iter([requests[:2]]), 1, 0))
            wait()
            started = time.perf_counter()
            shards = list(sampler.sample_shards(iter([requests]), 4, 1))
            wait()
            rows = [row for shard in shards for row in shard if not isinstance(row, Dropped)]
            sampled = sum(len(sample.token_ids) for row in rows for sample in row)
            found[engine] = {"tokens_per_s": round(sampled / (time.perf_counter() - started)), "tokens": sampled}
    return found


def training(shape: str, lora_rank: int, is_compiled: bool = False) -> Callable[[bool], Figures]:
    """`icr train` on random pairs: a step's tokens per second, and peak memory beside what `icr check` predicts."""

    def measure(tiny: bool) -> Figures:
        from icr_platform.core.stage_protocol import StageContext
        from icr_platform.engines.sampling.settings import SamplingSettings
        from icr_platform.planning.capacity import Work
        from icr_platform.training.config import TrainConfig
        from icr_platform.training.stage import read, run

        size, rate = size_of(tiny, shape), product_rate(tiny)
        ends: list[float] = []
        with tempfile.TemporaryDirectory() as name:
            work = Path(name)
            policy = write_model(work / "model", size.shape)
            gc.collect()
            sequences = write_random_pairs(work / "preferences", 64, size)
            config = TrainConfig(
                policy=str(policy), preferences=str(work / "preferences"), device=DEVICE, learning_rate=1e-5, batch_size=4,
                accumulation=2, lora_rank=lora_rank, gradient_checkpointing=not tiny, dtype="bfloat16",
                torch_compile=is_compiled,
            )  # fmt: skip
            with freshly_counted():
                started = time.perf_counter()
                run(
                    read(config),
                    StageContext(work / "out", "rehearsal", lambda _, __: ends.append(time.perf_counter())),
                )
                wall = time.perf_counter() - started
                peak = peak_gb()
            model = LlamaConfig.from_pretrained(policy)
        step = statistics.median(np.diff(ends))
        weights = matmul_weights(model)
        tokens = sequences / 8  # of a step, in which 8 of the 64 pairs are
        stages = {"train": config, "generate": SamplingSettings(max_tokens=size.response_tokens)}
        predicted = predicted_gb(Work("train", 64, size.prompt_tokens, trained=sequences), stages, model, 2)
        return {
            "shape": size.shape, "lora_rank": lora_rank, "is_compiled": is_compiled, "stage_s": round(wall, 1), "step_s": round(step, 3),
            "tokens_per_s": round(tokens / step), "peak_gb": peak, "predicted_gb": predicted,
            "mfu_of_product_rate": round((4 if lora_rank else 6) * weights * tokens / step / rate, 3),
        }  # fmt: skip

    return measure


def matmul_weights(config: LlamaConfig) -> int:
    """Weights that multiply every token of a Llama."""
    with torch.device("meta"):
        model = LlamaForCausalLM(config)
    head = 0 if config.tie_word_embeddings else config.vocab_size * config.hidden_size
    return sum(parameter.numel() for parameter in model.parameters()) - head


def write_random_pairs(folder: Path, count: int, size: Size) -> int:
    """A preferences artifact of random ids; returns the tokens of its chosen and rejected sequences, prompts included."""
    import pyarrow as pa

    from icr_platform.core.artifacts import ArtifactWriter
    from icr_platform.core.schemas import PREFERENCES

    rng, rows, instruction = np.random.default_rng(0), [], "say " * (size.prompt_tokens // 4)
    prompt = len(encode_prompt(chatml_tokenizer(), instruction))
    for i in range(count):
        chosen, rejected = (rng.integers(0, 300, size.response_tokens).tolist() for _ in range(2))
        rows.append({
            "language": "en", "prompt_id": f"p{i:03d}", "instruction": instruction, "english_instruction": instruction,
            "chosen": "a", "rejected": "b", "chosen_index": 0, "rejected_index": 1, "chosen_reward": 1.0, "rejected_reward": 0.5,
            "margin": 0.5, "length_penalty_alpha": 0.0, "chosen_characters": 1, "rejected_characters": 1,
            "chosen_token_ids": chosen, "rejected_token_ids": rejected,
        })  # fmt: skip
    writer = ArtifactWriter(folder, PREFERENCES, "rehearsal")
    writer.write_part(0, pa.Table.from_pylist(rows))
    writer.close(1)
    return 2 * count * (prompt + size.response_tokens)


def iteration(tiny: bool) -> Figures:
    """One iteration of the demo through `icr iterate` on the device, MLflow included."""
    with tempfile.TemporaryDirectory() as work:
        places = [f"--{stage}.device={DEVICE}" for stage in ("generate", "annotate", "train", "eval")]
        fewer = ["--limit", "12", "--eval-limit", "12"] if tiny else []
        command = [
            sys.executable,
            "-m",
            "icr_platform",
            "iterate",
            "--config",
            "demo",
            "--iterations",
            "1",
            *fewer,
            *places,
        ]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "MLFLOW_DISABLE_TELEMETRY": "true"}
        started = time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True, cwd=work, env=environment)
        seconds = time.perf_counter() - started
        if done.returncode:
            raise SystemExit(done.stderr[-600:])
    last = [line.strip() for line in done.stdout.splitlines() if line.strip()][-12:]
    return {"command": "icr iterate --config demo --iterations 1", "iterate_s": round(seconds, 1), "last_lines": last}


PARTS: dict[str, Callable[[bool], Figures]] = {
    "machine": machine,
    "correctness": correctness,
    "attention": attention,
    "score-1B": scoring("1B"),
    "score-8B": scoring("8B"),
    "sample": sampling,
    "train-1B": training("1B", 0),
    "train-1B-compiled": training("1B", 0, True),
    "train-1B-lora": training("1B", 16),
    "iteration": iteration,
}
"""In the order in which they run: what a later part needs is not made by an earlier one."""

ROWS: dict[str, Callable[[Figures], str]] = {
    "attention": row_of_attention,
    "score-1B": row_of_scoring,
    "score-8B": row_of_scoring,
    "sample": row_of_sampling,
    "train-1B": row_of_training,
    "train-1B-compiled": row_of_training,
    "train-1B-lora": row_of_training,
    "iteration": row_of_iteration,
}
"""A part's row in README's table."""


if __name__ == "__main__":
    main()
