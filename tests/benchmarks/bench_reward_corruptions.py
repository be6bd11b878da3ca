"""What a reward learned from English pairs sees in other languages: accuracy per corruption and language, against length.

ICR_SMOLLM2=FOLDER ICR_SHARED=../shared python tests/benchmarks/bench_reward_corruptions.py smollm2 FOLDER [--prompts 16] [--pairs 64]
python tests/benchmarks/bench_reward_corruptions.py demo FOLDER

`smollm2`: `icr train` (LoRA) makes the policy: SmolLM2-135M-Instruct after one pass over English pairs of an answer of gpt-4-turbo and the same
answer corrupted in one of five ways (never by an answer in another language, which no English pair could teach). `icr reward-bench
--corrupt` then asks (policy, SmolLM2) about the answers of gpt-4-turbo to other prompts, the same in nine languages: the shortest with
two sentences or more (half as many in Thai and Bengali, whose texts take SmolLM2 four times as many tokens). SmolLM2 was trained on
English: how well the reward does elsewhere is what English pairs alone carry over.

`demo`: pi_0 and pi_ref of the demo world, about pi_ref's answers to the test prompts in its five languages.

A run goes on where it was stopped. The CSV has a row for each language, corruption and kind, `length` (the longer one) among the kinds; a run
replaces the rows of its models, and README's tables are made from them anew.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from icr_platform.demo import bootstrap as demo
from icr_platform.evaluation.corruptions import GivenOutput, corrupt
from icr_platform.evaluation.sentences import sentences
from tests.support.readme_tables import put_table
from tests.support.real_data import shared_folder

LANGUAGES = ("en", "de", "es", "fr", "ru", "sw", "zh", "th", "bn")
MODEL = "gpt-4-turbo-2024-04-09"
COSTLY = ("th", "bn")
OTHERS = "mean_non_english"
TAUGHT = ("cut", "shuffled", "other-prompt", "looped", "number")
COLUMNS = ("models", "language", "corruption", "kind", "accuracy", "low", "high", "n", "ties")

Rows = dict[str, dict[str, Any]]


def main() -> None:
    """Prepare, train, measure."""
    parser = argparse.ArgumentParser()
    parser.add_argument("models", choices=("smollm2", "demo"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--prompts", type=int, default=16, help="of smollm2: answers to corrupt in each language")
    parser.add_argument("--pairs", type=int, default=64, help="of smollm2: English pairs to train on")
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--csv", type=Path, default=Path(__file__).with_name("reward_corruptions.csv"))
    parser.add_argument("--readme", type=Path, default=Path(__file__).with_name("README.md"))
    given = parser.parse_args()
    folder = given.folder.resolve()
    if given.models == "demo":
        world = demo.prepare(folder / "demo", given.seed)
        policy, reference = world / "policy", world / "reference"
        outputs, prompts = world / "outputs", world / "prompts" / "test"
    else:
        reference = Path(os.environ.get("ICR_SMOLLM2", "missing"))
        if not reference.is_dir() or not (shared_folder() / "outputs").is_dir():
            sys.exit("skipped: needs real outputs (set ICR_SHARED) and SmolLM2-135M-Instruct (set ICR_SMOLLM2)")
        if not (folder / "prompts").is_dir():
            prepare(folder, reference, given.prompts, given.pairs, given.seed)
        icr(
            "train", "--policy", str(reference), "--preferences", str(folder / "pairs"), "--lora-rank", "16", "--learning-rate", "2e-4",
            "--batch-size", "4", "--accumulation", "1", "--max-length", "512", "--output", str(folder / "policy"),
        )  # fmt: skip
        policy, outputs, prompts = folder / "policy" / "checkpoint", folder / "outputs", folder / "prompts"
    icr(
        "reward-bench", "--policy", str(policy), "--reference", str(reference), "--corrupt", str(outputs), "--prompts", str(prompts),
        "--reward-kind", "cross-lingual,multilingual", "--shard-pairs", "64", "--seed", str(given.seed), "--output", str(folder / "bench"),
    )  # fmt: skip
    write_rows(folder / "bench" / "reward_bench" / "accuracy.csv", given.models, given.csv)
    put_table(given.readme, f"reward_corruptions_{given.models}", table_of(given.csv, given.models))


def icr(*arguments: str) -> None:
    """Run a command as a person does."""
    print("icr", *arguments, flush=True)
    subprocess.run([sys.executable, "-m", "icr_platform", *arguments], check=True)


def write_rows(accuracy: Path, models: str, table: Path) -> None:
    """Keep the accuracies of the corruptions, by language and over languages, beside those of other models."""
    with accuracy.open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["source"] == "corruptions" and row["category"]]
    kept: list[Mapping[str, str]] = []
    if table.exists():
        with table.open(encoding="utf-8", newline="") as file:
            kept = [row for row in csv.DictReader(file) if row["models"] != models]
    with table.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(kept)
        for row in rows:
            figures = {name: f"{float(row[name]):.1f}" for name in ("accuracy", "low", "high")}
            said = {name: row[name] for name in ("language", "kind", "n", "ties")}
            writer.writerow({"models": models, "corruption": row["category"], **said, **figures})


def table_of(path: Path, models: str) -> str:
    """Accuracies with their intervals, by corruption: in English, and over the other languages."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["models"] == models]
    found = {(row["corruption"], row["kind"], row["language"]): row for row in rows}
    columns = [("cross-lingual", "en"), ("cross-lingual", OTHERS), ("multilingual", OTHERS), ("length", OTHERS)]
    lines = [
        "| corruption | cross-lingual, en | cross-lingual, others | multilingual, others | the longer one, others | n, others |",
        "|" + "---|" * (len(columns) + 2),
    ]
    for corruption in (*TAUGHT, "other-language"):
        if ("cross-lingual", OTHERS) in {key[1:] for key in found if key[0] == corruption}:
            cells = [found[corruption, *column] for column in columns]
            shown = " | ".join(f"{cell['accuracy']} ({cell['low']} to {cell['high']})" for cell in cells)
            lines.append(f"| {corruption} | {shown} | {cells[1]['n']} |")
    return "\n".join(lines)


def prepare(folder: Path, smollm2: Path, prompts: int, pairs: int, seed: int) -> None:
    """Write the English pairs, and prompts and outputs of the test; no prompt is in both."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(smollm2 / "tokenizer.json"))
    answers = {language: answers_in(language) for language in LANGUAGES}
    shared = [key for key in answers["en"] if all(key in answers[language] for language in LANGUAGES)]
    usable = [
        key for key in shared if all(len(sentences(answers[code][key]["output"], code)) > 1 for code in LANGUAGES)
    ]
    length = {key: len(tokenizer.encode("".join(answers[code][key]["output"] for code in LANGUAGES))) for key in usable}
    test = sorted(usable, key=lambda key: length[key])[:prompts]

    english = {key: row for key, row in answers["en"].items() if key not in test}
    short = sorted(english, key=lambda key: len(english[key]["output"]))
    outputs = [
        GivenOutput("en", key, english[key]["output"], instruction=english[key]["instruction"])
        for key in short
        if len(sentences(english[key]["output"], "en")) > 1
    ]
    made = {(pair.prompt_id, pair.corruption): pair for pair in corrupt(outputs, seed, TAUGHT).pairs}
    rows: list[Mapping[str, Any]] = []
    for index, output in enumerate(outputs):
        # Each answer is spoilt in the next way that can be applied to it, so that every way is taught about as often.
        ways = [TAUGHT[(index + step) % len(TAUGHT)] for step in range(len(TAUGHT))]
        pair = next((made[output.prompt_id, way] for way in ways if (output.prompt_id, way) in made), None)
        if pair is not None and len(rows) < pairs:
            asked = {"id": output.prompt_id, "instruction": output.instruction}
            rows.append({**asked, "chosen": pair.chosen, "rejected": pair.rejected})
    write(folder / "pairs" / "en.json", rows)
    for language in LANGUAGES:
        asked_for = [answers[language][key] for key in test[: (len(test) + 1) // 2 if language in COSTLY else None]]
        write(folder / "outputs" / f"{language}.json", asked_for)
        write(
            folder / "prompts" / f"{language}.json",
            [{"id": r["id"], "instruction": r["instruction"]} for r in asked_for],
        )


def answers_in(language: str) -> Rows:
    """Rows of a language by id. The English file has none: its rows are joined to the prompts by their instructions."""
    shared = shared_folder()
    prompts = json.loads((shared / "prompts" / "x-alpacaeval" / f"{language}.json").read_text(encoding="utf-8"))
    ids = {row["instruction"]: str(row["id"]) for row in prompts}
    rows = json.loads((shared / "outputs" / language / f"{MODEL}.json").read_text(encoding="utf-8"))
    keys = [str(row["id"]) if "id" in row else ids.get(row["instruction"]) for row in rows]
    return {
        key: {"id": key, "instruction": row["instruction"], "output": row["output"]}
        for key, row in zip(keys, rows, strict=True)
        if key is not None
    }


def write(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """A JSON array in a folder that may not exist yet."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(rows, ensure_ascii=False, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
