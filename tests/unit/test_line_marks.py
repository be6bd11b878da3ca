"""Lines in another language are marked over the marks of a comparison, and the text stays what it was."""

from __future__ import annotations

import pytest

from ui.html.line_marks import marked
from ui.html.word_diff import Segment, word_diff


@pytest.mark.parametrize(
    ("text", "languages", "expected"),
    [
        ("uno", {}, [("uno", "")]),
        ("uno", {0: "en"}, [("uno", "en")]),
        ("uno\ndos", {1: "en"}, [("uno\n", ""), ("dos", "en")]),
        ("\n\ndos\n", {2: "und"}, [("\n", ""), ("\n", ""), ("dos\n", "und"), ("", "")]),
        ("a\r\nb", {0: "fr"}, [("a\r\n", "fr"), ("b", "")]),
        ("a\u2028b\x0bc", {0: "fr"}, [("a\u2028b\x0bc", "fr")]),  # line breaks to Python, and none to the marker
        ("", {}, [("", "")]),
        ("مرحبا\nhello", {1: "en"}, [("مرحبا\n", ""), ("hello", "en")]),
    ],
)
def test_a_text_is_cut_into_its_lines(text: str, languages: dict[int, str], expected: list[tuple[str, str]]) -> None:
    found = marked([Segment(text, True)] if text else [], languages)
    assert [("".join(segment.text for segment in line.segments), line.language) for line in found.lines] == expected
    assert found.foreign == [(index + 1, code) for index, code in sorted(languages.items())]


def test_marks_of_a_comparison_go_on_over_the_end_of_a_line() -> None:
    diff = word_diff("one two\nthree four five six seven", "one two\nthree 4 five six seven")
    found = marked(diff.right, {1: "en"})
    assert (
        "".join(segment.text for line in found.lines for segment in line.segments) == "one two\nthree 4 five six seven"
    )
    assert [segment for line in found.lines for segment in line.segments if not segment.is_shared] == [
        Segment("4", False)
    ]
    split = marked([Segment("a\nb", False)], {0: "fr"})
    assert split.lines == [([Segment("a\n", False)], "fr"), ([Segment("b", False)], "")]
