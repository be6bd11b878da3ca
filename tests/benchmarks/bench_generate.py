"""The transformers sampler against `model.generate`: the demo's SFT model, its ICR prompts in five languages, 8 samples each.

OMP_NUM_THREADS=1 python tests/benchmarks/bench_generate.py [--model FOLDER] [--prompts FOLDER] [--json PATH]

Both sample with temperature 0.9 at most 64 tokens, in batches of the same rows. CPU seconds, the least of three runs: other
work on the machine adds to wall time, not to them. `generate` is given no per-row seeds, which would cost it more.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch

import icr_platform.demo
from icr_platform.chat import encode_prompt
from icr_platform.config import GenerateSettings
from icr_platform.demo.world import write_prompts
from icr_platform.generation.prompts import load_prompts
from icr_platform.generation.sampler import Request, make_sampler
from icr_platform.generation.transformers_sampler import TransformersSampler

SAMPLES, MAX_TOKENS, TEMPERATURE = 8, 64, 0.9


class Run(NamedTuple):
    tokens: int
    cpu_seconds: float


def ours(sampler: TransformersSampler, requests: Sequence[Request]) -> int:
    """Tokens sampled, stop tokens included."""
    return sum(len(sample.token_ids) for samples in sampler.sample(requests, SAMPLES, seed=0) for sample in samples)


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
        output = sampler.model.generate(
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
    with tempfile.TemporaryDirectory() as folder:
        if prompts is None:
            write_prompts(Path(folder), "icr")
        table = load_prompts(str(prompts or folder), limit=limit).table.select(["language", "prompt_id", "instruction"])
    requests = [Request(**row) for row in table.to_pylist()]
    return [[r for r in requests if r.language == code] for code in dict.fromkeys(r.language for r in requests)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=str(Path(icr_platform.demo.__file__).parent / "sft"))
    parser.add_argument("--prompts", type=Path, help="prompt folder; default: the demo's ICR prompts")
    parser.add_argument("--limit", type=int, default=48, help="prompts per language")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    shards = read_shards(options.prompts, options.limit)
    print(
        f"{sum(map(len, shards))} prompts x {SAMPLES}\n\n| batch | way | tokens | CPU seconds | tokens/s |\n|---|---|---|---|---|"
    )
    results = []
    for batch_size in (64, 512):
        settings = GenerateSettings(
            samples=SAMPLES, max_tokens=MAX_TOKENS, temperature=TEMPERATURE, batch_size=batch_size, device="cpu"
        )
        sampler = make_sampler(settings, options.model)
        assert isinstance(sampler, TransformersSampler)
        for name, function in (("ours", ours), ("generate", theirs)):
            run = measure(function, sampler, shards)
            rate = run.tokens / run.cpu_seconds
            print(f"| {batch_size} | {name} | {run.tokens} | {run.cpu_seconds:.1f} | {rate:.0f} |", flush=True)
            results.append({"batch_size": batch_size, "way": name, **run._asdict()})
    if options.json:
        options.json.write_text(json.dumps(results, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
