"""The configuration of `iterate`, the configurations that it makes for its stages, and presets."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal

from icr_platform.annotation.config import AnnotateConfig, AnnotateSettings
from icr_platform.core.config import (
    INPUTS,
    ChatSettings,
    Config,
    Languages,
    OptionalInt,
    PinnedInputs,
    ScoreSettings,
    role,
    setting,
    validate,
)
from icr_platform.core.errors import InputError
from icr_platform.core.mappings import ColumnMap
from icr_platform.core.parts import Worlds
from icr_platform.core.yaml_files import read_yaml
from icr_platform.engines.sampling.settings import SamplingSettings
from icr_platform.evaluation.config import EvalConfig, EvalSettings
from icr_platform.generation.config import GenerateConfig
from icr_platform.pipeline.pins import pins_among
from icr_platform.pipeline.stages import ITERATE, STAGES
from icr_platform.training.config import TrainConfig, TrainSettings


class IterateConfig(ChatSettings, ScoreSettings, PinnedInputs):
    """iterate: T times generate, annotate, train, eval."""

    heading = INPUTS
    required: ClassVar[tuple[str, ...]] = ("policy", "reference", "prompts")

    arm: str = setting("icr", "name of this arm, for charts", "place")
    iterations: int = setting(2, "iterations T", ge=1)
    policy: str = setting("", "pi_0: aligned on English preferences only", "model")
    reference: str = setting("", "pi_ref: the SFT model", "model")
    prompts: str = setting("", "training prompts", "input")
    prompt_columns: ColumnMap = setting({}, 'columns to read, as in {"instruction": "prompt"}', later=True)
    languages: Languages = setting((), "training languages; empty: all of the prompts")
    limit: OptionalInt = setting(None, "training prompts per language, the first ones; none: all")
    reward_reference: Literal["initial", "previous"] = setting(
        "initial", "reference of the reward: pi_ref, or the policy before"
    )
    eval_prompts: str = setting("", "evaluation prompts; empty: no evaluation", "input")
    eval_prompt_columns: ColumnMap = setting({}, 'columns to read, as in {"instruction": "prompt"}', later=True)
    reference_outputs: str = setting("", "outputs that the policy is compared with", "input")
    reference_columns: ColumnMap = setting({}, 'columns to read, as in {"output": "response"}', later=True)
    eval_languages: Languages = setting((), "evaluation languages; empty: all of the prompts")
    eval_limit: OptionalInt = setting(None, "prompts per language; none: all")
    seed: int = setting(42, "seed; each iteration derives its own", ge=0)
    output: str = setting("", "folder of all artifacts; empty: a work folder", "place")
    stage_processes: bool = setting(False, "run each stage in a process of its own, to free GPU memory", "place")
    keep_checkpoints: Literal["all", "last", "best"] = setting(
        "all",
        "trained weights to keep; others are removed once nothing here needs them; best: by mean win rate, or the last where nothing "
        "was judged",
        "place",
    )
    generate: SamplingSettings = setting(SamplingSettings(), "settings of generate")
    annotate: AnnotateSettings = setting(AnnotateSettings(), "settings of annotate")
    train: TrainSettings = setting(TrainSettings(), "settings of train")
    eval: EvalSettings = setting(EvalSettings(), "settings of eval")

    def generate_config(self, policy: str, seed: int) -> GenerateConfig:
        """generate of one iteration, which samples from `policy`."""
        return GenerateConfig.model_validate(self._of_stage("generate") | {"policy": policy, "seed": seed})

    def annotate_config(self, policy: str, reference: str, responses: str, seed: int) -> AnnotateConfig:
        """annotate of one iteration; reference: of the reward."""
        own = {"policy": policy, "reference": reference, "responses": responses, "seed": seed}
        return AnnotateConfig.model_validate(self._of_stage("annotate") | own)

    def train_config(self, policy: str, preferences: str, seed: int) -> TrainConfig:
        """train of one iteration, which starts from `policy`."""
        own = {"policy": policy, "preferences": preferences, "seed": seed}
        return TrainConfig.model_validate(self._of_stage("train") | own)

    def eval_config(self, policy: str) -> EvalConfig:
        """eval of one policy. All policies are evaluated with the same seed."""
        return EvalConfig.model_validate(self._of_stage("eval") | {"policy": policy})

    def given_to(self, stage: str) -> dict[str, Any]:
        """What was set, and not left at its default, of the fields that a stage takes from here."""
        return self._of_stage(stage, only_given=True)

    def _of_stage(self, stage: str, only_given: bool = False) -> dict[str, Any]:
        """The fields that a stage shares with all of `iterate`, and its section."""

        def names(config: Config) -> set[str]:
            # `output` is for all artifacts of the arm; iterate gives each stage of each iteration a folder below it.
            return config.model_fields_set if only_given else set(type(config).model_fields) - {"output"}

        renamed = _EVALUATION if stage == "eval" else {}
        shared = {field: renamed.get(field, field) for field in STAGES[stage].config.model_fields}
        values = {field: getattr(self, name) for field, name in shared.items() if name in names(self)}
        section = getattr(self, stage, None)
        if section is not None:
            values |= {name: getattr(section, name) for name in names(section)}
        if values.get("pins"):
            inputs = [name for name, info in STAGES[stage].config.model_fields.items() if role(info) == "input"]
            values["pins"] = pins_among(self.pins, [values.get(name, "") for name in inputs])
        return values


_EVALUATION = {
    "prompts": "eval_prompts",
    "languages": "eval_languages",
    "limit": "eval_limit",
    "prompt_columns": "eval_prompt_columns",
}
"""Fields of `eval` that have another name here, where training has prompts too."""


def load_preset(path: Path, stage: str, worlds: Worlds | None = None) -> dict[str, Any]:
    """Nested values of a YAML preset for `stage`.

    A preset of `iterate` serves the single stages too: its section of that name, and the shared keys the stage has.

    worlds: whose names may stand for their parts.

    Raises:
        InputError: the file is missing, or it is not YAML, or not a mapping.
    """
    values = read_yaml(path, "preset")
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise InputError(f"{path}: not a mapping of fields; write `field: value` lines")
    if stage == ITERATE.name or not any(isinstance(values.get(name), dict) for name in STAGES):
        return values
    return validate(IterateConfig, values, str(path), worlds).given_to(stage)
