"""The samplers against the engines under them: `model.generate` of transformers, `LLM.generate` of vLLM.

OMP_NUM_THREADS=1 python tests/benchmarks/bench_generate.py [--model FOLDER] [--prompts FOLDER] [--json PATH]
python tests/benchmarks/bench_generate.py --engine vllm --model FOLDER [--limit 4] [--rounds 3] [--json PATH]

Both sample with temperature 0.9 at most 64 tokens, 8 samples a prompt; default: the demo's ICR prompts in five languages.
transformers (default model: the demo's SFT model): in batches of the same rows. CPU seconds, the least of three runs: other
work on the machine adds to wall time, not to them. `generate` is given no per-row seeds, which would cost it more.
vLLM: two loaded engines, in turns; ours writes the responses' Parquet parts, language identification included, bare
`LLM.generate` gets all token ids at once and the same seeds, as one request of 8 samples a prompt, or 8 requests. Seconds a
token; medians over rounds, ratios within a round; CPU seconds are of this process and the engine's.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import pyarrow as pa
import pyarrow.compute as pc
import torch

import icr_platform.demo
from icr_platform.core.artifacts import ArtifactWriter
from icr_platform.core.part_job import write_part
from icr_platform.core.schemas import DROPS, RESPONSES
from icr_platform.data.prompts import load_prompts
from icr_platform.demo.world import write_prompts
from icr_platform.engines.identification.language_id import make_identifier
from icr_platform.engines.sampling.choice import make_sampler
from icr_platform.engines.sampling.response_parts import prompt_slices, sample_parts
from icr_platform.engines.sampling.sampler import Request
from icr_platform.engines.sampling.settings import SamplingSettings
from icr_platform.engines.sampling.transformers_sampler import TransformersSampler
from icr_platform.models.chat import encode_prompt, stop_ids
from icr_platform.models.loading import generation_eos
from tests.support.answers import answers

SAMPLES, MAX_TOKENS, TEMPERATURE = 8, 64, 0.9


class Run(NamedTuple):
    tokens: int
    cpu_seconds: float


def ours(sampler: TransformersSampler, requests: Sequence[Request]) -> int:
    """Tokens sampled, stop tokens included."""
    return sum(
        len(sample.token_ids) for samples in answers(sampler.sample(requests, SAMPLES, seed=0)) for sample in samples
    )


def batches(sampler: TransformersSampler, requests: Sequence[Request]) -> Iterator[list[list[int]]]:
    """The prompts' ids, a row per sample, longest first, as the sampler batches them."""
    rows = sorted((encode_prompt(sampler.tokenizer, r.instruction) for r in requests for _ in range(SAMPLES)), key=len)
    for start in range(0, len(rows), sampler.batch_size):
        yield rows[::-1][start : start + sampler.batch_size]


def theirs(sampler: TransformersSampler, requests: Sequence[Request]) -> int:
    """The same with `generate`."""
    tokens = 0
    for rows in batches(sampler, requests):
        length = max(map(len, rows))
        ids = torch.tensor([[0] * (length - len(row)) + row for row in rows])
        mask = torch.tensor([[0] * (length - len(row)) + [1] * len(row) for row in rows])
        stops = sorted(sampler.stops)
        generate: Any = sampler.model.generate
        output = generate(
            ids, attention_mask=mask, do_sample=True, temperature=TEMPERATURE, top_k=0, max_new_tokens=MAX_TOKENS,
            eos_token_id=stops, pad_token_id=stops[0],
        )[:, length:]  # fmt: skip
        ended = torch.isin(output, torch.tensor(stops)).int()
        tokens += int(((ended.cumsum(-1) - ended) == 0).sum())
    return tokens


def measure(function: Callable[[TransformersSampler, Sequence[Request]], int], sampler: TransformersSampler,
            shards: Sequence[Sequence[Request]]) -> Run:  # fmt: skip
    """The fastest of three runs over all shards."""
    runs = []
    for _ in range(3):
        start = time.process_time()
        tokens = sum(function(sampler, shard) for shard in shards)
        runs.append(Run(tokens, time.process_time() - start))
    return min(runs, key=lambda run: run.cpu_seconds)


def read_shards(prompts: Path | None, limit: int | None) -> list[list[Request]]:
    """A shard per language."""
    table = read_prompts(prompts, limit).select(["language", "prompt_id", "instruction"])
    requests = [Request(**row) for row in table.to_pylist()]
    return [[r for r in requests if r.language == code] for code in dict.fromkeys(r.language for r in requests)]


class Cost(NamedTuple):
    """Seconds of one vLLM run, and its tokens."""

    tokens: int
    wall: float
    cpu: float


def compare_with_vllm(model: str, prompts: pa.Table, shard_prompts: int, rounds: int) -> list[dict[str, Any]]:
    """Ours, `LLM.generate` with 8 samples a request, and with 8 requests a prompt, in turns."""
    settings = SamplingSettings(
        sampler="vllm",
        samples=SAMPLES,
        max_tokens=MAX_TOKENS,
        temperature=TEMPERATURE,
        max_model_len=512,
        gpu_memory=0.2,
    )
    sampler = make_sampler(settings, model)
    bare, ids, parameters = load_bare_vllm(settings, model, sampler, prompts)
    slices, identifier = list(prompt_slices(prompts, shard_prompts)), make_identifier("langid")

    def ours() -> int:
        with tempfile.TemporaryDirectory() as folder:
            writers = [ArtifactWriter(Path(folder) / table.name, table, "bench") for table in (DROPS, RESPONSES)]
            tokens = 0
            for index, part in enumerate(sample_parts(sampler, identifier, slices, SAMPLES, 0)):
                write_part(writers, index, (part.drops, part.responses))
                tokens += pc.sum(part.responses["token_count"]).as_py()
        return tokens

    def whole() -> int:
        outputs = bare.generate(ids, parameters, use_tqdm=False)
        return sum(len(completion.token_ids) for output in outputs for completion in output.outputs)

    def split() -> int:
        rows = [
            (prompt, one_sample(given, k))
            for prompt, given in zip(ids, parameters, strict=True)
            for k in range(SAMPLES)
        ]
        outputs = bare.generate([prompt for prompt, _ in rows], [given for _, given in rows], use_tqdm=False)
        return sum(len(output.outputs[0].token_ids) for output in outputs)

    contenders = {"ours": ours, "LLM.generate, n": whole, "LLM.generate, a request a sample": split}
    costs: dict[str, list[Cost]] = {name: [] for name in contenders}
    for round_ in range(rounds + 1):
        for name, run in contenders.items():
            cost = cost_of(run)
            if round_:  # the first one warms up
                costs[name].append(cost)
    return [summary(name, listed, costs["LLM.generate, n"]) for name, listed in costs.items()]


def load_bare_vllm(settings: SamplingSettings, model: str, sampler: Any, prompts: pa.Table) -> tuple[Any, Any, Any]:
    """An engine with the same settings; the prompts' ids and parameters as the sampler asks for them."""
    from vllm import LLM, SamplingParams

    bare = LLM(
        model=model, dtype="float32", max_model_len=settings.max_model_len, enforce_eager=True,
        gpu_memory_utilization=settings.gpu_memory, enable_prefix_caching=True, generation_config="vllm",
    )  # fmt: skip
    asked = [
        sampler._prompt(Request(**row), SAMPLES, 0)
        for row in prompts.select(["language", "prompt_id", "instruction"]).to_pylist()
    ]
    parameters = [
        SamplingParams(
            n=SAMPLES, temperature=TEMPERATURE, max_tokens=prompt.max_tokens, seed=prompt.seed, detokenize=False,
            stop_token_ids=stop_ids(sampler.tokenizer, generation_eos(model)),
        )
        for prompt in asked
    ]  # fmt: skip
    return bare, [{"prompt_token_ids": prompt.ids} for prompt in asked], parameters


def one_sample(parameters: Any, index: int) -> Any:
    given = parameters.clone()
    given.n, given.seed = 1, parameters.seed + index
    return given


def cost_of(run: Callable[[], int]) -> Cost:
    process = psutil.Process()

    def cpu() -> float:
        times = [each.cpu_times() for each in (process, *process.children(recursive=True))]
        return sum(each.user + each.system for each in times)

    wall, before = time.perf_counter(), cpu()
    tokens = run()
    return Cost(tokens, time.perf_counter() - wall, cpu() - before)


def summary(name: str, costs: Sequence[Cost], bare: Sequence[Cost]) -> dict[str, Any]:
    pairs = list(zip(costs, bare, strict=True))
    return {
        "way": name,
        "tokens": statistics.median(cost.tokens for cost in costs),
        "tokens_per_second": statistics.median(cost.tokens / cost.wall for cost in costs),
        "wall_over_bare": statistics.median((a.wall / a.tokens) / (b.wall / b.tokens) for a, b in pairs),
        "cpu_over_bare": statistics.median((a.cpu / a.tokens) / (b.cpu / b.tokens) for a, b in pairs),
        "runs": [cost._asdict() for cost in costs],
    }


def read_prompts(prompts: Path | None, limit: int | None) -> pa.Table:
    with tempfile.TemporaryDirectory() as folder:
        if prompts is None:
            write_prompts(Path(folder), "icr")
        return load_prompts(str(prompts or folder), limit=limit).table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=str(Path(icr_platform.demo.__file__).parent / "sft"))
    parser.add_argument("--prompts", type=Path, help="prompt folder; default: the demo's ICR prompts")
    parser.add_argument("--limit", type=int, default=48, help="prompts per language")
    parser.add_argument("--engine", choices=("transformers", "vllm"), default="transformers")
    parser.add_argument("--rounds", type=int, default=3, help="measured rounds, with vllm")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    results = (with_vllm if options.engine == "vllm" else with_transformers)(options)
    if options.json:
        options.json.write_text(json.dumps(results, indent=1), encoding="utf-8")


def with_vllm(options: argparse.Namespace) -> list[dict[str, Any]]:
    prompts = read_prompts(options.prompts, options.limit)
    results = compare_with_vllm(options.model, prompts, max(1, options.limit // 2), options.rounds)
    print(f"{prompts.num_rows} prompts x {SAMPLES}, {options.rounds} rounds, load {os.getloadavg()[0]:.1f}\n")
    print("| way | tokens | tokens/s | wall / LLM.generate | CPU / LLM.generate |\n|---|---|---|---|---|")
    for row in results:
        print(
            f"| {row['way']} | {row['tokens']:.0f} | {row['tokens_per_second']:.0f} | {row['wall_over_bare']:.3f} "
            f"| {row['cpu_over_bare']:.3f} |"
        )
    return results


def with_transformers(options: argparse.Namespace) -> list[dict[str, Any]]:
    shards = read_shards(options.prompts, options.limit)
    print(
        f"{sum(map(len, shards))} prompts x {SAMPLES}\n\n| batch | way | tokens | CPU seconds | tokens/s |\n|---|---|---|---|---|"
    )
    results = []
    for batch_size in (64, 512):
        settings = SamplingSettings(
            samples=SAMPLES, max_tokens=MAX_TOKENS, temperature=TEMPERATURE, batch_size=batch_size, device="cpu"
        )
        sampler = make_sampler(settings, options.model)
        assert isinstance(sampler, TransformersSampler)
        for name, function in (("ours", ours), ("generate", theirs)):
            run = measure(function, sampler, shards)
            rate = run.tokens / run.cpu_seconds
            print(f"| {batch_size} | {name} | {run.tokens} | {run.cpu_seconds:.1f} | {rate:.0f} |", flush=True)
            results.append({"batch_size": batch_size, "way": name, **run._asdict()})
    return results


if __name__ == "__main__":
    main()
