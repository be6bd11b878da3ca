"""Warnings that need no judge: does the policy answer in the asked language, finish, and not loop?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from icr_platform.core.languages import counts_as

WINDOW = 20  # characters: longer than common phrases, shorter than a sentence that is looped
LOOPING = 0.5


class Confusion(NamedTuple):
    """One cell of the confusion table: that many outputs asked in `asked` were identified as `detected`.

    share: of the outputs asked in `asked`, in percent.
    """

    asked: str
    detected: str
    outputs: int
    share: float


def fidelity(asked: str, detected: Sequence[str]) -> float:
    """Percent of outputs identified as the asked language or one that counts as it (`languages.counts_as`).

    'und' (cannot tell) counts as another one; a language that the identifier does not know has no fidelity. The ceiling is
    below 100 on real prompt sets: some instructions rightly ask for a translation or for code.

    >>> fidelity("es", ["es", "es", "en", "und"]), fidelity("id", ["id", "ms"])
    (50.0, 100.0)
    """
    return 100.0 * sum(counts_as(asked, code) for code in detected) / len(detected) if detected else float("nan")


def confusion_table(pairs: Iterable[tuple[str, str]]) -> list[Confusion]:
    """Cells with outputs of (asked, detected) pairs: by asked language, the commonest detected language first."""
    counts = Counter(pairs)
    totals: Counter[str] = Counter()
    for (asked, _), count in counts.items():
        totals[asked] += count
    ordered = sorted(counts.items(), key=lambda cell: (cell[0][0], -cell[1], cell[0][1]))
    return [Confusion(asked, found, count, 100.0 * count / totals[asked]) for (asked, found), count in ordered]


def repeated_share(text: str) -> float:
    """Share of the text's 20-character windows that stood earlier in the same text, in [0, 1].

    Characters, not words: languages without spaces are measured alike. A text without loops is near 0, a looping one near 1.

    >>> repeated_share("Colourless green ideas sleep furiously.")
    0.0
    >>> round(repeated_share("and so on and on, " * 20), 2)
    0.95
    """
    windows = len(text) - WINDOW + 1
    if windows <= 0:
        return 0.0
    return 1.0 - len({text[start : start + WINDOW] for start in range(windows)}) / windows


def looping_rate(shares: Sequence[float]) -> float:
    """Percent of texts whose `repeated_share` is above one half."""
    return 100.0 * sum(share > LOOPING for share in shares) / len(shares) if shares else float("nan")


def truncation_rate(finish_reasons: Sequence[str]) -> float:
    """Percent of outputs that reached the token limit; NaN without any."""
    return (
        100.0 * sum(reason == "length" for reason in finish_reasons) / len(finish_reasons)
        if finish_reasons
        else float("nan")
    )
