"""Where a model's thought ends and its answer begins.

Thinking models write what they think before they answer, between markers of their family: `<think> ... </think>`, the channels of
gpt-oss, `[THINK] ... [/THINK]`. Which of them a tokenizer has is found in its vocabulary and its chat template. A template may open the
block itself, so that a response holds its end only, or write an empty block, so that nothing is thought.

`answer_start` is the index of the first token of the answer: the first one behind the end of the thought that is not white space
alone, which is the end-of-turn token where the answer is empty. White space beside a marker belongs neither to the thought nor to the
answer. A marker counts where a block can begin or end: in the prompt where the template wrote it, at the head of a response, and
the first end after that. One that a user typed, or that an answer quotes, is text.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from icr_platform.core.conversations import Conversation
from icr_platform.models.chat import (
    RefusedTextError,
    decode_response,
    encode_messages,
    encode_response,
    template_arguments,
)

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Style:
    """How one family of models marks its thoughts.

    label: a word behind the opening marker that names the block, and is not part of the thought.
    is_sentence: the markers are words, which an answer may use: both are needed, and in this order.
    """

    opening: str
    closing: str
    label: str = ""
    is_sentence: bool = False


STYLES = (
    Style(
        "<think>", "</think>"
    ),  # Qwen3, DeepSeek-R1, SmolLM3, GLM, Olmo 3, Nemotron, Kimi K2, MiniMax, Hunyuan, ERNIE, ...
    Style("[THINK]", "[/THINK]"),  # Magistral, Ministral 3
    Style("<|START_THINKING|>", "<|END_THINKING|>"),  # Command A Reasoning
    Style("<seed:think>", "</seed:think>"),  # Seed-OSS
    Style("<|channel>", "<channel|>", "thought"),  # Gemma 4
    Style("<unused94>", "<unused95>", "thought"),  # MedGemma
    Style("<|inner_prefix|>", "<|inner_suffix|>"),  # Apertus
    Style("<thought>", "</thought>"),  # EXAONE Deep
    Style("<thinking>", "</thinking>"),
    Style("<reasoning>", "</reasoning>"),
    Style("<longcat_think>", "</longcat_think>"),
    Style("<|begin_of_thought|>", "<|end_of_thought|>"),  # OpenThinker, Sky-T1
    Style("◁think▷", "◁/think▷"),  # Kimi-VL
    Style("Here is my thought process:", "Here is my response:", is_sentence=True),  # Granite 3.2
)
_WRAPPERS = {  # what some families put around an answer that follows a thought
    "<answer>": "</answer>",
    "<response>": "</response>",
    "<|START_RESPONSE|>": "<|END_RESPONSE|>",
    "<|START_TEXT|>": "<|END_TEXT|>",
    "<|begin_of_solution|>": "<|end_of_solution|>",
}
_HARMONY = ("<|start|>", "<|channel|>", "<|message|>")
_TURN_ENDS = ("<|end|>", "<|return|>", "<|call|>")
_HEADER = re.compile(r"(?:<\|start\|>assistant)?(?:<\|channel\|>([^<]*))?(?:<\|constrain\|>[^<]*)?<\|message\|>")
_TURN_END = re.compile("|".join(map(re.escape, _TURN_ENDS)))
# gpt-oss as a decoder leaves it that skips special tokens.
_BARE_HARMONY = re.compile(
    r"\A\s*analysis(?P<thought>.*?)(?:<\|end\|>)?(?:assistant(?:commentary.*?)?)+final(?P<answer>.*)\Z", re.DOTALL
)
_TAIL = 48  # tokens at the end of a prompt in which a template's block and its white space fit
_MARKERS = "_icr_thinking"
_OFF: dict[
    str, Any
] = {  # of Qwen3, SmolLM3, GLM, Gemma 4, Hunyuan, ...; DeepSeek V3.1, Granite, Kimi; Command A; Seed-OSS
    "enable_thinking": False,
    "thinking": False,
    "reasoning": False,
    "thinking_budget": 0,
}
_QUESTION = [{"role": "user", "content": "Name a fruit."}]


@dataclass(frozen=True)
class Split:
    """Where the answer begins.

    answer_start: index in the response's ids; None where nothing stands before the answer.
    is_cut: the thought never ends, so that there is no answer: answer_start is the number of ids.
    """

    answer_start: int | None
    is_cut: bool = False


@dataclass(frozen=True)
class TextSplit:
    """A response's text in two. thought: None where nothing was thought. is_cut: the thought never ends; answer is ''."""

    thought: str | None
    answer: str
    is_cut: bool = False


@dataclass(frozen=True)
class Reading:
    """A response's texts, and where the answer begins in its ids, as in `TextSplit` and `Split`."""

    thought: str | None
    answer: str
    answer_start: int | None
    is_cut: bool = False


@dataclass(frozen=True)
class _Marked:
    """A style with the ids of its markers, where each is one token of the tokenizer."""

    style: Style
    opening: int | None
    closing: int | None
    in_template: bool


@dataclass(frozen=True)
class Markers:
    """What a tokenizer can mark thoughts with. has_channels: those of gpt-oss."""

    styles: tuple[_Marked, ...]
    has_channels: bool

    def __bool__(self) -> bool:
        return self.has_channels or bool(self.styles)


def markers_of(tokenizer: PreTrainedTokenizerBase) -> Markers:
    """Find the styles whose markers are tokens of the vocabulary, or stand in the chat template."""
    found: Markers | None = getattr(tokenizer, _MARKERS, None)
    if found is None:
        vocabulary, template = tokenizer.get_vocab(), tokenizer.chat_template or ""
        source = "\n".join(map(str, template.values())) if isinstance(template, dict) else str(template)
        styles = []
        for style in STYLES:
            opening, closing = vocabulary.get(style.opening), vocabulary.get(style.closing)
            in_template = style.opening in source or style.closing in source
            if in_template or None not in (opening, closing):
                styles.append(_Marked(style, opening, closing, in_template))
        found = Markers(tuple(styles), all(marker in vocabulary for marker in _HARMONY))
        setattr(tokenizer, _MARKERS, found)
    return found


ANY_MARKERS = Markers(tuple(_Marked(style, None, None, True) for style in STYLES), has_channels=True)
"""For texts of which it is not known what tokenizer wrote them."""


def answer_start(tokenizer: PreTrainedTokenizerBase, prompt_ids: Sequence[int], token_ids: Sequence[int]) -> Split:
    """Find where the answer begins in a response. prompt_ids: that it continues, whose template may have opened the block."""
    read = read_response(tokenizer, prompt_ids, token_ids)
    return Split(read.answer_start, read.is_cut)


def read_response(tokenizer: PreTrainedTokenizerBase, prompt_ids: Sequence[int], token_ids: Sequence[int]) -> Reading:
    """Tell a response's thought and answer apart. Where nothing was thought, the answer is the whole response as it is decoded."""
    markers, ids = markers_of(tokenizer), list(token_ids)
    if markers and ids:
        tail = _shown(tokenizer, list(prompt_ids)[-_TAIL:])
        if markers.has_channels:
            found = _read_channels(tokenizer, prompt_ids, ids)
            if found is not None:
                return found
        for marked in markers.styles:
            is_open = _leaves_open(tail, marked)
            has_ids = marked.opening is not None and marked.closing is not None
            found = (_read_ids if has_ids else _read_pieces)(tokenizer, marked, is_open, ids)
            if has_ids and (found is None or found.is_cut):
                found = _read_spelt(tokenizer, marked, is_open, ids) or found
            if found is not None:
                return found
    return Reading(None, decode_response(tokenizer, ids), None)


def split_text(
    tokenizer: PreTrainedTokenizerBase | Markers | None, text: str, is_open: bool | None = None
) -> TextSplit:
    """Tell thought and answer apart in a text without ids, such as a server's or a file's.

    Args:
        tokenizer: that wrote it, or its markers; None: not known, and any family's count.
        is_open: whether the prompt opened the block; None: not known, and an end without a beginning ends a thought.
    """
    markers = (
        ANY_MARKERS if tokenizer is None else tokenizer if isinstance(tokenizer, Markers) else markers_of(tokenizer)
    )
    if markers.has_channels and (split := _split_channels(text)) is not None:
        return split
    for marked in markers.styles:
        block = _block(text, marked.style, is_open)
        if block is not None:
            return TextSplit(_thought(block.thoughts, marked.style), _unwrapped(text[block.answer :]), block.is_cut)
    return TextSplit(None, text)


def opens_thought(tokenizer: PreTrainedTokenizerBase, prompt_ids: Sequence[int]) -> bool | None:
    """Whether a prompt ends within a block that its template opened, so that a response begins as a thought (True), or behind one
    that it closed again (False); None where its template leaves both to the model."""
    tail = _shown(tokenizer, list(prompt_ids)[-_TAIL:])
    found = (_leaves_open(tail, marked) for marked in markers_of(tokenizer).styles)
    return next((is_open for is_open in found if is_open is not None), None)


def thinking_off(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """Find the arguments by which the tokenizer's chat template is told that nothing is to be thought; empty where it has none."""
    taken = template_arguments(tokenizer) or frozenset()
    found: dict[str, Any] = {}
    for name, value in _OFF.items():
        if name in taken:
            with contextlib.suppress(RefusedTextError):
                encode_messages(tokenizer, _QUESTION, arguments={name: value})
                found[name] = value
    return found


def encode_answer_prompt(tokenizer: PreTrainedTokenizerBase, prompt: str | Conversation) -> list[int]:
    """Encode a prompt as `chat.encode_prompt`, such that the answer follows at once: nothing is thought.

    The template is told so where it takes an argument for it; a block that it opens all the same is closed behind it, and gpt-oss's
    answer is opened. For texts, such as translations, that no thought of the model led to.
    """
    messages = (Conversation(prompt) if isinstance(prompt, str) else prompt).messages
    markers = markers_of(tokenizer)
    if not markers:
        return encode_messages(tokenizer, messages)
    ids = encode_messages(tokenizer, messages, arguments=thinking_off(tokenizer))
    if markers.has_channels:
        final = _markup(tokenizer, "<|channel|>final<|message|>")
        return ids if ids[-len(final) :] == final else ids + final
    tail = _shown(tokenizer, ids[-_TAIL:])
    opened = next((marked.style for marked in markers.styles if _leaves_open(tail, marked)), None)
    return ids if opened is None else ids + _markup(tokenizer, f"\n{opened.closing}\n\n")


def _markup(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    return [int(token) for token in tokenizer(text, add_special_tokens=False)["input_ids"]]


def encode_thoughtful(
    tokenizer: PreTrainedTokenizerBase, prompt_ids: Sequence[int], thought: str, answer: str, finished: bool
) -> list[int]:
    """Encode a response of which the texts alone are known, between the markers that the model itself writes.

    As `chat.encode_response`. Where there is no answer, the thought is left open; a tokenizer without markers gets the answer alone.
    """
    markers = markers_of(tokenizer)
    if not markers:
        return encode_response(tokenizer, answer, finished)
    if markers.has_channels:
        begin, end = "<|channel|>analysis<|message|>", "<|end|><|start|>assistant<|channel|>final<|message|>"
    else:
        style = max(markers.styles, key=lambda marked: marked.in_template).style
        is_open = opens_thought(tokenizer, prompt_ids)
        begin, end = "" if is_open else f"{style.opening}{style.label}\n", f"\n{style.closing}\n\n"
    thinking = _markup(tokenizer, begin) + encode_response(tokenizer, thought, finished=False)
    return thinking + _markup(tokenizer, end) + encode_response(tokenizer, answer, finished) if answer else thinking


def end_marker(tokenizer: PreTrainedTokenizerBase) -> int | str | None:
    """What ends the thoughts that the template knows of, as a token or, where it is written with several, as text; None for none."""
    markers = markers_of(tokenizer)
    if markers.has_channels:
        return int(tokenizer.get_vocab()["<|message|>"])  # the last one begins the answer
    known = [marked for marked in markers.styles if marked.in_template]
    return (known[0].style.closing if known[0].closing is None else known[0].closing) if known else None


def end_of_thought(tokenizer: PreTrainedTokenizerBase, prompt_ids: Sequence[int]) -> list[int]:
    """The ids to put behind a prompt so that the answer comes next: they end the block that the template opened, are an empty block where
    the template asks for one in words, and begin what the answer stands in; none where the answer comes next anyway.
    """
    markers, prompt = markers_of(tokenizer), _shown(tokenizer, prompt_ids)
    text = ""
    if markers.has_channels and not prompt.endswith("<|message|>"):
        text = "<|channel|>final<|message|>"
    for marked in markers.styles:
        style, is_open = marked.style, _leaves_open(prompt, marked)
        # As templates write an empty block: `<think>\n\n</think>\n\n`, but `<|channel>thought\n<channel|>`.
        if is_open:
            text = f"\n{style.closing}\n\n" if prompt.endswith("\n") and not style.label else style.closing
        elif is_open is None and style.opening in prompt and style.closing in prompt:
            text = f"{style.opening}\n\n{style.closing}\n\n"
        if is_open is not None and style.closing == "<|END_THINKING|>" and not prompt.endswith("<|START_RESPONSE|>"):
            text += "<|START_RESPONSE|>"
        if text or is_open is False:
            break
    return [int(token) for token in tokenizer(text, add_special_tokens=False)["input_ids"]] if text else []


def _shown(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    """The text with its special tokens."""
    text: Any = tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)
    return str(text)


def _leaves_open(tail: str, marked: _Marked) -> bool | None:
    """Whether a prompt's last block is open (True) or closed (False); None where its end is no marker of the template's."""
    if not marked.in_template:
        return None
    style, end = marked.style, tail.rstrip()
    for wrapper in _WRAPPERS:
        end = end.removesuffix(wrapper).rstrip()
    if end.endswith(style.closing):
        return False
    end = end.removesuffix(style.label).rstrip() if style.label else end
    return True if end.endswith(style.opening) else None


@dataclass(frozen=True)
class _Block:
    """Leading blocks of a text. answer: index of the character at which the answer begins."""

    thoughts: tuple[str, ...]
    answer: int
    is_cut: bool = False


def _block(text: str, style: Style, is_open: bool | None) -> _Block | None:
    """The blocks at the head of a text; None where it begins with its answer.

    An end to which there is no beginning closes a thought where the prompt opened one; where the prompt says nothing, if
    a line ends there: an answer may quote it.
    """
    thoughts: list[str] = []
    start = _behind_space(text, 0)
    if style.is_sentence and not (text.startswith(style.opening, start) and style.closing in text):
        return None
    if is_open is not True and not text.startswith(style.opening, start):
        orphan = text.find(style.closing) if is_open is None else -1
        behind = orphan + len(style.closing)
        if orphan < 0 or style.opening in text[:orphan] or not (text[behind:].strip() == "" or text[behind] in "\r\n"):
            return None
        is_open = True
    if text.startswith(style.opening, start):  # also of a block that the prompt opened: some models open it again
        start += len(style.opening)
    while True:
        end = text.find(style.closing, start)
        if end < 0:
            return _Block((*thoughts, text[start:]), len(text), is_cut=True)
        thoughts.append(text[start:end])
        start = _behind_space(text, end + len(style.closing))
        if not text.startswith(style.opening, start):
            break
        start += len(style.opening)
    wrapper = next((wrapper for wrapper in _WRAPPERS if text.startswith(wrapper, start)), "")
    return _Block(tuple(thoughts), _behind_space(text, start + len(wrapper)))


def _behind_space(text: str, start: int) -> int:
    while start < len(text) and text[start].isspace():
        start += 1
    return start


def _thought(pieces: Iterable[str], style: Style) -> str | None:
    """The text of one or several blocks; None where nothing was thought."""
    label = re.compile(rf"\A{style.label}(?:\s+|\Z)" if style.label else r"\A")
    texts = [label.sub("", piece.strip()).strip() for piece in pieces]
    return "\n".join(text for text in texts if text) or None


def _unwrapped(answer: str) -> str:
    """The answer without white space at its head and the end of a wrapper."""
    answer = answer.lstrip()
    for wrapper in _WRAPPERS.values():
        if answer.rstrip().endswith(wrapper):
            return answer.rstrip().removesuffix(wrapper).rstrip()
    return answer


def _read_ids(
    tokenizer: PreTrainedTokenizerBase, marked: _Marked, is_open: bool | None, ids: Sequence[int]
) -> Reading | None:
    """As `_block`, where both markers are tokens: their spelling within other tokens is text."""
    start, spans = _behind_blank(tokenizer, ids, 0), list[tuple[int, int]]()
    if is_open is not True and (start == len(ids) or ids[start] != marked.opening):
        orphan = ids.index(marked.closing) if is_open is None and marked.closing in ids else len(ids)
        if orphan == len(ids) or not _ends_line(tokenizer, ids[orphan + 1 :]):
            return None
        start = 0
    elif start < len(ids) and ids[start] == marked.opening:
        start += 1
    while True:
        if marked.closing not in ids[start:]:
            spans.append((start, len(ids)))
            return Reading(_thought_of(tokenizer, ids, spans, marked.style), "", len(ids), is_cut=True)
        end = ids.index(marked.closing, start)
        spans.append((start, end))
        start = _behind_blank(tokenizer, ids, end + 1)
        if start == len(ids) or ids[start] != marked.opening:
            break
        start += 1
    thought = _thought_of(tokenizer, ids, spans, marked.style)
    # A wrapper may be one token or several; texts are compared.
    text = _shown(tokenizer, ids[start:])
    wrapper = next((wrapper for wrapper in _WRAPPERS if text.startswith(wrapper)), "")
    if wrapper:
        start += _tokens_before(tokenizer, ids[start:], _behind_space(text, len(wrapper)))
    return Reading(thought, _unwrapped(decode_response(tokenizer, ids[start:])), start)


def _thought_of(
    tokenizer: PreTrainedTokenizerBase, ids: Sequence[int], spans: Iterable[tuple[int, int]], style: Style
) -> str | None:
    return _thought((decode_response(tokenizer, ids[start:end]) for start, end in spans), style)


def _behind_blank(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int], start: int) -> int:
    """Index of the first token from `start` on that is not white space alone."""
    while start < len(ids) and not _shown(tokenizer, [ids[start]]).strip():
        start += 1
    return start


def _ends_line(tokenizer: PreTrainedTokenizerBase, behind: Sequence[int]) -> bool:
    """Whether a line, or the whole response, ends before these ids."""
    text = _shown(tokenizer, behind[:4])
    return text[:1] in ("\n", "\r", "") or not decode_response(tokenizer, behind).strip()


def _read_pieces(
    tokenizer: PreTrainedTokenizerBase, marked: _Marked, is_open: bool | None, ids: Sequence[int]
) -> Reading | None:
    """As `_block`, where a marker is written with several tokens."""
    text = _shown(tokenizer, ids)
    block = _block(text, marked.style, is_open)
    if block is None:
        return None
    thought = _thought(block.thoughts, marked.style)
    if block.is_cut:
        return Reading(thought, "", len(ids), is_cut=True)
    start = _tokens_before(tokenizer, ids, block.answer)
    # A token may hold the end of the marker and the beginning of the answer: it is the answer's, its text is not.
    lead = text[len(_shown(tokenizer, ids[:start])) : block.answer].lstrip()
    return Reading(thought, _unwrapped(decode_response(tokenizer, ids[start:]).lstrip().removeprefix(lead)), start)


def _read_spelt(
    tokenizer: PreTrainedTokenizerBase, marked: _Marked, is_open: bool | None, ids: Sequence[int]
) -> Reading | None:
    """As `_read_pieces`, for a model that spells a marker which its tokenizer has as one token; None where it does not.

    Some tokenizers find such a token in a text at its beginning only, and models that were trained on what they made of the rest do this.
    """
    text = _shown(tokenizer, ids)
    begins = is_open or text.lstrip().startswith(marked.style.opening)
    return _read_pieces(tokenizer, marked, is_open, ids) if begins and marked.style.closing in text else None


def _tokens_before(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int], position: int) -> int:
    """How many tokens end at or before a character of the text that the ids are decoded to."""
    low, high = 0, len(ids)
    while low < high:
        middle = (low + high + 1) // 2
        if len(_shown(tokenizer, ids[:middle])) <= position:
            low = middle
        else:
            high = middle - 1
    return low


def _split_channels(text: str) -> TextSplit | None:
    """Tell the messages of gpt-oss in a text apart; None where it does not begin with the header of one."""
    if not text.lstrip().startswith(("<|channel|>", "<|start|>assistant")):
        bare = _BARE_HARMONY.match(text)
        return TextSplit(bare["thought"].strip() or None, bare["answer"].lstrip()) if bare else None
    thoughts: list[str] = []
    position = 0
    while (header := _HEADER.search(text, position)) is not None:
        ended = _TURN_END.search(text, header.end())
        content = text[header.end() : ended.start() if ended else len(text)]
        if _is_final(header[1]):
            return TextSplit("\n".join(filter(None, thoughts)) or None, content.lstrip())
        thoughts.append(content.strip())
        position = ended.end() if ended else len(text)
    return TextSplit("\n".join(filter(None, thoughts)) or None, "", is_cut=True)


def _is_final(channel: str | None) -> bool:
    """Whether a message is for the user: in the channel `final`, or in none."""
    return (channel or "final").split()[:1] == ["final"]


def _read_channels(tokenizer: PreTrainedTokenizerBase, prompt_ids: Sequence[int], ids: Sequence[int]) -> Reading | None:
    """The answer of gpt-oss is the message in its channel `final`; None where neither prompt nor response opens a channel."""
    vocabulary = tokenizer.get_vocab()
    start, channel, message = (vocabulary[marker] for marker in _HARMONY)
    ends = {vocabulary[marker] for marker in _TURN_ENDS if marker in vocabulary}
    opened = list(prompt_ids)[-_TAIL:]
    # The header that the prompt began: `<|start|>assistant`, and perhaps a channel.
    opened = opened[len(opened) - opened[::-1].index(start) :] if start in opened else []
    whole, thoughts, position = [*opened, *ids], [], 0
    if channel not in whole and message not in whole:
        return None
    while message in whole[position:]:
        content = whole.index(message, position) + 1
        header = whole[position : content - 1]
        named = _shown(tokenizer, header[header.index(channel) + 1 :]).partition("<|")[0] if channel in header else None
        end = next((index for index in range(content, len(whole)) if whole[index] in ends), len(whole))
        if _is_final(named):
            first = _behind_blank(tokenizer, ids, max(0, content - len(opened)))
            is_opened = content <= len(opened) and not thoughts  # by the prompt: the whole response is the answer
            return Reading(
                "\n".join(filter(None, thoughts)) or None,
                decode_response(tokenizer, ids) if is_opened else decode_response(tokenizer, ids[first:]).lstrip(),
                None if is_opened else first,
            )
        thoughts.append(decode_response(tokenizer, whole[content:end]).strip())
        position = end
    return Reading("\n".join(filter(None, thoughts)) or None, "", len(ids), is_cut=True)
