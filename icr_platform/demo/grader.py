"""The exact grader of the demo's micro-world: what a judge is for real tasks, without a judge's noise.

It grades only in evaluation and when the English preferences of pi_0 are made; no ICR iteration sees it.
"""

import re
from functools import cache

from icr_platform.demo.lexicon import CLOSINGS, LANGUAGES, POLITE_OPENERS, RAMBLINGS, RUDE_OPENERS
from icr_platform.demo.world import Task, task_of_prompt, tasks

CONTENT, OPENER, FACT, CLOSING, FAULT = 0.4, 0.2, 0.2, 0.2, -0.1
"""What a right answer, a polite opener, the explanation, a closing and any other sentence add to a grade."""

_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")
_WORD = re.compile(r"[^\W\d_]+")


def sentences(text: str) -> list[str]:
    """`text` cut after every full stop, exclamation and question mark that a space follows.

    >>> sentences("Of course! A dog is an animal.")
    ['Of course!', 'A dog is an animal.']
    """
    return [sentence for sentence in _SENTENCE_END.split(text.strip()) if sentence]


def grade_task(task: Task, language: str, text: str) -> float:
    """How good `text` is as a response to `task` in `language`, in [0, 1].

    Each wanted sentence counts once, the opener only as the first sentence and the closing only as the last; every
    other sentence is a fault: wrong, repeated, rambling, rude, or in another language.
    """
    parts = sentences(text)
    wanted = {
        "opener": {phrase.in_language(language) for phrase in POLITE_OPENERS},
        "content": set(task.correct[language]),
        "fact": {task.fact.in_language(language)},
        "closing": {phrase.in_language(language) for phrase in CLOSINGS},
    }
    worth = {"opener": OPENER, "content": CONTENT, "fact": FACT, "closing": CLOSING}
    earned = 0.0
    # Each kind earns once: what is taken leaves an empty set behind, so that its repetition is a fault.
    for position, sentence in enumerate(parts):
        role = next((role for role, known in wanted.items() if sentence in known), None)
        misplaced = (role == "opener" and position > 0) or (role == "closing" and position < len(parts) - 1)
        if role is None or misplaced:
            earned += FAULT
            continue
        earned += worth[role]
        wanted[role] = set()
    return min(max(round(earned, 6), 0.0), 1.0)


def grade(prompt_id: str, language: str, text: str) -> float:
    """The grade in [0, 1] of a response to a prompt of the demo; raises KeyError for any other prompt.

    >>> grade("colour-the-sun.0", "en", "The sun is yellow."), grade("colour-the-sun.0", "en", "The sun is green.")
    (0.4, 0.0)
    """
    return grade_task(task_of_prompt(prompt_id), language, text)


def preference(prompt_id: str, language: str, candidate: str, reference: str) -> float:
    """1 when `candidate` has the higher grade, 0 when `reference` has it, 0.5 when they are equal."""
    difference = grade(prompt_id, language, candidate) - grade(prompt_id, language, reference)
    return 0.5 if difference == 0 else float(difference > 0)


@cache
def _languages_by_word() -> dict[str, frozenset[str]]:
    found: dict[str, set[str]] = {}
    phrases = (*POLITE_OPENERS, *RUDE_OPENERS, *CLOSINGS, *RAMBLINGS, *{task.fact for task in tasks()})
    for language in LANGUAGES:
        texts = [phrase.in_language(language) for phrase in phrases]
        for task in tasks():
            texts.extend((*task.correct[language], *task.wrong[language], *task.questions[language]))
        for word in {word.lower() for text in texts for word in _WORD.findall(text)}:
            found.setdefault(word, set()).add(language)
    return {word: frozenset(languages) for word, languages in found.items()}


def identify_language(text: str) -> tuple[str, float]:
    """The language most of the text's words belong to, and its share of the votes; ``("und", 0.0)`` without any.

    Exact on the world's own sentences, however short. A word of several languages ("animal") gives each an equal part of
    its vote.
    """
    votes = dict.fromkeys(LANGUAGES, 0.0)
    known = _languages_by_word()
    # A word is evidence as far as it tells languages apart: one of two languages is half a vote for each.
    for word in _WORD.findall(text.lower()):
        for language in known.get(word, frozenset()):
            votes[language] += 1 / len(known[word])
    total = sum(votes.values())
    if not total:
        return "und", 0.0
    language = max(votes, key=votes.__getitem__)
    return language, votes[language] / total
