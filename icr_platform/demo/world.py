"""The tasks of the demo's micro-world: what can be asked, in which words, and which answers are right.

A toy, and labelled as one: 89 tasks about 25 nouns, 18 coloured things and 16 adjectives, asked in four ways in five
real languages, so that one can say exactly how good a response is (:mod:`icr_platform.demo.grader`). Tasks are split
three ways: `english` (preferences for pi_0), `icr` (prompts of the iterations) and `test` (asked only in evaluation).
"""

import itertools
import json
import random
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from icr_platform.demo.lexicon import (
    CATEGORIES,
    COLOUR_FACT,
    COLOURED_THINGS,
    COLOURS,
    LANGUAGES,
    OPPOSITE_FACT,
    OPPOSITES,
    THANKS,
    Category,
    ColouredThing,
    Phrase,
)

SPLITS = ("english", "icr", "test")
"""Names of the three splits, of 24, 35 and 30 tasks."""
_WAYS = {"icr": 2, "test": 4}

_CONCEPTS_PER_SPLIT = {"list": (1, 2, 2), "noun": (7, 10, 8), "colour": (5, 7, 6), "opposite": (2, 3, 3)}
_SPLIT_SEED = 7
_FEMININE_ARTICLES = ("una ", "une ")


@dataclass(frozen=True)
class Task:
    """One question with its answers, by language.

    Attributes:
        id: e.g. ``colour-the-sun``.
        kind: `list`, `what`, `choice`, `colour` or `opposite`.
        concept: what it is about; tasks that share an answer share a concept and thus a split.
        questions: by language, four ways to ask.
        correct: by language, the sentences that answer it rightly.
        wrong: by language, sentences of the same form that do not.
        fact: the one explanation that belongs to it.
    """

    id: str
    kind: str
    concept: str
    questions: dict[str, tuple[str, ...]]
    correct: dict[str, tuple[str, ...]]
    wrong: dict[str, tuple[str, ...]]
    fact: Phrase


def capitalise(sentence: str) -> str:
    """`sentence` with its first letter in upper case and the others as they are."""
    return sentence[:1].upper() + sentence[1:]


@cache
def tasks() -> tuple[Task, ...]:
    """Every task of the world, in a fixed order."""
    found: list[Task] = []
    for name, category in CATEGORIES.items():
        found.append(_list_task(name, category))
        for index, member in enumerate(category.members):
            others = [other for key, other in CATEGORIES.items() if key != name]
            found.append(_what_task(member, category, others))
            found.append(_choice_task(member, category, others, others[index % len(others)]))
    found.extend(_colour_task(thing) for thing in COLOURED_THINGS)
    for pair in OPPOSITES:
        found.append(_opposite_task(pair[0], pair[1]))
        found.append(_opposite_task(pair[1], pair[0]))
    return tuple(found)


@cache
def split_tasks(split: str) -> tuple[Task, ...]:
    """The tasks of one split; no two splits share a concept. Raises ValueError for another name."""
    column = SPLITS.index(split)
    chosen: set[str] = set()
    for stratum, sizes in _CONCEPTS_PER_SPLIT.items():
        concepts = sorted({task.concept for task in tasks() if task.concept.startswith(stratum)})
        # Per kind of task, so that every split has some of each; seeded by text, which is the same in every version of Python.
        random.Random(f"{_SPLIT_SEED} {stratum}").shuffle(concepts)
        start = sum(sizes[:column])
        chosen.update(concepts[start : start + sizes[column]])
    return tuple(task for task in tasks() if task.concept in chosen)


@cache
def tasks_by_id() -> dict[str, Task]:
    """Every task by its id."""
    return {task.id: task for task in tasks()}


def task_of_prompt(prompt_id: str) -> Task:
    """The task that a prompt id (``colour-the-sun.2``) asks for; raises KeyError when there is none."""
    return tasks_by_id()[prompt_id.rpartition(".")[0]]


def write_prompts(folder: Path, split: str) -> None:
    """Write `split` as a prompt set: ``LANG.jsonl`` with `id`, `dataset` (the task's kind) and `instruction`.

    `icr` asks every task in two ways, 70 prompts a language; `test` in four, 120 prompts, for smaller standard errors.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for language in LANGUAGES:
        rows = [
            {"id": f"{task.id}.{way}", "dataset": task.kind, "instruction": question}
            for task in split_tasks(split)
            for way, question in enumerate(task.questions[language][: _WAYS[split]])
        ]
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (folder / f"{language}.jsonl").write_text(text, encoding="utf-8")


_LIST_QUESTIONS = (
    Phrase("Name {}.", "Nombra {}.", "Nenne {}.", "Cite {}.", "Назовите {}."),
    Phrase(
        "Can you name {}?",
        "¿Puedes nombrar {}?",
        "Kannst du {} nennen?",
        "Peux-tu citer {}\u202f?",
        "Можете назвать {}?",
    ),
)
_LIST_ANSWER = Phrase(
    "For example: {}, {} and {}.",
    "Por ejemplo: {}, {} y {}.",
    "Zum Beispiel: {}, {} und {}.",
    "Par exemple\u202f: {}, {} et {}.",
    "Например: {}, {} и {}.",
)
_WHAT_QUESTIONS = (
    Phrase("What is {}?", "¿Qué es {}?", "Was ist {}?", "Qu'est-ce qu'{}\u202f?", "Что такое {}?"),
    Phrase(
        "Tell me what {} is.",
        "Dime qué es {}.",
        "Sag mir, was {} ist.",
        "Dis-moi ce qu'est {}.",
        "Скажите, что такое {}.",
    ),
)
_CHOICE_QUESTIONS = (
    Phrase(
        "Is {noun} {first} or {second}?",
        "¿{Noun} es {first} o {second}?",
        "Ist {noun} {first} oder {second}?",
        "{Noun} est-{pronoun} {first} ou {second}\u202f?",
        "{Noun} — это {first} или {second}?",
    ),
    Phrase(
        "Tell me whether {noun} is {first} or {second}.",
        "Dime si {noun} es {first} o {second}.",
        "Sag mir, ob {noun} {first} oder {second} ist.",
        "Dis-moi si {noun} est {first} ou {second}.",
        "Скажите, {noun} — это {first} или {second}.",
    ),
)
_WHAT_ANSWER = Phrase("{} is {}.", "{} es {}.", "{} ist {}.", "{} est {}.", "{} — это {}.")
_COLOUR_QUESTIONS = (
    Phrase(
        "What colour is {}?",
        "¿De qué color es {}?",
        "Welche Farbe hat {}?",
        "De quelle couleur est {}\u202f?",
        "Какого цвета {}?",
    ),
    Phrase(
        "Tell me the colour of {}.",
        "Dime de qué color es {}.",
        "Sag mir, welche Farbe {} hat.",
        "Dis-moi de quelle couleur est {}.",
        "Скажите, какого цвета {}.",
    ),
)
_COLOUR_ANSWER = Phrase("{} is {}.", "{} es {}.", "{} ist {}.", "{} est {}.", "{} {}.")
_OPPOSITE_QUESTIONS = (
    Phrase(
        'What is the opposite of "{}"?',
        '¿Qué es lo contrario de "{}"?',
        'Was ist das Gegenteil von "{}"?',
        'Quel est le contraire de "{}"\u202f?',
        'Какое слово противоположно слову "{}"?',
    ),
    Phrase(
        'Tell me the opposite of "{}".',
        'Dime lo contrario de "{}".',
        'Sag mir das Gegenteil von "{}".',
        'Dis-moi le contraire de "{}".',
        'Назовите слово, противоположное слову "{}".',
    ),
)
_OPPOSITE_ANSWER = Phrase(
    'The opposite of "{}" is "{}".',
    'Lo contrario de "{}" es "{}".',
    'Das Gegenteil von "{}" ist "{}".',
    'Le contraire de "{}" est "{}".',
    'Слову "{}" противоположно слово "{}".',
)


def _four_ways(questions: tuple[Phrase, ...], language: str, **words: str) -> tuple[str, ...]:
    """Both wordings, each without and with thanks."""
    plain = [
        capitalise(question.in_language(language).format(words.get("noun", ""), **words)) for question in questions
    ]
    return tuple(plain + [f"{question} {THANKS.in_language(language)}" for question in plain])


def _id(kind: str, phrase: Phrase) -> str:
    return f"{kind}-{phrase.en}".replace(" ", "-")


def _list_task(name: str, category: Category) -> Task:
    everything = [member for other in CATEGORIES.values() for member in other.members]
    strangers = [noun for noun in everything if noun not in category.members]
    right = list(itertools.permutations(category.members, 3))
    # One right noun and two strangers: enough that a list is either right or clearly wrong.
    wrong = [(noun, *pair) for noun in category.members for pair in itertools.pairwise(strangers)]

    def render(nouns: tuple[Phrase, ...], language: str) -> str:
        words = [noun.in_language(language) for noun in nouns]
        if language != "ru":  # the other languages list nouns without their indefinite article, and Russian has none
            words = [word.split(" ", 1)[1] for word in words]
        return _LIST_ANSWER.in_language(language).format(*words)

    return Task(
        id=f"list-{name}",
        kind="list",
        concept=f"list {name}",
        questions={
            code: _four_ways(_LIST_QUESTIONS, code, noun=category.three.in_language(code)) for code in LANGUAGES
        },
        correct={code: tuple(render(nouns, code) for nouns in right) for code in LANGUAGES},
        wrong={code: tuple(render(nouns, code) for nouns in wrong) for code in LANGUAGES},
        fact=category.fact,
    )


def _is_a(noun: Phrase, category: Category, language: str) -> str:
    sentence = _WHAT_ANSWER.in_language(language)
    return capitalise(sentence.format(noun.in_language(language), category.name.in_language(language)))


def _what_task(noun: Phrase, category: Category, others: list[Category]) -> Task:
    return Task(
        id=_id("what", noun),
        kind="what",
        concept=f"noun {noun.en}",
        questions={code: _four_ways(_WHAT_QUESTIONS, code, noun=noun.in_language(code)) for code in LANGUAGES},
        correct={code: (_is_a(noun, category, code),) for code in LANGUAGES},
        wrong={code: tuple(_is_a(noun, other, code) for other in others) for code in LANGUAGES},
        fact=category.fact,
    )


def _choice_task(noun: Phrase, category: Category, others: list[Category], wrong: Category) -> Task:
    def ask(language: str) -> tuple[str, ...]:
        word = noun.in_language(language)
        # Half of the questions name the right category second, so that position tells nothing.
        order = (category, wrong) if len(noun.en) % 2 else (wrong, category)
        return _four_ways(
            _CHOICE_QUESTIONS,
            language,
            noun=word,
            Noun=capitalise(word),
            first=order[0].name.in_language(language),
            second=order[1].name.in_language(language),
            pronoun="elle" if word.startswith(_FEMININE_ARTICLES) else "il",
        )

    return Task(
        id=_id("choice", noun),
        kind="choice",
        concept=f"noun {noun.en}",
        questions={code: ask(code) for code in LANGUAGES},
        correct={code: (_is_a(noun, category, code),) for code in LANGUAGES},
        wrong={code: tuple(_is_a(noun, other, code) for other in others) for code in LANGUAGES},
        fact=category.fact,
    )


def _colour_task(thing: ColouredThing) -> Task:
    def answer(colour: str, language: str) -> str:
        forms = COLOURS[colour].in_language(language).split("/")
        # An adjective with forms ("rojo/roja") agrees in gender with the thing; English and German ones have none here.
        form = "mfn".index(thing.genders[("es", "fr", "ru").index(language)]) if len(forms) > 1 else 0
        sentence = _COLOUR_ANSWER.in_language(language)
        return capitalise(sentence.format(thing.name.in_language(language), forms[form]))

    others = [colour for colour in COLOURS if colour != thing.colour]
    return Task(
        id=_id("colour", thing.name),
        kind="colour",
        concept=f"colour {thing.name.en}",
        questions={code: _four_ways(_COLOUR_QUESTIONS, code, noun=thing.name.in_language(code)) for code in LANGUAGES},
        correct={code: (answer(thing.colour, code),) for code in LANGUAGES},
        wrong={code: tuple(answer(colour, code) for colour in others) for code in LANGUAGES},
        fact=COLOUR_FACT,
    )


def _opposite_task(word: Phrase, opposite: Phrase) -> Task:
    adjectives = [adjective for pair in OPPOSITES for adjective in pair]

    def answer(other: Phrase, language: str) -> str:
        return _OPPOSITE_ANSWER.in_language(language).format(word.in_language(language), other.in_language(language))

    others = [adjective for adjective in adjectives if adjective not in (word, opposite)]
    return Task(
        id=_id("opposite", word),
        kind="opposite",
        concept=f"opposite {min(word.en, opposite.en)}",
        questions={code: _four_ways(_OPPOSITE_QUESTIONS, code, noun=word.in_language(code)) for code in LANGUAGES},
        correct={code: (answer(opposite, code),) for code in LANGUAGES},
        wrong={code: tuple(answer(other, code) for other in others) for code in LANGUAGES},
        fact=OPPOSITE_FACT,
    )
