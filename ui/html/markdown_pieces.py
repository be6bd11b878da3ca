"""A text's Markdown in pieces: tags of a small fixed set, and runs of text that know where they stand in the source. Pure.

Nothing of the text becomes a tag or an attribute: its HTML, links and images are text, mathematics stays as it was written.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

from markdown_it import MarkdownIt
from markdown_it.ruler import RuleOptionsType
from markdown_it.rules_block import StateBlock
from markdown_it.rules_inline import StateInline
from markdown_it.token import Token

MAX_NESTING = 40
"""Quotes and lists within each other; what lies deeper would be left out."""
RIGHT_TO_LEFT = re.compile("[\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufeff\U00010800-\U00010fff\U0001e800-\U0001efff]")
_LETTER = re.compile(r"[^\W\d_]")
_BREAK = re.compile(r"\\?[ \t]*\n")
_MATHS = re.compile(
    r"\$\$(?=\S)[^$]+?\$\$|\\\(.+?\\\)|\\\[.+?\\\]|\$(?=[^\s$])(?:\\.|[^$\\])*?(?<=[^\s\\])\$(?!\d)", re.DOTALL
)
_MATH_BLOCKS = (("$$", "$$"), ("\\[", "\\]"))
_ENVIRONMENT = re.compile(r"\\begin\{(\w+\*?)\}")
_LINK = re.compile(r"(!?\[)([^\[\]\n]{0,500})(\]\()([^()\s]*(?:\([^()\s]*\)[^()\s]*)*(?:[ \t]+\"[^\"\n]*\")?)\)")


class Tag(NamedTuple):
    """A tag of ours, and nothing of the text."""

    html: str


class Run(NamedTuple):
    """Text as it is shown, and the place in the source of each of its characters."""

    text: str
    places: Sequence[int]


class Formatted(NamedTuple):
    """pieces: what is shown. is_plain: the text has no formatting, so that it can be shown as it was written."""

    pieces: list[Tag | Run]
    is_plain: bool


def formatted(source: str, is_base_right_to_left: bool = False) -> Formatted | None:
    """The pieces of a text; None where its Markdown would lose a letter or digit of it, as a table row with too many cells does.

    source: with line feeds alone, see `ui.html.texts.lined`.

    >>> [piece for piece in formatted("*a*").pieces]
    [Tag(html='<p>'), Tag(html='<em>'), Run(text='a', places=range(1, 2)), Tag(html='</em>'), Tag(html='</p>')]
    >>> formatted("a|b\\n-|-\\n1|2|lost") is None
    True
    """
    try:
        tokens = _parser().parse(source)
    except RecursionError:
        return None
    if any(token.level >= MAX_NESTING - 1 for token in tokens):
        return None
    has_directions = is_base_right_to_left or RIGHT_TO_LEFT.search(source) is not None
    writer = _Writer(source, has_directions)
    for index, token in enumerate(tokens):
        writer.write(token, tokens[index + 1] if index + 1 < len(tokens) else token)
    if writer.has_lost_something():
        return None
    return Formatted(writer.pieces, writer.is_plain)


def direction_of(text: str) -> str:
    """The direction of most of a text's letters; '' without any.

    >>> direction_of("Python هي لغة برمجة"), direction_of("ok"), direction_of("12")
    ('rtl', 'ltr', '')
    """
    letters = len(_LETTER.findall(text))
    right_to_left = sum(match.group().isalpha() for match in RIGHT_TO_LEFT.finditer(text))
    return "" if not letters else "rtl" if 2 * right_to_left > letters else "ltr"


@cache
def _parser() -> MarkdownIt:
    """CommonMark with tables and strikethrough, mathematics and links as text; without HTML, images and references."""
    parser = MarkdownIt("commonmark", {"html": False, "maxNesting": MAX_NESTING}).enable(["table", "strikethrough"])
    parser.disable(["html_block", "html_inline", "link", "image", "autolink", "reference", "text_join"])
    parser.inline.ruler.before("escape", "maths", _maths)
    parser.inline.ruler.before("escape", "address", _address)
    interrupted: RuleOptionsType = {"alt": ["paragraph", "blockquote", "list"]}
    parser.block.ruler.before("fence", "maths_block", _maths_block, interrupted)
    return parser


def _maths(state: StateInline, silent: bool) -> bool:
    r"""$...$, $$...$$, \(...\) or \[...\] within a line. A sum of money, as in '$5 and $6', has a space before its second sign."""
    if state.src[state.pos] not in "$\\":
        return False
    found = _MATHS.match(state.src, state.pos, state.posMax)
    if found is None:
        return False
    if not silent:
        state.push("maths", "", 0).content = found.group()
    state.pos = found.end()
    return True


def _address(state: StateInline, silent: bool) -> bool:
    """A link or an image: its text, and its address as text."""
    if state.src[state.pos] not in "[!":
        return False
    found = _LINK.match(state.src, state.pos, state.posMax)
    if found is None:
        return False
    if not silent:
        start, end = state.pos, state.posMax
        state.push("link_open", "", 1).markup = found.group(1)
        state.pos, state.posMax = found.span(2)
        state.md.inline.tokenize(state)
        state.pos, state.posMax = start, end
        closing = state.push("link_close", "", -1)
        closing.content, closing.markup = found.group(4), found.group(3)
    state.pos = found.end()
    return True


def _maths_block(state: StateBlock, start: int, end: int, silent: bool) -> bool:
    r"""Lines from $$, \[ or \begin{...} to the line that ends it: signs in them start no list and no heading."""
    first = state.src[state.bMarks[start] + state.tShift[start] : state.eMarks[start]]
    closing = next((closing for opening, closing in _MATH_BLOCKS if first.startswith(opening)), "")
    if (environment := _ENVIRONMENT.match(first)) is not None:
        closing = f"\\end{{{environment.group(1)}}}"
    if not closing or state.is_code_block(start):
        return False
    for line in range(start, end):
        text = state.src[state.bMarks[line] + state.tShift[line] : state.eMarks[line]].rstrip()
        if (line > start or len(text) > len(closing) + 1) and text.rstrip(".,;").endswith(closing):
            break
        if state.sCount[line] < state.blkIndent and text:
            return False
    else:
        return False
    if silent:
        return True
    token = state.push("maths_block", "", 0)
    token.content = state.getLines(start, line + 1, state.blkIndent, False)
    token.map = [start, line + 1]
    state.line = line + 1
    return True


_SIMPLE = {
    "blockquote_open": "blockquote", "table_open": "table", "thead_open": "thead", "tbody_open": "tbody", "tr_open": "tr",
    "bullet_list_open": "ul", "list_item_open": "li",
}  # fmt: skip
_INLINE = {"em_open": "<em>", "em_close": "</em>", "strong_open": "<strong>", "strong_close": "</strong>", "s_open": "<s>",
           "s_close": "</s>"}  # fmt: skip


class _Writer:
    """Collects the pieces of one text, and which of its characters they show."""

    def __init__(self, source: str, has_directions: bool) -> None:
        self.source = source
        self.has_directions = has_directions
        self.pieces: list[Tag | Run] = []
        self.is_plain = True
        self._covered = bytearray(len(source))
        self._starts = [0, *(match.end() for match in re.finditer("\n", source))]
        self._cell_end: dict[int, int] = {}  # by line: where the search for a table's next cell goes on

    def has_lost_something(self) -> bool:
        """Whether a letter or digit of the source is in no piece."""
        return any(not self._covered[match.start()] for match in re.finditer(r"[^\W_]", self.source))

    def write(self, token: Token, following: Token) -> None:
        """The pieces of a block's token. following: the next token, the text of a cell."""
        kind = token.type
        if kind == "paragraph_open":
            text = self._lines(token)
            mixed = self.has_directions and len({direction_of(line) for line in text.split("\n")} - {""}) > 1
            classes = " ".join(name for name, has in (("tight", token.hidden), ("mixed", mixed)) if has)
            tag = "div" if token.hidden else "p"
            self._tag(f"{tag} class='{classes}'" if classes else tag, text)
        elif kind == "paragraph_close":
            self.pieces.append(Tag("</div>" if token.hidden else "</p>"))
        elif kind == "heading_open":
            self.is_plain = False
            self._tag(f"p class='{token.tag}'", self._lines(token))
        elif kind == "heading_close":
            self.pieces.append(Tag("</p>"))
        elif kind == "inline":
            self._inline(token)
        elif kind in ("fence", "code_block", "maths_block"):
            self._block(token)
        elif kind == "hr":
            self.is_plain = False
            self.pieces.append(Tag("<hr>"))
        elif kind == "table_close":
            self.pieces.append(Tag("</table></div>"))
        elif token.nesting == -1:
            self.pieces.append(Tag(f"</{token.tag}>"))
        else:
            self._open(token, following)

    def _open(self, token: Token, following: Token) -> None:
        """A list, an item, a quote, a table or a part of it."""
        self.is_plain = False
        if token.type == "table_open":
            self.pieces.append(Tag("<div class='table' role='group' tabindex='0' aria-label='Table'>"))
        if token.type in ("th_open", "td_open"):
            align = str(token.attrs.get("style", "")).rpartition(":")[2]
            self._tag(f"{token.tag} class='{align}'" if align in ("right", "center") else token.tag, following.content)
        elif token.type == "ordered_list_open":
            start = int(token.attrs.get("start", 1))
            # A year at the beginning of a line is a number with four digits, which needs its room.
            far = " class='far'" if start > 99 else ""
            self._tag(f"ol start='{start}'{far}", self._lines(token))
        else:
            if token.type == "list_item_open" and token.info and token.map:
                self._cover_line(token.map[0], token.info)
            self._tag(_SIMPLE[token.type], self._lines(token))

    def _tag(self, opening: str, text: str) -> None:
        """An opening tag with the direction of its text."""
        direction = direction_of(text) if self.has_directions else ""
        self.pieces.append(Tag(f"<{opening} dir='{direction}'>" if direction else f"<{opening}>"))

    def _lines(self, token: Token) -> str:
        """The source of a block."""
        start, end = token.map or (0, 0)
        stop = self._starts[end] if end < len(self._starts) else len(self.source)
        return self.source[self._starts[start] : stop]

    def _line(self, number: int) -> str:
        stop = self._starts[number + 1] - 1 if number + 1 < len(self._starts) else len(self.source)
        return self.source[self._starts[number] : stop]

    def _cover_line(self, number: int, text: str) -> None:
        """Note that the first place of a text in a line is shown in another way than as a run."""
        place = self._line(number).find(text)
        if text and place >= 0:
            start = self._starts[number] + place
            self._covered[start : start + len(text)] = b"\1" * len(text)

    def _run(self, text: str, places: Sequence[int]) -> None:
        for place in places:
            self._covered[place] = 1
        self.pieces.append(Run(text, places))

    def _block(self, token: Token) -> None:
        """Code with its language, indented lines, or mathematics, kept as they are."""
        first = token.map[0] if token.map else 0
        self.is_plain = False
        name = token.info.strip() if token.type == "fence" else ""
        if token.type == "fence":
            self._cover_line(first, name)
            direction = "ltr" if name else direction_of(token.content) or "ltr"
            label = Tag("<p class='language'>"), Run(name, range(0)), Tag("</p>")
            self.pieces += [Tag("<div class='code'>"), *(label if name else ()), Tag(f"<pre dir='{direction}'><code>")]
            closing = "</code></pre></div>"
        elif token.type == "maths_block":
            self.pieces.append(Tag("<p class='maths' dir='ltr'>"))
            closing = "</p>"
        else:
            self._tag("p class='indented'", token.content)
            closing = "</p>"
        content = token.content.removesuffix("\n")
        if content:
            self._run(content, self._places(content, first + (token.type == "fence")))
        self.pieces.append(Tag(closing))

    def _places(self, content: str, first: int) -> list[int]:
        """Places of a block's content: each of its lines is the end of a line of the source, whose indent may be another one."""
        places: list[int] = []
        for number, line in enumerate(content.split("\n"), first):
            start, whole = self._starts[number], self._line(number)
            # By their ends without white space only where need be: a line may have nothing else, such as U+2028.
            begin = len(whole) - len(line) if whole.endswith(line) else len(whole.rstrip()) - len(line.rstrip())
            places += [start + min(max(begin + i, 0), max(len(whole) - 1, 0)) for i in range(len(line))]
            places.append(start + len(whole))  # the line feed
        return places[:-1]

    def _cell_places(self, content: str, number: int) -> list[int]:
        """Places of what is within one line: a heading, or a cell, in which pipes may be escaped."""
        start, whole = self._starts[number], self._line(number)
        place = whole.find(content, self._cell_end.get(number, 0))
        if place >= 0:
            found = list(range(place, place + len(content)))
        else:
            found, place = [], self._cell_end.get(number, 0)
            for character in content:
                place = max(whole.find(character, place), place)
                found.append(min(place, max(len(whole) - 1, 0)))
                place += 1
        self._cell_end[number] = found[-1] + 1 if found else self._cell_end.get(number, 0)
        return [start + offset for offset in found]

    def _inline(self, token: Token) -> None:
        """Text with emphasis, code, mathematics and links."""
        content = token.content
        first, end = token.map or (0, 1)
        is_in_line = end - first == 1
        places = self._cell_places(content, first) if is_in_line else self._places(content, first)
        at = 0

        def run(length: int, text: str | None = None) -> None:
            nonlocal at
            own = places[at : at + length]
            is_whole = len(own) == length and own and own[-1] - own[0] == length - 1
            shown = content[at : at + length] if text is None else text
            if text is not None:  # an entity or an escaped sign: all of it stands for what is shown
                for place in own:
                    self._covered[place] = 1
                own = own[:1] * len(shown)
                is_whole = False
            if shown:
                self._run(shown, range(own[0], own[-1] + 1) if is_whole else own)
            at += length

        for child in token.children or ():
            if child.type == "text":
                run(len(child.content))
            elif child.type == "text_special":
                self.is_plain = False
                run(len(child.markup), child.content)
            elif child.type in ("softbreak", "hardbreak"):
                broken = _BREAK.match(content, at)
                at = broken.end() - 1 if broken else at
                run(1)
                # Spaces at the beginning of a line are code or verse that nobody fenced.
                run(len(content) - at - len(content[at:].lstrip(" \t")))
            elif child.type == "code_inline":
                self.is_plain = False
                at += len(child.markup)
                padding = 0 if content.startswith(child.markup, at + len(child.content)) else 1
                at += padding
                self.pieces.append(Tag("<code>"))
                run(len(child.content))
                self.pieces.append(Tag("</code>"))
                at += padding + len(child.markup)
            elif child.type == "maths":
                self.is_plain = False
                self.pieces.append(Tag("<span class='maths' dir='ltr'>"))
                run(len(child.content))
                self.pieces.append(Tag("</span>"))
            elif child.type == "link_open":
                self.is_plain = False
                self.pieces.append(Tag("<span class='link'>"))
                at += len(child.markup)
            elif child.type == "link_close":
                self.pieces.append(Tag("</span><span class='address' dir='ltr'>"))
                at += 1
                run(len(child.content) + 2)
                self.pieces.append(Tag("</span>"))
            else:
                self.is_plain = False
                self.pieces.append(Tag(_INLINE[child.type]))
                at += len(child.markup)
