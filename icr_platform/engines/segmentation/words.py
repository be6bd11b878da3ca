"""The words of a text by its language: at white space, or by a library where words are written without spaces between them.

Chinese by jieba, Japanese by MeCab (fugashi with unidic-lite), Thai by PyThaiNLP: the extra `words`, all offline. They are imported
here only, when a language needs them. Lao, Khmer, Burmese and Tibetan are written without spaces, too, and no library here knows
their words: nothing is better than a count of their clauses.
"""

from __future__ import annotations

import itertools
import logging
import os
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version

from icr_platform.core.language_tags import is_tag, read_tag
from icr_platform.core.languages import language_name

Split = Callable[[str], Iterator[str]]
_HAN = frozenset({"Hans", "Hant", "Hani", "Hanb"})
_JAPANESE = frozenset({"Jpan", "Hira", "Kana", "Hrkt"})
_WITHOUT_SPACES = frozenset(
    {"Laoo", "Khmr", "Mymr", "Tibt", "Thai", "Lana", "Tale", "Talu", "Tavt", "Bali", "Java", "Yiii", "Kits", "Tang"}
)
"""Scripts in which a space ends a clause, or nothing does."""


@dataclass(frozen=True)
class Segmenter:
    """How words are found in a language.

    split: gives the words of a text one by one, so that who wants a few pays for a few; None where nothing here knows them.
    why: what is missing then, and what to do about it, in a few words.
    """

    split: Split | None
    why: str = ""


@cache
def segmenter(language: str) -> Segmenter:
    """The segmenter of a language tag, loaded; the script that the tag names counts, or else the usual one.

    >>> list(segmenter("de").split("Guten Morgen, Anna!")), segmenter("lo").split
    (['Guten', 'Morgen,', 'Anna!'], None)
    """
    script = read_tag(language).written if is_tag(language) else ""
    makers: dict[str, tuple[str, Callable[[], Split]]] = {
        **dict.fromkeys(_HAN, ("jieba", _jieba)),
        **dict.fromkeys(_JAPANESE, ("fugashi and unidic-lite", _mecab)),
    }
    # Other languages are written in Thai letters as well, and PyThaiNLP has the words of one.
    if script == "Thai" and read_tag(language).language == "th":
        makers["Thai"] = ("pythainlp", _thai)
    if script in makers:
        library, make = makers[script]
        try:
            return Segmenter(make())
        except ImportError:
            return Segmenter(
                None, f"the words of {language_name(language)} need {library}: pip install 'icr-platform[words]'"
            )
    if script in _WITHOUT_SPACES:
        name = language_name(language)
        return Segmenter(None, f"{name} is written without spaces between words, and no library here finds them")
    return Segmenter(_at_spaces)


def libraries(language: str) -> dict[str, str]:
    """Name and version of each library that finds the words of a language; '' for one that is not installed.

    What is verified of a text depends on them. None is imported.

    >>> libraries("es"), list(libraries("th"))
    ({}, ['pythainlp'])
    """
    script = read_tag(language).written if is_tag(language) else ""
    names: tuple[str, ...] = ()
    if script in _HAN:
        names = ("jieba",)
    elif script in _JAPANESE:
        names = ("fugashi", "unidic-lite")
    elif script == "Thai" and read_tag(language).language == "th":
        names = ("pythainlp",)
    return {name: _version(name) for name in names}


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def has_words(split: Split, text: str, count: int) -> bool:
    """Whether the text has `count` words or more.

    >>> [has_words(_at_spaces, text, 3) for text in ("a b", "a b c", " a  b c d ")]
    [False, True, True]
    """
    if split is _at_spaces:
        return len(text.split(None, count - 1)) == count
    return len(list(itertools.islice(split(text), count))) == count


def _at_spaces(text: str) -> Iterator[str]:
    return iter(text.split())


@cache
def _jieba() -> Split:
    with (
        warnings.catch_warnings()
    ):  # it asks setuptools for its files, and has escapes that newer versions of Python warn of
        warnings.simplefilter("ignore")
        import jieba
    jieba.setLogLevel(logging.ERROR)
    tokenizer = jieba.Tokenizer()
    # It keeps its dictionary in the machine's temporary folder for the next process, which would load whatever lies there by that name.
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.tmp_dir = folder
        tokenizer.initialize()

    def split(text: str) -> Iterator[str]:
        cut: Iterable[str] = tokenizer.cut(text)
        return iter(cut)

    return split


@cache
def _mecab() -> Split:
    import unidic_lite
    from fugashi import Tagger

    # Named, because a large dictionary that happens to be installed beside it would be taken instead.
    tagger = Tagger(f'-O wakati -b 50000 -d "{unidic_lite.DICDIR}"')

    def split(text: str) -> Iterator[str]:
        return iter(str(tagger.parse(text.replace("\0", " "))).split())  # to MeCab a text ends there

    return split


@cache
def _thai() -> Split:
    # Else its import makes a folder in the person's home. It refuses both names of this at once.
    if "PYTHAINLP_READ_MODE" not in os.environ:
        os.environ.setdefault("PYTHAINLP_READ_ONLY", "1")
    os.environ.setdefault("PYTHAINLP_OFFLINE", "1")
    from pythainlp.tokenize import word_tokenize

    def split(text: str) -> Iterator[str]:
        # Its own way through a long text without spaces takes quadratic time; this one cuts it into windows.
        return iter(word_tokenize(text, engine="newmm-safe", keep_whitespace=False))

    return split
