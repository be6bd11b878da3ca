"""Which policy, which reference and which seed at iteration t. Pure: names in, names out."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Literal


def generating_policy(policies: Sequence[str], iteration: int) -> str:
    """pi_{t-1}: samples the responses, is scored as the policy and is trained into pi_t. policies: pi_0 ... pi_{t-1}.

    >>> generating_policy(["pi_0", "pi_1"], 2)
    'pi_1'
    """
    return policies[iteration - 1]


def reward_reference(
    policies: Sequence[str], reference: str, iteration: int, mode: Literal["initial", "previous"]
) -> str:
    """Reference of the implicit reward at iteration t >= 1: pi_ref, or the policy before pi_{t-1} (METHOD, step 5).

    >>> [reward_reference(["pi_0", "pi_1"], "pi_ref", t, "previous") for t in (1, 2)]
    ['pi_ref', 'pi_0']
    >>> reward_reference(["pi_0", "pi_1"], "pi_ref", 2, "initial")
    'pi_ref'
    """
    if mode == "initial" or iteration == 1:
        return reference
    return policies[iteration - 2]


def iteration_seed(seed: int, iteration: int) -> int:
    """Seed of iteration t, so that two iterations never sample or shuffle alike. In [0, 2**31).

    >>> iteration_seed(42, 1) == iteration_seed(42, 1) != iteration_seed(42, 2)
    True
    """
    return int.from_bytes(hashlib.sha256(f"{seed}/{iteration}".encode()).digest()[:4], "big") % 2**31
