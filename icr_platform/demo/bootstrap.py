"""Everything the demo's `iterate` needs, made on the spot: prompts, pi_ref, pi_0, English preferences, reference outputs; a reward model.

`python -m icr_platform.demo.bootstrap --output DIR` rebuilds the SFT checkpoint that ships next to this file.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Callable
from pathlib import Path

from icr_platform.core.artifacts import MANIFEST, read_json, text_digest, write_json
from icr_platform.core.config import CHAT_DEFAULTS
from icr_platform.core.stage_protocol import StageContext
from icr_platform.data.json_rows import json_rows
from icr_platform.data.text_preferences import TextPair, write_text_preferences
from icr_platform.demo.authors import english_preferences
from icr_platform.demo.grader import grade
from icr_platform.demo.lexicon import LANGUAGES
from icr_platform.demo.reward_model import RECIPE, build_reward_model
from icr_platform.demo.world import write_prompts
from icr_platform.engines.execution.forks import done_beside
from icr_platform.engines.sampling.settings import SamplingSettings
from icr_platform.models.loading import load_model, load_tokenizer
from icr_platform.models.model_identity import model_identity
from icr_platform.training.config import TrainConfig

SFT = Path(__file__).parent / "sft"
"""The checkpoint that ships: 0.72 million weights in bfloat16, under 2 MB with its tokenizer."""
SFT_SEED = 0

ENGLISH_PAIRS = 320
"""Enough for DPO to change English; `tests/benchmarks/bench_demo_effect.py --english-pairs N` tries other numbers."""
_PI_0 = {"learning_rate": 2e-4, "batch_size": 32, "accumulation": 1, "gamma": 0.0, "warmup": 0.0, "dtype": "float32"}
_REFERENCE_OUTPUTS = SamplingSettings(
    samples=1, temperature=0.9, max_tokens=64, batch_size=512, dtype="float32", device="cpu"
)
_REFERENCE_SEED = 1_000_000  # apart from every seed that a policy is evaluated with


def prepare(folder: Path, seed: int, english_pairs: int = ENGLISH_PAIRS) -> Path:
    """Make the demo's inputs in `folder`, once; about 10 seconds of one core.

    Args:
        folder: receives `prompts/icr`, `prompts/test`, `reference` (pi_ref), `policy` (pi_0), `english_preferences` and `outputs`
            (pi_ref's, one a test prompt, to compare with).
        seed: of the English preferences, the order they are trained in, and the reference outputs.
        english_pairs: pairs that pi_0 is trained on, in one epoch.

    Returns:
        `folder`. A folder of the same recipe that is finished is returned as it is.
    """
    recipe = text_digest(model_identity(str(SFT)), str(seed), str(english_pairs), repr(_PI_0), repr(_REFERENCE_OUTPUTS))
    return _made_once(folder, MANIFEST, recipe, lambda unfinished: _fill(unfinished, seed, english_pairs))


def prepare_reward_model(folder: Path, seed: int, english_pairs: int = ENGLISH_PAIRS) -> Path:
    """Make `reward_model` in `folder`, once, from the pairs that pi_0 is trained on; a few seconds of one core."""
    recipe = text_digest(model_identity(str(SFT)), str(seed), str(english_pairs), repr(RECIPE))
    pairs = english_preferences(seed, english_pairs)
    return _made_once(
        folder / "reward_model",
        ".recipe.json",
        recipe,
        lambda unfinished: build_reward_model(SFT, pairs, seed, unfinished),
    )


def _made_once(folder: Path, said: str, recipe: str, fill: Callable[[Path], None]) -> Path:
    """The folder, filled unless it is there and finished, by the same recipe, which the file `said` keeps."""
    from filelock import FileLock

    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(f".{folder.name}.lock")):
        manifest = folder / said
        if manifest.exists() and read_json(manifest).get("recipe") == recipe:
            return folder
        # Under another name until it is complete: a killed process leaves nothing that looks finished.
        unfinished = folder.with_name(f".{folder.name}.unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        fill(unfinished)
        write_json(unfinished / said, {"recipe": recipe})
        shutil.rmtree(folder, ignore_errors=True)
        unfinished.rename(folder)
    return folder


def _fill(folder: Path, seed: int, english_pairs: int) -> None:
    from icr_platform.training.stage import run

    for split in ("icr", "test"):
        write_prompts(folder / "prompts" / split, split)

    # pi_ref is the checkpoint that ships, which is bfloat16 to be small; everything here computes in float32.
    reference = folder / "reference"
    tokenizer = load_tokenizer(str(SFT), CHAT_DEFAULTS)
    load_model(str(SFT), "float32", "cpu").save_pretrained(reference)
    tokenizer.save_pretrained(reference)

    # The grades stand for what a person would say of the English pairs: the only supervision that any policy here gets.
    pairs = english_preferences(seed, english_pairs)
    graded = [
        TextPair(
            prompt_id=f"{pair.prompt_id}-{number}",
            instruction=pair.instruction,
            chosen=pair.chosen,
            rejected=pair.rejected,
            chosen_reward=grade(pair.prompt_id, "en", pair.chosen),
            rejected_reward=grade(pair.prompt_id, "en", pair.rejected),
        )
        for number, pair in enumerate(pairs)
    ]
    write_text_preferences(graded, folder / "english_preferences", tokenizer, text_digest("demo", repr(pairs)))

    # pi_0: DPO of pi_ref on these pairs alone, by the platform's own `train`.
    config = TrainConfig(
        policy=str(reference), preferences=str(folder / "english_preferences"), seed=seed, device="cpu", **_PI_0
    )
    with done_beside(lambda: _write_reference_outputs(folder, seed), "demo: outputs"):
        trained = run(config, StageContext(folder / "pi_0", text_digest("demo", str(seed))))
    trained.artifacts["checkpoint"].rename(folder / "policy")
    shutil.rmtree(folder / "pi_0")


def _write_reference_outputs(folder: Path, seed: int) -> None:
    """What pi_ref answers to the test prompts, in the layout of X-AlpacaEval's outputs."""
    from icr_platform.engines.sampling.choice import make_sampler
    from icr_platform.engines.sampling.sampler import Dropped, Request

    sampler = make_sampler(_REFERENCE_OUTPUTS, str(folder / "reference"), CHAT_DEFAULTS)
    (folder / "outputs").mkdir()
    for language in LANGUAGES:
        prompts = [row for _, row in json_rows(folder / "prompts" / "test" / f"{language}.jsonl", "id and instruction")]
        requests = [Request(language, prompt["id"], prompt["instruction"]) for prompt in prompts]
        samples = sampler.sample(requests, 1, _REFERENCE_SEED + seed)
        rows = [
            {"generator": "demo-sft", **prompt, "output": sampled[0].text}
            for prompt, sampled in zip(prompts, samples, strict=True)
            if not isinstance(sampled, Dropped)
        ]
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (folder / "outputs" / f"{language}.jsonl").write_text(text, encoding="utf-8")


def build_sft(folder: Path, seed: int = SFT_SEED, conversations: int | None = None) -> None:
    """Train the SFT checkpoint from scratch and write it to `folder` in bfloat16; about four minutes of one core.

    The same seed gives the same bytes on one machine; on another processor the last bits of sums may differ.
    """
    import torch

    from icr_platform.demo.pretraining import CONVERSATIONS, train_sft

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # more threads add floats in another order
    try:
        model, tokenizer = train_sft(seed, conversations or CONVERSATIONS)
    finally:
        torch.set_num_threads(threads)
    model.bfloat16().save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def main() -> None:
    """Rebuild the SFT checkpoint."""
    parser = argparse.ArgumentParser(description=build_sft.__doc__)
    parser.add_argument("--output", type=Path, required=True, help="folder of the checkpoint")
    parser.add_argument("--seed", type=int, default=SFT_SEED, help="seed of the texts and the weights")
    arguments = parser.parse_args()
    build_sft(arguments.output, arguments.seed)


if __name__ == "__main__":
    main()
