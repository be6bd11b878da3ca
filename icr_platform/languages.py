"""Languages by code: English name, script direction, and the response-language instruction PREFIX."""

from __future__ import annotations

from icr_platform.errors import InputError

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
