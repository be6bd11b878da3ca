"""The pairs that rewards are measured on, from all inputs that give any."""

from __future__ import annotations

from icr_platform.data.labelled_pairs import LabelledPairs, read_labelled_pairs
from icr_platform.evaluation.reward_bench_config import RewardBenchConfig


def read_pairs(config: RewardBenchConfig) -> LabelledPairs:
    """The pairs of the configuration's inputs, by which its work is also known; raises InputError."""
    return read_labelled_pairs(
        config.pairs, config.pair_columns, config.languages, config.limit, config.prompts, config.prompt_columns
    )
