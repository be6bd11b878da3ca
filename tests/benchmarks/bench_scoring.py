"""The scorer against its peers: `python tests/benchmarks/bench_scoring.py [MODEL ...] [--json FILE]`, on a CPU.

MODEL: folders of models; by default ICR_SMOLLM2. For each, two kinds of work: `short`, some prompts with ten responses of at most 64
tokens each, and `long`, one prompt with ten responses of at most 400; real English prompts under the Spanish reward instruction, real
Spanish outputs. In each round, in turns:

- ours, as a second of measurement chooses on this machine; without oneDNN at all; with torch's kernel of attention; with the LM head in one piece;
- batches: the same model as one that is not packed, in batches that share a prompt; one at a time: its own forward of each sequence,
  by torch's own products; and, where oneDNN is there, by its;
- the naive script: batches of 3 in data order, right padding, log-softmax of the whole vocabulary, one pass per sample index;
- TRL's reference log-probabilities; vLLM's prompt_logprobs where it is installed (its CPU seconds are its processes').

Beside them the floor: 2 FLOPs per weight and token that must be computed, attention left out, at the rate of float32
`torch.nn.functional.linear` in the same round, and at that of oneDNN, which is the higher one on AMD's processors. Seconds are medians over rounds; ratios are medians of ratios within a round. CPU
seconds are the ones to read on a machine that is not idle. Equality is with one sequence at a time. `--profile` adds where the time
of ours goes. GPU rows: `gpu_rehearsal.py`.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import psutil
import torch
from torch.nn.functional import linear
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from icr_platform.core.arrays import Floats
from icr_platform.core.languages import reward_instruction
from icr_platform.engines.scoring.batches import Sharing
from icr_platform.engines.scoring.cpu_linear import OneDnnLinears, has_onednn, product
from icr_platform.engines.scoring.logprobs import CompletionScorer, Group, find_sharing
from icr_platform.engines.scoring.machine_choice import measure as measured_choice
from icr_platform.engines.scoring.settings import RewardSettings
from icr_platform.models.chat import encode_prompt, encode_response

GENERATORS = ("gpt-4-turbo-2024-04-09", "gpt-4o-mini", "gpt-3.5-turbo-0125")
BATCH = 3


class Cost(NamedTuple):
    """Seconds of the wall clock and of all cores."""

    wall: float
    cpu: float


class Size(NamedTuple):
    """prompts: how many. longest: tokens of a response, at most."""

    prompts: int
    longest: int


WORK = {"short": Size(4, 64), "long": Size(1, 400)}


class Work(NamedTuple):
    """What is scored: `texts` are the responses of each prompt, `groups` the same as token ids."""

    instructions: list[str]
    texts: list[list[str]]
    groups: list[Group]


def main() -> None:
    """Measure, print tables, write JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("models", nargs="*", default=[os.environ["ICR_SMOLLM2"]] if "ICR_SMOLLM2" in os.environ else [])
    parser.add_argument("--work", choices=WORK, nargs="+", default=list(WORK))
    parser.add_argument("--set", choices=("x-alpacaeval", "ultrafeedback"), default="x-alpacaeval")
    parser.add_argument("--prompts", type=int, help="prompts; by default 4 of short work, and 1 of long")
    parser.add_argument("--samples", type=int, default=10)
    parser.add_argument("--max-tokens", type=int, help="tokens of a response at most; by default 64 and 400")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--vllm", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    folder = Path(os.environ.get("ICR_SHARED", Path(__file__).parents[3] / "shared")) / "data"
    if not folder.is_dir() or not given.models:
        sys.exit(f"skipped: needs real texts ({folder}; set ICR_SHARED) and a model (name one, or set ICR_SMOLLM2)")
    torch.set_num_threads(given.threads)
    reports = []
    for name in given.models:
        tokenizer = AutoTokenizer.from_pretrained(name)
        model = AutoModelForCausalLM.from_pretrained(name, dtype=torch.float32).eval()
        vllm = load_vllm(name, given.threads) if given.vllm and find_spec("vllm") else None
        for kind in given.work:
            prompts, longest = given.prompts or WORK[kind].prompts, given.max_tokens or WORK[kind].longest
            work = load_work(folder, tokenizer, given.set, prompts, given.samples, longest)
            reports.append(
                measure(model, tokenizer, work, given.rounds, vllm) | {
                    "model": Path(name).name, "work": kind, "set": given.set, "threads": given.threads, "torch": torch.__version__,
                    "prompts": len(work.groups), "samples": given.samples,
                    "prompt_tokens": sum(len(group.prompt_ids) for group in work.groups),
                    "response_tokens": sum(len(y) for group in work.groups for y in group.completions),
                }
            )  # fmt: skip
            show(reports[-1])
            if given.profile:
                show_profile(model, work)
    if given.json:
        given.json.write_text(json.dumps(reports, indent=1) + "\n", encoding="utf-8")


def load_work(
    folder: Path, tokenizer: PreTrainedTokenizerBase, name: str, prompts: int, samples: int, longest: int
) -> Work:
    """Prompts spread over a set, each with `samples` outputs that follow one another in the pooled output files."""
    if name == "x-alpacaeval":
        rows = json.loads((folder / "prompts" / "x-alpacaeval" / "en.json").read_text(encoding="utf-8"))
    else:
        lines = (folder / "prompts" / "ultrafeedback-1000" / "en.jsonl").read_text(encoding="utf-8").splitlines()
        rows = [json.loads(line) for line in lines]
    files = [folder / "outputs" / "es" / f"{generator}.json" for generator in GENERATORS]
    columns = [[row["output"] for row in json.loads(file.read_text(encoding="utf-8"))] for file in files]
    outputs = [text for same_prompt in zip(*columns, strict=True) for text in same_prompt]
    instructions = [reward_instruction("es", row["instruction"]) for row in rows[:: len(rows) // prompts][:prompts]]
    texts, groups = [], []
    for index, instruction in enumerate(instructions):
        start = index * len(outputs) // len(instructions)
        ids = [encode_response(tokenizer, text)[:longest] for text in outputs[start : start + samples]]
        texts.append([str(tokenizer.decode(y, skip_special_tokens=True)) for y in ids])
        # A base model has no chat template, and is given the instruction as it is.
        is_chat = bool(tokenizer.chat_template)
        prompt = encode_prompt(tokenizer, instruction) if is_chat else list(tokenizer(instruction).input_ids)
        groups.append(Group(prompt, ids))
    return Work(instructions, texts, groups)


def load_vllm(name: str, threads: int) -> Any:
    """An engine on all cores; it would leave one to this process, which only waits."""
    os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", f"0-{threads - 1}")
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
    from vllm import LLM

    return LLM(model=name, dtype="float32", max_model_len=2048, enforce_eager=True, gpu_memory_utilization=0.2)


def score_with_vllm(engine: Any, groups: Sequence[Group]) -> list[Floats]:
    """All responses queued at once. vLLM computes each prompt anew: it takes no cached prefix where log-probs are asked for."""
    from vllm import SamplingParams

    rows = [(len(group.prompt_ids), [*group.prompt_ids, *y]) for group in groups for y in group.completions]
    outputs = engine.generate(
        [{"prompt_token_ids": ids} for _, ids in rows],
        SamplingParams(max_tokens=1, prompt_logprobs=0, detokenize=False),
        use_tqdm=False,
    )
    sums = iter(
        sum(output.prompt_logprobs[i][ids[i]].logprob for i in range(start, len(ids)))
        for (start, ids), output in zip(rows, outputs, strict=True)
    )
    return [np.array([next(sums) for _ in group.completions]) for group in groups]


def measure(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, work: Work, rounds: int, vllm: Any = None
) -> dict[str, Any]:
    """Run everything in turns, after two prompts' first responses to warm up."""
    scorer, through_mkl, in_one_piece, in_batches, in_turn, faster_in_turn = (CompletionScorer(model) for _ in range(6))
    scorer.use(measured_choice(scorer, RewardSettings(device="cpu", dtype="float32")))
    in_one_piece._plain_head = None
    in_one_piece._multiply_by(OneDnnLinears(model))
    for one in (through_mkl, in_turn):
        one.use(one.choice._replace(library="torch"))
    in_batches.packed = in_turn.packed = faster_in_turn.packed = False
    in_batches.sharing, in_turn.sharing, faster_in_turn.sharing = find_sharing(model), Sharing(), Sharing()
    trl_batches, trl_score = prepare_trl(model, tokenizer, work)
    scores: dict[str, list[Floats]] = {}

    def ours() -> None:
        scores["ours"] = scorer.score(work.groups)

    def torchs_attention() -> None:
        chosen = scorer.choice
        scorer.use(chosen._replace(attention="torch"))
        scorer.score(work.groups)
        scorer.use(chosen)

    def without_onednn() -> None:
        through_mkl.score(work.groups)

    def whole_head() -> None:
        in_one_piece.score(work.groups)

    def batches() -> None:
        scores["batches"] = in_batches.score(work.groups)

    def one_at_a_time() -> None:
        scores["one at a time"] = in_turn.score(work.groups)

    def faster_one_at_a_time() -> None:
        faster_in_turn.score(work.groups)

    def naive() -> None:
        scores["naive"] = score_naively(model, work.groups)

    def trl() -> None:
        for batch in trl_batches:
            trl_score(model, batch)

    def prompt_logprobs() -> None:
        scores["vLLM"] = score_with_vllm(vllm, work.groups)

    contenders = {
        "ours": ours, "ours, torch's attention": torchs_attention, "ours, MKL": without_onednn, "ours, whole head": whole_head, "batches": batches, "one at a time": one_at_a_time,
        "one at a time, oneDNN": faster_one_at_a_time, "naive script": naive, "TRL": trl,
    }  # fmt: skip
    if vllm is not None:
        contenders["vLLM"] = prompt_logprobs
    floors = {"floor": linear} | ({"floor, oneDNN": product} if has_onednn() else {})
    if not has_onednn():
        del contenders["one at a time, oneDNN"]
    costs: dict[str, list[Cost]] = {name: [] for name in (*contenders, *floors)}
    warm_up = [Group(group.prompt_ids, group.completions[:1]) for group in work.groups[:2]]
    scorer.score(warm_up)
    score_naively(model, warm_up)
    if vllm is not None:
        score_with_vllm(vllm, warm_up)
    operations = needed_operations(model, work.groups)
    for _ in range(rounds):
        rates = {name: gemm_rate(model, multiply) for name, multiply in floors.items()}
        for name, run in contenders.items():
            costs[name].append(timed(run))
        for name, multiply in floors.items():
            rate = (rates[name] + gemm_rate(model, multiply)) / 2
            costs[name].append(Cost(operations / rate[0], operations / rate[1]))
    lengths = np.array([len(y) for group in work.groups for y in group.completions])
    exact = np.concatenate(scores.pop("one at a time"))
    deviations = {
        name: float((np.abs(np.concatenate(listed) - exact) / lengths).max()) for name, listed in scores.items()
    }
    return {"rows": rows_of(costs), "packed": scorer.packed, "largest_deviation_per_token": deviations}


def timed(run: Callable[[], None]) -> Cost:
    wall, cpu = time.perf_counter(), cpu_seconds()
    run()
    return Cost(time.perf_counter() - wall, cpu_seconds() - cpu)


def cpu_seconds() -> float:
    """Of this process and those it started, which vLLM's engine is."""
    process = psutil.Process()
    times = [each.cpu_times() for each in (process, *process.children(recursive=True))]
    return float(sum(each.user + each.system for each in times))


def gemm_rate(
    model: PreTrainedModel, multiply: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] = linear
) -> Floats:
    """FLOPs per wall and per CPU second of products in the model's feed-forward shape, 512 tokens at once."""
    inner, hidden = model.config.intermediate_size, model.config.hidden_size
    weights = [(torch.randn(inner, hidden), torch.randn(hidden, inner)) for _ in range(8)]
    tokens, rounds = torch.randn(512, hidden), 20

    def run() -> None:
        for _ in range(rounds):
            for up, down in weights:
                multiply(multiply(tokens, up), down)

    run()
    return 4 * 512 * hidden * inner * len(weights) * rounds / np.array(timed(run))


def needed_operations(model: PreTrainedModel, groups: Sequence[Group]) -> float:
    """2 per weight and token: the body for prompts once and for responses, the LM head for what predicts a response token."""
    head = sum(parameter.numel() for parameter in model.get_output_embeddings().parameters())
    body = sum(parameter.numel() for parameter in model.parameters()) - sum(
        parameter.numel() for parameter in model.get_input_embeddings().parameters()
    )
    responses = sum(len(y) for group in groups for y in group.completions)
    return 2.0 * (body * (responses + sum(len(group.prompt_ids) for group in groups)) + head * responses)


def score_naively(model: PreTrainedModel, groups: Sequence[Group]) -> list[Floats]:
    """The script that users have, without its errors."""
    scores = [np.zeros(len(group.completions)) for group in groups]
    for sample in range(len(groups[0].completions)):
        for start in range(0, len(groups), BATCH):
            batch = [(group.prompt_ids, group.completions[sample]) for group in groups[start : start + BATCH]]
            longest = max(len(x) + len(y) for x, y in batch)
            ids, mask = torch.zeros(2, len(batch), longest, dtype=torch.long, device=model.device)
            for row, (x, y) in enumerate(batch):
                ids[row, : len(x) + len(y)], mask[row, : len(x) + len(y)] = torch.tensor([*x, *y]).to(ids), 1
            with torch.no_grad():
                logprobs = torch.log_softmax(model(input_ids=ids, attention_mask=mask).logits.float(), -1)
            picked = logprobs[:, :-1].gather(2, ids[:, 1:, None])[..., 0].double()
            for row, (x, y) in enumerate(batch):
                scores[start + row][sample] = float(picked[row, len(x) - 1 : len(x) + len(y) - 1].sum())
    return scores


def prepare_trl(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, work: Work
) -> tuple[list[Any], Callable[[Any, Any], Any]]:
    """TRL's batches, tokenised and padded, of the same responses as pairs, and what it calls to precompute the reference."""
    from datasets import Dataset
    from torch.utils.data import DataLoader
    from trl.trainer.dpo_config import DPOConfig
    from trl.trainer.dpo_trainer import DPOTrainer

    is_chat = bool(tokenizer.chat_template)

    def said(role: str, text: str) -> Any:
        return [{"role": role, "content": text}] if is_chat else text

    pairs = [
        {
            "prompt": said("user", instruction),
            "chosen": said("assistant", chosen),
            "rejected": said("assistant", rejected),
        }
        for instruction, texts in zip(work.instructions, work.texts, strict=True)
        for chosen, rejected in zip(texts[::2], texts[1::2], strict=False)
    ]
    trainer = DPOTrainer(
        model=model,
        args=DPOConfig(output_dir=tempfile.gettempdir(), use_cpu=True, bf16=False, max_length=None, report_to=[], disable_tqdm=True,
                       gradient_checkpointing=False, precompute_ref_log_probs=False),
        train_dataset=Dataset.from_list(pairs), processing_class=tokenizer,
    )  # fmt: skip
    rows: Any = trainer.train_dataset
    batches = list(DataLoader(rows, batch_size=2, collate_fn=trainer.data_collator))

    def score(reference: Any, batch: Any) -> None:
        with torch.no_grad():
            trainer.compute_ref_log_probs(reference, batch)

    return batches, score


def rows_of(costs: dict[str, list[Cost]]) -> list[dict[str, Any]]:
    """Medians by contender, and medians of ratios to ours within a round."""
    rows = []
    for name, listed in costs.items():
        ratios = [cost.cpu / ours.cpu for cost, ours in zip(listed, costs["ours"], strict=True)]
        walls = [cost.wall / ours.wall for cost, ours in zip(listed, costs["ours"], strict=True)]
        rows.append(
            {
                "name": name,
                "wall_s": statistics.median(cost.wall for cost in listed),
                "cpu_s": statistics.median(cost.cpu for cost in listed),
                "wall_over_ours": statistics.median(walls),
                "cpu_over_ours": statistics.median(ratios),
            }
        )
    return rows


def show(report: dict[str, Any]) -> None:
    """Print the table."""
    print(
        f"{report['model']}, {report['work']}: {report['prompts']} prompts ({report['prompt_tokens']} tokens) x {report['samples']} responses "
        f"({report['response_tokens']} tokens), {report['threads']} threads, torch {report['torch']}"
    )
    print(f"{'':<25}{'wall s':>9}{'CPU s':>9}{'response tokens/s':>19}{'wall / ours':>13}{'CPU / ours':>12}")
    for row in report["rows"]:
        rate = report["response_tokens"] / row["wall_s"]
        print(
            f"{row['name']:<25}{row['wall_s']:>9.2f}{row['cpu_s']:>9.2f}{rate:>19.0f}"
            f"{row['wall_over_ours']:>13.2f}{row['cpu_over_ours']:>12.2f}"
        )
    for name, deviation in report["largest_deviation_per_token"].items():
        print(f"largest deviation of {name} from one sequence at a time: {deviation:.1e} nats per token")
    ratios = {row["name"]: row["cpu_over_ours"] for row in report["rows"]}
    for name in (name for name in ratios if name.startswith("one at a time")):
        print(f"batches are {ratios[name] / ratios['batches']:.2f}x as fast as {name}")
    if "vLLM" not in ratios:
        print("vLLM: not measured here (not installed, or --no-vllm)")
    else:
        print(f"in CPU seconds {'ours' if ratios['vLLM'] > 1 else 'vLLM'} is faster: vLLM / ours {ratios['vLLM']:.2f}")
    shares = ", ".join(
        f"{100 * ratio:.0f}% of the {name}" for name, ratio in ratios.items() if name.startswith("floor")
    )
    print(f"ours: {shares}; load of the machine now {os.getloadavg()[0]:.1f}")


def show_profile(model: PreTrainedModel, work: Work) -> None:
    """Print which of torch's operations the time of ours goes to."""
    from torch.profiler import ProfilerActivity, profile

    scorer = CompletionScorer(model)
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        scorer.score(work.groups)
    print(profiler.key_averages().table(sort_by="self_cpu_time_total", row_limit=15, max_name_column_width=48))


if __name__ == "__main__":
    main()
