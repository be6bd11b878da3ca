"""Checkers of samples by name: the instructions that prompts carry, or a function of anyone's own as MODULE:NAME.

See `own_samples` for what a checker is called with and returns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from icr_platform.core.errors import InputError
from icr_platform.core.parts import load_part
from icr_platform.data.column_map import NO_MAP, ColumnNames
from icr_platform.data.constraints import Constraint
from icr_platform.data.verifiable import constraints_of
from icr_platform.evaluation.instruction_checks.check import check
from icr_platform.evaluation.own_samples import Checker
from icr_platform.evaluation.reward_bench_config import INSTRUCTIONS


def make_checker(named: str, prompts: str, languages: Sequence[str], columns: ColumnNames = NO_MAP) -> Checker:
    """The checker that a setting names.

    Args:
        named: INSTRUCTIONS, or MODULE:NAME. prompts: whose instructions are checked. languages: of the samples. columns: of the prompts.

    Raises:
        InputError: there is no such function, or no prompt carries an instruction that can be checked.
    """
    if named != INSTRUCTIONS:
        checker: Checker = load_part("checker", named, "language", "prompt", "text")
        return checker
    constraints = constraints_of(prompts, languages, columns)
    if not constraints:
        raise InputError(
            f"{prompts}: no prompt says which instructions can be checked; give prompts with the columns instruction_id_list and kwargs, "
            "or a function of your own as --checker MODULE:NAME"
        )
    return instruction_checker(constraints)


def instruction_checker(constraints: Mapping[tuple[str, str], Sequence[Constraint]]) -> Checker:
    """Whether a sample follows each kind of instruction in its prompt, to the letter; None where that cannot be verified.

    Args:
        constraints: by (language, prompt_id). A prompt that has none is not checked.

    >>> has_no_comma = Constraint("punctuation:no_comma", {})
    >>> asked = {"prompt_id": "1", "instruction": "Name two fruits, without commas."}
    >>> instruction_checker({("en", "1"): (has_no_comma,)})("en", asked, "Apples, pears.")
    {'punctuation:no_comma': False}
    """

    def check_sample(language: str, prompt: Mapping[str, Any], text: str) -> dict[str, bool | None]:
        found: dict[str, bool | None] = {}
        for kind, kwargs, fault in constraints.get((language, prompt["prompt_id"]), ()):
            followed = None if fault else check(kind, kwargs, text, language, prompt["instruction"]).followed
            # A kind that a prompt has twice is followed where both are.
            found[kind] = followed if found.get(kind) is not False else False
        return found

    return check_sample
