"""Texts as they were meant: Markdown in a safe subset, mathematics left alone, marks laid over both forms, nothing lost."""

from __future__ import annotations

import html
import re
from html.parser import HTMLParser

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.support import hostile_texts
from ui.html.markdown_pieces import Run, formatted
from ui.html.texts import _ATTRIBUTES, _TAGS, Mark, lined, shown_text


class _Seen(HTMLParser):
    """Tags, attributes and text of a fragment, as a browser's parser would see them."""

    def __init__(self, fragment: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[str] = []
        self.attributes: set[tuple[str, str]] = set()
        self.text = ""
        self.feed(fragment)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes |= {(tag, name) for name, _ in attrs}

    def handle_data(self, data: str) -> None:
        self.text += data


def form(text: str) -> str:
    """HTML of the formatted text, or of the text as it was written where it has no formatting."""
    found = str(shown_text(text))
    inner = re.fullmatch(r'<div class="formatted">(.*)</div><div class="written"[^>]*>.*</div>', found, re.DOTALL)
    if inner:
        return inner.group(1)
    only = re.fullmatch(r'<div class="written only"[^>]*>(.*)</div>', found, re.DOTALL)
    assert only, found
    return only.group(1)


TABLE = '<div class="table" role="group" tabindex="0" aria-label="Table"><table>'
MEANT = {
    "plain": ("Hello, world.", "Hello, world."),
    "two paragraphs": ("One.\n\nTwo.", "One.\n\nTwo."),
    "lines": ("One.\nTwo.", "One.\nTwo."),
    "emphasis": ("*a* and **b** and ~~c~~", "<p><em>a</em> and <strong>b</strong> and <s>c</s></p>"),
    "underscores within words": ("snake_case_name", "snake_case_name"),
    "headings": ("# A\n## B", '<p class="h1">A</p><p class="h2">B</p>'),
    "a heading underlined": ("A\n===", '<p class="h1">A</p>'),
    "list": ("- a\n- b", '<ul><li><div class="tight">a</div></li><li><div class="tight">b</div></li></ul>'),
    "numbers": ("3. a\n4. b", '<ol start="3"><li><div class="tight">a</div></li><li><div class="tight">b</div></li></ol>'),
    "a year": ("1998. a", '<ol start="1998" class="far"><li><div class="tight">a</div></li></ol>'),
    "quote": ("> a", "<blockquote><p>a</p></blockquote>"),
    "rule": ("a\n\n***\n\nb", "<p>a</p><hr><p>b</p>"),
    "code": ("`a*b*`", "<p><code>a*b*</code></p>"),
    "fence": ("```py\nx = '*'\n\n  y\n```", '<div class="code"><p class="language">py</p><pre dir="ltr"><code>x = \'*\'\n\n  y</code></pre></div>'),
    "a fence that nothing closes": ("```\nx", '<div class="code"><pre dir="ltr"><code>x</code></pre></div>'),
    "an empty fence": ("```\n```", '<div class="code"><pre dir="ltr"><code></code></pre></div>'),
    "table": ("|a|b|\n|-|-:|\n|1|*2*|", f'{TABLE}<thead><tr><th>a</th><th class="right">b</th></tr></thead><tbody><tr><td>1</td><td class="right"><em>2</em></td></tr></tbody></table></div>'),
    "a table with too many cells": ("a|b\n-|-\n1|2|lost", "a|b\n-|-\n1|2|lost"),
    "verse": ("one\n   two", "one\n   two"),
    "indented lines": ("a\n\n    x *y*", '<p>a</p><p class="indented">x *y*</p>'),
    "an escaped sign": ("2 \\* 3", "<p>2 * 3</p>"),
    "an entity": ("a &lt; b &amp;c", "<p>a &lt; b &amp;c</p>"),
    "mathematics": ("$a_1 * b_2 * c_3$", '<p><span class="maths" dir="ltr">$a_1 * b_2 * c_3$</span></p>'),
    "mathematics in brackets": ("\\(a_1\\) and \\[*b*\\]", '<p><span class="maths" dir="ltr">\\(a_1\\)</span> and <span class="maths" dir="ltr">\\[*b*\\]</span></p>'),
    "displayed mathematics": ("$$\nx\n= y\n- z\n$$", '<p class="maths" dir="ltr">$$\nx\n= y\n- z\n$$</p>'),
    "displayed in brackets": ("\\[\n# x \\\\\n\\]", '<p class="maths" dir="ltr">\\[\n# x \\\\\n\\]</p>'),
    "an environment": ("\\begin{align*}\na &= b \\\\\n\\end{align*}", '<p class="maths" dir="ltr">\\begin{align*}\na &amp;= b \\\\\n\\end{align*}</p>'),
    "sums of money": ("from $5 to $10", "from $5 to $10"),
    "money and emphasis": ("$5 *or* $6", "<p>$5 <em>or</em> $6</p>"),
    "mathematics in a table": ("a|b\n-|-\n$x_1$|$*y*$", f'{TABLE}<thead><tr><th>a</th><th>b</th></tr></thead><tbody><tr><td><span class="maths" dir="ltr">$x_1$</span></td><td><span class="maths" dir="ltr">$*y*$</span></td></tr></tbody></table></div>'),
    "a link": ("[the *site*](https://a.b/c_d_e)", '<p><span class="link">the <em>site</em></span><span class="address" dir="ltr">(https://a.b/c_d_e)</span></p>'),
    "an image": ("![a cat](//evil.test/x.png)", '<p><span class="link">a cat</span><span class="address" dir="ltr">(//evil.test/x.png)</span></p>'),
    "an address": ("<https://a.b> https://c.d", "&lt;https://a.b&gt; https://c.d"),
    "a definition of a link": ("[1]: https://a.b", "[1]: https://a.b"),
    "HTML": ("<b>x</b> <script>alert(1)</script>", "&lt;b&gt;x&lt;/b&gt; &lt;script&gt;alert(1)&lt;/script&gt;"),
    "HTML alone in a block": ("<div>\n*x*\n</div>", "<p>&lt;div&gt;\n<em>x</em>\n&lt;/div&gt;</p>"),
    "a comment": ("<!-- *x* -->", "<p>&lt;!-- <em>x</em> --&gt;</p>"),
    "Chinese": ("**重要**的是", "<p><strong>重要</strong>的是</p>"),
    "Windows' lines": ("- a\r\n- b", '<ul><li><div class="tight">a</div></li><li><div class="tight">b</div></li></ul>'),
    "nothing": ("", ""),
    "spaces": ("  ", "  "),
}  # fmt: skip


@pytest.mark.parametrize("name", MEANT)
def test_a_text_is_shown_as_it_was_meant(name: str) -> None:
    text, expected = MEANT[name]
    assert form(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("# عنوان\n\nنص", ['<p class="h1" dir="rtl">', '<p dir="rtl">']),
        (
            "Python هي لغة برمجة\n\nThis is English, not عربي",
            ['<span class="line" dir="rtl">', '<span class="line" dir="ltr">This'],
        ),
        ("**Python** هي لغة برمجة\n\nThis is English, not عربي", ['<p dir="rtl">', '<p dir="ltr">']),
        ("- واحد\n  one line in *English*", ['<div class="tight mixed" dir="ltr">']),
        ("- واحد\n- اثنان", ['<ul dir="rtl">', '<li dir="rtl">']),
        ("مرحبا\n\n```py\nx\n```", ['<p dir="rtl">', '<pre dir="ltr">']),
        ("مرحبا\n\nhello there", ['<span class="line" dir="rtl">', '<span class="line" dir="ltr">']),
    ],
)
def test_each_block_has_the_direction_of_most_of_its_letters(text: str, expected: list[str]) -> None:
    assert [tag for tag in expected if tag not in form(text)] == []


def test_a_text_in_another_direction_than_its_pane_keeps_its_own() -> None:
    assert (
        str(shown_text("An English answer.", language="ar"))
        == '<div class="written only" dir="ltr">An English answer.</div>'
    )
    assert str(shown_text("An English answer.", language="es")) == '<div class="written only">An English answer.</div>'


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("**bold** move", "bold"), ("# A *title*", "title"), ("- one\n- two words", "two words"), ("1. 1", "1"),
        ("> > deep\n> > er", "er"), ("|a|b|\n|-|-|\n|x|a \\| b|", "x"), ("```\n  code here\n```", "code here"), ("a\n\n    b c", "b c"),
        ("`co de` x", "co de"), ("[label](address) b", "b"), ("[a](b) c", "b"), ("\\* star", "star"), ("&amp; x", "x"),
        ("$x_1$ y", "x_1"), ("$$\na\nb\n$$", "b"), ("one  \ntwo", "two"), ("one\\\ntwo", "two"), ("a\r\n\r\nb *c*", "c"),
        ("***x** y*", "y"), ("مرحبا **بك**", "بك"), ("\t- tab\n\n\t  more *x*", "more"), ("- a\n\n\tb *c*", "c"), ("Title x\n===\ny", "x"),
    ],
)  # fmt: skip
def test_a_mark_lies_on_the_same_words_in_both_forms(text: str, words: str) -> None:
    start = text.rindex(words)
    found = str(shown_text(text, [Mark(start, start + len(words), "hit")]))
    marked = [html.unescape(part) for part in re.findall(r'<mark class="hit">(.*?)</mark>', found)]
    assert len(marked) == found.count('class="written') + found.count('class="formatted"'), found
    assert set(marked) == {words}


def test_marks_lie_within_each_other() -> None:
    marks = [Mark(0, 11, "foreign", "taken for 'English'"), Mark(4, 7, "rejected"), Mark(5, 9, "hit")]
    assert form_of(marks) == (
        '<span class="foreign" dir="auto" title="taken for \'English\'">one <mark class="rejected">t'
        '<mark class="hit">wo</mark></mark><mark class="hit"> t</mark>hr</span>ee'
    )


def form_of(marks: list[Mark]) -> str:
    found = str(shown_text("one two three", marks))
    return found.removeprefix('<div class="written only">').removesuffix("</div>")


MARKDOWN = st.lists(
    st.sampled_from(
        ["*", "**", "_", "`", "```\n", "~~", "# ", "- ", "1. ", "> ", "|", "\n", "\n\n", "|-|-|\n", "    ", "\t", "\\", "\\[", "\\]", "$", "$$", "[",
         "](", ")", "!", "&amp;", "&#0;", "<b>", "</div>", "<!--", "a", "b c", "1", "é", "界", "م", "\r\n", "\r", "\x00", "\u202e", "---\n", "===\n",
         "\\begin{a}", "\\end{a}", "'", '"', "🙂", "\u2028", "\x0b", " "]
    ),
    max_size=40,
).map("".join)  # fmt: skip


@given(MARKDOWN)
@example("    \u2028")
def test_whatever_is_written_only_our_tags_come_out_and_no_letter_is_lost(text: str) -> None:
    seen = _Seen(str(shown_text(text, [Mark(0, len(text), "hit")])))
    assert set(seen.tags) <= _TAGS
    assert all(name in _ATTRIBUTES["*"] | _ATTRIBUTES.get(tag, set()) for tag, name in seen.attributes)
    written = re.sub("\r\n?", "\n", seen.text)
    assert re.sub("\r\n?", "\n", text).replace("\x00", "\ufffd") in written
    found = formatted(lined(text.replace("\x00", "\ufffd")))
    if found is not None:
        runs = [piece for piece in found.pieces if isinstance(piece, Run)]
        for run in runs:
            aligned = [lined(text.replace("\x00", "\ufffd"))[place] for place in run.places]
            # Entities and escaped signs are one character at the place of several.
            assert len(run.places) == 0 or aligned == list(run.text) or aligned[0] in "&\\", (run, text)


@pytest.mark.parametrize("text", hostile_texts.payloads())
def test_a_hostile_text_leaves_our_tags_alone(text: str) -> None:
    seen = _Seen(str(shown_text(text)))
    assert set(seen.tags) <= _TAGS
    assert {name for _, name in seen.attributes} <= {"class", "dir", "title", "role", "tabindex", "aria-label", "start"}


@pytest.mark.parametrize(
    "nesting",
    ["> " * 300, "- " * 300, "*" * 3000, "[" * 3000, "`" * 3000, "$" * 3000, "\\[" * 3000, "![" * 3000, "~~" * 3000],
)
def test_deep_nesting_is_shown_as_it_was_written_or_formatted_and_never_fails(nesting: str) -> None:
    assert "word" in str(shown_text(f"{nesting} word"))
