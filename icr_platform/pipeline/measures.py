"""What `iterate` measures of every policy beside win rates: checked before hours of work, and who says which samples are right."""

from __future__ import annotations

from icr_platform.core.errors import InputError
from icr_platform.core.parts import Worlds, split_world
from icr_platform.engines.scoring.settings import check_kinds
from icr_platform.evaluation.reward_bench_config import INSTRUCTIONS
from icr_platform.pipeline.config import IterateConfig
from icr_platform.pipeline.stages import STAGES

_OF_A_RUN = "runs:/"


def checker_of(given: IterateConfig, resolved: IterateConfig, worlds: Worlds) -> str:
    """What says which of the policy's own samples are right; '' for nothing, and where no rewards rank them.

    As `reward_bench.checker` names it; without that, the part of the world that the training prompts are from, or the verifiable
    instructions that they carry.

    Raises:
        InputError: the prompts cannot be read, or there is no such checker.
    """
    from icr_platform.data.prompts import load_prompts
    from icr_platform.data.verifiable import constraints_of
    from icr_platform.evaluation.sample_checkers import make_checker

    found = split_world(given.prompts, worlds)
    part = found[0].parts.get("checker") if found else None
    named = given.reward_bench.checker or (part.place if part else "")
    is_an_artifact = resolved.prompts.startswith(_OF_A_RUN)  # which says nothing of instructions
    if not given.iterations or not given.ranks_by_rewards or (is_an_artifact and not named):
        return ""
    languages = resolved.languages
    if not is_an_artifact:
        prompts = load_prompts(resolved.prompts, resolved.languages, resolved.limit, resolved.prompt_columns)
        languages = prompts.languages
    if not named and constraints_of(resolved.prompts, languages, resolved.prompt_columns):
        return INSTRUCTIONS
    if named:
        make_checker(named, resolved.prompts, languages, resolved.prompt_columns)
    return named


def check_something_is_done(config: IterateConfig) -> None:
    """Raise an InputError where nothing is trained, and nothing measured."""
    measures = (
        config.start_preferences,
        config.eval_prompts,
        config.reward_pairs,
        config.instruction_prompts,
        config.benchmarks.are_asked,
    )
    if not config.iterations and not any(measures):
        raise InputError(
            "config: field 'iterations' is 0, and nothing is measured; give eval_prompts, reward_pairs, instruction_prompts or "
            "benchmarks.families"
        )


def check_measures(config: IterateConfig) -> None:
    """Check what only a later stage would look at: labelled pairs, verifiable instructions, benchmarks. Loads no weights.

    Raises:
        InputError: what is wrong, and how to fix it.
    """
    from icr_platform.data.verifiable import load_verifiable
    from icr_platform.evaluation.reward_pairs import read_pairs

    if config.reward_pairs:
        bench = config.reward_bench_config(config.policy, config.reference)
        check_kinds(bench.model_copy(update={"reward_kind": bench.kinds}), bench.translator)
        read_pairs(bench)
    if config.instruction_prompts:
        asked = config.instructions_config(config.policy)
        load_verifiable(asked.prompts, asked.languages, asked.limit, asked.prompt_columns)
    if config.benchmarks.are_asked:
        if not config.eval_languages:
            raise InputError(
                "config: field 'eval_languages' is empty, and benchmarks ask in the languages that it names; give --eval-languages"
            )
        STAGES["benchmarks"].load().read(config.benchmarks_config(config.policy))
