"""How a model is scored on a CPU."""

from __future__ import annotations

from typing import Literal, NamedTuple


class Choice(NamedTuple):
    """What changes how fast scores come, and of them the last bits alone.

    library: of the matrix products; onednn, where it applies, or what torch takes itself. threads: of torch. pack_tokens: rows of a pack.
    """

    library: Literal["onednn", "torch"]
    threads: int
    pack_tokens: int
