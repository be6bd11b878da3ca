"""Facts about scripts and languages that checkers need: case, marks, quotation marks, and what counts as the same letter."""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

from icr_platform.core.errors import InputError
from icr_platform.core.language_tags import read_tag

_CASED_SCRIPTS = frozenset(
    {"Latn", "Latf", "Latg", "Cyrl", "Grek", "Armn", "Copt", "Cher", "Adlm", "Glag", "Dsrt", "Osge", "Vith"}
)
# Chinese ideographs, kana, and the scripts of mainland South East Asia: words are written without spaces between them.
UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u19e0-\u19ff\uaa60-\uaa7f\u0f00-\u0fff"
    "\u3040-\u30ff\u31f0-\u31ff\uff66-\uff9f\u3005-\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
)
COMMAS = re.compile("[,،、，﹐﹑､፣՝߸꓾꘍꛵⸲⸴⹁⹌᠂᠈︐︑𑑍]")
"""Commas of every script: Unicode's `Terminal_Punctuation` whose names say comma, and the Armenian one."""
_DOUBLE_QUOTES = {
    '"': '"', "＂": "＂", "“": "”", "”": "”“", "„": "“”\"", "«": "»", "»": "«»", "「": "」", "『": "』", "״": "״", "〝": "〞〟", "‟": "”",
}  # fmt: skip
"""Opening marks and those that may close what they opened, in some language."""
_OPENS_NOTHING_IN_ENGLISH = frozenset("«»「『„")
EDGE_QUOTES = "\"'“”„‟«»‹›‘’‚「」『』＂〝〞〟"
_INVISIBLE = "\ufeff\u200e\u200f\u202a\u202b\u202c\u2066\u2067\u2068\u2069\u061c"
_HOMOGLYPHS = str.maketrans("авсеһіјкмнорԛѕтухԝ", "abcehijkmhopqstyxw")
"""Cyrillic small letters that look like Latin ones."""

_ENGLISH = re.compile(
    r"\benglish\b|\binglés\b|\banglais|\benglisch|\binglese\b|\binglês\b|\bengels\b|\bangiel|\banglick|\bangličtin|\bengleză\b|\bangol"
    r"|\bengelsk|\bengelska\b|\benglanni|\b[iİ]ngilizce\b|\bbahasa inggris\b|\bkiingereza\b|\banglès\b|\btiếng anh\b|\bingles\b|\bturanci\b"
    r"|английск|англійськ|англиски|енглеск|αγγλικ|إنجليزي|انجليزي|إنكليزي|الإنجليزية|אנגלית|انگلیسی|انگریزی|अंग्रेज|अङ्ग्रेज|इंग्रजी"
    r"|ইংরেজি|ইংরেজী|ઇંગ્લિશ|અંગ્રેજી|ਅੰਗਰੇਜ਼ੀ|ஆங்கில|ఇంగ్లీష్|ఆంగ్ల|ಇಂಗ್ಲಿಷ್|ഇംഗ്ലീഷ|อังกฤษ|ອັງກິດ|អង់គ្លេស|အင်္ဂလိပ်|英文|英语|英語|영어|እንግሊዝኛ",
    re.IGNORECASE,
)


@lru_cache(maxsize=1024)
def base_language(tag: str) -> str:
    """Code of the language of a tag, whatever its script and region; a tag that is none as it is.

    >>> base_language("zh-Hant"), base_language("pt_BR"), base_language("swh_Latn"), base_language("klingon!")
    ('zh', 'pt', 'sw', 'klingon!')
    """
    try:
        return read_tag(tag).language
    except InputError:
        return tag.strip().lower()


@lru_cache(maxsize=1024)
def has_case(language: str) -> bool:
    """Whether the language is written in letters that are large or small.

    >>> has_case("el"), has_case("sr"), has_case("ar"), has_case("ka")
    (True, True, False, False)
    """
    try:
        return read_tag(language).written in _CASED_SCRIPTS
    except InputError:
        return False


def names_english(prompt: str) -> bool:
    """Whether a prompt speaks of English, in any of many languages: where letters must be capital, that is what to answer in."""
    return bool(_ENGLISH.search(prompt))


def lower(text: str, language: str) -> str:
    """text in small letters: of Turkish and Azerbaijani with their dotless i, and every sigma alike.

    >>> lower("IŞIK", "tr"), lower("İyi", "tr"), lower("ΟΔΟΣ", "el"), lower("ὁδός", "el")
    ('ışık', 'iyi', 'οδοσ', 'ὁδόσ')
    """
    if language in ("tr", "az", "crh", "gag"):
        text = text.replace("İ", "i").replace("I", "ı")
    return unicodedata.normalize("NFC", text).lower().replace("i̇", "i").replace("ς", "σ")


VOWEL_POINTS = re.compile(
    "[\u0610-\u061a\u064b-\u065f\u0670\u06d6-\u06ed\u0640\u0591-\u05bd\u05bf\u05c1\u05c2\u05c4\u05c5\u05c7]"
)
"""Of Arabic, with its kashida, and of Hebrew: texts have them or not, and words are the same."""
_LOAN_NUKTA = re.compile("(?<=[\u0915\u0916\u0917\u091c\u092b])\u093c")
"""The dot of Hindi's loan sounds (क़ ख़ ग़ ज़ फ़), which many leave out; that of ड़ and ढ़ everyone writes."""
_GREEK_ACCENTS = re.compile("[\u0300\u0301\u0342]")


def folded(text: str, language: str) -> str:
    """text as words are compared: full-width and half-width forms, ligatures and case alike, without vowel points and kashidas.

    Greek loses its accents, which capitals do not have.

    >>> folded("STRASSE", "de") == folded("Straße", "de"), folded("ＪＡＶＡ", "zh"), folded("حِكْمَة", "ar") == folded("حكمة", "ar")
    (True, 'java', True)
    >>> folded("ज़रूरी", "hi") == folded("जरूरी", "hi")
    True
    >>> folded("ΑΘΗΝΑ", "el") == folded("Αθήνα", "el"), folded("cafe\u0301", "fr") == folded("Café", "fr")
    (True, True)
    """
    text = unicodedata.normalize("NFKC", text)
    text = _LOAN_NUKTA.sub("", VOWEL_POINTS.sub("", text))
    if language == "el":
        text = unicodedata.normalize("NFC", _GREEK_ACCENTS.sub("", unicodedata.normalize("NFD", text)))
    return lower(text, language).replace("ß", "ss").translate(_ALIKE)


_ALIKE = str.maketrans(
    {
        "’": "'",
        "ʼ": "'",
        "ʹ": "'",
        "‘": "'",
        "\u00a0": " ",
        "\u202f": " ",
        "\u200c": None,
        "\u200d": None,
        "\u00ad": None,
    }
)


def phrase(text: str, language: str) -> str:
    """A phrase as it is compared with another one: folded, dashes alike, blanks as single ones and none before or after French marks.

    >>> phrase("Puis-je\\u00a0aider\\u202f?", "fr") == phrase("puis-je aider?", "fr")
    True
    """
    text = re.sub(r"\s+", " ", re.sub("[–—−‑]", "-", folded(text, language))).strip(_INVISIBLE + " ")
    return re.sub(r"\s+([?!;:»])|(«)\s+", r"\1\2", text)


def is_wrapped_in_quotes(text: str, language: str) -> bool:
    """Whether double quotation marks of the language open and close the text; `"` does in all of them."""
    text = text.strip().strip(_INVISIBLE)
    if len(text) < 2 or (language == "en" and text[0] in _OPENS_NOTHING_IN_ENGLISH):
        return False
    return text[-1] in _DOUBLE_QUOTES.get(text[0], "")


def look_alikes(text: str) -> str:
    """text in small letters with those of Cyrillic that look Latin as Latin: a reader does not see which of them was typed."""
    return text.lower().translate(_HOMOGLYPHS)
