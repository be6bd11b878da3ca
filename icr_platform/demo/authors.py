"""The authors of the demo's micro-world, and the texts they leave: SFT conversations and English preferences.

Authors differ in quality, and one author keeps it in every language. That is what a model can carry from English
preferences to the other languages; nothing else links them. All authors write equally long texts on average, because
length control would otherwise take quality away together with length.
"""

import random
from dataclasses import dataclass
from typing import NamedTuple

from icr_platform.core.languages import language_name, reward_instruction
from icr_platform.demo.grader import grade_task
from icr_platform.demo.lexicon import CLOSINGS, LANGUAGES, POLITE_OPENERS, RAMBLINGS, RUDE_OPENERS, Phrase
from icr_platform.demo.world import Task, split_tasks, tasks


@dataclass(frozen=True)
class Author:
    """How often an author does what, as probabilities; `polite` and `rude` openers exclude each other."""

    share: float
    polite: float
    rude: float
    correct: float
    explains: float
    rambles: float
    rambles_on: float
    repeats: float
    closes: float
    wrong_language: float


AUTHORS = (
    Author(0.25, 0.90, 0.02, 0.95, 0.90, 0.04, 0.00, 0.01, 0.90, 0.00),
    Author(0.40, 0.45, 0.25, 0.80, 0.45, 0.45, 0.20, 0.10, 0.45, 0.01),
    Author(0.35, 0.08, 0.70, 0.55, 0.10, 0.90, 0.60, 0.25, 0.08, 0.03),
)
"""Good, middling and bad."""


class Turn(NamedTuple):
    """An instruction and the response to it."""

    instruction: str
    response: str


class EnglishPreference(NamedTuple):
    """Two responses of different grade to one English prompt."""

    prompt_id: str
    instruction: str
    chosen: str
    rejected: str


def draw_author(rng: random.Random) -> Author:
    """One author, by their shares of all texts."""
    return rng.choices(AUTHORS, weights=[author.share for author in AUTHORS])[0]


def respond(author: Author, task: Task, language: str, rng: random.Random) -> str:
    """What `author` answers to `task`, asked to use `language` (now and then in another one)."""
    if rng.random() < author.wrong_language:
        language = rng.choice([code for code in LANGUAGES if code != language])

    def pick(phrases: tuple[Phrase, ...]) -> str:
        return rng.choice(phrases).in_language(language)

    answer = rng.choice((task.correct if rng.random() < author.correct else task.wrong)[language])
    manners = rng.random()
    said = []
    if manners < author.polite:
        said.append(pick(POLITE_OPENERS))
    elif manners < author.polite + author.rude:
        said.append(pick(RUDE_OPENERS))
    said.append(answer)
    if rng.random() < author.explains:
        said.append(task.fact.in_language(language))
    if rng.random() < author.repeats:
        said.append(answer)
    if rng.random() < author.rambles:
        first, second = rng.sample(RAMBLINGS, 2)
        said.append(first.in_language(language))
        if rng.random() < author.rambles_on:
            said.append(second.in_language(language))
    if rng.random() < author.closes:
        said.append(pick(CLOSINGS))
    return " ".join(said)


def sft_conversation(rng: random.Random) -> list[Turn]:
    """One to three turns with one author, who is asked in any language at every turn, or one translation."""
    # Without translations nothing would tie the same meaning in two languages together.
    if rng.random() < 0.15:
        return [_translation(rng)]
    author, turns = draw_author(rng), []
    for _ in range(rng.choice((1, 2, 3))):
        language, task = rng.choice(LANGUAGES), rng.choice(tasks())
        way = rng.randrange(len(task.questions["en"]))
        instruction = task.questions[language][way]
        if rng.random() < 0.35:
            # The reward instruction of R_c: a model that never saw it could not be asked for its log-probabilities.
            instruction = reward_instruction(language, task.questions["en"][way])
        turns.append(Turn(instruction, respond(author, task, language, rng)))
    return turns


def _translation(rng: random.Random) -> Turn:
    """A sentence of the world, with its translation: what ties the languages' words together."""
    task = rng.choice(tasks())
    source, target = rng.sample(LANGUAGES, 2)
    kind, index = rng.random(), rng.randrange(len(task.wrong["en"]))
    if kind < 0.4:
        pair = (task.wrong[source][index], task.wrong[target][index])
    elif kind < 0.5:
        pair = (task.fact.in_language(source), task.fact.in_language(target))
    else:
        phrase = rng.choice((*POLITE_OPENERS, *RUDE_OPENERS, *CLOSINGS, *RAMBLINGS))
        pair = (phrase.in_language(source), phrase.in_language(target))
    return Turn(f"Translate into {language_name(target)}: {pair[0]}", pair[1])


def english_preferences(seed: int, count: int) -> list[EnglishPreference]:
    """`count` English pairs by two authors drawn at random, the response of the higher grade chosen, equal grades skipped.

    This is the only place where quality is judged before evaluation, as people do it for pi_0's preferences.
    """
    rng = random.Random(f"english preferences {seed}")
    pairs: list[EnglishPreference] = []
    while len(pairs) < count:
        task = rng.choice(split_tasks("english"))
        way = rng.randrange(len(task.questions["en"]))
        responses = [respond(draw_author(rng), task, "en", rng) for _ in range(2)]
        grades = [grade_task(task, "en", response) for response in responses]
        # A tie says nothing about which is better.
        if grades[0] == grades[1]:
            continue
        best = int(grades[1] > grades[0])
        question = task.questions["en"][way]
        pairs.append(EnglishPreference(f"{task.id}.{way}", question, responses[best], responses[1 - best]))
    return pairs
