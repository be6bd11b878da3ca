"""What `icr reward-bench` can be asked for."""

from __future__ import annotations

from typing import ClassVar

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
from icr_platform.engines.execution.settings import ExecutionSettings
from icr_platform.engines.sampling.settings import TranslatorSettings
from icr_platform.engines.scoring.reward_kinds import REWARD_KINDS
from icr_platform.engines.scoring.settings import DRAWN, KINDS, RewardKinds, RewardSettings

LENGTH = "length"
"""The baseline beside the reward kinds: the longer response is the better."""


class RewardBenchSettings(RewardSettings, TranslatorSettings, ExecutionSettings, FaultSettings):
    """Which rewards are measured."""

    heading, place_heading = "rewards", WHERE

    reward_kind: RewardKinds = setting(
        (),
        f"kinds, comma-separated: {KINDS}; empty: all of them, those that score translations where a translator is given",
    )
    shard_pairs: int = setting(256, "pairs per shard, the unit of resume", "place", ge=1)

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds that are measured."""
        fitting = (name for name, kind in REWARD_KINDS.items() if self.translator or not kind.of_translation)
        return self.reward_kind or tuple(fitting)


class RewardBenchConfig(ChatSettings, ScoreSettings, RewardBenchSettings, PinnedInputs):
    """reward_bench: labelled pairs -> how often each kind of reward ranks the better response higher."""

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
    languages: Languages = setting((), "language codes, comma-separated; empty: every language of the pairs")
    limit: OptionalInt = setting(None, "pairs per language, the first ones; none: all", ge=1)
    seed: int = setting(42, f"seed of the {DRAWN} kind, and of corruptions", ge=0)
    output: str = setting(
        "", "folder of the artifacts; empty: a work folder, which is emptied once MLflow has them", "place"
    )
