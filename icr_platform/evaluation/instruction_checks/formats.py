"""The shape of a text: placeholders, bullets, highlights, sections, titles, JSON, and one of a prompt's options."""

from __future__ import annotations

import json
import re
from functools import lru_cache

from icr_platform.evaluation.instruction_checks.arguments import Arguments
from icr_platform.evaluation.instruction_checks.verdict import Answer, UnverifiedError
from icr_platform.evaluation.instruction_checks.writing import EDGE_QUOTES, UNSPACED, phrase

_PLACEHOLDER = re.compile(r"\[[^\[\]\n]*\]|［[^［］\n]*］|【[^【】\n]*】|〔[^〔〕\n]*〕")
_ENGLISH_BULLETS = (re.compile(r"^[^\S\n]*\*[^*].*$", re.MULTILINE), re.compile(r"^[^\S\n]*-.*$", re.MULTILINE))
# Not: a rule (---), and a line in italics. Dashes begin what is said in dialogues.
_BULLET = re.compile(
    r"^[ \t\u3000>]*(?:[*＊](?=[ \t\u3000]+\S)|[*＊](?=[^*＊\s][^*＊\n]*$)|-(?![-\s]*$)|[•・･●○◦‣▪■□◆◇▶►➤·∙⁃※✓✔])[^\n]*$",
    re.MULTILINE,
)
_HIGHLIGHT = re.compile(r"\*[^\n\*]*\*")
_BOLD = re.compile(r"\*\*[^\n\*]*\*\*")
_TITLE_MARKS = (("<<", ">>"), ("＜＜", "＞＞"), ("≪", "≫"), ("⟪", "⟫"), ("‹‹", "››"))
_TITLE_LINE = re.compile(r"^[ \t\u3000#*＊]*《[^\n《》]+》[ \t\u3000#*＊]*$", re.MULTILINE)
_FENCE = re.compile(r"^```(?:json|Json|JSON)?|```$")
_IFEVAL_OPTIONS = ("My answer is yes.", "My answer is no.", "My answer is maybe.")
_USUAL_OPTIONS = {
    "ar": ("إجابتي هي نعم", "إجابتي هي لا", "إجابتي هي ربما"),
    "bn": ("আমার উত্তর হ্যাঁ", "আমার উত্তর না", "আমার উত্তর হতে পারে", "আমার উত্তর হয়তো", "আমার উত্তর সম্ভবত"),
    "ca": ("La meva resposta és sí", "La meva resposta és no", "La meva resposta és potser"),
    "de": ("Meine Antwort ist ja", "Meine Antwort ist nein", "Meine Antwort ist vielleicht"),
    "es": ("Mi respuesta es sí", "Mi respuesta es no", "Mi respuesta es tal vez", "Mi respuesta es quizás"),
    "fr": ("Ma réponse est oui", "Ma réponse est non", "Ma réponse est peut-être"),
    "hi": ("मेरा उत्तर हाँ है", "मेरा उत्तर नहीं है", "मेरा उत्तर शायद है", "मेरा जवाब हाँ है", "मेरा जवाब नहीं है", "मेरा जवाब शायद है"),
    "it": ("La mia risposta è sì", "La mia risposta è no", "La mia risposta è forse"),
    "ja": ("私の答えははい", "私の答えはいいえ", "私の答えは多分", "私の答えはたぶん"),
    "ko": ("제 대답은 예", "제 대답은 아니", "제 대답은 아마", "내 대답은 예", "내 대답은 아니", "내 대답은 아마"),
    "pt": ("Minha resposta é sim", "Minha resposta é não", "Minha resposta é talvez"),
    "ru": ("Мой ответ — да", "Мой ответ — нет", "Мой ответ — может быть", "Мой ответ — возможно", "Мой ответ: да", "Мой ответ: нет", "Мой ответ: может быть"),
    "sw": ("Jibu langu ni ndiyo", "Jibu langu ni hapana", "Jibu langu ni labda"),
    "th": ("คำตอบของฉันคือใช่", "คำตอบของฉันคือไม่", "คำตอบของฉันคืออาจจะ"),
    "tr": ("Cevabım evet", "Cevabım hayır", "Cevabım belki"),
    "vi": ("Câu trả lời của tôi là có", "Câu trả lời của tôi là không", "Câu trả lời của tôi là có thể"),
    "zh": ("我的答案是肯定的", "我的答案是否定的", "我的答案是也许", "我的答案是可能", "我的答案是是", "我的答案是否"),
}  # fmt: skip
_UNSEEN = "\ufeff\u200e\u200f\u200b \t\r\n"


def has_placeholders(arguments: Arguments, answer: Answer) -> bool:
    return len(_PLACEHOLDER.findall(answer.text)) >= arguments.number("num_placeholders")


def has_bullets(arguments: Arguments, answer: Answer) -> bool:
    """Exactly so many lines that begin with a bullet. IFEval's are `*` and `-`, whatever follows a `-`; a number is not a bullet."""
    bullets = _ENGLISH_BULLETS if answer.is_english else (_BULLET,)
    return sum(len(bullet.findall(answer.text)) for bullet in bullets) == arguments.number("num_bullets")


def has_highlights(arguments: Arguments, answer: Answer) -> bool:
    text = answer.text.replace("＊", "*")
    found = [*_HIGHLIGHT.findall(text), *_BOLD.findall(text)]
    return sum(1 for part in found if part.strip("*").strip()) >= arguments.number("num_highlights")


def has_sections(arguments: Arguments, answer: Answer) -> bool:
    """At least so many sections, each begun by the word and its number; in other languages than English also a Roman, Chinese or Arabic one."""
    pattern = _section(arguments.text("section_spliter"), answer.is_english)
    return len(pattern.findall(answer.text)) >= arguments.number("num_sections")


@lru_cache(maxsize=1024)
def _section(word: str, is_english: bool) -> re.Pattern[str]:
    begin = re.escape(word)
    if is_english:
        return re.compile(rf"\s?{begin}\s?\d+\s?")
    number = r"(?:\d+|[IVX]+\b|[一二三四五六七八九十]+|ال(?:أول|ثاني|ثالث|رابع|خامس|سادس|سابع|ثامن|تاسع|عاشر)ة?|الأولى)"
    # A word that the file has in small letters stands at the start of a line, where it has a large one.
    case = re.IGNORECASE if word == word.lower() else re.NOFLAG
    return re.compile(
        rf"{begin}\s*[:.#№°º]*\s*{number}|第\s*{number}\s*(?:个|個)?{begin}|(?m:^[ \t#*]*\d+\.[ \t]+{begin}\b)", case
    )


def has_title(arguments: Arguments, answer: Answer) -> bool:
    """A title in double angular brackets; 《》, in which Chinese has every title, where it is all of a line."""
    # From the first opening to the last closing of a line: a pattern would take the square of a loop of them in time.
    for line in answer.text.split("\n"):
        for opening, closing in _TITLE_MARKS:
            first, last = line.find(opening), line.rfind(closing)
            if last > first >= 0 and line[first + len(opening) : last].strip("<>＜＞≪≫⟪⟫‹›").strip():
                return True
    return not answer.is_english and bool(_TITLE_LINE.search(answer.text))


def is_json(arguments: Arguments, answer: Answer) -> bool:
    text = answer.text.strip(_UNSEEN)
    for fence in ("```json", "```Json", "```JSON", "```"):
        text = text.removeprefix(fence)
    try:
        # Numbers stay texts: Python refuses to read one of more than 4300 digits, which JSON allows.
        json.loads(text.removesuffix("```").strip(_UNSEEN), parse_int=str, parse_float=str)
    except (ValueError, RecursionError):
        return False
    return True


def is_one_of_the_options(arguments: Arguments, answer: Answer) -> bool:
    """One of the options stands in the text: in English IFEval's, in every other language those that the prompt names.

    Without a prompt they are translations of IFEval's.

    Raises:
        UnverifiedError: the prompt names none that can be told.
    """
    if answer.is_english:
        return any(option in answer.text for option in _IFEVAL_OPTIONS)
    usual = _USUAL_OPTIONS.get(answer.language, ())
    options = usual if usual and not answer.prompt else options_of(answer.prompt, answer.language)
    text = phrase(answer.text, answer.language)
    wanted = "|".join(re.escape(phrase(option, answer.language)) for option in options)
    return bool(re.search(rf"(?:{wanted})(?:(?!\w)|(?=[{UNSPACED}]))", text))


@lru_cache(maxsize=4096)
def options_of(prompt: str, language: str) -> tuple[str, ...]:
    """The options among which a prompt lets choose: three or more quoted phrases, or lines, that begin alike.

    Their full stops are left out: prompts are inconsistent in them.

    >>> options_of("Ist das wahr? „Meine Antwort ist ja.“, „Meine Antwort ist nein.“ oder „Meine Antwort ist vielleicht.“", "de")
    ('Meine Antwort ist ja', 'Meine Antwort ist nein', 'Meine Antwort ist vielleicht')
    """
    quoted = [part for found in _QUOTED.findall(prompt) for part in found if part]
    lines = [line.strip() for line in prompt.splitlines()]
    for candidates in (quoted, lines):
        options = [one.strip(EDGE_QUOTES + "()（）[]-–—•*,，、 ").rstrip(".。।৷،, ") for one in candidates]
        options = [one for one in options if 0 < len(one) <= 60 and one[-1] not in ":：?？"]
        for start in range(len(options) - 2):
            group = [one for one in options[start:] if _begin_alike(options[start], one)]
            if len(set(group)) >= 3:
                return tuple(dict.fromkeys(group))
    raise UnverifiedError("the prompt does not name its options in a way that can be read")


_QUOTED = re.compile(
    r"\"([^\"\n]{2,60})\"|“([^“”\n]{2,60})”|„([^„“”\n]{2,60})[“”]|«\s*([^«»\n]{2,60}?)\s*»|「([^「」\n]{2,60})」|『([^『』\n]{2,60})』"
    r"|(?<!\w)'([^'\n]{2,60})'(?!\w)|‘([^‘’\n]{2,60})’"
)


def _begin_alike(one: str, other: str) -> bool:
    """Whether two phrases share at least a third of the shorter one, and three characters, at their beginning."""
    shared = next(
        (at for at, (left, right) in enumerate(zip(one, other, strict=False)) if left != right),
        min(len(one), len(other)),
    )
    return shared >= 3 and 3 * shared >= min(len(one), len(other))
