"""How a model is scored on a CPU."""

from __future__ import annotations

from typing import Literal, NamedTuple

_LOGITS = 2**22  # numbers of [tokens, vocabulary] that are computed together
_LEAST_ROWS = 128  # with fewer tokens, reading the head's weights takes longer than multiplying


def rows_of_logits(vocabulary: int) -> int:
    """Tokens whose logits a CPU computes together.

    >>> rows_of_logits(1000), rows_of_logits(262144)
    (4194, 128)
    """
    return max(_LEAST_ROWS, _LOGITS // vocabulary)


Library = Literal["onednn", "torch"]
"""Of matrix products on a CPU."""


class Choice(NamedTuple):
    """What changes how fast scores come, and of them the last bits alone.

    library: of the matrix products; onednn, where it applies, or what torch takes itself. threads: of torch. pack_tokens: rows of a pack.
    attention: of which library its products are; torch: of a kernel of torch.
    """

    library: Library
    threads: int
    pack_tokens: int
    attention: Library = "torch"
