"""What a chat template does with a conversation, in a few lines: its date, its own system prompt, system messages, thinking."""

from __future__ import annotations

import difflib
import json
import re
from typing import TYPE_CHECKING, Any

from icr_platform.core.config import ChatSettings
from icr_platform.core.errors import InputError
from icr_platform.models.chat import (
    bind,
    encode_messages,
    prints_date,
    require_roles,
    settings_of,
    template_arguments,
)
from icr_platform.models.thinking import markers_of, opens_thought

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_PROBE = "\u2042probe\u2042"
_ABOUT_THINKING = re.compile("think|reason|thought", re.IGNORECASE)
# What templates compare such arguments with, by a word in their names; the first that changes a prompt is named.
_TRIED: dict[str, tuple[Any, ...]] = {"effort": ("low", "none"), "budget": (0,), "": (False, True)}
_PIECE = re.compile(r"<[^<>\s]*>|\w+|\s+|[^\w\s<]+|<")
_MOST_CHANGES = 3
_ROLE_NAMES = {"system", "user", "assistant", "model", "developer", "human", "bot"}
_LONGEST = 160  # characters of a system prompt that are shown


def habits(tokenizer: PreTrainedTokenizerBase, model: str) -> list[str]:
    """What a person should know of the prompts that the template makes with the tokenizer's settings."""
    settings = settings_of(tokenizer)
    asked = [{"role": "user", "content": _PROBE}]
    plain = rendered(tokenizer, asked)
    found = []
    if prints_date(tokenizer):
        found.append(f"prints a date: {settings.template_date} (template_date)")
    own = _own_system_prompt(tokenizer, plain.partition(_PROBE)[0])
    if own:
        found.append(f"says on its own: {_short(own)!r}")
    found.append(_system_message(tokenizer, model, settings))
    if settings.chat_template_kwargs:
        found.append(f"is given {json.dumps(settings.chat_template_kwargs, ensure_ascii=False)} (chat_template_kwargs)")
    return [*found, *_thoughts(tokenizer), *_arguments(tokenizer, model, settings, plain)]


def rendered(tokenizer: PreTrainedTokenizerBase, messages: list[dict[str, str]]) -> str:
    """The text of the tokens that the model is given of a conversation, special ones as they are called."""
    text: Any = tokenizer.decode(encode_messages(tokenizer, messages), clean_up_tokenization_spaces=False)
    return str(text)


def _own_system_prompt(tokenizer: PreTrainedTokenizerBase, before: str) -> str:
    """What stands before the user's first message and is neither a control token nor the name of a role."""
    special = {*tokenizer.all_special_tokens, *(str(token) for token in tokenizer.added_tokens_decoder.values())}
    for token in sorted(special, key=len, reverse=True):
        before = before.replace(token, "\n")
    lines = [line.strip() for line in before.splitlines()]
    words = " ".join(line for line in lines if line and line.casefold() not in _ROLE_NAMES)
    return words if len(re.findall(r"\w+", words)) > 2 else ""


def _system_message(tokenizer: PreTrainedTokenizerBase, model: str, settings: ChatSettings) -> str:
    """Where a system message goes."""
    try:
        bind(tokenizer, model, settings.model_copy(update={"system_role": "template"}))
        require_roles(tokenizer, ("system", "user"))
    except InputError:
        return (
            "puts a system message at the head of the user's (system_role: fold)"
            if settings.system_role == "fold"
            else "has no place for a system message; --system-role fold puts it at the head of the user's"
        )
    finally:
        bind(tokenizer, model, settings)
    return "takes a system message"


def _thoughts(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """What marks a thought, which is told apart from the answer behind it, and whether a prompt begins one."""
    markers = markers_of(tokenizer)
    if not markers:
        return []
    pairs = [f"{marked.style.opening} ... {marked.style.closing}" for marked in markers.styles]
    shown = ", ".join(["its channels"] * markers.has_channels + pairs)
    asked = encode_messages(tokenizer, [{"role": "user", "content": _PROBE}])
    begun = "; the prompt begins one" if opens_thought(tokenizer, asked) else ""
    return [f"thoughts are told apart from answers by {shown}{begun}"]


def _arguments(tokenizer: PreTrainedTokenizerBase, model: str, settings: ChatSettings, plain: str) -> list[str]:
    """The template's arguments that are about thinking, and what each writes into a prompt that has it."""
    names = sorted(name for name in template_arguments(tokenizer) or () if _ABOUT_THINKING.search(name))
    found = []
    for name in names:
        if name in settings.chat_template_kwargs:
            continue
        for value in next(values for word, values in _TRIED.items() if word in name):
            arguments = {**settings.chat_template_kwargs, name: value}
            try:
                bind(tokenizer, model, settings.model_copy(update={"chat_template_kwargs": arguments}))
                other = rendered(tokenizer, [{"role": "user", "content": _PROBE}])
            except InputError:  # the template refuses this value
                continue
            finally:
                bind(tokenizer, model, settings)
            if other != plain:
                found.append(f"{name}: {json.dumps(value)} {_change(plain, other)} (chat_template_kwargs)")
                break
    return found


def _change(before: str, after: str) -> str:
    r"""
    >>> _change("x<a>\n", "x<a>\n<think></think>\n"), _change("Think. x", "x")
    ("adds '<think></think>\\n'", "takes 'Think. ' out")
    >>> _change("Mode: /think. x", "Mode: /no_think. x<think></think>")
    "writes 'no_think' for 'think', adds '<think></think>'"
    """
    old, new = ([*_PIECE.findall(text)] for text in (before, after))
    changes = []
    for kind, a, b, c, d in difflib.SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        gone, come = _short("".join(old[a:b])), _short("".join(new[c:d]))
        if kind == "replace":
            changes.append(f"writes {come!r} for {gone!r}")
        elif kind != "equal":
            changes.append(f"adds {come!r}" if come else f"takes {gone!r} out")
    return ", ".join(changes[:_MOST_CHANGES]) + (", ..." if len(changes) > _MOST_CHANGES else "")


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
