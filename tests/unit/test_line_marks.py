"""Lines in another language are marked over the marks of a comparison, and the text stays what it was."""

from __future__ import annotations

import pytest

from ui.html.line_marks import marked
from ui.html.texts import Mark, marked_line
from ui.html.word_diff import Span, word_diff


@pytest.mark.parametrize(
    ("text", "languages", "expected"),
    [
        ("uno", {}, []),
        ("uno", {0: "en"}, [("uno", 1)]),
        ("uno\ndos", {1: "en"}, [("dos", 2)]),
        ("\n\ndos\n", {2: "und"}, [("dos", 3)]),
        ("a\r\nb", {0: "fr"}, [("a\r", 1)]),
        ("a\u2028b\x0bc", {0: "fr"}, [("a\u2028b\x0bc", 1)]),  # line breaks to Python, and none to the marker
        ("", {}, []),
        ("مرحبا\nhello", {1: "en"}, [("hello", 2)]),
        ("- **uno**\n\n- two\n", {2: "en"}, [("- two", 3)]),
    ],
)
def test_each_line_in_another_language_is_marked(
    text: str, languages: dict[int, str], expected: list[tuple[str, int]]
) -> None:
    found = marked(text, languages)
    assert found.text == text
    assert [text[mark.start : mark.end] for mark in found.marks] == [line for line, _ in expected]
    assert found.foreign == [
        (number, code) for (_, number), code in zip(expected, dict(sorted(languages.items())).values(), strict=True)
    ]
    assert {mark.kind for mark in found.marks} <= {"foreign"}


def test_languages_are_named_in_words() -> None:
    titles = [mark.title for mark in marked("a\nb", {0: "en", 1: "und"}).marks]
    assert titles == ["This line is taken for English", "The language of this line cannot be told"]


def test_differences_lines_and_hits_are_marked_in_one_text() -> None:
    diff = word_diff("one two\nthree four five six seven", "one two\nthree 4 five six seven")
    found = marked("one two\nthree 4 five six seven", {1: "en"}, diff.right, "chosen", query="FIVE")
    assert found.marks == [
        Mark(8, 30, "foreign", "This line is taken for English"),
        Mark(14, 15, "chosen"),
        Mark(16, 20, "hit"),
    ]
    assert marked("a\nb", {}, [Span(0, 3)], "rejected").marks == [Mark(0, 3, "rejected")]


@pytest.mark.parametrize(
    ("text", "query", "expected"),
    [
        ("One on", "on", '<mark class="hit">On</mark>e <mark class="hit">on</mark>'),
        ("50% of 50%", "50%", '<mark class="hit">50%</mark> of <mark class="hit">50%</mark>'),
        ("a.b axb", "a.b", '<mark class="hit">a.b</mark> axb'),
        ("<b>", "b", '&lt;<mark class="hit">b</mark>&gt;'),
        ("النهر واسع", "واسع", 'النهر <mark class="hit">واسع</mark>'),
        ("สุนัขตัวเล็ก", "ตัว", 'สุนัข<mark class="hit">ตัว</mark>เล็ก'),
        ("nothing", "", "nothing"),
        ("nothing", "x", "nothing"),
    ],
)
def test_hits_of_a_search_are_marked_where_they_are_letter_for_letter(text: str, query: str, expected: str) -> None:
    assert str(marked_line(text, query)) == expected
