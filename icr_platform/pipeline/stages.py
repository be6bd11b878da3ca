"""The table of stages: a row says everything that the rest of the platform knows of a stage.

To add a stage, write its module (`core/stage_protocol.py` says what it defines) and its configuration, and add a row here. Flags,
entry points, runs, work folders and the search for finished work follow from the row. Only a stage whose single rows are to be
reused, or whose result leaves some of its settings or inputs out, also registers what identifies its work in `identity`.

Modules are named and imported late, so that `icr --help` answers at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from pkgutil import resolve_name
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from icr_platform.core.config import Config
    from icr_platform.core.stage_protocol import AnyStage, StageResult


@dataclass(frozen=True, kw_only=True)
class ConfiguredCommand:
    """A command that takes a configuration: a stage, or the chain of stages.

    name: in presets, tags, folders, metrics and entry points of MLproject.
    help: one line.
    config_class: `MODULE:CLASS`.
    """

    name: str
    help: str
    config_class: str

    @property
    def command(self) -> str:
        """The name as it is typed after `icr`."""
        return self.name.replace("_", "-")

    @property
    def config(self) -> type[Config]:
        return cast("type[Config]", resolve_name(self.config_class))

    @property
    def required(self) -> tuple[str, ...]:
        """Fields that the command cannot start without."""
        return self.config.required


@dataclass(frozen=True, kw_only=True)
class StageRow(ConfiguredCommand):
    """One stage.

    module: defines `read` and `run`.
    artifacts: folders that a finished stage leaves, as they are logged to MLflow.
    unfinished: folders that it needs while it works, or that only some of its configurations, or versions, leave.
    begun: patterns of files that are worth going on from; empty: the parts in any of its folders.
    show: `MODULE:FUNCTION` that prints the result of the command to the terminal, given configuration and result.
    """

    module: str
    artifacts: tuple[str, ...]
    unfinished: tuple[str, ...] = ()
    begun: tuple[str, ...] = ()
    show: str = ""

    @property
    def folders(self) -> tuple[str, ...]:
        """All that the stage makes in its folder; anything else there belongs to another stage, or to a person."""
        return (*self.artifacts, *self.unfinished)

    @property
    def signs_of_work(self) -> tuple[str, ...]:
        """Patterns of files without which there is nothing to lose in the stage's folder."""
        parts = (f"{folder}/{part}" for folder in self.folders for part in ("part-*.parquet", "*/part-*.parquet"))
        return self.begun or tuple(parts)

    def load(self) -> AnyStage:
        """The stage itself."""
        return cast("AnyStage", import_module(self.module))

    def print_result(self, config: Config, result: StageResult) -> None:
        """Print what a person asked for, where the artifacts' places are not all of it."""
        if self.show:
            resolve_name(self.show)(config, result)


ITERATE = ConfiguredCommand(
    name="iterate",
    help="generate, annotate, train and eval, T times",
    config_class="icr_platform.pipeline.config:IterateConfig",
)
SWEEP = ConfiguredCommand(
    name="sweep",
    help="arms x seeds: iterate for each, with every stage that is the same work done once",
    config_class="icr_platform.pipeline.sweep_config:SweepConfig",
)
STAGES: dict[str, StageRow] = {
    row.name: row
    for row in (
        StageRow(
            name="generate",
            help="sample responses to prompts in every language",
            config_class="icr_platform.generation.config:GenerateConfig",
            module="icr_platform.generation.stage",
            artifacts=("prompts", "responses", "generation_drops"),
        ),
        StageRow(
            name="translate",
            help="translate prompts, responses, outputs or preferences into other languages",
            config_class="icr_platform.translation.config:TranslateConfig",
            module="icr_platform.translation.stage",
            artifacts=("translated", "text_translations", "translation_drops"),
        ),
        StageRow(
            name="annotate",
            help="score responses with the implicit cross-lingual reward and select preference pairs",
            config_class="icr_platform.annotation.config:AnnotateConfig",
            module="icr_platform.annotation.stage",
            artifacts=("rewards", "preferences", "drops"),
            unfinished=("translations", "work"),
        ),
        StageRow(
            name="train",
            help="train the policy on preference pairs (DPO + likelihood)",
            config_class="icr_platform.training.config:TrainConfig",
            module="icr_platform.training.stage",
            artifacts=("checkpoint",),
            unfinished=("checkpoint.unfinished",),
            # A training makes no parts: it resumes from the trainer's checkpoints, or from scores or weights that it finished.
            begun=(
                "checkpoint/*",
                "checkpoint.unfinished/checkpoint-*",
                "checkpoint.unfinished/reference_logprobs.npy",
                "checkpoint.unfinished/trained.*",
                "checkpoint.unfinished/model",
            ),
        ),
        StageRow(
            name="sft",
            help="finetune a model, such as a base model, on responses: what the method starts from",
            config_class="icr_platform.training.config:SftConfig",
            module="icr_platform.training.sft_stage",
            artifacts=("checkpoint",),
            unfinished=("checkpoint.unfinished",),
            begun=(
                "checkpoint/*",
                "checkpoint.unfinished/checkpoint-*",
                "checkpoint.unfinished/trained.*",
                "checkpoint.unfinished/model",
            ),
        ),
        StageRow(
            name="eval",
            help="sample outputs, judge them against reference outputs, report win rates per language",
            config_class="icr_platform.evaluation.config:EvalConfig",
            module="icr_platform.evaluation.stage",
            artifacts=("outputs", "judgments", "scores"),
            unfinished=("output_drops", "confusion"),
            show="icr_platform.pipeline.score_tables:show_scores",
        ),
        StageRow(
            name="mt_bench",
            help="grade two-turn answers from 1 to 10 with an LLM judge (multilingual MT-Bench)",
            config_class="icr_platform.evaluation.config:MtBenchConfig",
            module="icr_platform.evaluation.mt_bench_stage",
            artifacts=("ratings",),
        ),
        StageRow(
            name="reward_bench",
            help="measure how often each kind of reward ranks the better response higher, on labelled pairs",
            config_class="icr_platform.evaluation.reward_bench_config:RewardBenchConfig",
            module="icr_platform.evaluation.reward_bench_stage",
            artifacts=("reward_bench",),
            unfinished=("reward_bench_drops", "pair_translations", "reward_bench_work"),
            show="icr_platform.pipeline.reward_bench_tables:show_reward_accuracy",
        ),
        StageRow(
            name="instructions",
            help="check which verifiable instructions are followed: IFEval, Marco-Bench-MIF, Multi-IF",
            config_class="icr_platform.evaluation.config:InstructionsConfig",
            module="icr_platform.evaluation.instructions_stage",
            artifacts=("instruction_outputs", "instruction_checks"),
            unfinished=("instruction_drops", "instruction_confusion"),
            show="icr_platform.pipeline.score_tables:show_instructions",
        ),
        StageRow(
            name="benchmarks",
            help="measure knowledge with lm-eval, per language: ARC, MMLU, Global-MMLU, Belebele, MGSM, ..., and any task of it",
            config_class="icr_platform.evaluation.config:BenchmarksConfig",
            module="icr_platform.evaluation.benchmarks",
            artifacts=("benchmarks",),
            unfinished=("benchmark_differences",),
        ),
    )
}
CONFIGURED: dict[str, ConfiguredCommand] = {**STAGES, ITERATE.name: ITERATE, SWEEP.name: SWEEP}
"""Everything that takes a configuration, by name."""


def named_command(typed: str) -> ConfiguredCommand | None:
    """The command that a person typed, with dashes or underscores; None for what is not in the table.

    >>> named_command("mt-bench").name, named_command("eval").command, named_command("inspect")
    ('mt_bench', 'eval', None)
    """
    return CONFIGURED.get(typed.replace("-", "_"))
