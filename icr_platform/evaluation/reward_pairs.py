"""The pairs that rewards are measured on, from all inputs that give any."""

from __future__ import annotations

from icr_platform.data.labelled_pairs import LabelledPairs, read_labelled_pairs
from icr_platform.engines.identification.language_id import make_identifier
from icr_platform.evaluation.corruption_pairs import read_corruptions
from icr_platform.evaluation.reward_bench_config import RewardBenchConfig


def read_pairs(config: RewardBenchConfig) -> LabelledPairs:
    """The pairs of the configuration's inputs, by which its work is also known; raises InputError."""
    found: list[LabelledPairs] = []
    if config.pairs:
        found.append(
            read_labelled_pairs(
                config.pairs, config.pair_columns, config.languages, config.limit, config.prompts, config.prompt_columns
            )
        )
    if config.corrupt:
        found.append(
            read_corruptions(
                config.corrupt,
                config.seed,
                make_identifier(config.language_identifier).of_answers,
                columns=config.corrupt_columns,
                languages=config.languages,
                limit=config.limit,
                prompts=config.prompts,
                prompt_columns=config.prompt_columns,
            )
        )
    return LabelledPairs(
        [pair for each in found for pair in each.pairs],
        [row for each in found for row in each.unused],
        tuple(note for each in found for note in each.notes),
    )
