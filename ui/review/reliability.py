"""How well people agree with the implicit reward, the judge and length, and with each other. Pure.

Cohen (1960) kappa; Krippendorff's alpha for nominal data with missing values (Krippendorff,
"Computing Krippendorff's Alpha-Reliability", 2011).
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence

from icr_platform.core.intervals import Z95, wilson


def verdicts_needed(successes: float, n: int, half_width: float, z: float = Z95) -> int:
    """How many more items until the Wilson interval is at most +- half_width.

    Planned with the interval's centre for the share: a few items that all agree do not promise that all will.

    Raises:
        ValueError: half_width not in (0, 0.5).
    """
    if not 0 < half_width < 0.5:
        raise ValueError(f"half_width must be in (0, 0.5), is {half_width}")
    share = (successes + z * z / 2) / (n + z * z)  # the interval's centre

    def is_enough(total: int) -> bool:
        interval = wilson(share * total, total, z)
        return interval.high - interval.low <= 2 * half_width

    low, high = n, max(n, 1)
    if n and wilson(successes, n, z).high - wilson(successes, n, z).low <= 2 * half_width:
        return 0
    # The interval narrows with the number of items: double it until it is enough, then halve the range.
    while not is_enough(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if is_enough(middle) else (middle, high)
    return max(high - n, 1)


def cohen_kappa(left: Sequence[Hashable], right: Sequence[Hashable]) -> float:
    """Agreement of two raters on the same items beyond chance; NaN without items, or when both always say one same thing."""
    if len(left) != len(right):
        raise ValueError("two raters must have rated the same items")
    n = len(left)
    if n == 0:
        return math.nan
    # By chance they would agree as often as two who keep these rates and never look at the item.
    observed = sum(a == b for a, b in zip(left, right, strict=True)) / n
    ours, theirs = Counter(left), Counter(right)
    expected = sum(ours[value] * theirs[value] for value in ours) / (n * n)
    return math.nan if expected == 1 else (observed - expected) / (1 - expected)


def krippendorff_alpha(ratings: Iterable[Mapping[str, Hashable]]) -> float:
    """Reliability of any number of raters over items, each a mapping rater -> value; items with one rating do not count.

    NaN when no item has two ratings, or all values are the same.
    """
    coincidences: dict[tuple[Hashable, Hashable], float] = defaultdict(float)
    for item in ratings:
        values = list(item.values())
        for i, a in enumerate(values):
            for j, b in enumerate(values):
                if i != j:
                    # Each value meets all others of its item, and weighs 1 in sum however many these are.
                    coincidences[a, b] += 1 / (len(values) - 1)
    totals: Counter[Hashable] = Counter()
    for (a, _), weight in coincidences.items():
        totals[a] += weight  # type: ignore[assignment]
    n = sum(totals.values())
    expected = n * n - sum(total * total for total in totals.values())
    if n <= 1 or expected == 0:
        return math.nan
    disagreed = sum(weight for (a, b), weight in coincidences.items() if a != b)
    return 1 - (n - 1) * disagreed / expected


def pairwise_kappas(ratings: Sequence[Mapping[str, Hashable]]) -> dict[tuple[str, str], tuple[float, int]]:
    """Cohen's kappa of every two raters over the items both rated, with how many those are."""
    raters = sorted({rater for item in ratings for rater in item})
    kappas = {}
    for i, a in enumerate(raters):
        for b in raters[i + 1 :]:
            both = [(item[a], item[b]) for item in ratings if a in item and b in item]
            if both:
                kappas[a, b] = (cohen_kappa([x for x, _ in both], [y for _, y in both]), len(both))
    return kappas
