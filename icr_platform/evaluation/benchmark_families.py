"""Which of lm-eval's tasks measure what, in which language: families, tasks by name, and the metric that is reported.

lm-eval names the same language otherwise in every family (`global_mmlu_sw`, `belebele_swh_Latn`, `multiblimp_deu`,
`include_base_44_german`): a family's names are looked up among the tasks that are there, by whatever tag a person gave.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

from icr_platform.core.errors import InputError
from icr_platform.core.language_tags import find_name, is_english, names_language, read_tag
from icr_platform.core.languages import NAMES

if TYPE_CHECKING:
    from icr_platform.evaluation.config import BenchmarksConfig

_INCLUDE = MappingProxyType({
    "sq": "albanian", "ar": "arabic", "hy": "armenian", "az": "azerbaijani", "eu": "basque", "be": "belarusian",
    "bn": "bengali", "bg": "bulgarian", "zh": "chinese", "hr": "croatian", "nl": "dutch", "et": "estonian", "fi": "finnish",
    "fr": "french", "ka": "georgian", "de": "german", "el": "greek", "he": "hebrew", "hi": "hindi", "hu": "hungarian",
    "id": "indonesian", "it": "italian", "ja": "japanese", "kk": "kazakh", "ko": "korean", "lt": "lithuanian", "ms": "malay",
    "ml": "malayalam", "ne": "nepali", "mk": "north_macedonian", "fa": "persian", "pl": "polish", "pt": "portuguese",
    "ru": "russian", "sr": "serbian", "es": "spanish", "tl": "tagalog", "ta": "tamil", "te": "telugu", "tr": "turkish",
    "uk": "ukrainian", "ur": "urdu", "uz": "uzbek", "vi": "vietnamese",
})  # fmt: skip
_NO_NAMES: Mapping[str, str] = MappingProxyType({})


class Family(NamedTuple):
    """A benchmark.

    english: its task in English; '' where it is named as those of other languages are, or there is none.
    others: its tasks in other languages, `{language}` for the language's name.
    metric: that is reported, with its filter where the task has several.
    is_asked: whether its prompts ask for an answer, as a user would; else a text is continued, or texts are compared.
    shape: regular expression of the languages' names; '' for the okapi translations, named by the shortest code, whatever is there.
    names: of languages that are not named by a tag.
    """

    english: str
    others: str
    metric: str
    is_asked: bool = False
    shape: str = ""
    names: Mapping[str, str] = _NO_NAMES

    def task(self, language: str) -> str:
        """The okapi task of a language by any of its tags, in the usual script.

        >>> FAMILIES["arc"].task("swh_Latn"), FAMILIES["arc"].task("en-GB"), FAMILIES["arc"].task("zh-Hant")
        ('arc_sw', 'arc_challenge', 'arc_zh-Hant')
        """
        if is_english(language):
            return self.english
        if language not in NAMES and (tag := read_tag(language)).written == read_tag(tag.language).usual_script:
            language = tag.language
        return self.others.format(language=language)

    def find(self, language: str, known: Collection[str]) -> str | None:
        """The task of a language among those that lm-eval knows; None where the family lacks it.

        >>> FAMILIES["belebele"].find("sw", {"belebele_swh_Latn"}), FAMILIES["include"].find("en", {"include_base_44_german"})
        ('belebele_swh_Latn', None)
        """
        if self.english and is_english(language):
            return self.english if self.english in known else None
        if not self.shape:
            task = self.task(language)
            return task if task in known else None
        by_name = _by_name(self.others, self.shape, frozenset(known))
        tags = {tag: name for tag, name in self.names.items() if name in by_name}
        tags |= {name: name for name in by_name if name not in tags.values()}
        found = find_name(language, tags)
        return by_name[tags[found]] if found is not None else None


@lru_cache(maxsize=64)
def _by_name(pattern: str, shape: str, known: frozenset[str]) -> dict[str, str]:
    """A family's tasks by the language's name in them."""
    before, after = pattern.split("{language}")
    read = re.compile(f"{re.escape(before)}({shape}){re.escape(after)}")
    return {found[1]: task for task in sorted(known) if (found := read.fullmatch(task))}


_MGSM = "exact_match,flexible-extract"
FAMILIES: dict[str, Family] = {
    "arc": Family("arc_challenge", "arc_{language}", "acc_norm"),
    "hellaswag": Family("hellaswag", "hellaswag_{language}", "acc_norm"),
    "mmlu": Family("m_mmlu_en", "m_mmlu_{language}", "acc"),
    "truthfulqa_mc1": Family("truthfulqa_mc1", "truthfulqa_{language}_mc1", "acc"),
    "truthfulqa_mc2": Family("truthfulqa_mc2", "truthfulqa_{language}_mc2", "acc"),
    # 400 questions in each of 15 languages (Global-MMLU-Lite), and all 14,042 in 42.
    "global_mmlu": Family("", "global_mmlu_{language}", "acc", True, "[a-z]{2,3}"),
    "global_mmlu_full": Family("", "global_mmlu_full_{language}", "acc", True, "[a-z]{2,3}"),
    "include": Family("", "include_base_44_{language}", "acc", True, "[a-z]+(?:_macedonian)?", _INCLUDE),
    "belebele": Family(
        "", "belebele_{language}", "acc", True, "[a-z]{3}_[A-Z][a-z]{3}", {"ko": "kor_Hang", "ps": "pbt_Arab"}
    ),
    # Grade-school mathematics, reasoned in the question's language, in none, and in English.
    "mgsm": Family("", "mgsm_native_cot_{language}", _MGSM, True, "[a-z]{2}"),
    "mgsm_direct": Family("", "mgsm_direct_{language}", _MGSM, True, "[a-z]{2}"),
    "mgsm_en_cot": Family("", "mgsm_en_cot_{language}", _MGSM, True, "[a-z]{2}"),
    "multiblimp": Family(
        "", "multiblimp_{language}", "acc", False, "[a-z]{3}", {"hr": "hbs", "bs": "hbs", "sr-Latn": "hbs"}
    ),
    # In English the 100 validation questions of COPA, of which XCOPA is the translation.
    "xcopa": Family("copa", "xcopa_{language}", "acc", False, "[a-z]{2}"),
}


class PlannedTask(NamedTuple):
    """One task to run. language is '' where the name of a task of one's own tells none."""

    family: str
    language: str
    task: str
    metric: str


def plan(
    config: BenchmarksConfig,
    known: Collection[str],
    parts_of: Callable[[str], tuple[str, ...]] = lambda name: (name,),
) -> tuple[list[PlannedTask], list[str]]:
    """Tasks to run, and a note for every language that a family lacks.

    Args:
        known: names of lm-eval's tasks, groups and tags.
        parts_of: the tasks behind a name that has no number of its own, such as a tag; else the name alone.

    Raises:
        InputError: an unknown family or task, or nothing left to run.
    """
    unknown = [name for name in config.families if name not in FAMILIES]
    if unknown:
        raise InputError(f"config: field 'families' names {unknown[0]!r}; choose of {', '.join(FAMILIES)}")
    unknown = [name for name in config.tasks if name not in known]
    if unknown:
        near = _nearest(unknown[0], known)
        raise InputError(
            f"config: field 'tasks' names {unknown[0]!r}, which lm-eval does not know{near}; check task_folder"
        )
    work, notes = [], []
    for name in config.families:
        family = FAMILIES[name]
        found = {code: family.find(code, known) for code in config.languages}
        lacking = [code for code, task in found.items() if task is None]
        if lacking:
            notes.append(f"{name} has no task in {', '.join(lacking)}; not measured there")
        work += [PlannedTask(name, code, task, family.metric) for code, task in found.items() if task is not None]
    for name in config.tasks:
        parts = parts_of(name)
        spoken = [language_of(part) for part in parts]
        is_family = parts != (name,) and "" not in spoken and len(set(spoken)) == len(spoken)
        work += [
            PlannedTask(name if is_family else part, code, part, "") for part, code in zip(parts, spoken, strict=True)
        ]
    once: dict[tuple[str, str], PlannedTask] = {}
    for item in work:
        if once.setdefault((item.family, item.language), item) is not item:
            notes.append(f"{item.task} is named twice; measured once")
    if not once:
        raise InputError("config: fields 'families', 'tasks' and 'languages' leave no task; name at least one")
    return list(once.values()), notes


def asks_in_chat(config: BenchmarksConfig) -> bool:
    """Whether some task may be asked with the chat template; whether one is depends on the model and on the tasks."""
    return config.chat == "yes" or (
        config.chat == "auto" and any(name in FAMILIES and FAMILIES[name].is_asked for name in config.families)
    )


def _nearest(name: str, known: Collection[str]) -> str:
    import difflib

    near = difflib.get_close_matches(name, known, n=1, cutoff=0.75)
    return f", nearest is {near[0]!r}" if near else ""


def language_of(task: str) -> str:
    """The language that a task's name tells: by its family, else the code that it ends with, or has before its last part; '' without one.

    >>> language_of("capitals_es"), language_of("truthfulqa_de_mc1"), language_of("capitals")
    ('es', 'de', '')
    >>> language_of("belebele_zho_Hant"), language_of("multiblimp_deu"), language_of("include_base_44_german")
    ('zh-Hant', 'de', 'de')
    """
    for family in FAMILIES.values():
        if family.shape and (found := _by_name(family.others, family.shape, frozenset({task}))):
            (name,) = found
            return next((tag for tag, named in family.names.items() if named == name), "") or _short(name)
    parts = re.split(r"[_-]", task)[1:]
    # Short words of task names are codes of some language (`arc`, `nli`): only those of two letters are taken for one.
    return next((part for part in reversed(parts) if part in NAMES or (len(part) == 2 and names_language(part))), "")


def _short(name: str) -> str:
    """The shortest tag of the language that a name means, with a script that is not the usual one; '' for none."""
    if not names_language(name):
        return ""
    tag = read_tag(name)
    is_usual = tag.written == read_tag(tag.language).usual_script
    return tag.language if is_usual else f"{tag.language}-{tag.written}"
