"""From messages to token ids. Chat templates are rendered here only, which decides the date they print, the form in which they
take a message's text, and where BOS and end-of-turn tokens come from."""

from __future__ import annotations

import difflib
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from itertools import product
from typing import TYPE_CHECKING, Any, NamedTuple

from icr_platform.core.config import CHAT_DEFAULTS, ChatSettings
from icr_platform.core.conversations import SYSTEM, Conversation
from icr_platform.core.errors import InputError
from icr_platform.models.control_tokens import ControlTokens

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

USER = ("user",)
_SYSTEMS = (SYSTEM, "developer")
_PROBE = "\u2042probe\u2042"  # a text that no template rewrites or contains
_DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_MONTHS = ("January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November",
           "December")  # fmt: skip
_BINDING = "_icr_chat"
_SHOWN_ROLES = 6
_SHOWN_OF_A_PROMPT = 120  # characters
_GENERATION = re.compile(r"\{%[-+]?\s*(?:end)?generation\s*[-+]?%\}")
_GIVEN = ("messages", "add_generation_prompt", "continue_final_message", "raise_exception", "strftime_now", "bos_token", "eos_token",
          "pad_token", "unk_token")  # fmt: skip
# `[INST]`, `<<SYS>>`, `<|user|>`, `### Response:`, `USER:`, `Human:`
_MARKER = re.compile(
    r"\[/?[A-Z_]{2,}\]|<{1,2}[|/]?[\w ]+\|?>{1,2}|#{2,} ?\w[\w ]*:?|\b(?i:user|human|assistant|system|bot|model|question|answer) ?:"
)


@dataclass(frozen=True)
class Encoded:
    """A prompt and a completion as one sequence.

    token_ids: [T] prompt ids followed by completion ids.
    completion_mask: [T] 1 where the token belongs to the completion, that is, is scored or trained on.
    """

    token_ids: list[int]
    completion_mask: list[int]


class RefusedTextError(InputError):
    """The template, which renders other texts, refuses this one. `reason` is what it said."""

    def __init__(self, model: str, text: str, reason: str) -> None:
        super().__init__(f"{model}: field 'chat_template' refuses {text[:60]!r} ({reason}); change or remove that text")
        self.reason = reason


Roles = tuple[str, ...]
Forms = Mapping[str, bool]
"""Whether the content of a role's messages is a list of text parts, as multimodal templates take it, rather than a string."""


@dataclass(frozen=True)
class _Binding:
    """What a tokenizer renders with, and the forms that were found for each sequence of roles; None: no form works."""

    model: str
    settings: ChatSettings
    control: ControlTokens
    forms: dict[Roles, Forms | None] = field(default_factory=dict)
    reasons: dict[Roles, str] = field(default_factory=dict)


def bind(tokenizer: PreTrainedTokenizerBase, model: str, settings: ChatSettings) -> None:
    """Make all functions of this module render the tokenizer's template with `settings`, wherever the tokenizer goes.

    The tokenizer carries them, so that no caller between the configuration and a prompt can forget them.

    Raises:
        InputError: the tokenizer of `model` has no chat template, or one that loses the text of a user's turn, or that does not
            use or refuses an argument of `chat_template_kwargs`.
    """
    require_chat_template(tokenizer, model)
    control = ControlTokens(tokenizer)
    setattr(tokenizer, _BINDING, _Binding(model, settings, control))
    if settings.chat_template_kwargs:
        _require_used(tokenizer)
        if refused := _forms(tokenizer, USER) is None and _binding(tokenizer).reasons[USER]:
            setattr(
                tokenizer, _BINDING, _Binding(model, settings.model_copy(update={"chat_template_kwargs": {}}), control)
            )
            if _forms(tokenizer, USER) is not None:
                given = json.dumps(settings.chat_template_kwargs, ensure_ascii=False)
                raise InputError(f"{model}: field 'chat_template_kwargs' is {given}: {refused}; change or remove it")
    require_roles(tokenizer, USER)


def _require_used(tokenizer: PreTrainedTokenizerBase) -> None:
    """Raise InputError for an argument that the template never looks at, such as one that is misspelt."""
    binding, variables = _binding(tokenizer), template_arguments(tokenizer)
    if variables is None:
        return
    for name in binding.settings.chat_template_kwargs:
        if name not in variables:
            near = difflib.get_close_matches(name, variables, n=1, cutoff=0.6)
            known = f"nearest is {near[0]!r}" if near else f"it takes {', '.join(sorted(variables)) or 'none'}"
            raise InputError(
                f"{binding.model}: field 'chat_template_kwargs': the chat template does not use {name!r}, {known}; change or remove it"
            )


def template_arguments(tokenizer: PreTrainedTokenizerBase) -> frozenset[str] | None:
    """Return the names of the variables that the template looks up, beside those that every template has; None where it cannot be told."""
    from jinja2 import TemplateSyntaxError, meta
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    environment = ImmutableSandboxedEnvironment(extensions=["jinja2.ext.loopcontrols"])
    templates = tokenizer.chat_template
    found: set[str] = set()
    try:
        for source in templates.values() if isinstance(templates, dict) else (templates,):
            # transformers' own tag, for training masks, is not Jinja's.
            found |= meta.find_undeclared_variables(environment.parse(_GENERATION.sub("", str(source))))
    except TemplateSyntaxError:
        return None
    return frozenset(found - {*environment.globals, *_GIVEN, *tokenizer.special_tokens_map})


def _binding(tokenizer: PreTrainedTokenizerBase) -> _Binding:
    if not hasattr(tokenizer, _BINDING):
        name = str(tokenizer.name_or_path)
        setattr(tokenizer, _BINDING, _Binding(name, CHAT_DEFAULTS, ControlTokens(tokenizer)))
    found: _Binding = getattr(tokenizer, _BINDING)
    return found


def settings_of(tokenizer: PreTrainedTokenizerBase) -> ChatSettings:
    """Return what the tokenizer's chat template is rendered with."""
    return _binding(tokenizer).settings


def require_chat_template(tokenizer: PreTrainedTokenizerBase, model: str) -> None:
    """Raise InputError when the tokenizer of `model` has no chat template."""
    if not tokenizer.chat_template:
        raise InputError(
            f"{model}: field 'chat_template' of the tokenizer is missing; add a chat_template.jinja to the model"
        )


def require_roles(tokenizer: PreTrainedTokenizerBase, roles: Roles) -> Forms:
    """Find the forms in which the template brings the text of every message of such a conversation into the prompt.

    Those are the forms of the messages that are left where system messages are folded, see `folded`.

    Raises:
        InputError: the template loses a text in every form, or refuses the conversation.
    """
    roles = _without(roles, _folded_at(tokenizer, roles))
    forms = _forms(tokenizer, roles)
    if forms is None:
        binding = _binding(tokenizer)
        raise InputError(
            f"{binding.model}: field 'chat_template'{_template_name(tokenizer)}: of a conversation of {shown_roles(roles)}, "
            f"{binding.reasons[roles]}; {_way_out(tokenizer, roles)}give the model a chat template that prints "
            "message['content'], text and nothing else"
        )
    return forms


def shown_roles(roles: Roles) -> str:
    """Roles for a message, the first ones of many."""
    more = f", ... ({len(roles)} messages)" if len(roles) > _SHOWN_ROLES else ""
    return ", ".join(roles[:_SHOWN_ROLES]) + more


def _template_name(tokenizer: PreTrainedTokenizerBase) -> str:
    """Which one is rendered of a model that has several."""
    return " 'default'" if isinstance(tokenizer.chat_template, dict) and "default" in tokenizer.chat_template else ""


def _way_out(tokenizer: PreTrainedTokenizerBase, roles: Roles) -> str:
    """What may be done, other than repairing the template."""
    templates: Any = tokenizer.chat_template
    if isinstance(templates, dict) and "default" not in templates:
        return f"name one of its templates ({', '.join(map(str, templates))}) 'default', or "
    others = tuple(role for role in roles if role not in _SYSTEMS)
    if others and others != roles and _forms(tokenizer, others) is not None:
        return "give --system-role fold, or put what the system says at the head of the user's message, or "
    return ""


def require_system_prompt(tokenizer: PreTrainedTokenizerBase) -> None:
    """Raise InputError when the settings have a system prompt and the template no place for it."""
    binding = _binding(tokenizer)
    roles = (SYSTEM, *USER)
    if binding.settings.system_prompt and _forms(tokenizer, _without(roles, _folded_at(tokenizer, roles))) is None:
        raise InputError(
            f"config: field 'system_prompt': the chat template of {binding.model} has no place for a system message: "
            f"{binding.reasons[roles]}; give --system-role fold, which puts it at the head of the user's first message, or leave "
            "--system-prompt out"
        )


def refusal_of_roles(tokenizer: PreTrainedTokenizerBase, roles: Roles) -> str:
    """Why the template cannot render such a conversation, and what to do; '' where it can."""
    try:
        require_roles(tokenizer, roles)
    except InputError as error:
        return str(error)
    return ""


def folded(tokenizer: PreTrainedTokenizerBase, messages: Sequence[dict[str, str]]) -> list[dict[str, str]]:
    """The messages as the template gets them: with `system_role: fold`, what the system says stands at the head of the user's next
    message where the template has no place for it."""
    places = _folded_at(tokenizer, tuple(message["role"] for message in messages))
    found: list[dict[str, str]] = []
    said: list[str] = []
    for index, message in enumerate(messages):
        if index in places:
            said.append(message["content"])
        elif said and message["role"] == "user":
            found.append(message | {"content": "\n\n".join([*said, message["content"]])})
            said = []
        else:
            found.append(message)
    return found


def _folded_at(tokenizer: PreTrainedTokenizerBase, roles: Roles) -> frozenset[int]:
    """Which messages are folded: no more of the system's than the template has no place for."""
    systems = {index for index, role in enumerate(roles) if role in _SYSTEMS and "user" in roles[index:]}
    if systems and settings_of(tokenizer).system_role == "fold":
        for places in (frozenset[int](), frozenset(systems - {0}), frozenset(systems)):
            if _forms(tokenizer, _without(roles, places)) is not None:
                return places
    return frozenset()


def _without(roles: Roles, places: frozenset[int]) -> Roles:
    return tuple(role for index, role in enumerate(roles) if index not in places)


def _said(error: Exception) -> str:
    """What a template, or Jinja of it, says in one line, and in which line of it an error of syntax is."""
    line = getattr(error, "lineno", None)
    place = f", line {line} of the template" if isinstance(line, int) else ""
    return (" ".join(str(error).split()) or type(error).__name__) + place


def _forms(tokenizer: PreTrainedTokenizerBase, roles: Roles) -> Forms | None:
    """Try strings first, then lists of parts, until all texts of such a conversation reach the prompt.

    A template made for images and text iterates over the parts of a message: given a string it sees characters, and prints none.
    """
    binding = _binding(tokenizer)
    if roles not in binding.forms:
        binding.forms[roles] = None
        # Quotes and a backslash come out otherwise when a list is printed as Python or JSON; some templates keep one line.
        probes = [f'\u2042{number} it\'s a "probe" \\\n\n<of> lines {number}\u2042' for number in range(len(roles))]
        messages = [{"role": role, "content": probe} for role, probe in zip(roles, probes, strict=True)]
        kinds = list(dict.fromkeys(roles))
        for as_parts in product((False, True), repeat=len(kinds)):
            forms = dict(zip(kinds, as_parts, strict=True))
            try:
                text = _rendered(tokenizer, messages, forms, roles[-1] != "assistant")
            except Exception as error:  # noqa: BLE001 - a template is its author's program: it may raise anything
                lost = f"the template refuses it ({_said(error)})"
            else:
                missing = [role for role, probe in zip(roles, probes, strict=True) if probe not in text]
                if not missing:
                    binding.forms[roles] = forms
                    break
                lost = f"the text of the {missing[0]} message does not reach the prompt"
            binding.reasons.setdefault(roles, lost)
    return binding.forms[roles]


def _rendered(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Mapping[str, str]],
    forms: Forms,
    is_prompt: bool,
    day: date | None = None,
    arguments: Mapping[str, Any] | None = None,
) -> str:
    """Render the conversation as text; with `is_prompt`, up to where the assistant begins. arguments: over those of the settings."""
    conversation: list[dict[str, Any]] = []
    for message in messages:
        content: Any = message["content"]
        conversation.append(
            {**message, "content": [{"type": "text", "text": content}] if forms[message["role"]] else content}
        )
    # A variable hides the environment's function of that name, which reads the machine's clock.
    settings = settings_of(tokenizer)
    variables: dict[str, Any] = settings.chat_template_kwargs | dict(arguments or {})
    variables["strftime_now"] = clock(day or settings.template_date)
    render: Any = tokenizer.apply_chat_template
    return str(render(conversation, tokenize=False, add_generation_prompt=is_prompt, **variables))


def clock(day: date) -> Callable[[str], str]:
    """Make the `strftime_now` that templates call, standing still at midnight of `day`, in English whatever the locale is.

    >>> clock(date(2026, 1, 1))("%A, %d %b %Y %H:%M %p, 100%%b")
    'Thursday, 01 Jan 2026 00:00 AM, 100%b'
    """
    moment = datetime(day.year, day.month, day.day)
    weekday, month = _DAYS[moment.weekday()], _MONTHS[moment.month - 1]
    names = {"A": weekday, "a": weekday[:3], "B": month, "b": month[:3], "h": month[:3], "p": "AM", "P": "am"}
    names |= {"x": "%m/%d/%y", "X": "%H:%M:%S", "r": "%I:%M:%S AM", "c": f"{weekday[:3]} {month[:3]} %e %H:%M:%S %Y"}

    def strftime_now(format: str) -> str:
        return moment.strftime(re.sub("%%|%([aAbBhpPxXrc])", lambda found: names.get(found[1], found[0]), format))

    return strftime_now


def prints_date(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether a prompt depends on the day on which it is rendered."""
    messages, forms = [{"role": "user", "content": _PROBE}], _forms(tokenizer, USER)
    days = (date(1998, 7, 4), date(2031, 12, 3))  # alike in no field
    return forms is not None and len({_rendered(tokenizer, messages, forms, True, day) for day in days}) > 1


def encode_prompt(tokenizer: PreTrainedTokenizerBase, prompt: str | Conversation) -> list[int]:
    """Encode a conversation, or a text as its only turn, up to where the assistant begins. BOS comes from the template, once or never."""
    return encode_messages(tokenizer, (Conversation(prompt) if isinstance(prompt, str) else prompt).messages)


def encode_messages(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[dict[str, str]],
    day: date | None = None,
    arguments: Mapping[str, Any] | None = None,
    is_prompt: bool = True,
) -> list[int]:
    """Encode a conversation up to where the assistant begins. Control tokens that were typed in a message stay text.

    Args:
        day: what the template prints as today's date; None: as the tokenizer's settings say.
        arguments: of the template, over those of the tokenizer's settings.
        is_prompt: False: the conversation as it is, without the beginning of another turn.

    Raises:
        InputError: the template refuses such conversations, or loses the text of a message.
        RefusedTextError: it refuses this one.
    """
    forms = require_roles(tokenizer, tuple(message["role"] for message in messages))
    messages = folded(tokenizer, messages)
    control = _binding(tokenizer).control
    is_typed = control.can_stay_text and writes_control_tokens(tokenizer, messages)
    if is_typed:
        messages = [message | {"content": control.masked(message["content"])} for message in messages]
    try:
        text = _rendered(tokenizer, messages, forms, is_prompt, day, arguments)
    except Exception as error:
        raise RefusedTextError(_binding(tokenizer).model, messages[-1]["content"], _said(error)) from error
    ids = control.encode(text) if is_typed else tokenizer(text, add_special_tokens=False)["input_ids"]
    return [int(token) for token in ids]


def encode_answered(tokenizer: PreTrainedTokenizerBase, asked: Conversation, response: str) -> list[int]:
    """Encode a conversation and the response to it as one text, as the template renders the finished turn: what reward models were
    trained on. Control tokens that were typed stay text.

    Raises:
        InputError, RefusedTextError: as `encode_messages`.
    """
    messages = [*asked.messages, {"role": "assistant", "content": response}]
    return encode_messages(tokenizer, messages, is_prompt=False)


class TextPair(NamedTuple):
    """Token ids of two texts as one sequence with the tokenizer's separators, and which of the two each token belongs to, where the
    model is told."""

    token_ids: list[int]
    types: list[int] | None


def encode_text_pair(tokenizer: PreTrainedTokenizerBase, first: str, second: str) -> TextPair:
    """Encode two texts as encoders without a chat template take them, whole. Control tokens that were typed stay text."""
    control = _binding(tokenizer).control
    found = control.encode_pair(first, second) if control.can_stay_text else None
    if found is None:
        values = tokenizer(first, second, truncation=False, return_token_type_ids=True)
        found = [int(token) for token in values["input_ids"]], [int(kind) for kind in values["token_type_ids"]]
    return TextPair(found[0], found[1] if "token_type_ids" in tokenizer.model_input_names else None)


def encode_response(tokenizer: PreTrainedTokenizerBase, response: str, finished: bool = True) -> list[int]:
    """Encode a response text, with the end-of-turn token if the response is finished. Control tokens within it stay text.

    This is for texts without sampled ids only (a server that returns none, a data set from elsewhere): sampled ids are scored
    and trained on as they are.
    """
    control = _binding(tokenizer).control
    if control.can_stay_text and control.typed_in(response):
        ids = control.encode(control.masked(response))
    else:
        ids = [int(token) for token in tokenizer(response, add_special_tokens=False)["input_ids"]]
    return [*ids, end_of_turn_id(tokenizer)] if finished else ids


def writes_control_tokens(tokenizer: PreTrainedTokenizerBase, messages: Iterable[Mapping[str, str]]) -> bool:
    """Whether a message contains a special token's string."""
    control = _binding(tokenizer).control
    return any(control.typed_in(message["content"]) for message in messages)


def prompt_notes(tokenizer: PreTrainedTokenizerBase, prompts: Iterable[str | Conversation]) -> tuple[str, ...]:
    """Say whether prompts end before the assistant's turn begins, how many of them lose white space at the ends of a message, and how
    many write what the template frames turns with, where it cannot be told from the template's own; and what they are told by a
    system message that is not their own.
    """
    binding = _binding(tokenizer)
    plain, strips = _plain_markers(tokenizer), _strips(tokenizer)
    counts, total = Counter[str](), 0
    without_system = folds = 0
    for prompt in prompts:
        total += 1
        roles = USER if isinstance(prompt, str) else prompt.roles
        texts = [prompt] if isinstance(prompt, str) else [message["content"] for message in prompt.messages]
        without_system += SYSTEM not in roles
        folds += SYSTEM in roles and bool(_folded_at(tokenizer, roles))
        counts["white space at an end, which the chat template strips"] += strips and any(
            text != text.strip() for text in texts
        )
        if not binding.control.can_stay_text and any(binding.control.typed_in(text) for text in texts):
            counts["control tokens, which the tokenizer takes for the template's own"] += 1
        for marker in plain:
            counts[f"{marker!r}, with which the chat template frames turns and which is no token of its own"] += any(
                marker in text for text in texts
            )
    notes = [f"{binding.model}: {count} of {total} prompts contain {what}" for what, count in counts.items() if count]
    header = _missing_header(tokenizer)
    if header:
        notes.append(
            f"{binding.model}: the chat template ignores add_generation_prompt: prompts end before {header!r}, which the model has "
            "to write itself"
        )
    if folds:
        notes.append(
            f"{binding.model}: the chat template has no place for system messages: those of {folds} of {total} prompts are put at "
            "the head of the user's next message (system_role)"
        )
    if without_system and (own := default_system_prompt(tokenizer)):
        notes.append(
            f"{binding.model}: the chat template puts a system message of its own before the {without_system} of {total} prompts "
            f"without one: {own[:_SHOWN_OF_A_PROMPT]!r}; give --system-prompt for another"
        )
    return tuple(notes)


def default_system_prompt(tokenizer: PreTrainedTokenizerBase) -> str:
    """What the template itself says as the system where a conversation has no system message (Qwen 2.5, SmolLM2); '' for nothing."""
    roles = (SYSTEM, *USER)
    forms, plain = _forms(tokenizer, roles), _forms(tokenizer, USER)
    if forms is None or plain is None:
        return ""
    said, asked = f"{_PROBE}s", {"role": "user", "content": _PROBE}
    given = _rendered(tokenizer, [{"role": SYSTEM, "content": said}, asked], forms, True)
    before, found, after = given.partition(said)
    alone = _rendered(tokenizer, [asked], plain, True)
    if not (found and alone.startswith(before) and alone.endswith(after)):
        return ""
    return alone[len(before) : len(alone) - len(after)].strip()


def _strips(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether white space at the ends of a user's text is lost."""
    spaced = f" \n{_PROBE}\n "
    forms = _forms(tokenizer, USER)
    return forms is not None and spaced not in _rendered(tokenizer, [{"role": "user", "content": spaced}], forms, True)


def _missing_header(tokenizer: PreTrainedTokenizerBase) -> str:
    """What stands between a prompt and the assistant's answer in a conversation, beside white space, if prompts leave it out."""
    forms = _forms(tokenizer, ("user", "assistant"))
    if forms is None:
        return ""
    turns = [{"role": "user", "content": "x"}, {"role": "assistant", "content": _PROBE}]
    prompt, unprompted, whole = (
        _rendered(tokenizer, messages, forms, is_prompt)
        for messages, is_prompt in ((turns[:1], True), (turns[:1], False), (turns, False))
    )
    begun = whole.partition(_PROBE)[0]
    return begun.removeprefix(prompt).strip() if prompt == unprompted and begun.startswith(prompt) else ""


def _plain_markers(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Strings such as `[INST]` or `### Response:` that frame turns in the template and are no special tokens.

    Lines of words, such as a default system prompt's, are none.
    """
    for roles in (("user", "assistant", "user"), ("user", "assistant"), USER):
        forms = _forms(tokenizer, roles)
        if forms is not None:
            break
    else:
        return []
    messages = [{"role": role, "content": _PROBE} for role in roles]
    frame = _rendered(tokenizer, messages, forms, roles[-1] != "assistant").replace(_PROBE, "\n")
    pieces = _binding(tokenizer).control.without(frame).splitlines()
    return list(dict.fromkeys(found[0].strip() for piece in pieces for found in _MARKER.finditer(piece)))


def encode_pair(prompt_ids: Sequence[int], completion_ids: Sequence[int]) -> Encoded:
    """Join prompt and completion ids; the mask is 1 on every completion token, first and end-of-turn included."""
    return Encoded(
        token_ids=[*prompt_ids, *completion_ids],
        completion_mask=[0] * len(prompt_ids) + [1] * len(completion_ids),
    )


def encode_turns(
    tokenizer: PreTrainedTokenizerBase, asked: Conversation, response: str, last_only: bool = False
) -> list[Encoded]:
    """Encode a conversation and the response to it, with the mask on the assistant's turns: each after what the model is given there.

    Returns: one sequence where each turn's prompt continues the turn before; several where it does not, as with templates that take
        thoughts out of earlier turns.

    last_only: mask the response alone. What the assistant says unasked, such as a greeting, is never masked.
    """
    answered = [
        place
        for place, role in enumerate(asked.roles)
        if role == "assistant" and asked.roles[place - 1 : place] == USER and not last_only
    ]
    sequences: list[Encoded] = []
    messages = [*asked.messages, {"role": "assistant", "content": response}]
    for place in (*answered, len(messages) - 1):
        prompt_ids = encode_messages(tokenizer, messages[:place])
        turn = encode_pair(prompt_ids, encode_response(tokenizer, messages[place]["content"]))
        before = sequences[-1] if sequences else Encoded([], [])
        known = len(before.token_ids)
        if known and prompt_ids[:known] == before.token_ids:
            sequences[-1] = Encoded(turn.token_ids, [*before.completion_mask, *turn.completion_mask[known:]])
        else:
            sequences.append(turn)
    return sequences


def decode_response(tokenizer: PreTrainedTokenizerBase, token_ids: Sequence[int]) -> str:
    """Decode response ids without special tokens, and otherwise unchanged: nothing is stripped or cleaned up."""
    text: Any = tokenizer.decode(list(token_ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return str(text)


def end_of_turn_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """Find the token by which the template closes an assistant turn (`<|eot_id|>`, `<|im_end|>`, `</s>`, ...).

    Raises:
        InputError: the template closes a turn with no special token and the tokenizer has no end-of-sequence token.
    """
    forms = _forms(tokenizer, ("user", "assistant"))
    turns = [{"role": "user", "content": "x"}, {"role": "assistant", "content": _PROBE}]
    text = _rendered(tokenizer, turns, forms, False) if forms is not None else ""
    closing = text.rsplit(_PROBE, 1)[1] if _PROBE in text else ""
    special = set(tokenizer.all_special_ids) | {
        token_id for token_id, token in tokenizer.added_tokens_decoder.items() if token.special
    }
    for token_id in tokenizer(closing, add_special_tokens=False)["input_ids"]:
        if token_id in special:
            return int(token_id)
    if tokenizer.eos_token_id is None:
        raise InputError(f"{tokenizer.name_or_path}: field 'eos_token' of the tokenizer is missing; set one")
    return int(tokenizer.eos_token_id)


def stop_ids(tokenizer: PreTrainedTokenizerBase, generation_eos: Sequence[int] = ()) -> list[int]:
    """Collect the ids on which generation stops: the template's end-of-turn, the tokenizer's EOS, the generation config's."""
    ids = {end_of_turn_id(tokenizer)}
    if tokenizer.eos_token_id is not None:
        ids.add(int(tokenizer.eos_token_id))
    return sorted(ids | set(generation_eos))
