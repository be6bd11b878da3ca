"""Families of causal models through the stages: generate, annotate, one training step, eval.

    python tests/benchmarks/bench_architectures.py [FAMILY ...]     # writes architectures.csv when no family is named

Those of the table are the decoders that people train and align, with every kind of layer that transformers has: attention over all
tokens or a window, with sinks, latent, indexed or compressed; experts; convolutions, linear attention and state spaces, alone and mixed.

The models are tiny and random, all in this one process, and what the stages' functions do with them is recorded: `pass`, or the line
by which `read` refuses them. Anything else is a crash, and makes the script end with status 1.
"""

from __future__ import annotations

import argparse
import csv
import json
import logging
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import transformers
from transformers import PreTrainedConfig

from icr_platform.annotation import stage as annotation
from icr_platform.annotation.config import AnnotateConfig
from icr_platform.core.errors import InputError
from icr_platform.core.stage_protocol import StageContext
from icr_platform.demo import IDENTIFIER
from icr_platform.evaluation import stage as evaluation
from icr_platform.evaluation.config import EvalConfig
from icr_platform.generation import stage as generation
from icr_platform.generation.config import GenerateConfig
from icr_platform.models.small_copy import build_random, small_config
from icr_platform.training import stage as training
from icr_platform.training.config import TrainConfig
from tests.benchmarks.bench_families import SETTINGS, families
from tests.support.small_tables import write_preferences, write_prompt_folder
from tests.support.tiny_models import PROMPTS, chatml_tokenizer

TABLE = Path(__file__).with_name("architectures.csv")
FAMILIES = (
    "afmoe apertus arcee axk2 bamba bart bert bitnet bloom codegen cohere cohere2 cohere2_moe dbrx deepseek_v2 deepseek_v3 deepseek_v32 "
    "deepseek_v4 diffllama doge dots1 ernie4_5_moe exaone4 exaone_moe falcon falcon_h1 falcon_mamba gemma gemma2 gemma3 gemma3_text "
    "gemma3n_text gemma4_text glm4 glm4_moe glm_moe_dsa gpt2 gpt_bigcode gpt_neo gpt_neox gpt_oss gptj granite granite_swa granitemoe "
    "granitemoehybrid helium hunyuan_v1_moe jamba jetmoe kimi_linear laguna lfm2 lfm2_moe llama llama4_text longcat_flash mamba mamba2 minimax "
    "minimax_m2 ministral mistral mixtral mpt nanochat nemotron nemotron_h olmo2 olmo3 olmo_hybrid olmoe opt phi phi3 phimoe qwen2 "
    "qwen2_moe qwen3 qwen3_5 qwen3_5_moe_text qwen3_5_text qwen3_moe qwen3_next recurrent_gemma rwkv seed_oss smollm3 stablelm starcoder2 "
    "vaultgemma xglm xlstm zamba zamba2 zaya"
)
STAGES = ("generate", "annotate", "train", "eval")
_JUDGE = "- role: user\n  content: '{instruction} m: {output_m} M: {output_M} m or M?'\n"


@dataclass
class Outcome:
    """A row of the table: what each stage made of a family."""

    family: str
    generate: str = "-"
    annotate: str = "-"
    train: str = "-"
    eval: str = "-"
    because: str = ""

    @property
    def crashed(self) -> bool:
        return "crash" in (self.generate, self.annotate, self.train, self.eval)


def save(folder: Path, kind: Any, config_class: type[Any], seed: int) -> Path:
    """A random model of a family, as a decoder with the tokenizer of the tests, cut small, in a folder."""
    tokenizer = chatml_tokenizer()
    config = config_class()
    config = config if kind.config_class is config_class else config.get_text_config()
    small = small_config(config, "all" if config.model_type == "phi4_multimodal" else "text")
    if not getattr(small, "is_decoder", True):
        small.is_decoder = True
    for name, value in SETTINGS.get(config_class.model_type, {}).items():
        if isinstance(value, dict) and isinstance(getattr(small, name, None), PreTrainedConfig):
            vars(getattr(small, name)).update(value)
        else:
            setattr(small, name, value)
    ids = {"bos_token_id": None, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    for part in (small, small.get_text_config()):
        vars(part).update(ids)
    small.get_text_config().vocab_size = len(tokenizer)
    build_random(kind, small, seed).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


class Data:
    """What the stages read besides the models, made once."""

    def __init__(self, folder: Path) -> None:
        self.prompts = write_prompt_folder(folder / "prompts")
        self.outputs = folder / "outputs"
        self.outputs.mkdir()
        for language, texts in PROMPTS.items():
            rows = [{"id": f"p{i}", "instruction": text, "output": "An apple."} for i, text in enumerate(texts)]
            (self.outputs / f"{language}.json").write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")
        self.template = folder / "judge.yaml"
        self.template.write_text(_JUDGE)
        chatml_tokenizer().save_pretrained(folder / "tokenizer")
        self.preferences = write_preferences(folder / "preferences", folder / "tokenizer", count=2)


def through_the_stages(family: str, kind: Any, config_class: type[Any], data: Data, work: Path) -> Outcome:
    """Run a family through all stages; each reads the one before, and a stage that is refused leaves the others to go on."""
    outcome = Outcome(family)
    try:
        policy, reference = (str(save(work / f"model-{seed}", kind, config_class, seed)) for seed in (1, 2))
    except Exception as error:  # noqa: BLE001 - whatever a family's code raises
        outcome.because = f"not built: {type(error).__name__}: {' '.join(str(error).split())[:120]}"
        return outcome
    run_stages(outcome, policy, reference, data, work)
    return outcome


def run_stages(
    outcome: Outcome, policy: str, reference: str, data: Data, work: Path, common: Any = (), training_settings: Any = ()
) -> None:
    """Run two models through all stages. common, training_settings: of every stage, and of the training, on top of these."""
    common = {"policy": policy, "device": "cpu", "dtype": "float32", **dict(common)}
    sampling: dict[str, Any] = {
        "language_identifier": IDENTIFIER, "prompts": str(data.prompts), "languages": ("en",), "samples": 2,
        "max_tokens": 5, "batch_size": 4,
    }  # fmt: skip
    stages: dict[str, tuple[Any, Any]] = {
        "generate": (generation, GenerateConfig(**common, **sampling)),
        "annotate": (
            annotation,
            AnnotateConfig(
                **common, reference=reference, prompts=str(data.prompts), responses=str(work / "generate/responses"),
                drop_truncated=False, language_confidence=1.0,
            ),
        ),
        "train": (
            training,
            TrainConfig(
                **common, preferences=str(data.preferences), reference=reference, dpo_reference="initial",
                batch_size=2,
                accumulation=1,
                learning_rate=1e-3,
                schedule="constant",
                gradient_checkpointing=False,
                **dict(training_settings),
            ),
        ),
        "eval": (
            evaluation,
            EvalConfig(
                **common, **{**sampling, "samples": 1}, reference_outputs=str(data.outputs), judge="logprob",
                judge_model=reference, judge_template=str(data.template), judge_min_mass=0.0,
            ),
        ),
    }  # fmt: skip
    for name, (stage, config) in stages.items():
        try:
            inputs = stage.read(config)
        except InputError as error:
            setattr(outcome, name, "refused")
            outcome.because = outcome.because or str(error).replace(str(work), "...")
            continue
        except Exception as error:  # noqa: BLE001 - that is what is looked for
            crashed(outcome, name, error, work)
            continue
        try:
            stage.run(inputs, StageContext(work / name, f"{outcome.family}-{name}"))
            setattr(outcome, name, "pass")
        except Exception as error:  # noqa: BLE001 - that is what is looked for
            crashed(outcome, name, error, work)


def crashed(outcome: Outcome, stage: str, error: Exception, work: Path) -> None:
    setattr(outcome, stage, "crash")
    said = f"{stage}: {type(error).__name__}: {' '.join(str(error).split())}".replace(str(work), "...")
    outcome.because = f"{outcome.because} {said}".strip()[:600]
    if "-v" in sys.argv:
        traceback.print_exception(error)


def sweep(only: set[str]) -> Iterator[Outcome]:
    """A row for every family that is named."""
    with tempfile.TemporaryDirectory() as folder:
        data = Data(Path(folder))
        for family, kind, config_class in families():
            if family in only:
                only.remove(family)  # some are listed twice
                with tempfile.TemporaryDirectory() as work:
                    yield through_the_stages(family, kind, config_class, data, Path(work))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("family", nargs="*")
    parser.add_argument("-v", action="store_true", help="print the traceback of a crash")
    named = parser.parse_args().family
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    logging.getLogger("icr_platform").setLevel(logging.ERROR)
    outcomes = []
    for outcome in sweep(set(named or FAMILIES.split())):
        print(time.strftime("%X"), *asdict(outcome).values(), sep=" | ", flush=True)
        outcomes.append(outcome)
    passed = sum(all(getattr(outcome, stage) == "pass" for stage in STAGES) for outcome in outcomes)
    crashes = sum(outcome.crashed for outcome in outcomes)
    print(f"{len(outcomes)} families, {passed} pass, {crashes} crash; transformers {transformers.__version__}")
    if not named:
        with TABLE.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, [one.name for one in fields(Outcome)], lineterminator="\n")
            writer.writeheader()
            writer.writerows(asdict(outcome) for outcome in outcomes)
    sys.exit(1 if crashes else 0)


if __name__ == "__main__":
    main()
