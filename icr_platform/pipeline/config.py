"""The configuration of `iterate`, all configurations by command, and presets."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import yaml

from icr_platform.annotation.config import AnnotateConfig, AnnotateSettings
from icr_platform.core.config import INPUTS, ChatSettings, Config, Languages, OptionalInt, setting, validate
from icr_platform.core.errors import InputError
from icr_platform.engines.sampling.settings import SamplingSettings
from icr_platform.evaluation.config import BenchmarksConfig, EvalConfig, EvalSettings, MtBenchConfig
from icr_platform.generation.config import GenerateConfig
from icr_platform.training.config import TrainConfig, TrainSettings


class IterateConfig(ChatSettings):
    """iterate: T times generate, annotate, train, eval."""

    heading = INPUTS

    arm: str = setting("icr", "name of this arm of the experiment, for charts and tables", "place")
    iterations: int = setting(2, "iterations T", ge=1)
    policy: str = setting("", "pi_0: the reference aligned on English preferences only", "model")
    reference: str = setting("", "pi_ref: the SFT model", "model")
    prompts: str = setting("", "training prompts", "input")
    languages: Languages = setting((), "training languages; empty: every language of the prompts")
    limit: OptionalInt = setting(None, "training prompts per language, the first ones; none: all")
    reward_reference: Literal["initial", "previous"] = setting(
        "initial", "reference of the reward: pi_ref, or the policy before (an ablation of the paper)"
    )
    eval_prompts: str = setting("", "evaluation prompts; empty: no evaluation", "input")
    reference_outputs: str = setting("", "outputs that the policy is compared with", "input")
    eval_languages: Languages = setting((), "evaluation languages; empty: every language of the evaluation prompts")
    eval_limit: OptionalInt = setting(None, "evaluation prompts per language; none: all")
    seed: int = setting(42, "seed of everything; each iteration derives its own", ge=0)
    output: str = setting("", "folder of all artifacts; empty: a work folder", "place")
    stage_processes: bool = setting(
        False, "run each stage in a process of its own, which surely frees GPU memory", "place"
    )
    keep_checkpoints: Literal["all", "last", "best"] = setting(
        "all",
        "trained weights to keep, the others are removed once nothing in this command needs them; best: of the highest mean win "
        "rate, or the last where nothing was judged",
        "place",
    )
    generate: SamplingSettings = setting(SamplingSettings(), "settings of generate")
    annotate: AnnotateSettings = setting(AnnotateSettings(), "settings of annotate")
    train: TrainSettings = setting(TrainSettings(), "settings of train")
    eval: EvalSettings = setting(EvalSettings(), "settings of eval")


STAGES: dict[str, type[Config]] = {
    "generate": GenerateConfig,
    "annotate": AnnotateConfig,
    "train": TrainConfig,
    "eval": EvalConfig,
    "mt_bench": MtBenchConfig,
    "benchmarks": BenchmarksConfig,
    "iterate": IterateConfig,
}


def load_preset(path: Path, stage: str) -> dict[str, Any]:
    """Nested values of a YAML preset for `stage`.

    A preset of `iterate` serves the single stages too: its section of that name, and the shared keys the stage has.

    Raises:
        InputError: no such file, no valid YAML, no mapping.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such preset; give a YAML file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not readable ({error}); give a YAML file") from error
    except yaml.YAMLError as error:
        raise InputError(f"{path}: no valid YAML ({' '.join(str(error).split())}); mend it") from error
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise InputError(f"{path}: holds no mapping of fields; write `field: value` lines")
    is_iterate = stage != "iterate" and any(isinstance(values.get(name), dict) for name in STAGES)
    return _section(values, stage, str(path)) if is_iterate else values


def _section(values: dict[str, Any], stage: str, source: str) -> dict[str, Any]:
    validate(IterateConfig, values, source)
    names = STAGES[stage].model_fields
    shared = {key: value for key, value in values.items() if key in names and key not in STAGES}
    if stage == "eval":
        renamed = {"prompts": "eval_prompts", "languages": "eval_languages", "limit": "eval_limit"}
        shared = {key: value for key, value in shared.items() if key not in renamed}
        shared |= {name: values[key] for name, key in renamed.items() if key in values}
    return shared | dict(values.get(stage) or {})
