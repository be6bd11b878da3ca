"""What `icr annotate` can be asked for."""

from __future__ import annotations

from typing import ClassVar, Literal

from icr_platform.core.config import (
    INPUTS,
    WHERE,
    ChatSettings,
    OptionalFloat,
    PinnedInputs,
    ScoreSettings,
    setting,
)
from icr_platform.core.faults import FaultSettings
from icr_platform.core.mappings import ColumnMap
from icr_platform.engines.execution.settings import ExecutionSettings
from icr_platform.engines.sampling.settings import TranslatorSettings
from icr_platform.engines.scoring.settings import DRAWN, KINDS, RewardKinds, RewardSettings

RejectedRule = Literal["lowest", "mean-2sd", "lower-quartile", "nearest-mean", "random"]
"""The rules of `pair_rules.RULES`, by name."""


class AnnotateSettings(RewardSettings, TranslatorSettings, ExecutionSettings, FaultSettings):
    """How responses are scored and pairs are selected (arXiv 2503.04647, section 3)."""

    heading, place_heading = "rewards and pairs", WHERE

    reward_kind: RewardKinds = setting(
        ("cross-lingual",), f"kinds, comma-separated: {KINDS}; the first makes the pairs"
    )
    pair_source: Literal["rewards", "translation"] = setting(
        "rewards",
        "what makes pairs; translation: the English answer, translated, is chosen and the native one rejected; in English, the native "
        "one, translated, is rejected (LIDR, arXiv 2410.08964); no reward is computed",
        later=True,
    )
    length_control: bool = setting(True, "subtract alpha * characters from the reward, with alpha fitted per language")
    alpha_min: float = setting(-1.0, "lower bound of alpha, reward per character")
    alpha_max: float = setting(1.0, "upper bound of alpha, reward per character")
    drop_empty: bool = setting(True, "drop responses without a visible character")
    drop_truncated: bool = setting(True, "drop responses that reached max_tokens")
    drop_wrong_language: bool = setting(True, "drop responses identified as another language than the prompt's")
    language_confidence: float = setting(
        0.5, "an identification with less confidence counts as unknown, not as wrong", ge=0, le=1
    )
    near_duplicate: OptionalFloat = setting(
        None, "drop pairs whose texts are at least this similar (0 to 1, edit similarity); none: only identical texts"
    )
    minimal_margin: float = setting(0.0, "drop pairs unless their margin is above this", ge=0)
    upper_bound: float = setting(float("inf"), "choose only responses whose length-controlled reward is below this")
    rejected: RejectedRule = setting(
        "lowest",
        "which response the best one is paired with: the lowest reward, the one nearest to the mean less two standard deviations, to the "
        "lower quartile or to the mean of the prompt's rewards, or a random one",
        later=True,
    )
    pairs_per_prompt: int = setting(
        1,
        "pairs of a prompt at most: its best responses, each with another rejected one; no response is in two",
        ge=1,
        later=True,
    )
    pool: Literal["language", "all"] = setting(
        "language", "make pairs within each language, or of all languages' responses to one prompt id", later=True
    )
    pool_prompt: Literal["chosen", "rejected", "random"] = setting(
        "chosen",
        "with pool all: the prompt is in the language of the chosen or of the rejected response, or of either",
        later=True,
    )


class AnnotateConfig(ChatSettings, ScoreSettings, AnnotateSettings, PinnedInputs):
    """annotate: responses -> rewards, preferences, drops."""

    heading = INPUTS
    required: ClassVar[tuple[str, ...]] = ("prompts", "responses")

    policy: str = setting("", "English-aligned model pi_t; needed but for scalar rewards alone", "model")
    reference: str = setting("", "the reference pi_ref of the policy; needed as the policy is", "model")
    prompts: str = setting("", "prompts that the responses answer", "input")
    prompt_columns: ColumnMap = setting({}, 'columns to read, as in {"instruction": "prompt"}', later=True)
    responses: str = setting("", "responses artifact", "input")
    translations: str = setting(
        "", "the responses translated by `icr translate`, for pair_source translation", "input", later=True
    )
    seed: int = setting(42, f"seed of the {DRAWN} kind", ge=0)
    output: str = setting(
        "", "folder of the artifacts; empty: a work folder, which is emptied once MLflow has them", "place"
    )
