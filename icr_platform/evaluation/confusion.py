"""Language confusion: are the lines, and the words, of an answer in the language that was asked for?

The definition is that of the Language Confusion Benchmark (arXiv 2406.20052), to the letter. An answer is cut at "\\nQ:", loses the
white space around it and all ASCII punctuation, and is split into lines at "\\n". Lines of fewer than five words are left out: words
are what stands between white space, in Chinese jieba's and in Japanese MeCab's. A line is *confused* where fastText's lid.176 takes it
for another language, or gives its best guess a score of at most 0.3.

- Line pass rate: of the answers with a line that counts, the share without a confused one.
- Word pass rate: of the answers that pass by line, the share without an English word: a word of more than three letters, all in
  lower case, from a list. Only in languages that are not written in Latin letters, where an English word cannot be one of their own.

So code, addresses, and quotations that the prompt asked for count as what they look like: a line of code of five words is confused,
a line with an address in it is identified as a whole, and a text without sentences has no line that counts. Rates compare policies on
the same prompts; their ceiling is below 100 where prompts ask for such lines.

The benchmark has 15 languages, and six of them have word rates. The same rules hold beyond them, with these additions:

- A line is right in every language that counts as the asked one (`languages.counts_as`): Croatian where Serbian was asked for,
  Indonesian where Malay was. In the benchmark's own languages only their own label counts: Malay is not Indonesian there.
- Words of Thai are PyThaiNLP's.
- An answer with a line that is mostly in Latin letters, as Serbian's may be, is in no word rate: its words may look like English ones.
- A language that lid.176 does not know, or whose words nothing here can tell apart, has no rates.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

from icr_platform.core.errors import InputError
from icr_platform.core.language_tags import is_tag, read_tag
from icr_platform.core.languages import comparable, counts_as, in_script, language_label
from icr_platform.engines.identification.line_language import knows, line_language
from icr_platform.engines.segmentation.words import Split, has_words, segmenter

BENCHMARK = frozenset({"ar", "de", "en", "es", "fr", "hi", "id", "it", "ja", "ko", "pt", "ru", "tr", "vi", "zh"})
FEWEST_WORDS = 5
FEWEST_LETTERS = 4
_NEXT_QUESTION = "\nQ:"  # base models that are prompted with examples go on with the next one
_REMOVED = re.compile(r"[!-/:-@\[-`{-~،]")  # string.punctuation, and the Arabic comma
_ENGLISH_LETTERS = re.compile(f"[a-z\u00df-\u024f]{{{FEWEST_LETTERS}}}")
_OWN_WORDS = "english_words.txt"

Words = Collection[str]


class ConfusedLine(NamedTuple):
    """A line that is not in the asked language.

    line: its index among the lines of the whole answer, split at "\\n", from 0. language: what it was taken for, 'und' for nothing.
    """

    line: int
    language: str


class Checked(NamedTuple):
    """What was seen of one answer.

    lines: those that count; without any the answer is in neither rate.
    english: the English words, each once, in their order; None where none was looked for: the language has no word rate, or the
        answer does not pass by line.
    """

    lines: int
    confused: tuple[ConfusedLine, ...]
    english: tuple[str, ...] | None

    @property
    def passes_by_line(self) -> bool | None:
        return not self.confused if self.lines else None

    @property
    def passes_by_word(self) -> bool | None:
        return not self.english if self.lines and self.english is not None else None


@dataclass(frozen=True)
class Rule:
    """How answers in one language are looked at.

    is_right: (what a line was taken for, the line) -> whether that is the asked language.
    has_word_rate: whether English words are looked for.
    is_benchmark: whether the language is one of the benchmark's, whose lines are all looked at for English words.
    """

    split: Split
    is_right: Callable[[str, str], bool]
    has_word_rate: bool
    is_benchmark: bool


@lru_cache(maxsize=1024)
def rule_of(language: str) -> Rule | str:
    """How answers in a language are looked at, or why they cannot be, in a few words.

    >>> [isinstance(rule_of(tag), Rule) for tag in ("es", "zh-Hant", "swh_Latn", "sn", "lo")]
    [True, True, True, False, False]
    """
    if not is_tag(language) or not knows(language):
        return f"lid.176, which identifies lines, does not know {language_label(language)}"
    words = segmenter(language)
    if words.split is None:
        return words.why
    code = comparable(language)
    if code in BENCHMARK:
        return Rule(words.split, lambda found, _: found == code, read_tag(language).written != "Latn", True)
    return Rule(
        words.split,
        lambda found, line: counts_as(language, in_script(found, language, line)),
        read_tag(language).written not in ("Latn", ""),
        False,
    )


def check(text: str, rule: Rule, words: Words) -> Checked:
    """Look at one answer.

    >>> found = check("Hier ist die Antwort auf die Frage:\\n\\nI do not know what you mean.", rule_of("de"), english_words())
    >>> found.lines, found.confused, found.english
    (2, (ConfusedLine(line=2, language='en'),), None)
    >>> check("Я не знаю, что такое feedback и зачем он нужен.", rule_of("ru"), english_words()).english
    ('feedback',)
    """
    # Libraries read UTF-8, which has no lone surrogates.
    answer = text.encode("utf-8", "replace").decode().split(_NEXT_QUESTION)[0]
    # Indices are those of the whole answer, whose empty first lines the definition strips.
    first = answer[: len(answer) - len(answer.lstrip())].count("\n")
    lines = _REMOVED.sub("", answer.strip()).replace("—", " ").split("\n")
    counted = [(index, line) for index, line in enumerate(lines, first) if has_words(rule.split, line, FEWEST_WORDS)]
    found = [(index, line_language(line), line) for index, line in counted]
    confused = tuple(ConfusedLine(index, code) for index, code, line in found if not rule.is_right(code, line))
    if confused or not rule.has_word_rate or not (rule.is_benchmark or not any(_is_latin(line) for _, line in counted)):
        return Checked(len(counted), confused, None)
    # Segmenters are slow, and most lines in other letters have no word in these.
    suspects = (line for _, line in counted if _ENGLISH_LETTERS.search(line))
    english = (word for line in suspects for part in rule.split(line) if (word := part.strip()) in words)
    return Checked(len(counted), (), tuple(dict.fromkeys(english)))


def _is_latin(line: str) -> bool:
    """Whether most letters of a line are Latin."""
    letters = [character for character in line if character.isalpha()]
    return 2 * sum(character < "\u0250" for character in letters) > len(letters)


def mark(text: str, language: str) -> list[ConfusedLine]:
    """The confused lines of an answer to a prompt in `language`; none where that cannot be told.

    >>> mark("Claro que sí, aquí está la respuesta.\\nHere is the answer to your question.", "es")
    [ConfusedLine(line=1, language='en')]
    """
    rule = rule_of(language)
    return list(check(text, rule, ()).confused) if isinstance(rule, Rule) else []


def notes_on(languages: Collection[str]) -> list[str]:
    """Say of each language that has no rates why not."""
    said = [(language, rule_of(language)) for language in dict.fromkeys(languages)]
    return [
        f"{language}: {rule}: no line_pass_rate and no word_pass_rate"
        for language, rule in said
        if isinstance(rule, str)
    ]


def english_words(path: str = "") -> frozenset[str]:
    """Words that count as English: of a file with one a line, those in lower case of more than three letters; '' for the package's.

    Raises:
        InputError: the file cannot be read, or has no such word.
    """
    return _own_words() if not path else _given_words(Path(path))


@lru_cache(maxsize=1)
def _own_words() -> frozenset[str]:
    text = (files("icr_platform.evaluation") / "data" / _OWN_WORDS).read_text(encoding="utf-8")
    return frozenset(line for line in text.splitlines() if not line.startswith("#"))


def _given_words(path: Path) -> frozenset[str]:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "is not UTF-8"
        raise InputError(
            f"{path}: {reason}; give --confusion-words a text file of English words, one a line"
        ) from error
    words = frozenset(word for line in lines if (word := line.strip()).islower() and len(word) >= FEWEST_LETTERS)
    if not words:
        raise InputError(
            f"{path}: no English word of {FEWEST_LETTERS} letters or more in lower case in {len(lines)} lines; give one word a line"
        )
    return words
