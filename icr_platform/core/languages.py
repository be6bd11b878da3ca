"""Languages by tag: English name, which languages count as one, and the response-language instruction PREFIX."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from functools import lru_cache
from typing import NamedTuple

from icr_platform.core.language_tags import Tag, is_english, is_tag, read_tag

NAMES: dict[str, str] = {
    "af": "Afrikaans", "am": "Amharic", "ar": "Arabic", "az": "Azerbaijani", "be": "Belarusian", "bg": "Bulgarian",
    "bn": "Bengali", "bs": "Bosnian", "ca": "Catalan", "cs": "Czech", "cy": "Welsh", "da": "Danish", "de": "German",
    "el": "Greek", "en": "English", "es": "Spanish", "et": "Estonian", "eu": "Basque", "fa": "Persian", "fi": "Finnish",
    "fr": "French", "ga": "Irish", "gl": "Galician", "gu": "Gujarati", "ha": "Hausa", "he": "Hebrew", "hi": "Hindi",
    "hr": "Croatian", "hu": "Hungarian", "hy": "Armenian", "id": "Indonesian", "ig": "Igbo", "is": "Icelandic",
    "it": "Italian", "ja": "Japanese", "jv": "Javanese", "ka": "Georgian", "kk": "Kazakh", "km": "Khmer", "kn": "Kannada",
    "ko": "Korean", "ky": "Kyrgyz", "lo": "Lao", "lt": "Lithuanian", "lv": "Latvian", "mk": "Macedonian",
    "ml": "Malayalam", "mn": "Mongolian", "mr": "Marathi", "ms": "Malay", "my": "Burmese", "ne": "Nepali", "nl": "Dutch",
    "no": "Norwegian", "or": "Odia", "pa": "Punjabi", "pl": "Polish", "ps": "Pashto", "pt": "Portuguese",
    "ro": "Romanian", "ru": "Russian", "rw": "Kinyarwanda", "sd": "Sindhi", "si": "Sinhala", "sk": "Slovak",
    "sl": "Slovenian", "so": "Somali", "sq": "Albanian", "sr": "Serbian", "sv": "Swedish", "sw": "Swahili",
    "ta": "Tamil", "te": "Telugu", "tg": "Tajik", "th": "Thai", "tl": "Tagalog", "tr": "Turkish", "uk": "Ukrainian",
    "ur": "Urdu", "uz": "Uzbek", "vi": "Vietnamese", "xh": "Xhosa", "yo": "Yoruba", "zh": "Chinese", "zu": "Zulu",
}  # fmt: skip
"""Those that stood in scored prompts from the first; all others have the library's names (`language_name`)."""

_SCRIPT_IS_SAID = frozenset({"sr", "zh"})
"""Languages that are written in two scripts by many people: even a usual script, if a tag names it, is part of the name."""

SISTERS = (frozenset({"bs", "cnr", "hr", "sh", "sr"}), frozenset({"nb", "nn", "no"}), frozenset({"id", "ms"}))
"""Languages that no identifier distinguishes reliably, and whose readers understand one another: each set counts as one."""

_LATIN = frozenset({"bs", "hr", "id", "ms", "nb", "nn", "no", "sh"})
"""Those that identifiers know in the Latin script only."""

PREFIX = (
    "Please answer the following instruction using only {language}, "
    "unless explicitly instructed to respond in a different language.\n\n"
)


@lru_cache(maxsize=4096)
def language_name(tag: str) -> str:
    """English name of a language, as prompts have it.

    All codes of one of NAMES have its name. A region has CLDR's name where there is one, else it stands in brackets, as does a
    script that is not the usual one.

    Raises:
        InputError: it is not a language tag.

    >>> [language_name(tag) for tag in ("sw", "swh_Latn", "mt", "zh-Hant", "pt-BR", "sr-Latn", "en-NZ")]
    ['Swahili', 'Swahili', 'Maltese', 'Traditional Chinese', 'Brazilian Portuguese', 'Serbian (Latin)', 'English (New Zealand)']
    """
    if tag in NAMES:
        return NAMES[tag]
    from langcodes import Language
    from language_data.names import code_to_names

    read = read_tag(tag)
    first = re.split("[-_]", tag.strip().lower())[0]
    codes = (first, _THREE_LETTERS.get(first, ""), read.code, read.language if read.code != "nb" else "")
    name = next((NAMES[code] for code in codes if code in NAMES), "")
    name = name or code_to_names(read.code).get("en", read.code).partition(" (individual")[0]
    is_usual = read.written == (read.usual_script if not read.region else read_tag(read.code).usual_script)
    script = read.written if not is_usual or (read.script and read.language in _SCRIPT_IS_SAID) else ""
    region = read.region
    if not read.script and region and (said := code_to_names(f"{read.language}-{region}").get("en")):
        name, region, script = said, "", ""
    elif script and (said := code_to_names(f"{read.language}-{script}").get("en")):
        name, script = said, ""
    parts = Language.make(script=script or None, territory=region or None, variants=read.variants or None)
    more = [
        parts.script_name() if script else "",
        parts.territory_name() if region else "",
        *(parts.variant_names() if read.variants else ()),
    ]
    more = [part for part in more if part]
    return f"{name} ({', '.join(more)})" if more else name


_THREE_LETTERS = {"tgl": "tl", "nor": "no"}
"""The library takes Tagalog for Filipino, whose standard form it is."""


def is_language(tag: str) -> bool:
    """Whether it is the tag of a language: one of NAMES, which needs no library, or another one that `langcodes` knows."""
    return tag in NAMES or is_tag(tag)


def language_label(tag: str) -> str:
    """What tables, charts and pages call a language: its name; what is not a language as it is.

    >>> language_label("es"), language_label("swh_Latn"), language_label("mean")
    ('Spanish', 'Swahili', 'mean')
    """
    return language_name(tag) if is_language(tag) else tag


def language_in(metric: str) -> str:
    """The language tag that the name of a metric ends with; '' where it ends with none.

    >>> language_in("margin/median/zh-Hant"), language_in("win_rate/mean"), language_in("train/loss"), language_in("benchmark/arc")
    ('zh-Hant', '', '', '')
    """
    prefix, _, last = metric.rpartition("/")
    # Many short words are codes of some language; those of training, the machine and single benchmarks are none.
    is_of_language = prefix not in ("", "benchmark", "benchmark_se") and not prefix.startswith(
        ("train", "sft", "system")
    )
    return last if is_of_language and is_language(last) else ""


@lru_cache(maxsize=4096)
def counts_as(asked: str, detected: str) -> bool:
    """Whether a text identified as `detected` is in the language that was asked for.

    A tag counts by its language and that language's SISTERS, whatever its region. A macrolanguage is answered in any of its members
    (`ku` in `ckb`), and a member in what is identified as its principal one (`swh` in `sw`). In Arabic and Chinese, whose
    members are written alike and which identifiers do not tell apart, also a label of the whole counts (`arz` in `ar`), but not
    that of another member (`arz` in `apc`).

    Only a script asks for more: `sr-Cyrl` is not answered by what was identified as Croatian, which is written in Latin, while
    `sr-Latn` is. A label without a script says nothing of it.

    >>> counts_as("id", "ms"), counts_as("hr", "sr"), counts_as("nn", "no"), counts_as("da", "no")
    (True, True, True, False)
    >>> counts_as("sr-Cyrl", "hr"), counts_as("sr-Latn", "hr"), counts_as("sr-Cyrl", "sr")
    (False, True, True)
    >>> counts_as("swh_Latn", "sw"), counts_as("zh-Hant", "zh"), counts_as("zh-Hant", "zho_Hans"), counts_as("ckb", "kmr")
    (True, True, False, False)
    """
    wanted, found = _compared(asked), _compared(detected)
    if not _is_same_language(wanted, found):
        return False
    script, found_script = _ONE_SCRIPT.get(wanted.script, wanted.script), _ONE_SCRIPT.get(found.script, found.script)
    if not found_script and found.code in _LATIN:
        found_script = "latn"
    is_han = "hani" in (script, found_script) and {script, found_script} <= {"hani", "hans", "hant"}
    return not script or not found_script or script == found_script or is_han


_ONE_SCRIPT = {"aran": "arab", "hang": "kore", "jpan": "hani", "hanb": "hant", "latf": "latn", "latg": "latn"}
_ALIKE = {"ar": frozenset({"arab"}), "zh": frozenset({"hans", "hant", "hani"})}
"""Macrolanguages whose members are written alike, in these scripts. Min Nan and its neighbours are often written in Latin."""
_NOT_ALIKE = frozenset({"nan", "hak", "cdo", "cpx", "mnp"})


class _Compared(NamedTuple):
    """A tag, as languages are compared: all in lower case. macrolanguage: '' for none."""

    code: str
    language: str
    macrolanguage: str
    script: str
    written: str


def _compared(tag: str) -> _Compared:
    if tag not in NAMES and is_tag(tag):
        read: Tag = read_tag(tag)
        return _Compared(read.code, read.language, read.macrolanguage, read.script.lower(), read.written.lower())
    # A label of anyone's own identifier need not be a tag.
    code, *subtags = re.split("[-_]", tag.lower())
    script = next((subtag for subtag in subtags if len(subtag) == 4 and subtag.isalpha()), "")
    return _Compared(code, "fil" if code == "tl" else code, "", script, script)


def _is_same_language(wanted: _Compared, found: _Compared) -> bool:
    one, other = wanted.language, found.language
    if one == other or any(one in sisters and other in sisters for sisters in SISTERS):
        return True
    if found.macrolanguage == wanted.code:
        return True
    whole = wanted.macrolanguage or found.macrolanguage
    return whole in _ALIKE and whole in (one, other) and _is_alike(wanted, whole) and _is_alike(found, whole)


def _is_alike(tag: _Compared, whole: str) -> bool:
    return tag.code not in _NOT_ALIKE and tag.written in {"", *_ALIKE[whole]}


@lru_cache(maxsize=65536)
def is_told_by(asked: str, label: str) -> bool:
    """Whether an identifier that has `label` can tell texts in the language that was asked for from others.

    It can where the label counts as the language, and where it knows the script: a label without one is of texts in the usual one.
    Cyrillic Uzbek is taken for Kazakh by who knows the Latin one only. Chinese labels are of both scripts.

    >>> is_told_by("swh_Latn", "sw"), is_told_by("zh-Hant", "zh"), is_told_by("uz-Cyrl", "uz"), is_told_by("uz-Cyrl", "uzn_Cyrl")
    (True, True, False, True)
    """
    if not counts_as(asked, label):
        return False
    if asked in NAMES or not is_tag(asked) or not is_tag(label):
        return True
    wanted, found = read_tag(asked).written.lower(), read_tag(label).written.lower()
    if {wanted, found} <= {*_ALIKE["zh"], ""}:
        return True
    # Of the sisters only some are written in Latin, and those are why a label counts.
    return not wanted or not found or _ONE_SCRIPT.get(wanted, wanted) == _ONE_SCRIPT.get(found, found)


def comparable(label: str) -> str:
    """The shortest tag of what an identifier's label says: without a usual script, and 'und' for what is not a language.

    >>> [comparable(label) for label in ("swh_Latn", "arb_Arab", "zho_Hans", "cmn_Hani", "srp_Cyrl", "ckb", "zxx_Zxxx")]
    ['sw', 'ar', 'zh-Hans', 'zh', 'sr-Cyrl', 'ckb', 'und']
    """
    if not is_tag(label):
        return UNDETERMINED
    read = read_tag(label)
    is_usual = read.script in ("", "Hani", read.usual_script)
    says_script = read.script if not is_usual or (read.language in _SCRIPT_IS_SAID and read.script != "Hani") else ""
    return f"{read.language}-{says_script}" if says_script else read.language


def in_script(label: str, asked: str, text: str) -> str:
    """The label with the script of the text, where a certain script was asked for and the text is in another one.

    Identifiers without scripts in their labels take Serbian for Serbian in both of its scripts. Traditional and simplified Chinese
    are one script to Unicode.

    >>> in_script("sr", "sr-Latn", "Добар дан"), in_script("sr", "sr-Latn", "Dobar dan"), in_script("sr", "sr", "Добар дан")
    ('sr-Cyrl', 'sr', 'sr')
    """
    if asked in NAMES or not is_tag(asked) or not is_tag(label) or read_tag(label).script:
        return label
    wanted = read_tag(asked).script
    if wanted not in _SCRIPTS.values() or not counts_as(asked, label):
        return label
    names = [unicodedata.name(character, "").split(" ")[0] for character in text if character.isalpha()]
    seen = Counter(script for name in names if (script := _SCRIPTS.get(name)))
    script, count = seen.most_common(1)[0] if seen else (wanted, 0)
    return f"{label}-{script}" if script != wanted and 2 * count > len(names) else label


_SCRIPTS = {
    "LATIN": "Latn", "CYRILLIC": "Cyrl", "ARABIC": "Arab", "DEVANAGARI": "Deva", "BENGALI": "Beng", "GURMUKHI": "Guru",
    "MEETEI": "Mtei", "HEBREW": "Hebr", "MONGOLIAN": "Mong", "TIFINAGH": "Tfng", "GREEK": "Grek", "GEORGIAN": "Geor",
    "ETHIOPIC": "Ethi", "THAANA": "Thaa", "NKO": "Nkoo", "ADLAM": "Adlm", "OL": "Olck", "TIBETAN": "Tibt", "ARMENIAN": "Armn",
}  # fmt: skip
"""Scripts by the first word of their letters' names."""


def reward_instruction(language: str, english_instruction: str) -> str:
    """u = PREFIX(l) + G(x^l), under which R_c scores a response; English takes no prefix (arXiv 2503.04647, section 3).

    >>> reward_instruction("en", "Name a fruit.")
    'Name a fruit.'
    >>> reward_instruction("sw", "Name a fruit.").split(",")[0]
    'Please answer the following instruction using only Swahili'
    """
    if is_english(language):
        return english_instruction
    return PREFIX.format(language=language_name(language)) + english_instruction


UNDETERMINED = "und"
FEWEST_LETTERS = 12
FEWEST_DENSE_LETTERS = 4
"""Of the scripts whose letters say most: a word takes one to three of them."""


_DENSE_SCRIPTS = (
    "CJK ",
    "IDEOGRAPHIC ",
    "HIRAGANA ",
    "KATAKANA",
    "HALFWIDTH ",
    "HANGUL ",
    "THAI ",
    "LAO ",
    "KHMER ",
    "MYANMAR ",
)


def too_short(text: str) -> bool:
    """Whether a text has too few letters to identify its language: under 12, or under 4 in scripts that need few.

    Those are Han, kana, Hangul, Thai, Lao, Khmer and Burmese. Letters are those of Unicode (category L): vowel signs that
    are marks, digits and emoji are not, and a Hangul syllable is one however it is encoded. A text of both kinds is long
    enough by either count.

    >>> too_short("Bonjour, Anna"), too_short("Bonjour, Annie"), too_short("日本語"), too_short("日本語だ")
    (True, False, True, False)
    """
    letters = dense = 0
    for character in unicodedata.normalize("NFC", text):
        if character.isalpha():
            letters += 1
            # ASCII is left out first: names are slow, and most letters are ASCII.
            dense += not character.isascii() and unicodedata.name(character, "").startswith(_DENSE_SCRIPTS)
            if letters >= FEWEST_LETTERS or dense >= FEWEST_DENSE_LETTERS:
                return False
    return True
