"""95% intervals: what they are drawn with, and the one of a share."""

from __future__ import annotations

import math
from typing import NamedTuple

Z95 = 1.959963984540054
"""Standard errors on each side of an estimate: 95% of the normal distribution lies between -Z95 and Z95."""


class Interval(NamedTuple):
    """A share with its 95% interval, all in [0, 1]; n items."""

    share: float
    low: float
    high: float
    n: int


def wilson(successes: float, n: int, z: float = Z95) -> Interval:
    """Score interval of a share (Wilson 1927); NaN share and [0, 1] for n = 0.

    >>> [round(x, 4) for x in wilson(81, 263)[1:3]]
    [0.2553, 0.3662]
    """
    share = successes / n if n else math.nan
    return Interval(share, *wilson_bounds(share, n, z), n)


def wilson_bounds(share: float, n: float, z: float = Z95) -> tuple[float, float]:
    """Bounds of the score interval of a share of n items, where n may be an effective size; [0, 1] for n = 0."""
    if n <= 0:
        return 0.0, 1.0
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    reach = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return max(0.0, centre - reach), min(1.0, centre + reach)
