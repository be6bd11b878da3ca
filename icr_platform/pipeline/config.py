"""The configuration of `iterate`, the configurations that it makes for its stages, and presets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import model_validator

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
from icr_platform.pipeline.presets import Layer, read_layer, refuse_sweeps, shown_layers, stacked
from icr_platform.pipeline.stages import STAGES, SWEEP
from icr_platform.training.config import TrainConfig, TrainSettings
from icr_platform.translation.config import TranslateConfig, TranslateSettings


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
    iterations: int = setting(2, "iterations T; 0: pi_0 is measured, and nothing trained", ge=0)
    policy: str = setting(
        "", "pi_0: aligned on English preferences only; with start_preferences what pi_0 is made of", "model"
    )
    reference: str = setting("", "pi_ref: the SFT model", "model")
    prompts: str = setting("", "training prompts", "input")
    prompt_columns: ColumnMap = setting({}, 'columns to read, as in {"instruction": "prompt"}', later=True)
    languages: Languages = setting((), "training languages; empty: all of the prompts")
    limit: OptionalInt = setting(None, "training prompts per language, the first ones; none: all")
    reward_reference: Literal["initial", "previous"] = setting(
        "initial", "reference of the reward: pi_ref, or the policy before"
    )
    preferences: str = setting(
        "",
        "pairs to train on instead of generated ones, translated first where translate.into names languages; empty: the policy's own",
        "input",
    )
    preference_columns: ColumnMap = setting({}, 'columns to read, as in {"chosen": "better"}')
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
    start_preferences: str = setting(
        "",
        "English preferences, on which `policy`, or the reference where there is none, is first trained into pi_0 (section start); "
        "empty: `policy` is pi_0",
        "input",
        later=True,
    )
    start_preference_columns: ColumnMap = setting({}, 'columns to read, as in {"chosen": "meta.best"}', later=True)
    seed: int = setting(42, "seed; each iteration derives its own", ge=0)
    output: str = setting("", "folder of all artifacts; empty: a work folder", "place")
    stage_processes: bool = setting(False, "run each stage in a process of its own, to free GPU memory", "place")
    keep_checkpoints: Literal["all", "last", "best"] = setting(
        "all",
        "trained weights to keep; others are removed once nothing here needs them; best: what models:/ARM-policy@best is, or the last "
        "where nothing shows which one is",
        "place",
    )
    start: TrainSettings = setting(TrainSettings(), "settings of the training on start_preferences that makes pi_0")
    stop: Literal["none", "no-gain"] = setting(
        "none",
        "when to end before T iterations; no-gain: after an iteration whose gain over the one before is not above 0, by the 95% interval of "
        "the paired difference over non-English languages: of win rates, else of prompts whose instructions are followed, else of "
        "labelled pairs ranked right",
        later=True,
    )
    generate: SamplingSettings = setting(SamplingSettings(), "settings of generate")
    translate: TranslateSettings = setting(
        TranslateSettings(), "settings of translate; without a translator, each policy translates for itself"
    )
    annotate: AnnotateSettings = setting(AnnotateSettings(), "settings of annotate")
    train: TrainSettings = setting(TrainSettings(), "settings of train")
    eval: EvalSettings = setting(EvalSettings(), "settings of eval")
    reward_bench: RewardBenchSettings = setting(
        RewardBenchSettings(), "settings of reward_bench; what is not given is as in annotate"
    )
    instructions: InstructionsSettings = setting(InstructionsSettings(), "settings of instructions")
    benchmarks: IteratedBenchmarks = setting(IteratedBenchmarks(), "settings of benchmarks")

    @property
    def needed(self) -> tuple[str, ...]:
        if self.iterations:
            return self.required
        return ("policy", "reference") if self.reward_pairs else ("policy",)

    @model_validator(mode="before")
    @classmethod
    def _starts_from_the_reference(cls, values: Any) -> Any:
        """What is trained into pi_0 is the reference unless another policy is given."""
        if isinstance(values, dict) and values.get("start_preferences") and not values.get("policy"):
            return values | {"policy": values.get("reference", "")}
        return values

    @property
    def pairs_are_translated(self) -> bool:
        """Whether pairs are made of the policy's answers and their translations, without rewards."""
        return not self.preferences and self.annotate.pair_source == "translation"

    @property
    def ranks_by_rewards(self) -> bool:
        """Whether pairs are made of the policy's answers by their rewards."""
        return not self.preferences and not self.pairs_are_translated

    def generate_config(self, policy: str, seed: int) -> GenerateConfig:
        """generate of one iteration, which samples from `policy`."""
        return GenerateConfig.model_validate(self._of_stage("generate") | {"policy": policy, "seed": seed})

    def translate_config(self, policy: str, texts: str, seed: int) -> TranslateConfig:
        """translate of one iteration, by `policy` where no translator is named: the given preferences, or responses into every language."""
        own: dict[str, Any] = {"texts": texts, "seed": seed}
        own |= {"translator": self.translate.translator or ("" if self.translate.server_model else policy)}
        if self.preferences:
            own |= {"texts_kind": "preferences", "limit": self.limit}
        else:
            own |= {"columns": {}, "responses_each": self.translate.responses_each or 1}
        return TranslateConfig.model_validate(self._of_stage("translate") | own)

    def annotate_config(
        self, policy: str, reference: str, responses: str, seed: int, translations: str = ""
    ) -> AnnotateConfig:
        """annotate of one iteration; reference: of the reward. translations: of the responses, where pairs are made of them."""
        own = {
            "policy": policy,
            "reference": reference,
            "responses": responses,
            "seed": seed,
            "translations": translations,
        }
        return AnnotateConfig.model_validate(self._of_stage("annotate") | own)

    def train_config(self, policy: str, preferences: str, seed: int) -> TrainConfig:
        """train of one iteration, which starts from `policy`."""
        own: dict[str, Any] = {"policy": policy, "preferences": preferences, "seed": seed}
        if preferences != self.preferences:  # an artifact, whose columns have their own names
            own["preference_columns"] = {}
        return TrainConfig.model_validate(self._of_stage("train") | own)

    def start_config(self, policy: str, seed: int) -> TrainConfig:
        """The training that turns `policy` into pi_0."""
        shared = self._of_stage("train")
        own = {
            "policy": policy,
            "preferences": self.start_preferences,
            "preference_columns": self.start_preference_columns,
            "seed": seed,
        }
        pins = {"pins": pins_among(self.pins, [self.start_preferences])}
        settings = {name: getattr(self.start, name) for name in type(self.start).model_fields}
        return TrainConfig.model_validate(shared | settings | own | pins)

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
    "translate": {
        "texts": "preferences", "columns": "preference_columns", "prompts": "", "prompt_columns": "", "languages": "", "limit": "",
    },
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
    if stage != SWEEP.name:
        refuse_sweeps(layers)
    if stage == SWEEP.name and values and not values.keys() & {"arms", "base", "seeds"}:
        raise InputError(
            f"{shown_layers(layers)}: is a preset of one arm; give it as --base, and presets to compare as --arms"
        )
    if stage not in STAGES or not any(isinstance(values.get(name), dict) for name in STAGES):
        return values
    return of_layers(layers, values, worlds).given_to(stage)


def of_layers(layers: Sequence[Layer], values: Mapping[str, Any], worlds: Worlds | None = None) -> IterateConfig:
    """iterate's configuration, of presets and what was given over them.

    Raises:
        InputError: every wrong key in one line, with the file of the preset that has it.
    """
    refuse_sweeps(layers)
    try:
        return validate(IterateConfig, values, shown_layers(layers), worlds)
    except InputError:
        for layer in layers if len(layers) > 1 else ():
            validate(IterateConfig, layer.values, str(layer.path), worlds)
        raise  # of what is wrong only together
