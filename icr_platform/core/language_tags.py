"""Language tags as people write them: BCP 47, ISO 639-1, 639-2 and 639-3, FLORES (`swh_Latn`), underscores, any case, POSIX locales.

`langcodes` reads them and brings the data: aliases, macrolanguages, likely scripts and regions. Files and tables keep a tag as it was
given (but for `spelled`); whether two tags mean the same language is asked here, and only here.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING

from icr_platform.core.errors import InputError

if TYPE_CHECKING:
    from langcodes import Language

ENGLISH = "en"
_NO_LANGUAGE = frozenset({"und", "mul", "zxx", "mis"})
_OF_TABLES = frozenset({"all", "mean"})
"""Rows of score tables have these names where a language stands otherwise; `all` would be Allar."""
_WORDS = frozenset({"new", "bin", "man", "men", "her"})
"""Codes of larger languages that are likelier an English word where a file is named so."""
_RIGHT_TO_LEFT = frozenset(
    {
        "Adlm", "Arab", "Aran", "Armi", "Avst", "Chrs", "Cprt", "Elym", "Gara", "Hatr", "Hebr", "Hung", "Khar", "Lydi",
        "Mand", "Mani", "Mend", "Merc", "Mero", "Narb", "Nbat", "Nkoo", "Orkh", "Ougr", "Palm", "Phli", "Phlp", "Phnx",
        "Prti", "Rohg", "Samr", "Sarb", "Sogd", "Sogo", "Syre", "Syrj", "Syrn", "Syrc", "Thaa", "Yezi",
    }
)  # fmt: skip
_USUAL_SCRIPTS = {"azb": "Arab", "uzs": "Arab", "mvf": "Mong", "ku-IQ": "Arab", "ku-IR": "Arab"}
"""Where CLDR has none and that of the macrolanguage is another one."""
_MODIFIERS = {"latin": "Latn", "cyrillic": "Cyrl", "devanagari": "Deva", "arabic": "Arab", "valencia": "valencia"}
_OFTEN_MEANT = {"chs": "zh-Hans", "cht": "zh-Hant", "zh-chs": "zh-Hans", "zh-cht": "zh-Hant", "en-simple": "en"}


@dataclass(frozen=True)
class Tag:
    """A language tag that was read, in BCP 47's spelling.

    code: of the language as the tag says it, by its shortest code: `swh`, `cmn`, `de` for `ger`.
    language: the same for all codes of one language: `sw` for sw, swa and swh, `zh` for zh and cmn; a macrolanguage stands for its
        principal member, as in CLDR.
    macrolanguage: that `code` belongs to; '' for none. `yue` belongs to `zh`, and `ckb` to `ku`.
    script, region: '' where the tag names none.
    usual_script: that the language is usually written in, in that region; '' where it is not known.
    """

    code: str
    language: str
    macrolanguage: str
    script: str
    region: str
    variants: tuple[str, ...]
    usual_script: str

    @property
    def written(self) -> str:
        """The script of its texts: the one named, or the usual one."""
        return self.script or self.usual_script

    @property
    def bcp47(self) -> str:
        return "-".join(part for part in (self.code, self.script, self.region, *self.variants) if part)

    @property
    def is_macrolanguage(self) -> bool:
        from langcodes.data_dicts import MACROLANGUAGES

        return self.code in MACROLANGUAGES.values()


def spelled(given: str) -> str:
    """A tag as files and tables keep it: as it was given, without white space around it and without what only a POSIX locale has.

    A bare code of two letters is in lower case.

    >>> [spelled(given) for given in (" EN ", "zh-Hant", "pt_BR.UTF-8", "sr_RS@latin", "swh_Latn")]
    ['en', 'zh-Hant', 'pt_BR', 'sr_Latn_RS', 'swh_Latn']
    """
    text, _, modifier = given.strip().partition("@")
    language, *others = text.partition(".")[0].split("_") if "." in text or modifier else [text]
    if subtag := _MODIFIERS.get(modifier.lower()):
        others = [*others, subtag] if subtag.islower() else [subtag, *others]
    joined = "_".join([language, *others])
    return joined.lower() if len(joined) == 2 else joined


@lru_cache(maxsize=4096)
def read_tag(given: str) -> Tag:
    """Read a tag.

    Raises:
        InputError: it is not one, with the language that is probably meant.
    """
    tag = _read(given)
    if tag is None:
        near = nearest(given)
        raise InputError(
            f"unknown language code {given!r}" + (f", nearest is {near!r}" if near else "") + "; give a BCP 47 tag"
        )
    return tag


def is_tag(given: str) -> bool:
    """Whether the text is the tag of a language.

    >>> [is_tag(text) for text in ("mt", "zh-Hant", "swh_Latn", "jp", "swahili", "und", "all")]
    [True, True, True, False, False, False, False]
    """
    return _read(given) is not None


@lru_cache(maxsize=4096)
def _read(given: str) -> Tag | None:
    from langcodes import Language
    from langcodes.data_dicts import MACROLANGUAGES

    text = spelled(given).replace("_", "-")
    try:
        parsed = Language.get(text)
        is_known = bool(parsed.language) and parsed.is_valid()
    except (ValueError, LookupError):  # LanguageTagError is a ValueError
        return None
    code = parsed.language or ""
    is_private = code.startswith("x-") or "qaa" <= code <= "qtz" or parsed.territory in ("XX", "ZZ", "AA")
    if not is_known or is_private or code in _NO_LANGUAGE or code in _OF_TABLES or text.lower() in _OFTEN_MEANT:
        return None
    language = parsed.prefer_macrolanguage().language or code
    return Tag(
        code=code,
        language="no" if language == "nb" else language,  # CLDR's Norwegian is Bokmål
        macrolanguage=MACROLANGUAGES.get(code, ""),
        script=parsed.script or "",
        region=parsed.territory or "",
        variants=tuple(parsed.variants or ()),
        usual_script=_usual_script(parsed),
    )


def _usual_script(parsed: Language) -> str:
    """The likely script; that of the macrolanguage where there are no data on one of its members."""
    from langcodes import Language
    from langcodes.data_dicts import LIKELY_SUBTAGS, MACROLANGUAGES

    code = parsed.language or ""
    if script := _USUAL_SCRIPTS.get(code) or _USUAL_SCRIPTS.get(f"{code}-{parsed.territory}"):
        return script
    code = code if code in LIKELY_SUBTAGS else MACROLANGUAGES.get(code, code)
    if code not in LIKELY_SUBTAGS:
        return ""
    return Language.make(language=code, territory=parsed.territory).maximize().script or ""


def is_english(tag: str) -> bool:
    """Whether a tag is English, of any region.

    >>> [is_english(tag) for tag in ("en", "eng_Latn", "en-GB-oxendict", "de", "ang")]
    [True, True, True, False, False]
    """
    read = None if tag == ENGLISH else _read(tag)
    return tag == ENGLISH or (read is not None and read.language == ENGLISH and read.written == "Latn")


def english_first(tags: Iterable[str]) -> list[str]:
    """Tags in the order of tables: English, then the others by tag.

    >>> english_first(["sw", "en-US", "de"])
    ['en-US', 'de', 'sw']
    """
    return sorted(tags, key=lambda tag: (not is_english(tag), tag))


def names_language(name: str) -> bool:
    """Whether a file, a folder, a configuration or a column of scores is named by a language tag.

    Most words of three letters are codes of some language (`all`, `dev`, `val`, `raw`). Of the codes of three letters only those of
    larger languages count, and a region in lower case must not be a language's code: `en-de` is a pair. Whatever is asked for by
    its tag is read all the same.

    >>> [name for name in ("en", "mt", "ckb", "swh", "zh_Hant", "pt-br", "en-de", "all", "dev", "test") if names_language(name)]
    ['en', 'mt', 'ckb', 'swh', 'zh_Hant', 'pt-br']
    """
    tag = _read(name)
    if tag is None or name != name.strip():
        return False
    language, *others = name.replace("_", "-").split("-")
    if others:
        region = next((part for part in others if len(part) == 2), "")
        return not (region.islower() and len(others) == 1 and _is_a_code(region))
    if len(language) == 2:
        return True
    return language.lower() not in _WORDS and (len(tag.code) == 2 or _population(tag) > 0)


def has_data(name: str) -> bool:
    """Whether it is the tag of a language that CLDR has data on, so that it may well be meant as one.

    >>> has_data("en-de"), has_data("taq"), has_data("old")
    (True, True, False)
    """
    tag = _read(name)
    return tag is not None and bool(tag.usual_script)


def _is_a_code(text: str) -> bool:
    """Whether two letters are the code of a language that has more speakers than the region of that name has people."""
    tag = _read(text)
    return tag is not None and text not in ("br", "cn", "tw", "us", "gb") and _population(tag) > 10**7


@lru_cache(maxsize=4096)
def _population(tag: Tag) -> int:
    from langcodes import Language

    return max(Language.make(language=code).speaking_population() for code in (tag.code, tag.language))


# Same language ---------------------------------------------------------------------------------------------------------------------


def find_name(asked: str, names: Collection[str]) -> str | None:
    """The one of `names` that means the language asked for; None where none does.

    The tag itself comes first. Then, each only where one name fits: another tag of the same language, script and region (`swh_Latn`
    for `sw`); one whose region goes without saying (`zh-TW` for `zh-Hant`, `en-US` for `en`); one of the two without a region or
    variant (`es` for `es-MX`). A script that differs never fits.

    Raises:
        InputError: several names fit equally.

    >>> find_name("sw", ["en", "swh_Latn"]), find_name("zh-Hant", ["zh", "zh_TW"]), find_name("zh-Hant", ["zh"])
    ('swh_Latn', 'zh_TW', None)
    """
    if asked in names:
        return asked
    wanted = _read(asked)
    if wanted is None:
        return None
    tags = {name: tag for name in names if (tag := _read(name)) is not None}
    for is_same in _SAME:
        fits = [name for name, tag in tags.items() if is_same(wanted, tag)]
        if len(fits) > 1:
            raise InputError(
                f"language {asked!r} is not there, and {' and '.join(map(repr, fits))} mean it equally; name one of them {asked!r}"
            )
        if fits:
            return fits[0]
    return None


def twice(tags: Iterable[str]) -> tuple[str, str] | None:
    """The first two different tags that mean the same language, script and region; None where no two do.

    >>> twice(["en", "sw", "swh_Latn"]), twice(["pt", "pt-BR"])
    (('sw', 'swh_Latn'), None)
    """
    seen: dict[Tag, str] = {}
    for given in dict.fromkeys(tags):
        tag = _read(given)
        if tag is not None and (before := seen.setdefault(_identity(tag), given)) != given:
            return before, given
    return None


def _identity(tag: Tag) -> Tag:
    return replace(tag, code=tag.language, macrolanguage="", script=tag.written, usual_script="")


def _with_likely_region(tag: Tag) -> Tag:
    from langcodes import Language

    likely = Language.make(language=tag.language, script=tag.written or None, territory=tag.region or None).maximize()
    return replace(_identity(tag), region=likely.territory or "")


def _in_general(wanted: Tag, found: Tag) -> bool:
    a, b = _identity(wanted), _identity(found)
    is_bare = [not tag.region and not tag.variants for tag in (a, b)]
    return any(is_bare) and replace(a, region="", variants=()) == replace(b, region="", variants=())


_SAME: tuple[Callable[[Tag, Tag], bool], ...] = (
    lambda wanted, found: _identity(wanted) == _identity(found),
    lambda wanted, found: _with_likely_region(wanted) == _with_likely_region(found),
    _in_general,
)


# What is probably meant ------------------------------------------------------------------------------------------------------------


def nearest(given: str) -> str | None:
    """The tag that is probably meant: of a country's code, a language's name in any language, or a name with a typing error.

    Never a language that is merely spelled alike: None where nothing says what is meant.

    >>> [nearest(given) for given in ("jp", "cn", "gr", "swahili", "Deutsch", "Englsh", "xz", "sr-latin", "en-XX")]
    ['ja', 'zh', 'el', 'sw', 'de', 'en', None, 'sr-Latn', 'en']
    """
    from langcodes import Language
    from langcodes.data_dicts import LIKELY_SUBTAGS

    text = spelled(given).replace("_", "-")
    if text.lower() in _OFTEN_MEANT:
        return _OFTEN_MEANT[text.lower()]
    if len(text) == 2 and f"und-{text.upper()}" in LIKELY_SUBTAGS:
        likely = read_tag(Language.make(territory=text.upper()).maximize().to_tag())
        usual = read_tag(likely.language).usual_script
        return likely.language if likely.script == usual else f"{likely.language}-{likely.script}"
    if (found := _named(text.replace("-", " "))) is not None:
        return found
    first, *others = text.split("-")
    if others and _read(first) is not None:
        scripts = [script for part in others if (script := _script_named(part))]
        return "-".join([first, *scripts[:1]])
    return None


def _named(name: str) -> str | None:
    """The tag of a language by its name, in English or its own, also with a typing error where one language is near."""
    from langcodes import Language

    if len(name) < 4 and name.isascii():
        return None  # a code that is wrong; many short words are the name of some language
    try:
        found = _read(Language.find(name, "en").to_tag())
    except LookupError:
        found = None
    if found is not None:
        return replace(found, code=found.language).bcp47
    names = _names()
    # Short names are near too many others, and a name may be near those of two languages: Deutch is Deutsch or Dutch.
    cutoff = 0.85 if len(name) >= 5 else 1.0
    close = {names[near] for near in difflib.get_close_matches(name.lower(), names, n=4, cutoff=cutoff)}
    return close.pop() if len(close) == 1 else None


@lru_cache(maxsize=1)
def _names() -> dict[str, str]:
    """Tag of each larger language by its names in English and in the language itself, in lower case."""
    from langcodes import Language
    from language_data.population_data import LANGUAGE_SPEAKING_POPULATION

    codes = [code for code in LANGUAGE_SPEAKING_POPULATION if "-" not in code and _read(code) is not None]
    languages = {code: Language.make(language=code) for code in codes}
    own = {language.autonym().lower(): code for code, language in languages.items()}
    return own | {language.language_name().lower(): code for code, language in languages.items()}


def tag_named(name: str) -> str | None:
    """The tag of a larger language that is called exactly so, in English or in the language itself.

    >>> tag_named("Maltese"), tag_named("Kiswahili"), tag_named("train")
    ('mt', 'sw', None)
    """
    return _names().get(name.lower())


def _script_named(text: str) -> str:
    from langcodes.data_dicts import ALL_SCRIPTS

    named = {"latin": "Latn", "cyrillic": "Cyrl", "arabic": "Arab", "traditional": "Hant", "simplified": "Hans"}
    return named.get(text.lower(), text.title() if text.title() in ALL_SCRIPTS else "")


# Pages -----------------------------------------------------------------------------------------------------------------------------


def is_right_to_left(tag: str) -> bool:
    """Whether texts in a language run from right to left, which its script decides.

    >>> [is_right_to_left(tag) for tag in ("ar", "ckb", "az-Arab", "az", "sr-Latn", "dv", "arb_Arab", "mean")]
    [True, True, True, False, False, True, True, False]
    """
    read = _read(tag)
    return read is not None and read.written in _RIGHT_TO_LEFT


def html_lang(tag: str) -> str:
    """Value of a `lang` attribute: a valid BCP 47 tag, by which browsers choose fonts; '' for what is not a language.

    >>> html_lang("swh_Latn"), html_lang("zho_Hant"), html_lang("mean")
    ('swh-Latn', 'zh-Hant', '')
    """
    read = _read(tag)
    return read.bcp47 if read is not None else ""
