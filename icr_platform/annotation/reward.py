"""Implicit rewards: `r(u, y) = beta * (log pi(y | u) - log pi_ref(y | u))` (arXiv 2503.04647, equations 1 and 4).

The kinds differ in the instruction u after which a response is scored, and in the text that stands for it.
To add a kind, name it in `icr_platform.annotation.config.RewardKind` and say here after which instruction it scores.
"""

from __future__ import annotations

from statistics import NormalDist

import numpy as np

from icr_platform.annotation.config import RewardKind
from icr_platform.core.arrays import Floats
from icr_platform.core.artifacts import text_digest
from icr_platform.core.languages import reward_instruction

ENGLISH = "en"


def scoring_instruction(kind: RewardKind, language: str, instruction: str, english_instruction: str) -> str:
    """The instruction u of a reward kind.

    Raises:
        ValueError: the kind scores nothing ('random').

    >>> scoring_instruction("cross-lingual", "es", "Di hola.", "Say hello.").endswith("language.\\n\\nSay hello.")
    True
    >>> scoring_instruction("multilingual", "es", "Di hola.", "Say hello.")
    'Di hola.'
    >>> scoring_instruction("translate", "es", "Di hola.", "Say hello.")
    'Say hello.'
    """
    if kind == "cross-lingual":
        return reward_instruction(language, english_instruction)
    if kind == "multilingual":
        return instruction
    if kind == "translate":
        return english_instruction
    raise ValueError(f"reward kind {kind!r} scores no text")


def implicit_reward(policy_logprob: Floats, reference_logprob: Floats, beta: float) -> Floats:
    """`beta * (policy - reference)`, all in nats; NaN where either is not finite, since such a difference ranks nothing."""
    with np.errstate(invalid="ignore"):
        reward = beta * (policy_logprob - reference_logprob)
    return np.where(np.isfinite(reward), reward, np.nan)


def random_reward(seed: int, language: str, prompt_id: str, sample_index: int) -> float:
    """A standard normal number that the key alone decides: the control against which a reward's effect is measured."""
    digest = int(text_digest("random reward", str(seed), language, prompt_id, str(sample_index)), 16)
    return NormalDist().inv_cdf(((digest >> 204) + 0.5) / 2**52)
