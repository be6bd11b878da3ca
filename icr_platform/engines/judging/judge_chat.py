"""How a local judge is brought to its verdict at once: asked with thinking off, or behind a thought that is ended for it.

Its chat template is another one than the policy's. Of the policy's `chat_template_kwargs` it gets those that it looks at; then what
turns thinking off, where rendering shows that the template has a word for that; and over all that `judge_chat_template_kwargs`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from icr_platform.core.config import ChatSettings
from icr_platform.core.errors import InputError
from icr_platform.models.chat import bind, encode_messages, require_roles, template_arguments
from icr_platform.models.loading import load_tokenizer
from icr_platform.models.thinking import end_of_thought

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Arguments = dict[str, Any]

_OFF: tuple[tuple[str, Any], ...] = (
    ("enable_thinking", False),  # Qwen3, SmolLM3, GLM, Hunyuan, EXAONE 4, Gemma 4, ...
    ("thinking", False),  # DeepSeek V3.1, Kimi, Granite
    ("reasoning", False),  # Command A
    ("enable_reasoning", False),
    ("think", False),
    ("thinking_budget", 0),  # Seed-OSS
    ("reasoning_effort", "none"),  # Mistral
    ("reasoning_effort", "minimal"),
    ("reasoning_effort", "low"),  # gpt-oss
)


class JudgeChat(NamedTuple):
    """A judge's tokenizer, bound to what its template is rendered with.

    opening: ids to put behind a prompt, so that the next token is the first of the answer.
    notes: what was not asked as it was configured.
    """

    tokenizer: PreTrainedTokenizerBase
    opening: list[int]
    notes: tuple[str, ...]


def load_judge_chat(model: str, roles: Sequence[str], chat: ChatSettings, own: Mapping[str, Any]) -> JudgeChat:
    """The chat of a model folder or hub name; see `judge_chat`."""
    return judge_chat(load_tokenizer(model, _without_policys_own(chat)), model, roles, chat, own)


def judge_chat(
    tokenizer: PreTrainedTokenizerBase, model: str, roles: Sequence[str], chat: ChatSettings, own: Mapping[str, Any]
) -> JudgeChat:
    """Find how the template of a tokenizer is to be rendered for conversations of these roles, and bind it to that.

    Args:
        model: its name, for messages. chat: the policy's settings. own: arguments for the judge's template alone.

    Raises:
        InputError: the template does not take such a conversation, or refuses or does not use an argument of `own`.
    """
    plain = _without_policys_own(chat)
    bind(tokenizer, model, plain)
    require_roles(tokenizer, tuple(roles))
    probe = [{"role": role, "content": f"{role}: m or M?"} for role in roles]

    def prompt(arguments: Arguments) -> list[int] | None:
        try:
            bind(tokenizer, model, plain.model_copy(update={"chat_template_kwargs": arguments}))
            return encode_messages(tokenizer, probe)
        except InputError:
            return None

    notes = []
    used = template_arguments(tokenizer) or frozenset()
    shared = {name: value for name, value in chat.chat_template_kwargs.items() if name in used}
    if unused := [name for name in chat.chat_template_kwargs if name not in shared]:
        notes.append(f"the judge's chat template does not use {', '.join(unused)} of chat_template_kwargs")
    if shared and prompt(shared) is None:
        notes.append(f"the judge's chat template refuses {', '.join(shared)} as in chat_template_kwargs; left out")
        shared = {}
    asked = prompt(shared)
    for name, value in _switches(tokenizer, used - own.keys()):
        # A template may look at a word and do nothing with it, or be silent without being asked.
        if (silent := prompt(shared | {name: value})) is not None and silent != asked:
            instead = f", not {json.dumps(shared[name])} as the policy" if shared.get(name, value) != value else ""
            notes.append(
                f"the judge is asked with {name} {json.dumps(value)}{instead}: its first token is to be the verdict"
            )
            shared |= {name: value}
            break
    try:
        bind(tokenizer, model, plain.model_copy(update={"chat_template_kwargs": {**shared, **own}}))
        opening = end_of_thought(tokenizer, encode_messages(tokenizer, probe))
    except InputError as error:
        raise InputError(str(error).replace("'chat_template_kwargs'", "'judge_chat_template_kwargs'")) from error
    if opening:
        begun = str(tokenizer.decode(opening)).strip()
        notes.append(f"the judge's prompts end on {begun!r}, behind which its answer begins")
    return JudgeChat(tokenizer, opening, tuple(f"{model}: {note}" for note in notes))


def _without_policys_own(chat: ChatSettings) -> ChatSettings:
    return chat.model_copy(update={"chat_template_kwargs": {}, "system_prompt": ""})


def _switches(tokenizer: PreTrainedTokenizerBase, names: frozenset[str]) -> Iterator[tuple[str, Any]]:
    """Arguments that may turn thinking off, of those that the template looks at."""
    source = str(tokenizer.chat_template)
    for name, value in _OFF:
        # An effort that the template does not name would be printed all the same.
        is_named = not isinstance(value, str) or f"'{value}'" in source or f'"{value}"' in source or value == "low"
        if name in names and is_named:
            yield name, value
