"""The micro-world: its splits keep apart what they must, its sentences are right, its authors differ in quality alone."""

import random
import re
from pathlib import Path
from statistics import mean

import pytest

from icr_platform.data.prompts import load_prompts
from icr_platform.demo.authors import AUTHORS, english_preferences, respond, sft_conversation
from icr_platform.demo.grader import grade, grade_task, identify_language
from icr_platform.demo.lexicon import LANGUAGES
from icr_platform.demo.world import SPLITS, split_tasks, task_of_prompt, tasks, tasks_by_id, write_prompts

GRAMMAR = {
    ("colour-the-tomato", "fr"): "La tomate est rouge.",
    ("colour-the-sea", "fr"): "La mer est bleue.",
    ("colour-the-sea", "es"): "El mar es azul.",
    ("colour-the-sea", "ru"): "Море синее.",
    ("colour-grass", "fr"): "L'herbe est verte.",
    ("colour-snow", "es"): "La nieve es blanca.",
    ("colour-snow", "fr"): "La neige est blanche.",
    ("colour-snow", "ru"): "Снег белый.",
    ("colour-the-mouse", "fr"): "La souris est grise.",
    ("colour-the-mouse", "ru"): "Мышь серая.",
    ("colour-the-sun", "ru"): "Солнце жёлтое.",
    ("colour-blood", "es"): "La sangre es roja.",
    ("what-an-apple", "en"): "An apple is a fruit.",
    ("what-an-apple", "de"): "Ein Apfel ist eine Frucht.",
    ("what-a-saw", "ru"): "Пила — это инструмент.",
    ("opposite-heavy", "es"): 'Lo contrario de "pesado" es "ligero".',
    ("opposite-big", "ru"): 'Слову "большой" противоположно слово "маленький".',
}
QUESTIONS = {
    ("what-an-orange", "fr", 0): "Qu'est-ce qu'une orange\u202f?",
    ("what-a-pear", "fr", 1): "Dis-moi ce qu'est une poire.",
    ("choice-a-pear", "fr", 0): re.compile("^Une poire est-elle un (fruit ou|.* ou un fruit)"),
    ("choice-a-dog", "fr", 0): re.compile("^Un chien est-il un "),
    ("list-furniture", "ru", 1): "Можете назвать три предмета мебели?",
    ("list-animal", "es", 2): "Nombra tres animales. ¡Gracias!",
    ("colour-the-banana", "de", 0): "Welche Farbe hat die Banane?",
}


@pytest.mark.parametrize(("task_id", "language"), GRAMMAR)
def test_answer_is_the_sentence_a_speaker_would_write(task_id: str, language: str) -> None:
    assert tasks_by_id()[task_id].correct[language] == (GRAMMAR[task_id, language],)


@pytest.mark.parametrize(("task_id", "language", "way"), QUESTIONS)
def test_question_is_the_sentence_a_speaker_would_write(task_id: str, language: str, way: int) -> None:
    expected, question = QUESTIONS[task_id, language, way], tasks_by_id()[task_id].questions[language][way]
    assert expected.match(question) if isinstance(expected, re.Pattern) else question == expected


def test_every_sentence_follows_its_languages_typography() -> None:
    for task in tasks():
        for language in LANGUAGES:
            for text in (*task.questions[language], *task.correct[language], *task.wrong[language]):
                assert text[0].isupper() or text[0] in "¿¡", text
                assert not re.search(r"[{}]|  ", text), text
                assert text.count("¿") == (text.count("?") if language == "es" else 0), text
                if language == "fr":
                    assert not re.search(r"[^\u202f][!?:]", text), text
                    assert not re.search(r"\b(le|la|de|que) [aeéiou]", text), text


def test_splits_share_no_task_question_or_answer() -> None:
    sizes = {split: len(split_tasks(split)) for split in SPLITS}
    assert sizes == {"english": 24, "icr": 35, "test": 30}
    for first, second in (("english", "test"), ("icr", "test"), ("english", "icr")):
        for language in LANGUAGES:
            ours, theirs = (
                {text for task in split_tasks(split) for text in (*task.questions[language], *task.correct[language])}
                for split in (first, second)
            )
            assert not ours & theirs


def test_right_and_wrong_answers_are_apart() -> None:
    for task in tasks():
        for language in LANGUAGES:
            assert not set(task.correct[language]) & set(task.wrong[language])
            assert len(set(task.questions[language])) == 4


def test_prompts_are_read_by_the_platform_and_aligned(tmp_path: Path) -> None:
    for split, count in (("icr", 70), ("test", 120)):
        write_prompts(tmp_path / split, split)
        found = load_prompts(str(tmp_path / split))
        rows = found.table.to_pylist()
        assert len(rows) == count * len(LANGUAGES)
        assert not found.notes
        for row in rows:
            way = int(row["prompt_id"].rpartition(".")[2])
            assert task_of_prompt(row["prompt_id"]).questions[row["language"]][way] == row["instruction"]


def test_authors_differ_in_quality_and_not_in_length() -> None:
    rng = random.Random(0)
    for language in LANGUAGES:
        grades, lengths = [], []
        for author in AUTHORS:
            drawn = [(task, respond(author, task, language, rng)) for task in rng.choices(tasks(), k=800)]
            grades.append(mean(grade_task(task, language, text) for task, text in drawn))
            lengths.append(mean(len(text) for _, text in drawn))
        assert grades[0] > grades[1] + 0.2 > grades[2] + 0.4
        assert max(lengths) < 1.25 * min(lengths)


def test_one_author_is_asked_in_several_languages() -> None:
    """What carries quality across languages: without it the implicit reward of English tells little about the others."""
    rng = random.Random(0)
    conversations = [turns for turns in (sft_conversation(rng) for _ in range(500)) if len(turns) > 1]
    languages = [{identify_language(turn.response)[0] for turn in turns} for turns in conversations]
    assert mean(len(codes) > 1 for codes in languages) > 0.7
    assert any("using only Russian" in turn.instruction for turns in conversations for turn in turns)


def test_english_preferences_are_english_better_chosen_and_of_their_split() -> None:
    pairs = english_preferences(seed=3, count=100)
    assert pairs == english_preferences(seed=3, count=100)
    assert pairs != english_preferences(seed=4, count=100)
    for pair in pairs:
        task = task_of_prompt(pair.prompt_id)
        assert task in split_tasks("english")
        assert pair.instruction in task.questions["en"]
        assert grade(pair.prompt_id, "en", pair.chosen) > grade(pair.prompt_id, "en", pair.rejected)
