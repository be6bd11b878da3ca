"""The samplers against the engines under them: transformers' `generate` and continuous batching, vLLM's `LLM.generate`.

    OMP_NUM_THREADS=1 python tests/benchmarks/bench_sampling.py [--model FOLDER] [--prompts 200] [--most 256] [--rounds 3] [--json PATH]
    python tests/benchmarks/bench_sampling.py --vllm --model FOLDER [--limit 4] [--rounds 3] [--json PATH]

transformers (default model: the demo's SFT model), three workloads whose prompts are pieces of this folder's README:

mixed       200 prompts of 16 to 512 tokens, one greedy response each, of 8 to 256 tokens (both log-uniform)
samples     a tenth of the prompts, ten samples each at temperature 0.9, as long as before
even        as mixed, each response of the mean length: what of the gain is not due to responses of different lengths

A response ends at its own budget, so that all ways make equally many tokens. Batches of `generate` have 64 rows, longest prompts first.
Ways take turns in one process; CPU seconds of all threads, medians over rounds, ratios within a round. Loading and whatever is done
once in a process (oneDNN's layout of the weights, probes) is not measured. Greedy responses are compared with `generate`'s, token by token.
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
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.compute as pc
import torch
from transformers import ContinuousBatchingConfig, GenerationConfig, PreTrainedModel, StoppingCriteria

import icr_platform.demo
from icr_platform.core.artifacts import ArtifactWriter
from icr_platform.core.part_job import write_part
from icr_platform.core.schemas import DROPS, RESPONSES
from icr_platform.data.prompts import load_prompts
from icr_platform.demo.world import write_prompts
from icr_platform.engines.identification.language_id import make_identifier
from icr_platform.engines.sampling.choice import make_sampler
from icr_platform.engines.sampling.decoding import Decoder, Row
from icr_platform.engines.sampling.response_parts import PromptSlices, sample_parts
from icr_platform.engines.sampling.sampler import Request
from icr_platform.engines.sampling.settings import SamplingSettings
from icr_platform.models.chat import stop_ids
from icr_platform.models.loading import generation_eos, load_model, load_tokenizer

TEXT = Path(__file__).with_name("README.md")
SAMPLES, MAX_TOKENS, TEMPERATURE = 8, 64, 0.9  # with vLLM
BATCH = 64


class Budgets(StoppingCriteria):
    """Ends each row of a batch at its own budget."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self.ends = torch.tensor([row.budget for row in rows]) + max(len(row.prompt_ids) for row in rows)

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        return self.ends <= input_ids.shape[1]


Responses = list[list[int]]


def ours(model: PreTrainedModel, decoder: Decoder, rows: Sequence[Row]) -> Responses:
    found: Responses = [[] for _ in rows]
    decoder.decode(rows, BATCH, found.__setitem__)
    return found


def generated(model: PreTrainedModel, decoder: Decoder, rows: Sequence[Row]) -> Responses:
    """By `generate`, in batches padded on the left."""
    found: Responses = [[] for _ in rows]
    order = sorted(range(len(rows)), key=lambda index: -len(rows[index].prompt_ids))
    for start in range(0, len(order), BATCH):
        batch = [rows[index] for index in order[start : start + BATCH]]
        length = max(len(row.prompt_ids) for row in batch)
        ids = torch.tensor([[0] * (length - len(row.prompt_ids)) + list(row.prompt_ids) for row in batch])
        mask = torch.tensor([[0] * (length - len(row.prompt_ids)) + [1] * len(row.prompt_ids) for row in batch])
        generate: Any = model.generate
        output = generate(
            ids,
            attention_mask=mask,
            generation_config=own_config(batch),
            stopping_criteria=[Budgets(batch)],
        )[:, length:]
        for index, tokens in zip(order[start : start + BATCH], output.tolist(), strict=True):
            found[index] = tokens[: rows[index].budget]
    return found


def continuously(model: PreTrainedModel, decoder: Decoder, rows: Sequence[Row]) -> Responses:
    """By transformers' continuous batching, longest prompts first."""
    order = sorted(range(len(rows)), key=lambda index: -len(rows[index].prompt_ids))
    longest = max(len(row.prompt_ids) + row.budget for row in rows)
    pages = -(-longest // 64)
    options = ContinuousBatchingConfig(
        page_size=64, num_blocks=BATCH * pages, max_batch_tokens=1024, max_requests_per_batch=BATCH,
        use_cuda_graph=False, use_async_batching=False,
    )  # fmt: skip
    manage: Any = model.continuous_batching_context_manager
    answers: dict[str, list[int]] = {}
    before = model.config._attn_implementation
    try:
        with manage(
            generation_config=own_config(rows), continuous_batching_config=options, timeout=5, warmup=False
        ) as manager:
            for index in order:
                manager.add_request(list(rows[index].prompt_ids), str(index), max_new_tokens=rows[index].budget)
            while len(answers) < len(rows):
                result = manager.get_result(timeout=1)
                if result is not None and result.is_finished():
                    answers[result.request_id] = result.generated_tokens
                elif result is None and not manager.is_running():
                    raise RuntimeError("its thread ended")
    finally:
        model.set_attn_implementation(before)
    return [answers[str(index)] for index in range(len(rows))]


WAYS: dict[str, Callable[[PreTrainedModel, Decoder, Sequence[Row]], Responses]] = {
    "ours": ours,
    "generate": generated,
    "continuous batching": continuously,
}


def own_config(rows: Sequence[Row]) -> GenerationConfig:
    """Greedy, or sampling at the rows' temperature; rows end at their budgets alone."""
    warm: dict[str, Any] = {"do_sample": True, "temperature": rows[0].temperature, "top_k": 0}
    options = warm if rows[0].temperature else {"do_sample": False}
    return GenerationConfig(max_new_tokens=max(row.budget for row in rows), pad_token_id=0, eos_token_id=[], **options)


def workloads(model: str, prompts: int, most: int, context: int) -> dict[str, list[Row]]:
    random = np.random.default_rng(0)
    ids = load_tokenizer(model)(TEXT.read_text(encoding="utf-8"))["input_ids"]
    longest = min(512, context - most)

    def lengths(least: int, largest: int, count: int) -> list[int]:
        return [int(each) for each in np.exp(random.uniform(np.log(least), np.log(largest), count))]

    starts = random.integers(1, len(ids) - longest, prompts)
    texts = [
        (ids[0], *ids[start : start + length - 1])  # the first may be one that begins every text
        for start, length in zip(starts, lengths(16, longest, prompts), strict=True)
    ]
    budgets = lengths(8, most, prompts)
    mean = int(np.mean(budgets))
    few = max(1, prompts // 10)
    return {
        "mixed": [Row(text, 0, budget, 0.0) for text, budget in zip(texts, budgets, strict=True)],
        "samples": [
            Row(texts[index % few], index, budget, TEMPERATURE) for index, budget in enumerate(budgets[: 10 * few])
        ],
        "even": [Row(text, 0, mean, 0.0) for text in texts],
    }


def with_transformers(options: argparse.Namespace) -> list[dict[str, Any]]:
    model = load_model(options.model, "float32", "cpu")
    decoder = Decoder(model, SamplingSettings(), ())
    context = int(getattr(model.config.get_text_config(), "max_position_embeddings", 4096))
    print("| workload | way | tokens | CPU s | tokens/s | ours is faster by | responses as by generate |")
    print("|---|---|---|---|---|---|---|")
    results = []
    for workload, rows in workloads(options.model, options.prompts, options.most, context).items():
        if options.workload and workload not in options.workload:
            continue
        ours(model, decoder, rows[:2])
        times: dict[str, list[float]] = {way: [] for way in options.way}
        found: dict[str, Responses] = {}
        for _ in range(options.rounds):
            for way in options.way:
                start = time.process_time()
                found[way] = WAYS[way](model, decoder, rows)
                times[way].append(time.process_time() - start)
        for way, seconds in times.items():
            tokens = sum(map(len, found[way]))
            assert tokens == sum(row.budget for row in rows), way
            gain = statistics.median(one / own for one, own in zip(seconds, times["ours"], strict=True))
            equal = "-"
            if not rows[0].temperature and "generate" in found:
                equal = f"{sum(a == b for a, b in zip(found[way], found['generate'], strict=True))} of {len(rows)}"
            middle = statistics.median(seconds)
            print(
                f"| {workload} | {way} | {tokens} | {middle:.1f} | {tokens / middle:.0f} | {gain:.2f} | {equal} |",
                flush=True,
            )
            results.append({"workload": workload, "way": way, "tokens": tokens, "cpu_seconds": seconds, "equal": equal})
    return results


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
    slices, identifier = PromptSlices(prompts, shard_prompts), make_identifier("langid")

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


def with_vllm(options: argparse.Namespace) -> list[dict[str, Any]]:
    prompts = read_prompts(options.texts, options.limit)
    results = compare_with_vllm(options.model, prompts, max(1, options.limit // 2), options.rounds)
    print(f"{prompts.num_rows} prompts x {SAMPLES}, {options.rounds} rounds, load {os.getloadavg()[0]:.1f}\n")
    print("| way | tokens | tokens/s | wall / LLM.generate | CPU / LLM.generate |\n|---|---|---|---|---|")
    for row in results:
        print(
            f"| {row['way']} | {row['tokens']:.0f} | {row['tokens_per_second']:.0f} | {row['wall_over_bare']:.3f} "
            f"| {row['cpu_over_bare']:.3f} |"
        )
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=str(Path(icr_platform.demo.__file__).parent / "sft"))
    parser.add_argument("--prompts", type=int, default=200)
    parser.add_argument("--most", type=int, default=256, help="tokens of the longest response")
    parser.add_argument("--workload", action="append", help="default: all")
    parser.add_argument("--way", action="append", choices=WAYS, help="default: all; give 'ours' too")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--vllm", action="store_true")
    parser.add_argument("--texts", type=Path, help="prompt folder, with vllm; default: the demo's ICR prompts")
    parser.add_argument("--limit", type=int, default=48, help="prompts per language, with vllm")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    options.way = options.way or list(WAYS)
    results = (with_vllm if options.vllm else with_transformers)(options)
    if options.json:
        options.json.write_text(json.dumps(results, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
