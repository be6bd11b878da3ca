"""What differs between two texts is marked on both, in every script, for texts that share much and little, long and short."""

from __future__ import annotations

import random
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ui.html.word_diff import Span, tokens, word_diff


def bracketed(text: str, spans: list[Span]) -> str:
    """The text with brackets around what is marked."""
    for span in reversed(spans):
        text = f"{text[: span.start]}[{text[span.start : span.end]}]{text[span.end :]}"
    return text


@pytest.mark.parametrize(
    ("left", "right", "marked_left", "marked_right"),
    [
        ("a small dog sleeps", "a big dog sleeps", "a [small] dog sleeps", "a [big] dog sleeps"),
        ("one two three", "one three", "one [two] three", "one three"),
        ("", "all of it", "", "[all of it]"),
        ("Yes.", "Yes!", "Yes[.]", "Yes[!]"),
        ("don't", "do not", "[don't]", "[do not]"),
        ("他去北京", "他去南京", "他去[北]京", "他去[南]京"),
        ("日本語を話す", "日本語で話す", "日本語[を]話す", "日本語[で]話す"),
        ("สุนัขตัวเล็ก", "สุนัขตัวใหญ่", "สุนัขตัว[เล็ก]", "สุนัขตัว[ใหญ่]"),
        ("ខ្មែរធំ", "ខ្មែរតូច", "ខ្មែរ[ធំ]", "ខ្មែរ[តូច]"),
        ("ကျွန်ုပ်", "ကျွန်တော်", "ကျွ[န်ုပ်]", "ကျွ[န်တော်]"),
        ("النهر واسع", "النهر ضيق", "النهر [واسع]", "النهر [ضيق]"),
        ("נהר רחב", "נהר צר", "נהר [רחב]", "נהר [צר]"),
        ("میرود", "می\u200cرود", "[میرود]", "[می\u200cرود]"),
        ("नदी चौड़ी", "नदी छोटी", "नदी [चौड़ी]", "नदी [छोटी]"),
        ("강이 넓다", "강이 좁다", "강이 [넓다]", "강이 [좁다]"),
        ("👩‍💻 works", "👩‍🔬 works", "[👩‍💻] works", "[👩‍🔬] works"),
        ("🇩🇪 or 🇩🇰", "🇩🇪 or 🇫🇷", "🇩🇪 or [🇩🇰]", "🇩🇪 or [🇫🇷]"),
        ("caf\u00e9 x", "cafe\u0301 y", "caf\u00e9 [x]", "cafe\u0301 [y]"),
        ("**one** two", "one two", "[**]one[**] two", "one two"),
        ("x = 1\ny = 2", "x = 1\ny = 3", "x = 1\ny = [2]", "x = 1\ny = [3]"),
        (
            "The capital of France is Paris, and it lies on the river Seine.",
            "Paris is a city. It is the capital of France. The river Seine flows through the whole of it, as all know.",
            "[The] capital of France [is Paris, and it lies on the] river Seine.",
            "[Paris is a city. It is the] capital of France[. The] river Seine [flows through the whole of it, as all know].",
        ),
    ],
)
def test_what_only_one_text_has_is_marked(left: str, right: str, marked_left: str, marked_right: str) -> None:
    found = word_diff(left, right)
    assert (bracketed(left, found.left), bracketed(right, found.right)) == (marked_left, marked_right)


@pytest.mark.parametrize(
    ("left", "right", "told"),
    [
        ("same", "same", "Both texts are the same."),
        ("", "", "Both texts are the same."),
        ("one two", "one\n\ntwo", "Both texts have the same words; only spaces or line breaks differ."),
        ("**one**", "one", "Both texts have the same words; only formatting or punctuation differs."),
        ("one two", "one three", "Marked words are in one of the two only; 50% of the words are in both."),
        ("one two", "three four", "The two texts share no words: each is marked as a whole."),
    ],
)
def test_what_the_marks_mean_is_said(left: str, right: str, told: str) -> None:
    assert word_diff(left, right).told == told


def test_texts_that_share_little_are_marked_too() -> None:
    random.seed(3)
    words = [f"word{number}" for number in range(400)]
    left, right = (" ".join(random.choices(words, k=300)) for _ in range(2))
    found = word_diff(left + " a phrase that both have", "both have a phrase that both have " + right)
    assert found.shares_little
    assert found.left
    assert found.right
    assert "words are in both" in found.told


def test_short_words_that_chance_put_into_both_are_marked_with_what_is_around_them() -> None:
    left, right = "red green of blue yellow", "north south of east west"
    assert bracketed(left, word_diff(left, right).left) == f"[{left}]"
    assert bracketed(right, word_diff(left, right).right) == f"[{right}]"


def test_long_texts_are_compared_and_huge_ones_say_that_they_are_not() -> None:
    random.seed(5)
    words = [f"w{number}" for number in range(2000)]
    text = random.choices(words, k=15_000)
    other = [*text[:7000], *random.choices(words, k=900), *text[8000:]]
    assert word_diff(" ".join(text), " ".join(other)).shared > 90
    huge = word_diff("a b " * 15_000, "c d " * 15_000)
    assert huge.told == "These texts are too long to compare word by word, so nothing is marked."
    assert (huge.left, huge.right) == ([], [])


TEXTS = st.text(max_size=60) | st.lists(
    st.sampled_from(["a", "of", "the", " ", "  ", "\n", "**", "我", "们", "ที่", "و", "é", "e\u0301", "👩‍💻", "\u200d", "1", "."]), max_size=60
).map("".join)  # fmt: skip


@given(TEXTS, TEXTS)
def test_what_is_not_marked_is_the_same_in_both_texts(left: str, right: str) -> None:
    found = word_diff(left, right)
    unmarked = []
    for text, spans in ((left, found.left), (right, found.right)):
        places = [place for span in spans for place in (span.start, span.end)]
        assert places == sorted(places)
        assert all(start < end for start, end in spans)
        kept, at = [], 0
        for span in [*spans, Span(len(text), len(text))]:
            kept += [unicodedata.normalize("NFC", token) for token in tokens(text[at : span.start]) if token.strip()]
            at = span.end
        unmarked.append([token for token in kept if not token.isspace()])
    assert unmarked[0] == unmarked[1]
    assert "".join(tokens(left)) == left
