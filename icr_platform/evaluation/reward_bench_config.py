"""What `icr reward-bench` can be asked for."""

from __future__ import annotations

from typing import Annotated, ClassVar

from icr_platform.core.config import (
    INPUTS,
    WHERE,
    ChatSettings,
    Languages,
    OptionalInt,
    PinnedInputs,
    ScoreSettings,
    setting,
)
from icr_platform.core.faults import FaultSettings
from icr_platform.core.mappings import ColumnMap
from icr_platform.core.parts import Named
from icr_platform.engines.execution.settings import ExecutionSettings
from icr_platform.engines.identification.language_id import IdentifierName
from icr_platform.engines.sampling.settings import TranslatorSettings
from icr_platform.engines.scoring.reward_kinds import REWARD_KINDS, scored_kinds
from icr_platform.engines.scoring.settings import DRAWN, KINDS, RewardKinds, RewardSettings

INSTRUCTIONS = "instructions"
"""The checker of the instructions in the prompts that a program can verify."""
CHECKER_NAMES = Named((INSTRUCTIONS,), lambda value: not value)

LENGTH = "length"
"""The baseline beside the reward kinds: the longer response is the better."""


class RewardBenchSettings(RewardSettings, TranslatorSettings, ExecutionSettings, FaultSettings):
    """Which rewards are measured."""

    heading, place_heading = "rewards", WHERE

    reward_kind: RewardKinds = setting(
        (),
        f"kinds, comma-separated: {KINDS}; empty: all for which the models are given",
    )
    checker: Annotated[str, CHECKER_NAMES] = setting(
        "",
        "says which samples are right; instructions: those in the prompts that a program can verify; MODULE:NAME: your own function "
        "(language, prompt, text), which gives a number in [0, 1], true or false, or None",
    )
    shard_pairs: int = setting(256, "pairs per shard, the unit of resume", "place", ge=1)

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds that are measured."""
        fitting = (
            name
            for name, kind in REWARD_KINDS.items()
            if (self.translator or not kind.of_translation) and (self.reward_model or not kind.is_scalar)
        )
        return self.reward_kind or tuple(fitting)


class RewardBenchConfig(ChatSettings, ScoreSettings, RewardBenchSettings, PinnedInputs):
    """reward_bench: labelled pairs, outputs to corrupt, or annotated samples -> how often a reward ranks the better response higher."""

    heading = INPUTS
    required: ClassVar[tuple[str, ...]] = ()

    policy: str = setting("", "English-aligned model pi_t", "model")
    reference: str = setting("", "the reference pi_ref of the policy", "model")
    pairs: str = setting(
        "", "labelled pairs: files of preferences in any layout that `train` reads, or a preferences artifact", "input"
    )
    pair_columns: ColumnMap = setting({}, 'columns to read, as in {"category": "domain"}')
    prompts: str = setting(
        "",
        "English prompts by id, for pairs that have no english_instruction of their own; or a prompt set with English",
        "input",
    )
    prompt_columns: ColumnMap = setting({}, 'columns to read, as in {"instruction": "prompt"}')
    corrupt: str = setting(
        "",
        "outputs in several languages, as those that `eval` compares with, to make pairs of: each against its corruptions",
        "input",
    )
    corrupt_columns: ColumnMap = setting({}, 'columns to read, as in {"output": "response"}')
    language_identifier: IdentifierName = setting(
        "langid", "offline library that identifies the language of outputs to corrupt of which nothing says it"
    )
    responses: str = setting(
        "",
        "samples of the policy, to measure the reward of `annotate` on: where a checker says which are right",
        "input",
    )
    rewards: str = setting("", "rewards of these samples, by `annotate`", "input")
    preferences: str = setting(
        "",
        "pairs that `annotate` selected among them: gives figures after length control, and what was selected",
        "input",
    )
    languages: Languages = setting((), "language codes, comma-separated; empty: every language of the pairs")
    limit: OptionalInt = setting(None, "pairs per language, the first ones; none: all", ge=1)
    seed: int = setting(42, f"seed of the {DRAWN} kind, and of corruptions", ge=0)
    output: str = setting(
        "", "folder of the artifacts; empty: a work folder, which is emptied once MLflow has them", "place"
    )

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds that are measured; where a reward model alone is given, those that need neither policy nor reference."""
        if self.reward_kind or self.policy or self.reference or not self.reward_model:
            return super().kinds
        return tuple(name for name in super().kinds if not scored_kinds([name]))
