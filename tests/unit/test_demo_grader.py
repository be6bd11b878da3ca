"""The exact grader against grades worked out by hand, and the exact language identifier on the world's own sentences."""

import pytest

from icr_platform.demo.grader import grade, identify_language, preference
from icr_platform.demo.lexicon import LANGUAGES
from icr_platform.demo.world import tasks

PERFECT = "Of course! A dog is an animal. All animals need food and water. I hope this helps!"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (PERFECT, 1.0),
        ("A dog is an animal.", 0.4),
        ("Good question! A dog is an animal.", 0.6),
        ("A dog is a fruit.", 0.0),
        ("Of course! A dog is a fruit. I hope this helps!", 0.3),
        ("A dog is an animal. A dog is an animal.", 0.3),
        ("A dog is an animal. Of course!", 0.3),
        ("I hope this helps! A dog is an animal.", 0.3),
        ("You again? A dog is an animal. The weather is bad again.", 0.2),
        (PERFECT + " I do not want to work.", 0.6),
        ("Un perro es un animal.", 0.0),
        ("a dog is an animal", 0.0),
        ("", 0.0),
        ("\n", 0.0),
    ],
)
def test_grade_by_hand(text: str, expected: float) -> None:
    assert grade("what-a-dog.0", "en", text) == pytest.approx(expected)


def test_preference_compares_grades() -> None:
    good, fair = "¡Claro que sí! Un perro es un animal.", "Un perro es un animal."
    assert preference("what-a-dog.3", "es", good, fair) == 1.0
    assert preference("what-a-dog.3", "es", fair, good) == 0.0
    assert preference("what-a-dog.3", "es", fair, fair) == 0.5


def test_unknown_prompt_raises() -> None:
    with pytest.raises(KeyError):
        grade("p0", "en", "A dog.")


def test_any_three_members_are_a_right_list() -> None:
    assert grade("list-fruit.1", "de", "Zum Beispiel: Birne, Apfel und Zitrone.") == 0.4
    assert grade("list-fruit.1", "de", "Zum Beispiel: Birne, Birne und Zitrone.") == 0.0
    assert grade("list-fruit.1", "de", "Zum Beispiel: Birne, Apfel und Hammer.") == 0.0


def test_language_of_every_answer_is_found() -> None:
    for task in tasks():
        for language in LANGUAGES:
            for sentence in (*task.correct[language], *task.wrong[language], task.fact.in_language(language)):
                assert identify_language(sentence)[0] == language, sentence
    assert identify_language("12 + 7") == ("und", 0.0)
