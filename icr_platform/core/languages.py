"""Languages by code: English name, script direction, and the response-language instruction PREFIX."""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

from icr_platform.core.errors import InputError

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

RIGHT_TO_LEFT = frozenset({"ar", "fa", "he", "ps", "sd", "ur"})

SISTERS = (frozenset({"bs", "cnr", "hr", "sh", "sr"}), frozenset({"nb", "nn", "no"}), frozenset({"id", "ms"}))
"""Languages that no identifier distinguishes reliably, and whose readers understand one another: each set counts as one."""

_LATIN = frozenset({"bs", "hr", "id", "ms", "nb", "nn", "no", "sh"})
"""Those that identifiers know in the Latin script only."""

PREFIX = (
    "Please answer the following instruction using only {language}, "
    "unless explicitly instructed to respond in a different language.\n\n"
)


def language_name(code: str) -> str:
    """English name of a language code; raises InputError for a code that is not in NAMES."""
    try:
        return NAMES[code]
    except KeyError:
        raise InputError(f"languages: unknown language code {code!r}; known codes: {' '.join(sorted(NAMES))}") from None


@lru_cache(maxsize=4096)
def counts_as(asked: str, detected: str) -> bool:
    """Whether a text identified as `detected` is in the language that was asked for.

    A tag counts by its language and that language's SISTERS, whatever its region. Only a script asks for more: `sr-Cyrl`
    is not answered by what was identified as Croatian, which is written in Latin, while `sr-Latn` is.

    >>> counts_as("id", "ms"), counts_as("hr", "sr"), counts_as("nn", "no"), counts_as("da", "no")
    (True, True, True, False)
    >>> counts_as("sr-Cyrl", "hr"), counts_as("sr-Latn", "hr"), counts_as("sr-Cyrl", "sr")
    (False, True, True)
    """
    (language, script), (found, found_script) = _language_and_script(asked), _language_and_script(detected)
    if language != found and not any(language in sisters and found in sisters for sisters in SISTERS):
        return False
    if not found_script and found in _LATIN:
        found_script = "latn"
    return not script or not found_script or script == found_script


def _language_and_script(tag: str) -> tuple[str, str]:
    """'sr-Cyrl-RS' -> ('sr', 'cyrl'); the script is '' where the tag names none."""
    language, *subtags = re.split("[-_]", tag.lower())
    return language, next((subtag for subtag in subtags if len(subtag) == 4 and subtag.isalpha()), "")


def reward_instruction(language: str, english_instruction: str) -> str:
    """u = PREFIX(l) + G(x^l), under which R_c scores a response; English takes no prefix (arXiv 2503.04647, section 3).

    >>> reward_instruction("en", "Name a fruit.")
    'Name a fruit.'
    >>> reward_instruction("sw", "Name a fruit.").split(",")[0]
    'Please answer the following instruction using only Swahili'
    """
    if language == "en":
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
