"""The demo world's exact translator: sentence by sentence, by its lexicon."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

from icr_platform.core.errors import InputError
from icr_platform.demo.grader import sentences
from icr_platform.demo.lexicon import CLOSINGS, LANGUAGES, POLITE_OPENERS, RAMBLINGS, RUDE_OPENERS, THANKS
from icr_platform.demo.world import tasks
from icr_platform.engines.sampling.settings import TextTranslation


def translator(settings: TextTranslation) -> Callable[[str, str, str], str | None]:
    """A function of (text, source, target): the translation, or None for a text that is not all sentences of the world."""
    return translate


def translate(text: str, source: str, target: str) -> str | None:
    """Translate a text of the world.

    Raises:
        InputError: a language that the world does not have.

    >>> translate("Of course! The sun is yellow.", "en", "es")
    '¡Claro que sí! El sol es amarillo.'
    >>> translate("The stock market fell.", "en", "es")
    """
    if unknown := {source, target}.difference(LANGUAGES):
        raise InputError(
            f"config: field 'translator' is the demo world's, which has no {sorted(unknown)[0]!r}; it has {', '.join(LANGUAGES)}"
        )
    known, column = _sentences(source), LANGUAGES.index(target)
    found = [known.get(sentence) for sentence in sentences(text)]
    return " ".join(same[column] for same in found if same) if found and all(found) else None


@cache
def _sentences(language: str) -> dict[str, tuple[str, ...]]:
    """Every sentence of the world in a language, with itself in all languages.

    Where two sentences of other languages are one in this, the first is taken: they mean the same here.
    """
    column = LANGUAGES.index(language)
    said: list[tuple[str, ...]] = [
        tuple(phrase) for phrase in (*POLITE_OPENERS, *RUDE_OPENERS, *CLOSINGS, *RAMBLINGS, THANKS)
    ]
    for task in tasks():
        said.append(tuple(task.fact))
        for texts in (task.questions, task.correct, task.wrong):
            said += zip(*(texts[code] for code in LANGUAGES), strict=True)
    found: dict[str, tuple[str, ...]] = {}
    for same in said:
        found.setdefault(same[column], same)
    return found
