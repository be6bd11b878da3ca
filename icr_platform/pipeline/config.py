"""The configuration of `iterate`, the configurations that it makes for its stages, and presets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
from icr_platform.engines.sampling.settings import SamplingSettings
from icr_platform.evaluation.config import (
    BenchmarksConfig,
    BenchmarksSettings,
    EvalConfig,
    EvalSettings,
    FamilyNames,
    InstructionsConfig,
    InstructionsSettings,
)
from icr_platform.evaluation.reward_bench_config import RewardBenchConfig, RewardBenchSettings
from icr_platform.generation.config import GenerateConfig
from icr_platform.pipeline.pins import pins_among
from icr_platform.pipeline.presets import Layer, read_layer, shown_layers, stacked
from icr_platform.pipeline.stages import STAGES
from icr_platform.training.config import TrainConfig, TrainSettings


class IteratedBenchmarks(BenchmarksSettings):
    """Which of lm-eval's tasks every policy is asked; none unless they are named."""

    heading = "tasks"

    families: FamilyNames = setting((), "task families that every policy is asked, comma-separated; empty: none")

    @property
    def are_asked(self) -> bool:
        return bool(self.families or self.tasks)


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
    reward_pairs: str = setting(
        "", "labelled pairs, on which the reward of every policy is measured; empty: it is not", "input", later=True
    )
    reward_pair_columns: ColumnMap = setting({}, 'columns to read, as in {"chosen": "better"}', later=True)
    reward_pair_prompts: str = setting(
        "", "English prompts by id, for reward_pairs that have no English of their own", "input", later=True
    )
    instruction_prompts: str = setting(
        "",
        "verifiable instructions, which every policy is to follow: IFEval, Marco-Bench-MIF, ...; empty: none",
        "input",
        later=True,
    )
    instruction_prompt_columns: ColumnMap = setting(
        {}, 'columns to read, as in {"instruction_id_list": "constraints"}', later=True
    )
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
    reward_bench: RewardBenchSettings = setting(
        RewardBenchSettings(), "settings of reward_bench; what is not given is as in annotate"
    )
    instructions: InstructionsSettings = setting(InstructionsSettings(), "settings of instructions")
    benchmarks: IteratedBenchmarks = setting(IteratedBenchmarks(), "settings of benchmarks")

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

    def reward_bench_config(self, policy: str, reference: str) -> RewardBenchConfig:
        """reward_bench of one policy on the labelled pairs; reference: of its reward."""
        own = {"policy": policy, "reference": reference, "checker": ""}
        return RewardBenchConfig.model_validate(self._of_stage("reward_bench") | own)

    def own_samples_config(self, responses: str, rewards: str, preferences: str, checker: str) -> RewardBenchConfig:
        """reward_bench of one iteration on the samples that annotate has scored."""
        own = {"responses": responses, "rewards": rewards, "preferences": preferences, "checker": checker}
        return RewardBenchConfig.model_validate(
            {"prompts": self.prompts, "prompt_columns": self.prompt_columns, "seed": self.seed, **own}
        )

    def instructions_config(self, policy: str) -> InstructionsConfig:
        """instructions of one policy. All policies answer with the same seed."""
        return InstructionsConfig.model_validate(self._of_stage("instructions") | {"policy": policy})

    def benchmarks_config(self, policy: str) -> BenchmarksConfig:
        """benchmarks of one policy."""
        return BenchmarksConfig.model_validate(self._of_stage("benchmarks") | {"policy": policy})

    def given_to(self, stage: str) -> dict[str, Any]:
        """What was set, and not left at its default, of the fields that a stage takes from here."""
        return self._of_stage(stage, only_given=True)

    def _of_stage(self, stage: str, only_given: bool = False) -> dict[str, Any]:
        """The fields that a stage shares with all of `iterate`, and its section."""

        def names(config: Config) -> set[str]:
            # `output` is for all artifacts of the arm; iterate gives each stage of each iteration a folder below it.
            return config.model_fields_set if only_given else set(type(config).model_fields) - {"output"}

        fields = STAGES[stage].config.model_fields
        shared = {field: _RENAMED.get(stage, {}).get(field, field) for field in fields}
        values = {field: getattr(self, name) for field, name in shared.items() if name in names(self)}
        section = getattr(self, stage, None)
        if section is not None:
            own = section.model_fields_set if stage == "reward_bench" else names(section)
            if stage == "reward_bench":  # what annotate's rewards are computed with is what is to be measured
                shared_names = fields.keys() & names(self.annotate) - {"reward_kind"}
                values |= {name: getattr(self.annotate, name) for name in shared_names}
            values |= {name: getattr(section, name) for name in own}
        if values.get("pins"):
            inputs = [name for name, info in STAGES[stage].config.model_fields.items() if role(info) == "input"]
            values["pins"] = pins_among(self.pins, [values.get(name, "") for name in inputs])
        return values


_OF_EVALUATION = {"languages": "eval_languages", "limit": "eval_limit"}
_RENAMED = {
    "eval": {**_OF_EVALUATION, "prompts": "eval_prompts", "prompt_columns": "eval_prompt_columns"},
    "instructions": {
        **_OF_EVALUATION, "prompts": "instruction_prompts", "prompt_columns": "instruction_prompt_columns",
    },
    "reward_bench": {
        **_OF_EVALUATION, "pairs": "reward_pairs", "pair_columns": "reward_pair_columns", "prompts": "reward_pair_prompts",
        "prompt_columns": "",
    },
    "benchmarks": _OF_EVALUATION,
}  # fmt: skip
"""By stage, its fields that have another name here, where training has prompts, languages and a limit too; '' for what is not given."""


def load_preset(path: Path, stage: str, worlds: Worlds | None = None) -> dict[str, Any]:
    """Nested values of a YAML preset for `stage`; see `load_layers`."""
    return load_layers([read_layer(path)], stage, worlds)


def load_layers(layers: Sequence[Layer], stage: str, worlds: Worlds | None = None) -> dict[str, Any]:
    """Nested values of presets for `stage`, the later ones over the earlier ones.

    Presets of `iterate` serve the single stages too: their sections of that name, and the shared keys the stage has.

    worlds: whose names may stand for their parts.

    Raises:
        InputError: a preset of `iterate` has fields that it does not have.
    """
    values = stacked(layers)
    if stage not in STAGES or not any(isinstance(values.get(name), dict) for name in STAGES):
        return values
    return of_layers(layers, values, worlds).given_to(stage)


def of_layers(layers: Sequence[Layer], values: Mapping[str, Any], worlds: Worlds | None = None) -> IterateConfig:
    """iterate's configuration, of presets and what was given over them.

    Raises:
        InputError: every wrong key in one line, with the file of the preset that has it.
    """
    try:
        return validate(IterateConfig, values, shown_layers(layers), worlds)
    except InputError:
        for layer in layers if len(layers) > 1 else ():
            validate(IterateConfig, layer.values, str(layer.path), worlds)
        raise  # of what is wrong only together
