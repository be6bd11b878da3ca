"""Pairs of which one side is certainly better: labelled ones of a file, and responses beside themselves spoilt."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from icr_platform.data.labelled_pairs import LabelledPair, read_labelled_pairs
from icr_platform.evaluation.corruptions import GivenOutput, corrupt

_SEEN_BY_ANYONE = ("other-prompt", "looped")
"""Corruptions that nobody who reads overlooks; a changed number or a cut end is."""


def labelled(path: str, language: str) -> list[LabelledPair]:
    """Pairs of a file in a language, without ties.

    Raises:
        InputError: it cannot be read, or has no pair in the language.
    """
    return [pair for pair in read_labelled_pairs(path, languages=(language,)).pairs if not pair.is_tie]


def spoilt(language: str, texts: Sequence[tuple[str, str, str]]) -> Iterator[tuple[str, str, str, str]]:
    """Prompt id, text, spoilt text and how it was spoilt, one for each text that can be, each way in turn; the same at every call.

    Args:
        texts: prompt id, instruction and response, each prompt once.
    """
    given = [GivenOutput(language, prompt_id, text, instruction=asked) for prompt_id, asked, text in texts]
    made = {(pair.prompt_id, pair.corruption): pair for pair in corrupt(given, 0, _SEEN_BY_ANYONE).pairs}
    turn = 0
    for prompt_id, _, _ in texts:
        ways = [*_SEEN_BY_ANYONE[turn % 2 :], *_SEEN_BY_ANYONE[: turn % 2]]
        pair = next((made[prompt_id, way] for way in ways if (prompt_id, way) in made), None)
        if pair is not None:
            turn += 1
            yield prompt_id, pair.chosen, pair.rejected, pair.corruption
