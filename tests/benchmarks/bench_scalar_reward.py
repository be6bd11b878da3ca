"""Scalar rewards: equality with a naive loop, speed against batches of one, and memory of many responses.

python tests/benchmarks/bench_scalar_reward.py [--responses 10000 100000] [--json PATH]

Scored are texts of 10 to 200 tokens, in the order of a data set, by a random Llama and a random BERT of three sizes: the smaller the model, the
more of a batch of one is spent on calls.
Annotated are prompts with ten responses of 3 to 20 words each, by a model of two layers whose own memory hides no growth; every count of
responses in a process of its own, whose peak is compared.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from icr_platform.annotation import stage
from icr_platform.annotation.config import AnnotateConfig
from icr_platform.core.artifacts import ArtifactWriter, open_artifact
from icr_platform.core.schemas import RESPONSES, REWARDS
from icr_platform.core.stage_protocol import StageContext
from icr_platform.engines.scoring.reward_texts import RewardText
from icr_platform.engines.scoring.scalar_scores import ScalarScorer
from tests.support.peak_memory import peak_bytes
from tests.support.tiny_models import RESPONSES as SENTENCES
from tests.support.tiny_reward_models import build_reward_model, naive_score, save_reward_model

SIZES: dict[str, dict[str, Any]] = {
    "2 layers of 32": {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4},
    "2 layers of 64": {"hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 2, "num_attention_heads": 4},
    "4 layers of 128": {"hidden_size": 128, "intermediate_size": 320, "num_hidden_layers": 4, "num_attention_heads": 4},
}
SAMPLES, PROMPTS_A_PART = 10, 256


def scored(family: str, sizes: dict[str, Any], texts: int) -> dict[str, float]:
    """Tokens a second in batches, in batches of one, and by the model's own forward of each text, from which batches differ by so much."""
    model = build_reward_model(family, **sizes)
    rng = np.random.default_rng(0)
    rows = [RewardText(tuple(rng.integers(16, 400, size).tolist())) for size in rng.integers(10, 200, texts)]
    tokens = sum(len(row.token_ids) for row in rows)
    scorers = {name: ScalarScorer(model, size) for name, size in (("batched", 8192), ("batches of one", 1))}
    ways: dict[str, Callable[[list[RewardText]], Any]] = {name: scorer.score for name, scorer in scorers.items()}
    ways["the model's own forward"] = lambda texts: [naive_score(model, list(row.token_ids)) for row in texts]
    found, seconds = {}, {}
    for name, score in ways.items():
        score(rows[:8])
        # Processor time, the least of three: other work on the machine stretches the clock's.
        spent = []
        for _ in range(3):
            start = time.process_time()
            found[name] = np.array(score(rows))
            spent.append(time.process_time() - start)
        seconds[name] = min(spent)
    naive = found["the model's own forward"]
    return {
        **{f"{name}, tokens/s": tokens / spent for name, spent in seconds.items()},
        "times as fast": min(spent for name, spent in seconds.items() if name != "batched") / seconds["batched"],
        "largest difference": float(np.abs(found["batched"] - naive).max()),
        "standard deviation of scores": float(naive.std()),
    }


def write_responses(folder: Path, responses: int) -> tuple[Path, Path]:
    """Prompts and an artifact of ten responses each, all of them different."""
    import pyarrow as pa

    rng = np.random.default_rng(1)
    words = " ".join(SENTENCES["en"]).split()
    prompts, writer = responses // SAMPLES, ArtifactWriter(folder / "responses", RESPONSES, "bench")
    (folder / "prompts").mkdir()
    with (folder / "prompts/en.jsonl").open("w") as file:
        for prompt in range(prompts):
            file.write(
                json.dumps({"id": f"p{prompt}", "instruction": f"Write about {words[prompt % len(words)]}."}) + "\n"
            )
    parts = range(0, prompts, PROMPTS_A_PART)
    for part, first in enumerate(parts):
        rows = []
        for prompt in range(first, min(first + PROMPTS_A_PART, prompts)):
            for sample in range(SAMPLES):
                text = " ".join(rng.choice(words, rng.integers(3, 20))) + f" {prompt} {sample}"
                rows.append({
                    "language": "en", "prompt_id": f"p{prompt}", "sample_index": sample, "response": text, "token_ids": [1],
                    "finish_reason": "stop", "token_ids_source": "sampler", "token_count": 1, "character_count": len(text),
                    "detected_language": "en", "language_confidence": 0.9,
                })  # fmt: skip
        writer.write_part(part, pa.Table.from_pylist(rows, schema=RESPONSES.schema))
    writer.close(len(parts))
    return folder / "prompts", folder / "responses"


def annotated(responses: int) -> dict[str, float]:
    """Annotate so many responses by a reward model alone, in this process."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        model = save_reward_model(folder / "model")
        prompts, artifact = write_responses(folder, responses)
        config = AnnotateConfig(
            prompts=str(prompts), responses=str(artifact), reward_model=str(model), reward_kind="scalar", device="cpu"
        )
        inputs = stage.read(config)
        assert isinstance(inputs, stage.AnnotateInputs)
        before, start, used = peak_bytes(), time.perf_counter(), time.process_time()
        stage.run(inputs, StageContext(folder / "out", "bench"))
        rewards = open_artifact(folder / "out/rewards", REWARDS)
        assert rewards.rows == responses
        return {
            "responses": responses,
            "CPU seconds": time.process_time() - used,
            "seconds": time.perf_counter() - start,
            "peak, MB": peak_bytes() / 1e6,
            "before it began, MB": before / 1e6,
        }


def show(name: str, figures: dict[str, float]) -> None:
    print(name, {key: float(f"{value:.3g}") for key, value in figures.items()}, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--responses", type=int, nargs="*", default=[10_000, 100_000], help="annotated, each count apart"
    )
    parser.add_argument("--texts", type=int, default=400, help="scored in both ways")
    parser.add_argument("--json", type=Path, help="where to write the figures")
    parser.add_argument("--annotate", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.annotate:
        print(json.dumps(annotated(arguments.annotate)))
        return
    figures: dict[str, Any] = {}
    for size, sizes in SIZES.items() if arguments.texts else ():
        for family in ("Llama", "Bert"):
            figures[f"{family}, {size}"] = scored(family, sizes, arguments.texts)
            show(f"{family}, {size}", figures[f"{family}, {size}"])
    for count in arguments.responses:
        command = [sys.executable, __file__, "--annotate", str(count)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        name = f"{count:,} responses"
        figures[name] = json.loads(done.stdout.splitlines()[-1])
        show(name, figures[name])
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
